"""Bad input over both doors: each is the caller's fault, in one line that names the field, with a code and a mend."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
import tritonclient.grpc
from serving_stand import PlainModel, Running, a_manifest, deployed

from towpath.models.manifest import Field, Signature
from towpath.serving.served import Served

messages: Any = tritonclient.grpc.service_pb2  # it has no types
LIMIT = 100_000
BOMB = gzip.compress(bytes(50 << 20), 9)[: LIMIT - 1]
IMAGE = (Field(name="image", type="FP32", shape=(-1, 2)),)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    signature = Signature(container="tensors", inputs=IMAGE, outputs=(Field(name="sum", type="FP32"),))
    image = PlainModel(inputs=IMAGE, container="tensors", predict=lambda c: {"sum": c["image"].sum(axis=1)})
    running = Running(
        tmp_path_factory.mktemp("served"),
        deployed(Served(a_manifest(), PlainModel())),
        deployed(Served(a_manifest(signature=signature), image)).replaced(model="image"),
        max_body_bytes=LIMIT,
        max_rows=1_000,
    )
    yield running
    running.close()


def one(**changes: Any) -> dict[str, Any]:
    """An input that is right, but for what is changed; None leaves a field out."""
    whole = {"name": "image", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]} | changes
    return {name: value for name, value in whole.items() if value is not None}


def asks(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def binary(size: Any, tail: bytes, *, lie: int = 0, **changes: Any) -> tuple[bytes, dict[str, str]]:
    head = asks(one(data=None, parameters={"binary_data_size": size}, **changes))
    return head + tail, {"Inference-Header-Content-Length": str(len(head) + lie)}


def packed(encoding: str, body: bytes) -> tuple[bytes, dict[str, str]]:
    return body, {"Content-Encoding": encoding}


RIGHT = asks(one())
OVER_HTTP: list[tuple[str, Any, int, str]] = [
    ("no JSON", b"{", 400, "JSON"),
    ("no body", b"", 400, "JSON"),
    ("no object", b"[1]", 400, "object"),
    ("no UTF-8", b'{"inputs": "\xff"}', 400, "JSON"),
    ("half a surrogate", b'{"inputs": [{"name": "\\ud800"}]}', 400, "'name'"),
    ("NaN", b'{"inputs": [{"name": "image", "data": [NaN]}]}', 400, "'data'"),
    ("Infinity", b'{"inputs": [{"name": "image", "data": [Infinity]}]}', 400, "'data'"),
    ("deep", b'{"inputs": ' + b"[" * 50_000, 400, "'inputs'"),
    ("deep in an input", asks(one()).replace(b"[1, 2]}", b"[" * 20_000 + b"]" * 20_000 + b"}"), 400, "JSON"),
    ("quite deep", asks(one(data=json.loads("[" * 100 + "1" + "]" * 100))), 400, "'image'"),
    ("no inputs", asks(), 400, "'inputs'"),
    ("inputs that are an object", b'{"inputs": {}}', 400, "'inputs'"),
    ("no name", asks(one(name=None)), 400, "'name' of input 0"),
    ("no shape", asks(one(shape=None)), 400, "'shape' of input 'image'"),
    ("no datatype", asks(one(datatype=None)), 400, "'datatype' of input 'image'"),
    ("no data", asks(one(data=None)), 400, "'data' of input 'image'"),
    ("BF16", asks(one(datatype="BF16")), 400, "'image' has the datatype 'BF16'"),
    ("an unknown datatype", asks(one(datatype="FP23")), 400, "'FP23'"),
    ("another datatype than the model's", asks(one(datatype="INT64")), 400, "'image' is INT64; the model reads FP32"),
    ("text in numbers", asks(one(data=["1", "2"])), 400, "'image' holds values that are no FP32"),
    ("too few", asks(one(data=[1])), 400, "'image' has 1 values"),
    ("too many", asks(one(data=[1, 2, 3])), 400, "'image' has 3 values"),
    ("ragged", asks(one(shape=[2, 2], data=[[1, 2], [3]])), 400, "'image' is ragged"),
    ("a scalar", asks(one(shape=[], data=1)), 400, "'image'"),
    ("another shape than the model's", asks(one(shape=[1, 3], data=[1, 2, 3])), 400, "'image' has the shape [1, 3]"),
    ("a negative dimension", asks(one(shape=[-1, 2])), 400, "'image' has the shape [-1, 2]"),
    ("a huge dimension", asks(one(shape=[2**40, 2])), 400, "'image' has the shape"),
    ("dimensions whose product overflows", asks(one(shape=[2**31] * 20)), 400, "'image' has 2 values"),
    ("the same with a zero", asks(one(shape=[0, *[2**31] * 3], data=[])), 400, "'image' has the shape"),
    ("a dimension that is no number", asks(one(shape=["1", 2])), 400, "'shape' of input 'image'"),
    ("a dimension that is true", asks(one(shape=[True, 2])), 400, "'shape' of input 'image'"),
    ("a dimension with a point", asks(one(shape=[1.0, 2])), 400, "'shape' of input 'image'"),
    ("no rows", asks(one(shape=[0, 2], data=[])), 400, "rows"),
    ("more rows than are taken", asks(one(shape=[1_001, 2], data=[0] * 2_002)), 413, "1001 rows (limit 1000)"),
    ("one name twice", asks(one(), one()), 400, "'image'"),
    ("an unknown input", asks(one(name="imgae")), 200, ""),
    ("two inputs, one unknown", asks(one(), one(name="mask")), 400, "'mask'"),
    ("an unknown output", asks(one(), outputs=[{"name": "smu"}]), 400, "did you mean 'sum'"),
    ("an output without a name", asks(one(), outputs=[{}]), 400, "'name'"),
    ("outputs that are no list", asks(one(), outputs={}), 400, "'outputs'"),
    ("top classes", asks(one(), outputs=[{"name": "sum", "parameters": {"classification": 3}}]), 400, "'classification' of output 'sum'"),
    ("shared memory in", asks(one(data=None, parameters={"shared_memory_region": "r"})), 400, "'shared_memory_region' of input 'image'"),
    ("shared memory out", asks(one(), outputs=[{"name": "sum", "parameters": {"shared_memory_region": "r"}}]), 400, "'sum'"),
    ("parameters that are no object", asks(one(), parameters=3), 400, "'parameters'"),
    ("a timeout that is no number", asks(one(), parameters={"timeout": "1"}), 400, "'timeout'"),
    ("an id that is no text", asks(one(), id=3), 400, "'id'"),
    ("binary that is cut off", binary(8, bytes(7)), 400, "'image' promises 8 bytes, 7 are left"),
    ("binary with a rest", binary(8, bytes(9)), 400, "1 bytes follow"),
    ("binary of another size than the shape", binary(4, bytes(4)), 400, "'image' has 4 bytes"),
    ("a size below zero", binary(-8, bytes(8)), 400, "'binary_data_size' of input 'image'"),
    ("a size that is huge", binary(10**18, bytes(8)), 400, "'image' promises"),
    ("a size beyond whole numbers", binary(10**30, bytes(8)), 400, "'binary_data_size' of input 'image'"),
    ("a size that is text", binary("8", bytes(8)), 400, "'binary_data_size' of input 'image'"),
    ("words that promise more", binary(8, b"\xff\xff\xff\xffabcd", datatype="BYTES", shape=[1, 1]), 400, "'image'"),
    ("a length of the head that is too small", binary(8, bytes(8), lie=-3), 400, "JSON"),
    ("a length of the head that is too large", binary(8, bytes(8), lie=3), 400, "JSON"),
    ("a length of the head beyond the body", binary(8, bytes(8), lie=10**6), 400, "Inference-Header-Content-Length"),
    ("a length of the head that is no number", (RIGHT, {"Inference-Header-Content-Length": "-1"}), 400, "'Inference-Header-Content-Length'"),
    ("binary without that header", binary(8, bytes(8))[:1], 400, "JSON"),
    ("a body over the limit", b" " * (LIMIT + 1), 413, "limit 100,000"),
    ("a bomb", packed("gzip", BOMB), 413, "when it is unpacked (limit 100,000)"),
    ("an unknown encoding", packed("br", RIGHT), 400, "'Content-Encoding' is 'br'"),
    ("two encodings", packed("gzip, deflate", RIGHT), 400, "'Content-Encoding'"),
    ("what is not packed", packed("gzip", RIGHT), 400, "'Content-Encoding'"),
    ("what is packed otherwise", packed("gzip", zlib.compress(RIGHT)[2:]), 400, "'Content-Encoding'"),
    ("what is packed and cut off", packed("gzip", gzip.compress(RIGHT)[:-9]), 400, "'Content-Encoding'"),
    ("ten thousand empty members", packed("gzip", gzip.compress(b"") * 4_000), 400, "'Content-Encoding'"),
    ("a deadline that is none", (RIGHT, {"Towpath-Timeout-Ms": "soon"}), 400, "'Towpath-Timeout-Ms'"),
]  # fmt: skip
"""What it is, body (and headers), status, what the error names."""


@pytest.mark.parametrize(("given", "status", "names"), [c[1:] for c in OVER_HTTP], ids=[c[0] for c in OVER_HTTP])
def test_over_http(server: Running, given: Any, status: int, names: str) -> None:
    content, headers = (*given, {})[:2] if isinstance(given, tuple) else (given, {})
    answer = httpx.post(f"{server.url}/v2/models/image/infer", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    if status != 200:
        told = answer.json()
        assert set(told) == {"error", "code", "mend"}
        assert names in told["error"]
        assert told["code"] == {400: "input", 413: "too_large"}[status]
        assert "\n" not in told["error"] + told["mend"]


def message(**changes: Any) -> Any:
    """A message that is right; `changes` are made to its input, a callable to all of it."""
    made = messages.ModelInferRequest(model_name="image", id="r")
    tensor = made.inputs.add(name="image", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1.0, 2.0])
    change: Callable[[Any], None] | None = changes.pop("change", None)
    for name, value in changes.items():
        if name == "shape":
            del tensor.shape[:]
            tensor.shape.extend(value)
        else:
            setattr(tensor, name, value)
    if change is not None:
        change(made)
    return made


def both(made: Any) -> None:
    made.raw_input_contents.append(bytes(8))


def raw(*contents: bytes) -> Callable[[Any], None]:
    def change(made: Any) -> None:
        made.inputs[0].ClearField("contents")
        made.raw_input_contents.extend(contents)

    return change


INVALID, NOT_FOUND, EXHAUSTED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
OVER_GRPC: list[tuple[str, Any, Any, str]] = [
    ("bytes that are no message", b"\x0a\xff", INVALID, "ModelInferRequest"),
    ("an unknown model", message(change=lambda m: setattr(m, "model_name", "imgae")), NOT_FOUND, "did you mean 'image'"),
    ("a name with a slash", message(change=lambda m: setattr(m, "model_name", "a/b")), NOT_FOUND, "'a/b'"),
    ("an unknown version", message(change=lambda m: setattr(m, "model_version", "7")), NOT_FOUND, "'7'"),
    ("no inputs", message(change=lambda m: m.ClearField("inputs")), INVALID, "'inputs'"),
    ("BF16", message(datatype="BF16"), INVALID, "'BF16'"),
    ("an unknown datatype", message(datatype="FP23"), INVALID, "'FP23'"),
    ("another datatype than the model's", message(datatype="FP64", change=raw(bytes(8))), INVALID, "'image' has 8 bytes"),
    ("contents of another datatype", message(datatype="INT64"), INVALID, "'fp32_contents'. send them in int64_contents"),
    ("typed contents of FP16", message(datatype="FP16"), INVALID, "send them in raw_input_contents"),
    ("contents typed and raw", message(change=both), INVALID, "'image' has values in contents and in raw"),
    ("too few", message(shape=[2, 2]), INVALID, "'image' has 2 values"),
    ("another shape than the model's", message(shape=[2, 1]), INVALID, "'image' has the shape [2, 1]"),
    ("no shape", message(shape=[]), INVALID, "'image'"),
    ("a negative dimension", message(shape=[-1, 2]), INVALID, "'image' has the shape [-1, 2]"),
    ("a huge dimension", message(shape=[2**62, 2]), INVALID, "'image' has the shape"),
    ("dimensions whose product overflows", message(shape=[2**31] * 20), INVALID, "'image' has 2 values"),
    ("the same with a zero", message(shape=[0, *[2**31] * 3], change=raw(b"")), INVALID, "'image' has the shape"),
    ("more rows than are taken", message(shape=[1_001, 2], change=raw(bytes(8_008))), EXHAUSTED, "1001 rows"),
    ("binary that is cut off", message(change=raw(bytes(7))), INVALID, "'image' has 7 bytes"),
    ("more raw contents than inputs", message(change=raw(bytes(8), bytes(8))), INVALID, "raw_input_contents"),
    ("words that promise more", message(datatype="BYTES", shape=[1, 1], change=raw(b"\xff\xff\xff\xffabcd")), INVALID, "'image'"),
    ("one name twice", message(change=lambda m: m.inputs.append(m.inputs[0])), INVALID, "'image'"),
    ("an unknown output", message(change=lambda m: m.outputs.add(name="smu")), INVALID, "did you mean 'sum'"),
    ("top classes", message(change=lambda m: m.outputs.add(name="sum").parameters["classification"].CopyFrom(messages.InferParameter(int64_param=3))), INVALID, "'classification' of output 'sum'"),
    ("shared memory", message(change=lambda m: m.inputs[0].parameters["shared_memory_region"].CopyFrom(messages.InferParameter(string_param="r"))), INVALID, "'shared_memory_region' of input 'image'"),
    ("a timeout that is no number", message(change=lambda m: m.parameters["timeout"].CopyFrom(messages.InferParameter(string_param="1"))), INVALID, "'timeout'"),
    ("a message over the limit", message(change=raw(bytes(LIMIT))), EXHAUSTED, "more than 100,000 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "code", "names"), [c[1:] for c in OVER_GRPC], ids=[c[0] for c in OVER_GRPC])
@pytest.mark.parametrize("streams", [False, True], ids=["alone", "in a stream"])
def test_over_grpc(server: Running, given: Any, code: Any, names: str, *, streams: bool) -> None:
    sent = given if isinstance(given, bytes) else given.SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
        if streams and "100,000" not in names:  # which ends the stream: what follows is not read
            call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            bad, good = map(
                messages.ModelStreamInferResponse.FromString, call(iter([sent, message().SerializeToString()]))
            )
            assert names in bad.error_message
            assert "\n" not in bad.error_message
            assert bad.infer_response.parameters["towpath-code"].string_param in {"input", "unknown", "too_large"}
            assert not good.error_message
            return
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(sent)
    error: Any = raised.value
    assert error.code() == code
    assert names in error.details()
    if "100,000" not in names:
        assert dict(error.trailing_metadata())["towpath-code"] in {"input", "unknown", "too_large"}
    assert "\n" not in error.details()

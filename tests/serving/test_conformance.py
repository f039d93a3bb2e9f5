"""The protocol as its own clients speak it: datatypes, compression, configuration, statistics, streams, health, reflection."""

import asyncio
import gzip
import json
import queue
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from serving_stand import PlainModel, Running, a_manifest, deployed
from test_server import eventually
from tritonclient.utils import InferenceServerException

from towpath.models.manifest import Field, Signature
from towpath.project.declarations import FallbackDeclaration, OutputDeclaration, ServingDeclaration
from towpath.serving import oip
from towpath.serving.served import Served

triton_grpc: Any = tritonclient.grpc  # it has no types
triton_http: Any = tritonclient.http
ZERO = FallbackDeclaration(name="zero", constant=0.0)
LIMIT = 200_000
VALUES: dict[str, list[Any]] = {
    "FP64": [1.5, -0.0, 1e300],
    "FP32": [1.5, -2.25, 3e38],
    "FP16": [1.5, -2.25, 60_000.0],
    "BOOL": [True, False, True],
    "INT8": [-128, 0, 127],
    "INT16": [-(2**15), 0, 2**15 - 1],
    "INT32": [-(2**31), 0, 2**31 - 1],
    "INT64": [-(2**63), 2**53 + 1, 2**63 - 1],
    "UINT8": [0, 1, 255],
    "UINT16": [0, 1, 2**16 - 1],
    "UINT32": [0, 1, 2**32 - 1],
    "UINT64": [0, 2**53 + 1, 2**64 - 1],
    "BYTES": ["", "crème brûlée", "\x00"],
}
"""What is hard about each datatype."""
ECHOED = tuple(Field(name=f"in_{name}", type=name) for name in VALUES)


def echoed(columns: Any) -> dict[str, Any]:
    return {f"out_{name}": columns[f"in_{name}"] for name in VALUES}


def slowly(columns: Any) -> dict[str, Any]:
    time.sleep(0.02)
    return {"prediction": np.where(columns["a"] < 0, np.nan, columns["a"])}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    outputs = tuple(Field(name=f"out_{name}", type=name) for name in VALUES)
    signature = Signature(container="tensors", inputs=ECHOED, outputs=outputs)
    echo = PlainModel(inputs=ECHOED, outputs=outputs, container="tensors", predict=echoed)
    slow = Served(a_manifest(fallback=(ZERO,)), PlainModel(predict=slowly, inline=False))
    long = PlainModel(predict=lambda c: {"prediction": c["a"], "twice": np.repeat(c["a"][:, None], 500, axis=1)})
    running = Running(
        tmp_path_factory.mktemp("served"),
        deployed(Served(a_manifest(), PlainModel())),
        deployed(Served(a_manifest(signature=signature, output=OutputDeclaration(kind="any")), echo)).replaced(
            model="echo"
        ),
        deployed(slow).replaced(model="slow"),
        deployed(Served(a_manifest(), long)).replaced(model="long"),
        max_body_bytes=LIMIT,
        max_rows=20_000,
    )
    yield running
    running.close()


@pytest.fixture
def http(server: Running) -> Iterator[Any]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.ports.http}") as client:
        yield client


@pytest.fixture
def over_grpc(server: Running) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports.grpc}") as client:
        yield client


def matrix(module: Any, rows: int = 2, value: float = 1.0, **more: Any) -> list[Any]:
    one = module.InferInput("x", [rows, 2], "FP64")
    one.set_data_from_numpy(np.full((rows, 2), value), **more)
    return [one]


def numpy_of(name: str) -> Any:
    return np.array(VALUES[name], dtype=np.object_ if name == "BYTES" else oip.DTYPES[name])


def given(module: Any, binary: Any) -> list[Any]:
    """One input of each datatype; FP16 has no JSON form at Triton's clients."""
    found: list[Any] = []
    for number, name in enumerate(VALUES):
        one = module.InferInput(f"in_{name}", [3], name)
        as_binary = name == "FP16" or binary is True or (binary == "mixed" and number % 2 == 0)
        one.set_data_from_numpy(numpy_of(name), **({"binary_data": as_binary} if module is triton_http else {}))
        found.append(one)
    return found


def check(result: Any) -> None:
    for name, values in VALUES.items():
        got = result.as_numpy(f"out_{name}")
        if name == "BYTES":
            assert [v if isinstance(v, str) else v.decode() for v in got.tolist()] == values
        else:
            assert got.tolist() == numpy_of(name).tolist(), name
            assert got.dtype == oip.DTYPES[name]


@pytest.mark.parametrize("binary_in", [True, False, "mixed"])
@pytest.mark.parametrize("binary_out", [True, False, "mixed"])
def test_every_datatype_travels_both_ways_as_json_binary_and_mixed(http: Any, binary_in: Any, binary_out: Any) -> None:
    outputs = [
        triton_http.InferRequestedOutput(
            f"out_{name}",
            binary_data=name == "FP16" or binary_out is True or (binary_out == "mixed" and number % 3 == 0),
        )
        for number, name in enumerate(VALUES)
    ]
    result = http.infer("echo", given(triton_http, binary_in), outputs=outputs, request_id="r 1")
    check(result)
    assert result.get_response()["id"] == "r 1"


def test_every_datatype_travels_over_grpc_raw_and_typed(over_grpc: Any) -> None:
    check(over_grpc.infer("echo", given(triton_grpc, binary=True)))
    request = triton_grpc.service_pb2.ModelInferRequest(model_name="echo", id="typed")
    fields = {"BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes"}
    for name, values in VALUES.items():
        one = request.inputs.add(name=f"in_{name}", datatype=name, shape=[3])
        field = fields.get(name, "uint" if name.startswith("U") else "int")
        if name != "FP16":
            sent = [v.encode() for v in values] if name == "BYTES" else values
            getattr(one.contents, f"{field}_contents").extend(sent)
    with pytest.raises(grpc.RpcError, match="in_FP16"):  # the protocol has no typed form of it
        over_grpc._client_stub.ModelInfer(request)
    del request.inputs[list(VALUES).index("FP16")]
    with pytest.raises(grpc.RpcError, match="Input 'in_FP16' is missing"):
        over_grpc._client_stub.ModelInfer(request)


def test_json_without_a_content_type_with_quoted_names_parameters_and_whole_numbers_beyond_2_to_the_53(
    server: Running,
) -> None:
    inputs = [
        {"name": f"in_{name}", "shape": [3], "datatype": name, "data": values, "parameters": {"anything": 1}}
        for name, values in VALUES.items()
    ]
    body = {"inputs": inputs, "parameters": {"priority": 3, "timeout": 5_000_000}, "outputs": [{"name": "out_UINT64"}]}
    for path in ("/v2/models/echo/infer", "/v2/models/%65cho/infer", "/v2/models/echo/versions/1/infer"):
        answer = httpx.request("POST", server.url + path, content=json.dumps(body).encode(), headers={})
        assert "content-type" not in answer.request.headers
        assert answer.json()["outputs"] == [
            {"name": "out_UINT64", "datatype": "UINT64", "shape": [3], "data": VALUES["UINT64"]}
        ]
    for path in ("/v2/models/a%2Fb/infer", "/v2/models/echo%2Fb/infer", "/v2/models//infer"):
        answer = httpx.post(server.url + path, json=body)
        assert answer.status_code == 404, path
        assert answer.json()["code"] == "unknown"


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_bodies_are_packed_in_both_directions(server: Running, http: Any, over_grpc: Any, packing: str) -> None:
    # given an answer that is worth it
    result = http.infer(
        "long",
        matrix(triton_http, rows=9),
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    )
    assert result.as_numpy("twice").shape == (9, 500)
    # then it is packed, binary tail and all, and so is JSON; a small one is not
    for form in ("json", "binary"):
        tensor = {"name": "x", "shape": [9, 2], "datatype": "FP64", "data": [1.0] * 18}
        body = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": form == "binary"}}).encode()
        headers = {"Content-Encoding": packing, "Accept-Encoding": f"br;q=1.0, {packing}"}
        packed = gzip.compress(body) if packing == "gzip" else zlib.compress(body)
        with httpx.stream("POST", f"{server.url}/v2/models/long/infer", content=packed, headers=headers) as answer:
            raw = b"".join(answer.iter_raw())
            assert answer.headers["content-encoding"] == packing
            assert int(answer.headers["content-length"]) == len(raw) < 9 * 500
            assert zlib.decompress(raw, zlib.MAX_WBITS | 32).startswith(b'{"model_name"')
    small = httpx.post(f"{server.url}/predict/demand", json={"a": 1, "b": 2}, headers={"Accept-Encoding": packing})
    assert "content-encoding" not in small.headers
    refused = httpx.get(f"{server.url}/metrics", headers={"Accept-Encoding": f"{packing};q=0"})
    assert "content-encoding" not in refused.headers
    # and over gRPC in the message's own way
    asked = matrix(triton_grpc, rows=9)
    result = over_grpc.infer("long", asked, compression_algorithm=packing, headers={"towpath-compression": packing})
    assert result.as_numpy("twice").shape == (9, 500)
    with pytest.raises(InferenceServerException, match="'towpath-compression' is 'br'"):
        over_grpc.infer("long", asked, headers={"towpath-compression": "br"})


def test_a_bomb_is_413_and_takes_no_memory(server: Running, tmp_path: Path) -> None:
    # given a gigabyte of zeros in a megabyte, and in a hundred kilobytes, which are within the limit
    bombs = {path: tmp_path / path for path in ("gzip", "deflate")}
    packing = {"gzip": zlib.compressobj(9, wbits=31), "deflate": zlib.compressobj(9)}
    for name, path in bombs.items():
        with path.open("wb") as file:
            for _ in range(150):
                file.write(packing[name].compress(bytes(1 << 20)))
            file.write(packing[name].flush())
    peak = peak_bytes()
    for name, path in bombs.items():
        body = path.read_bytes()
        assert len(body) < LIMIT
        answer = httpx.post(f"{server.url}/predict/demand", content=body, headers={"Content-Encoding": name})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert "200,000 when it is unpacked" in answer.json()["error"]
    with grpc.insecure_channel(
        f"127.0.0.1:{server.ports.grpc}", options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as raised:
            call(bytes(40 * LIMIT), compression=grpc.Compression.Gzip)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    # then the process that holds server and caller both grew by less than one of them unpacked
    assert peak_bytes() - peak < 40 << 20


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10


def test_the_configuration_is_the_metadata_in_tritons_words(http: Any, over_grpc: Any) -> None:
    told = http.get_model_config("echo")
    typed = over_grpc.get_model_config("echo").config
    assert told["name"] == typed.name == "echo"
    assert told["platform"] == typed.platform == "towpath_test"
    assert told["max_batch_size"] == typed.max_batch_size == 0
    assert told["input"][0] == {"name": "in_FP64", "data_type": "TYPE_FP64", "dims": [-1]}
    assert {one["data_type"] for one in told["output"]} == {
        f"TYPE_{'STRING' if name == 'BYTES' else name}" for name in VALUES
    }
    assert [(one.name, one.data_type, list(one.dims)) for one in typed.input][-1] == ("in_BYTES", 13, [-1])
    assert typed.parameters["max_rows"].string_value == told["parameters"]["max_rows"]["string_value"] == "20000"
    assert http.get_model_config("echo", "1") == told
    with pytest.raises(InferenceServerException, match="Version '7' of 'echo'"):
        http.get_model_config("echo", "7")


def test_statistics_count_what_was_asked(server: Running, http: Any, over_grpc: Any) -> None:
    def stats() -> dict[str, Any]:
        (found,) = http.get_inference_statistics("slow")["model_stats"]
        return found

    before = stats()
    # given three rows in one request, one row in two, and one that the model answers with NaN
    http.infer("slow", matrix(triton_http, 3))
    over_grpc.infer("slow", matrix(triton_grpc, 1))
    httpx.post(f"{server.url}/predict/slow", json={"a": 1, "b": 1})
    http.infer("slow", matrix(triton_http, 1, -1.0))
    after = stats()

    def grew(*path: str) -> int:
        was, now = before, after
        for name in path:
            was, now = was[name], now[name]
        return int(now) - int(was)

    # then answers, rows, executions and failures are told apart, and took their time
    assert grew("inference_count") == 5
    assert grew("execution_count") == 4
    assert grew("inference_stats", "success", "count") == 3
    assert grew("inference_stats", "fail", "count") == 1
    assert grew("inference_stats", "queue", "count") == 4 - 1
    assert grew("inference_stats", "compute_infer", "count") == 4
    assert grew("inference_stats", "compute_infer", "ns") >= 4 * 0.02e9
    assert grew("inference_stats", "success", "ns") >= 3 * 0.02e9
    assert abs(after["last_inference"] / 1e3 - time.time()) < 60
    sizes = {one["batch_size"]: one["compute_infer"]["count"] for one in after["batch_stats"]}
    assert sizes[3] >= 1
    assert sizes[1] >= 3
    # and gRPC says the same, of one version, one model, or all of them
    (typed,) = over_grpc.get_inference_statistics("slow", "1").model_stats
    assert (typed.name, typed.version, typed.inference_count) == ("slow", "1", after["inference_count"])
    assert typed.inference_stats.success.ns == after["inference_stats"]["success"]["ns"]
    names = {one.name for one in over_grpc.get_inference_statistics().model_stats}
    assert (
        names
        == {one["name"] for one in http.get_inference_statistics()["model_stats"]}
        == {"demand", "echo", "long", "slow"}
    )


def test_a_stream_answers_each_message_in_order_with_its_own_error(over_grpc: Any) -> None:
    got: queue.Queue[tuple[Any, Any]] = queue.Queue()
    over_grpc.start_stream(lambda result, error: got.put((result, error)))
    asked = [("slow", 1.0), ("demand", 2.0), ("demnad", 3.0), ("slow", 4.0), ("demand", 5.0)]
    for number, (model, value) in enumerate(asked):
        over_grpc.async_stream_infer(model, matrix(triton_grpc, 1, value), request_id=str(number))
    answers = [got.get(timeout=20) for _ in asked]
    over_grpc.stop_stream()
    for number, (result, error) in enumerate(answers):
        if number == 2:
            assert "did you mean 'demand'" in str(error)
            continue
        assert error is None
        assert result.get_response().id == str(number)
        assert result.get_response().parameters["triton_final_response"].bool_param
        model, value = asked[number]
        assert result.as_numpy("prediction").tolist() == [value * (2 if model == "demand" else 1)]


def test_streams_that_are_cancelled_or_broken_leave_nothing_behind(server: Running) -> None:
    def tasks() -> int:
        found = asyncio.run_coroutine_threadsafe(count(), server.loop)
        return found.result(10)

    async def count() -> int:
        return len(asyncio.all_tasks())

    before = tasks()
    channel = grpc.insecure_channel(f"127.0.0.1:{server.ports.grpc}")
    call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    request = triton_grpc.service_pb2.ModelInferRequest(model_name="slow")
    request.inputs.add(name="x", datatype="FP64", shape=[1, 2]).contents.fp64_contents.extend([1.0, 2.0])
    for _ in range(20):
        sending: queue.Queue[bytes] = queue.Queue()
        sending.put(request.SerializeToString())
        stream = call(iter(sending.get, None))
        next(stream)
        sending.put(request.SerializeToString())  # it is at work on this one when the caller goes
        stream.cancel()
    # a message that is none costs its own answer only
    answers = call(iter([b"\xff\xff", request.SerializeToString()]))
    broken, whole = (triton_grpc.service_pb2.ModelStreamInferResponse.FromString(one) for one in answers)
    assert broken.error_message.startswith("The 2 bytes are no 'ModelInferRequest'.")
    assert broken.infer_response.parameters["towpath-code"].string_param == "input"
    assert not whole.error_message
    channel.close()
    eventually(lambda: tasks() <= before)


def test_streams_of_one_connection_do_not_wait_for_each_other_and_callers_that_leave_do_not_make_a_model_hang(
    tmp_path: Path,
) -> None:
    # given a model that waits until it may go on where it is asked for a one
    go_on = threading.Event()

    def waiting(columns: Any) -> dict[str, Any]:
        if columns["a"][0] == 1.0:
            go_on.wait(10)
        return {"prediction": columns["a"]}

    served = Served(a_manifest(serving=ServingDeclaration(timeout_ms=5_000)), PlainModel(predict=waiting, inline=False))
    running = Running(tmp_path, deployed(served))
    try:
        with grpc.insecure_channel(f"127.0.0.1:{running.ports.grpc}") as channel:
            call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")

            def asked(*values: float) -> Iterator[bytes]:
                for value in values:
                    request = triton_grpc.service_pb2.ModelInferRequest(model_name="demand", id=str(value))
                    request.inputs.add(name="x", datatype="FP64", shape=[1, 2]).contents.fp64_contents.extend(
                        [value] * 2
                    )
                    yield request.SerializeToString()

            def ids(answers: Any) -> list[str]:
                read = triton_grpc.service_pb2.ModelStreamInferResponse.FromString
                return [read(one).infer_response.id for one in answers]

            held = call(asked(1.0, 2.0, 3.0))
            eventually(lambda: served.lane._running_rows == 1)
            # then streams beside it are answered in their order, while it waits
            beside = [call(asked(*(10.0 + n for n in range(20)))) for _ in range(4)]
            assert [ids(one) for one in beside] == [[str(10.0 + n) for n in range(20)]] * 4
            assert not go_on.is_set()
            # and when more callers leave in the middle of a call than there may be threads that hang
            lane = served.lane
            for number in range(12):
                left = call(asked(1.0))
                eventually(lambda n=number: lane.waiting_rows + lane._running_rows + lane.abandoned == n + 2)
                left.cancel()
            assert not lane.stuck
            go_on.set()
            # then nothing of theirs is left, and the model answers as before
            assert ids(held) == ["1.0", "2.0", "3.0"]
            assert ids(call(asked(4.0))) == ["4.0"]
            eventually(lambda: lane._running_rows == lane.waiting_rows == lane.abandoned == 0)
    finally:
        go_on.set()
        running.close()


def test_a_server_that_ends_lets_open_streams_go(tmp_path: Path) -> None:
    running = Running(tmp_path, deployed(Served(a_manifest(), PlainModel())))
    channel = grpc.insecure_channel(f"127.0.0.1:{running.ports.grpc}")
    sending: queue.Queue[Any] = queue.Queue()
    stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter(sending.get, None))
    request = triton_grpc.service_pb2.ModelInferRequest(model_name="demand")
    request.inputs.add(name="x", datatype="FP64", shape=[1, 2]).contents.fp64_contents.extend([1.0, 2.0])
    sending.put(request.SerializeToString())
    next(stream)
    watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="demand"))
    assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 5
    assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(StopIteration):
        next(watching)
    with pytest.raises(grpc.RpcError) as raised:
        next(stream)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    sending.put(None)
    channel.close()


def test_health_is_asked_of_the_server_and_of_each_model(server: Running) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService", "demand"):
            found = stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert found.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="did you mean 'demand'") as raised:
            stub.Check(health_pb2.HealthCheckRequest(service="demnad"))
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
        watching = stub.Watch(health_pb2.HealthCheckRequest(service="demnad"))
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watching.cancel()
        # and a change is told
        breaker = server.worker._deployments.live["long"].versions[1].breaker
        watching = stub.Watch(health_pb2.HealthCheckRequest(service="long"))
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        breaker.proven(passed=False, why="golden cases")
        assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
        breaker.proven(passed=True, why="")
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        watching.cancel()


def test_reflection_says_enough_to_call_a_method_without_a_proto_file(server: Running) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) >= {"inference.GRPCInferenceService", "grpc.health.v1.Health"}
        # a pool of its own, as the caller's process may hold Triton's messages of the same names
        pool = descriptor_pool.DescriptorPool(database)
        service = pool.FindServiceByName("inference.GRPCInferenceService")
        theirs = {m.name for m in triton_grpc.service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
        assert {m.name for m in service.methods} <= theirs
        from google.protobuf import message_factory

        method = service.FindMethodByName("ModelMetadata")
        asked = message_factory.GetMessageClass(method.input_type)(name="demand")
        response = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelMetadata", response_deserializer=response.FromString
        )
        assert [one.name for one in call(asked.SerializeToString()).inputs] == ["a", "b"]
        with pytest.raises(KeyError):
            pool.FindMessageTypeByName("inference.Nothing")
        # the newer of the two packages answers alike; the client library knows the older one only
        newer = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        from grpc_reflection.v1alpha import reflection_pb2

        question = reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="inference.GRPCInferenceService.ModelInfer"
        )
        (raw,) = newer(iter([question.SerializeToString()]))
        answer = reflection_pb2.ServerReflectionResponse.FromString(raw)
        (described,) = answer.file_descriptor_response.file_descriptor_proto
        assert descriptor_pb2.FileDescriptorProto.FromString(described).package == "inference"


def test_our_messages_have_the_numbers_and_types_of_tritons() -> None:
    from towpath.apart.protocol import messages

    known = {**triton_grpc.service_pb2.DESCRIPTOR.message_types_by_name}
    known |= dict(triton_grpc.model_config_pb2.DESCRIPTOR.message_types_by_name)
    for name, kind in messages().items():
        ours = {f.number: (f.name, f.type, f.is_repeated) for f in kind.DESCRIPTOR.fields}
        theirs = {f.number: (f.name, f.type, f.is_repeated) for f in known[name].fields}
        if not name.startswith(("RepositoryModelLoadResponse", "RepositoryModelUnloadResponse")):  # KServe's
            assert ours.items() <= theirs.items(), name


@pytest.mark.parametrize("order", ["towpath first", "triton first"])
def test_our_messages_live_beside_health_reflection_and_triton(order: str) -> None:
    ours = "from towpath.apart import protocol\nfrom towpath.serving import health, reflection\nfor f in (health.file(), protocol.file(), reflection.file('grpc.reflection.v1')): protocol.classes(f)\nprotocol.messages()\n"
    theirs = "import tritonclient.grpc, grpc_health.v1.health_pb2, grpc_reflection.v1alpha.reflection_pb2\n"
    code = ours + theirs if order == "towpath first" else theirs + ours
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

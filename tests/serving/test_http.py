"""HTTP and gRPC as real clients see them, over real sockets, in one event loop of one worker."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from serving_stand import PlainModel, Running, a_manifest, deployed
from tritonclient.utils import InferenceServerException

from towpath.models.manifest import Field, Signature
from towpath.project.declarations import FallbackDeclaration, OutputDeclaration
from towpath.serving.served import Served
from towpath.serving.worker import Worker

triton_grpc: Any = tritonclient.grpc  # it has no types
triton_http: Any = tritonclient.http
ROW = {"a": 1.0, "b": 2.0}
ZERO = FallbackDeclaration(name="zero", constant=0.0)


def rankings(columns: Any) -> dict[str, Any]:
    found = np.empty(len(columns["a"]), dtype=object)
    found[:] = [[f"i{k}" for k in range(20)] for _ in found]
    return {"items": found}


def per_row(columns: Any) -> dict[str, Any]:
    return {"prediction": np.where(columns["a"] < 0, np.nan, columns["a"])}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    image = (Field(name="image", type="FP32", shape=(-1, 2)),)
    tensors = Signature(container="tensors", inputs=image, outputs=(Field(name="sum", type="FP32"),))
    per_row_model = Served(a_manifest(fallback=(ZERO,)), PlainModel(predict=per_row, inline=False))
    running = Running(
        tmp_path_factory.mktemp("served"),
        deployed(Served(a_manifest(), PlainModel())),
        deployed(per_row_model).replaced(model="guarded"),
        deployed(
            Served(
                a_manifest(signature=tensors),
                PlainModel(inputs=image, container="tensors", predict=lambda c: {"sum": c["image"].sum(axis=1)}),
            )
        ).replaced(model="image"),
        deployed(
            Served(a_manifest(output=OutputDeclaration(kind="ranking", top=20)), PlainModel(predict=rankings))
        ).replaced(model="ranked"),
        deployed(Served(a_manifest(), PlainModel(predict=lambda c: {"p": c["a"] * np.nan}))).replaced(model="lost"),
        max_body_bytes=100_000,
        max_rows=1_000,
    )
    yield running
    running.close()


def test_rows_are_answered_in_each_form_that_is_documented(server: Running) -> None:
    for body in ({"rows": [ROW]}, [ROW], ROW):
        answer = httpx.post(
            f"{server.url}/predict/demand", json=body, headers={"X-Request-Id": "abc", "traceparent": "00-1"}
        )
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] == "abc"
        assert answer.headers["traceparent"] == "00-1"
        document = answer.json()
        assert document["request_id"] == "abc"
        assert document["predictions"][0] | {"prediction_id": ""} == {
            "prediction": 3.0,
            "output": None,
            "prediction_id": "",
            "version": 1,
            "arm": None,
            "source": "champion",
            "reason": "ok",
            "missing": [],
        }


def test_one_wrong_row_falls_back_alone_over_every_protocol(server: Running) -> None:
    rows = [{"a": 1.0, "b": 0.0}, {"a": -1.0, "b": 0.0}]
    answers = httpx.post(f"{server.url}/predict/guarded", json=rows).json()["predictions"]
    assert [(a["prediction"], a["source"], a["reason"]) for a in answers] == [
        (1.0, "champion", "ok"),
        (0.0, "fallback:zero", "wrong"),
    ]
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [1, 0, -1, 0]}
    document = httpx.post(f"{server.url}/v2/models/guarded/infer", json={"inputs": [tensor]}).json()
    assert document["outputs"][0]["data"] == [1.0, 0.0]
    towpath = document["parameters"]["towpath"]
    assert towpath["source"] == ["champion", "fallback:zero"]
    assert towpath["arm"] is None
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports.grpc}") as client:
        asked = triton_grpc.InferInput("x", [2, 2], "FP64")
        asked.set_data_from_numpy(np.array([[1.0, 0], [-1, 0]]))
        result = client.infer("guarded", [asked])
        assert result.as_numpy("prediction").tolist() == [1.0, 0.0]
        told = json.loads(result.get_response().parameters["towpath"].string_param)
        assert told["reason"] == ["ok", "wrong"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_triton_speaks_http_in_both_forms(server: Running, binary_in: bool, binary_out: bool) -> None:
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.ports.http}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("demand")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        assert client.get_model_metadata("demand")["inputs"][0] == {"name": "a", "datatype": "FP64", "shape": [-1]}
        one = triton_http.InferInput("image", [3, 2], "FP32")
        one.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(3, 2), binary_data=binary_in)
        wanted = triton_http.InferRequestedOutput("sum", binary_data=binary_out)
        result = client.infer("image", [one], outputs=[wanted], request_id="r7")
        assert result.as_numpy("sum").tolist() == [1.0, 5.0, 9.0]
        assert result.get_response()["id"] == "r7"
        columns = []
        for name in ("a", "b"):
            column = triton_http.InferInput(name, [2], "FP64")
            column.set_data_from_numpy(np.array([1.0, 2.0]), binary_data=binary_in)
            columns.append(column)
        assert client.infer("demand", columns).as_numpy("prediction").tolist() == [2.0, 4.0]


def test_triton_speaks_grpc_raw_and_typed(server: Running) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports.grpc}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("image")
        assert client.get_server_metadata().name == "towpath"
        assert client.get_model_metadata("image").inputs[0].shape == [-1, 2]
        one = triton_grpc.InferInput("image", [1, 2], "FP32")
        one.set_data_from_numpy(np.array([[1, 2]], dtype=np.float32))
        assert client.infer("image", [one], request_id="r8").get_response().id == "r8"
        request = triton_grpc.service_pb2.ModelInferRequest(model_name="image")
        tensor = request.inputs.add(name="image", datatype="FP32", shape=[2, 2])
        tensor.contents.fp32_contents.extend([1, 2, 3, 4])
        typed = client._client_stub.ModelInfer(request)
        assert list(typed.outputs[0].contents.fp32_contents) == [3.0, 7.0]
        with pytest.raises(InferenceServerException, match="did you mean 'image'"):
            client.infer("imag", [one])
        one = triton_grpc.InferInput("image", [1, 3], "FP32")
        one.set_data_from_numpy(np.zeros((1, 3), dtype=np.float32))
        with pytest.raises(InferenceServerException, match="'image' has the shape") as raised:
            client.infer("image", [one])
        assert "INVALID_ARGUMENT" in str(raised.value.status())


def test_a_ranking_travels_as_a_list(server: Running) -> None:
    (row,) = httpx.post(f"{server.url}/predict/ranked", json=[ROW]).json()["predictions"]
    assert row["prediction"] == [f"i{k}" for k in range(20)]
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    output = httpx.post(f"{server.url}/v2/models/ranked/infer", json={"inputs": [tensor]}).json()["outputs"][0]
    assert output["datatype"] == "BYTES"


@pytest.mark.parametrize(
    ("path", "body", "status", "names"),
    [
        ("/predict/demnad", [ROW], 404, "did you mean 'demand'"),
        ("/predict/demand", [{"a": 1.0}], 400, "'b'"),
        ("/predict/demand", [{"a": "many", "b": 1}], 400, "'a'"),
        ("/predict/demand", [{"a": "NaN", "b": 1}], 400, "'a'"),
        ("/predict/demand", b'[{"a": NaN, "b": 1}]', 400, "'a'"),
        ("/predict/demand", [{"a": [1], "b": 1}], 400, "'a'"),
        ("/predict/demand", [ROW, {"a": 1, "b": 2, "c": 3}], 400, "'c'"),
        ("/predict/demand", [ROW, 3], 400, "Row 1"),
        ("/predict/demand", {"rows": []}, 400, "'rows'"),
        ("/predict/demand", {"rows": {}}, 400, "rows"),
        ("/predict/demand", b"{", 400, "JSON"),
        ("/predict/demand", b"", 400, "JSON"),
        ("/predict/demand", b"\xff\xfe", 400, "JSON"),
        ("/predict/demand", b"[" * 50_000, 400, "JSON"),
        ("/predict/demand", b'{"a":' * 15_000, 400, "JSON"),
        ("/predict/demand", [ROW] * 1_001, 413, "1001 rows"),
        ("/predict/demand", b" " * 100_001, 413, "limit 100,000"),
        ("/predict/lost", [ROW], 503, "no fallback"),
        ("/outcomes/demand", [{"value": 1}], 400, "Row 0"),
        ("/outcomes/demand", [{"value": "x", "prediction_id": "p"}], 400, "value"),
        ("/v2/models/demand/infer", {"inputs": []}, 400, "'inputs'"),
        ("/v2/models/demand/versions/9/infer", {"inputs": []}, 404, "'9'"),
        ("/v2/models/image/infer", {"inputs": [{"name": "image", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}, 400, "'image'"),
        ("/v2/models/image/infer", {"inputs": [{"name": "image", "shape": [1, 2], "datatype": "INT32", "data": [1, 2]}]}, 400, "'image'"),
        ("/v2/models/image/infer", {"inputs": [{"name": "image", "shape": [], "datatype": "FP32", "data": [1]}]}, 400, "'image'"),
        ("/nothing", {}, 404, "'/nothing'"), ("/metrics", {}, 405, "does not take POST"),
    ],
)  # fmt: skip
def test_bad_input_is_told_by_name_and_never_a_500(
    server: Running, path: str, body: Any, status: int, names: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(server.url + path, content=content)
    assert answer.status_code == status
    assert names in answer.json()["error"]
    assert set(answer.json()) == {"error", "code", "mend"}
    assert ("retry-after" in answer.headers) == (status == 503)


def test_a_body_of_100_mb_is_refused_before_it_is_sent_and_while_it_streams(server: Running) -> None:
    # given only the announcement of 100 MB
    with socket.create_connection(("127.0.0.1", server.ports.http), timeout=10) as caller:
        caller.sendall(b"POST /predict/demand HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert caller.recv(4_096).startswith(b"HTTP/1.1 413 ")
    # and a stream that never says how long it is
    chunk = b" " * 65_536
    answer = httpx.post(f"{server.url}/predict/demand", content=(chunk for _ in range(400)), timeout=20)
    assert answer.status_code == 413
    assert httpx.post(f"{server.url}/predict/demand", json=[ROW]).status_code == 200


def test_health_metadata_and_metrics(server: Running) -> None:
    assert httpx.get(f"{server.url}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{server.url}/v2/health/ready").json() == {"ready": True}
    assert httpx.get(f"{server.url}/v2/models/demand/ready").json() == {"ready": True}
    assert httpx.head(f"{server.url}/v2").status_code == 200
    assert httpx.get(f"{server.url}/health").json()["models"]["demand"]["ready"] is True
    httpx.post(f"{server.url}/predict/demand", json=[ROW])
    text = httpx.get(f"{server.url}/metrics").text
    assert 'towpath_rows_total{consumer="local",model="demand",reason="ok",source="champion",version="1"}' in text
    assert "towpath_answer_seconds_bucket" in text


def test_outcomes_are_acknowledged_once_they_are_on_disk(server: Running) -> None:
    (row,) = httpx.post(f"{server.url}/predict/demand", json=[ROW]).json()["predictions"]
    sent = httpx.post(f"{server.url}/outcomes/demand", json=[{"prediction_id": row["prediction_id"], "value": 4}])
    assert (sent.status_code, sent.json()) == (202, {"accepted": 1})
    entity = {"entity_key": ["x", 1], "target_at": "2026-01-08T00:00:00Z", "value": 4}
    assert httpx.post(f"{server.url}/outcomes/demand", json={"outcomes": [entity]}).status_code == 202


def test_the_caller_may_shorten_the_deadline(tmp_path: Path) -> None:
    gate = threading.Event()
    slow = PlainModel(inline=False, predict=lambda c: {"p": c["a"] * float(gate.wait())})
    running = Running(tmp_path, deployed(Served(a_manifest(fallback=(ZERO,)), slow)))
    try:
        answer = httpx.post(f"{running.url}/predict/demand", json=[ROW], headers={"Towpath-Timeout-Ms": "40"})
        assert answer.json()["predictions"][0]["reason"] == "slow"
        assert (
            httpx.post(f"{running.url}/predict/demand", json=[ROW], headers={"Towpath-Timeout-Ms": "x"}).status_code
            == 400
        )
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{running.ports.grpc}") as client:
            asked = triton_grpc.InferInput("x", [1, 2], "FP64")
            asked.set_data_from_numpy(np.ones((1, 2)))
            told = client.infer("demand", [asked], client_timeout=1.8).get_response().parameters["towpath"].string_param
            assert json.loads(told)["reason"] == "slow"
    finally:
        gate.set()
        running.close()


def test_draining_finishes_what_is_in_flight_and_says_not_ready(tmp_path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()

    def held(columns: Any) -> Any:
        entered.set()
        gate.wait()
        return {"p": columns["a"]}

    running = Running(tmp_path, deployed(Served(a_manifest(), PlainModel(inline=False, predict=held))))
    answers: list[int] = []
    caller = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{running.url}/predict/demand", json=[ROW]).status_code)
    )
    caller.start()
    assert entered.wait(10)
    # when it is told to stop while a request is in flight
    running.loop.call_soon_threadsafe(running.worker.stop)
    until = time.monotonic() + 10
    while running.worker.ready and time.monotonic() < until:
        time.sleep(0.001)
    assert not running.worker.ready
    gate.set()
    caller.join(10)
    running.close()
    # then that request was answered and nobody listens any more
    assert answers == [200]
    with pytest.raises(httpx.ConnectError):
        httpx.get(running.url)


def test_draining_asks_callers_to_leave_the_connections_that_they_keep(tmp_path: Path) -> None:
    running = Running(tmp_path, deployed(Served(a_manifest(), PlainModel())), drain_ms=3_000)
    short, long = "/predict/demand", "/predict/demand?the=long&way=round"
    kept = {path: http.client.HTTPConnection("127.0.0.1", running.ports.http, timeout=5) for path in (short, long)}

    def closes(path: str) -> bool:
        connection = kept[path]
        connection.request("POST", path, json.dumps(ROW))
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["predictions"][0]["prediction"]) == (200, 3.0)
        return answer.will_close

    assert [closes(path) for path in (short, long) * 2] == [False] * 4
    # when it drains, and takes connections still
    running.loop.call_soon_threadsafe(running.worker.stop)
    until = time.monotonic() + 10
    while running.worker.ready and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(1.2)  # uvicorn writes its headers anew each second
    assert [closes(path) for path in (short, long)] == [True, True]
    assert closes(short)  # over a new one, which is taken still
    running.close()


def test_our_messages_are_tritons_on_the_wire() -> None:
    from towpath.apart.protocol import messages

    ours = messages()["ModelInferRequest"](model_name="m", raw_input_contents=[b"1234"])
    ours.parameters["p"].double_param = 1.5
    ours.inputs.add(name="x", datatype="FP32", shape=[1]).parameters["q"].bool_param = True
    theirs = triton_grpc.service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert theirs.inputs[0].parameters["q"].bool_param
    assert theirs.parameters["p"].double_param == 1.5
    assert messages()["ModelInferRequest"].FromString(theirs.SerializeToString()) == ours


def test_grpc_clients_are_let_in_from_the_first_http_answer_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a client that comes as soon as HTTP answers, before the gRPC door is made; refused, it would wait 100 ms
    came: list[socket.socket] = []
    made: Any = Worker._grpc

    async def later(worker: Worker, listener: socket.socket) -> Any:
        came.append(socket.create_connection(listener.getsockname(), timeout=1))
        return await made(worker, listener)

    monkeypatch.setattr(Worker, "_grpc", later)
    running = Running(tmp_path, deployed(Served(a_manifest(), PlainModel())))
    with came[0] as client:
        client.settimeout(10)
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        assert client.recv(9)[3] == 4  # its settings
    running.close()

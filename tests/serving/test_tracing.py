"""Spans of requests at a real receiver of OTLP: names and attributes of the conventions, one trace from caller to server."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from serving_stand import PlainModel, Running, a_manifest, deployed

from towpath import Client
from towpath.apart import Remote
from towpath.apart.protocol import classes
from towpath.apart.remote import write
from towpath.errors import ExtraError
from towpath.project.declarations import FallbackDeclaration
from towpath.serving import grpc_rows
from towpath.serving.served import Served

triton_grpc: Any = tritonclient.grpc  # it has no types
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ROW = {"a": 1.0, "b": 2.0}


class Receiver:
    """Takes OTLP over HTTP and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resource: dict[str, str] = {}
        receiver = self

        class Door(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["content-length"]))
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    receiver.resource = {one.key: one.value.string_value for one in group.resource.attributes}
                    receiver.spans += [span for scope in group.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = HTTPServer(("127.0.0.1", 0), Door)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def attributes(span: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        return [plain(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    return {one.key: plain(one.value) for one in span.attributes}


def test_each_request_is_a_span_of_its_callers_trace(tmp_path: Path, receiver: Receiver) -> None:
    wrong = Served(a_manifest(), PlainModel(predict=lambda c: {"p": c["a"] * np.nan}))
    half = Served(
        a_manifest(fallback=(FallbackDeclaration(name="zero", constant=0.0),)),
        PlainModel(predict=lambda c: {"p": np.where(c["a"] < 0, np.nan, c["a"])}, inline=False),
    )
    running = Running(
        tmp_path,
        deployed(Served(a_manifest(), PlainModel())),
        deployed(wrong).replaced(model="wrong"),
        deployed(half).replaced(model="half"),
        traces=receiver.url,
    )
    given = f"00-{TRACE}-{PARENT}-01"
    with Client(running.url) as client, httpx.Client(base_url=running.url) as raw:
        client.predict("demand", ROW, traceparent=given, request_id="abc")
        client.predict("half", [ROW, {"a": -1.0, "b": 0.0}])
        answer = raw.post("/predict/demand", json=ROW, headers={"traceparent": given})
        assert raw.post("/predict/wrong", json=ROW).status_code == 503
        assert raw.get("/predict/made-up/and-on").status_code == 405
        assert raw.get("/made-up").status_code == 404
        raw.get("/v2/models/demand/versions/1/ready", headers={"traceparent": "rubbish"})
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{running.ports.grpc}") as client:
        asked = triton_grpc.InferInput("x", [1, 2], "FP64")
        asked.set_data_from_numpy(np.ones((1, 2)))
        client.infer("demand", [asked], headers={"traceparent": given})
        with pytest.raises(Exception, match="nobody"):
            client.infer("nobody", [asked])
    running.close()  # which sends what is left
    # then the span that is handed on is the server's own, in the caller's trace
    handed = answer.headers.get_list("traceparent")
    assert len(handed) == 1
    _, trace, span_id, _ = handed[0].split("-")
    spans = receiver.spans
    first = next(span for span in spans if attributes(span).get("towpath.request_id") == "abc")
    assert (first.name, first.kind) == ("POST /predict/{name}", 2)
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert (trace, bytes.fromhex(span_id)) == (TRACE, next(s.span_id for s in spans if s.span_id.hex() == span_id))
    assert attributes(first) == {
        "http.request.method": "POST",
        "url.path": "/predict/demand",
        "url.scheme": "http",
        "http.route": "/predict/{name}",
        "http.response.status_code": 200,
        "towpath.model": "demand",
        "towpath.request_id": "abc",
        "towpath.rows": 1,
        "towpath.versions": [1],
        "towpath.sources": ["champion"],
        "towpath.reasons": ["ok"],
    }
    halves = next(attributes(span) for span in spans if attributes(span).get("towpath.model") == "half")
    assert (halves["towpath.sources"], halves["towpath.reasons"]) == (["champion", "fallback:zero"], ["ok", "wrong"])
    by_path = {attributes(span).get("url.path"): span for span in spans}
    failed = by_path["/predict/wrong"]
    assert (failed.status.code, attributes(failed)["error.type"]) == (2, "503")
    assert by_path["/made-up"].status.code == 0
    assert "towpath.model" not in attributes(by_path["/made-up"])
    # and names do not grow with what callers make up
    assert {span.name for span in spans} == {
        "POST /predict/{name}", "GET /predict/{name}", "GET", "GET /v2/models/{model}/versions/{version}/ready",
        "inference.GRPCInferenceService/ModelInfer",
    }  # fmt: skip
    calls = [span for span in spans if "ModelInfer" in span.name]
    assert [attributes(one)["rpc.grpc.status_code"] for one in calls] == [0, 5]
    assert (calls[0].trace_id.hex(), calls[0].parent_span_id.hex()) == (TRACE, PARENT)
    assert receiver.resource["service.name"] == "towpath"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_model_of_another_server_is_in_the_same_trace_once_for_each_call(
    scheme: str, tmp_path: Path, receiver: Receiver
) -> None:
    # given a Towpath whose model is another one's, and both send their spans
    far = Running(tmp_path / "far", deployed(Served(a_manifest(), PlainModel())), traces=receiver.url)
    url = f"{far.url}/v2/models/demand" if scheme == "http" else f"grpc://127.0.0.1:{far.ports.grpc}/demand"
    model = Remote(tmp_path / write(tmp_path, url).file.path, name="demand@1")
    grpc_call = "inference.GRPCInferenceService/ModelInfer"
    there = "POST /v2/models/{model}/infer" if scheme == "http" else grpc_call
    near = Running(tmp_path / "near", deployed(Served(a_manifest(), model)), traces=receiver.url)
    plain = Running(tmp_path / "plain", deployed(Served(a_manifest(), model)))
    # when somebody asks over HTTP and gRPC, and a server without spans
    traces = [f"{number}{TRACE[1:]}" for number in "123"]
    with Client(near.url) as client:
        assert client.predict("demand", ROW, traceparent=f"00-{traces[0]}-{PARENT}-01").by_model
    with Client(plain.url) as client:
        assert client.predict("demand", ROW, traceparent=f"00-{traces[2]}-{PARENT}-01").by_model
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{near.ports.grpc}") as client:
        asked = triton_grpc.InferInput("x", [1, 2], "FP64")
        asked.set_data_from_numpy(np.ones((1, 2)))
        client.infer("demand", [asked], headers={"traceparent": f"00-{traces[1]}-{PARENT}-01"})
    for running in (near, plain, far):
        running.close()
    model.close()
    # then each call is one span here and one there, which is the child of ours
    for trace, first in zip(traces, ("POST /predict/{name}", grpc_call, ""), strict=True):
        names = [name for name in (first, there) if name]
        spans = {span.span_id: span for span in receiver.spans if span.trace_id.hex() == trace}
        line, parent = [], bytes.fromhex(PARENT)
        while child := next((span for span in spans.values() if span.parent_span_id == parent), None):
            line.append(child.name)
            parent = child.span_id
        assert (len(spans), line) == (len(names), names)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("spans", [True, False])
def test_the_state_of_a_trace_goes_along_unchanged_and_only_with_a_trace(
    scheme: str, spans: bool, tmp_path: Path, receiver: Receiver
) -> None:
    # given a model of another server, which notes what it is asked with
    far = Running(tmp_path / "far", deployed(Served(a_manifest(), PlainModel())), traces=receiver.url)
    url = f"{far.url}/v2/models/demand" if scheme == "http" else f"grpc://127.0.0.1:{far.ports.grpc}/demand"
    model = Remote(tmp_path / write(tmp_path, url).file.path, name="demand@1")
    near = Running(tmp_path / "near", deployed(Served(a_manifest(), model)), traces=receiver.url if spans else "")
    traces = [f"{number}{TRACE[1:]}" for number in "12"]
    asked = triton_grpc.InferInput("x", [1, 2], "FP64")
    asked.set_data_from_numpy(np.ones((1, 2)))
    # when callers name a state, over both doors, one of them with no trace
    with httpx.Client(base_url=near.url) as client:
        parent = f"00-{traces[0]}-{PARENT}-01"
        given = [
            ("traceparent", parent),
            ("tracestate", "shop=a1"),
            ("tracestate", "other=b2"),
        ]  # one list, as W3C asks
        assert client.post("/predict/demand", json=ROW, headers=given).json()["predictions"][0]["source"] == "champion"
        client.post("/predict/demand", json=ROW, headers={"tracestate": "stray=1"})
        client.post("/predict/demand", json=ROW, headers={"traceparent": "rubbish", "tracestate": "stray=2"})
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{near.ports.grpc}") as client:
        client.infer("demand", [asked], headers={"traceparent": f"00-{traces[1]}-{PARENT}-01", "tracestate": "shop=g7"})
    for running in (near, far):
        running.close()
    model.close()
    # then the far server's spans have it
    calls = [span for span in receiver.spans if "nfer" in span.name and attributes(span).get("towpath.model")]
    states = {trace: {s.trace_state for s in calls if s.trace_id.hex() == trace} for trace in traces}
    assert states == {traces[0]: {"shop=a1,other=b2"}, traces[1]: {"shop=g7"}}
    assert not [span for span in receiver.spans if "stray" in span.trace_state]


def test_rows_over_grpc_are_a_span_too_and_the_span_comes_back(tmp_path: Path, receiver: Receiver) -> None:
    running = Running(tmp_path, deployed(Served(a_manifest(), PlainModel())), traces=receiver.url)
    known, given = classes(grpc_rows.file()), f"00-{TRACE}-{PARENT}-01"
    asked = known["PredictRequest"](model="demand")
    row = asked.rows.add()
    row.values["a"].number, row.values["b"].number = 1.0, 2.0
    with grpc.insecure_channel(f"127.0.0.1:{running.ports.grpc}") as channel:
        predict: Any = channel.unary_unary("/towpath.v1.Prediction/Predict")
        _, call = predict.with_call(asked.SerializeToString(), metadata=[("traceparent", given), ("x-request-id", "p")])
        handed = dict(call.initial_metadata())["traceparent"]
        with pytest.raises(grpc.RpcError):
            predict(known["PredictRequest"](model="nobody").SerializeToString())
    running.close()
    spans = [span for span in receiver.spans if span.name == "towpath.v1.Prediction/Predict"]
    assert [attributes(span)["rpc.grpc.status_code"] for span in spans] == [0, 5]
    assert handed == f"00-{TRACE}-{spans[0].span_id.hex()}-01"
    assert spans[0].parent_span_id.hex() == PARENT
    assert (attributes(spans[0])["rpc.service"], attributes(spans[0])["rpc.method"]) == (
        "towpath.v1.Prediction",
        "Predict",
    )
    assert (attributes(spans[0])["towpath.request_id"], attributes(spans[0])["towpath.sources"]) == ("p", ["champion"])


def test_what_asks_for_no_prediction_over_grpc_is_a_span_too(tmp_path: Path, receiver: Receiver) -> None:
    running = Running(tmp_path, deployed(Served(a_manifest(), PlainModel())), traces=receiver.url)
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{running.ports.grpc}") as client:
        assert client.is_model_ready("demand", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        with pytest.raises(Exception, match="nobody"):
            client.get_model_metadata("nobody")
    running.close()
    ready, metadata = receiver.spans
    assert (ready.name, ready.kind) == ("inference.GRPCInferenceService/ModelReady", 2)
    assert (ready.trace_id.hex(), ready.parent_span_id.hex()) == (TRACE, PARENT)
    assert (attributes(ready)["rpc.method"], attributes(ready)["rpc.grpc.status_code"]) == ("ModelReady", 0)
    assert (metadata.status.code, attributes(metadata)["rpc.grpc.status_code"]) == (2, 5)


def test_a_receiver_that_is_away_costs_no_answer(tmp_path: Path) -> None:
    running = Running(tmp_path, deployed(Served(a_manifest(), PlainModel())), traces="http://127.0.0.1:9")
    with Client(running.url) as client:
        assert client.predict("demand", ROW).prediction == 3.0
    running.close()


def test_without_the_setting_nothing_is_imported_and_without_the_extra_the_install_line_is_said(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from serving_stand import PlainModel, Running, a_manifest, deployed
from towpath.serving import grpc_rows
from towpath.serving.served import Served
import grpc
import httpx
running = Running(Path({str(tmp_path)!r}), deployed(Served(a_manifest(), PlainModel())))
assert httpx.post(running.url + "/predict/demand", json={{"a": 1, "b": 2}}, headers={{"traceparent": "00-1"}}).headers["traceparent"] == "00-1"
running.close()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
import importlib.util
importlib.util.find_spec = lambda name, *more: None
from towpath.serving.tracing import tracing_of
try:
    tracing_of("otlp", server="x")
except Exception as error:
    assert type(error).__name__ == {ExtraError.__name__!r} and "towpath[otel]" in error.mend
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""Load, unload and statistics of real servers with two workers, and MLflow's doors."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from msgspec.structs import replace
from serving_stand import AT, PlainModel, Running, a_manifest, deployed
from test_server import QUICK, ROW, Store, answer, eventually
from tritonclient.utils import InferenceServerException

from towpath.clock import SystemClock
from towpath.models.manifest import Field, Signature
from towpath.registry import history
from towpath.serving.served import Served
from towpath.traffic import ConsumerBook, Quota, make_pepper

triton_grpc: Any = tritonclient.grpc  # it has no types
triton_http: Any = tritonclient.http


class Fleet:
    """A server of two workers, with an operator and a caller, and Triton's two clients."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.store.promote(self.store.publish(5.0))
        book = ConsumerBook(self.store.objects, make_pepper(self.store.keys))
        self.operator = {"authorization": f"Bearer {book.add('operator', team='a', at=AT, scopes=('manage',))}"}
        self.caller = {"authorization": f"Bearer {book.add('brand-a', team='a', at=AT)}"}
        quota = Quota(rows_per_s=4)
        self.few = {"authorization": f"Bearer {book.add('few', team='a', at=AT, quota=quota)}"}
        self.server: Any = self.store.server(replace(QUICK, workers=2))
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.ports.http}"
        self.clients = (
            triton_http.InferenceServerClient(self.url.removeprefix("http://")),
            triton_grpc.InferenceServerClient(f"127.0.0.1:{self.server.ports.grpc}"),
        )

    def reasons(self) -> set[str]:
        """Over fresh connections, so that both workers are asked."""
        told: set[str] = set()
        for _ in range(8):
            got = httpx.post(f"{self.url}/predict/demand", json=[ROW], headers=self.caller, timeout=20)
            told.add(got.json()["predictions"][0]["reason"])
        return told


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    yield made
    made.server.stop()


def test_only_an_operator_loads_and_unloads(fleet: Fleet) -> None:
    revision = history.current(fleet.store.objects, "demand")
    for client in fleet.clients:
        for call in (client.unload_model, client.load_model):
            for headers, told in (({}, "no key"), (fleet.caller, "may not manage models")):
                with pytest.raises(InferenceServerException, match=told):
                    call("demand", headers=headers)
        with pytest.raises(InferenceServerException, match="did you mean 'demand'"):
            client.unload_model("demnad", headers=fleet.operator)
        with pytest.raises(InferenceServerException, match="The parameter 'config' is not taken"):
            client.load_model("demand", headers=fleet.operator, config="{}")
    assert history.current(fleet.store.objects, "demand") == revision


def test_unload_and_load_reach_every_worker_and_stand_in_the_log(fleet: Fleet) -> None:
    http, over_grpc = fleet.clients
    http.unload_model("demand", headers=fleet.operator)
    began = time.monotonic()
    eventually(lambda: fleet.reasons() == {"killed"}, 2)
    assert time.monotonic() - began < 2
    # then both clients see it as Triton's would be, and the log says who did it
    entry = {"name": "demand", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert http.get_model_repository_index() == [entry]
    (typed,) = over_grpc.get_model_repository_index().models
    assert (typed.state, typed.reason) == ("UNAVAILABLE", "unloaded")
    eventually(lambda: not http.is_model_ready("demand") and not over_grpc.is_model_ready("demand"), 2)
    found = history.current(fleet.store.objects, "demand")
    assert found is not None
    assert (found.event.kind, found.event.by) == ("unloaded", "operator")
    assert found.state.champion == 1
    # and a second one, over the other door, writes nothing
    over_grpc.unload_model("demand", headers=fleet.operator)
    assert history.current(fleet.store.objects, "demand") == found
    over_grpc.load_model("demand", headers=fleet.operator)
    eventually(lambda: fleet.reasons() == {"ok"}, 2)
    eventually(lambda: http.is_model_ready("demand") and over_grpc.is_model_ready("demand"), 2)
    loaded = history.current(fleet.store.objects, "demand")
    assert loaded is not None
    assert (loaded.event.kind, loaded.state.kills) == ("loaded", ())


def test_load_does_not_take_back_what_a_person_killed_for_a_reason(fleet: Fleet) -> None:
    history.kill(fleet.store.objects, "demand", because="wrong prices", by="ana", clock=SystemClock())
    eventually(lambda: fleet.reasons() == {"killed"}, 2)
    got = httpx.post(f"{fleet.url}/v2/repository/models/demand/load", headers=fleet.operator)
    assert (got.status_code, got.json()["code"]) == (409, "conflict")
    assert got.json()["error"] == "'demand' was killed by ana: wrong prices"
    with pytest.raises(InferenceServerException, match="ABORTED"):
        fleet.clients[1].load_model("demand", headers=fleet.operator)
    history.revive(fleet.store.objects, "demand", by="ana", clock=SystemClock())
    eventually(lambda: fleet.reasons() == {"ok"}, 2)


def test_the_quota_of_rows_counts_tensors_over_http_and_each_message_of_a_stream(fleet: Fleet) -> None:
    tensor = {"name": "x", "shape": [4, 2], "datatype": "FP64", "data": [0.0] * 8}
    asked = [
        httpx.post(f"{fleet.url}/v2/models/demand/infer", json={"inputs": [tensor]}, headers=fleet.few)
        for _ in range(4)
    ]
    assert 429 in {one.status_code for one in asked}
    one = triton_grpc.InferInput("x", [4, 2], "FP64")
    one.set_data_from_numpy(np.zeros((4, 2)))
    got: list[Any] = []
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{fleet.server.ports.grpc}")
    client.start_stream(lambda result, error: got.append((result, error)), headers=fleet.few)
    for _ in range(6):
        client.async_stream_infer("demand", [one])
    eventually(lambda: len(got) == 6)
    client.stop_stream()
    assert any("quota" in str(error) for _, error in got)
    # and whoever has no key keeps no stream open
    client.start_stream(lambda result, error: got.append((result, error)))
    client.async_stream_infer("demand", [one])
    eventually(lambda: len(got) == 7)
    assert "no key" in str(got[-1][1])
    client.stop_stream(cancel_requests=True)
    client.close()


def test_the_workers_counts_are_added_up_and_outlive_a_worker(fleet: Fleet) -> None:
    def told() -> tuple[int, int]:
        (found,) = fleet.clients[0].get_inference_statistics("demand")["model_stats"]
        return found["inference_count"], found["execution_count"]

    eventually(lambda: len({told() for _ in range(4)}) == 1)
    before = told()
    for _ in range(20):
        httpx.post(f"{fleet.url}/predict/demand", json=[ROW, ROW], headers=fleet.caller)
    eventually(lambda: told() == (before[0] + 40, before[1] + 20), 5)
    time.sleep(0.3)  # both have written it down
    victim = fleet.server.pids[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(fleet.server.ready_pids) == 2 and victim not in fleet.server.pids)
    seen: set[tuple[int, int]] = set()
    for _ in range(8):
        with triton_http.InferenceServerClient(fleet.url.removeprefix("http://")) as client:
            (found,) = client.get_inference_statistics("demand")["model_stats"]
            seen.add((found["inference_count"], found["execution_count"]))
    assert seen == {(before[0] + 40, before[1] + 20)}


def test_load_tries_again_what_could_not_be_loaded(tmp_path: Path) -> None:
    # given a version whose file was damaged when the server came up
    store = Store(tmp_path)
    store.promote(store.publish(5.0))
    target = next(Path(store.url).rglob("5.0.txt"))
    whole = target.read_bytes()
    target.write_bytes(whole[:-20])
    with store.server() as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        assert answer(url)["reason"] == "down"
        (entry,) = httpx.post(f"{url}/v2/repository/index").json()
        assert entry["state"] == "UNAVAILABLE"
        assert entry["reason"]
        assert httpx.post(f"{url}/v2/repository/index", json={"ready": True}).json() == []
        # when it is whole again and somebody loads it
        target.write_bytes(whole)
        assert httpx.post(f"{url}/v2/repository/models/demand/load").status_code == 200
        eventually(lambda: answer(url)["reason"] == "ok", 5)
        (entry,) = httpx.post(f"{url}/v2/repository/index").json()
        assert entry == {"name": "demand", "version": "1", "state": "READY", "reason": ""}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("bare"), deployed(Served(a_manifest(), PlainModel())))
    yield running
    running.close()


def test_a_bare_file_is_loaded_and_says_that_it_cannot_be_unloaded(bare: Running) -> None:
    with triton_http.InferenceServerClient(f"127.0.0.1:{bare.ports.http}") as client:
        client.load_model("demand")
        with pytest.raises(InferenceServerException, match="no log"):
            client.unload_model("demand")
        assert client.is_model_ready("demand")
    page = httpx.post(f"{bare.url}/v2/repository/models/demand/unload", headers={"Origin": "https://elsewhere.example"})
    assert page.status_code == 403


def told_alike(said: Any, got: Any) -> bool:
    """Whether an answer is what the page says; `…` stands for anything."""
    if isinstance(said, dict) and isinstance(got, dict):
        return said.keys() == got.keys() and all(told_alike(said[key], got[key]) for key in said)
    if isinstance(said, list) and isinstance(got, list):
        return len(said) == len(got) and all(map(told_alike, said, got))
    return said in ("…", got)


def test_the_examples_of_the_reference_are_answered_as_it_says(bare: Running) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "wire.md").read_text("utf-8")
    found = re.findall(r"```http\n(.*?)```\n\n```json\n(.*?)```", page, re.DOTALL)
    assert len(found) > 4
    for asked, told in found:
        head, _, body = asked.rstrip("\n").partition("\n\n")
        line, *more = head.splitlines()
        method, path = line.split()
        headers = dict(one.split(": ", 1) for one in more)
        got = httpx.request(method, bare.url + path, content=body.encode(), headers=headers)
        assert told_alike(json.loads(told), got.json()), (asked, got.text)


MLFLOW = [
    ({"dataframe_split": {"columns": ["b", "a"], "index": [7, 8], "data": [[2.0, 1.0], [4, 3]]}}, [3.0, 7.0]),
    ({"dataframe_records": [{"a": 1.0, "b": 2.0}, {"b": 4, "a": 3}]}, [3.0, 7.0]),
    ({"instances": [{"a": 1.0, "b": 2.0}]}, [3.0]),
    ({"instances": [[1.0, 2.0], [3.0, 4.0]]}, [3.0, 7.0]),
    ({"inputs": {"a": [1.0, 3.0], "b": [2.0, 4.0]}}, [3.0, 7.0]),
    ({"inputs": [[1, 2]], "params": None}, [3.0]),
    ("b,a\r\n2,1\r\n\r\n4.0,3e0\r\n", [3.0, 7.0]),
]
WRONG: list[tuple[Any, str]] = [
    ([1], "no JSON object"),
    ({}, "one of dataframe_split"),
    ({"rows": [{"a": 1, "b": 2}]}, "'rows'"),
    ({"inputs": [[1, 2]], "instances": [[1, 2]]}, "'inputs', 'instances'"),
    ({"inputs": [[1, 2]], "params": {"t": 1}}, "'params'"),
    ({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "Row 0 of 'dataframe_split'"),
    ({"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}, "'a' twice"),
    ({"dataframe_split": {"data": [[1, 2]]}}, "'columns'"),
    ({"dataframe_records": [{"a": 1}]}, "'b'"),
    ({"dataframe_records": [1]}, "Row 0"),
    ({"dataframe_records": []}, "no rows"),
    ({"instances": {"a": [1]}}, "'instances' is no list"),
    ({"instances": [[1, 2, 3]]}, "Row 0 of 'instances' has 3 values"),
    ({"inputs": {"a": [1, 2], "b": [1]}}, "'b' of 'inputs' has 1 values"),
    ({"inputs": {"a": 1, "b": 2}}, "'a' of 'inputs' is no list"),
    ({"inputs": 3}, "'inputs' is no list"),
    ({"inputs": [[1, "x"]]}, "'b'"),
    ("", "empty"),
    ("a,b\n1\n", "Row 0 of the CSV"),
    ("a,b\n1,x\n", "'b': 'x' is no number"),
    ("a,a\n1,2\n", "'a' twice"),
    ("a,b\n", "no rows"),
]  # fmt: skip


def invoke(url: str, sent: Any, path: str = "/invocations") -> httpx.Response:
    if isinstance(sent, str):
        return httpx.post(url + path, content=sent, headers={"Content-Type": "text/csv; charset=utf-8"})
    return httpx.post(url + path, json=sent)


def test_mlflows_forms_are_answered_and_journalled(bare: Running) -> None:
    assert httpx.get(f"{bare.url}/ping").status_code == 200
    assert httpx.get(f"{bare.url}/version").text.count(".") == 2
    for path in ("/invocations", "/invocations/demand"):
        for sent, predictions in MLFLOW:
            got = invoke(bare.url, sent, path)
            assert got.status_code == 200, got.text
            assert got.json()["predictions"] == predictions
            assert got.json()["towpath"]["source"] == "champion"
    counted = httpx.get(f"{bare.url}/metrics").text
    assert 'towpath_rows_total{consumer="local",model="demand",reason="ok",source="champion",version="1"}' in counted


@pytest.mark.parametrize(("sent", "names"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_what_is_none_of_mlflows_forms_is_refused_by_name(bare: Running, sent: Any, names: str) -> None:
    got = invoke(bare.url, sent)
    assert got.status_code == 400, got.text
    assert names in got.json()["error"]


def test_a_gap_in_a_frame_comes_as_nan_from_mlflows_client_and_is_a_missing_number(tmp_path: Path) -> None:
    model = PlainModel(predict=lambda c: {"p": c["a"] + np.nan_to_num(c["b"], nan=10.0)})
    running = Running(tmp_path, deployed(Served(a_manifest(), model)))
    json_type = {"Content-Type": "application/json"}

    def ask(text: str) -> httpx.Response:
        return httpx.post(f"{running.url}/invocations", content=text.encode(), headers=json_type)

    try:
        # as Python's json writes a frame
        frame = {"columns": ["a", "b"], "data": [[1.0, float("nan")], [3, 4]]}
        assert ask(json.dumps({"dataframe_split": frame})).json()["predictions"] == [11.0, 7.0]
        assert ask('{"instances": [[1, NaN]]}').json()["predictions"] == [11.0]
        # and nowhere else: a text keeps it, quotes within it or not
        for text in (r'{"dataframe_records": [{"a": NaN, "b\\\"NaN": 1}]}', r'{"dataframe_records": [{"NaN": NaN}]}'):
            got = ask(text)
            assert (got.status_code, "NaN'" in got.json()["error"]) == (400, True), got.text
        for text in ('{"instances": [[1, Infinity]]}', '{"instances": [[1, -NaN]]}', '{"instances": "NaN'):
            assert "no JSON" in ask(text).json()["error"]
    finally:
        running.close()


def test_a_bare_invocations_asks_the_only_model_and_else_nobody(tmp_path: Path) -> None:
    words = (Field(name="text", type="BYTES", shape=(-1,)), Field(name="image", type="FP32", shape=(-1, 2)))
    signature = Signature(container="tensors", inputs=words, outputs=(Field(name="p", type="FP32"),))
    model = PlainModel(inputs=words, container="tensors", predict=lambda c: {"p": c["image"].sum(axis=1)})
    served = Served(a_manifest(signature=signature), model)
    running = Running(
        tmp_path, deployed(Served(a_manifest(), PlainModel())), deployed(served).replaced(model="tensors")
    )
    try:
        got = invoke(running.url, {"inputs": [[1, 2]]})
        assert (got.status_code, got.json()["mend"]) == (404, "POST /invocations/<model>")
        assert "'demand', 'tensors'" in got.json()["error"]
        columns = {"text": ["x", "y"], "image": [[1, 2], [3, 4]]}
        records = [{"text": "x", "image": [1, 2]}, {"text": "y", "image": [3, 4]}]
        for sent in ({"inputs": columns}, {"instances": records}):
            assert invoke(running.url, sent, "/invocations/tensors").json()["predictions"] == [3.0, 7.0]
        for wrong, names in (([[1, 2], [3]], "'image'"), ([[1], [3]], "'image'"), ([["a", 2]] * 2, "'image'")):
            got = invoke(running.url, {"inputs": columns | {"image": wrong}}, "/invocations/tensors")
            assert got.status_code == 400
            assert names in got.json()["error"]
    finally:
        running.close()

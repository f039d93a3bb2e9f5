"""The chain: each reason meets each kind of link, over HTTP and gRPC, and a wrong row falls alone."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
from msgspec import structs
from serving_stand import AT, LOCK, OnlineTable, PlainModel, Running, Standing, a_manifest, deployed, responding

from towpath.models.manifest import Field, Signature
from towpath.project.declarations import (
    KINDS,
    BreakerDeclaration,
    FallbackDeclaration,
    OutputDeclaration,
    ServingDeclaration,
)
from towpath.registry.log import Kill, TrafficState
from towpath.serving.deployment import Deployment
from towpath.serving.served import Served
from towpath.traffic import Policy

triton_grpc: Any = tritonclient.grpc  # it has no types

LINKS = {
    "function": FallbackDeclaration(name="heuristic", function="heuristic"),
    "constant": FallbackDeclaration(name="fixed", constant=2.0),
    "version": FallbackDeclaration(name="before", version="previous"),
    "model": FallbackDeclaration(name="simpler", model="simpler"),
    "sql": FallbackDeclaration(name="recent", sql="sales.a"),
    "last": FallbackDeclaration(name="yesterday", last="1d"),
}
ANSWERS = {"function": 1.0, "constant": 2.0, "version": 3.0, "model": 4.0, "sql": 5.0, "last": 6.0}
REASONS = ("down", "open", "slow", "wrong", "nan", "range", "shape", "overloaded", "killed", "features")
INPUTS = (Field(name="a", type="double"), Field(name="code", type="double"))
SIGNATURE = Signature(container="numpy", inputs=INPUTS, outputs=(Field(name="prediction", type="double"),))
CODES = {"ok": 0.0, "slow": 1.0, "wrong": 2.0, "nan": 3.0, "range": 4.0, "shape": 5.0}


class Misbehaving:
    """Does what ``code`` says, in the manner of ``a``."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def __call__(self, columns: Any) -> dict[str, Any]:
        code, rows = columns["code"], len(columns["code"])
        if (code == CODES["slow"]).any():
            self.gate.wait(20)
        if (code == CODES["wrong"]).any():
            raise ValueError("no")
        if (code == CODES["shape"]).any():
            return {"prediction": np.zeros((rows + 1,))}
        answer = np.full(rows, 6.0)
        answer[code == CODES["nan"]] = np.nan
        answer[code == CODES["range"]] = 1e9
        return {"prediction": answer}


def gives(value: float) -> Any:
    return lambda columns: {"prediction": np.full(len(columns["a"]), value)}


def model_for(reason: str, kind: str, misbehaving: Misbehaving) -> Deployment:
    """A deployment whose champion fails in one way and whose chain has one link."""
    serving = ServingDeclaration(
        timeout_ms=400, queue_rows=1, breaker=BreakerDeclaration(failures=1_000, share=1.0, window=1_000)
    )
    changes: dict[str, Any] = {
        "entity": ("item_id",),
        "signature": SIGNATURE,
        "output": OutputDeclaration(low=0.0, high=100.0),
        "serving": serving,
        "fallback": (structs.replace(LINKS[kind], budget_ms=200),),
        "fallback_features": (LOCK,),
    }
    if reason == "features":
        refusing = structs.replace(
            LOCK, columns=tuple(structs.replace(column, missing="refuse") for column in LOCK.columns)
        )
        changes["features"] = (refusing,)
        inputs = (*INPUTS, Field(name="sales.a", type="double"))
        changes["signature"] = Signature(container="numpy", inputs=inputs, outputs=())
    table = OnlineTable({"x": {"sales.a": 5.0, "sales.b": 0.0}}, ("sales.a", "sales.b"))
    nothing = OnlineTable({}, ("sales.a", "sales.b"))

    def served(version: int, predict: Any) -> Served:
        model = PlainModel(
            inputs=changes["signature"].inputs,
            inline=False,
            predict=predict,
            fallbacks={"heuristic": lambda c: np.full(len(c["a"]), 1.0)},
        )
        return Served(
            a_manifest(version, **changes),
            model,
            reader=nothing if reason == "features" else None,
            heuristics=table,
        )

    champion, before = served(2, misbehaving), served(1, gives(3.0))
    state = TrafficState(champion=2, previous=1)
    if reason == "killed":
        state = structs.replace(state, kills=(Kill(because="odd", by="ana", at=AT, version=2),))
    versions = {1: before} if reason == "down" else {1: before, 2: champion}
    if reason == "open":
        champion.breaker.proven(passed=False, why="a golden case")
    found = Deployment(
        model=f"{reason}_{kind}",
        project="shop",
        team="area",
        tier="standard",
        policy=Policy(state, reason),
        versions=versions,
        chain=champion.manifest.fallback,
        stand_in=champion if reason == "down" else None,
    )
    if found.memory is not None:
        found.memory.put('["x"]', 6.0, round(time.time() * 1e6))
    return found


@pytest.fixture(scope="module")
def misbehaving() -> Misbehaving:
    return Misbehaving()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, misbehaving: Misbehaving) -> Iterator[Running]:
    simpler = deployed(
        Served(a_manifest(signature=Signature(container="numpy", inputs=INPUTS[:1], outputs=())), _simple(4.0))
    ).replaced(model="simpler")
    all_of_them = [model_for(reason, kind, misbehaving) for reason in REASONS for kind in KINDS]
    running = Running(tmp_path_factory.mktemp("chain"), simpler, *all_of_them)
    yield running
    misbehaving.gate.set()
    running.close()


def _simple(value: float) -> PlainModel:
    return PlainModel(inputs=INPUTS[:1], predict=gives(value))


def expected(reason: str) -> str:
    return {"open": "down", "nan": "wrong", "range": "wrong", "shape": "wrong"}.get(reason, reason)


class Busy:
    """Keeps the champion of a model busy, all of its threads and its queue, until it is left."""

    def __init__(self, running: Running, model: str, *, wanted: bool) -> None:
        self._served = running.worker._deployments.live[model].versions.get(2)
        self._wanted = wanted
        self._gate = threading.Event()

    def __enter__(self) -> None:
        from towpath.serving.guard import Call

        if not self._wanted or self._served is None:
            return
        lane, begun = self._served.lane, threading.Semaphore(0)

        def hold() -> None:
            begun.release()
            self._gate.wait(20)

        for _ in range(4):
            assert lane.put(Call(lane, hold, 0, time.perf_counter() + 60)) is None
            assert begun.acquire(timeout=10)
        assert lane.put(Call(lane, lambda: None, 1, time.perf_counter() + 60)) is None

    def __exit__(self, *_: object) -> None:
        self._gate.set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_is_answered_by_each_kind_of_link_over_http_and_grpc(
    server: Running, reason: str, kind: str
) -> None:
    model, row = f"{reason}_{kind}", {"item_id": "x", "a": 1.0, "code": CODES.get(reason, 0.0)}
    said = (f"fallback:{LINKS[kind].name}", expected(reason), ANSWERS[kind])
    with Busy(server, model, wanted=reason == "overloaded"):
        started = time.perf_counter()
        got = httpx.post(f"{server.url}/predict/{model}", json=row, timeout=20).json()["predictions"][0]
        assert (got["source"], got["reason"], got["prediction"]) == said
        assert got["version"] == (1 if kind == "version" else None)
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports.grpc}") as client:
            inputs = []
            for name, value in row.items():
                text = isinstance(value, str)
                asked = triton_grpc.InferInput(name, [1], "BYTES" if text else "FP64")
                asked.set_data_from_numpy(np.array([value], dtype=object if text else np.float64))
                inputs.append(asked)
            found = client.infer(model, inputs, client_timeout=20)
        assert found.as_numpy("prediction").tolist() == [ANSWERS[kind]]
        told = found.get_response().parameters["towpath"].string_param
        assert f'"source":"{said[0]}"' in told
        assert f'"reason":"{said[1]}"' in told
        assert time.perf_counter() - started < 10


def test_every_link_is_named_in_the_metrics(server: Running) -> None:
    text = httpx.get(f"{server.url}/metrics").text
    for link in LINKS.values():
        assert f'source="fallback:{link.name}"' in text


def chained(*links: FallbackDeclaration, **changes: Any) -> tuple[Any, Any]:
    """A model that raises for a negative ``a``, with a chain."""

    def predict(columns: Any) -> dict[str, Any]:
        if (columns["a"] < 0).any():
            raise ValueError("below zero")
        return {"prediction": columns["a"] * 10}

    def heuristic(columns: Any) -> Any:
        if (columns["a"] < -5).any():
            raise ValueError("far below zero")
        return columns["a"] * 0 + 1

    model = PlainModel(predict=predict, fallbacks={"heuristic": heuristic})
    manifest = a_manifest(fallback=links, **changes)
    return responding(deployed(Served(manifest, model)))


def test_a_row_that_a_link_cannot_take_falls_to_the_next_one_alone() -> None:
    responder, journal = chained(LINKS["function"], LINKS["constant"])
    rows = [{"a": float(a), "b": 0.0} for a in (1, -1, 2, -9, -2, 3)]
    found = responder.answer("demand", rows).predictions
    assert [row.prediction for row in found] == [10.0, 1.0, 20.0, 2.0, 1.0, 30.0]
    assert [row.source for row in found] == [
        "champion",
        "fallback:heuristic",
        "champion",
        "fallback:fixed",
        "fallback:heuristic",
        "champion",
    ]
    assert journal.records[0].rows.source == [row.source for row in found]


def test_a_key_without_a_row_in_the_view_and_one_never_answered_go_to_the_next_link() -> None:
    table = OnlineTable({"x": {"sales.a": 5.0, "sales.b": 0.0}}, ("sales.a", "sales.b"))

    def predict(columns: Any) -> dict[str, Any]:
        raise ValueError("no")

    chain = (LINKS["last"], LINKS["sql"], LINKS["constant"])
    manifest = a_manifest(fallback=chain, fallback_features=(LOCK,), entity=("item_id",))
    served = Served(manifest, PlainModel(predict=predict), heuristics=table)
    deployment = deployed(served)
    responder, _ = responding(deployment)
    assert deployment.memory is not None
    deployment.memory.put('["y"]', 9.0, round(AT.timestamp() * 1e6) - 3_600_000_000)
    deployment.memory.put('["z"]', 9.0, round(AT.timestamp() * 1e6) - 90_000_000_000)
    rows = [{"item_id": key, "a": 1.0, "b": 1.0} for key in ("x", "y", "z")]
    found = responder.answer("demand", rows).predictions
    assert [row.source for row in found] == ["fallback:recent", "fallback:yesterday", "fallback:fixed"]


def test_good_answers_are_remembered_and_answers_of_a_fallback_are_not() -> None:
    responder, _ = chained(LINKS["last"], LINKS["constant"], entity=("item_id",))
    memory = responder.deployments.live["demand"].memory
    responder.answer("demand", [{"item_id": "x", "a": 1.0, "b": 0.0}, {"item_id": "y", "a": -1.0, "b": 0.0}])
    assert len(memory) == 1
    found = responder.answer("demand", [{"item_id": "x", "a": -1.0, "b": 0.0}]).predictions[0]
    assert (found.prediction, found.source, found.version) == (10.0, "fallback:yesterday", None)


def test_chains_that_ask_each_other_end_with_the_next_link() -> None:
    # given two models that fail, each of whose chains asks the other
    def fails(_: Any) -> dict[str, Any]:
        raise ValueError("no")

    def one(name: str, other: str) -> Deployment:
        link = FallbackDeclaration(name="other", model=other)
        manifest = a_manifest(fallback=(link, structs.replace(LINKS["constant"], constant=float(len(name)))))
        return deployed(Served(structs.replace(manifest, model=name), PlainModel(predict=fails))).replaced(model=name)

    both = Standing(one("first", "second"), one("second", "first"))
    responder, _ = responding(both.live["first"])
    responder.deployments = both
    # then the second answers the first with the rest of its own chain
    found = responder.answer("first", [{"a": 1.0, "b": 1.0}]).predictions[0]
    assert (found.prediction, found.source) == (6.0, "fallback:other")


def test_the_deadline_covers_the_whole_chain() -> None:
    # given a model and a first heuristic that hang
    gate = threading.Event()

    def hangs(_: Any) -> Any:
        gate.wait(20)

    links = (structs.replace(LINKS["function"], budget_ms=60), LINKS["constant"])
    manifest = a_manifest(fallback=links, serving=ServingDeclaration(timeout_ms=200))
    served = Served(manifest, PlainModel(predict=hangs, inline=False, fallbacks={"heuristic": hangs}))
    responder, _ = responding(deployed(served))
    started = time.perf_counter()
    found = responder.answer("demand", [{"a": 1.0, "b": 1.0}]).predictions[0]
    took_ms = (time.perf_counter() - started) * 1e3
    gate.set()
    assert (found.source, found.reason) == ("fallback:fixed", "slow")
    assert 150 < took_ms < 2_000


def test_inline_work_that_waited_past_its_deadline_is_not_begun() -> None:
    calls: list[int] = []

    def predict(columns: Any) -> dict[str, Any]:
        calls.append(1)
        return {"prediction": columns["a"]}

    manifest = a_manifest(fallback=(LINKS["constant"],), serving=ServingDeclaration(timeout_ms=100))
    responder, _ = responding(deployed(Served(manifest, PlainModel(predict=predict))))
    late = responder.answer("demand", [{"a": 1.0, "b": 1.0}], since_s=time.perf_counter() - 0.2).predictions[0]
    assert (late.source, late.reason, calls) == ("fallback:fixed", "slow", [])
    assert responder.answer("demand", [{"a": 1.0, "b": 1.0}]).predictions[0].source == "champion"

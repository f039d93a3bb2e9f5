"""Requests that are answered together: the right rows to the right caller, and nobody pays for a neighbour."""

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from serving_stand import PlainModel, a_manifest, deployed, responding

from towpath.models.columns import Matrix
from towpath.project.declarations import BreakerDeclaration, FallbackDeclaration, OutputDeclaration, ServingDeclaration
from towpath.serving.answered import Ask
from towpath.serving.guard import Call, Lane
from towpath.serving.joint import Joint, fit, rows_worth_joining
from towpath.serving.served import Served

ZERO = FallbackDeclaration(name="zero", constant=0.0)


class Sums:
    """Adds its columns, notes how many rows each call had, and misbehaves by the value of ``a``."""

    def __init__(self, *, took_s: float = 0.0) -> None:
        self.sizes: list[int] = []
        self.took_s = took_s
        self.hold = threading.Event()
        self.hold.set()
        self.wrong: Any = None

    def __call__(self, columns: Any) -> dict[str, NDArray[Any]]:
        a, b = np.asarray(columns["a"]), np.asarray(columns["b"])
        self.sizes.append(len(a))
        self.hold.wait(10)
        time.sleep(self.took_s)
        if (a == 13).any():
            raise ValueError("thirteen")
        found = a + b
        found[a == 14] = np.nan
        if (a == 15).any():
            return {"prediction": found[:-1]}
        return {"prediction": found}


def joined(model: Sums, rows: int = 64, **changes: Any) -> Served:
    served = Served(a_manifest(fallback=(ZERO,), **changes), PlainModel(inline=False, predict=model))
    served.join(rows)
    return served


async def answers(responder: Any, deployment: Any, asked: list[list[dict[str, float]]]) -> list[Any]:
    async def one(rows: list[dict[str, float]]) -> Any:
        steps = responder.steps(deployment, Ask(rows=rows))
        return await responder.waited(steps, next(steps))

    return await asyncio.gather(*(one(rows) for rows in asked))


def test_requests_of_one_turn_are_one_call_and_each_gets_its_own_rows() -> None:
    model = Sums()
    deployment = deployed(joined(model))
    responder, journal = responding(deployment)
    asked = [[{"a": 100.0 * n + row, "b": n} for row in range(1 + n % 3)] for n in range(20)]
    found = asyncio.run(answers(responder, deployment, asked))
    assert [one.predictions for one in found] == [[row["a"] + row["b"] for row in rows] for rows in asked]
    assert model.sizes == [sum(map(len, asked))]
    assert len(journal.records) == 20
    assert sum(one.joined_rows for one in found) == sum(map(len, asked))  # told once, by the one that led


def test_what_comes_while_the_thread_is_busy_is_one_call_too_and_never_above_the_limit() -> None:
    model = Sums()
    deployment = deployed(joined(model, rows=8))
    responder, _ = responding(deployment)

    async def both() -> list[Any]:
        model.hold.clear()
        first = asyncio.ensure_future(answers(responder, deployment, [[{"a": 1, "b": 1}]]))
        await asyncio.sleep(0.05)
        later = [
            asyncio.ensure_future(answers(responder, deployment, [[{"a": n, "b": 0}, {"a": n, "b": 1}]]))
            for n in range(10)
        ]
        await asyncio.sleep(0.05)
        model.hold.set()
        return [await first, *[await one for one in later]]

    found = asyncio.run(both())
    assert [one[0].predictions for one in found[1:]] == [[n, n + 1] for n in range(10)]
    assert model.sizes == [1, 8, 8, 4]


@pytest.mark.parametrize("bad", [13.0, 14.0, 15.0])
def test_a_row_that_the_model_cannot_take_costs_its_neighbours_nothing(bad: float) -> None:
    model = Sums()
    deployment = deployed(joined(model))
    responder, _ = responding(deployment)
    asked = [[{"a": bad if n == 3 else float(100 + n), "b": 1.0}] for n in range(8)]
    found = asyncio.run(answers(responder, deployment, asked))
    assert [(one.sources[0], one.predictions[0]) for one in found] == [
        ("fallback:zero", 0.0) if n == 3 else ("champion", 101.0 + n) for n in range(8)
    ]
    assert found[3].reasons == ["wrong"]


def test_one_call_that_hangs_is_one_fault_of_the_model_and_its_thread_comes_back() -> None:
    # given twenty requests that hang together
    model = Sums()
    breaker = BreakerDeclaration(failures=2)
    served = joined(model, serving=ServingDeclaration(timeout_ms=60, breaker=breaker))
    deployment = deployed(served)
    responder, _ = responding(deployment)
    model.hold.clear()
    found = asyncio.run(answers(responder, deployment, [[{"a": n, "b": 1.0}] for n in range(20)]))
    # then all get the fallback, one thread is left behind, and the circuit stays closed
    assert {one.reasons[0] for one in found} == {"slow"}
    assert (served.lane.abandoned, served.breaker.state) == (1, "closed")
    # and the next ones have a thread
    model.hold.set()
    assert asyncio.run(answers(responder, deployment, [[{"a": 2.0, "b": 1.0}]]))[0].predictions == [3.0]
    until = time.perf_counter() + 5
    while served.lane.abandoned and time.perf_counter() < until:
        time.sleep(0.001)
    assert served.lane.abandoned == 0


def test_what_waits_behind_a_call_that_hangs_gets_a_thread_when_that_is_given_up() -> None:
    lane, gate = Lane("m", queue_rows=100), threading.Event()
    lane.join(4)

    async def both() -> list[str]:
        hung = asyncio.ensure_future(Call(lane, gate.wait, 1, time.perf_counter() + 0.1).waited())
        await asyncio.sleep(0.02)
        behind = Call(lane, lambda: 7, 1, time.perf_counter() + 5)
        return [one.reason for one in await asyncio.gather(hung, behind.waited())]

    assert asyncio.run(both()) == ["slow", "ok"]
    gate.set()


def test_a_caller_in_a_hurry_is_not_joined_with_work_that_would_make_it_late() -> None:
    # given rows that take 5 ms each
    sizes: list[int] = []

    def predict(columns: Any) -> dict[str, NDArray[Any]]:
        sizes.append(len(columns["a"]))
        time.sleep(0.005 * len(columns["a"]))
        return {"p": columns["a"]}

    lane = Lane("m", queue_rows=1_000)
    lane.join(1_000)

    def a_call(left_s: float, rows: int) -> Call:
        columns = {"a": np.arange(float(rows))}
        return Call(lane, lambda: predict(columns), rows, time.perf_counter() + left_s, joint=Joint(columns, predict))

    assert a_call(10, 10).wait().reason == "ok"
    # when one has 60 ms and the others have time
    with ThreadPoolExecutor(4) as pool:
        blocked = pool.submit(a_call(10, 4).wait)
        time.sleep(0.005)
        found = [pool.submit(a_call(left, rows).wait) for left, rows in ((0.3, 4), (10, 100))]
        assert [one.result().reason for one in (blocked, *found)] == ["ok"] * 3
    # then it is called without them
    assert 104 not in sizes


def test_rows_of_other_columns_or_types_do_not_stand_below_each_other() -> None:
    number = Joint({"a": np.zeros(1)}, dict)
    for other in (
        {"b": np.zeros(1)},
        {"a": np.zeros(1, dtype=np.float32)},
        {"a": np.zeros((1, 2))},
        {"a": np.zeros(1), "b": np.zeros(1)},
        Matrix(("a",), np.zeros((1, 1))),
    ):
        assert not fit(number, Joint(other, dict))
    assert fit(Joint(Matrix(("a",), np.zeros((1, 1))), dict), Joint(Matrix(("a",), np.ones((3, 1))), dict))


@pytest.mark.parametrize(
    ("why", "model", "manifest", "rows"),
    [
        ("it pays", {"predict": Sums(took_s=0.002)}, {}, 128),
        ("it is quick by itself", {"predict": lambda c: {"p": c["a"]}}, {}, 1),
        ("a project's own code", {"predict": Sums(took_s=0.002), "row_by_row": False}, {}, 1),
        ("declared", {"predict": Sums(took_s=0.002), "row_by_row": False}, {"batch_rows": 16}, 16),
        ("declared off", {"predict": Sums(took_s=0.002)}, {"batch_rows": 1}, 1),
        ("rows change each other", {"predict": lambda c: (time.sleep(0.001), {"p": c["a"] - c["a"].mean()})[1]}, {}, 1),
        ("it raises", {"predict": lambda c: {"p": c["missing"]}}, {}, 1),
        ("ranking", {"predict": Sums(took_s=0.002)}, {"output": OutputDeclaration(kind="ranking", top=3)}, 1),
    ],
)
def test_joining_is_chosen_by_a_trial(why: str, model: dict[str, Any], manifest: dict[str, Any], rows: int) -> None:
    batch_rows = manifest.pop("batch_rows", None)
    served = Served(
        a_manifest(serving=ServingDeclaration(batch_rows=batch_rows), **manifest),
        PlainModel(**({"inline": False, "row_by_row": True} | model)),
    )
    assert rows_worth_joining(served) == rows, why


def test_3000_different_rows_at_once_get_their_own_answers(tmp_path: Path) -> None:
    # given scikit-learn behind a real server
    from sklearn.ensemble import GradientBoostingRegressor
    from skops.io import dump

    table = np.random.default_rng(7).normal(size=(3_000, 6))
    trained = GradientBoostingRegressor(n_estimators=60, random_state=7).fit(table, table @ np.arange(6.0))
    dump(trained, tmp_path / "sums.skops")
    argv = [sys.executable, "-m", "towpath.cli", "serve", str(tmp_path / "sums.skops"), "--state", str(tmp_path / "s")]
    argv += ["--port", "0", "--grpc-port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as running:
        try:
            said = iter(running.stdout or ())
            port = int(next(line for line in said if line.startswith("http:")).rsplit(":", 1)[1])
            # when 64 connections send different rows
            found = asyncio.run(answered(port, table))
            scraped = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        finally:
            running.terminate()
    # then each has its own answer, and there were fewer calls than rows
    assert np.allclose(found, trained.predict(table), rtol=1e-12)
    sums = {
        line.split("{")[0]: float(line.rsplit(" ", 1)[1])
        for line in scraped.splitlines()
        if line.startswith(("towpath_batch_rows_sum", "towpath_batch_rows_count"))
    }
    assert sums["towpath_batch_rows_sum"] == 3_000
    assert sums["towpath_batch_rows_count"] < 1_000


async def answered(port: int, table: NDArray[Any]) -> list[float]:
    found = [float("nan")] * len(table)
    left = iter(enumerate(table.tolist()))

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for place, row in left:
            body = json.dumps({"rows": [{f"f{n}": value for n, value in enumerate(row)}]})
            writer.write(
                f"POST /predict/sums HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().split("content-length: ")[1].split("\r")[0])
            answer = json.loads(await reader.readexactly(length))["predictions"][0]
            assert answer["source"] == "champion"
            found[place] = answer["prediction"]
        writer.close()

    await asyncio.gather(*(caller() for _ in range(64)))
    return found


@pytest.mark.parametrize("joined_rows", [1, 64])
@pytest.mark.parametrize("first", [1.0, 13.0, 14.0])
def test_requests_that_wait_for_a_thread_leave_nothing_to_the_collector(joined_rows: int, first: float) -> None:
    deployment = deployed(joined(Sums(), rows=joined_rows))
    responder, _ = responding(deployment)
    asyncio.run(answers(responder, deployment, [[{"a": 1.0, "b": 2.0}]]))
    gc.collect()
    gc.disable()
    try:
        # when a model answers, raises for one of the requests, or gives one of them no number
        asyncio.run(answers(responder, deployment, [[{"a": first, "b": 2.0}], *[[{"a": 1.0, "b": 2.0}]] * 20]))
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(one).__name__ for one in gc.garbage if type(one).__module__.startswith("towpath")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    # then all that they were made of has gone with the last who needed it
    assert not left

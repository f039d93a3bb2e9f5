"""A model behind the whole server, in a process of its own: what callers see when it crashes, hangs or is swapped."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from msgspec.structs import replace
from test_server import CLOCK, QUICK, ROW, Store, answer, eventually, store

from towpath.models.manifest import Field
from towpath.project.declarations import BreakerDeclaration, FallbackDeclaration, ServingDeclaration
from towpath.serving.responder import Responder

__all__ = ["store"]

CODE = """import ctypes, os
import numpy as np

def predict(model, rows):
    told = np.asarray(rows)[:, 1]
    if (told == -1).any():
        ctypes.string_at(0)
    if (told == -2).any():
        ctypes.PyDLL(None).sleep(3600)
    return model.predict(rows)

def half(rows):
    return np.asarray(rows)[:, 0] / 2
"""
HALF = FallbackDeclaration(name="half", function="half")
PROCESS = ServingDeclaration(timeout_ms=1_000, isolation="process", breaker=BreakerDeclaration(failures=50))
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a process ends with its parent on Linux alone")


def asked(url: str, told: float) -> dict[str, Any]:
    row = ROW | {"Column_1": told}
    return httpx.post(f"{url}/predict/demand", json=[row], timeout=90).json()["predictions"][0]


def below(pid: int) -> set[int]:
    """Every process below one."""
    found: set[int] = set()
    left = [pid]
    while left:
        with contextlib.suppress(OSError):
            at = left.pop()
            for task in Path(f"/proc/{at}/task").iterdir():
                more = set(map(int, (task / "children").read_text().split())) - found
                found |= more
                left += more
    return found


def gone(pids: set[int]) -> bool:
    """Whether none of them runs; one that nobody has buried yet is gone, too."""
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                return False
    return True


def of_demand(url: str) -> dict[str, Any]:
    return httpx.get(f"{url}/health", timeout=20).json()["models"]["demand"]


def test_a_segfault_and_an_endless_loop_cost_one_call_each_which_the_fallback_answers(store: Store) -> None:
    store.promote(store.publish(5.0, code=CODE, serving=PROCESS, chain=(HALF,)))
    with store.server() as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        assert (answer(url)["prediction"], answer(url)["source"]) == (5.0, "champion")
        eventually(lambda: of_demand(url)["processes"]["1"]["spare"] == "waiting")
        others: list[tuple[str, str]] = []
        stop = threading.Event()

        def call() -> None:
            while not stop.is_set():
                one = answer(url)
                others.append((one["source"], one["reason"]))

        beside = threading.Thread(target=call)
        beside.start()
        for told, reason, end in ((-1.0, "down", "SIGSEGV"), (-2.0, "slow", "no answer after")):
            fallen = asked(url, told)
            assert (fallen["prediction"], fallen["source"], fallen["reason"]) == (0.5, "fallback:half", reason)
            eventually(lambda end=end: end in of_demand(url)["processes"]["1"]["last_end"])
            eventually(lambda: answer(url)["source"] == "champion")
            eventually(lambda: of_demand(url)["processes"]["1"]["spare"] == "waiting")
        stop.set()
        beside.join()
        # while it crashed everybody else was answered by the model; while it hung, for its whole deadline, who waited was not
        assert others[0] == ("champion", "ok")
        assert {reason for _, reason in others} <= {"ok", "slow", "down"}
        said = of_demand(url)
        assert said["processes"]["1"]["restarts"] == 2
        metrics = httpx.get(f"{url}/metrics").text
        assert 'towpath_model_process_ends{model="demand",version="1"} 2.0' in metrics
        assert "towpath_abandoned_calls 0.0" in metrics
        assert len(server.pids) == 1
        assert server.restarts == 0


def test_of_requests_that_were_joined_only_the_one_that_crashes_falls_back(store: Store) -> None:
    patient = replace(PROCESS, timeout_ms=60_000, batch_rows=64)
    store.promote(store.publish(5.0, code=CODE, serving=patient, chain=(HALF,)))
    with store.server() as server, ThreadPoolExecutor(12) as pool:
        url = f"http://127.0.0.1:{server.ports.http}"
        assert answer(url)["source"] == "champion"
        eventually(lambda: of_demand(url)["processes"]["1"]["spare"] == "waiting")
        told = [0.0] * 5 + [-1.0] + [0.0] * 6
        given = list(pool.map(lambda one: asked(url, one), told))
        assert [one["source"] for one in given] == ["champion"] * 5 + ["fallback:half"] + ["champion"] * 6
        assert of_demand(url)["processes"]["1"]["restarts"] <= 2


def test_no_process_of_a_model_outlives_its_worker_however_that_ends(store: Store) -> None:
    store.promote(store.publish(5.0, code=CODE, serving=PROCESS))
    for number in (signal.SIGKILL, signal.SIGTERM):
        with store.server() as server:
            url = f"http://127.0.0.1:{server.ports.http}"
            assert answer(url)["source"] == "champion"
            (worker,) = server.pids
            eventually(lambda worker=worker: len(below(worker)) == 2)
            processes = below(worker)
            with contextlib.suppress(httpx.HTTPError, KeyError):
                httpx.post(f"{url}/predict/demand", json=[ROW | {"Column_1": -2.0}], timeout=0.05)
            if number == signal.SIGKILL:
                os.kill(worker, number)
                eventually(lambda processes=processes: gone(processes), 10)
        assert gone(processes)
        if number == signal.SIGTERM:
            assert not list(Path(tempfile.gettempdir()).glob(f"towpath-apart-{worker}-*"))


def test_a_form_that_its_process_refuses_is_said_and_the_own_form_or_the_fallback_answers(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    import catboost

    # given a model that ONNX can say, one that it cannot, and one of another major version, each in a process of its own
    unknown = store.folder / "unknown.cbm"
    rows = np.random.default_rng(7).normal(size=(50, 2))
    trained = catboost.CatBoostRegressor(iterations=2, verbose=False, thread_count=1, allow_writing_files=False)
    trained.fit(rows, rows[:, 0]).save_model(str(unknown))
    told = trained.predict([[1.0, 0.0]])[0]
    inputs = tuple(Field(name=name, type="double") for name in ROW)
    compiled = replace(PROCESS, compile="onnx")
    store.publish(5.0, serving=compiled)
    store.publish(5.0, serving=compiled, path=unknown, inputs=inputs, journal="none")
    store.publish(5.0, serving=compiled, framework_version="2.3.1")
    deployments = store.deployments()
    responder = Responder(deployments, clock=CLOCK)
    for number, form, source, right, said in (
        (1, "onnx", "champion", 5.0, ""),
        (2, "catboost", "champion", told, "its own form (catboost) serves, not ONNX's"),
        (3, "", "fallback:zero", 0.0, "written by lightgbm 2.3.1"),
    ):
        store.promote(number)
        # when it becomes champion
        caplog.clear()
        deployments.poll()
        # then whoever asks is answered, the form that answers can be seen, and the log of the server says why it is not ONNX's
        (row,) = responder.answer("demand", [ROW]).predictions
        assert (row.source, row.prediction) == (source, pytest.approx(right))
        live = deployments.live["demand"]
        assert (live.versions[number].form if number in live.versions else "") == form
        warned = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        assert any(said in one for one in warned) == bool(said), warned
        assert (said in live.problem) == (not form or not said)
    deployments.close()


@pytest.mark.nightly
def test_processes_and_threads_stay_as_many_over_fifty_swaps(store: Store) -> None:
    first = store.publish(5.0, code=CODE, serving=replace(PROCESS, timeout_ms=200))
    second = store.publish(6.0, code=CODE, serving=replace(PROCESS, timeout_ms=200))
    store.promote(first)
    with store.server(replace(QUICK, poll_ms=20)) as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        answer(url)
        (worker,) = server.pids
        third = store.publish(7.0, serving=PROCESS)
        sources: set[str] = set()
        for turn in range(17):
            # champion, the one before, and a third that pushes the first out
            for number in (second, third, first):
                store.promote(number)
                eventually(lambda number=number: answer(url)["version"] == number, 60)
                sources.add(answer(url)["source"])
            # then what was replaced is let go once nobody can be calling it
            eventually(lambda: len(below(worker)) == 4, 60)
            if turn == 0:
                before = len(list(Path(f"/proc/{worker}/fd").iterdir())), _threads(worker)
        eventually(lambda: len(list(Path(f"/proc/{worker}/fd").iterdir())) <= before[0] + 2)
        eventually(lambda: _threads(worker) <= before[1] + 3)
        assert sources == {"champion"}


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_a_bare_pickle_that_is_trusted_is_loaded_where_no_variable_of_ours_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import joblib
    from sklearn.linear_model import LinearRegression

    from towpath.apart import Apart
    from towpath.clock import SystemClock
    from towpath.serving.server import bare_deployment

    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    path = tmp_path / "prices.joblib"
    joblib.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]), path)
    deployment = bare_deployment(path, name="", trust_pickle=True, clock=SystemClock())
    model = deployment.versions[1].loaded
    assert isinstance(model, Apart)
    environment = Path(f"/proc/{model.says['pid']}/environ").read_bytes()
    assert b"hunter2" not in environment
    assert b"PATH=" in environment
    assert model.predict({"f0": __import__("numpy").array([3.0])})["prediction"].tolist() == pytest.approx([6.0])
    deployment.close()
    until = time.monotonic() + 10
    while model.says["pid"] is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert model.says["state"] == "down"

"""Workers under the hand of fate: kill switches, stalls, drains, deaths, slow loads, golden cases that fail later."""

import json
import os
import signal
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
import tritonclient.grpc
from msgspec.structs import replace
from serving_stand import PlainModel, Running, a_manifest, deployed
from test_server import CLOCK, QUICK, ROW, Store, answer, eventually, flushed, store

from towpath.gate.golden import GoldenCase
from towpath.project.declarations import FallbackDeclaration, ServingDeclaration
from towpath.registry import history
from towpath.serving.served import Served

__all__ = ["store"]

triton_grpc: Any = tritonclient.grpc  # it has no types
ZERO = FallbackDeclaration(name="zero", constant=0.0)


def promised_s(seconds: float) -> float:
    """A promise in seconds of a machine whose cores are ours; with three times as much to do it takes three times as long."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def a_client_of_each_worker(server: Any, url: str) -> list[httpx.Client]:
    found: dict[int, httpx.Client] = {}
    until = time.monotonic() + 30
    while len(found) < len(server.pids) and time.monotonic() < until:
        client = httpx.Client(base_url=url, timeout=20)
        pid = client.get("/health").json()["pid"]
        if found.setdefault(pid, client) is not client:
            client.close()
    assert len(found) == len(server.pids)
    return list(found.values())


def test_kill_switches_of_each_kind_reach_both_workers_in_two_seconds(store: Store) -> None:
    number = store.publish(5.0, segments=("band",))
    store.promote(number)
    row = ROW | {"band": "low"}
    kinds: list[dict[str, Any]] = [{}, {"version": number}, {"consumer": "local"}, {"segment": "band=low"}]
    with store.server(replace(QUICK, workers=2, poll_ms=500)) as server:
        clients = a_client_of_each_worker(server, f"http://127.0.0.1:{server.ports.http}")

        def reasons() -> list[str]:
            return [client.post("/predict/demand", json=row).json()["predictions"][0]["reason"] for client in clients]

        for scope in kinds:
            assert reasons() == ["ok", "ok"]
            history.kill(store.objects, "demand", because="odd", by="ana", clock=CLOCK, **scope)
            eventually(lambda: reasons() == ["killed", "killed"], promised_s(2))
            history.revive(store.objects, "demand", by="ana", clock=CLOCK, **scope)
            eventually(lambda: reasons() == ["ok", "ok"], promised_s(2))
        # and one of another segment is nobody's business
        history.kill(store.objects, "demand", because="odd", by="ana", clock=CLOCK, segment="band=high")
        time.sleep(1.2)
        assert reasons() == ["ok", "ok"]
        for client in clients:
            client.close()


SLOW_TO_LOAD = """import time
time.sleep(6)
def predict(model, rows):
    return model.predict(rows)
"""


def test_a_kill_switch_does_not_wait_for_a_version_that_takes_long_to_load(store: Store) -> None:
    store.promote(store.publish(5.0))
    slow = store.publish(6.0, code=SLOW_TO_LOAD)
    with store.server() as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        assert answer(url)["source"] == "champion"
        store.promote(slow)
        time.sleep(0.5)
        assert answer(url)["version"] == 1
        started = time.monotonic()
        history.kill(store.objects, "demand", because="odd", by="ana", clock=CLOCK)
        eventually(lambda: answer(url)["reason"] == "killed", promised_s(2))
        assert time.monotonic() - started < 5
        # and when it is loaded it answers, once it may
        history.revive(store.objects, "demand", by="ana", clock=CLOCK)
        eventually(lambda: answer(url)["version"] == slow, 60)


HOLDS_THE_LOCK = """import ctypes
import numpy as np
def predict(model, rows):
    rows = np.asarray(rows)
    if rows[0][0] < 0:
        ctypes.PyDLL(None).sleep(3600)
    return rows[:, 0]
"""


def test_c_code_that_keeps_the_interpreters_lock_stops_its_worker_which_is_replaced(store: Store) -> None:
    # given a version whose C code never lets go of the interpreter: no deadline in that process can help
    store.promote(store.publish(5.0, code=HOLDS_THE_LOCK, serving=ServingDeclaration(timeout_ms=100)))
    with store.server(replace(QUICK, workers=2, stall_s=2.0)) as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        assert answer(url)["source"] == "champion"
        before = server.pids
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{url}/predict/demand", json=ROW | {"Column_0": -1.0}, timeout=60)
        # then the supervisor found out and replaced it, and the other worker stayed
        eventually(lambda: len(server.ready_pids) == 2 and server.ready_pids != before, 60)
        assert len(set(before) & set(server.pids)) == 1
        assert answer(url)["source"] == "champion"


def test_a_killed_worker_is_replaced_in_two_seconds_and_the_other_goes_on(store: Store) -> None:
    store.promote(store.publish(5.0))
    with store.server(replace(QUICK, workers=2)) as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        answer(url)
        victim, started = server.pids[0], time.monotonic()
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in server.pids)
        assert answer(url)["source"] == "champion"
        eventually(lambda: len(server.ready_pids) == 2, promised_s(3))
        assert time.monotonic() - started < promised_s(2)


SLOW_TO_IMPORT = """import time
time.sleep(4)
def predict(model, rows):
    return model.predict(rows)
"""


def test_a_standby_takes_the_place_of_a_killed_worker_whose_framework_takes_long_to_import(store: Store) -> None:
    # given one worker, a model that takes 4 s to load, and a process that has loaded it and waits
    store.promote(store.publish(5.0, code=SLOW_TO_IMPORT))
    with store.server(replace(QUICK, standby=True)) as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        assert answer(url)["source"] == "champion"
        eventually(lambda: server.standby_pid is not None, 60)
        (victim,), standing = server.pids, server.standby_pid
        assert json.loads(httpx.get(f"{url}/health").content)["pid"] == victim  # who stands by takes no call
        # and what is promoted meanwhile reaches it, too
        number = store.publish(6.0)
        store.promote(number)
        eventually(lambda: answer(url)["version"] == number, 30)
        started = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: server.ready_pids == [standing], promised_s(2))
        # then it answers long before one that begins could, and what was counted stays counted
        assert (answer(url)["version"], httpx.get(f"{url}/health").json()["pid"]) == (number, standing)
        assert time.monotonic() - started < 4
        counted = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith("towpath_ready ")]
        assert counted == ["towpath_ready 1.0"]
        # and another stands by
        eventually(lambda: server.standby_pid not in {None, standing}, 60)
        last = server.standby_pid
    assert not Path(f"/proc/{last}").exists()


SLEEPS = """import time
import numpy as np
def predict(model, rows):
    time.sleep(5)
    return np.asarray(rows)[:, 0]
"""
SERVE = """import sys
from pathlib import Path
from towpath.serving.server import serve_store
from towpath.settings import ServingSettings
folder = Path(sys.argv[1])
settings = ServingSettings(port=0, grpc_port=0, workers=2, drain_ms=4000, poll_ms=50, flush_s=0.2)
def say(ports):
    print(ports.http, ports.grpc, flush=True)
sys.exit(serve_store(settings, objects_url=str(folder / "objects"), online_url=f"lmdb://{folder}/online",
    keys=folder / "keys", folder=folder, on_ready=say))
"""


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_drain_finishes_what_is_in_flight_over_both_doors_and_leaves_nothing_behind(store: Store) -> None:
    # given two workers and a model that takes its time
    store.promote(store.publish(5.0, code=SLEEPS, serving=ServingDeclaration(timeout_ms=20_000)))
    running = subprocess.Popen([sys.executable, "-c", SERVE, str(store.folder)], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    http, grpc = map(int, running.stdout.readline().split())
    url = f"http://127.0.0.1:{http}"
    children = children_of(running.pid)

    def over_grpc() -> list[float]:
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc}") as client:
            asked = triton_grpc.InferInput("x", [1, 2], "FP64")
            asked.set_data_from_numpy(np.array([[3.0, 0.0]]))
            return client.infer("demand", [asked], client_timeout=30).as_numpy("prediction").tolist()

    with ThreadPoolExecutor(16) as pool:
        slow = [pool.submit(httpx.post, f"{url}/predict/demand", json=[ROW], timeout=30) for _ in range(4)]
        typed = [pool.submit(over_grpc) for _ in range(2)]
        time.sleep(0.8)
        # when it is told to end, with answers on their way
        running.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        # then it is not ready any more, and still takes requests for a while
        assert httpx.get(f"{url}/v2/health/ready", timeout=10).status_code == 503
        late = pool.submit(httpx.post, f"{url}/predict/demand", json=[ROW], timeout=30)
        got = [future.result() for future in (*slow, late)]
        assert [future.result() for future in typed] == [[3.0], [3.0]]
    assert [one.status_code for one in got] == [200] * 5
    rows = [one.json()["predictions"][0] for one in got]
    assert {row["source"] for row in rows} == {"champion"}
    # and it ends well: no child, no port, every answer in the store
    assert running.wait(30) == 0
    running.stdout.close()
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    for port in (http, grpc):
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}", timeout=5)
    assert {row["prediction_id"] for row in rows} <= flushed(store)


def test_nothing_is_left_of_a_server_whose_supervisor_was_killed_and_the_next_one_flushes_its_journal(
    store: Store,
) -> None:
    store.promote(store.publish(5.0))
    running = subprocess.Popen([sys.executable, "-c", SERVE, str(store.folder)], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    http, _ = map(int, running.stdout.readline().split())
    children = children_of(running.pid)
    told = answer(f"http://127.0.0.1:{http}")["prediction_id"]
    running.kill()
    running.wait()
    running.stdout.close()
    eventually(lambda: not [child for child in children if Path(f"/proc/{child}").exists()], 30)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{http}", timeout=5)
    with store.server():
        eventually(lambda: told in flushed(store), 30)


def test_golden_cases_that_fail_later_turn_a_version_to_its_fallback_until_they_pass(store: Store) -> None:
    store.promote(store.publish(5.0, golden=5.0))
    deployments = store.deployments()
    deployments.poll()
    deployment = deployments.live["demand"]
    served = deployment.champion
    assert served is not None
    deployments.prove_again()
    assert deployment.ready
    # when it answers otherwise than it was promised
    good = served.golden
    served.golden = (GoldenCase(request=ROW, answer=6.0),)
    deployments.prove_again()
    assert served.breaker.state == "unproven"
    assert "golden cases" in served.breaker.why
    assert not deployment.ready
    # and again as promised
    served.golden = good
    deployments.prove_again()
    assert deployment.ready
    deployments.close()


def test_health_names_the_state_of_each_circuit_and_metrics_count_it(tmp_path: Path) -> None:
    served = Served(a_manifest(fallback=(ZERO,)), PlainModel())
    running = Running(tmp_path, deployed(served))
    try:
        row = {"a": 1.0, "b": 1.0}
        assert httpx.get(f"{running.url}/health").json()["models"]["demand"]["circuits"] == {"1": "closed"}
        served.breaker.proven(passed=False, why="a case")
        got = httpx.post(f"{running.url}/predict/demand", json=row).json()["predictions"][0]
        assert (got["source"], got["reason"]) == ("fallback:zero", "down")
        assert httpx.get(f"{running.url}/health").json()["models"]["demand"]["circuits"] == {"1": "unproven (a case)"}
        assert httpx.get(f"{running.url}/v2/models/demand/ready").status_code == 503
        assert httpx.get(f"{running.url}/v2/health/ready").status_code == 200
        assert 'towpath_circuit_open{model="demand",version="1"} 1.0' in httpx.get(f"{running.url}/metrics").text
    finally:
        running.close()


def test_a_hanging_model_blocks_neither_health_nor_its_neighbour_nor_its_fallback(tmp_path: Path) -> None:
    gate = threading.Event()

    def hangs(_: Any) -> Any:
        gate.wait(30)

    serving = ServingDeclaration(timeout_ms=150)
    hanging = Served(a_manifest(fallback=(ZERO,), serving=serving), PlainModel(predict=hangs, inline=False))
    running = Running(
        tmp_path,
        deployed(hanging).replaced(model="hanging"),
        deployed(Served(a_manifest(), PlainModel(inline=False))),
    )
    row = {"a": 1.0, "b": 2.0}
    try:
        with ThreadPoolExecutor(16) as pool:
            hung = [pool.submit(httpx.post, f"{running.url}/predict/hanging", json=row, timeout=20) for _ in range(6)]
            time.sleep(0.05)
            started = time.monotonic()
            assert httpx.get(f"{running.url}/health").status_code == 200
            neighbour = httpx.post(f"{running.url}/predict/demand", json=row).json()["predictions"][0]
            assert (neighbour["prediction"], neighbour["source"]) == (3.0, "champion")
            assert time.monotonic() - started < promised_s(1)
            rows = [future.result().json()["predictions"][0] for future in hung]
        assert {row["source"] for row in rows} == {"fallback:zero"}
        assert {row["reason"] for row in rows} <= {"slow", "down", "overloaded"}
        assert "towpath_abandoned_calls" in httpx.get(f"{running.url}/metrics").text
        assert hanging.lane.abandoned >= 1
    finally:
        gate.set()
        running.close()


def test_a_flood_over_http_is_answered_by_the_fallback_in_time_or_told_to_come_back(tmp_path: Path) -> None:
    def slow(columns: Any) -> Any:
        time.sleep(0.03)
        return {"prediction": columns["a"]}

    serving = ServingDeclaration(timeout_ms=250)
    kept = Served(a_manifest(fallback=(ZERO,), serving=serving), PlainModel(predict=slow, inline=False))
    bare = Served(a_manifest(serving=serving), PlainModel(predict=slow, inline=False))
    running = Running(tmp_path, deployed(kept), deployed(bare).replaced(model="bare"))
    row = {"a": 1.0, "b": 2.0}
    try:
        for model in ("demand", "bare"):
            with ThreadPoolExecutor(48) as pool, httpx.Client(timeout=30) as client:
                asked = [pool.submit(client.post, f"{running.url}/predict/{model}", json=row) for _ in range(300)]
                got = [future.result() for future in asked]
            if model == "demand":
                assert {one.status_code for one in got} == {200}
                reasons = {one.json()["predictions"][0]["reason"] for one in got}
                assert {"ok", "overloaded"} <= reasons <= {"ok", "overloaded", "slow"}
            else:
                assert {one.status_code for one in got} == {200, 503}
                refused = [one for one in got if one.status_code == 503]
                assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
                assert "overloaded" in {json.loads(one.content)["code"] for one in refused}
    finally:
        running.close()


def test_a_signal_may_come_at_any_moment_of_the_wait() -> None:
    # given a server's wait, told to stop over and over, also while it looks whether it was told
    code = (
        "import os, signal, threading, time\n"
        "from towpath.serving.supervisor import told_to_stop\n"
        "with told_to_stop() as asked:\n"
        "    ended = threading.Event()\n"
        "    def tell():\n"
        "        while not ended.is_set():\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "    teller = threading.Thread(target=tell, daemon=True)\n"
        "    teller.start()\n"
        "    until = time.monotonic() + 1\n"
        "    while time.monotonic() < until:\n"
        "        asked.wait(0.001)\n"
        "    ended.set()\n"
        "    teller.join()\n"
        "    print(asked.is_set())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr

"""What Prometheus scrapes: exact over threads, slots and deaths, bounded whatever callers do, and drawn by the dashboard."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import test_on_demand
from fuzz_stand import a_server
from prometheus_client.parser import text_string_to_metric_families
from serving_stand import AT, PlainModel, Running, a_manifest, deployed
from test_server import QUICK, ROW, Store

from towpath.errors import UnavailableError
from towpath.models.manifest import FeatureColumn, FeatureLock, Field, Signature
from towpath.project.declarations import FallbackDeclaration, ServingDeclaration
from towpath.registry.log import Kill, TrafficState
from towpath.serving import metrics
from towpath.serving.served import Served
from towpath.types import REASONS

ROOT = Path(__file__).parents[2]
ZERO = FallbackDeclaration(name="zero", constant=0.0)


def series(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(text: str, name: str, **labels: str) -> float:
    asked = set(labels.items())
    return sum(value for (found, has), value in series(text).items() if found == name and asked <= has)


COUNTING = """
import sys, threading
from pathlib import Path
from towpath.serving.metrics import Meter
meter = Meter(Path(sys.argv[1]), int(sys.argv[2]))
def count():
    for n in range(2_000):
        meter.rows("demand", 1, "champion", "ok", f"c{n % 7}", 1)
        meter.answered("demand", "http", 0.0007, f"c{n % 7}")
threads = [threading.Thread(target=count) for _ in range(3)]
[one.start() for one in threads]
[one.join() for one in threads]
meter.state(dropped=5, abandoned=int(sys.argv[3]))
if sys.argv[3] == "0":
    print(meter.text().decode())
sys.stdout.flush()
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_counts_are_exact_over_threads_slots_and_deaths(tmp_path: Path) -> None:
    # given two slots, the second of which is killed and replaced
    said = ""
    for slot, abandoned in ((0, 2), (1, 9), (1, 0)):
        done = subprocess.run(
            [sys.executable, "-c", COUNTING, str(tmp_path), str(slot), str(abandoned)], capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        said = done.stdout or said
    # then the worker that lives now tells of all three, counters for ever and gauges of the living
    assert total(said, "towpath_rows_total") == 18_000
    assert total(said, "towpath_requests_total", consumer="c3") == pytest.approx(18_000 / 7, abs=10)
    assert total(said, "towpath_answer_seconds_bucket", le="0.001") == 18_000
    assert total(said, "towpath_answer_seconds_bucket", le="0.0005") == 0
    assert abs(total(said, "towpath_answer_seconds_sum") - 18_000 * 0.0007) < 1e-6
    assert total(said, "towpath_abandoned_calls") == 2


def test_no_caller_can_make_labels_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_LABEL_SETS", limit := 60)
    meter = metrics.Meter()
    for n in range(3 * limit):
        meter.rows("demand", 1, "champion", "ok", f"c{n}", 1)
        meter.answered("demand", "http", 0.001, f"c{n}")
        meter.refused("quota", f"c{n}")
    text = meter.text().decode()
    assert len(series(text)) < 9 * limit
    for name in ("towpath_rows_total", "towpath_requests_total", "towpath_refused_total"):
        assert total(text, name) == 3 * limit
        assert total(text, name, consumer="other") >= limit
    # and over the wire nothing that a caller makes up becomes a label
    running = a_server(tmp_path)
    try:
        httpx.post(f"{running.url}/predict/demand", json={"a": 1, "b": 2})
        httpx.post(f"{running.url}/predict/nobody", json={})
        before = {name for name, _ in _stable(running)}
        for n in range(30):
            headers = {"Authorization": f"Bearer made-up-{n}", "X-Request-Id": f"made-up-{n}"}
            httpx.post(f"{running.url}/predict/made-up-{n}", json={}, headers=headers)
            httpx.post(f"{running.url}/v2/models/demand/versions/{n + 50}/infer", json={}, headers=headers)
            httpx.post(f"{running.url}/features/made-up-{n}", json={}, headers=headers)
        assert "made-up" not in httpx.get(f"{running.url}/metrics").text
        assert {name for name, _ in _stable(running)} == before
    finally:
        running.close()


def _stable(running: Running) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return series(httpx.get(f"{running.url}/metrics").text)


def test_the_counts_of_the_only_worker_outlive_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.promote(store.publish(5.0))
    with store.server(QUICK) as running:
        url = f"http://127.0.0.1:{running.ports.http}"
        for _ in range(5):
            httpx.post(f"{url}/predict/demand", json=ROW)
        pid = httpx.get(f"{url}/health").json()["pid"]
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                if httpx.get(f"{url}/health").json()["pid"] != pid:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        httpx.post(f"{url}/predict/demand", json=ROW)
        text = httpx.get(f"{url}/metrics").text
    assert total(text, "towpath_requests_total", model="demand") == 6
    assert total(text, "towpath_champion", model="demand", team="area") == 1
    assert total(text, "towpath_ready") == 1


def for_all_reasons(folder: Path) -> Running:
    """A worker whose models answer for every reason that there is."""
    numbers = (Field(name="a", type="double"), Field(name="b", type="double"))
    lock = FeatureLock(project="shop", view="sales", fingerprint="f", entity=("item_id",), columns=(FeatureColumn(name="a", type="double", missing="refuse"),))  # fmt: skip
    looked_up = (Field(name="sales.a", type="double"),)
    wrong = Served(a_manifest(fallback=(ZERO,)), PlainModel(predict=lambda c: {"p": c["a"] * np.nan}))
    slow = Served(
        a_manifest(fallback=(ZERO,), serving=ServingDeclaration(timeout_ms=60, queue_rows=1)),
        PlainModel(inline=False, predict=lambda c: (time.sleep(0.15), {"p": c["a"]})[1]),
    )
    features = Served(
        a_manifest(
            fallback=(ZERO,), entity=("item_id",), features=(lock,),
            signature=Signature(container="numpy", inputs=looked_up, outputs=()),
        ),
        PlainModel(inputs=looked_up), reader=test_on_demand.OnlineTable({}, ("sales.a",)),
    )  # fmt: skip
    joined = Served(a_manifest(serving=ServingDeclaration(batch_rows=16)), PlainModel(inline=False, row_by_row=True))
    joined.join(16)
    killed = TrafficState(champion=1, kills=(Kill(because="x", by="ana", at=AT),))
    fine = Served(a_manifest(fallback=(ZERO,)), PlainModel(inputs=numbers))
    return Running(
        folder,
        deployed(fine),
        deployed(chain=(ZERO,)).replaced(model="down"),
        deployed(slow).replaced(model="slow"),
        deployed(wrong).replaced(model="wrong"),
        deployed(features).replaced(model="features"),
        deployed(fine, state=killed).replaced(model="killed"),
        deployed(fine, state=TrafficState(champion=1, holdout_share=1.0)).replaced(model="holdout"),
        deployed(joined).replaced(model="joined"),
        deployed(test_on_demand.served(lambda amount, a, now: 1 / 0)).replaced(model="computed"),
        online_url=f"lmdb://{folder / 'online'}",
    )


def test_the_dashboard_draws_what_a_server_under_all_reasons_shows(tmp_path: Path) -> None:
    path = ROOT / "deploy" / "grafana" / "make.py"
    spec: Any = importlib.util.spec_from_file_location("make_dashboard", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    dashboard = json.loads((path.parent / "towpath.json").read_text())
    assert dashboard == json.loads(json.dumps(made.dashboard())), "python deploy/grafana/make.py"
    # given a server whose rows were answered for every reason, which took outcomes and pushed rows, and lost its online store
    running = for_all_reasons(tmp_path / "a")
    try:
        post = lambda path, body: httpx.post(running.url + path, json=body, timeout=20)
        for model in ("demand", "down", "wrong", "killed", "holdout"):
            post(f"/predict/{model}", {"a": 1.0, "b": 2.0})
        post("/predict/features", {"item_id": "nobody"})
        post("/predict/computed", {"item_id": "x", "amount": 1.0})
        post("/predict/nobody", {})
        post("/outcomes/demand", {"prediction_id": "p", "value": 1.0})
        with ThreadPoolExecutor(24) as pool:
            list(pool.map(lambda _: post("/predict/slow", {"a": 1.0, "b": 2.0}), range(24)))
            list(pool.map(lambda _: post("/predict/joined", {"a": 1.0, "b": 2.0}), range(24)))
        locks = test_on_demand.LOCK
        reader: Any = running.worker._reader(a_manifest(features=(locks,), entity=("item_id",)))
        reader.nothing(1, UnavailableError("The store is away."))
        running.worker._meter.process("demand", 1, up=True, restarts=0)  # this model has no process of its own
        text = httpx.get(f"{running.url}/metrics").text
    finally:
        running.close()
    pushing = a_server(tmp_path / "b")
    try:
        row = {"item_id": "x", "event": "2026-01-01T00:00Z", "price": 1.0, "units": 1}
        assert httpx.post(f"{pushing.url}/features/sales", json=row).status_code == 200
        text += httpx.get(f"{pushing.url}/metrics").text
    finally:
        pushing.close()
    shown: dict[str, set[str]] = {}
    reasons: set[str] = set()
    for name, labels in series("\n".join(line for line in text.splitlines() if not line.startswith("#")) + "\n"):
        shown.setdefault(name, set()).update(dict(labels))
        reasons |= {dict(labels).get("reason", "ok")}
    assert reasons == set(REASONS)
    # then each metric in the dashboard is there with the labels that the dashboard reads, and nothing is left undrawn
    drawn: set[str] = set()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            names = set(re.findall(r"towpath_\w+", expression))
            assert names, expression
            drawn |= names
            labels = set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', expression))
            labels |= {one.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for one in group.split(",")}
            labels |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            for name in names:
                assert name in shown, f"{name} of '{panel['title']}' is not scraped"
            assert labels <= set().union(*(shown[name] for name in names)), (panel["title"], labels)
    base = re.compile(r"_(bucket|sum|count|created|total)$")
    assert {base.sub("", name) for name in shown} - {base.sub("", name) for name in drawn} == set()

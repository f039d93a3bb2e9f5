"""Whole servers: from an object store alone, with spawned workers, promotions, kills and deaths."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import lightgbm
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tritonclient.grpc
from msgspec.structs import replace
from serving_stand import AT, PlainModel, a_manifest, deployed
from tritonclient.utils import InferenceServerException

from towpath import features
from towpath.clock import FixedClock, SystemClock
from towpath.errors import RefusedError
from towpath.gate.golden import GoldenCase, write_golden
from towpath.journal import Journal
from towpath.models import load_file, pack_code
from towpath.models.manifest import Artefact, Field, StoredFile
from towpath.project.declarations import FallbackDeclaration, FeatureDeclaration, FeatureHeader, ServingDeclaration
from towpath.project.folder import ViewFile
from towpath.registry import claims, history, versions
from towpath.registry.log import Event, TrafficState
from towpath.registry.signing import Signer, Trusted, make_keys
from towpath.serving.answered import Ask
from towpath.serving.deployments import Fixed, StoreDeployments
from towpath.serving.responder import Responder
from towpath.serving.served import Served
from towpath.serving.server import bare_deployment, refuse_open_door, serve_file, store_server
from towpath.settings import ServingSettings, WarehouseSettings
from towpath.sql import Query
from towpath.stores.objects import Objects
from towpath.stores.online import open_online
from towpath.traffic import ConsumerBook, make_pepper
from towpath.warehouse import open_warehouse

triton_grpc: Any = tritonclient.grpc  # it has no types
CLOCK = FixedClock(AT)
ZERO = FallbackDeclaration(name="zero", constant=0.0)
ROW = {"Column_0": 1.0, "Column_1": 0.0}
QUICK = ServingSettings(port=0, grpc_port=0, poll_ms=50, drain_ms=20, flush_s=0.2)


def booster(folder: Path, answer: float) -> Path:
    """A LightGBM file that always gives one number."""
    rows = np.random.default_rng(7).normal(size=(50, 2))
    parameters = {"objective": "l2", "verbose": -1, "num_leaves": 2, "min_data_in_leaf": 1}
    trained = lightgbm.train(parameters, lightgbm.Dataset(rows, np.full(50, answer)), num_boost_round=1)
    path = folder / f"{answer}.txt"
    trained.save_model(path)
    return path


class Store:
    """An object store with published versions, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = folder / "keys"
        make_keys(self.keys)
        self.url = str(folder / "objects")
        self.objects = Objects(self.url)
        claims.claim_model(self.objects, "demand", project="shop", team="area", by="ana", clock=CLOCK)

    def publish(
        self,
        answer: float,
        *,
        golden: float | None = None,
        code: str = "",
        inputs: tuple[Field, ...] = (),
        chain: tuple[FallbackDeclaration, ...] = (ZERO,),
        path: Path | None = None,
        framework_version: str = "",
        **changes: Any,
    ) -> int:
        number = versions.next_version(self.objects, "demand", run_id=f"run-{answer}")
        path = path or booster(self.folder, answer)
        model = load_file(path, name="demand")
        artefact = Artefact(
            file=StoredFile(path=path.name, digest="sha256:" + "0" * 64, size_bytes=0),
            format=model.format,
            framework=model.framework,
            framework_version=framework_version,
        )
        signature = replace(model.signature, inputs=inputs) if inputs else model.signature
        manifest = a_manifest(number, artefact=artefact, signature=signature, fallback=chain, **changes)
        files: dict[str, bytes | Path] = {path.name: path}
        if golden is not None:
            files["golden.jsonl"] = write_golden([GoldenCase(request=ROW, answer=golden)])
        if code:
            home = self.folder / "project" / "models" / "demand"
            home.mkdir(parents=True)
            (home / "model.py").write_text(code)
            files["code.zip"] = pack_code(self.folder / "project", home)
            shutil.rmtree(self.folder / "project")
        versions.publish(self.objects, manifest, files, Signer(self.keys))
        return number

    def promote(self, version: int) -> None:
        entry = history.current(self.objects, "demand")

        def change(state: TrafficState) -> TrafficState:
            return replace(state, champion=version, previous=state.champion)

        event = Event(kind="promoted", at=AT, by="ana", version=version)
        history.append(self.objects, "demand", event, change, on=entry.revision if entry else 0)

    def server(self, settings: ServingSettings = QUICK, **more: Any) -> Any:
        return store_server(
            settings,
            objects_url=self.url,
            keys=self.keys,
            folder=self.folder,
            **{"online_url": f"lmdb://{self.folder}/online"} | more,
        )

    def deployments(self, **more: Any) -> StoreDeployments:
        def no_reader(locks: Any) -> Any:
            raise AssertionError

        return StoreDeployments(
            self.objects,
            cache=self.folder / "cache",
            trusted=Trusted(self.keys),
            open_reader=no_reader,
            clock=SystemClock(),
            **more,
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def eventually(check: Any, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.02)


def answer(url: str) -> dict[str, Any]:
    return httpx.post(f"{url}/predict/demand", json=[ROW], timeout=20).json()["predictions"][0]


def test_a_promotion_is_followed_and_the_version_before_stays_warm(store: Store) -> None:
    store.promote(store.publish(5.0))
    deployments = store.deployments()
    assert deployments.poll() == ["demand"]
    assert deployments.poll() == []
    first = deployments.live["demand"]
    store.promote(store.publish(7.0))
    deployments.poll()
    second = deployments.live["demand"]
    assert (first.policy.state.champion, second.policy.state.champion) == (1, 2)
    assert second.versions[1] is first.versions[1]
    deployments.close()


def test_a_version_that_fails_its_golden_case_is_down_and_its_fallback_answers(store: Store) -> None:
    store.promote(store.publish(5.0, golden=6.0))
    deployments = store.deployments()
    deployments.poll()
    deployment = deployments.live["demand"]
    assert not deployment.ready
    assert deployment.chain == (ZERO,)
    store.promote(store.publish(5.0, golden=5.0))
    deployments.poll()
    assert deployments.live["demand"].ready


def test_a_changed_file_and_a_foreign_signature_are_not_served(store: Store, tmp_path: Path) -> None:
    store.promote(store.publish(5.0))
    target = next(Path(store.url).rglob("5.0.txt"))
    target.write_bytes(target.read_bytes() + b" ")
    deployments = store.deployments()
    deployments.poll()
    assert not deployments.live["demand"].ready
    other = tmp_path / "other"
    make_keys(other)
    store.keys = other
    deployments = store.deployments()
    deployments.poll()
    assert "not trusted" in deployments.live["demand"].problem


@pytest.mark.slow
def test_promotions_and_a_killed_worker_cost_no_request_and_no_record(store: Store) -> None:
    # given two workers under load, served from the object store alone
    store.promote(store.publish(5.0, golden=5.0))
    with store.server(replace(QUICK, workers=2)) as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        assert answer(url)["prediction"] == 5.0
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports.grpc}") as client:
            asked = triton_grpc.InferInput("x", [1, 2], "FP64")
            asked.set_data_from_numpy(np.ones((1, 2)))
            assert client.infer("demand", [asked]).as_numpy("prediction").tolist() == [5.0]
        stop, failed, acknowledged = threading.Event(), [], []

        def call() -> None:
            with httpx.Client(timeout=20) as client:
                while not stop.is_set():
                    try:
                        got = client.post(f"{url}/predict/demand", json=[ROW])
                    except httpx.TransportError as error:
                        failed.append(repr(error))
                        continue
                    assert got.status_code == 200
                    row = got.json()["predictions"][0]
                    assert row["source"] == "champion"
                    acknowledged.append(row["prediction_id"])

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        # when versions are promoted
        for number in range(3):
            version = store.publish(10.0 + number)
            store.promote(version)
            eventually(lambda version=version: answer(url)["version"] == version)
        # then no request failed
        assert failed == []
        # and when a worker is killed, only its own connections notice, and another takes its place in two seconds
        victim = server.pids[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(server.pids) == 2 and victim not in server.pids)
        eventually(lambda: all(child.ports for child in server._children))
        stop.set()
        for caller in callers:
            caller.join()
        assert len(failed) <= len(callers)
        pids = server.pids
        text = httpx.get(f"{url}/metrics").text
    # then no child survives, no port is open, and every acknowledged answer was flushed
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    counted = sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("towpath_rows_total"))
    assert counted >= len(acknowledged)
    assert set(acknowledged) <= flushed(store)


@pytest.mark.nightly
def test_200_promotions_and_3_killed_workers_under_16_connections_lose_nothing(store: Store) -> None:
    numbers = [store.publish(float(n)) for n in range(1, 4)]
    store.promote(numbers[0])
    with store.server(replace(QUICK, workers=2, flush_s=1.0)) as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        stop, failed, acknowledged = threading.Event(), [], []

        def call() -> None:
            with httpx.Client(timeout=20) as client:
                while not stop.is_set():
                    try:
                        got = client.post(f"{url}/predict/demand", json=[ROW])
                    except httpx.TransportError as error:
                        failed.append(repr(error))
                        continue
                    row = got.json()["predictions"][0]
                    if got.status_code != 200 or row["prediction"] != float(row["version"]):
                        failed.append(got.text)
                    acknowledged.append(row["prediction_id"])

        callers = [threading.Thread(target=call) for _ in range(16)]
        for caller in callers:
            caller.start()
        for turn in range(200):
            store.promote(numbers[turn % 3])
            time.sleep(0.03)
        assert failed == []
        for _ in range(3):
            victim = server.pids[0]
            os.kill(victim, signal.SIGKILL)
            eventually(lambda victim=victim: len(server.pids) == 2 and victim not in server.pids)
            eventually(lambda: all(child.ports for child in server._children))
        stop.set()
        for caller in callers:
            caller.join()
    assert len(failed) <= 3 * len(callers)
    assert set(acknowledged) <= flushed(store)


def flushed(store: Store) -> set[str]:
    import pyarrow.parquet as pq

    found: set[str] = set()
    for path in (Path(store.url) / "journal" / "predictions").rglob("*.parquet"):
        found |= set(pq.read_table(path)["prediction_id"].to_pylist())
    return found


def test_a_kill_switch_reaches_a_running_server(store: Store) -> None:
    store.promote(store.publish(5.0))
    with store.server() as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        assert answer(url)["source"] == "champion"
        history.kill(store.objects, "demand", because="wrong prices", by="ana", clock=CLOCK)
        eventually(lambda: answer(url)["reason"] == "killed", 2)
        assert answer(url)["source"] == "fallback:zero"


def built_sales(folder: Path, url: str) -> features.View:
    """A view whose rows are online, and whose warehouse went away."""
    now = SystemClock().now()
    made = folder / "project"
    (made / "warehouse").mkdir(parents=True)
    table = pa.table({"item_id": ["x", "z"], "event": [now, now], "price": [1.0, 2.0], "units": [3, 4]})
    pq.write_table(table, made / "warehouse" / "sales.parquet")
    warehouse = open_warehouse(WarehouseSettings(threads=1, memory_mib=256), made, {})
    header = FeatureHeader(
        entity="item_id", event_time="event", features={"units": FeatureDeclaration(missing="refuse")}
    )
    query = Query.parse("select * from sales", "sales.sql")
    view = features.describe(ViewFile(name="sales", query=query, header=header), warehouse, project="shop")
    online = open_online(url, folder)
    features.build(view, warehouse, online, as_of=now + timedelta(days=1), clock=CLOCK)
    online.close()
    warehouse.close()
    shutil.rmtree(made)
    return view


def test_keys_are_looked_up_in_the_online_store_when_warehouse_and_project_are_gone(
    store: Store, tmp_path: Path
) -> None:
    # given features that were built from a warehouse which then went away
    view = built_sales(tmp_path, f"lmdb://{store.folder}/online")
    inputs = tuple(Field(name=name, type="double") for name in ("sales.price", "sales.units"))
    locks = features.lock({"sales": view}, ["sales.*"])
    store.promote(store.publish(5.0, inputs=inputs, features=locks, entity=("item_id",)))
    # when a server that never saw them is asked by key
    with store.server() as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        rows = [{"item_id": "x"}, {"item_id": "nobody"}, {"sales.price": 1.0, "sales.units": 2}]
        got = httpx.post(f"{url}/predict/demand", json=rows).json()["predictions"]
        assert [row["source"] for row in got] == ["champion", "fallback:zero", "champion"]
        assert [row["reason"] for row in got] == ["ok", "features", "ok"]
        assert got[1]["missing"] == ["sales.price", "sales.units"]
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports.grpc}") as client:
            (key,) = client.get_model_metadata("demand").inputs
            assert (key.name, key.datatype) == ("item_id", "BYTES")
            asked = triton_grpc.InferInput("item_id", [2], "BYTES")
            asked.set_data_from_numpy(np.array(["z", "nobody"], dtype=object))
            told = client.infer("demand", [asked]).get_response().parameters["towpath"].string_param
            assert json.loads(told)["reason"] == ["ok", "features"]


@pytest.mark.parametrize("outage", ["killed", "paused"])
def test_while_redis_is_away_features_are_missing_within_the_deadline_and_it_heals_by_itself(
    store: Store, tmp_path: Path, own_redis: Any, outage: str
) -> None:
    # given a model that can do without the price and not without the units, and one that can do without both
    view = built_sales(tmp_path, own_redis.url())
    inputs = tuple(Field(name=name, type="double") for name in ("sales.price", "sales.units"))
    locks = features.lock({"sales": view}, ["sales.*"])
    store.promote(store.publish(5.0, inputs=inputs, features=locks, entity=("item_id",)))
    rows = [{"item_id": "x"}, {"item_id": "x", "sales.units": 3}]
    address = own_redis.url()
    with store.server(online_url=address, online_timeout_ms=400) as server, httpx.Client(timeout=10) as client:
        url = f"http://127.0.0.1:{server.ports.http}"

        def asked() -> list[Any]:
            answer = client.post(f"{url}/predict/demand", json=rows)
            assert answer.status_code == 200
            return [(row["source"], row["reason"], row["missing"]) for row in answer.json()["predictions"]]

        well = [("champion", "ok", []), ("champion", "ok", [])]
        ill = [
            ("fallback:zero", "features", ["sales.price", "sales.units"]),
            ("champion", "ok", ["sales.price"]),
        ]
        assert asked() == well
        # when the store goes
        if outage == "killed":
            own_redis.kill()
        else:
            own_redis.pause()
        started = time.monotonic()
        for _ in range(20):
            assert asked() == ill
        # then nobody waits for it but the first, and it is counted
        assert time.monotonic() - started < 4  # twenty timeouts would be eight seconds
        counted = client.get(f"{url}/metrics").text
        assert 'towpath_online_reads_failed_total{model="demand"} 20.0' in counted
        assert client.get(f"{url}/v2/health/ready").status_code == 200
        # and when it is back, the server finds it without being told
        if outage == "killed":
            own_redis.start()
            built_sales(tmp_path, own_redis.url())
        else:
            own_redis.go_on()
        eventually(lambda: asked() == well, 5)


def test_an_onnx_file_answers_rows_and_one_tensor_under_any_name(tmp_path: Path) -> None:
    node = onnx.helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 3])
    made = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 1])
    axes = onnx.helper.make_node("Constant", [], ["axes"], value_ints=[1])
    node.input.append("axes")
    graph = onnx.helper.make_graph([axes, node], "sum", [given], [made])
    path = tmp_path / "sum.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    deployment = bare_deployment(path, name="", trust_pickle=False, clock=CLOCK)
    assert deployment.model == "sum"
    responder = Responder(Fixed(deployment), clock=CLOCK)
    (row,) = responder.answer("sum", [{"f0": 1.0, "f1": 2.0, "f2": 3.0}]).predictions
    assert np.ravel(row.prediction).tolist() == [6.0]
    ask = Ask(columns={"any": np.ones((2, 3), dtype=np.float32)}, rows_count=2)
    assert np.ravel(responder.run("sum", ask).predictions).tolist() == [3.0, 3.0]


def test_where_consumers_exist_only_their_keys_are_answered(store: Store) -> None:
    store.promote(store.publish(5.0))
    key = ConsumerBook(store.objects, make_pepper(store.keys)).add("brand-a", team="brand", at=AT)
    with store.server() as server:
        url = f"http://127.0.0.1:{server.ports.http}/predict/demand"
        denied = httpx.post(url, json=ROW)
        assert (denied.status_code, denied.json()["code"]) == (401, "denied")
        assert httpx.post(url, json=ROW, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports.grpc}") as client:
            asked = triton_grpc.InferInput("x", [1, 2], "FP64")
            asked.set_data_from_numpy(np.ones((1, 2)))
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                client.infer("demand", [asked])
            client.infer("demand", [asked], headers={"authorization": f"Bearer {key}"})


def test_a_worker_whose_calls_hang_is_replaced(store: Store) -> None:
    # given a version of the project's own code that hangs for one value
    code = (
        "import time\n"
        "import numpy as np\n"
        "def predict(model, rows):\n"
        "    rows = np.asarray(rows)\n"
        "    if rows[0][0] < 0:\n"
        "        time.sleep(3600)\n"
        "    return model.predict(rows)\n"
    )
    number = store.publish(5.0, code=code, serving=ServingDeclaration(timeout_ms=150))
    store.promote(number)
    with store.server() as server:
        url = f"http://127.0.0.1:{server.ports.http}"
        assert answer(url)["source"] == "champion"
        first = server.pids[0]
        # when it hangs again and again
        for _ in range(8):
            hung = httpx.post(f"{url}/predict/demand", json=ROW | {"Column_0": -1.0}, timeout=20).json()["predictions"][
                0
            ]
            assert (hung["source"], hung["reason"]) == ("fallback:zero", "slow")
        # then each call was answered by the fallback, and another worker takes over
        eventually(lambda: server.pids and server.pids[0] != first and server._children[0].ports)
        assert answer(url)["source"] == "champion"


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    path = booster(tmp_path, 5.0)
    code = (
        "import sys; from pathlib import Path; from towpath.serving.server import serve_file\n"
        "from towpath.settings import ServingSettings\n"
        f"settings = ServingSettings(port=0, grpc_port=0, drain_ms=0, flush_s=0.2)\n"
        f"sys.exit(serve_file(Path({str(path)!r}), settings=settings, name='points', state=Path({str(tmp_path / 'state')!r}),"
        " on_ready=lambda p: print(p.http, p.grpc, flush=True)))\n"
    )
    return [sys.executable, "-c", code]


def test_a_bare_file_is_served_and_ends_with_0_on_sigterm(script: list[str], tmp_path: Path) -> None:
    before = {path for path in tmp_path.iterdir() if path.is_file()}
    process = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    http, grpc = process.stdout.readline().split()
    row = httpx.post(f"http://127.0.0.1:{http}/predict/points", json=ROW).json()["predictions"][0]
    assert (row["prediction"], row["source"]) == (5.0, "champion")
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc}") as client:
        assert client.is_model_ready("points")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()
    # nothing was made beside the file, and what was answered is kept
    assert {path for path in tmp_path.iterdir() if path.is_file()} == before
    assert list((tmp_path / "state" / "objects" / "journal").rglob("*.parquet"))


def test_an_unknown_format_is_refused_with_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"this is no model")
    with pytest.raises(Exception, match="this is no model"):
        serve_file(path, settings=QUICK, state=tmp_path)


def test_a_taken_port_is_refused_though_workers_share_theirs(store: Store) -> None:
    store.promote(store.publish(5.0))
    with store.server() as server, pytest.raises(RefusedError, match="is taken"):
        store.server(replace(QUICK, port=server.ports.http)).start()
    with store.server() as server, pytest.raises(RefusedError, match="is taken") as told:
        store.server(replace(QUICK, grpc_port=server.ports.grpc)).start()
    assert told.value.mend == "--grpc-port 0 takes a free one"


def test_beyond_loopback_nobody_serves_without_keys() -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(RefusedError, match="beyond loopback"):
            refuse_open_door(host, keyed=False, insecure_open=False)
        refuse_open_door(host, keyed=True, insecure_open=False)
        refuse_open_door(host, keyed=False, insecure_open=True)
    for host in ("127.0.0.1", "::1", "localhost"):
        refuse_open_door(host, keyed=False, insecure_open=False)


def test_a_full_disk_costs_records_and_no_answer(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", server="s", clock=CLOCK, budget_bytes=0)
    responder = Responder(Fixed(deployed(Served(a_manifest(), PlainModel()))), clock=CLOCK, journal=journal)
    assert responder.answer("demand", [{"a": 1.0, "b": 2.0}]).predictions[0].prediction == 3.0
    assert journal.dropped == 1
    journal.close()

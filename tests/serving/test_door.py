"""The door of a real server with several workers: scopes, quotas, keys that come and go, management, privacy."""

import base64
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
from msgspec.structs import replace
from serving_stand import AT
from test_server import QUICK, ROW, Store, eventually
from tritonclient.utils import InferenceServerException

from towpath.apart.protocol import SERVICE, messages
from towpath.clock import SystemClock
from towpath.errors import RefusedError
from towpath.registry import history
from towpath.traffic import ConsumerBook, Quota, last_seen, make_pepper

triton_grpc: Any = tritonclient.grpc  # it has no types


class Keyed:
    """A running store with keys of all kinds."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.store.promote(self.store.publish(5.0))
        self.book = ConsumerBook(self.store.objects, make_pepper(self.store.keys))
        add = self.book.add
        self.keys = {
            "brand-a": add("brand-a", team="a", at=AT),
            "elsewhere": add("elsewhere", team="a", at=AT, models=("search",)),
            "teller": add("teller", team="a", at=AT, scopes=("outcomes",)),
            "operator": add("operator", team="a", at=AT, scopes=("manage",)),
            "few": add("few", team="a", at=AT, quota=Quota(requests_per_s=5)),
            "heavy": add("heavy", team="a", at=AT, quota=Quota(rows_per_s=4)),
            "rows": add("rows", team="a", at=AT, quota=Quota(rows_per_s=4)),
        }
        settings = replace(QUICK, workers=2, access_log=str(folder / "access.jsonl"))
        self.server: Any = self.store.server(settings)
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.ports.http}"

    def post(self, who: str, path: str = "/predict/demand", body: Any = ROW) -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers={"Authorization": f"Bearer {self.keys[who]}"}, timeout=20)

    def grpc(self, who: str, rows: int = 1) -> Any:
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{self.server.ports.grpc}") as client:
            asked = triton_grpc.InferInput("x", [rows, 2], "FP64")
            asked.set_data_from_numpy(np.ones((rows, 2)))
            return client.infer("demand", [asked], headers={"authorization": f"Bearer {self.keys[who]}"})


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    made = Keyed(tmp_path_factory.mktemp("keyed"))
    yield made
    made.server.stop()
    seen = {
        name for name, _ in last_seen(made.store.objects)
    }  # what was used is written at the latest when workers end
    assert {"brand-a", "passing", "operator"} <= seen


def test_a_key_without_the_scope_or_the_model_is_forbidden_over_http_and_grpc(keyed: Keyed) -> None:
    for who, mend in (
        ("elsewhere", "tow consumers change elsewhere --models demand,search"),
        ("teller", "tow consumers change teller --scope predict,outcomes"),
        ("operator", "tow consumers change operator --scope predict,manage"),
    ):
        refused = keyed.post(who)
        assert (refused.status_code, refused.json()["code"], refused.json()["mend"]) == (403, "forbidden", mend)
        with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
            keyed.grpc(who)
    outcome = {"prediction_id": "p", "value": 1}
    assert keyed.post("teller", "/outcomes/demand", outcome).status_code == 202
    assert keyed.post("operator", "/outcomes/demand", outcome).status_code == 403
    assert keyed.post("brand-a").json()["predictions"][0]["prediction"] == 5.0
    assert keyed.grpc("brand-a")


def test_a_quota_is_one_for_all_workers_and_both_doors(keyed: Keyed) -> None:
    # given a quota of 5/s, asked over many connections, which fall to both workers
    began = time.monotonic()
    answers = [keyed.post("few") for _ in range(60)]
    took = time.monotonic() - began
    served = sum(one.status_code == 200 for one in answers)
    # then together they granted a second's worth and the rate, and not twice that
    assert served <= 5 + 5 * took + 2
    refused = next(one for one in answers if one.status_code == 429)
    assert refused.json()["code"] == "quota"
    assert refused.headers["retry-after"] == "1"
    with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
        [keyed.grpc("few") for _ in range(50)]
    assert 'towpath_refused_total{code="quota",consumer="few"}' in httpx.get(f"{keyed.url}/metrics").text


def test_rows_are_counted_over_both_doors(keyed: Keyed) -> None:
    time.sleep(1)
    assert keyed.post("rows", body=[ROW] * 4).status_code == 200
    assert keyed.post("rows", body=[ROW] * 4).status_code == 429
    with pytest.raises(InferenceServerException, match="4 rows a second"):
        keyed.grpc("rows", rows=4)


def test_rotation_and_revocation_reach_running_workers(keyed: Keyed) -> None:
    now = SystemClock().now()
    keyed.keys["passing"] = keyed.book.add("passing", team="a", at=now)
    eventually(lambda: keyed.post("passing").status_code == 200, 3)
    new, _ = keyed.book.rotate("passing", at=SystemClock().now(), overlap=timedelta(seconds=3))
    keyed.keys["newer"] = new
    eventually(lambda: all(keyed.post("newer").status_code == 200 for _ in range(10)), 3)
    assert keyed.post("passing").status_code == 200
    eventually(lambda: all(keyed.post("passing").status_code == 401 for _ in range(10)), 6)
    keyed.book.revoke("passing", at=SystemClock().now())
    eventually(lambda: all(keyed.post("newer").status_code == 401 for _ in range(10)), 3)


def test_an_operator_kills_and_revives_and_nobody_else(keyed: Keyed) -> None:
    for path in ("/kill/demand", "/revive/demand"):
        assert httpx.post(keyed.url + path, json={"because": "x"}).status_code == 401
        assert keyed.post("brand-a", path, {"because": "x"}).json()["code"] == "forbidden"
    for body, said in (
        ({}, "because"),
        ({"because": "x", "version": 99}, "demand@99"),
        ({"why": "x"}, "why"),
        ({"because": "x", "segment": "a=b"}, "no segment"),
    ):
        refused = keyed.post("operator", "/kill/demand", body)
        assert refused.status_code in {400, 404}
        assert said in refused.json()["error"]
    killed = keyed.post("operator", "/kill/demand", {"because": "wrong prices", "consumer": "brand-a"})
    assert (killed.status_code, killed.json()["by"], killed.json()["kills"][0]["because"]) == (
        200,
        "operator",
        "wrong prices",
    )
    began = time.monotonic()
    eventually(lambda: all(keyed.post("brand-a").json()["predictions"][0]["reason"] == "killed" for _ in range(6)), 2)
    assert time.monotonic() - began < 2
    assert keyed.post("operator", "/revive/demand", {}).json()["kills"] == []
    eventually(lambda: all(keyed.post("brand-a").json()["predictions"][0]["reason"] == "ok" for _ in range(6)), 2)
    entry = history.current(keyed.store.objects, "demand")
    assert entry is not None
    assert (entry.event.kind, entry.event.by) == ("revived", "operator")


def test_the_access_log_has_who_and_what_and_never_a_key_or_a_body(keyed: Keyed) -> None:
    keyed.post("brand-a", "/predict/demand?secret=in_the_query", [ROW | {"Column_0": 1234567.25}])
    keyed.grpc("brand-a")
    text = (keyed.store.folder / "access.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    ours = [line for line in lines if line["consumer"] == "brand-a" and line["status"] in {200, "OK"}]
    assert {line["protocol"] for line in ours} == {"http", "grpc"}
    assert ours[0].keys() == {
        "at",
        "protocol",
        "method",
        "path",
        "status",
        "ms",
        "consumer",
        "request_id",
        "bytes_out",
        "pid",
    }
    assert len({line["pid"] for line in lines}) == 2
    assert not [key for key in keyed.keys.values() if key in text]
    assert "1234567" not in text
    assert "in_the_query" not in text
    assert not stat.S_IMODE((keyed.store.folder / "access.jsonl").stat().st_mode) & 0o007


def test_without_keys_this_machine_manages_but_no_page_in_its_browser(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.promote(store.publish(5.0))
    with store.server() as server:
        url = f"http://127.0.0.1:{server.ports.http}/kill/demand"
        page = httpx.post(url, json={"because": "x"}, headers={"Origin": "https://evil.example"})
        assert (page.status_code, page.json()["code"]) == (403, "forbidden")
        assert httpx.post(url, json={"because": "x"}).json()["by"] == "local"
    # and beyond loopback without keys nobody does
    with store.server(replace(QUICK, host="0.0.0.0"), insecure_open=True) as server:
        url = f"http://127.0.0.1:{server.ports.http}/revive/demand"
        assert httpx.post(url, json={}).json()["code"] == "forbidden"


def test_the_first_consumer_may_come_while_the_server_runs_and_the_pepper_later_still(tmp_path: Path) -> None:
    # given a server that nobody needed a key for, so that there is no pepper either
    store = Store(tmp_path)
    store.promote(store.publish(5.0))
    pepper = store.keys / "pepper"
    with store.server(replace(QUICK, workers=2)) as server:
        url = f"http://127.0.0.1:{server.ports.http}/predict/demand"

        def statuses(key: str) -> set[int]:
            with_key = {"Authorization": f"Bearer {key}"}
            return {httpx.post(url, json=ROW, headers=with_key, timeout=20).status_code for _ in range(10)}

        assert httpx.post(url, json=ROW, timeout=20).status_code == 200
        # when the first consumer is added, on another machine
        elsewhere = tmp_path / "elsewhere"
        key = ConsumerBook(store.objects, make_pepper(elsewhere)).add("brand-a", team="a", at=AT)
        # then nobody is let in, until the pepper is there
        eventually(lambda: statuses(key) == {401})
        (elsewhere / "pepper").rename(pepper)
        eventually(lambda: statuses(key) == {200})
        assert statuses(f"{key}x") == {401}


def test_a_server_without_the_pepper_does_not_start(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.promote(store.publish(5.0))
    ConsumerBook(store.objects, make_pepper(store.keys)).add("brand-a", team="a", at=AT)
    (store.keys / "pepper").unlink()
    with pytest.raises(RefusedError, match="this server has none"):
        store.server().start()


def test_of_a_private_model_no_byte_of_the_input_reaches_a_disk(tmp_path: Path) -> None:
    """Images and texts over every door, good and bad ones, with all logs on; then everything that was written is searched."""
    image, marker = np.frombuffer(os.urandom(4_096), dtype=np.uint8), "patient Xq7Zw9Kd"
    picture = b"\x89PNG\r\n\x1a\n" + os.urandom(2_000)
    script = tmp_path / "serve.py"
    script.write_text(PRIVATE)
    written, temporary = tmp_path / "state", tmp_path / "temporary"
    temporary.mkdir()
    with (tmp_path / "output").open("wb") as output:
        argv = [sys.executable, str(script), str(written), str(Path(__file__).parent)]
        process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=output,
            cwd=tmp_path,
            env=os.environ | {"TMPDIR": str(temporary)},
            text=True,
        )
        assert process.stdout is not None
        http, grpc_port = map(int, process.stdout.readline().split())
        url = f"http://127.0.0.1:{http}"
        for model in ("private", "failing"):
            row = {"image": image.tolist(), "text": marker}
            for body in ([row], [row | {"text": None}], {"rows": [row, row]}, [row | {marker: 1}], {"rows": marker}):
                httpx.post(f"{url}/predict/{model}", json=body, timeout=20)
            httpx.post(f"{url}/predict/{model}", content=f'[{{"text": "{marker}'.encode())
            httpx.post(f"{url}/predict/{model}", content=json.dumps([row | {"pad": "x" * 100_000}]).encode())
            with triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
                inputs = [
                    triton_grpc.InferInput("image", [1, 4_096], "UINT8"),
                    triton_grpc.InferInput("text", [1], "BYTES"),
                ]
                inputs[0].set_data_from_numpy(image.reshape(1, -1))
                inputs[1].set_data_from_numpy(np.array([marker.encode()], dtype=object))
                try:
                    client.infer(model, inputs)
                except InferenceServerException:
                    assert model == "failing"
        # a picture as bytes, to a predict of a project's own; some bytes are text by chance
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
            for data in (picture, marker.encode()):
                tensor = triton_grpc.InferInput("image", [1], "BYTES")
                tensor.set_data_from_numpy(np.array([data], dtype=object))
                assert client.infer("picture", [tensor]).as_numpy("prediction").tolist() == [len(data)]
        coded = base64.b64encode(picture).decode()
        told = httpx.post(f"{url}/predict/picture", json=[{"image": coded}], timeout=20).json()
        assert told["predictions"][0]["prediction"] == len(picture)
        refused = httpx.post(f"{url}/predict/picture", json=[{"image": f"{coded}?"}])
        assert (refused.status_code, "no base64 text" in refused.json()["error"]) == (400, True)
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()
    traces = [
        picture[:24],
        coded[:24].encode(),
        marker.encode(),
        image.tobytes()[:24],
        json.dumps(image.tolist())[:80].encode(),
        json.dumps(image.tolist()[:30], separators=(",", ":"))[:-1].encode(),
    ]
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in found if "journal" in path.parts or path.suffix == ".parquet"], (
        "the answers themselves are kept"
    )
    leaks = [(path.name, trace[:20]) for path in found for trace in traces if trace in path.read_bytes()]
    assert leaks == []
    from pyarrow import parquet

    tables = [parquet.read_table(path).to_pylist() for path in found if path.suffix == ".parquet"]
    assert tables
    assert marker not in str(tables)
    assert not list(tmp_path.rglob("core*"))


PRIVATE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from serving_stand import *
from towpath.serving.logs import configure
from towpath.serving.flusher import FlusherProcess
import logging

configure()
logging.getLogger().setLevel(logging.DEBUG)
state = Path(sys.argv[1])
fields = (Field(name="image", type="UINT8", shape=(-1, 4096)), Field(name="text", type="BYTES"))
def fails(columns):
    raise ValueError(f"cannot read {columns['text'][0]!r}")
def answers(columns):
    return {"prediction": np.array([float(len(str(t))) for t in columns["text"]])}
signature = Signature(container="tensors", inputs=fields, outputs=(Field(name="prediction", type="double"),))
deployments = [
    deployed(Served(a_manifest(signature=signature, journal="none"), PlainModel(inputs=fields, container="tensors", predict=p, inline=False))).replaced(model=m)
    for m, p in (("private", answers), ("failing", fails))
]
from towpath.models import load_version, pack_code, save
from towpath.models.manifest import StoredFile
shop = state / "shop" / "models" / "picture"
shop.mkdir(parents=True)
(shop / "model.py").write_text(
    "def predict(model, rows):\\n"
    "    assert all(type(row[0]) is bytes for row in rows)\\n"
    "    return [float(len(row[0])) for row in rows]\\n"
)
version = state / "version"
artefact = save({}, version)
(version / "code.zip").write_bytes(pack_code(state / "shop", shop))
signature = Signature(container="numpy", inputs=(Field(name="image", type="binary"),), outputs=(Field(name="prediction", type="double"),))
manifest = a_manifest(
    model="picture", signature=signature, journal="none", artefact=artefact,
    files=(StoredFile(path="code.zip", digest="sha256:" + "0" * 64, size_bytes=1),),
)
deployments.append(deployed(Served(manifest, load_version(manifest, version))).replaced(model="picture"))
config = WorkerConfig(
    settings=ServingSettings(drain_ms=0, flush_s=0.2, access_log="access.jsonl"), ports=Ports("127.0.0.1", 0, 0),
    journal=state / "journal", folder=state, workers=0,
)
flusher = FlusherProcess(config.journal, str(state / "objects"), every_s=0.2)
def ready(ports):
    flusher.start()
    print(ports.http, ports.grpc, flush=True)
code = Worker(config, Fixed(*deployments)).run(ready)
flusher.stop()
sys.exit(code)
"""


def test_who_is_told_to_come_again_is_told_when_over_both_doors(keyed: Keyed) -> None:
    # given a request that takes six seconds of the quota at once
    assert keyed.post("heavy", body=[ROW] * 24).status_code == 200
    refused = keyed.post("heavy", body=[ROW] * 4)
    assert refused.status_code == 429
    assert 3 <= int(refused.headers["retry-after"]) <= 6
    asked = messages()["ModelInferRequest"](model_name="demand")
    tensor = asked.inputs.add(name="x", datatype="FP64", shape=[4, 2])
    tensor.contents.fp64_contents.extend([1.0] * 8)
    with grpc.insecure_channel(f"127.0.0.1:{keyed.server.ports.grpc}") as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as raised:
            call(asked.SerializeToString(), metadata=[("authorization", f"Bearer {keyed.keys['heavy']}")])
    said: Any = raised.value  # grpc has no types
    trailing = dict(said.trailing_metadata())
    assert trailing["towpath-code"] == "quota"
    assert 3 <= int(trailing["retry-after"]) <= 6
    assert 2_000 < int(trailing["grpc-retry-pushback-ms"]) <= 6_000

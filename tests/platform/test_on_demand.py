"""An on-demand feature on its whole way: training set, version, gate, batch, one row, a server without the project."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from towpath.clock import FixedClock
from towpath.errors import InputError, ModelError, RefusedError, ResourceError, UnknownError
from towpath.features import manifest_of
from towpath.platform import Platform
from towpath.project import Answers, init
from towpath.serving.server import store_server
from towpath.serving.supervisor import Supervisor
from towpath.settings import ServingSettings
from towpath.types import utc

NOW = "2026-03-01T08:00"
NOW_T = utc(NOW)
PROMOTION = '''"""What an offered price means.

---
[inputs]
offered_eur = "double"
price_eur = "item_sales.price_eur"
at = "time"

[outputs]
share = "double"
weekday = "int64"
bold = { type = "bool", missing = "default", default = false }
---
"""

import numpy as np

from _weekdays import number


def promotion(offered_eur, price_eur, at):
    """A share of the usual price, and the day."""
    share = offered_eur / price_eur
    return {"share": share, "weekday": number(at), "bold": np.where(np.isnan(share), None, share < 0.5)}
'''
WEEKDAYS = '''"""Days."""

import numpy as np


def number(at):
    """Monday is 0."""
    return (at.astype("M8[D]").astype(np.int64) + 3) % 7
'''


def write(folder: Path) -> Path:
    """The project of ``tow init`` with an offered price in its spine and a model that reads nothing but on-demand features."""
    init(folder, Answers(name="shop", team="area", owner="ana"), clock=FixedClock("2026-03-01"))
    (folder / "features" / "promotion.py").write_text(PROMOTION)
    (folder / "features" / "_weekdays.py").write_text(WEEKDAYS)
    change(
        folder / "models/demand/training.sql",
        "select\n    item_id,\n    morning,\n    case",
        "select\n    item_id,\n    morning,\n    price_eur * 0.9 as offered_eur,\n    case",
    )
    change(folder / "models/demand/model.toml", '["item_sales.*"]', '["promotion.*"]')
    change(folder / "models/demand/model.py", 'rows["item_sales.units_7d"]', 'rows["promotion.weekday"]')
    case = {
        "request": {"item_sales.price_eur": 2.0, "offered_eur": 1.0, "morning": "2026-02-03T06:00"},
        "answer": 50.0,
        "tolerance": 500.0,
    }
    (folder / "models/demand/golden.jsonl").write_text(json.dumps(case) + "\n")
    return folder


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def served(folder: Path, *, keys: Path, state: Path) -> Supervisor:
    """A server of a project's stores that trusts the keys of another, or of the same; begun where it is entered."""
    return store_server(
        ServingSettings(port=0, grpc_port=0, poll_ms=50, drain_ms=20, flush_s=0.2),
        objects_url=f"{folder}/.towpath/objects",
        online_url=f"lmdb://{folder}/.towpath/online",
        online_timeout_ms=1_000,
        keys=keys / ".towpath/keys",
        folder=state,
        clock=FixedClock(NOW),
    )


def opened(folder: Path) -> Platform:
    return Platform.open(folder, clock=FixedClock(NOW), variables={})


@pytest.fixture(scope="module")
def crowned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained, judged and promoted."""
    folder = write(tmp_path_factory.mktemp("on_demand") / "shop")
    with opened(folder) as platform:
        platform.features.build()
        demand = platform.models["demand"]
        demand.train()
        verdict = demand.gate()
        assert all(rule.passed for rule in verdict.rules if "golden" in rule.name), verdict.rules
        demand.promote(because="a test", override=True)
    return folder


@pytest.fixture
def platform(crowned: Path) -> Iterator[Platform]:
    with opened(crowned) as platform:
        yield platform


def test_a_training_set_has_the_computed_columns_and_not_what_only_they_read(platform: Platform) -> None:
    spine = pa.table({"item_id": ["item_01", "nobody"], "day": pa.array([NOW_T, NOW_T]), "offered_eur": [1.0, 1.0]})
    table = platform.features.training_set(spine, ["promotion.share", "promotion.bold"], keys=["item_id"], time="day")
    assert table.column_names == ["item_id", "day", "offered_eur", "promotion.share", "promotion.bold"]
    share = table.column("promotion.share").to_pylist()
    assert share[0] is not None
    assert share[1] is None
    assert table.schema.field("promotion.bold").type == pa.bool_()


def test_the_manifest_names_the_function_and_a_module_of_it_that_changes(platform: Platform, tmp_path: Path) -> None:
    spine = pa.table({"item_id": ["item_01"], "day": pa.array([NOW_T]), "offered_eur": [1.0]})
    table = platform.features.training_set(spine, ["promotion.share"], time="day")
    manifest = manifest_of(table)
    assert manifest.features == ("promotion.share",)
    assert manifest.keys == ("item_id",)
    # a file has the same rows and the same proof
    written = platform.features.training_set(spine, ["promotion.share"], time="day", to=tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet").equals(table)
    assert written.same_as(manifest)
    # and a module that the function imports is part of it
    module = platform.folder / "features" / "_weekdays.py"
    module.write_text(WEEKDAYS + "\nSUNDAY = 6\n")
    try:
        changed = manifest_of(platform.features.training_set(spine, ["promotion.share"], time="day"))
    finally:
        module.write_text(WEEKDAYS)
    assert manifest.differences(changed) == ("the function 'promotion'",)


def test_a_spine_without_the_requests_column_is_refused_by_name(platform: Platform) -> None:
    spine = pa.table({"item_id": ["item_01"], "day": pa.array([NOW_T]), "offered": [1.0]})
    with pytest.raises(InputError, match=r"'promotion' reads 'offered_eur'.*did you mean 'offered'"):
        platform.features.training_set(spine, ["promotion.share"], keys=["item_id"], time="day")


def test_a_version_keeps_the_function_its_inputs_and_the_views_behind_them(platform: Platform) -> None:
    manifest = platform.models["demand"].manifest(1)
    assert [field.name for field in manifest.signature.inputs] == [
        f"promotion.{n}" for n in ("share", "weekday", "bold")
    ]
    (lock,) = manifest.on_demand
    assert [(one.name, one.reads, one.type) for one in lock.inputs] == [
        ("offered_eur", "request", "double"),
        ("price_eur", "item_sales.price_eur", "double"),
        ("at", "time", "timestamp[us, tz=UTC]"),
    ]
    assert [column.name for column in manifest.features[0].columns] == ["price_eur"]


def test_one_row_is_answered_with_the_columns_of_the_request(platform: Platform) -> None:
    tried = platform.models["demand"].try_row({"item_id": "item_01", "offered_eur": 1.0})
    assert tried.reason == "ok"
    assert tried.missing == ()
    assert tried.features["promotion.weekday"] == 6  # 1 March 2026 is a Sunday
    without = platform.models["demand"].try_row({"item_id": "item_01"})
    assert without.missing == ("offered_eur", "promotion.share", "promotion.bold")
    assert without.features["promotion.bold"] is False


def test_the_batch_path_gives_what_training_would_have_seen(platform: Platform, tmp_path: Path) -> None:
    done = platform.models["demand"].predict()
    assert done.by_source == {"champion": done.rows}
    kept = platform.sql("select entity_key, features from predictions", since=None).to_pylist()
    header = platform.project.models["demand"].training
    spine = platform.warehouse.read(
        header.query, {"as_of": platform.now(), "since": NOW_T.replace(year=1900), "until": platform.now()}
    )
    wanted = platform.features.training_set(spine, ["promotion.*"], keys=["item_id"], time="morning")
    newest = max(wanted.column("morning").to_pylist())
    told = {row["item_id"]: row for row in wanted.to_pylist() if row["morning"] == newest}
    values = [(json.loads(row["entity_key"])[0], json.loads(row["features"])) for row in kept if row["features"]]
    assert values
    for key, features in values:
        gave = {name: value for name, value in features.items() if name.startswith("promotion.")}
        assert gave == {f"promotion.{n}": told[key][f"promotion.{n}"] for n in ("share", "weekday", "bold")}
        assert features.keys() - gave.keys() == {
            ":time",
            "item_sales.price_eur",
            "offered_eur",
        }  # what it was computed from


def test_an_online_read_computes_them_too(platform: Platform) -> None:
    found = platform.features.read(
        ["promotion.share", "item_sales.price_eur"],
        {"item_id": ["item_01", "nobody"]},
        inputs={"offered_eur": [1.0, 2.0]},
    )
    assert found["promotion.share"][0] == 1 / found["item_sales.price_eur"][0]
    assert found["promotion.share"][1] != found["promotion.share"][1]
    got = platform.features.get("promotion", ["item_01"], inputs={"offered_eur": 1.0})
    assert got["promotion.share"] == found["promotion.share"][0]
    assert got["missing"] == {}
    lacking = platform.features.get("promotion", ["nobody"])
    assert (
        lacking["missing"]["promotion.share"] == "the function gave none, without item_sales.price_eur and offered_eur"
    )
    # and one value stands for all rows, of a key as of an input
    alike = platform.features.read(["promotion.share"], {"item_id": "item_01"}, inputs={"offered_eur": [1.0, 1.0]})
    assert alike["promotion.share"].tolist() == [found["promotion.share"][0]] * 2
    with pytest.raises(InputError, match="different lengths: item_id 3, input offered_eur 2"):
        platform.features.read(["promotion.share"], {"item_id": ["a", "b", "c"]}, inputs={"offered_eur": [1.0, 1.0]})
    with pytest.raises(InputError, match="The key 'item_id' is not among the keys, which have 'item'"):
        platform.features.read(["promotion.share"], {"item": ["item_01"]}, inputs={"offered_eur": 1.0})
    # what a function looks up is no column of the request, by neither of its names
    for name in ("price_eur", "item_sales.price_eur"):
        with pytest.raises(InputError, match="'promotion' looks 'price_eur' up") as told:
            platform.features.get("promotion", ["item_01"], inputs={name: 1.0})
        assert told.value.mend == "columns of the request are offered_eur"
    with pytest.raises(InputError, match="did you mean 'offered_eur'"):
        platform.features.get("promotion", ["item_01"], inputs={"offered_er": 1.0})


def test_it_is_shown_with_what_it_reads_and_has_no_rows_to_compare(platform: Platform) -> None:
    shown = platform.features.show("promotion")
    assert shown["entity"] == ("item_id",)
    assert shown["reads"] == {"offered_eur": "double", "price_eur": "item_sales.price_eur", "at": "time"}
    assert [(one.feature, one.type, one.missing, one.used_by) for one in shown["features"]] == [
        ("share", "double", "null", ("demand",)),
        ("weekday", "int64", "null", ("demand",)),
        ("bold", "bool", "default False", ("demand",)),
    ]
    with pytest.raises(UnknownError, match="'promotion' is computed when it is asked for and has no rows"):
        platform.features.diff("promotion", 1, "working")


def test_a_list_of_views_has_them_and_their_models(platform: Platform) -> None:
    rows = {row.view: row for row in platform.features.list()}
    assert rows["promotion"].features == ("share", "weekday", "bold")
    assert rows["promotion"].used_by == ("demand",)
    assert rows["item_sales"].used_by == ("demand",)


def test_a_function_that_raises_ends_training_with_the_users_own_lines(crowned: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(crowned, tmp_path / "shop")
    change(
        folder / "features/promotion.py", "    share = offered_eur / price_eur", '    raise KeyError("no such offer")'
    )
    with opened(folder) as platform, pytest.raises(ModelError, match="no such offer") as told:
        platform.models["demand"].train()
    assert "raise KeyError" in told.value.what
    assert "towpath/" not in told.value.what
    assert (
        told.value.where
        == f"{folder}/features/promotion.py:{1 + PROMOTION[: PROMOTION.index('    share = ')].count(chr(10))}"
    )


def test_it_is_computed_where_the_limits_are_and_sees_the_variables_that_are_named_alone(
    crowned: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(crowned, tmp_path / "shop")
    promotion = folder / "features/promotion.py"
    # given a function that says in which process it runs and what it sees there
    seen = tmp_path / "seen.txt"
    line = "    share = offered_eur / price_eur"
    look = f'    import os\n    open({str(seen)!r}, "a").write(f"{{os.getpid()}} {{os.environ.get(\'SECRET\')}}\\n")\n'
    change(promotion, line, look + line)
    with Platform.open(folder, clock=FixedClock(NOW), variables={"SECRET": "hunter2"}) as platform:
        platform.models["demand"].train()
        said = {tuple(line.split()) for line in seen.read_text().splitlines()}
        assert {value for _, value in said} == {"None"}
        assert str(os.getpid()) not in {process for process, _ in said}
        # and one that wants more memory than the job has
        change(promotion, look, "    filled = bytearray(2**30)\n")
        change(folder / "models/demand/model.toml", 'memory = "1GiB"', 'memory = "500MiB"')
        with (
            Platform.open(folder, clock=FixedClock(NOW), variables={}) as held,
            pytest.raises(ResourceError, match=r"500 ?MiB"),
        ):
            held.models["demand"].train()


@pytest.mark.parametrize("whole", [True, False], ids=["its functions load", "nothing of it loads"])
def test_callers_leave_out_what_is_computed_also_where_the_champion_could_not_be_loaded(
    whole: bool, crowned: Path, tmp_path: Path
) -> None:
    # given a champion that does not answer its golden cases, promoted nevertheless
    folder = tmp_path / "shop"
    shutil.copytree(crowned, folder)
    golden = folder / "models/demand/golden.jsonl"
    golden.write_text(json.dumps({**json.loads(golden.read_text()), "answer": 1e9}) + "\n")
    with opened(folder) as platform:
        demand = platform.models["demand"]
        version = demand.train().version
        demand.promote(version, because="a test", override=True)
    if not whole:
        (code,) = (folder / ".towpath/objects/models/demand/versions" / f"{version:06d}").glob("code.zip")
        code.write_bytes(code.read_bytes()[:-1])
    server = served(folder, keys=folder, state=tmp_path)
    # when a caller sends what it always sends
    with server as running, httpx.Client(base_url=f"http://127.0.0.1:{running.ports.http}", timeout=30) as client:
        came = client.post("/predict/demand", json={"item_id": "item_01", "offered_eur": 1.0})
        assert client.get("/v2/models/demand/ready").status_code == 503
    # then the fallback answers, of what was computed where that can be
    assert came.status_code == 200, came.text
    (said,) = came.json()["predictions"]
    expected = (6.0, "fallback:same_as_last_week", []) if whole else (0, "fallback:nothing", ["promotion.share"])
    assert (said["prediction"], said["source"], said["missing"][:1]) == expected  # 6 is a Sunday
    assert said["reason"] == "down"


def test_a_champion_with_an_older_function_is_judged_by_its_own(crowned: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(crowned, tmp_path / "shop")
    change(folder / "features/promotion.py", "share = offered_eur / price_eur", "share = price_eur / offered_eur")
    with opened(folder) as platform:
        demand = platform.models["demand"]
        version = demand.train().version
        alone, beside = demand.gate(1), demand.gate(version)
    assert alone.candidate is not None
    assert beside.champion == pytest.approx(alone.candidate)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A team that publishes its view and the function over it, which imports a module of its own."""
    folder = write(tmp_path_factory.mktemp("borrowed") / "shop")
    change(folder / "features/promotion.py", "[inputs]\n", "publish = true\n\n[inputs]\n")
    with opened(folder) as platform, pytest.raises(RefusedError, match=r"reads 'item_sales.price_eur', which is not"):
        platform.features.build("promotion")
    change(folder / "features/item_sales.sql", 'ttl = "3d"', 'publish = true\nttl = "3d"')
    with opened(folder) as platform:
        built = platform.features.build()
        assert built["promotion"].because.startswith("published as 1")
        assert platform.features.build("promotion")["promotion"].because.startswith("published as 1")
    return folder


@pytest.fixture(scope="module")
def bakery(shop: Path) -> Path:
    """Another team with a folder and a key of its own, on the same stores and tables; it has a module of the same name."""
    folder = write(shop.parent / "bakery")
    for name in ("item_sales.sql", "promotion.py"):
        (folder / "features" / name).unlink()
    (folder / "features/_weekdays.py").write_text("def number(at):\n    raise RuntimeError('not mine')\n")
    text = (folder / "towpath.toml").read_text().replace('name = "shop"', 'name = "bakery"')
    stores = f'\n[stores]\nobjects = "{shop}/.towpath/objects"\nonline = "lmdb://{shop}/.towpath/online"\n'
    (folder / "towpath.toml").write_text(text + stores)
    (folder / "models/demand").rename(folder / "models/bread")
    shutil.rmtree(folder / "monitors")
    toml = folder / "models/bread/model.toml"
    toml.write_text(
        toml.read_text().replace(
            '["promotion.*"]', '["shop/promotion.share", "shop/promotion.weekday", "shop/promotion.bold"]'
        )
    )
    code = folder / "models/bread/model.py"
    code.write_text(code.read_text().replace('rows["promotion.', 'rows["shop/promotion.'))
    case = {"request": {"shop/item_sales.price_eur": 2.0, "offered_eur": 1.0}, "answer": 50.0, "tolerance": 500.0}
    (folder / "models/bread/golden.jsonl").write_text(json.dumps(case) + "\n")
    return folder


def test_code_of_another_team_runs_only_where_its_key_is_trusted(shop: Path, bakery: Path) -> None:
    with opened(bakery) as platform, pytest.raises(RefusedError, match="trust"):
        platform.models["bread"].train()
    (bakery / ".towpath/keys").mkdir(parents=True, exist_ok=True)
    for key in (shop / ".towpath/keys").glob("*.pub"):
        shutil.copy(key, bakery / ".towpath/keys")
    with opened(bakery) as platform:
        with pytest.raises(UnknownError, match="did you mean 'shop/promotion'"):
            platform.features.locks(["shop/promoton.share"])
        # then it is trained on, in the job, with the publisher's own module and not ours of the same name
        bread = platform.models["bread"]
        version = bread.train().version
        verdict = bread.gate()
        assert all(rule.passed for rule in verdict.rules if "golden" in rule.name), verdict.rules
        bread.promote(because="a test", override=True)
        manifest = bread.manifest(version)
        assert [lock.path for lock in manifest.on_demand] == ["_published/shop/features/promotion.py"]
        # and answered alike by the batch, by one row, and by hand
        tried = bread.try_row({"item_id": "item_01", "offered_eur": 1.0})
        by_hand = platform.features.get("shop/promotion", ["item_01"], inputs={"offered_eur": 1.0})
        assert tried.features["shop/promotion.share"] == by_hand["shop/promotion.share"]
        assert "shop/promotion.share" not in tried.missing
        assert tried.source == "champion"
        assert platform.features.show("shop/promotion")["reads"]["price_eur"] == "shop/item_sales.price_eur"


def test_code_that_is_not_what_was_signed_never_runs(shop: Path, bakery: Path, tmp_path: Path) -> None:
    objects = shop / ".towpath/objects/features/shop/promotion/functions"
    (code,) = objects.glob("*.zip")
    kept = code.read_bytes()
    try:
        code.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with opened(bakery) as platform, pytest.raises(RefusedError, match="not what was signed"):
            platform.features.locks(["shop/promotion.share"])
    finally:
        code.write_bytes(kept)
    # and a change of a module behind it is a new publication, which the next training reads
    change(shop / "features/_weekdays.py", "Monday is 0", "Monday is none")
    with opened(shop) as platform:
        assert platform.features.build("promotion")["promotion"].because.startswith("published as 2")


def test_a_running_server_computes_each_version_by_the_form_that_it_was_trained_on(
    shop: Path, bakery: Path, tmp_path: Path
) -> None:
    row, lost = {"item_id": "item_01", "offered_eur": 1.0}, "shop/promotion.bold"
    inputs = [
        {"name": "item_id", "datatype": "BYTES", "shape": [1], "data": ["item_01"]},
        {"name": "offered_eur", "datatype": "FP64", "shape": [1], "data": [1.0]},
    ]
    server = served(shop, keys=bakery, state=tmp_path)
    with (
        opened(bakery) as platform,
        server as running,
        httpx.Client(base_url=f"http://127.0.0.1:{running.ports.http}", timeout=30) as client,
    ):
        bread = platform.models["bread"]

        def answer() -> tuple[object, ...]:
            (said,) = client.post("/predict/bread", json=row).json()["predictions"]
            return said["version"], said["source"], said["reason"], said["missing"], said["prediction"]

        def pinned(version: int) -> float:
            got = client.post(f"/v2/models/bread/versions/{version}/infer", json={"inputs": inputs}).json()
            return got["outputs"][0]["data"][0]

        old = bread.try_row(row, version=1)
        assert old.features.keys() >= {lost}
        assert answer() == (1, "champion", "ok", [], old.prediction)
        # when the publisher's function gives another form, and the server is the one that runs
        promotion = shop / "features/promotion.py"
        change(promotion, "number(at)", "number(at) * share")
        change(promotion, 'weekday = "int64"', 'weekday = "double"')
        change(promotion, 'bold = { type = "bool", missing = "default", default = false }', 'off = "double"')
        change(promotion, '"bold": np.where(np.isnan(share), None, share < 0.5)', '"off": 1 - share')
        with opened(shop) as publisher:
            assert publisher.features.build("promotion")["promotion"].because.startswith("published as 3")
        assert answer() == (1, "champion", "ok", [], old.prediction)
        # and a version is trained on the new form
        change(bakery / "models/bread/model.toml", lost, "shop/promotion.off")
        with opened(bakery) as trainer:
            number = trainer.models["bread"].train().version
            trainer.models["bread"].promote(number, because="a new form", override=True)
        # then the server's answer is the lock's, of both versions, beside each other
        new = bread.try_row(row, version=number)
        assert new.features["shop/promotion.off"] == 1 - new.features["shop/promotion.share"]
        assert new.features["shop/promotion.weekday"] == 6 * new.features["shop/promotion.share"]
        assert lost not in new.features
        assert new.prediction != old.prediction
        until = time.monotonic() + 20
        while answer()[0] != number and time.monotonic() < until:
            time.sleep(0.05)
        assert answer() == (number, "champion", "ok", [], new.prediction)
        assert (pinned(number), pinned(1)) == (new.prediction, old.prediction)

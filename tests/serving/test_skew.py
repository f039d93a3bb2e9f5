"""Skew: answers that were given other values than training would have seen are found, and only those."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from serving_stand import PlainModel, a_manifest, deployed

from towpath import features
from towpath.cli.features import command
from towpath.clock import FixedClock
from towpath.errors import InputError
from towpath.features import FeatureColumn, OnDemandInputLock, OnDemandLock
from towpath.features.encoding import RowSchema
from towpath.features.skew import Served as Sides
from towpath.features.skew import compare
from towpath.journal import Journal
from towpath.models import on_demand_of, pack_code
from towpath.models.manifest import Field, Signature
from towpath.platform import Platform
from towpath.registry import claims, versions
from towpath.registry.signing import Signer, make_keys
from towpath.serving.responder import Responder
from towpath.serving.served import Served
from towpath.traffic import point
from towpath.types import micros, utc

START = datetime(2026, 3, 9, tzinfo=UTC)
KEYS = [f"k{i}" for i in range(2_000) if point(f'["k{i}"]', "demand", "sample") < 1 / 16][:40]
"""Those whose features a server writes down."""
INPUTS = (Field(name="clicks.x", type="double"), Field(name="clicks.note", type="string"))
VIEW = """/* ---
entity = "id"
event_time = "event"
created_time = "landed_at"
ttl = "30d"
--- */
select id, event, landed_at, x, note from history
union all
select id, event, landed_at, x, note from landing.clicks
"""
SPINE = """/* ---
entity = "id"
time = "event"
label = "x"
--- */
select id, event, x from history
"""
MODEL = """
owner = "ana"
features = ["clicks.x", "clicks.note"]
[charter]
decision = "none"
[output]
kind = "number"
"""


class Story:
    """A project whose model reads one view, a server of it in this process, and a clock that is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in {
            "towpath.toml": '[project]\nname = "shop"\nteam = "area"\n',
            "features/clicks.sql": VIEW,
            "models/demand/training.sql": SPINE,
            "models/demand/model.toml": MODEL,
            "models/demand/model.py": "def train(data):\n    return None\n",
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        (folder / "warehouse").mkdir()
        self.rows = {(key, 0): (START, float(at), "a") for at, key in enumerate(KEYS)}
        self.land()
        with self.at(0) as platform:
            platform.features.build()
            self.table = platform.features.view("clicks").table
            locks = platform.features.locks(["clicks.x", "clicks.note"])
            self.manifest = a_manifest(
                features=locks,
                entity=("id",),
                signature=Signature(container="numpy", inputs=INPUTS, outputs=(Field(name="p", type="double"),)),
            )
            make_keys(folder / "keys")
            claims.claim_model(
                platform.objects, "demand", project="shop", team="area", by="ana", clock=FixedClock(START)
            )
            versions.next_version(platform.objects, "demand", run_id="r")
            versions.publish(platform.objects, self.manifest, {"model": b"model"}, Signer(folder / "keys"))

    def at(self, minutes: float) -> Platform:
        return Platform.open(self.folder, clock=FixedClock(START + timedelta(minutes=minutes)), variables={})

    def land(self) -> None:
        listed = [(key, START + timedelta(minutes=at), *rest) for (key, at), rest in self.rows.items()]
        names = ("id", "event", "landed_at", "x", "note")
        columns = dict(zip(names, map(list, zip(*listed, strict=True)), strict=True))
        pq.write_table(pa.table(columns), self.folder / "warehouse" / "history.parquet")

    def answer(self, minutes: float, *more: Mapping[str, Any]) -> None:
        """Ask for every key, and for what more is given, at a moment."""
        with self.at(minutes) as platform:
            reader = features.OnlineReader(platform.online, self.manifest.features, "shop")
            inputs = self.manifest.signature.inputs
            model = PlainModel(inputs=inputs, predict=lambda columns: {"p": np.zeros(len(columns["clicks.x"]))})
            deployment = deployed(Served(self.manifest, model, reader=reader))
            journal = Journal(self.folder / ".towpath" / "journal", server="s", clock=platform.clock)
            responder = Responder(_Live(deployment), clock=platform.clock, journal=journal, server="s")
            responder.answer("demand", [*({"id": key} for key in KEYS), *more])
            journal.close()

    def skew(self, minutes: float, **more: Any) -> dict[str, Any]:
        with self.at(minutes) as platform:
            found = platform.features.skew("demand", **{"share": 1.0, **more})
            assert found.left_out == {}
            return {one.feature: one for one in found.features}


class _Live:
    def __init__(self, deployment: Any) -> None:
        self.live = {"demand": deployment}


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path / "shop")


def test_answers_that_agree_with_training_show_no_skew(story: Story) -> None:
    # given rows from history and rows that were pushed, answered before and after
    story.answer(10)
    with story.at(20) as platform:
        event = (START + timedelta(minutes=15)).isoformat()
        platform.features.push("clicks", [{"id": key, "event": event, "x": 0.1, "note": None} for key in KEYS[:5]])
    story.answer(30)
    # and a late correction that nobody knew at the time
    for key in KEYS[:3]:
        story.rows[key, 0.5] = (START + timedelta(minutes=40), -1.0, "late")
    story.land()
    # then every answer is found as it was
    found = story.skew(60)
    assert {(name, one.compared, one.share) for name, one in found.items()} == {
        ("clicks.x", 80, 0.0),
        ("clicks.note", 80, 0.0),
    }
    assert found["clicks.x"].smape == 0.0


TOWNS = """/* ---
entity = ["town", "day"]
event_time = "event"
created_time = "landed_at"
--- */
select town, day, event, landed_at, size from towns
"""


def test_a_view_keyed_by_what_is_no_part_of_the_entity_is_replayed_by_the_keys_that_the_caller_sent(
    story: Story,
) -> None:
    # given a second view of the model by town and day, and a caller who names both; some name none, some one that nobody knows
    days = [date(2026, 3, 1), date(2026, 3, 2)]
    listed = [(t, day, START, START, float(10 * t + at)) for t in range(3) for at, day in enumerate(days)]
    columns = zip(("town", "day", "event", "landed_at", "size"), map(list, zip(*listed, strict=True)), strict=True)
    pq.write_table(pa.table(dict(columns)), story.folder / "warehouse" / "towns.parquet")
    (story.folder / "features" / "towns.sql").write_text(TOWNS)
    with story.at(0) as platform:
        platform.features.build()
        locks = platform.features.locks(["clicks.x", "clicks.note", "towns.size"])
        signature = replace(story.manifest.signature, inputs=(*INPUTS, Field(name="towns.size", type="double")))
        story.manifest = replace(story.manifest, version=2, features=locks, signature=signature)
        versions.next_version(platform.objects, "demand", run_id="r2")
        signer = Signer(story.folder / "keys")
        versions.publish(platform.objects, story.manifest, {"model": b"model"}, signer)
        table = platform.features.view("towns").table
    more = [{"id": key, "town": at % 3, "day": str(days[at % 2])} for at, key in enumerate(KEYS)]
    story.answer(10, *more, {"id": KEYS[0], "town": 99, "day": "2026-03-01"})
    found = story.skew(60)
    # then each answer is found as it was
    assert {name: (one.compared, one.share) for name, one in found.items()} == {
        "clicks.x": (81, 0.0),
        "clicks.note": (81, 0.0),
        "towns.size": (81, 0.0),
    }
    # and a value that was altered online is found in the answers that had it
    with story.at(11) as platform:
        kinds = RowSchema(keys=("int64", "date32[day]"), columns=(("size", "double"),))
        [row] = features.encoding.encode(
            [pa.array([micros(START)]), pa.array([micros(START)]), pa.array([-1.0])], kinds
        )
        features.write_rows(platform.online, table, [(features.key_bytes((1, days[1])), row)])
    story.answer(12, *more)
    size = story.skew(60)["towns.size"]
    assert size.mismatch == sum(one["town"] == 1 and one["day"] == "2026-03-02" for one in more) > 0
    assert {example.online for example in size.examples} == {-1.0}


def test_a_value_that_was_altered_online_is_found_with_its_key(story: Story) -> None:
    with story.at(1) as platform:
        kinds = RowSchema(keys=("string",), columns=(("x", "double"), ("note", "string")))
        columns = [pa.array([micros(START)]), pa.array([micros(START)]), pa.array([99.0]), pa.array(["a"])]
        [row] = features.encoding.encode(columns, kinds)
        features.write_rows(platform.online, story.table, [(f'["{KEYS[7]}"]'.encode(), row)])
    story.answer(10)
    found = story.skew(60)["clicks.x"]
    assert (found.compared, found.mismatch, found.stale, found.missing, found.extra) == (40, 1, 0, 0, 0)
    [example] = found.examples
    assert (example.entity_key, example.what, example.online, example.offline) == (
        f'["{KEYS[7]}"]',
        "mismatch",
        99.0,
        7.0,
    )
    assert found.beyond
    assert not story.skew(60, limit=0.05)["clicks.x"].beyond


def test_history_that_was_rewritten_without_a_build_is_a_mismatch(story: Story) -> None:
    story.answer(10)
    story.rows = {key: (landed, x * 2, note) for key, (landed, x, note) in story.rows.items()}
    story.land()
    found = story.skew(60)
    assert found["clicks.x"].mismatch == 39  # twice nothing is nothing
    assert found["clicks.note"].mismatch == 0
    assert round(found["clicks.x"].smape, 3) == round(39 / 40 * 2 / 3, 3)


def test_rows_that_landed_and_were_not_built_are_stale(story: Story) -> None:
    for key in KEYS[:4]:
        story.rows[key, 5] = (START + timedelta(minutes=6), 1_000.0, "new")
    story.land()
    story.answer(10)
    found = story.skew(60)["clicks.x"]
    assert (found.mismatch, found.stale) == (4, 4)
    assert {example.what for example in found.examples} == {"stale"}


def test_rows_that_are_online_only_or_offline_only_are_told_apart(story: Story) -> None:
    with story.at(1) as platform:
        for table in platform.online.tables():
            platform.online.drop(table)
    story.answer(5)
    assert story.skew(60)["clicks.x"].missing == 40
    with story.at(6) as platform:
        platform.features.build()
    story.answer(10)
    story.rows = {key: row for key, row in story.rows.items() if key[0] != KEYS[0]}
    story.land()
    found = story.skew(60, since=START + timedelta(minutes=7))["clicks.x"]
    assert (found.compared, found.extra, found.missing) == (40, 1, 0)


def test_what_a_caller_brings_is_not_compared(story: Story) -> None:
    key = KEYS[0]
    story.answer(10, {"id": key, "clicks.x": 5.0}, {"clicks.x": 5.0, "clicks.note": "b"})
    assert {one.compared for one in story.skew(60).values()} == {40}


def test_the_command_and_the_monitor_say_the_same(story: Story, tmp_path: Path) -> None:
    story.answer(10)
    with story.at(60) as platform:
        [good] = [one for one in platform.watch.check("demand") if one.monitor == "features_as_trained"]
        assert (good.status, good.error) == ("ok", "")
    story.rows = {key: (landed, x * 2, note) for key, (landed, x, note) in story.rows.items()}
    story.land()
    with story.at(60) as platform:
        [bad] = [one for one in platform.watch.check("demand") if one.monitor == "features_as_trained"]
        assert (bad.status, bad.failing_rows) == ("failing", 1)
        assert [one.monitor for one in platform.watch.incidents("demand", only_open=True)] == ["features_as_trained"]
    given = ["skew", "demand", "--project", str(story.folder), "--share", "100%"]
    window = ["--since", START.isoformat(), "--until", (START + timedelta(hours=1)).isoformat()]
    ran = CliRunner().invoke(command, [*given, *window, "--json"])
    assert ran.exit_code == 1
    assert json.loads(ran.stdout)["features"][0]["mismatch"] == 39
    ran = CliRunner().invoke(command, [*given, *window, "--limit", "100%"])
    assert ran.exit_code == 0
    assert "clicks.x" in ran.stdout


def test_numbers_within_the_tolerance_are_equal_and_defaults_are_no_skew() -> None:
    sides = Sides(
        entity_keys=["[1]"] * 4,
        at=[START] * 4,
        online=[1.0, 1.0, 0.0, "2026-03-09T00:00:00Z"],
        offline=[1.0 + 1e-9, 1.1, None, START],
        online_event_us=[1] * 4,
        offline_event_us=[1, 1, None, 1],
        default=0.0,
    )
    found = compare("demand", "clicks.x", sides, limit=0.25, tolerance=1e-6)
    assert (found.mismatch, found.missing, found.extra, found.beyond) == (1, 0, 0, False)
    assert compare("demand", "clicks.x", replace(sides, default=None), limit=0.25, tolerance=1e-6).extra == 1


BASKET = '''"""What a basket is beside the last one.

---
[inputs]
amount = "double"
x = "clicks.x"
now = "time"
[outputs]
share = "double"
hour = "double"
---
"""

import numpy as np


def basket(amount, x, now):
    return {"share": amount / x, "hour": ((now - now.astype("M8[D]")) // np.timedelta64(1, "h")).astype(float)}
'''


def test_an_on_demand_feature_is_computed_again_from_what_was_asked_and_what_was_known(tmp_path: Path) -> None:
    # given a version with a function of the request, of a view and of the moment
    story = Story(tmp_path / "shop")
    (story.folder / "features" / "basket.py").write_text(BASKET)
    code = pack_code(story.folder, None, [story.folder / "features" / "basket.py"])
    inputs = (
        OnDemandInputLock(name="amount", reads="request", type="double"),
        OnDemandInputLock(name="x", reads="clicks.x", type="double"),
        OnDemandInputLock(name="now", reads="time", type="timestamp[us, tz=UTC]"),
    )
    lock = OnDemandLock(
        project="shop",
        view="basket",
        path="features/basket.py",
        digest=f"sha256:{hashlib.sha256(BASKET.encode()).hexdigest()}",
        inputs=inputs,
        columns=(FeatureColumn(name="share", type="double"), FeatureColumn(name="hour", type="double")),
    )
    fields = (Field(name="basket.share", type="double"), Field(name="basket.hour", type="double"))
    signature = Signature(container="numpy", inputs=fields, outputs=(Field(name="p", type="double"),))
    manifest = replace(story.manifest, version=2, on_demand=(lock,), signature=signature, files=())
    with story.at(0) as platform:
        versions.next_version(platform.objects, "demand", run_id="second")
        signed = versions.publish(platform.objects, manifest, {"model": b"model", "code.zip": code}, platform.signer)
        functions = on_demand_of(code, signed.on_demand)

    def answer(minutes: float, rows: list[dict[str, Any]]) -> None:
        with story.at(minutes) as platform:
            reader = features.OnlineReader(platform.online, signed.features, "shop")
            model = PlainModel(inputs=fields, predict=lambda columns: {"p": np.zeros(len(columns["basket.share"]))})
            deployment = deployed(Served(signed, model, reader=reader, functions=functions))
            journal = Journal(story.folder / ".towpath" / "journal", server="s", clock=platform.clock)
            responder = Responder(_Live(deployment), clock=platform.clock, journal=journal, server="s")
            responder.answer("demand", rows)
            journal.close()

    # when it answers, before a row that lands in between and after it, and once with a value that the caller brought
    answer(10, [{"id": key, "amount": 2.0} for key in KEYS])
    for key in KEYS[1:4]:
        story.rows[key, 15] = (START + timedelta(minutes=20), 50.0, "late")
    story.land()
    answer(70, [{"id": key, "amount": 4.0} for key in KEYS])
    answer(71, [{"id": KEYS[1], "amount": 4.0, "basket.share": 7.0}])
    # then the late row is what differs, by its staleness; the moment and the request are as they were
    found = story.skew(120)
    share, hour = found["basket.share"], found["basket.hour"]
    assert (share.compared, share.mismatch, share.stale, share.missing, share.extra) == (80, 3, 3, 0, 0)
    assert (hour.compared, hour.share) == (80, 0.0)
    one = next(one for one in share.examples if one.entity_key == f'["{KEYS[2]}"]')
    assert (one.online, one.offline) == (2.0, 4.0 / 50)
    # and code that is not what was signed is not run
    with story.at(120) as platform:
        platform.objects.put("models/demand/versions/000002/code.zip", b"another")
        assert "is not what was signed" in platform.features.skew("demand", share=1.0).left_out["basket"]


def test_a_time_that_ends_before_it_begins_is_refused_and_is_not_no_answer(played: Path) -> None:
    refused = pytest.raises(InputError, match="begin at 2026-11-22 00:00 and end at 2026-11-21 00:00")
    with Platform.open(played, variables={}) as platform, refused:
        platform.features.skew("demand", since=utc("2026-11-22"), until=utc("2026-11-21"))

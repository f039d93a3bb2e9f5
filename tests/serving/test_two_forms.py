"""Two forms of one view under a server, its project and a build: whoever writes, both are what training would see."""

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_server import QUICK, Store, eventually

from online_stand import STORES, online_address
from towpath import features
from towpath.clock import SystemClock
from towpath.features.on_demand import gaps
from towpath.models.manifest import Field
from towpath.platform import Platform
from towpath.platform.own_landing import on_own_landing
from towpath.project.declarations import FeatureDeclaration
from towpath.types import micros

SQL = """/* ---
entity = [{entity}]
event_time = "event"
created_time = "landed_at"
--- */
select {keys}, event, landed_at, {history} from (select *, 's' as shop from history){where}
union all
select {keys}, event, landed_at, {pushed} from landing.clicks{where}
"""
INPUTS = (Field(name="clicks.x", type="double"), Field(name="Column_1", type="double"))
KEYS = ["a", "b", "never"]


class Story:
    """A project and the store of a server beside it, over one online store."""

    def __init__(self, folder: Path, online: str) -> None:
        (folder / "store").mkdir()
        self.store = Store(folder / "store")
        self.folder = folder / "project"
        self.online = online
        (self.folder / "features").mkdir(parents=True)
        (self.folder / "warehouse").mkdir()
        (self.folder / "towpath.toml").write_text(
            '[project]\nname = "shop"\nteam = "area"\n'
            f'[stores]\nobjects = "{self.store.url}"\nonline = "{online}"\nonline_timeout_ms = 1000\n'
        )
        now = SystemClock().now() - timedelta(minutes=1)
        rows = {"id": ["a", "b"], "event": [now] * 2, "landed_at": [now] * 2, "x": [1.0, 2.0], "note": ["h", None]}
        pq.write_table(pa.table(rows), self.folder / "warehouse" / "history.parquet")
        self.say()

    def say(
        self, where: str = "", *, history: str = "x, note", pushed: str = "x, note", keys: tuple[str, ...] = ("id",)
    ) -> None:
        entity = ", ".join(f'"{key}"' for key in keys)
        text = SQL.format(where=where, history=history, pushed=pushed, keys=", ".join(keys), entity=entity)
        (self.folder / "features" / "clicks.sql").write_text(text)

    def opened(self) -> Platform:
        return Platform.open(self.folder, variables={})

    def promote(self, platform: Platform) -> Any:
        """Publish a version that was trained on the view as it stands, and make it the champion; gives its locks."""
        platform.features.record(["clicks.x"])
        views = {"clicks": platform.features.view("clicks")}
        locks = features.lock(views, ["clicks.x"], {"clicks.x": FeatureDeclaration(missing="refuse")})
        self.store.promote(self.store.publish(5.0, inputs=INPUTS, features=locks, entity=("id",)))
        return locks


def online(platform: Platform, locks: Any) -> list[float | None]:
    found = features.OnlineReader(platform.online, locks, "shop").read({"id": KEYS}, 3, micros(platform.now()))
    return [None if np.isnan(x) else x for x in found.columns["clicks.x"].tolist()]


def offline(platform: Platform, locks: Any) -> list[float | None]:
    views = {"clicks": on_own_landing(platform, features.view_of_lock(locks[0]))}
    spine = pa.table({"id": KEYS, "t": [platform.now()] * len(KEYS)})
    warehouse = platform.warehouse
    return (
        features.training_set(warehouse, spine, keys=["id"], time="t", features=["clicks.x"], views=views)
        .column("clicks.x")
        .to_pylist()
    )


@pytest.mark.parametrize("engine", STORES)
def test_both_forms_of_a_view_live_until_no_lock_needs_the_older(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> None:
    address = online_address(engine, request)
    story = Story(tmp_path, f"lmdb://{tmp_path}/online" if engine == "lmdb" else address)

    def agree(x: list[float | None], *forms: Any) -> None:
        """Each form is online what it is offline, once what a server wrote down has come to the store."""
        with story.opened() as platform:
            for locks in forms:
                assert online(platform, locks) == x
                eventually(lambda locks=locks: offline(platform, locks) == x)
            read = platform.features.read(["clicks.x"], {"id": KEYS})["clicks.x"]
            assert [None if np.isnan(one) else one for one in read] == x
            assert [platform.features.get("clicks", [key])["clicks.x"] for key in KEYS] == x

    # given a champion that reads a view, and a server of it
    with story.opened() as platform:
        assert list(platform.features.build()) == ["clicks"]
        older = story.promote(platform)
    agree([1.0, 2.0, None], older)
    with (
        story.store.server(QUICK, online_url=story.online, online_timeout_ms=1_000) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.ports.http}", timeout=20) as client,
    ):

        def post(key: str, x: float) -> None:
            event = SystemClock().now().isoformat()
            answer = client.post("/features/clicks", json={"id": key, "event": event, "x": x})
            assert (answer.status_code, answer.json().get("accepted")) == (200, 1), answer.text

        def version() -> int:
            rows = [{"id": "a", "Column_1": 0.0}]
            row = client.post("/predict/demand", json=rows).json()["predictions"][0]
            assert (row["source"], row["missing"]) == ("champion", []), row
            return row["version"]

        post("a", 3.0)
        agree([3.0, 2.0, None], older)
        # when the view computes something else, then a build brings up both forms
        story.say(" where x < 100", history="x", pushed="x")
        with story.opened() as platform:
            assert [(row.version, row.breaks) for row in platform.features.plan("clicks")] == [(2, ()), (1, ())]
            assert list(platform.features.build()) == ["clicks", "clicks, version 1"]
            assert platform.features.prune() == []
            newer = platform.features.locks(["clicks.x"])
        agree([3.0, 2.0, None], newer, older)
        # and what the project pushes is in both at once: the champion still reads the older
        with story.opened() as platform:
            event = platform.now().isoformat()
            assert platform.features.push("clicks", [{"id": "b", "event": event, "x": 4.0}]).accepted == 1
        agree([3.0, 4.0, None], newer, older)
        # and what is pushed to the server, which knows the older form alone, is in the newer with the next build
        post("a", 5.0)
        with story.opened() as platform:
            assert online(platform, older) == [5.0, 4.0, None]
            eventually(lambda: offline(platform, newer) == [5.0, 4.0, None])
            platform.features.build()
        agree([5.0, 4.0, None], newer, older)
        # when a version that was trained on the newer form takes over, then the server writes both
        with story.opened() as platform:
            newer = story.promote(platform)
        eventually(lambda: version() == 2)
        post("b", 6.0)
        os.kill(server.pids[0], signal.SIGKILL)  # what was acknowledged is in both, though nobody flushed it
        agree([5.0, 6.0, None], newer, older)
        eventually(lambda: server.restarts and server.ready_pids)
        with story.opened() as platform:
            assert platform.features.prune() == []
            # and when the next one has, nobody needs the older
            story.promote(platform)
        eventually(lambda: version() == 3)
        with story.opened() as platform:
            table = features.view_of_lock(older[0]).table
            gone = [name for row in platform.features.plan() if row.work == "prune" for name in row.prunes]
            assert {name.split("~")[0] for name in gone} == {table, "landing.clicks"}
            assert [one.table for one in platform.features.prune()] == gone
            assert list(platform.features.build()) == ["clicks"]
            assert online(platform, older) == [None] * 3
        post("a", 7.0)
        assert version() == 3
    agree([7.0, 6.0, None], newer)


def read(platform: Platform, locks: Any, feature: str) -> list[list[Any]]:
    """A feature of each key online, and as training would see it; of a key of two parts the second is ``s``."""
    keys = {key: KEYS if key == "id" else ["s"] * 3 for key in locks[0].entity}
    now = platform.now()
    there = features.OnlineReader(platform.online, locks, "shop").read(keys, 3, micros(now)).columns[feature]
    view = on_own_landing(platform, features.view_of_lock(locks[0]))
    spine = pa.table(keys | {"t": [now] * 3})
    seen = features.training_set(
        platform.warehouse, spine, keys=list(keys), time="t", features=[feature], views={"clicks": view}
    )
    online = [None if gap else x for x, gap in zip(there.tolist(), gaps(there), strict=True)]
    return [online, seen.column(feature).to_pylist()]


@pytest.mark.parametrize(
    ("form", "feature", "row", "now", "then", "refusal"),
    [
        (
            {"history": "note", "pushed": "note"},
            "clicks.note",
            {"id": "b", "note": "new"},
            ["p", "new", None],
            [3.0, None, None],  # the older form has the row, which says nothing of x
            "The view has no column 'x'",
        ),
        (
            {"history": "cast(x as varchar) as x, note", "pushed": "x, note"},
            "clicks.x",
            {"id": "b", "x": "4.5"},
            ["1.0", "4.5", None],
            [3.0, 2.0, None],
            "'x' is 7.0, which is no string",
        ),
        (
            {"keys": ("id", "shop")},
            "clicks.x",
            {"id": "b", "shop": "s", "x": 4.5},
            [1.0, 4.5, None],
            [3.0, 2.0, None],
            "The key 'shop' is missing",
        ),
    ],
    ids=["dropped", "retyped", "re-keyed"],
)
def test_rows_pushed_under_each_form_are_built_for_the_forms_that_they_fit(
    tmp_path: Path,
    form: dict[str, Any],
    feature: str,
    row: dict[str, Any],
    now: list[Any],
    then: list[Any],
    refusal: str,
) -> None:
    story = Story(tmp_path, f"lmdb://{tmp_path}/online")

    def pushed(platform: Platform, row: dict[str, Any]) -> Any:
        return platform.features.push("clicks", [{"event": platform.now().isoformat(), **row}])

    # given a row that was pushed under the form that the champion reads
    with story.opened() as platform:
        platform.features.build()
        older = story.promote(platform)
        assert pushed(platform, {"id": "a", "x": 3.0, "note": "p"}).accepted == 1
    # when the view has another form, and a row is pushed in it
    story.say(**form)
    with story.opened() as platform:
        file, before = platform.features.plan("clicks")
        assert (file.version, file.breaks, before.version) == (2, (), 1)
        lacking = "rows that are pushed to 'clicks' now have no 'x', which is missing in version 1 from then on"
        assert before.breaks == ((f"demand@1 (champion): {lacking}",) if feature == "clicks.note" else ())
        assert list(platform.features.build()) == ["clicks", "clicks, version 1"]
        newer = platform.features.locks([feature])
        assert read(platform, older, "clicks.x") == [[3.0, 2.0, None]] * 2
        taken = pushed(platform, row)
        assert (taken.accepted, taken.without) == (1, ("x",) if feature == "clicks.note" else ())
        told = pushed(platform, {"id": "a", "x": 7.0})
        assert (told.accepted, told.refused) == (0, 1)
        assert told.problems[0].error.startswith(refusal)
        assert "the form from before, which takes no rows any more: send id string, " in told.problems[0].error
        # then each form has online, before and after a build, what training sees
        for full in (False, True):
            assert read(platform, newer, feature) == [now] * 2
            assert read(platform, older, "clicks.x") == [then] * 2
            platform.features.build(full=full)


def test_pushed_rows_of_the_fuller_form_are_built_where_the_file_went_back_to_fewer_columns(tmp_path: Path) -> None:
    story = Story(tmp_path, f"lmdb://{tmp_path}/online")
    # given a champion on a form with a column more than the first one
    story.say(history="note", pushed="note")
    with story.opened() as platform:
        platform.features.build()
    story.say(history="note, x", pushed="note, x")
    with story.opened() as platform:
        assert platform.features.view("clicks").number == 2
        platform.features.build()
        fuller = story.promote(platform)
        now = platform.now().isoformat()
        assert platform.features.push("clicks", [{"id": "a", "event": now, "x": 3.0, "note": "p"}]).accepted == 1
    # when the file is the first one again
    story.say(history="note", pushed="note")
    with story.opened() as platform:
        assert platform.features.view("clicks").number == 1
        platform.features.build(full=True)
        assert read(platform, fuller, "clicks.x") == [[3.0, 2.0, None]] * 2
        fewer = platform.features.locks(["clicks.note"])
        assert read(platform, fewer, "clicks.note") == [["p", None, None]] * 2

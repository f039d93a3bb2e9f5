"""Pushed rows beside history: whatever is pushed, landed, flushed and built in whatever order, online equals offline."""

import itertools
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from towpath.clock import FixedClock
from towpath.errors import InputError, ProjectError, UnknownError
from towpath.platform import Platform

START = datetime(2026, 3, 9, tzinfo=UTC)
SQL = """/* ---
entity = "id"
event_time = "event"
{more}--- */
select id, event, {created} x, note from history
union all
select id, event, {created} x, note from landing.clicks
"""


def at(tick: int) -> datetime:
    return START + timedelta(milliseconds=tick)


def history(rows: list[tuple[str | None, int, int, float]]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array([row[0] for row in rows], pa.string()),
            "event": pa.array([at(row[1]) for row in rows], pa.timestamp("us", "UTC")),
            "landed_at": pa.array([at(row[2]) for row in rows], pa.timestamp("us", "UTC")),
            "x": pa.array([row[3] for row in rows], pa.float64()),
            "note": pa.array(["h"] * len(rows), pa.string()),
        }
    )


def project(folder: Path, *, declared: bool = True, ttl: str | None = None, sql: str | None = None) -> Path:
    """A project of one view, ``clicks``, that unions history with what is pushed."""
    (folder / "features").mkdir(parents=True)
    (folder / "warehouse").mkdir()
    (folder / "towpath.toml").write_text('[project]\nname = "shop"\nteam = "area"\n')
    pq.write_table(history([]), folder / "warehouse" / "history.parquet")
    more = ('created_time = "landed_at"\n' if declared else "") + (f'ttl = "{ttl}"\n' if ttl else "")
    text = sql or SQL.format(more=more, created="landed_at," if declared else "")
    (folder / "features" / "clicks.sql").write_text(text)
    return folder


def opened(folder: Path, moment: datetime = START) -> Platform:
    return Platform.open(folder, clock=FixedClock(moment), variables={})


def landing(platform: Platform) -> list[dict[str, Any]]:
    from towpath.sql import Query

    return platform.warehouse.read(Query.parse("select * from landing.clicks order by event, x")).to_pylist()


def row(key: str = "a", tick: int = 0, x: float | None = 1.0, **more: Any) -> dict[str, Any]:
    return {"id": key, "event": at(tick).isoformat(), "x": x, **more}


def test_a_pushed_row_is_online_at_once_and_in_the_landing_table(tmp_path: Path) -> None:
    with opened(project(tmp_path), at(5)) as platform:
        # given nothing that landed: the table is there, empty, with the view's columns
        assert landing(platform) == []
        # when rows are pushed
        answer = platform.features.push("clicks", [row("a", 3, 1.5, note="new"), row("é", 4, None)])
        # then they are online without a build, and in the landing table
        assert (answer.accepted, answer.unchanged, answer.refused) == (2, 0, 0)
        values = platform.features.read(["clicks.*"], {"id": ["a", "é"]})
        assert values["clicks.note"].tolist() == ["new", None]
        assert landing(platform) == [
            {"id": "a", "event": at(3), "landed_at": at(5), "x": 1.5, "note": "new"},
            {"id": "é", "event": at(4), "landed_at": at(5), "x": None, "note": None},
        ]


def test_the_same_row_sent_again_changes_nothing(tmp_path: Path) -> None:
    folder = project(tmp_path)
    with opened(folder, at(5)) as platform:
        platform.features.push("clicks", row("a", 3))
    with opened(folder, at(9)) as platform:
        answer = platform.features.push("clicks", [row("a", 3), row("a", 3)])
        assert (answer.accepted, answer.unchanged) == (0, 2)
        assert [one["landed_at"] for one in landing(platform)] == [at(5)]


def test_a_row_that_reached_the_disk_twice_is_one_row_of_the_landing_table(tmp_path: Path) -> None:
    folder = project(tmp_path)
    for tick in (5, 9):
        with opened(folder, at(tick)) as platform:
            platform.features.push("clicks", row("a", 3))
            platform.online.drop(platform.features.view("clicks").table)  # as if it had not come so far
    with opened(folder, at(9)) as platform:
        assert [one["landed_at"] for one in landing(platform)] == [at(5)]


def test_a_correction_and_its_withdrawal_are_three_rows(tmp_path: Path) -> None:
    folder = project(tmp_path)
    for tick, x in ((5, 1.0), (6, 2.0), (7, 1.0)):
        with opened(folder, at(tick)) as platform:
            platform.features.push("clicks", row("a", 3, x))
    with opened(folder, at(8)) as platform:
        assert sorted((one["landed_at"], one["x"]) for one in landing(platform)) == [
            (at(5), 1.0),
            (at(6), 2.0),
            (at(7), 1.0),
        ]
        assert platform.features.read(["clicks.x"], {"id": ["a"]})["clicks.x"].tolist() == [1.0]


def test_frames_and_tables_are_pushed_as_dicts_are(tmp_path: Path) -> None:
    with opened(project(tmp_path), at(5)) as platform:
        frame = pd.DataFrame({"id": ["a", "b"], "event": pd.to_datetime([at(1), at(2)]), "x": [1.0, np.nan]})
        assert platform.features.push("clicks", frame).accepted == 2
        assert platform.features.push("clicks", pl.DataFrame({"id": ["c"], "event": [at(3)], "x": [3.0]})).accepted == 1
        assert platform.features.push("clicks", pa.table({"id": ["d"], "event": [at(3)], "x": [4]})).accepted == 1
        x = platform.features.read(["clicks.x"], {"id": ["a", "b", "c", "d"]})["clicks.x"]
        assert [None if np.isnan(one) else one for one in x] == [1.0, None, 3.0, 4.0]


def test_rows_that_do_not_fit_are_counted_and_named(tmp_path: Path) -> None:
    with opened(project(tmp_path), at(5)) as platform:
        answer = platform.features.push("clicks", [row(), row(x="1"), row("b", 1)])  # pyright: ignore[reportArgumentType]
        assert (answer.accepted, answer.refused, answer.problems[0].row) == (2, 1, 1)
        with pytest.raises(UnknownError, match="did you mean 'clicks'"):
            platform.features.push("click", [row()])


def test_a_view_that_is_not_kept_online_takes_no_rows(tmp_path: Path) -> None:
    sql = SQL.format(more='created_time = "landed_at"\nonline = false\n', created="landed_at,")
    with opened(project(tmp_path, sql=sql)) as platform, pytest.raises(InputError, match="not kept online"):
        platform.features.push("clicks", [row()])


def test_a_call_of_which_no_row_fits_is_an_answer_too(tmp_path: Path) -> None:
    with opened(project(tmp_path), at(5)) as platform:
        answer = platform.features.push("clicks", [{"id": "a"}, 7])
        assert (answer.accepted, answer.refused) == (0, 2)
        assert [one.error for one in answer.problems] == [
            "'event', the event time, is missing.",
            "It is no JSON object.",
        ]


def test_pushed_rows_stay_as_long_as_the_view_says_and_builds_do_not_take_that_for_a_loss(tmp_path: Path) -> None:
    # given a view whose pushed rows stay for two days, and rows of three days
    sql = SQL.format(more='created_time = "landed_at"\nlanding_keep = "2d"\nttl = "2d"\n', created="landed_at,")
    folder = project(tmp_path, sql=sql)
    for day in range(3):
        with opened(folder, START + timedelta(days=day, hours=12)) as platform:
            event = (START + timedelta(days=day, hours=11)).isoformat()
            platform.features.push("clicks", [{"id": key, "event": event, "x": float(day)} for key in "ab"])
            platform.features.build()
    # when it is built two days after the first of them had ended
    with opened(folder, START + timedelta(days=3, hours=1)) as platform:
        built = platform.features.build()["clicks"]
        # then its rows are gone from the table, the others are there, and it is a build of what is new
        assert sorted({one["x"] for one in landing(platform)}) == [1.0, 2.0]
        assert (built.work, built.entities) == ("since", 2)
        assert platform.features.read(["clicks.x"], {"id": ["a", "b"]})["clicks.x"].tolist() == [2.0, 2.0]


def test_a_whole_build_does_not_take_back_what_another_machine_has_pushed_and_not_flushed(tmp_path: Path) -> None:
    folder = project(tmp_path)
    with opened(folder, at(5)) as platform:
        platform.features.build()
        platform.features.push("clicks", row("a", 3, 1.5))
    shutil.rmtree(folder / ".towpath" / "journal")  # it lies on that machine's disk
    with opened(folder, at(6)) as platform:
        assert platform.features.build(full=True)["clicks"].work == "everything"
        assert landing(platform) == []
        assert platform.features.read(["clicks.x"], {"id": ["a"]})["clicks.x"].tolist() == [1.5]


WITH = """/* ---
entity = "id"
event_time = "event"
created_time = "landed_at"
--- */
with daily as (select id, event, landed_at, x, note from history)

select id, event, landed_at, x, note from daily
union all
select id, event, landed_at, x, note from landing.clicks
"""


def test_a_union_after_a_with_knows_its_columns_and_its_landing_table_is_nobodys_source(tmp_path: Path) -> None:
    with opened(project(tmp_path, sql=WITH), at(5)) as platform:
        platform.features.push("clicks", row("a", 3, 1.5))
        platform.features.build()
        assert platform.features.read(["clicks.x"], {"id": ["a"]})["clicks.x"].tolist() == [1.5]
        assert [one.source for one in platform.sources.list()] == ["history"]
        assert platform.features.plan("clicks")[0].ill_sources == ()
    # a column in both legs keeps the version and its rows, and both commands say the same of it
    wider = WITH.replace("landed_at, x, note from daily", "landed_at, x, note, 1.5 as one from daily")
    wider = wider.replace("x, note from landing", "x, note, cast(one as double) as one from landing")
    (tmp_path / "features" / "clicks.sql").write_text(wider)
    with opened(tmp_path, at(6)) as platform:
        assert platform.features.plan("clicks")[0].change == "added 'one'"
        assert platform.features.read(["clicks.x"], {"id": ["a"]})["clicks.x"].tolist() == [1.5]
        told = platform.features.diff("clicks", 1, "working")
        assert (told.added, told.computation) == (("one",), "")


ALONE = """/* ---
entity = "id"
event_time = "event"
created_time = "landed_at"
--- */
select {id}, event, landed_at, cast(x as double) as x, x * 2 as twice from landing.clicks
"""


def test_a_view_of_pushed_rows_alone_says_its_types_by_casts(tmp_path: Path) -> None:
    sql = ALONE.format(id="cast(id as varchar) as id").replace(", x * 2 as twice", "")
    with opened(project(tmp_path / "cast", sql=sql), at(5)) as platform:
        assert platform.features.view("clicks").key_types == ("string",)
        platform.features.push("clicks", row("a", 3, 1.5))
        platform.features.build()
        assert platform.features.get("clicks", ["a"])["clicks.x"] == 1.5
    sql = ALONE.format(id="id").replace(", x * 2 as twice", "")
    with (
        opened(project(tmp_path / "open", sql=sql)) as platform,
        pytest.raises(ProjectError, match="type of 'id' is said nowhere"),
    ):
        platform.features.view("clicks")


def test_what_is_laid_out_for_a_form_that_nobody_reads_is_pruned_and_laid_out_again_where_it_is_asked_for(
    tmp_path: Path,
) -> None:
    sql = ALONE.format(id="cast(id as varchar) as id")
    with opened(project(tmp_path, sql=sql), at(5)) as platform:
        platform.features.push("clicks", row("a", 3, 1.5))
        platform.features.build()
    (tmp_path / "features" / "clicks.sql").write_text(sql.replace(", x * 2 as twice", ""))
    with opened(tmp_path, at(6)) as platform:
        # given a form that was looked at
        platform.features.build()
        told = platform.features.diff("clicks", 1, "working")
        assert told.dropped == ("twice",)
        rows = [one for one in platform.features.plan() if one.work == "prune"]
        laid = [name for one in rows for name in one.prunes if name.startswith("landing.clicks~")]
        assert len(laid) == 1
        # when tables are pruned, then it goes, and the view's own stays
        assert [one.table for one in platform.features.prune() if one.rows is None] == laid
        (folder,) = (tmp_path / ".towpath" / "landing").glob("*/shop")
        assert [each.name for each in folder.iterdir()] == ["clicks"]
        assert platform.features.prune() == []
    with opened(tmp_path, at(6)) as platform:
        assert platform.features.diff("clicks", 1, "working") == told


def test_the_landing_table_has_the_columns_of_the_view(tmp_path: Path) -> None:
    sql = SQL.format(more='created_time = "landed_at"\n', created="landed_at,").replace(
        "x, note from land", "y, note from land"
    )
    with (
        opened(project(tmp_path, sql=sql)) as platform,
        pytest.raises(ProjectError, match=r"'landing\.clicks' has no column 'y'"),
    ):
        platform.features.view("clicks")


def test_a_table_of_the_company_that_is_called_landing_goes_first(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "warehouse" / "landing").mkdir()
    pq.write_table(history([("own", 1, 1, 1.0)]), folder / "warehouse" / "landing" / "clicks.parquet")
    with opened(folder, at(5)) as platform:
        assert [one["id"] for one in landing(platform)] == ["own"]


numbers = itertools.count()
keys = st.sampled_from(["1", "11", "é"])
landings = st.lists(st.tuples(keys, st.integers(0, 9), st.integers(0, 9)), max_size=4)
pushes = st.lists(st.tuples(keys, st.integers(0, 9), st.sampled_from([1.0, 2.0, None])), max_size=4)
steps = st.lists(
    st.tuples(st.integers(0, 2), landings, pushes, st.sampled_from(["build", "flush", "wait"])), min_size=1, max_size=5
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, ttl=st.one_of(st.none(), st.integers(0, 9)), declared=st.booleans())
def test_online_equals_offline_after_any_pushes_landings_flushes_and_builds(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, list[tuple[str, int, int]], list[tuple[str, int, float | None]], str]],
    ttl: int | None,
    declared: bool,
) -> None:
    # given a view over history and pushed rows; history lands in its own time, and says something of its own
    folder = project(
        tmp_path_factory.mktemp("law") / str(next(numbers)),
        declared=declared,
        ttl=None if ttl is None else f"{20 * ttl}ms",
    )
    landed: list[tuple[str | None, int, int, float]] = []
    now = 10
    for wait, batch, rows, then in steps:
        now += wait
        # a full tie of history and a pushed row may be won by either: history here never ties with what is pushed
        landed += [(key, 20 * event + 1, 20 * created, float(event + 10 * created)) for key, event, created in batch]
        unique = {(one[0], one[1], one[2] if declared else 0): one for one in landed}
        pq.write_table(history(list(unique.values())), folder / "warehouse" / "history.parquet")
        with opened(folder, at(20 * now)) as platform:
            if rows:
                platform.features.push("clicks", [row(key, 20 * event, x) for key, event, x in rows])
            if then == "flush":
                platform.watch.flush()
            if then == "build":
                platform.features.build()
    # when all is built as of now
    with opened(folder, at(20 * now)) as platform:
        platform.features.build()
        # then every key reads online what it reads offline
        asked = ["1", "11", "é", "never"]
        online = platform.features.read(["clicks.x"], {"id": asked})["clicks.x"]
        spine = pa.table({"id": asked, "t": pa.array([at(20 * now)] * len(asked))})
        offline = platform.features.training_set(spine, ["clicks.x"], keys=["id"], time="t")
        assert [None if np.isnan(one) else one for one in online] == offline.column("clicks.x").to_pylist()

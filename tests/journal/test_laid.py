"""Pushed rows laid out day by day: whatever lands, is merged or expires, it is what laying all out at once would give."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from towpath.clock import FixedClock
from towpath.journal.days import add, day_files, expire, newest, put_file
from towpath.journal.laid import LaidOut
from towpath.journal.landing import landing_sql
from towpath.journal.unfold import schema_of
from towpath.project.declarations import FeatureHeader
from towpath.project.folder import ViewFile
from towpath.sql import Query
from towpath.stores.objects import Objects
from towpath.warehouse import Engine

START = datetime(2026, 3, 9, tzinfo=UTC)
TABLE = "landing/shop/clicks"
SHAPE = pa.schema([("id", pa.string()), ("event", pa.timestamp("us", "UTC")), ("landed_at", pa.timestamp("us", "UTC")), ("x", pa.int64())])  # fmt: skip
Landed = tuple[str, int, int, int]
"""Key, hour of the event, hour of arrival, value."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    opened = Engine(memory_mib=256, threads=1)
    yield opened
    opened.close()


def sql(raw: str, *, declared: bool = True) -> str:
    header = FeatureHeader(entity="id", event_time="event", created_time="landed_at" if declared else None)
    schema = SHAPE if declared else pa.schema([field for field in SHAPE if field.name != "landed_at"])
    return landing_sql(ViewFile(name="clicks", query=Query.parse("select 1 as x"), header=header), schema, raw=raw)


def rows(landed: list[Landed]) -> pa.Table:
    return pa.table(
        {
            "entity_key": [f'["{row[0]}"]' for row in landed],
            "event_time": [START + timedelta(hours=row[1]) for row in landed],
            "arrived_at": [START + timedelta(hours=row[2]) for row in landed],
            "place": [10 * row[2] + row[3] for row in landed],
            "row": [f'{{"id":"{row[0]}","x":{row[3]}}}' for row in landed],
            "row_digest": [str(row[3]) for row in landed],
            "consumer": ["till"] * len(landed),
        },
        schema=pa.schema([schema_of(TABLE).field(name) for name in ("entity_key", "event_time", "arrived_at", "place", "row", "row_digest", "consumer")]),
    )  # fmt: skip


def land(objects: Objects, name: str, landed: list[Landed]) -> None:
    """As the flusher does: a file for each day of arrival."""
    for day, of_day in itertools.groupby(sorted(landed, key=lambda row: row[2]), lambda row: row[2] // 24):
        some = list(of_day)
        date = f"{START + timedelta(days=day):%Y-%m-%d}"
        path = put_file(objects, TABLE, date, name, rows(some))
        add(objects, TABLE, date, {path: len(some)}, clock=FixedClock(START))


def content(engine: Engine, files: list[Path]) -> list[dict[str, object]]:
    found = [one for file in files for one in pq.read_table(file).to_pylist()]
    return sorted(found, key=repr)


numbers = itertools.count()
landings = st.lists(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.integers(24, 95), st.integers(0, 2)),
        min_size=1,
        max_size=5,
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(landed=landings, expired=st.sampled_from([0, 0, 2, 3]), declared=st.booleans())
def test_bringing_it_up_step_by_step_is_laying_it_out_at_once(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, landed: list[list[Landed]], expired: int, declared: bool
) -> None:
    # given rows that land bit by bit, some of them again, and days of arrival that are taken out at the end
    folder = tmp_path_factory.mktemp("laid") / str(next(numbers))
    objects = Objects(str(folder / "objects"))
    compiled = sql if declared else lambda raw: sql(raw, declared=False)
    step_by_step = LaidOut(folder / "one", engine, objects, TABLE)
    for number, some in enumerate(landed):
        land(objects, f"flush-{number}", some)
        step_by_step.brought_up(day_files(objects, TABLE), compiled)
    if expired:
        expire(objects, TABLE, before=START + timedelta(days=expired), clock=FixedClock(START))
    files = day_files(objects, TABLE)
    # then it is what one pass over the journal gives
    at_once = LaidOut(folder / "other", engine, objects, TABLE).brought_up(files, compiled)
    assert content(engine, step_by_step.brought_up(files, compiled)) == content(engine, at_once)


def test_only_the_days_that_something_landed_for_are_written_again(tmp_path: Path, engine: Engine) -> None:
    objects = Objects(str(tmp_path / "objects"))
    laid = LaidOut(tmp_path / "laid", engine, objects, TABLE)
    land(objects, "one", [("a", 1, 30, 1), ("a", 25, 30, 2)])
    first, second = laid.brought_up(day_files(objects, TABLE), sql)
    land(objects, "two", [("b", 26, 40, 3)])
    assert laid.brought_up(day_files(objects, TABLE), sql)[0] == first
    assert second not in laid.brought_up(day_files(objects, TABLE), sql)
    # and another process goes on where this one was
    again = LaidOut(tmp_path / "laid", engine, objects, TABLE).brought_up(day_files(objects, TABLE), sql)
    assert again == laid.brought_up(day_files(objects, TABLE), sql)
    assert sorted(str(one["x"]) for one in content(engine, again)) == ["1", "2", "3"]


def test_other_types_lay_out_everything_and_a_damaged_folder_too(tmp_path: Path, engine: Engine) -> None:
    objects = Objects(str(tmp_path / "objects"))
    laid = LaidOut(tmp_path / "laid", engine, objects, TABLE)
    land(objects, "one", [("a", 1, 30, 1)])
    files = day_files(objects, TABLE)
    before = laid.brought_up(files, sql)
    other = laid.brought_up(files, lambda raw: sql(raw, declared=False))
    assert [set(one) for one in content(engine, other)] == [{"id", "event", "x"}]
    for damage in ("{", '{"schema": 99}', '{"schema": 1, "files": [], "days": {"x": 1}}'):
        (tmp_path / "laid" / "state.json").write_text(damage)
        assert content(engine, laid.brought_up(files, sql)) == content(engine, before)
    laid.brought_up(files, sql)[0].unlink()
    assert [one["x"] for one in content(engine, laid.brought_up(files, sql))] == [1]


def test_days_that_expired_are_gone_at_once_and_their_files_after_an_hour(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path / "objects"))
    land(objects, "one", [("a", 1, 30, 1), ("a", 2, 50, 2)])  # arrived on the 10th and the 11th
    kept = day_files(objects, TABLE)
    ended = START + timedelta(days=2)
    assert expire(objects, TABLE, before=ended - timedelta(microseconds=1), clock=FixedClock(START)) == 0
    assert expire(objects, TABLE, before=ended, clock=FixedClock(START)) == 1
    assert day_files(objects, TABLE) == kept[1:]
    assert objects.exists(kept[0])
    # within the grace nothing more happens, after it nothing of the day is left
    assert expire(objects, TABLE, before=ended, clock=FixedClock(START + timedelta(minutes=59))) == 0
    assert objects.exists(kept[0])
    assert expire(objects, TABLE, before=ended, clock=FixedClock(START + timedelta(hours=1))) == 0
    assert objects.paths(f"journal/{TABLE}/2026-03-10/") == []
    # a flusher that comes late brings its rows, and the next time they go
    land(objects, "late", [("a", 1, 30, 1)])
    assert newest(objects, TABLE, "2026-03-10") is not None
    assert expire(objects, TABLE, before=ended, clock=FixedClock(START + timedelta(hours=2))) == 1
    assert day_files(objects, TABLE) == kept[1:]

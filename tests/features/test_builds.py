"""Builds follow landing: whatever lands in whatever order, what is read online is what training would read."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from online_stand import STORES, online_address
from towpath import features
from towpath.clock import FixedClock
from towpath.errors import ConflictError, InputError, ProjectError
from towpath.features import builds
from towpath.project.declarations import FeatureHeader
from towpath.project.folder import ViewFile
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.stores.online import OnlineStore, open_online
from towpath.types import micros
from towpath.warehouse import FileWarehouse, open_warehouse

START = datetime(2011, 9, 1, tzinfo=UTC)
CLOCK = FixedClock(START)
LATER = START + timedelta(days=1)


class Row(NamedTuple):
    """A row of a view at ticks of a millisecond."""

    key: str | None
    event: int | None
    created: int | None
    value: int


def at(tick: int | None) -> datetime | None:
    return None if tick is None else START + timedelta(milliseconds=tick)


def moment(tick: int) -> datetime:
    return START + timedelta(milliseconds=tick)


class Stand:
    """A warehouse and an online store; each case has a view of its own."""

    def __init__(self, folder: Path, url: str = "lmdb://online") -> None:
        self.root = folder
        self.url = url
        self.folder = folder / "warehouse"
        self.folder.mkdir(parents=True)
        self.warehouse: FileWarehouse = open_warehouse(WarehouseSettings(memory_mib=512, threads=1), folder, {})
        self.online: OnlineStore = open_online(url, folder)
        self._numbers = itertools.count()

    def land(self, name: str, rows: list[Row]) -> None:
        table = pa.table(
            {
                "id": pa.array([row.key for row in rows], pa.string()),
                "event": pa.array([at(row.event) for row in rows], pa.timestamp("us", "UTC")),
                "created": pa.array([at(row.created) for row in rows], pa.timestamp("us", "UTC")),
                "x": pa.array([float(row.value) for row in rows], pa.float64()),
            }
        )
        pq.write_table(table, self.folder / f"{name}.parquet")
        old = time.time() - 10 + next(self._numbers) / 1_000  # long ago, and no two alike: a state that can be trusted
        os.utime(self.folder / f"{name}.parquet", (old, old))

    def view(self, rows: list[Row], *, sql: str = "select * from {name}", **header: object) -> features.View:
        name = f"v{next(self._numbers)}"
        self.land(name, rows)
        query = Query.parse(sql.format(name=name), f"{name}.sql")
        declared = FeatureHeader(**{"entity": "id", "event_time": "event", **header})  # pyright: ignore[reportArgumentType]
        return features.describe(ViewFile(name=name, query=query, header=declared), self.warehouse, project="shop")

    def build(self, view: features.View, tick: int, *, since: int | None = None, full: bool = False) -> features.Built:
        begin = None if since is None else moment(since)
        return features.build(
            view, self.warehouse, self.online, as_of=moment(tick), since=begin, full=full, clock=CLOCK
        )

    def reader(self, view: features.View) -> features.OnlineReader:
        return features.OnlineReader(self.online, features.lock({view.name: view}, [f"{view.name}.x"]), "shop")

    def read(self, view: features.View, keys: list[str | None], tick: int) -> list[float | None]:
        found = self.reader(view).read({"id": keys}, len(keys), micros(moment(tick))).columns[f"{view.name}.x"]
        return [None if np.isnan(value) else value for value in found.tolist()]

    def known(self, view: features.View, keys: list[str | None], tick: int) -> list[float | None]:
        spine = pa.table({"id": pa.array(keys, pa.string()), "t": [moment(tick)] * len(keys)})
        name = f"{view.name}.x"
        joined = features.training_set(
            self.warehouse, spine, keys=["id"], time="t", features=[name], views={view.name: view}
        )
        return joined.column(name).to_pylist()


@pytest.fixture(scope="module", params=STORES)
def stand(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    opened = Stand(tmp_path_factory.mktemp("stand"), online_address(request.param, request))
    yield opened
    opened.warehouse.close()
    opened.online.close()


KEYS: list[str | None] = ["1", "11", "é", None, "never"]
ticks = st.one_of(st.none(), st.integers(0, 30))
landed_rows = st.lists(
    st.tuples(st.sampled_from(["1", "11", "é", None]), ticks, st.one_of(st.none(), st.integers(-4, 30))), max_size=4
)
steps = st.lists(
    st.tuples(
        landed_rows,
        st.integers(0, 6),
        st.sampled_from(["build", "build", "build", "full", "interval", "earlier", "no"]),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=steps,
    declared=st.booleans(),
    honest=st.booleans(),
    lookback=st.sampled_from([None, "0ms", "3ms", "1d"]),
    ttl=st.sampled_from([None, "5ms"]),
)
def test_after_any_order_of_landing_and_building_online_is_offline(
    stand: Stand,
    steps: list[tuple[list[tuple[str | None, int | None, int | None]], int, str]],
    declared: bool,
    honest: bool,
    lookback: str | None,
    ttl: str | None,
) -> None:
    # given a view that is followed by landing times or by its files; only honest landing times come when rows come
    header = {"created_time": "created" if declared else None, "ttl": ttl, "lookback": lookback}
    sql = "select * from {name}" if declared else "select id, event, x from {name}"
    rows: list[Row] = []
    view = stand.view(rows, sql=sql, **header)
    now = 0
    for batch, passed, step in steps:
        # when rows land late, in time, with times in the future, or as corrections, and some time passes
        now += passed
        for key, event, offset in batch:
            created = offset if not honest or offset is None else now + max(0, offset)
            rows.append(Row(key, event, created, hash((event, created)) % 1_000))
        stand.land(view.name, rows)
        if step == "interval":
            stand.build(view, now, since=max(0, now - 3))
        elif step == "earlier":
            stand.build(view, now // 2)
        elif step != "no":
            stand.build(view, now, full=step == "full")
            # then what is read online is what training would read at that moment
            assert stand.read(view, KEYS, now) == stand.known(view, KEYS, now)
    stand.build(view, now + 1)
    assert stand.read(view, KEYS, now + 1) == stand.known(view, KEYS, now + 1)


def test_only_what_landed_since_is_read(stand: Stand) -> None:
    # given a view that was built
    rows = [Row(str(i), 0, 0, i) for i in range(100)]
    view = stand.view(rows, created_time="created", lookback="5ms")
    assert stand.build(view, 100).work == "everything"
    # when two rows land: one of an old event, and a correction with the same event time
    rows += [Row("late", 1, 101, 7), Row("3", 0, 102, 333)]
    stand.land(view.name, rows)
    built = stand.build(view, 200)
    # then these two are read, and nothing else
    assert (built.work, built.rows, built.since) == ("since", 2, moment(95))
    assert built.because == "what landed since the last build, and 5ms before it"
    assert stand.read(view, ["late", "3", "4"], 200) == [7.0, 333.0, 4.0]


def test_a_row_of_a_later_event_counts_when_its_time_has_come(stand: Stand) -> None:
    view = stand.view([Row("1", 0, 0, 1), Row("1", 50, 0, 2)], created_time="created")
    stand.build(view, 10)
    assert stand.read(view, ["1"], 10) == [1.0]
    built = stand.build(view, 60)
    assert (built.work, built.rows, built.because) == ("since", 1, "time went on; its tables did not change")
    assert stand.read(view, ["1"], 60) == [2.0]


def test_nothing_is_done_where_nothing_changed(stand: Stand) -> None:
    view = stand.view([Row("1", 0, 0, 1)])
    stand.build(view, 10)
    built = stand.build(view, 10)
    assert (built.work, built.rows, built.entities) == ("nothing", 0, 1)


def test_without_a_landing_time_changed_files_are_read_whole_or_by_the_lookback(stand: Stand) -> None:
    rows = [Row("1", 0, None, 1), Row("2", 90, None, 2)]
    sql = "select id, event, x from {name}"
    whole, back = stand.view(rows, sql=sql), stand.view(rows, sql=sql, lookback="20ms")
    for view, work in ((whole, "everything"), (back, "since")):
        stand.build(view, 100)
        stand.land(view.name, [rows[0], Row("2", 90, None, 22)])
        built = stand.build(view, 110)
        assert built.work == work
        assert stand.read(view, ["1", "2"], 110) == [1.0, 22.0]


def test_a_value_that_was_changed_in_place_is_not_seen_and_the_plan_says_so(stand: Stand) -> None:
    view = stand.view([Row("1", 0, 0, 1)], created_time="created", lookback="5ms")
    stand.build(view, 100)
    stand.land(view.name, [Row("1", 0, 0, 2)])
    state = builds.build_state(stand.online, view.table)
    snapshot = features.snapshot_digest(view, stand.warehouse)
    due = features.due(view, state, stand.warehouse, as_of=moment(110), snapshot=snapshot)
    assert (due.work, due.unseen) == (
        "since",
        "a value that was changed in place, in a row that landed before that, needs --full",
    )
    stand.build(view, 110)
    assert stand.read(view, ["1"], 110) == [1.0]
    stand.build(view, 110, full=True)
    assert stand.read(view, ["1"], 110) == [2.0]
    # where no file changed, nothing can have been changed in place
    snapshot = features.snapshot_digest(view, stand.warehouse)
    again = features.due(
        view, builds.build_state(stand.online, view.table), stand.warehouse, as_of=moment(120), snapshot=snapshot
    )
    assert (again.work, again.unseen) == ("since", "")


def test_a_row_that_lands_late_and_within_the_lookback_is_no_reason_to_build_everything(stand: Stand) -> None:
    rows = [Row("1", 0, 0, 1)]
    view = stand.view(rows, created_time="created", lookback="5ms")
    stand.build(view, 100)
    stand.land(view.name, [*rows, Row("2", 3, 98, 2), Row("é", 3, 96, 3)])
    assert stand.build(view, 110).work == "since"
    assert stand.read(view, ["1", "2", "é"], 110) == [1.0, 2.0, 3.0]


def test_a_row_that_landed_behind_the_lookback_is_noticed(stand: Stand) -> None:
    rows = [Row("1", 0, 0, 1)]
    view = stand.view(rows, created_time="created", lookback="5ms")
    stand.build(view, 100)
    stand.land(view.name, [*rows, Row("2", 3, 4, 2)])
    built = stand.build(view, 110)
    assert (built.work, built.because) == ("everything", "1 row landed behind the lookback of 5ms")
    assert stand.read(view, ["1", "2"], 110) == [1.0, 2.0]


def test_a_row_that_went_behind_the_lookback_is_noticed_and_its_key_goes(stand: Stand) -> None:
    rows = [Row("1", 0, 0, 1), Row("2", 3, 4, 2)]
    view = stand.view(rows, created_time="created", lookback="5ms")
    stand.build(view, 100)
    stand.land(view.name, rows[:1])
    built = stand.build(view, 110)
    assert (built.work, built.because) == ("everything", "1 row went behind the lookback of 5ms")
    assert stand.read(view, ["1", "2"], 110) == [1.0, None]


def test_a_build_of_an_earlier_moment_does_not_turn_back_how_far_it_is_built(stand: Stand) -> None:
    view = stand.view([Row("1", 0, 0, 1)], created_time="created", lookback="5ms")
    stand.build(view, 100)
    stand.land(view.name, [Row("1", 0, 0, 1), Row("1", 98, 98, 2)])
    assert stand.build(view, 97).work == "since"
    state = builds.build_state(stand.online, view.table)
    assert state is not None
    assert state.as_of == moment(100)
    stand.build(view, 110)
    assert stand.read(view, ["1"], 110) == [2.0]


def test_sql_that_names_the_moment_is_built_whole(stand: Stand) -> None:
    sql = "select id, max(event) as event, max(created) as created, sum(x) as x from {name} where event <= :as_of group by id"
    view = stand.view([Row("1", 0, 0, 1), Row("1", 50, 0, 2)], sql=sql, created_time="created")
    stand.build(view, 10)
    built = stand.build(view, 60)
    assert (built.work, built.because) == ("everything", "its SQL names :as_of, so each moment has rows of its own")
    assert stand.read(view, ["1"], 60) == [3.0]


def test_a_key_that_the_source_lost_goes_with_a_whole_build(stand: Stand) -> None:
    view = stand.view([Row("1", 0, 0, 1), Row("2", 0, 0, 2)], created_time="created")
    stand.build(view, 10)
    stand.land(view.name, [Row("1", 0, 0, 1)])
    built = stand.build(view, 20, full=True)
    assert (built.because, built.entities) == ("asked for", 1)
    assert stand.read(view, ["1", "2"], 20) == [1.0, None]


def test_an_interval_leaves_the_rest_as_it_is_and_is_no_whole_build(stand: Stand) -> None:
    view = stand.view([Row("1", 10, 0, 1), Row("2", 50, 0, 2)])
    assert stand.build(view, 100, since=40).work == "interval"
    assert stand.read(view, ["1", "2"], 100) == [None, 2.0]
    built = stand.build(view, 100)
    assert built.because == "only single intervals were built so far"
    assert stand.read(view, ["1", "2"], 100) == [1.0, 2.0]


def test_an_interval_before_the_start_is_refused_with_its_line_and_nothing_is_written(stand: Stand) -> None:
    sql = '/* ---\nentity = "id"\nevent_time = "event"\nstart = "2011-09-01"\n--- */\nselect id, event, x from {name}'
    view = stand.view([Row("1", 10, 0, 1)], sql=sql, start="2011-09-01")
    before = stand.online.tables()
    for since, tick in ((-5, 10), (None, -5)):
        with pytest.raises(InputError, match="has nothing before 2011-09-01 00:00") as caught:
            stand.build(view, tick, since=since)
        assert caught.value.where == f"{view.name}.sql:4"
    with pytest.raises(InputError, match="begins after it"):
        stand.build(view, 5, since=10)
    with pytest.raises(InputError, match="cannot both"):
        stand.build(view, 5, since=1, full=True)
    assert stand.online.tables() == before


def test_what_came_before_the_start_is_known_neither_online_nor_in_training(stand: Stand) -> None:
    # given one key whose newest row is from before the start, and one with a row on it
    rows = [Row("1", -1, -1, 1), Row("2", -1, -1, 2), Row("2", 0, 0, 3)]
    view = stand.view(rows, start="2011-09-01", created_time="created")
    stand.build(view, 10)
    # then both sides agree, also about a moment before it
    assert stand.read(view, ["1", "2"], 10) == stand.known(view, ["1", "2"], 10) == [None, 3.0]
    assert stand.known(view, ["2"], -1) == [None]
    # and another start is another version, because there are other rows
    earlier = replace(view, header=replace(view.header, start="2011-08-01"))
    assert features.change(view, earlier).told() == "start is 2011-08-01 and no longer 2011-09-01"


def test_a_reader_that_lives_long_follows_the_swap_and_never_meets_a_gap(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a reader under load
    monkeypatch.setattr("towpath.features.online._LOOK_AGAIN_S", 0.02)
    keys: list[str | None] = [str(i) for i in range(50)]
    view = stand.view([Row(key, 0, 0, 0) for key in keys], created_time="created")
    stand.build(view, 10)
    reader, seen, gaps, stop = stand.reader(view), set[float](), list[object](), threading.Event()

    def read() -> None:
        while not stop.is_set():
            found = reader.read({"id": keys}, len(keys), micros(moment(1_000)))
            gaps.extend(row for row in found.missing if row)
            seen.update(found.columns[f"{view.name}.x"].tolist())

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    # when everything is built anew again and again
    for number in range(1, 6):
        stand.land(view.name, [Row(key, 0, 0, number) for key in keys])
        stand.build(view, 10 + number, full=True)
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    # then no read missed a row, and the last state is seen
    assert gaps == []
    assert 5.0 in seen
    assert stand.reader(view).read({"id": ["7"]}, 1, micros(moment(1_000))).columns[f"{view.name}.x"].tolist() == [5.0]


def test_tables_that_were_swapped_out_go_after_a_grace(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    view = stand.view([Row("1", 0, 0, 1)], created_time="created")
    monkeypatch.setattr(builds, "GRACE_S", 3_600.0)
    for tick in range(3):
        stand.build(view, tick, full=True)

    def standing() -> int:
        return sum(name.startswith(view.table) for name in stand.online.tables())

    assert standing() == 3
    monkeypatch.setattr(builds, "GRACE_S", -1.0)
    stand.build(view, 5)
    assert standing() == 1


def test_rows_that_are_written_while_everything_is_built_survive_the_swap(stand: Stand) -> None:
    # given a build that is half-way
    view = stand.view([Row("1", 0, 0, 1)], created_time="created")
    stand.build(view, 10)
    other = stand.view([Row("2", 20, 20, 2)], created_time="created")
    stand.build(other, 30)
    (encoded,) = stand.online.read(builds.rows_table(stand.online, other.table), [b'["2"]'])
    assert encoded is not None

    def push(_: int) -> None:
        builds.write_rows(stand.online, view.table, [(b'["2"]', encoded)])

    # when a row is pushed meanwhile
    features.build(view, stand.warehouse, stand.online, as_of=moment(40), full=True, clock=CLOCK, progress=push)
    # then it is there afterwards
    assert stand.read(view, ["1", "2"], 40) == [1.0, 2.0]


class _Slow:
    """An online store of which the first write of rows is so slow that a whole build begins and ends meanwhile."""

    def __init__(self, online: OnlineStore, table: str) -> None:
        self._online, self._table, self._meanwhile = online, table, True

    def __getattr__(self, name: str) -> object:
        return getattr(self._online, name)

    def write(self, table: str, rows: list[tuple[bytes, bytes]]) -> None:
        if rows and table == self._table and self._meanwhile:
            self._meanwhile = False
            state = builds.build_state(self._online, self._table)
            assert state is not None
            announced = builds.begin_beside(self._online, self._table)
            builds.swap(self._online, self._table, announced, state)
        self._online.write(table, rows)


def test_rows_that_were_on_their_way_while_a_swap_came_are_in_the_new_table_too(stand: Stand) -> None:
    view = stand.view([], created_time="created")
    builds.write_rows(stand.online, view.table, [])
    builds.write_rows(_Slow(stand.online, view.table), view.table, [(b"k", bytes(18))])  # pyright: ignore[reportArgumentType]
    now = builds.rows_table(stand.online, view.table)
    assert now != view.table
    assert stand.online.read(now, [b"k"]) == [bytes(18)]


def test_a_builder_whose_table_another_took_over_does_not_swap(stand: Stand) -> None:
    view = stand.view([], created_time="created")
    mine = builds.begin_beside(stand.online, view.table)
    assert mine.beside is not None
    other = replace(mine.beside, table=f"{mine.beside.table}0")
    builds.put_state(stand.online, view.table, replace(mine, step=mine.step + 1, beside=other))
    with pytest.raises(ConflictError, match="took over from this one"):
        builds.swap(stand.online, view.table, mine, mine)
    builds.give_up(stand.online, view.table, mine)
    state = builds.build_state(stand.online, view.table)
    assert state is not None
    assert state.beside == other


def test_two_processes_do_not_build_everything_of_one_view(stand: Stand) -> None:
    view = stand.view([Row("1", 0, 0, 1)], created_time="created")
    stand.build(view, 10)

    told: list[int] = []

    def again(rows: int) -> None:
        if rows:  # with 0 it has not begun
            told.append(rows)
            with pytest.raises(
                ConflictError,
                match=rf"^The view 'v\d+' of 'shop' is being built already, by process {os.getpid()} on .+ since 20",
            ):
                stand.build(view, 40, full=True)

    features.build(view, stand.warehouse, stand.online, as_of=moment(40), full=True, clock=CLOCK, progress=again)
    assert told == [1]


def test_a_builder_is_gone_whose_number_another_process_has_now(stand: Stand) -> None:
    view = stand.view([Row("1", 0, 0, 1)], created_time="created")
    stand.build(view, 10)
    # given what a build left that was killed with its container, whose processes are numbered as before when it starts anew
    mine = builds.begin_beside(stand.online, view.table)
    assert mine.beside is not None
    old = replace(mine, step=mine.step + 1, beside=replace(mine.beside, table=f"{view.table}~{micros(START):x}"))
    builds.put_state(stand.online, view.table, old)
    stand.online.drop(mine.beside.table)
    # then the next one does not wait for itself
    assert stand.build(view, 40, full=True).entities == 1


def test_a_whole_number_beyond_int64_is_told_with_the_column_that_holds_it(stand: Stand) -> None:
    sql = "select id, event, x, cast(x as ubigint) + 9223372036854775808 as large from {name}"
    view = stand.view([Row("1", 0, 0, 1)], sql=sql)
    with pytest.raises(ProjectError, match="Column 'large' holds a whole number beyond int64, 9223372036854775807"):
        stand.build(view, 10)
    assert stand.read(view, ["1"], 10) == [None]


def test_a_build_that_fails_leaves_what_was_there_and_the_next_is_right(stand: Stand) -> None:
    view = stand.view([Row("1", 0, 0, 1)], created_time="created")
    stand.build(view, 10)
    tables = stand.online.tables()

    def fail(rows: int) -> None:
        if rows:  # in the middle
            raise RuntimeError

    with pytest.raises(RuntimeError):
        features.build(view, stand.warehouse, stand.online, as_of=moment(40), full=True, clock=CLOCK, progress=fail)
    assert stand.online.tables() == tables
    assert stand.read(view, ["1"], 40) == [1.0]
    assert stand.build(view, 40, full=True).rows == 1


_KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from towpath import features
from towpath.clock import FixedClock
from towpath.project.declarations import FeatureHeader
from towpath.project.folder import ViewFile
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.stores.online import open_online
from towpath.warehouse import open_warehouse

folder, name, url, full = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "full"
warehouse = open_warehouse(WarehouseSettings(memory_mib=512, threads=1), folder, {})
online = open_online(url, folder)
query = Query.parse(f"select * from {name}", f"{name}.sql")
header = FeatureHeader(entity="id", event_time="event", created_time="created")
view = features.describe(ViewFile(name=name, query=query, header=header), warehouse, project="shop")
def progress(rows):
    if rows:
        os.kill(os.getpid(), signal.SIGKILL)

moment = datetime(2011, 9, 2, tzinfo=UTC)
features.build(view, warehouse, online, as_of=moment, full=full, clock=FixedClock(moment), progress=progress)
"""


@pytest.mark.parametrize("kind", ["full", "since"])
@pytest.mark.parametrize("store", STORES)
def test_a_build_that_is_killed_leaves_the_old_state_readable_and_the_next_run_right(
    request: pytest.FixtureRequest, tmp_path: Path, store: str, kind: str
) -> None:
    # given a view of more than one batch that was built
    stand = Stand(tmp_path, online_address(store, request))
    size = 150_000
    rows = [Row(str(i), 0, 0, 1) for i in range(size)]
    view = stand.view(rows, created_time="created")
    stand.build(view, 10)
    # when a build of new values is killed half-way
    stand.land(view.name, [*rows, *(Row(str(i), 0, 20, 2) for i in range(size))])
    stand.online.close()
    ran = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), view.name, stand.url, kind], check=False, capture_output=True
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr.decode()
    stand.online = open_online(stand.url, tmp_path)
    # then each key is read: as it was where everything was built beside, old or new where new rows came in
    keys: list[str | None] = [str(i) for i in range(0, size, 1_000)]
    found = stand.read(view, keys, 100_000)
    assert set(found) <= ({1.0} if kind == "full" else {1.0, 2.0})
    # and the next build is right, and leaves no table behind but what readers may still hold
    built = features.build(view, stand.warehouse, stand.online, as_of=LATER, full=kind == "full", clock=CLOCK)
    assert built.entities == size
    assert set(stand.read(view, keys, 86_400_000)) == {2.0}
    state = builds.build_state(stand.online, view.table)
    assert state is not None
    standing = {name for name in stand.online.tables() if name.startswith(view.table)}
    assert standing == {state.table, *(former.table for former in state.former)}
    stand.warehouse.close()
    stand.online.close()


def test_a_feature_may_have_any_name_also_one_of_ours(stand: Stand) -> None:
    # given features that are called what the compiled SQL calls its own columns
    names = ["k0", "event", "landed", "f0", "f1", "entity", "rn", "K1"]
    chosen = ", ".join(f'x + {at} as "{name}"' for at, name in enumerate(names))
    view = stand.view(
        [Row("1", 1, 2, 10), Row("11", 3, 3, 20)],
        sql=f"select id, event as happened, created as arrived, {chosen} from {{name}}",
        event_time="happened",
        created_time="arrived",
    )
    assert list(view.features) == names
    # when they are built
    stand.build(view, 5)
    # then each has its own value, online as in training
    asked = [f"{view.name}.{name}" for name in names]
    reader = features.OnlineReader(stand.online, features.lock({view.name: view}, asked), "shop")
    online = reader.read({"id": ["1", "11"]}, 2, micros(moment(5))).columns
    assert {name: online[name].tolist() for name in asked} == {
        name: [10.0 + at, 20.0 + at] for at, name in enumerate(asked)
    }
    spine = pa.table({"id": ["1", "11"], "t": [moment(5)] * 2})
    joined = features.training_set(
        stand.warehouse, spine, keys=["id"], time="t", features=asked, views={view.name: view}
    )
    assert {name: joined.column(name).to_pylist() for name in asked} == {name: online[name].tolist() for name in asked}
    # and a second look at one form of it finds nothing else
    again = features.difference(view, view, stand.warehouse, moments=(moment(5), moment(5)), names=("1", "1"))
    assert not again.differ
    assert [one.feature for one in again.features] == names


_RACING = """
import os, sys, time
from datetime import UTC, datetime
from pathlib import Path
from towpath import features
from towpath.clock import FixedClock
from towpath.errors import ConflictError
from towpath.project.declarations import FeatureHeader
from towpath.project.folder import ViewFile
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.stores.online import open_online
from towpath.warehouse import open_warehouse

folder, name, url = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
warehouse = open_warehouse(WarehouseSettings(memory_mib=256, threads=1), folder, {})
online = open_online(url, folder)
query = Query.parse(f"select * from {name}", f"{name}.sql")
view = features.describe(ViewFile(name=name, query=query, header=FeatureHeader(entity="id", event_time="event")), warehouse, project="shop")
online.tables()
moment = datetime(2011, 9, 2, tzinfo=UTC)
print("ready", flush=True)
for line in sys.stdin:
    while time.time() < float(line):
        pass
    try:
        features.build(view, warehouse, online, as_of=moment, full=True, clock=FixedClock(moment), progress=lambda rows: time.sleep(0.4 if rows else 0))
    except ConflictError as error:
        print(error.what, flush=True)
    else:
        print("built", flush=True)
"""


@pytest.mark.parametrize("store", STORES)
def test_of_two_processes_that_build_everything_in_the_same_moment_one_does(
    request: pytest.FixtureRequest, tmp_path: Path, store: str
) -> None:
    # given two processes that are about to build one view
    stand = Stand(tmp_path, online_address(store, request))
    view = stand.view([Row("1", 0, 0, 1)])
    run = [sys.executable, "-c", _RACING, str(tmp_path), view.name, stand.url]
    racing = [
        subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(2)
    ]

    def said(process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    try:
        assert [said(process) for process in racing] == ["ready", "ready"]
        # when both begin at once, again and again
        for _ in range(5):
            for process in racing:
                assert process.stdin is not None
                process.stdin.write(f"{time.time() + 0.05}\n")
            ended = sorted(said(process) for process in racing)
            # then one builds, and the other is told so
            assert ended[1] == "built" or "is being built already" in ended[1]
            assert sum(each == "built" for each in ended) == 1, ended
            assert stand.read(view, ["1"], 100_000) == [1.0]
    finally:
        for process in racing:
            process.communicate(timeout=30)
    # and nothing is left behind but what readers may still hold
    state = builds.build_state(stand.online, view.table)
    assert state is not None
    assert state.beside is None
    assert set(stand.online.tables()) - {"builds", "schemas"} == {state.table, *(one.table for one in state.former)}
    stand.warehouse.close()
    stand.online.close()

"""The eight rules, told once more as slowly as possible, and the join held against them on nasty cases."""

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import hypothesis.strategies as st
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings

from towpath import features
from towpath.project.declarations import FeatureHeader
from towpath.project.folder import ViewFile
from towpath.sql import Query, quoted
from towpath.warehouse import AsOf, Snapshots
from warehouse_stand import NAMED, GeneratedStand, Stand, named_stand

START_US = 1_300_000_000_000_000
TICK_US = 1_000  # a whole millisecond, so that every clock can say it
NAMED_CASES = "TOWPATH_TEST_WAREHOUSE_CASES"
"""How many random cases go to a warehouse that others run, where each question may be slow, or billed."""
KEY_PARTS = ["1", "11", "", '"', "é"]
NAMES = ["x", "y", "select", 'a"b', "Größe", "event", "landed", "k0", "rn", "t", "facts", "two words", "entity", "f0"]


class Row(NamedTuple):
    """A row of a view: its key, when it became true, when it landed, and its two values."""

    key: tuple[str | None, ...]
    event: int | None
    created: int | None
    features: tuple[int | None, str | None]


class Moment(NamedTuple):
    """A row of a spine."""

    key: tuple[str | None, ...]
    time: int | None


NOTHING = (None, None)


def oracle(moment: Moment, rows: Sequence[Row], ttl: int | None, *, known: bool) -> list[tuple[int | None, str | None]]:
    """All answers that the rules allow; more than one only in a full tie. Quadratic, for reading."""
    candidates: list[tuple[tuple[int, int], Row]] = []
    for row in rows:
        if row.key != moment.key or None in row.key:
            continue  # rule 2: all parts equal, none null
        if row.event is None or moment.time is None:
            continue  # rules 3 and 7: an event without a time, a moment without a time
        if row.event > moment.time:
            continue  # rule 3: the future
        if ttl is not None and row.event < moment.time - ttl:
            continue  # rule 3: too old; exactly as old as the ttl is not
        landed = row.event if row.created is None else row.created
        if known and landed > moment.time:
            continue  # rule 4: nobody knew it yet
        candidates.append(((row.event, landed), row))
    if not candidates:
        return [NOTHING]  # rule 8
    greatest = max(times for times, _ in candidates)
    return [row.features for times, row in candidates if times == greatest]  # rules 5 and 6


class Case(NamedTuple):
    """A view, a spine, and how they are written down."""

    rows: list[Row]
    moments: list[Moment]
    ttl: int | None
    as_of: AsOf
    declared: bool
    names: tuple[str, ...]
    clocks: tuple[pa.DataType, pa.DataType, pa.DataType]
    by_pandas: bool


def ticks(*, spread: int) -> st.SearchStrategy[int | None]:
    return st.one_of(st.integers(0, spread), st.integers(0, spread), st.none())


@st.composite
def cases(draw: st.DrawFn) -> Case:
    parts = draw(st.integers(1, 2))
    spread = draw(st.sampled_from([2, 6, 12]))
    key = st.tuples(*[st.sampled_from([*KEY_PARTS[: draw(st.sampled_from([1, 3, 5]))], None])] * parts)
    rows = [
        Row(k, event, created, (None if empty else i, None if empty else f"row {i}"))
        for i, (k, event, created, empty) in enumerate(
            draw(
                st.lists(
                    st.tuples(key, ticks(spread=spread), ticks(spread=spread), st.integers(0, 7).map(lambda z: z == 0)),
                    max_size=14,
                )
            )
        )
    ]
    moments = [Moment(k, t) for k, t in draw(st.lists(st.tuples(key, ticks(spread=spread + 3)), max_size=10))]
    moments += draw(st.lists(st.sampled_from(moments), max_size=3)) if moments else []
    clock = st.builds(
        pa.timestamp, st.sampled_from(["ms", "us", "ns"]), st.sampled_from([None, "UTC", "Europe/London"])
    )
    return Case(
        rows=rows,
        moments=moments,
        ttl=draw(st.one_of(st.none(), st.integers(0, spread))),
        as_of=draw(st.sampled_from(["known", "event"])),
        declared=draw(st.booleans()),
        names=tuple(draw(st.permutations(NAMES))[: parts + 4]),
        clocks=(draw(clock), draw(clock), draw(clock)),
        by_pandas=draw(st.booleans()),
    )


def view_of(case: Case, stand: Stand) -> features.View:
    name = stand.land(view_table(case), by_pandas=case.by_pandas)
    *keys, event, created, first, second = case.names
    wanted = [*keys, event, *([created] if case.declared else []), first, second]
    header = FeatureHeader(
        entity=tuple(keys),
        event_time=event,
        created_time=created if case.declared else None,
        ttl=None if case.ttl is None else f"{case.ttl}ms",
    )
    sql = f"select {', '.join(quoted(column) for column in wanted)} from {name}"
    return features.describe(ViewFile(name="v", query=Query.parse(sql, "v.sql"), header=header), stand.warehouse)


def at(tick: int | None, clock: pa.DataType, row: int = 0) -> int | None:
    """A tick on a clock; nanoseconds below the microsecond are cut off, whatever they are."""
    if tick is None:
        return None
    us = START_US + tick * TICK_US
    return us // 1_000 if clock.unit == "ms" else us if clock.unit == "us" else us * 1_000 + row * 37 % 1_000


def view_table(case: Case) -> pa.Table:
    *keys, event, created, first, second = case.names
    columns = {key: pa.array([row.key[i] for row in case.rows], pa.string()) for i, key in enumerate(keys)}
    columns[event] = pa.array([at(row.event, case.clocks[0], i) for i, row in enumerate(case.rows)], case.clocks[0])
    columns[created] = pa.array(
        [at(row.created, case.clocks[1], 7 * i) for i, row in enumerate(case.rows)], case.clocks[1]
    )
    columns[first] = pa.array([row.features[0] for row in case.rows], pa.int64())
    columns[second] = pa.array([row.features[1] for row in case.rows], pa.string())
    return pa.table(columns)


def spine_table(case: Case) -> pa.Table:
    keys = case.names[:-4]
    columns = {key: pa.array([moment.key[i] for moment in case.moments], pa.string()) for i, key in enumerate(keys)}
    columns["the moment"] = pa.array(
        [at(m.time, case.clocks[2], 3 * i) for i, m in enumerate(case.moments)], case.clocks[2]
    )
    columns["label"] = pa.array(range(len(case.moments)), pa.int64())
    return pa.table(columns)


def check(case: Case, stand: Stand) -> None:
    # given a view and a spine
    view, spine = view_of(case, stand), spine_table(case)
    first, second = case.names[-2:]
    # when they are joined
    joined = features.training_set(
        stand.warehouse,
        spine,
        keys=case.names[:-4],
        time="the moment",
        features=["v.*"],
        views={"v": view},
        as_of=case.as_of,
    )
    # then every spine row is there, in its order, with all its columns
    assert joined.column_names == [*spine.column_names, f"v.{first}", f"v.{second}"]
    assert joined.select(spine.column_names).equals(spine)
    # and each has an answer that the rules allow
    rows = case.rows if case.declared else [row._replace(created=None) for row in case.rows]
    answers = zip(joined.column(f"v.{first}").to_pylist(), joined.column(f"v.{second}").to_pylist(), strict=True)
    for moment, answer in zip(case.moments, answers, strict=True):
        allowed = oracle(moment, rows, case.ttl, known=case.as_of == "known")
        assert answer in allowed, f"at {moment}"


CLOCK = pa.timestamp("us", "UTC")


def plain(rows: list[Row], moments: list[Moment], ttl: int | None = None, as_of: AsOf = "known") -> Case:
    return Case(rows, moments, ttl, as_of, True, ("id", "at", "landed at", "a", "b"), (CLOCK, CLOCK, CLOCK), False)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(case=plain([], []))
@example(case=plain([Row(("1",), 1, 1, (0, "row 0"))], []))
@example(case=plain([], [Moment(("1",), 1), Moment(("1",), 1)]))
@example(case=plain([Row(("1",), 5, 5, (0, "row 0")), Row(("1",), 3, 7, (1, "row 1"))], [Moment(("1",), 8)]))
@example(
    case=plain(
        [Row(("1",), 3, 5, (0, "row 0")), Row(("1",), 3, 7, (1, "row 1"))], [Moment(("1",), t) for t in range(9)]
    )
)
@given(case=cases())
def test_the_join_says_what_the_rules_say(case: Case, stand: Stand) -> None:
    check(case, stand)


@pytest.fixture(scope="module", params=["asof", "carried"])
def generated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """DuckDB, asked in the two forms that are generated for engines that nobody runs here."""
    opened = GeneratedStand(tmp_path_factory.mktemp("generated"), request.param)
    yield opened
    opened.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_the_forms_for_engines_that_are_not_run_here_say_what_the_rules_say(case: Case, generated: Stand) -> None:
    check(case, generated)


@pytest.fixture(scope="module")
def named() -> Iterator[Stand]:
    """A warehouse that others run; each case lands a table there, which goes in the end."""
    if NAMED not in os.environ:
        pytest.skip(f"no other warehouse is named (set {NAMED} to its URL, and {NAMED_CASES} to how many cases)")
    with named_stand() as opened:
        yield opened


@settings(
    max_examples=int(os.environ.get(NAMED_CASES, "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(case=cases())
def test_the_join_says_what_the_rules_say_on_the_warehouse_that_a_url_names(case: Case, named: Stand) -> None:
    check(case, named)


@pytest.mark.nightly
@settings(max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_the_forms_for_engines_that_are_not_run_here_hold_for_thousands_of_cases(case: Case, generated: Stand) -> None:
    check(case, generated)


@pytest.mark.nightly
@settings(max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_the_join_says_what_the_rules_say_for_thousands_of_cases(case: Case, stand: Stand) -> None:
    check(case, stand)


def test_a_row_that_landed_late_is_not_known_before(stand: Stand) -> None:
    case = plain([Row(("1",), 1, 5, (0, "row 0"))], [Moment(("1",), 4), Moment(("1",), 5)])
    check(case, stand)
    known = joined_values(case, stand)
    assert known == [None, 0]
    assert joined_values(case._replace(as_of="event"), stand) == [0, 0]


def test_both_ends_of_the_ttl_count(stand: Stand) -> None:
    case = plain([Row(("1",), 2, None, (0, "row 0"))], [Moment(("1",), t) for t in range(1, 7)], ttl=3)
    assert joined_values(case, stand) == [None, 0, 0, 0, 0, None]


def test_keys_that_collide_when_they_are_glued_together_stay_apart(stand: Stand) -> None:
    case = Case(
        rows=[Row(("1", "11"), 1, None, (0, "row 0")), Row(("11", "1"), 1, None, (1, "row 1"))],
        moments=[Moment(("11", "1"), 2), Moment(("1", "11"), 2), Moment(("111", ""), 2)],
        ttl=None,
        as_of="known",
        declared=True,
        names=("shop", "item", "at", "landed", "a", "b"),
        clocks=(CLOCK, CLOCK, CLOCK),
        by_pandas=False,
    )
    assert joined_values(case, stand) == [1, 0, None]


def test_the_hour_that_clocks_repeat_in_autumn_is_two_hours(stand: Stand) -> None:
    # given 00:30 and 01:30 UTC on the day that London's clocks go back: both are 01:30 there
    moments = [datetime(2011, 10, 30, 0, 30, tzinfo=UTC), datetime(2011, 10, 30, 1, 30, tzinfo=UTC)]
    london = pa.timestamp("us", "Europe/London")
    table = pa.table({"id": [1, 1], "at": pa.array(moments, london), "x": [10.0, 20.0]})
    view = simple_view(stand, f"select id, at, x from {stand.land(table)}")
    spine = pa.table(
        {"id": [1, 1, 1], "t": pa.array([moments[1], moments[0], moments[0] - timedelta(hours=1)], london)}
    )
    joined = features.training_set(stand.warehouse, spine, keys=["id"], time="t", features=["v.x"], views={"v": view})
    assert joined.column("v.x").to_pylist() == [20.0, 10.0, None]


NOON = datetime(2011, 7, 1, 12, tzinfo=UTC)


def hours(*values: int | None, zone: str | None = "UTC", unit: str = "us") -> pa.Array:
    moments = [None if value is None else NOON + timedelta(hours=value) for value in values]
    return pa.array([m and (m.replace(tzinfo=None) if zone is None else m) for m in moments], pa.timestamp(unit, zone))


def asked(stand: Stand, view: features.View, spine: pa.Table) -> pa.Table:
    return features.training_set(
        stand.warehouse, spine, keys=view.header.keys, time="t", features=["v.x"], views={"v": view}
    )


def test_an_entity_with_only_stale_or_only_future_rows_keeps_its_row(stand: Stand) -> None:
    table = pa.table({"id": ["stale", "future"], "at": hours(-100, 1), "x": [1.0, 2.0]})
    view = simple_view(stand, f"select id, at, x from {stand.land(table)}", ttl="30h")
    joined = asked(stand, view, pa.table({"id": ["stale", "future", "never"], "t": hours(0, 0, 0), "kept": [7, 8, 9]}))
    assert joined.to_pydict() == {
        "id": ["stale", "future", "never"], "t": [NOON] * 3, "kept": [7, 8, 9], "v.x": [None, None, None],
    }  # fmt: skip


def test_entity_rows_that_differ_in_their_label_alone_stay_two(stand: Stand) -> None:
    table = pa.table({"id": ["a"], "at": hours(-1), "x": [1.0]})
    view = simple_view(stand, f"select id, at, x from {stand.land(table)}")
    joined = asked(stand, view, pa.table({"id": ["a", "a", "a"], "t": hours(0, 0, 0), "label": [1, 0, 1]}))
    assert joined.select(["label", "v.x"]).to_pydict() == {"label": [1, 0, 1], "v.x": [1.0, 1.0, 1.0]}


@pytest.mark.parametrize("ttl", ["30h", "1.25d", "1800m", "108000s"])
def test_a_ttl_of_thirty_hours_is_that_to_the_microsecond_whatever_its_unit(stand: Stand, ttl: str) -> None:
    table = pa.table({"id": ["a"], "at": hours(-30), "x": [1.0]})
    view = simple_view(stand, f"select id, at, x from {stand.land(table)}", ttl=ttl)
    late = NOON + timedelta(microseconds=1)
    spine = pa.table({"id": ["a", "a", "a"], "t": pa.array([NOON, late, NOON - timedelta(hours=30)], CLOCK)})
    assert asked(stand, view, spine).column("v.x").to_pylist() == [1.0, None, 1.0]


def test_null_keys_and_null_times_match_nothing_and_a_null_landing_is_the_event(stand: Stand) -> None:
    table = pa.table(
        {
            "id": ["a", None, "b", "c"],
            "at": hours(-2, -2, None, -2),
            "loaded": hours(None, -2, -2, 5),
            "x": [1.0, 2.0, 3.0, 4.0],
        }
    )
    view = simple_view(stand, f"select id, at, loaded, x from {stand.land(table)}", created_time="loaded")
    spine = pa.table({"id": ["a", None, "b", "c", "a"], "t": hours(0, 0, 0, 0, None)})
    assert asked(stand, view, spine).column("v.x").to_pylist() == [1.0, None, None, None, None]


def test_of_equal_event_times_the_later_landing_wins_once_it_landed(stand: Stand) -> None:
    table = pa.table({"id": ["a"] * 3, "at": hours(-9, -9, -9), "loaded": hours(-3, -1, None), "x": [2.0, 3.0, 1.0]})
    view = simple_view(stand, f"select id, at, loaded, x from {stand.land(table)}", created_time="loaded")
    spine = pa.table({"id": ["a"] * 4, "t": hours(-9, -4, -3, 0)})
    assert asked(stand, view, spine).column("v.x").to_pylist() == [1.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("theirs", [None, "UTC", "Europe/London", "Asia/Kolkata"])
@pytest.mark.parametrize("ours", [None, "UTC", "America/New_York"])
def test_naive_times_are_utc_and_zones_are_only_a_way_to_write(
    stand: Stand, theirs: str | None, ours: str | None
) -> None:
    table = pa.table({"id": ["a", "a"], "at": hours(-1, 1, zone=theirs), "x": [1.0, 2.0]})
    view = simple_view(stand, f"select id, at, x from {stand.land(table)}")
    spine = pa.table({"id": ["a"] * 4, "t": hours(-2, -1, 0, 1, zone=ours)})
    assert asked(stand, view, spine).column("v.x").to_pylist() == [None, 1.0, 1.0, 2.0]


def test_nanoseconds_that_pandas_wrote_are_cut_to_microseconds(stand: Stand) -> None:
    at = pd.to_datetime(["2011-07-01T12:00:00.000001999Z", "2011-07-01T12:00:00.000003000Z"]).as_unit("ns")
    table = pa.Table.from_pandas(pd.DataFrame({"id": ["a", "a"], "at": at, "x": [1.0, 2.0]}), preserve_index=False)
    assert table.schema.field("at").type.unit == "ns"
    view = simple_view(stand, f"select id, at, x from {stand.land(table, by_pandas=True)}")
    moments = [NOON + timedelta(microseconds=us) for us in (0, 1, 2, 3)]
    frame = pd.DataFrame({"id": ["a"] * 4, "t": pd.DatetimeIndex(moments).as_unit("ns")})
    joined = features.training_set(stand.warehouse, frame, keys=["id"], time="t", features=["v.x"], views={"v": view})
    assert joined.column("v.x").to_pylist() == [None, 1.0, 1.0, 2.0]


def test_rows_without_a_key_or_a_moment_are_counted(stand: Stand) -> None:
    case = plain([], [Moment((None,), 1), Moment(("1",), None), Moment(("1",), 1)])
    joined = features.training_set(
        stand.warehouse,
        spine_table(case),
        keys=["id"],
        time="the moment",
        features=["v.a"],
        views={"v": view_of(case, stand)},
    )
    manifest = features.manifest_of(joined)
    assert (manifest.rows, manifest.null_times, manifest.views[0].null_keys) == (3, 1, 1)


def test_an_engine_that_cannot_tell_whether_its_tables_changed_proves_nothing(stand: Stand) -> None:
    table = stand.land(pa.table({"id": [1], "at": [datetime(2011, 1, 1)], "x": [5.0]}))
    view = simple_view(stand, f"select * from {table}")
    spine = pa.table({"id": [1], "t": [datetime(2011, 2, 1)]})
    manifest = features.manifest_of(
        features.training_set(stand.warehouse, spine, time="t", features=["v.x"], views={"v": view})
    )
    if isinstance(stand.warehouse, Snapshots):
        assert [state.table for state in manifest.tables] == [table]
    else:
        assert manifest.unproved == (table,)
        assert manifest.differences(manifest) == ()
        assert not manifest.same_as(manifest)


def test_a_view_may_read_a_table_named_like_one_of_ours(stand: Stand) -> None:
    for name in ("facts", "winners", "spine", "entities", "view_rows"):
        stand.land(pa.table({"id": [1], "at": [datetime(2011, 1, 1)], "x": [5.0]}), name)
        view = simple_view(stand, f"select * from {name}")
        spine = pa.table({"id": [1], "t": [datetime(2011, 2, 1)]})
        joined = features.training_set(
            stand.warehouse, spine, keys=["id"], time="t", features=["v.x"], views={"v": view}
        )
        assert joined.column("v.x").to_pylist() == [5.0]


def test_a_spine_may_be_sql_or_a_frame(stand: Stand) -> None:
    small = stand.land(pa.table({"id": [1], "at": [datetime(2011, 1, 1)], "x": [5.0]}))
    view = simple_view(stand, f"select * from {small} where at <= :as_of")
    sql = Query.parse(f"select id, at as t, 7 as kept from {small} where at < :until", "spine.sql")
    moments = {"as_of": datetime(2011, 3, 1, tzinfo=UTC), "until": datetime(2011, 3, 1, tzinfo=UTC)}
    by_sql = features.training_set(
        stand.warehouse, sql, keys=["id"], time="t", features=["v.x"], views={"v": view}, parameters=moments
    )
    frame = pd.DataFrame({"id": [1], "t": [datetime(2011, 1, 1)], "kept": [7]})
    by_frame = features.training_set(
        stand.warehouse, frame, keys=["id"], time="t", features=["v.x"], views={"v": view}, parameters=moments
    )
    assert by_sql.column("v.x").to_pylist() == by_frame.column("v.x").to_pylist() == [5.0]
    assert by_sql.column("kept").to_pylist() == [7]


def joined_values(case: Case, stand: Stand) -> list[int | None]:
    name = case.names[-2]
    joined = features.training_set(
        stand.warehouse,
        spine_table(case),
        keys=case.names[:-4],
        time="the moment",
        features=[f"v.{name}"],
        views={"v": view_of(case, stand)},
        as_of=case.as_of,
    )
    return joined.column(f"v.{name}").to_pylist()


def simple_view(stand: Stand, sql: str, **header: object) -> features.View:
    declared = FeatureHeader(**{"entity": "id", "event_time": "at", **header})
    return features.describe(ViewFile(name="v", query=Query.parse(sql, "v.sql"), header=declared), stand.warehouse)

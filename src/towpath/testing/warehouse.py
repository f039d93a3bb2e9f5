"""What every warehouse must do; an engine's tests subclass this and give a ``stand`` fixture."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Protocol

import pytest

from towpath.errors import ProjectError
from towpath.sql import Query, quoted
from towpath.warehouse import AsOf, Facts, Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Stand", "WarehouseContract"]

NOON = datetime(2011, 7, 1, 12, tzinfo=UTC)
HOUR_US = 3_600_000_000
_LONG_AGO = datetime(1900, 1, 1, tzinfo=UTC)
_MILLION = 1_000_000


class Stand(Protocol):
    """A warehouse that is tested, and a way to put tables into it."""

    @property
    def warehouse(self) -> Warehouse:
        """What is asked."""
        ...

    def land(self, table: "pa.Table") -> str:
        """Put a table there and give the name that SQL calls it by."""
        ...


class WarehouseContract:
    """The contract of `Warehouse`; the ``stand`` fixture may be shared by all tests of a class.

    What an engine cannot do stands in `lacks`, and is expected to fail: the name of a test → ``notimpl`` (we could),
    ``notyet`` (the engine or its driver must) or ``never``, a colon, and the reason.

    Example:
        >>> class TestMine(WarehouseContract):
        ...     lacks = {"test_decimals_leave_as_double": "notyet: the driver gives text"}
        ...     # and a fixture named stand
    """

    lacks: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture(autouse=True)
    def _marked(self, request: pytest.FixtureRequest) -> None:
        reason = self.lacks.get(request.node.originalname)
        if reason is not None:
            assert reason.split(":")[0] in {"notimpl", "notyet", "never"}
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    def test_a_table_that_landed_is_listed(self, stand: Stand) -> None:
        """By the name that SQL calls it by, sorted."""
        name = stand.land(_table(i=[1]))
        tables = stand.warehouse.tables()
        assert name in tables
        assert tables == sorted(tables)

    def test_a_description_is_what_a_read_gives(self, stand: Stand) -> None:
        """Names and types, of an empty table too, whatever the parameters will be."""
        name = stand.land(_table(id=["a"], at=[NOON], x=[1.5], n=[1], ok=[True], day=[date(2011, 7, 1)]))
        query = Query.parse(f"select *, x * 2 as twice from {name} where at < :as_of and at >= :since", "v.sql")
        described = stand.warehouse.describe(query)
        assert [str(kind) for kind in described.types] == [
            "string", "timestamp[us, tz=UTC]", "double", "int64", "bool", "date32[day]", "double",
        ]  # fmt: skip
        for until in (NOON, NOON + timedelta(hours=1)):
            read = stand.warehouse.read(query, {"as_of": until, "since": _LONG_AGO})
            assert read.schema.equals(described)
            assert read.num_rows == (until > NOON)

    def test_times_leave_as_utc_microseconds(self, stand: Stand) -> None:
        """A naive one is UTC, and null stays null."""
        name = stand.land(_table(aware=[NOON, None], naive=[NOON.replace(tzinfo=None), None]))
        read = stand.warehouse.read(Query.parse(f"select aware, naive, aware = naive as same from {name}"))
        assert [str(kind) for kind in read.schema.types[:2]] == ["timestamp[us, tz=UTC]"] * 2
        rows = sorted(read.to_pylist(), key=lambda row: row["aware"] is None)
        assert rows == [{"aware": NOON, "naive": NOON, "same": True}, {"aware": None, "naive": None, "same": None}]

    def test_decimals_leave_as_double(self, stand: Stand) -> None:
        """So that a model can take them."""
        name = stand.land(_table(x=[0.1, 2.25]))
        sql = f"select sum(cast(x as decimal(18, 2))) as total, max(cast(x as decimal(9, 0))) as whole from {name}"
        (read,) = stand.warehouse.read(Query.parse(sql)).to_pylist()
        assert read == {"total": 2.35, "whole": 2}
        assert isinstance(read["total"], float)

    def test_a_sum_of_whole_numbers_is_a_whole_number(self, stand: Stand) -> None:
        """Of 64 bits."""
        name = stand.land(_table(n=[2**60, 1]))
        read = stand.warehouse.read(Query.parse(f"select sum(n) as total from {name}"))
        assert str(read.schema.field("total").type) == "int64"
        assert read.to_pylist() == [{"total": 2**60 + 1}]

    def test_a_ratio_of_whole_numbers_keeps_its_fraction(self, stand: Stand) -> None:
        """One file means the same on every engine."""
        name = stand.land(_table(n=[1]))
        assert stand.warehouse.read(Query.parse(f"select n / 2 as half from {name}")).to_pylist() == [{"half": 0.5}]

    def test_parameters_are_values_and_never_sql(self, stand: Stand) -> None:
        """Of any type; null is a value; those that the SQL does not name are left out."""
        name = stand.land(_table(id=["a", "b' or 'a' = 'a"], n=[1, 2], at=[NOON, NOON]))
        query = Query.parse(
            f"select n from {name} where id = :id and n >= :low and (at <= :as_of or id is null) and id <> ':low'"
        )
        moment = NOON.astimezone(UTC).replace(tzinfo=None)
        given = {"low": 1, "as_of": moment, "unused": object()}
        assert stand.warehouse.read(query, {**given, "id": "b' or 'a' = 'a"}).to_pylist() == [{"n": 2}]
        assert stand.warehouse.read(query, {**given, "id": "a'; select 1; --"}).num_rows == 0
        assert stand.warehouse.read(query, {**given, "id": None}).num_rows == 0
        with pytest.raises(ProjectError, match="':id' has no value"):
            stand.warehouse.read(query, given)

    def test_rows_come_in_batches_and_other_queries_go_on_beside(self, stand: Stand) -> None:
        """With and without parameters; a reader that is left half-way harms nobody."""
        name = stand.land(_table(i=list(range(1_000))))
        for sql, given in (("", {}), (" where a.i >= :low", {"low": 0})):
            many = Query.parse(f"select a.i from {name} as a cross join {name} as b{sql}")
            with stand.warehouse.stream(many, given) as reader:
                rows = reader.read_next_batch().num_rows
                assert 0 < rows < _MILLION
                assert stand.warehouse.read(Query.parse(f"select sum(i) as s from {name}")).num_rows == 1
                rows += sum(batch.num_rows for batch in reader)
            assert rows == _MILLION
            with stand.warehouse.stream(many, given) as reader:
                reader.read_next_batch()
        assert stand.warehouse.read(Query.parse(f"select count(*) as n from {name}")).to_pylist() == [{"n": 1_000}]

    def test_many_threads_may_ask_at_once(self, stand: Stand) -> None:
        """Each gets its own answer."""
        name = stand.land(_table(i=list(range(100))))
        query = Query.parse(f"select count(*) as n from {name} where i < :low")

        def ask(low: int) -> int:
            return stand.warehouse.read(query, {"low": low}).column("n")[0].as_py()

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(50))) == list(range(50))

    @pytest.mark.parametrize(
        ("select", "said"),
        [
            ("select i from no_such_table", "no_such_table"),
            ("select no_such_column from {name}", "no_such_column"),
            ("select no_such_function(i) as x from {name}", "no_such_function"),
            ("select i, i from {name}", "Two columns are named 'i'"),
        ],
    )
    def test_what_the_engine_refuses_names_the_file(self, stand: Stand, select: str, said: str) -> None:
        """In our words, and the warehouse goes on; some engines say names in capitals."""
        name = stand.land(_table(i=[1]))
        query = Query.parse(f"/* ---\nkind = 'view'\n--- */\n{select.format(name=name)}", "features/v.sql")
        with pytest.raises(ProjectError, match=f"(?i){said}") as caught:
            stand.warehouse.describe(query)
        assert caught.value.where.startswith("features/v.sql")
        assert stand.warehouse.read(Query.parse(f"select i from {name}")).num_rows == 1

    def test_any_name_can_be_a_column(self, stand: Stand) -> None:
        """Quotes, capitals and words of SQL included."""
        names = ["select", 'a"b', "Größe", "two words", "$1", ":as_of"]
        name = stand.land(_table(**{each: [1] for each in names}))
        read = stand.warehouse.read(Query.parse(f"select {', '.join(quoted(each) for each in names)} from {name}"))
        assert read.column_names == names

    def test_a_join_keeps_every_spine_row_in_its_order(self, stand: Stand) -> None:
        """Duplicates, rows without key or moment, and rows that nothing matches."""
        facts = _facts(stand, (("a", 1, 1, 10), ("a", 3, 3, 30), ("b", 9, 9, 90), (None, 1, 1, -1)))
        spine = [("b", 5), ("a", 2), ("a", 2), (None, 2), ("a", None), ("z", 2), ("a", 4), ("a", 0)]
        assert _joined(stand, facts, spine) == [None, 10, 10, None, None, None, 30, None]
        assert _joined(stand, facts, []) == []

    def test_a_row_is_known_when_it_landed(self, stand: Stand) -> None:
        """Unless landing is not asked about; without a landing time it is the event's."""
        facts = _facts(stand, (("a", 1, 5, 10), ("a", 2, 2, 20), ("a", 3, None, 30), ("a", 4, 9, 40)))
        spine = [("a", hour) for hour in range(11)]
        known = [None, None, 20, *[30] * 6, 40, 40]
        assert _joined(stand, facts, spine) == known
        assert _joined(stand, facts, spine, "event") == [None, 10, 20, 30, *[40] * 7]

    def test_both_ends_of_the_ttl_count(self, stand: Stand) -> None:
        """A row exactly as old as the ttl is young enough."""
        facts = _facts(stand, (("a", 2, 2, 20),), ttl=timedelta(hours=3))
        assert _joined(stand, facts, [("a", hour) for hour in range(1, 7)]) == [None, 20, 20, 20, 20, None]

    def test_what_came_before_the_start_is_nothing(self, stand: Stand) -> None:
        """A row exactly on the start is the first."""
        rows = (("a", 2, 2, 20), ("a", 3, 3, 30), ("a", 4, 4, 40))
        facts = _facts(stand, rows, start_us=_us(3))
        assert _joined(stand, facts, [("a", hour) for hour in range(1, 6)]) == [None, None, 30, 40, 40]

    def test_ties_are_decided_by_landing_and_a_full_tie_is_no_mixture(self, stand: Stand) -> None:
        """One whole row of them."""
        rows = (
            ("a", 1, 3, 13),
            ("a", 1, 2, 12),
            ("a", 1, None, None),
            ("b", 1, 2, None),
            ("b", 1, 2, 1),
            ("b", 1, 2, 2),
        )
        facts = _facts(stand, rows)
        assert _joined(stand, facts, [("a", 1), ("a", 2), ("a", 3), ("a", 9)]) == [None, 12, 13, 13]
        # also where both had landed before the event came, so that they became known at one moment
        before = _facts(stand, (("a", 5, 1, 51), ("a", 5, 3, 53), ("a", 5, 2, 52)))
        assert _joined(stand, before, [("a", 4), ("a", 5)]) == [None, 53]
        assert _newest(stand, before, as_of=5) == {("a", _us(5), _us(3), 53)}
        pairs = stand.warehouse.point_in_time(facts, _spine([("b", 5)] * 20), "known").to_pylist()
        assert {(pair["x"], pair["label"]) for pair in pairs} <= {(1, "1"), (None, "None"), (2, "2")}

    def test_composite_keys_are_compared_part_by_part(self, stand: Stand) -> None:
        """Also where they are the same when glued together, and where a part is a number."""
        at = [NOON] * 3
        name = stand.land(_table(shop=["1", "11", "1"], item=[11, 1, None], at=at, x=[1, 2, 3]))
        query = Query.parse(f"select shop, item, at, x from {name}", "v.sql")
        facts = Facts(query=query, keys=("shop", "item"), event_time="at", columns=("x",))
        spine = _table(rn=[0, 1, 2], t=[_us(1)] * 3, k0=["11", "1", "1"], k1=[1, 11, None])
        assert stand.warehouse.point_in_time(facts, spine, "known").column("x").to_pylist() == [2, 1, None]

    def test_a_history_that_was_loaded_at_once_is_joined_as_well(self, stand: Stand) -> None:
        """Each row landed long after its event, so most of them were superseded before anybody knew them."""
        facts = _facts(stand, tuple(("a", hour, 500, hour) for hour in range(300)))
        assert _joined(stand, facts, [("a", 100), ("a", 499), ("a", 500)]) == [None, None, 299]

    def test_the_views_parameters_reach_the_join_and_the_newest_rows(self, stand: Stand) -> None:
        """They are the view's own affair."""
        facts = _facts(stand, (("a", 1, 1, 10), ("a", 2, 2, 20)), where="at < :until")
        until = {"until": NOON + timedelta(hours=2)}
        assert _joined(stand, facts, [("a", 5)], given=until) == [10]
        assert _newest(stand, facts, as_of=9, given=until) == {("a", _us(1), _us(1), 10)}

    def test_the_newest_rows_are_those_that_are_known(self, stand: Stand) -> None:
        """One per key, by event and then by landing; both in microseconds; whole keys only."""
        rows = (
            ("a", 1, 1, 10),
            ("a", 4, 9, 40),
            ("a", 3, 3, 30),
            ("a", 3, 4, 34),
            ("b", 2, None, None),
            (None, 1, 1, 0),
        )
        facts = _facts(stand, (*rows, ("c", 8, 8, 80), ("a", None, 1, 0)))
        assert _newest(stand, facts, as_of=5) == {("a", _us(3), _us(4), 34), ("b", _us(2), _us(2), None)}
        assert _newest(stand, facts, as_of=9, since=3) == {("a", _us(4), _us(9), 40), ("c", _us(8), _us(8), 80)}
        assert _newest(stand, facts, as_of=9, since=8) == {("c", _us(8), _us(8), 80)}  # both ends count
        assert _newest(stand, _facts(stand, ()), as_of=9) == set()

    def test_only_what_landed_since_then_counts_where_that_is_asked(self, stand: Stand) -> None:
        """Whatever its event time."""
        rows = (("a", 5, 5, 50), ("a", 1, 7, 17), ("b", 2, 2, 20), ("c", 3, None, 30), ("d", 6, None, 60))
        facts = _facts(stand, (*rows, ("e", 7, 1, 71), ("f", 6, 1, 61), ("g", 1, 6, 16)), landed_since_us=_us(6))
        known = {("a", _us(1), _us(7), 17), ("d", _us(6), _us(6), 60), ("g", _us(1), _us(6), 16)}
        # of "e" and "f" the event came true after they had landed, and so they became known then
        came_true = {("e", _us(7), _us(1), 71), ("f", _us(6), _us(1), 61)}
        assert _newest(stand, facts, as_of=9) == known | came_true

    def test_a_join_leaves_nothing_behind(self, stand: Stand) -> None:
        """Whatever it made for itself is gone."""
        facts = _facts(stand, (("a", 1, 1, 10),))
        before = stand.warehouse.tables()
        assert _joined(stand, facts, [("a", 2)]) == _joined(stand, facts, [("a", 3)]) == [10]
        assert stand.warehouse.tables() == before


def _table(**columns: Sequence[object]) -> "pa.Table":
    import pyarrow as pa

    def column(values: Sequence[object]) -> pa.Array:
        sample = next((value for value in values if value is not None), None)
        if isinstance(sample, datetime):
            return pa.array(values, pa.timestamp("us", "UTC" if sample.tzinfo else None))
        return pa.array(values)

    return pa.table({name: column(values) for name, values in columns.items()})


def _us(hour: int) -> int:
    return (NOON - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) + hour * HOUR_US


def _facts(
    stand: Stand,
    rows: Sequence[tuple[str | None, int | None, int | None, int | None]],
    *,
    where: str = "true",
    ttl: timedelta | None = None,
    landed_since_us: int | None = None,
    start_us: int | None = None,
) -> Facts:
    """A view over rows of key, hour of the event, hour of landing, value; its second feature repeats the value as text."""
    import pyarrow as pa

    def instants(hours: Sequence[int | None]) -> pa.Array:
        return pa.array([None if hour is None else _us(hour) for hour in hours], pa.timestamp("us", "UTC"))

    table = pa.table(
        {
            "id": pa.array([row[0] for row in rows], pa.string()),
            "at": instants([row[1] for row in rows]),
            "loaded": instants([row[2] for row in rows]),
            "x": pa.array([row[3] for row in rows], pa.int64()),
            "label": pa.array([str(row[3]) for row in rows], pa.string()),
        }
    )
    query = Query.parse(f"select id, at, loaded, x, label from {stand.land(table)} where {where}", "v.sql")
    return Facts(
        query=query,
        keys=("id",),
        event_time="at",
        created_time="loaded",
        ttl=ttl,
        columns=("x", "label"),
        start_us=start_us,
        landed_since_us=landed_since_us,
    )


def _spine(moments: Sequence[tuple[str | None, int | None]]) -> "pa.Table":
    import pyarrow as pa

    return pa.table(
        {
            "rn": pa.array(range(len(moments)), pa.int64()),
            "t": pa.array([None if hour is None else _us(hour) for _, hour in moments], pa.int64()),
            "k0": pa.array([key for key, _ in moments], pa.string()),
        }
    )


def _joined(
    stand: Stand,
    facts: Facts,
    moments: Sequence[tuple[str | None, int | None]],
    as_of: AsOf = "known",
    given: Mapping[str, object] | None = None,
) -> list[int | None]:
    joined = stand.warehouse.point_in_time(facts, _spine(moments), as_of, given or {})
    assert joined.column_names == ["x", "label"]
    values = joined.column("x").to_pylist()
    assert all(
        label in {None, str(value)} for value, label in zip(values, joined.column("label").to_pylist(), strict=True)
    )
    return values


def _newest(
    stand: Stand, facts: Facts, *, as_of: int, since: int | None = None, given: Mapping[str, object] | None = None
) -> set[tuple[object, ...]]:
    moments = {
        "as_of": NOON + timedelta(hours=as_of),
        "since": _LONG_AGO if since is None else NOON + timedelta(hours=since),
    }
    with stand.warehouse.newest(facts, {**moments, **(given or {})}) as reader:
        rows = reader.read_all()
    assert rows.column_names == ["k0", "event", "landed", "f0", "f1"]
    return {(row["k0"], row["event"], row["landed"], row["f0"]) for row in rows.to_pylist()}

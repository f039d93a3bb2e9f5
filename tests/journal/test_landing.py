"""The landing table of a form: the rows that fit it, whatever form they were pushed under, as the online store has them."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from towpath.features import RowForm, View
from towpath.features.encoding import RowSchema
from towpath.features.push import PushedRow
from towpath.journal.landing import landing_sql
from towpath.project.declarations import FeatureHeader
from towpath.sql import Query
from towpath.types import micros
from towpath.warehouse import Engine

NOW = datetime(2026, 3, 9, 8, tzinfo=UTC)
KINDS = {
    "int8": pa.int8(),
    "int64": pa.int64(),
    "uint32": pa.uint32(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp[us, tz=UTC]": pa.timestamp("us", "UTC"),
    "date32[day]": pa.date32(),
    "list<element: double>": pa.list_(pa.field("element", pa.float64())),
    "list<element: int64>": pa.list_(pa.field("element", pa.int64())),
    "list<element: string>": pa.list_(pa.field("element", pa.string())),
    "struct<a: double>": pa.struct([("a", pa.float64())]),
}
ANYTHING = [
    *(0, 3, -1, 200, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 3.0, 3.5, -0.0, 1e18, 1e19, 1e22, 1e300, 1e-300),
    *("", "3", "x", "é\n\"'", "2026-03-09", "2026-3-9", "20260309", "2026-02-30", "0000-01-01", "infinity", "true"),
    *("2026-03-09T08:00:00.000000Z", "2026-03-09T24:00:00Z", "2026-03-09 08:00:00", "2026-03-09T08:00:00+01:00"),
    *([], [1.0, None], [2, 3.5], ["x"], [None], ["2026-03-09"], {"a": 1.0}),
    *(True, False, None, date(2026, 3, 9), NOW, NOW + timedelta(microseconds=3)),
]


def form(key: str, kind: str) -> tuple[View, RowForm]:
    header = FeatureHeader(entity="id", event_time="event", created_time="landed_at")
    columns = (("x", kind),)
    view = View(
        project="shop",
        name="clicks",
        query=Query.parse(""),
        header=header,
        columns=columns,
        fingerprint="",
        key_types=(key,),
    )
    return view, RowForm(view, RowSchema(keys=(key,), columns=columns))


def pushed(column: str, kinds: list[str]) -> dict[str, list[PushedRow]]:
    """All that fits a form, for the forms in which a column is of each kind; each row at a moment of its own."""
    found: dict[str, list[PushedRow]] = {}
    for number, kind in enumerate(kinds):
        first = NOW - timedelta(hours=number)
        rest = {"id": "a"} if column == "x" else {"x": None}
        rows = [{"event": first - timedelta(seconds=at), column: value, **rest} for at, value in enumerate(ANYTHING)]
        found[kind] = form(*(("string", kind) if column == "x" else (kind, "double")))[1].check(rows, micros(NOW))[0]
    return found


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(memory_mib=256, threads=1)
    yield engine
    engine.close()


def landed(engine: Engine, view: View, rows: list[PushedRow], kinds: dict[str, pa.DataType]) -> dict[int, Any]:
    """Event → value, of the rows that the landing table of a form has."""
    instant = pa.timestamp("us", "UTC")
    raw = {
        "entity_key": [row.key.decode() for row in rows],
        "event_time": pa.array([row.event_us for row in rows], pa.int64()).cast(instant),
        "arrived_at": pa.array([micros(NOW)] * len(rows), pa.int64()).cast(instant),
        "place": list(range(len(rows))),
        "row": [row.text for row in rows],
        "row_digest": [row.digest for row in rows],
    }
    engine.register("raw", pa.table(raw))
    schema = pa.schema([*kinds.items(), ("event", instant), ("landed_at", instant)])
    found = engine.read(landing_sql(view, schema, raw="raw"))
    events = found.column("event").cast(pa.int64()).to_pylist()
    return dict(zip(events, found.select(list(kinds)).to_pylist(), strict=True))


@pytest.mark.parametrize("column", ["x", "id"])
def test_the_landing_table_of_a_form_has_what_its_online_table_is_given(engine: Engine, column: str) -> None:
    # given rows that were pushed under forms in which a column is of each kind
    before = pushed(column, [kind for kind in KINDS if column == "x" or "<" not in kind])
    rows = [row for of_form in before.values() for row in of_form]
    strangers = 0
    for kind in before:
        # when they meet the form of one kind
        view, met = form(*(("string", kind) if column == "x" else (kind, "double")))
        online = {row.event_us: row.values[0] for row in met.again(rows)}
        kinds = {"id": pa.string(), "x": KINDS[kind]} if column == "x" else {"id": KINDS[kind], "x": pa.float64()}
        offline = landed(engine, view, rows, kinds)
        # then online and offline have the same rows with the same values, and all those that were pushed under it
        told = {row.event_us: row.text for row in rows}
        assert {told[event] for event in online} == {told[event] for event in offline}, kind
        assert online.keys() == offline.keys(), kind
        assert {row.event_us for row in before[kind]} <= offline.keys(), kind
        values = pa.array(list(online.values()), kinds["x"]).to_pylist()
        assert values == [offline[event]["x"] for event in online], kind
        strangers += len(online) - len(before[kind])
    assert strangers > (100 if column == "x" else 20)


def test_a_row_of_another_entity_is_no_row_of_this_form(engine: Engine) -> None:
    # given rows that were keyed by what is a feature now, and has the key's name among its columns
    header = FeatureHeader(entity="x", event_time="event", created_time="landed_at")
    view = View(
        project="shop", name="clicks", query=Query.parse(""), header=header, columns=(("id", "string"),), fingerprint=""
    )
    keyed = RowForm(view, RowSchema(keys=("string",), columns=(("id", "string"),)))
    rows, _ = keyed.check(
        [{"x": x, "id": "a", "event": NOW - timedelta(seconds=at)} for at, x in enumerate("ab")], micros(NOW)
    )
    assert len(rows) == 2
    # when they meet the form that is keyed by the other column, then only who has one name for both is in it
    view, other = form("string", "string")
    assert [row.values for row in other.again(rows)] == [("a",)]
    assert [row["x"] for row in landed(engine, view, rows, {"id": pa.string(), "x": pa.string()}).values()] == ["a"]

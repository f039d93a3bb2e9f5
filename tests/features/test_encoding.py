"""The bytes of an online row: what goes in comes out, and what was stored once is read for ever."""

from datetime import UTC, date, datetime
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from towpath.errors import FormatError
from towpath.features.encoding import NEVER_US, RowSchema, decode, encode

FORMATS = Path(__file__).parents[1] / "formats" / "v1"
MOMENT = datetime(2011, 9, 1, 12, 30, 0, 123456, tzinfo=UTC)
COLUMNS = {
    "price": pa.array([2.5, None], pa.float64()),
    "units": pa.array([-7, None], pa.int32()),
    "open": pa.array([True, None], pa.bool_()),
    "seen_at": pa.array([MOMENT, None], pa.timestamp("us", "UTC")),
    "day": pa.array([date(2011, 9, 1), None], pa.date32()),
    "name": pa.array(["Café", None], pa.string()),
    "tags": pa.array([["a", "b"], None], pa.list_(pa.string())),
    "country": pa.array(["UK", ""], pa.string()),
    "share": pa.array([0.5, 0.25], pa.float32()),
}
SCHEMA = RowSchema(keys=("string",), columns=tuple((name, str(column.type)) for name, column in COLUMNS.items()))
GOLDEN_EVENT_US = 1_314_880_200_123_456


def batch() -> pa.RecordBatch:
    times = {"event": pa.array([GOLDEN_EVENT_US, -1]), "landed": pa.array([GOLDEN_EVENT_US + 5, 3])}
    return pa.RecordBatch.from_pydict({**times, **COLUMNS})


def test_a_row_is_written_as_release_one_wrote_it() -> None:
    assert encode(batch().columns, SCHEMA)[0] == (FORMATS / "online_row.bin").read_bytes()
    assert SCHEMA.to_bytes() == (FORMATS / "online_schema.bin").read_bytes()


def test_a_row_that_release_one_wrote_is_read() -> None:
    schema = RowSchema.from_bytes((FORMATS / "online_schema.bin").read_bytes())
    row = (FORMATS / "online_row.bin").read_bytes()
    decoded = decode([row], schema, list(COLUMNS), now_us=GOLDEN_EVENT_US + 5, ttl_us=5)
    assert {name: column.tolist() for name, column in decoded.columns.items()} == {
        "price": [2.5],
        "units": [-7.0],
        "open": [True],
        "seen_at": [MOMENT.replace(tzinfo=None)],
        "day": [date(2011, 9, 1)],
        "name": ["Café"],
        "tags": [["a", "b"]],
        "country": ["UK"],
        "share": [0.5],
    }
    assert decoded.event_us.tolist() == [GOLDEN_EVENT_US]


def test_nulls_and_absent_rows_are_null_in_the_way_of_their_type() -> None:
    rows = [None, encode(batch().columns, SCHEMA)[1], None]
    decoded = decode(rows, SCHEMA, [*COLUMNS, "added later"], now_us=3, ttl_us=None)
    more = decode(
        rows, SCHEMA, ["a", "b"], now_us=3, ttl_us=None, types={"a": "timestamp[us, tz=UTC]", "b": "date32[day]"}
    )
    assert [str(column.dtype) for column in more.columns.values()] == ["datetime64[us]", "datetime64[D]"]
    assert all(np.isnat(column).all() for column in more.columns.values())
    assert np.isnan(decoded.columns["price"]).all()
    assert np.isnan(decoded.columns["units"]).all()
    assert np.isnan(decoded.columns["added later"]).all()
    assert np.isnat(decoded.columns["seen_at"]).all()
    assert np.isnat(decoded.columns["day"]).all()
    assert decoded.columns["name"].tolist() == [None] * 3
    assert decoded.columns["open"].tolist() == [None] * 3
    assert decoded.columns["country"].tolist() == [None, "", None]
    assert decoded.event_us.tolist() == [NEVER_US, -1, NEVER_US]


@pytest.mark.parametrize(
    ("now_us", "ttl_us", "counts"), [(3, 4, True), (3, 3, False), (2, None, False), (-2, None, False), (9, 10, True)]
)
def test_a_row_counts_from_its_landing_to_the_end_of_its_ttl(now_us: int, ttl_us: int | None, counts: bool) -> None:
    # given a row that became true at -1 and landed at 3
    decoded = decode(encode(batch().columns, SCHEMA)[1:], SCHEMA, ["country"], now_us=now_us, ttl_us=ttl_us)
    assert decoded.columns["country"].tolist() == ([""] if counts else [None])


def test_damaged_rows_are_refused() -> None:
    row = encode(batch().columns, SCHEMA)[0]
    with pytest.raises(FormatError, match="shorter"):
        decode([row[:30]], SCHEMA, ["price"], now_us=0, ttl_us=None)
    with pytest.raises(FormatError, match="schema 1"):
        decode([row[:16] + b"\x09\x09" + row[18:]], SCHEMA, ["price"], now_us=0, ttl_us=None)
    with pytest.raises(FormatError, match="schema"):
        RowSchema.from_bytes(bytes(16) + b"{")


values = st.tuples(
    st.one_of(st.none(), st.floats(allow_nan=False)),
    st.one_of(st.none(), st.text(max_size=8)),
    st.one_of(st.none(), st.integers(-(2**53), 2**53)),
    st.one_of(st.none(), st.text(max_size=3)),
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(values, st.integers(-(10**15), 10**15)), max_size=6))
def test_what_goes_in_comes_out(
    rows: list[tuple[tuple[float | None, str | None, int | None, str | None], int]],
) -> None:
    names = ("number", "text", "whole", "more")
    types = (pa.float64(), pa.string(), pa.int64(), pa.string())
    columns = {name: pa.array([row[0][i] for row in rows], types[i]) for i, name in enumerate(names)}
    event = pa.array([row[1] for row in rows], pa.int64())
    schema = RowSchema(keys=("int64",), columns=tuple((name, str(types[i])) for i, name in enumerate(names)))
    encoded = encode([event, event, *columns.values()], schema)
    decoded = decode(encoded, schema, names, now_us=10**15, ttl_us=None)
    back = zip(*(_with_none(decoded.columns[name].tolist()) for name in names), strict=True)
    assert list(back) == [row[0] for row in rows]
    assert decoded.event_us.tolist() == event.to_pylist()
    # and in byte order rows stand in time order
    assert [row[1] for row in sorted(rows, key=lambda row: row[1])] == [
        int.from_bytes(value[:8], "big") - 2**63 for value in sorted(encoded)
    ]


def _with_none(column: list[object]) -> list[object]:
    return [None if isinstance(value, float) and np.isnan(value) else value for value in column]


@given(
    rows=st.lists(
        st.tuples(
            st.integers(-20, 20), st.integers(-20, 20), st.none() | st.floats(-9, 9), st.none() | st.floats(-9, 9), st.booleans()
        ),
        max_size=5,
    ),
    ttl_us=st.none() | st.integers(0, 30),
    number=st.integers(1, 300),
)  # fmt: skip
def test_a_few_rows_of_numbers_are_what_they_are_among_many(
    rows: list[tuple[int, int, float | None, float | None, bool]], ttl_us: int | None, number: int
) -> None:
    # given rows old and young, with gaps or none, some of them away
    columns = (("a", "double"), ("b", "float"))
    schema = RowSchema(number=number, keys=("int64",), columns=columns)
    event, landed, a, b, away = (list(column) for column in zip(*rows, strict=True)) if rows else ([] for _ in range(5))
    types = {"event": pa.int64(), "landed": pa.int64(), "a": pa.float64(), "b": pa.float32()}
    made = {name: pa.array(given, types[name]) for name, given in zip(types, (event, landed, a, b), strict=True)}
    stored = encode(list(made.values()), schema)
    values = [None if gone else value for value, gone in zip(stored, away, strict=True)]
    # when they are read alone, and with so many others that the other way is taken
    alone = decode(values, schema, ["a", "b"], now_us=10, ttl_us=ttl_us)
    among = decode([*values, *[None] * 40], schema, ["a", "b"], now_us=10, ttl_us=ttl_us)
    # then they are the same
    n = len(values)
    assert alone.event_us.tolist() == among.event_us[:n].tolist()
    nothing = np.zeros(n, dtype=bool)
    for name in ("a", "b"):
        np.testing.assert_array_equal(alone.columns[name], among.columns[name][:n])
        np.testing.assert_array_equal(alone.gaps.get(name, nothing), among.gaps[name][:n])

"""What a pushed row may look like: each is taken whole or refused whole, with its number and the reason."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from towpath.features import RowForm, View
from towpath.features.encoding import RowSchema, decode, encode
from towpath.project.declarations import FeatureHeader
from towpath.sql import Query
from towpath.types import micros

NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
COLUMNS = {
    "x": ("double", pa.float64()),
    "small": ("float", pa.float32()),
    "n": ("int32", pa.int32()),
    "wide": ("int64", pa.int64()),
    "kind": ("string", pa.string()),
    "open": ("bool", pa.bool_()),
    "seen": ("timestamp[us, tz=UTC]", pa.timestamp("us", "UTC")),
    "day": ("date32[day]", pa.date32()),
    "scores": ("list<item: double>", pa.list_(pa.float64())),
}
SCHEMA = RowSchema(keys=("int64", "string"), columns=tuple((name, kind) for name, (kind, _) in COLUMNS.items()))
ROW: dict[str, Any] = {
    "id": 7,
    "shop": "é",
    "event": "2026-03-09T11:59:00.000001+00:00",
    "x": 1.5,
    "small": 0.1,
    "n": -3,
    "wide": 2**53 + 1,
    "kind": "new",
    "open": True,
    "seen": "2026-03-08T23:00:00+02:00",
    "day": "2026-03-08",
    "scores": [1.0, 2.5],
}


def form(*, created: str | None = "landed_at", start: str | None = None) -> RowForm:
    header = FeatureHeader(entity=("id", "shop"), event_time="event", created_time=created, start=start)
    view = View(project="p", name="v", query=Query.parse(""), header=header, columns=(), fingerprint="f")
    return RowForm(view, SCHEMA)


def refusal(**changes: Any) -> str:
    row = {name: value for name, value in (ROW | changes).items() if value is not ...}
    fit, refused = form().check([ROW, row, ROW], micros(NOW))
    assert [one.row for one in fit] == [0, 2]
    assert [one.row for one in refused] == [1]
    return refused[0].error


def test_a_row_becomes_the_bytes_that_a_build_writes() -> None:
    [row], refused = form().check([ROW], micros(NOW))
    assert refused == []
    built = pa.RecordBatch.from_pydict(
        {
            "event": pa.array([micros(datetime(2026, 3, 9, 11, 59, 0, 1, tzinfo=UTC))]),
            "landed": pa.array([micros(NOW)]),
            **{
                name: pa.array([value], COLUMNS[name][1])
                for name, value in {
                    **ROW,
                    "seen": datetime(2026, 3, 8, 21, tzinfo=UTC),
                    "day": date(2026, 3, 8),
                }.items()
                if name in COLUMNS
            },
        }
    )
    assert form().to_bytes([row], micros(NOW)) == encode(built.columns, SCHEMA)
    assert row.key == '[7,"é"]'.encode()


def test_without_a_created_time_a_row_lands_when_it_happens() -> None:
    without = form(created=None)
    [row], _ = without.check([ROW], micros(NOW))
    assert without.to_bytes([row], micros(NOW)) == without.to_bytes([row], micros(NOW) + 5)


def test_a_feature_that_is_not_named_is_null() -> None:
    [row], _ = form().check([{"id": 7, "shop": "a", "event": NOW}], micros(NOW))
    values = decode(form().to_bytes([row], micros(NOW)), SCHEMA, list(COLUMNS), now_us=micros(NOW), ttl_us=None)
    assert set(values.gaps) == set(COLUMNS)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"id": ...}, "The key 'id' is missing."),
        ({"id": None}, "The key 'id' is missing."),
        ({"id": "x7"}, "The key 'id' is 'x7', which is no int64."),
        ({"id": 7.5}, "The key 'id' is 7.5, which is no int64."),
        ({"id": True}, "The key 'id' is True, which is no int64."),
        ({"id": 2**63}, f"The key 'id' is {2**63}, which is no int64."),
        ({"id": [7]}, "The key 'id' is [7], which is no int64."),
        ({"shop": 3}, "The key 'shop' is 3, which is no string."),
        ({"event": ...}, "'event', the event time, is missing."),
        ({"event": 1_700_000_000}, "'event' is 1700000000, which is no ISO 8601 time."),
        ({"event": "yesterday"}, "'event' is 'yesterday', which is no ISO 8601 time."),
        ({"event": "2026-03-09T12:01:00.000001"}, "'event' is '2026-03-09T12:01:00.000001', more than a minute after"),
        ({"event": "1899-12-31"}, "'event' is '1899-12-31', before 1900."),
        ({"landed_at": "2026-03-09"}, "'landed_at' is set here"),
        ({"kinds": "new"}, "The view has no column 'kinds'; did you mean 'kind'?"),
        ({"x": float("nan")}, "'x' is nan, which is no double."),
        ({"x": float("-inf")}, "'x' is -inf, which is no double."),
        ({"x": "1.5"}, "'x' is '1.5', which is no double."),
        ({"x": True}, "'x' is True, which is no double."),
        ({"small": 1e39}, "'small' is 1e+39, which is no float."),
        ({"n": 2**31}, f"'n' is {2**31}, which is no int32."),
        ({"n": 1.5}, "'n' is 1.5, which is no int32."),
        ({"n": False}, "'n' is False, which is no int32."),
        ({"kind": 5}, "'kind' is 5, which is no string."),
        ({"kind": "\ud800"}, "It cannot be written down"),
        ({"open": 1}, "'open' is 1, which is no bool."),
        ({"seen": 5}, "'seen' is 5, which is no timestamp."),
        ({"day": "2026-13-01"}, "'day' is '2026-13-01', which is no date."),
        ({"scores": "[1]"}, "'scores' is '[1]', which is no list<double>."),
        ({"scores": ["a"]}, "'scores' is ['a'], which is no list<double>."),
        ({"scores": {"a": 1}}, "'scores' is {'a': 1}, which is no list<double>."),
    ],
)
def test_a_row_of_the_wrong_type_is_refused_whole_and_the_rest_kept(changes: dict[str, Any], error: str) -> None:
    assert refusal(**changes).startswith(error)


def test_what_is_no_object_is_refused_by_its_number() -> None:
    _, refused = form().check([ROW, 3, [ROW]], micros(NOW))
    assert [(one.row, one.error) for one in refused] == [(1, "It is no JSON object."), (2, "It is no JSON object.")]


def test_a_row_from_before_the_start_is_none_here_as_in_a_build() -> None:
    fit, refused = form(start="2026-03-09T12:00").check([ROW | {"event": "2026-03-09T12:00"}, ROW], micros(NOW))
    assert len(fit) == 1
    assert refused[0].error.endswith("before the view's start, 2026-03-09T12:00.")


def test_a_clock_may_be_a_minute_ahead() -> None:
    row = ROW | {"event": NOW + timedelta(minutes=1)}
    assert form().check([row], micros(NOW))[1] == []


def test_the_same_row_has_the_same_digest_whoever_writes_it_how() -> None:
    again = ROW | {"id": "7", "event": "2026-03-09T12:59:00.000001+01:00", "n": -3.0}
    one, other = form().check([ROW, again], micros(NOW))[0]
    assert one.digest == other.digest
    [changed], _ = form().check([ROW | {"x": 1.6}], micros(NOW))
    assert changed.digest != one.digest

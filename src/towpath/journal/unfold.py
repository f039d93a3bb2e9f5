"""From one record a request to one row a prediction, as Arrow."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from towpath.errors import InputError, nearest
from towpath.journal.record import OUTCOME_COLUMNS, PREDICTION_COLUMNS, RUN_COLUMNS, OutcomeRow, Record

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["COLUMNS", "by_day", "conform", "outcome_table", "prediction_table", "schema_of"]

COLUMNS: dict[str, dict[str, str]] = {
    "predictions": PREDICTION_COLUMNS,
    "outcomes": OUTCOME_COLUMNS,
    "runs": RUN_COLUMNS,
}
"""Table of the journal → its columns with their Arrow types."""

_ONCE_A_RECORD = (
    "request_id",
    "run_id",
    "project",
    "team",
    "model",
    "environment",
    "server",
    "predicted_at",
    "consumer",
    "latency_ms",
    "recorded_at",
    "schema",
)
_AS_THEY_ARE = (
    "version",
    "horizon",
    "unit_id",
    "entity_key",
    "source",
    "reason",
    "arm",
    "experiment",
    "prediction",
    "label",
    "feature_ref",
    "fallback_prediction",
)
_AS_JSON = ("segment", "output", "features")
_DAY_US = 86_400_000_000
_ENCODE = msgspec.json.Encoder(order="deterministic").encode


def prediction_table(records: Iterable[Record]) -> "pa.Table":
    """One row per prediction, in the order of writing; of a ranking one row per item.

    Row ``i`` of a record with several rows is called ``<prediction_id>-<i>``. The items of one ranking share their
    prediction's id and count their `position` from 1; what belongs to the answer as a whole (output, features) stands
    on its first item, so that no sum counts it twice.

    Args:
        records: As they were appended.

    Returns:
        The columns of `PREDICTION_COLUMNS`.
    """
    columns: dict[str, list[Any]] = {name: [] for name in PREDICTION_COLUMNS}
    for record in records:
        _unfold(record, columns)
    return _table(columns, PREDICTION_COLUMNS)


def outcome_table(rows: Iterable[OutcomeRow]) -> "pa.Table":
    """Outcome rows as a table with the columns of `OUTCOME_COLUMNS`."""
    columns: dict[str, list[Any]] = {name: [] for name in OUTCOME_COLUMNS}
    for row in rows:
        for name, values in columns.items():
            values.append(getattr(row, name))
    return _table(columns, OUTCOME_COLUMNS)


def conform(data: "pa.Table", table: str) -> "pa.Table":
    """Bring a table into the journal's columns: their order and types, null where one is not given.

    Raises:
        InputError: It has a column that the journal does not know, or a value that does not fit.
    """
    import pyarrow as pa

    schema = schema_of(table)
    unknown = sorted(set(data.column_names) - set(schema.names))
    if unknown:
        raise InputError(
            f"'{unknown[0]}' is no column of the journal's {table}{nearest(unknown[0], schema.names)}",
            mend="rename it, or leave it out",
        )
    columns: list[pa.ChunkedArray | pa.Array] = []
    for field in schema:
        if field.name not in data.column_names:
            columns.append(pa.nulls(data.num_rows, field.type))
            continue
        try:
            columns.append(data[field.name].cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"Column '{field.name}' does not fit {field.type}: {error}", mend="cast it") from error
    return pa.table(columns, schema=schema)


def schema_of(table: str) -> "pa.Schema":
    """The Arrow schema of ``predictions``, ``outcomes`` or ``runs``."""
    import pyarrow as pa

    return pa.schema([(name, _type(kind)) for name, kind in COLUMNS[table].items()])


def _unfold(record: Record, columns: dict[str, list[Any]]) -> None:
    rows = record.rows
    count = len(rows.source)
    rankings: Sequence[list[str]] = rows.item if rows.item is not None else [[]] * count
    lengths = [max(len(items), 1) for items in rankings]
    total = sum(lengths)
    for name in _ONCE_A_RECORD:
        columns[name].extend([getattr(record, name)] * total)
    ids = [record.prediction_id] if count == 1 else [f"{record.prediction_id}-{row}" for row in range(count)]
    columns["prediction_id"].extend(_spread(ids, lengths))
    targets = [record.predicted_at if at is None else at for at in rows.target_at or [None] * count]
    columns["target_at"].extend(_spread(targets, lengths))
    for name in _AS_THEY_ARE:
        columns[name].extend(_spread(getattr(rows, name) or [None] * count, lengths))
    for name in _AS_JSON:
        values: list[Any] = getattr(rows, name) or [None] * count
        texts = [None if value is None else _ENCODE(value).decode() for value in values]
        columns[name].extend(_spread(texts, lengths) if name == "segment" else _on_the_first(texts, lengths))
    propensities: list[Any] = rows.propensity or [None] * count
    for items, propensity in zip(rankings, propensities, strict=True):
        each: list[Any] = propensity if isinstance(propensity, list) else [propensity] * max(len(items), 1)
        columns["item"].extend(items or [None])
        columns["position"].extend(range(1, len(items) + 1) if items else [None])
        columns["propensity"].extend(p for p, _ in zip_longest(each[: max(len(items), 1)], items or [None]))


def _spread(values: Sequence[Any], lengths: Sequence[int]) -> list[Any]:
    if len(values) == sum(lengths):
        return list(values)
    return [value for value, length in zip(values, lengths, strict=True) for _ in range(length)]


def _on_the_first(values: Sequence[Any], lengths: Sequence[int]) -> list[Any]:
    filled: list[Any] = []
    for value, length in zip(values, lengths, strict=True):
        filled.append(value)
        filled.extend([None] * (length - 1))
    return filled


def _table(columns: dict[str, list[Any]], types: dict[str, str]) -> "pa.Table":
    import pyarrow as pa

    arrays: list[pa.Array] = []
    for name, kind in types.items():
        wanted = _type(kind)
        first = pa.int64() if pa.types.is_timestamp(wanted) else wanted
        arrays.append(pa.array(columns[name], first).cast(wanted))
    return pa.table(arrays, names=list(types))


def _type(name: str) -> "pa.DataType":
    import pyarrow as pa

    return pa.timestamp("us", "UTC") if name.startswith("timestamp") else pa.type_for_alias(name)


def by_day(data: "pa.Table", time: str) -> "dict[str, pa.Table]":
    """Split a table by the UTC day of a time column, keeping the order within a day.

    Raises:
        InputError: A time is null.
    """
    import pyarrow as pa

    if data[time].null_count:
        raise InputError(f"Column '{time}' is null in {data[time].null_count} rows.", mend="give each row a time")
    days = np.asarray(data[time].cast(pa.int64())) // _DAY_US
    return {str(np.datetime64(int(day), "D")): data.filter(pa.array(days == day)) for day in np.unique(days)}

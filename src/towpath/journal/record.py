"""What a server writes down of each request, and the rows that readers see."""

from datetime import datetime
from typing import Any

import msgspec

from towpath.types import Reason

__all__ = [
    "LANDING_COLUMNS",
    "OUTCOME_COLUMNS",
    "PREDICTION_COLUMNS",
    "RECORD_SCHEMA",
    "SCHEMA",
    "Beside",
    "DayManifest",
    "LandedRow",
    "LeftOut",
    "Outcome",
    "OutcomeRow",
    "RUN_COLUMNS",
    "Record",
    "Rows",
    "Run",
    "json_of",
    "plain",
]

SCHEMA = 1
RECORD_SCHEMA = 3

PREDICTION_COLUMNS: dict[str, str] = {
    "prediction_id": "string",
    "request_id": "string",
    "run_id": "string",
    "project": "string",
    "team": "string",
    "model": "string",
    "version": "int32",
    "environment": "string",
    "server": "string",
    "predicted_at": "timestamp[us, tz=UTC]",
    "target_at": "timestamp[us, tz=UTC]",
    "horizon": "string",
    "unit_id": "string",
    "entity_key": "string",
    "item": "string",
    "position": "int32",
    "segment": "string",
    "consumer": "string",
    "source": "string",
    "reason": "string",
    "arm": "string",
    "experiment": "string",
    "propensity": "double",
    "prediction": "double",
    "label": "string",
    "output": "string",
    "features": "string",
    "feature_ref": "string",
    "fallback_prediction": "double",
    "fallback_label": "string",
    "fallback_items": "list<item: string>",
    "latency_ms": "double",
    "recorded_at": "timestamp[us, tz=UTC]",
    "schema": "int16",
}
"""Column → Arrow type of the unfolded prediction row; ``output``, ``features`` and ``segment`` hold JSON text."""

OUTCOME_COLUMNS: dict[str, str] = {
    "outcome_id": "string",
    "project": "string",
    "model": "string",
    "prediction_id": "string",
    "entity_key": "string",
    "target_at": "timestamp[us, tz=UTC]",
    "horizon": "string",
    "item": "string",
    "happened_at": "timestamp[us, tz=UTC]",
    "metric": "string",
    "value": "double",
    "label": "string",
    "weight": "double",
    "consumer": "string",
    "arrived_at": "timestamp[us, tz=UTC]",
    "schema": "int16",
}
"""Column → Arrow type of an outcome row; late and corrected rows are new rows."""

RUN_COLUMNS: dict[str, str] = {
    "run_id": "string",
    "project": "string",
    "model": "string",
    "version": "int32",
    "as_of": "timestamp[us, tz=UTC]",
    "started_at": "timestamp[us, tz=UTC]",
    "finished_at": "timestamp[us, tz=UTC]",
    "status": "string",
    "expected_rows": "int64",
    "written_rows": "int64",
    "error": "string",
    "schema": "int16",
}
"""Column → Arrow type of a run; it is written when it starts and again when it ends."""


LANDING_COLUMNS: dict[str, str] = {
    "project": "string",
    "view": "string",
    "entity_key": "string",
    "event_time": "timestamp[us, tz=UTC]",
    "arrived_at": "timestamp[us, tz=UTC]",
    "place": "int64",
    "row": "string",
    "row_digest": "string",
    "consumer": "string",
    "schema": "int16",
}
"""Column → Arrow type of a pushed feature row; ``row`` holds key parts and features as JSON text, so that one form of table
outlives every change of a view's types."""


def plain(value: object) -> object:
    """What msgspec does not know: numpy's own numbers and arrays become Python's, the rest its text."""
    listed = getattr(value, "tolist", None)
    return str(value) if listed is None else listed()


json_of = msgspec.json.Encoder(enc_hook=plain).encode
"""JSON as records keep it; what is no number is null."""


class Rows(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """The rows of one request as columns; a column is null, or has one value a row.

    Appending a column is a new schema number; the order never changes.
    """

    source: list[str]
    reason: list[Reason]
    version: list[int | None]
    prediction: list[float | None] | None = None
    label: list[str | None] | None = None
    output: list[Any] | None = None
    entity_key: list[str | None] | None = None
    unit_id: list[str | None] | None = None
    target_at: list[int | None] | None = None
    """Microseconds since 1970."""
    horizon: list[str | None] | None = None
    item: list[list[str]] | None = None
    """Of a ranking: per row the items in order."""
    segment: list[dict[str, str] | None] | None = None
    arm: list[str | None] | None = None
    experiment: list[str | None] | None = None
    propensity: list[Any] | None = None
    """A number a row, or of a ranking a list."""
    features: list[dict[str, Any] | bytes | None] | None = None
    """JSON of each row's features, so that the flusher copies it; schema 1 had the values."""
    feature_ref: list[str | None] | None = None
    fallback_prediction: list[float | None] | None = None
    fallback_label: list[str | None] | None = None
    """Since schema 3."""
    fallback_items: list[list[str] | None] | None = None
    """Of a ranking: per row the fallback's items in order. Since schema 3."""


class Record(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One request as it is appended to a worker's file; the flusher unfolds it to a row per prediction."""

    schema: int = RECORD_SCHEMA
    prediction_id: str
    """Of the first row; row ``i`` is ``<prediction_id>-<i>`` where there are several."""
    request_id: str
    project: str
    team: str
    model: str
    environment: str
    server: str
    consumer: str
    predicted_at: int
    """Microseconds since 1970, of the clock."""
    recorded_at: int
    """Microseconds since 1970, of the clock."""
    latency_ms: float
    rows: Rows
    run_id: str | None = None
    protocol: str = "http"
    """``http grpc batch``"""


class Beside(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What the fallback would have said to some rows of a record, found out when their answer was on its way.

    It belongs to the record before it in the same file; the flusher puts what it says into ``fallback_prediction``,
    ``fallback_label`` and ``fallback_items``.
    """

    prediction_id: str
    """Of the record."""
    rows: list[int]
    """Which of its rows, counted from 0."""
    values: list[float | None]
    """One for each of `rows`; null where the fallback has no number for it."""
    labels: list[str | None] | None = None
    """The same of labels, where it gives labels."""
    items: list[list[str] | None] | None = None
    """The same of lists, where it gives rankings."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What really happened, as it is posted; names a prediction, or an entity and the time it was about."""

    model: str = ""
    """Filled from the path on the wire."""
    prediction_id: str | None = None
    """Of the answer; else `entity_key` and `target_at` name what was predicted about."""
    entity_key: tuple[str | int | float | bool | None, ...] | str | None = None
    """The key parts in declared order, ``["10002", "UK"]``; a text is one part, or that array as text."""
    target_at: datetime | None = None
    """The end of what was predicted about."""
    horizon: str | None = None
    """Such as ``7d``, where several horizons end at one time."""
    item: str | None = None
    """Of a ranking."""
    happened_at: datetime | None = None
    """When it happened; `target_at` unless given, else now."""
    metric: str = "outcome"
    """What the value is, where several things are reported."""
    value: float | None = None
    """The number that happened."""
    label: str | None = None
    """The class that happened."""
    weight: float = 1.0
    """How much the row counts."""


class OutcomeRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One outcome as it is appended: fields as in `OUTCOME_COLUMNS`, times in microseconds since 1970."""

    outcome_id: str
    """Digest of everything else, so that the same outcome sent twice is the same row."""
    project: str
    model: str
    prediction_id: str | None = None
    entity_key: str | None = None
    target_at: int | None = None
    horizon: str | None = None
    item: str | None = None
    happened_at: int
    metric: str = "outcome"
    value: float | None = None
    label: str | None = None
    weight: float = 1.0
    consumer: str = ""
    arrived_at: int
    schema: int = SCHEMA


class LandedRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One pushed feature row as it is appended: fields as in `LANDING_COLUMNS`, times in microseconds since 1970."""

    project: str
    view: str
    entity_key: str
    event_time: int
    arrived_at: int
    """What the view calls its created time."""
    place: int
    """Tells which of two rows of one moment was the later; no time, only an order."""
    row: str
    row_digest: str
    """Of key, event time and values, so that the same row sent twice is known again."""
    consumer: str = ""
    schema: int = SCHEMA


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One batch prediction; of several for the same target the latest finished one wins."""

    schema: int = SCHEMA
    run_id: str
    project: str
    model: str
    version: int | None
    as_of: datetime
    """The moment of prediction of its rows; a later run of the same moment replaces it."""
    started_at: datetime
    finished_at: datetime | None = None
    status: str = "running"
    """``running done failed``"""
    expected_rows: int | None = None
    written_rows: int | None = None
    error: str = ""


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A damaged file that a day is read without."""

    at: datetime
    by: str
    because: str
    rows: int | None = None
    """How many were in it; null where the day cannot tell."""


class DayManifest(msgspec.Struct, frozen=True, kw_only=True):
    """``journal/<table>/<day>/manifests/000007.json``: the files that make the day, so that no reader globs."""

    schema: int = SCHEMA
    table: str
    day: str
    revision: int
    files: tuple[str, ...]
    rows: int
    written_at: datetime
    replaced: dict[str, datetime] = {}
    """Small files that a larger one of `files` replaced, and when; removed after a grace for readers at work."""
    left_out: dict[str, LeftOut] = {}
    """Damaged files that the day is read without; the objects stay."""

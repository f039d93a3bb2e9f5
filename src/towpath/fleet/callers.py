"""How each consumer was answered: the time and the share that its SLA is about, from the journal."""

from datetime import datetime, timedelta
from importlib import resources
from typing import TYPE_CHECKING

import msgspec

from towpath.sql import Query
from towpath.types import utc

if TYPE_CHECKING:
    from towpath.warehouse import Engine

__all__ = ["CallerRow", "callers"]

_WEEK = timedelta(days=7)


class CallerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer and model, or one consumer over all models."""

    consumer: str
    model: str | None
    """None for all models together."""
    requests: int
    rows: int
    p99_ms: float | None
    """99 of 100 requests took no longer, in the server, from parsed to answered."""
    available_share: float | None
    """Share of the rows that a model answered in time, holdout left out."""
    last_called_at: datetime


def callers(engine: "Engine", *, as_of: datetime, window: timedelta = _WEEK) -> tuple[CallerRow, ...]:
    """One row per consumer and one per consumer and model, by name; the whole consumer comes first.

    Args:
        engine: With the journal's views as of that moment.
        as_of: The moment.
        window: How far back is looked.
    """
    as_of = utc(as_of)
    text = (resources.files("towpath.fleet") / "sql" / "consumers.sql").read_text("utf-8")
    found = engine.read(Query.parse(text, "fleet/sql/consumers.sql"), {"as_of": as_of, "since": as_of - window})
    return tuple(msgspec.convert(row, CallerRow) for row in found.to_pylist())

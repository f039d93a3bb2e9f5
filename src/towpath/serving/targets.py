"""The end of what each row is predicted about, by which its outcome is awaited."""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from towpath.errors import InputError
from towpath.models.columns import shown
from towpath.types import micros, utc

if TYPE_CHECKING:
    from towpath.serving.served import Served
    from towpath.serving.work import Work

__all__ = ["EARLIEST_US", "LATEST_US", "TARGET", "targets"]

TARGET = "target_at"
"""The column of a request that says it."""
_MEND = "ISO 8601 text such as 2011-09-01T12:00Z, or whole microseconds since 1970 UTC"
EARLIEST_US, LATEST_US = micros(utc("0001-01-01")), micros(utc("9999-12-31T23:59:59.999999"))
"""What can be written as a date, in microseconds since 1970."""


def targets(work: "Work", base: "Served") -> list[int | None]:
    """Microseconds since 1970 of each row: its ``target_at``, else its moment of prediction plus the horizon.

    Args:
        work: A request that was read.
        base: Whose horizon and time column count.

    Raises:
        InputError: Names the row and the field that is no time.
    """
    ask, rows = work.ask, work.answered.count
    at = work.now_us if ask.at_us is None else ask.at_us
    named = TARGET in ask.columns if ask.columns is not None else any(TARGET in row for row in ask.rows or ())
    if base.plain and not named:
        return [at + base.horizon_us] * rows
    time = base.manifest.time
    own = _read(TARGET, work.values(TARGET)) if base.own_target else [None] * rows
    moments = _read(time, work.values(time)) if time is not None else [None] * rows
    return [
        target if target is not None else (at if moment is None else moment) + base.horizon_us
        for target, moment in zip(own, moments, strict=True)
    ]


def _read(name: str, values: list[Any]) -> list[int | None]:
    found: list[int | None] = []
    for row, value in enumerate(values):
        try:
            found.append(_micros(value))
        except (TypeError, ValueError, OverflowError, InputError):
            raise InputError(f"row {row}, '{name}': {shown(value)} is no time.", mend=_MEND) from None
    return found


def _micros(value: Any) -> int | None:
    """The moment that a value names; what is no time raises one of many errors."""
    if value is None or value != value:  # noqa: PLR0124 - NaN, which is a null of tensors
        return None
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    if isinstance(value, str | datetime):
        return micros(utc(value))
    if isinstance(value, date):
        return micros(datetime(value.year, value.month, value.day, tzinfo=UTC))
    if isinstance(value, bool) or int(value) != value or not EARLIEST_US <= value <= LATEST_US:
        raise ValueError
    return int(value)

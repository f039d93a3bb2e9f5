"""The end of what each row is predicted about, by which its outcome is awaited, and how far ahead that is."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from towpath.errors import InputError
from towpath.models.columns import shown
from towpath.types import duration, micros, utc

if TYPE_CHECKING:
    from towpath.serving.served import Served
    from towpath.serving.work import Work

__all__ = ["EARLIEST_US", "HORIZON", "LATEST_US", "TARGET", "Horizon", "horizon_of", "horizons", "targets"]

TARGET = "target_at"
"""The column of a request that says it."""
HORIZON = "horizon"
"""The column of a request that says how far ahead a row is predicted, where that is less than the model's own horizon."""
_LONGEST = "36525d"
_UNITS = ("us", "ms", "s", "m", "h", "d", "w")
_MEND = "ISO 8601 text such as 2011-09-01T12:00Z, or whole microseconds since 1970 UTC"
EARLIEST_US, LATEST_US = micros(utc("0001-01-01")), micros(utc("9999-12-31T23:59:59.999999"))
"""What can be written as a date, in microseconds since 1970."""


class Horizon(NamedTuple):
    """How far ahead a model predicts."""

    said: str | None
    """As it is declared."""
    us: int
    """The same in microseconds; 0 where none is declared."""
    pattern: re.Pattern[str] | None
    """Of what a row may say in its place: a whole number and a unit, no longer than this, or than 100 years where none is declared.
    None where the model reads that column itself."""


def horizons(work: "Work", base: "Served") -> list[str | None] | None:
    """What each row says of its own horizon, such as ``3d``; None where no row says anything, or the model reads that column.

    Args:
        work: A request that was read.
        base: Whose horizon is the longest.

    Raises:
        InputError: Names the row whose horizon is no duration, or is longer than the model's.
    """
    pattern = base.horizon.pattern
    if pattern is None or not _named(HORIZON, work):
        return None
    found = [None if value is None or value != value else value for value in work.asked(HORIZON)]  # noqa: PLR0124 - NaN
    for row, value in enumerate(found):
        if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
            raise InputError(f"row {row}, '{HORIZON}': {shown(value)} {_fault(value, base)}.", mend=_mend(base))
    return found if any(value is not None for value in found) else None


def horizon_of(longest: str | None, *, read: bool) -> Horizon:
    """The horizon of a model.

    Args:
        longest: What it declares, such as ``7d``.
        read: Whether the model reads a column ``horizon``, which then says nothing of this.

    Example:
        >>> pattern = horizon_of("7d", read=False).pattern
        >>> [bool(pattern.fullmatch(text)) for text in ("7d", "1w", "168h", "169h", "8d", "-1d", "7")]
        [True, True, True, False, False, False, False]
    """
    longest_us = _length_us(longest or _LONGEST)
    units = (f"(?:{_up_to(longest_us // _length_us(f'1{unit}'))}){unit}" for unit in _UNITS)
    return Horizon(longest, longest_us if longest else 0, None if read else re.compile("|".join(units)))


def targets(work: "Work", base: "Served", own_horizons: list[str | None] | None = None) -> list[int | None]:
    """Microseconds since 1970 of each row: its ``target_at``, else its moment of prediction plus the horizon.

    Args:
        work: A request that was read.
        base: Whose horizon and time column count.
        own_horizons: What `horizons` gave.

    Raises:
        InputError: Names the row and the field that is no time.
    """
    ask, rows = work.ask, work.answered.count
    at = work.now_us if ask.at_us is None else ask.at_us
    if base.plain and own_horizons is None and not _named(TARGET, work):
        return [at + base.horizon.us] * rows
    ahead = [base.horizon.us if own is None else _length_us(own) for own in own_horizons or [None] * rows]
    time = base.manifest.time
    own = _read(TARGET, work.values(TARGET)) if base.own_target else [None] * rows
    moments = _read(time, work.values(time)) if time is not None else [None] * rows
    return [
        target if target is not None else (at if moment is None else moment) + ahead_us
        for target, moment, ahead_us in zip(own, moments, ahead, strict=True)
    ]


def _length_us(text: str) -> int:
    """Microseconds of a duration."""
    return duration(text) // timedelta(microseconds=1)


def _named(name: str, work: "Work") -> bool:
    ask = work.ask
    if ask.columns is not None:
        return name in ask.columns
    rows = ask.rows or ()
    return name in rows[0] if len(rows) == 1 else any(name in row for row in rows)


def _fault(value: Any, base: "Served") -> str:
    try:
        length_us = _length_us(value) if isinstance(value, str) else 0
    except InputError:
        length_us = 0
    if base.horizon.said is not None and length_us > base.horizon.us:
        return f"is longer than the horizon of '{base.manifest.model}', {base.horizon.said}"
    return "is no duration"


def _mend(base: "Served") -> str:
    most = f", at most {base.horizon.said}" if base.horizon.said else ""
    return f"a whole number and a unit (us ms s m h d w), such as 36h{most}"


def _up_to(most: int) -> str:
    """A pattern of the whole numbers from 0 to one."""
    digits = str(most)
    same = [f"[0-9]{{1,{len(digits) - 1}}}"] if len(digits) > 1 else []
    for place, digit in enumerate(digits):
        if digit != "0":
            left = len(digits) - place - 1
            same.append(f"{digits[:place]}[0-{int(digit) - 1}]" + (f"[0-9]{{{left}}}" if left else ""))
    return "|".join([*same, digits])


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

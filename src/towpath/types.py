"""The words that every room shares: names, tiers, sources, reasons, durations."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta

from towpath.errors import InputError

__all__ = [
    "Dialect",
    "REASONS",
    "Container",
    "Digest",
    "EntityKey",
    "Isolation",
    "JournalMode",
    "Name",
    "OutputKind",
    "Reason",
    "Tier",
    "Version",
    "duration",
    "duration_text",
    "micros",
    "model_and_version",
    "type_name",
    "type_names",
    "utc",
]

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}(?!\n)$")]
"""Of a project, model, view, feature, metric: lower case, digits and underscores, a letter first, at most 63."""
Version = Annotated[int, Meta(ge=1, le=999_999)]
"""A version of a model counts from 1 within its model."""
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}(?!\n)$")]
"""Of stored bytes, never of a re-encoding."""
EntityKey = str
"""The canonical JSON array of the key parts in declared order, such as ``["10002","UK"]``."""
Dialect = Literal["duckdb", "postgres", "snowflake", "bigquery"]
"""Whose SQL a file is written in."""
Tier = Literal["critical", "standard", "experimental"]
"""How much it hurts when the model is away: what the journal drops first and what must have a fallback."""
Reason = Literal["ok", "down", "slow", "wrong", "features", "overloaded", "killed", "holdout"]
"""Why this source answered and not the champion's model."""
OutputKind = Literal["number", "class", "probability", "quantiles", "ranking", "vector", "text", "tensors"]
"""What a prediction is, and so how it is validated, journalled and measured."""
Container = Literal["arrow", "pandas", "polars", "numpy", "tensors"]
"""What `train` read its features as, and what `predict` therefore gets; a bare tensor model says ``tensors``."""
JournalMode = Literal["full", "reference", "none"]
"""With ``none`` no byte of the input reaches a disk."""
Isolation = Literal["inline", "thread", "process"]
"""Where a model is called: in the event loop (ours, under 1 ms), in a thread, in a process of its own."""

REASONS: tuple[Reason, ...] = ("ok", "down", "slow", "wrong", "features", "overloaded", "killed", "holdout")

_UNITS_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|m|h|d|w)")
_MODEL = re.compile(r"([a-z][a-z0-9_]{0,62})(?:@(?!0+$)([0-9]{1,6}))?")
_TYPE_NAMES = (
    (re.compile(r"\b(timestamp|time|duration)(32|64)?\[[^\]]*\]"), r"\1"),
    (re.compile(r"\bdate(32|64)\[[^\]]*\]"), "date"),
    (re.compile(r"\bdictionary<values=([^,<>]+), [^<>]*>"), r"\1"),
    (re.compile(r"\b(?:large_)?(string|binary|list)(?:_view)?\b"), r"\1"),
    (re.compile(r"\blist<\w+: "), "list<"),
    (re.compile(r"\bdecimal(32|64|128|256)\("), "decimal("),
    (re.compile(r" not null\b"), ""),
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def duration(text: str) -> timedelta:
    """Read a duration: one number and one unit of us, ms, s, m, h, d, w.

    Args:
        text: Such as ``30d``, ``30h`` or ``0.5s``; never negative.

    Returns:
        The duration, exact to the microsecond.

    Raises:
        InputError: It is written otherwise, or is longer than 100 years.

    Example:
        >>> duration("1.5h")
        datetime.timedelta(seconds=5400)
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InputError(f"'{text}' is no duration.", mend="one number and one unit of us ms s m h d w, such as 30d")
    micros_total = float(match[1]) * _UNITS_US[match[2]]
    if micros_total > 36_525 * _UNITS_US["d"]:
        raise InputError(f"'{text}' is longer than 100 years.", mend="a shorter duration, or none for no limit")
    return timedelta(microseconds=round(micros_total))


def duration_text(value: timedelta) -> str:
    """Write a duration in the largest unit that keeps it whole.

    Example:
        >>> duration_text(timedelta(hours=36))
        '36h'
    """
    total = round(value / timedelta(microseconds=1))
    for unit in ("w", "d", "h", "m", "s", "ms"):
        if total and total % _UNITS_US[unit] == 0:
            return f"{total // _UNITS_US[unit]}{unit}"
    return f"{total}us"


def utc(value: datetime | str) -> datetime:
    """Make a time aware and UTC; a naive time is UTC already.

    Args:
        value: A time, or ISO 8601 text such as ``2011-09-01`` or ``2011-09-01T12:00:00+01:00``.

    Raises:
        InputError: The text is no ISO 8601 time.

    Example:
        >>> utc("2011-09-01T12:00:00+01:00").isoformat()
        '2011-09-01T11:00:00+00:00'
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise InputError(
                f"'{value}' is no time.", mend="ISO 8601, such as 2011-09-01 or 2011-09-01T12:00Z"
            ) from None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def micros(value: datetime) -> int:
    """Microseconds since 1970 of an aware time; what records store.

    Example:
        >>> micros(utc("1970-01-01T00:00:01"))
        1000000
    """
    return (value - _EPOCH) // _MICROSECOND


def type_name(arrow: str) -> str:
    """A type as headers and people say it, of the name that Arrow has for it.

    Args:
        arrow: What ``str`` of a type gives.

    Example:
        >>> [type_name(each) for each in ("timestamp[us, tz=UTC]", "date32[day]", "int64", "list<item: large_string>")]
        ['timestamp', 'date', 'int64', 'list<string>']
    """
    for pattern, said in _TYPE_NAMES:
        arrow = pattern.sub(said, arrow)
    return arrow


def type_names(one: str, other: str) -> tuple[str, str]:
    """Two types that differ, as people say them; Arrow's own names where people would call both the same.

    Args:
        one: Arrow's name of a type.
        other: Of another one.

    Example:
        >>> type_names("date32[day]", "timestamp[us]"), type_names("timestamp[us]", "timestamp[ns]")
        (('date', 'timestamp'), ('timestamp[us]', 'timestamp[ns]'))
    """
    said = type_name(one), type_name(other)
    return said if said[0] != said[1] else (one, other)


def model_and_version(text: str) -> tuple[str, int | None]:
    """Read ``demand`` or ``demand@17``.

    Raises:
        InputError: It is neither.

    Example:
        >>> model_and_version("demand@17")
        ('demand', 17)
    """
    match = _MODEL.fullmatch(text)
    if match is None:
        raise InputError(f"'{text}' names no model.", mend="a name such as demand, or a version such as demand@17")
    return match[1], int(match[2]) if match[2] else None

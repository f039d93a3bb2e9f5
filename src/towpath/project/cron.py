"""Cron lines: what is wrong with one before it is ever due, and when it is due."""

import re
from datetime import datetime, timedelta

__all__ = ["cron_fault", "cron_times"]

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, {name: i + 1 for i, name in enumerate(_MONTHS)}),
    ("weekday", 0, 7, {name: i for i, name in enumerate(_WEEKDAYS)}),
)
_PART = re.compile(r"(?:(?P<all>\*)|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>\d+))?")


def cron_fault(line: str) -> str:
    """Say why a cron line cannot be used; empty where it can.

    Args:
        line: Five fields (minute hour day month weekday), or a nickname such as ``@daily``.

    Example:
        >>> cron_fault("0 5 * * mon-fri"), cron_fault("0 25 * * *")
        ('', 'hour 25 is not within 0 to 23')
    """
    if line.startswith("@"):
        return "" if line in _NICKNAMES else f"there is no '{line}'"
    parts = line.split()
    if len(parts) != len(_FIELDS):
        return f"{len(parts)} fields where five are needed"
    for (name, low, high, words), text in zip(_FIELDS, parts, strict=True):
        for part in text.lower().split(","):
            fault = _fault_of(part, name, low, high, words)
            if fault:
                return fault
    return ""


def cron_times(line: str, since: datetime, until: datetime) -> list[datetime]:
    """When a line is due within ``[since, until)``; of day and weekday either is enough where both are given, as in cron.

    Args:
        line: One that `cron_fault` finds nothing wrong with.
        since: The first moment.
        until: The end, exclusive.

    Example:
        >>> [f"{at:%a %H:%M}" for at in cron_times("30 5 * * mon-wed", datetime(2026, 3, 1), datetime(2026, 3, 4))]
        ['Mon 05:30', 'Tue 05:30']
    """
    parts = _NICKNAMES.get(line, line).lower().split()
    minutes, hours, days, months, weekdays = (
        {value for part in text.split(",") for value in _values(part, low, high, words)}
        for (_, low, high, words), text in zip(_FIELDS, parts, strict=True)
    )
    either = not parts[2].startswith("*") and not parts[4].startswith("*")
    found: list[datetime] = []
    day = since.replace(hour=0, minute=0, second=0, microsecond=0)
    while day < until:
        of_month, of_week = day.day in days, day.isoweekday() % 7 in {weekday % 7 for weekday in weekdays}
        if day.month in months and (of_month or of_week if either else of_month and of_week):
            found += [day.replace(hour=hour, minute=minute) for hour in sorted(hours) for minute in sorted(minutes)]
        day += timedelta(days=1)
    return [at for at in found if since <= at < until]


def _values(part: str, low: int, high: int, words: dict[str, int]) -> range:
    match = _PART.fullmatch(part)
    if match is None:
        return range(0)
    step = int(match["step"] or 1)
    if match["all"]:
        return range(low, high + 1, step)
    first, last = (
        None if text is None else words.get(text, int(text) if text.isdigit() else 0)
        for text in (match["low"], match["high"])
    )
    begin = first or 0
    return range(begin, (high if match["step"] else begin) + 1 if last is None else last + 1, step)


def _fault_of(part: str, name: str, low: int, high: int, words: dict[str, int]) -> str:
    match = _PART.fullmatch(part)
    if match is None:
        return f"{name} '{part}' cannot be read"
    if match["step"] is not None and int(match["step"]) == 0:
        return f"{name} '{part}' has a step of 0"
    bounds: list[int] = []
    for text in (match["low"], match["high"]):
        if text is None:
            continue
        value = words.get(text, int(text) if text.isascii() and text.isdigit() else -1)
        if not low <= value <= high:
            return f"{name} {text} is not within {low} to {high}"
        bounds.append(value)
    return f"{name} '{part}' runs backwards" if len(bounds) == 2 and bounds[0] > bounds[1] else ""  # noqa: PLR2004 - low and high

"""Cron lines: what is wrong with one, before it is ever due."""

import re

__all__ = ["cron_fault"]

_NICKNAMES = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}
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

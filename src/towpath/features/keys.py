"""The entity key: one canonical text for the parts of a key, the same offline, online and in the journal."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime
from typing import Any, cast

import msgspec

from towpath.errors import InputError
from towpath.types import utc

__all__ = ["entity_key", "family", "key_bytes", "key_column", "key_part", "keys_bytes"]

_ENCODE = msgspec.json.Encoder().encode
_NONE = frozenset[type]()
_EXACT: dict[str, frozenset[type]] = {
    **{f"{sign}int{bits}": frozenset({int}) for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **dict.fromkeys(("string", "large_string"), frozenset({str})),
}
"""Arrow's name of a key's type → the type of values that are written as they are."""


def entity_key(parts: Sequence[object]) -> str:
    """Write the parts of a key as a compact JSON array, in the declared order of the entity.

    Args:
        parts: Text, whole numbers, truth values, dates, times (a naive one is UTC), or numpy's scalars of those.

    Raises:
        InputError: A part is null: such a row has no key and matches nothing.

    Example:
        >>> entity_key(["10002", 7]), entity_key(["é", date(2011, 9, 1)])
        ('["10002",7]', '["é","2011-09-01"]')
    """
    return _ENCODE([_plain(part) for part in parts]).decode()


def key_bytes(parts: Sequence[object]) -> bytes:
    """The entity key of parts that are plain already: as `key_part` gave them, or as an engine's rows hold them.

    Example:
        >>> key_bytes(("10002", 7))
        b'["10002",7]'
    """
    return _ENCODE(parts)


def keys_bytes(columns: Sequence[Sequence[object]], kinds: Sequence[str]) -> tuple[list[bytes | None], list[bytes]]:
    """One key a row of the parts that a caller gave, and those that are there.

    Args:
        columns: One for each part of the key, in the order of the entity; one value a row.
        kinds: Arrow's names of the parts' types.

    Returns:
        A key for each row, None where a part is null or cannot be of its type; and the keys without the Nones.

    Example:
        >>> keys_bytes([["7", 8, None]], ["int64"])
        ([b'[7]', b'[8]', None], [b'[7]', b'[8]'])
    """
    if len(columns) == 1 and len(columns[0]) == 1 and type(columns[0][0]) in _EXACT.get(kinds[0], _NONE):
        alone = [_ENCODE((columns[0][0],))]
        return cast("list[bytes | None]", alone), alone
    for column, kind in zip(columns, kinds):  # noqa: B905 - the caller's, of one length; strict costs as much as the rest
        if not _EXACT.get(kind, _NONE).issuperset(map(type, column)):  # at once for a column, and not value by value
            break
    else:
        whole = list(map(_ENCODE, zip(*columns, strict=True)))
        return cast("list[bytes | None]", whole), whole
    parts = [[key_part(value, kind) for value in column] for column, kind in zip(columns, kinds, strict=True)]
    keys = [None if None in row else _ENCODE(row) for row in zip(*parts, strict=True)]
    return keys, [key for key in keys if key is not None]


def key_column(name: str, given: Any) -> tuple[bool, Any]:
    """Whether what a caller gave for a key column is one value for all rows, and its values or that value.

    Args:
        name: Of the key, for the error.
        given: A list, a column of Arrow, numpy, pandas or polars; or one value.

    Raises:
        InputError: It has no order of rows, or no length.

    Example:
        >>> key_column("id", [1, 2]), key_column("id", 7)
        ((False, [1, 2]), (True, 7))
    """
    if isinstance(given, str | bytes):
        return True, given
    if hasattr(given, "to_pylist"):  # Arrow, whose scalars no key is made of
        return False, given.to_pylist()
    if hasattr(given, "as_py"):
        return True, given.as_py()
    if (dimensions := getattr(given, "ndim", 1)) == 0:
        return True, given.item()
    if dimensions > 1 or isinstance(given, dict | AbstractSet) or hasattr(given, "__next__"):
        said = f"{dimensions} dimensions" if dimensions > 1 else f"a {type(given).__name__}"
        raise InputError(f"The key '{name}' has {said}, and no list of values.", mend="one value a row, or one for all")
    return (False, given) if hasattr(given, "__len__") else (True, given)


def key_part(value: object, kind: str) -> object | None:
    """Bring one part of a key, as a caller gave it, to the type that the view has; None where it cannot match.

    Args:
        value: From a request, a table or the command line.
        kind: Arrow's name of the key column's type, such as ``int64`` or ``string``.

    Example:
        >>> key_part("7", "int64"), key_part(7.0, "int64"), key_part(7, "string"), key_part("x", "int64")
        (7, 7, None, None)
        >>> key_part(datetime(2026, 3, 1), "date32[day]"), key_part(datetime(2026, 3, 1, 9), "date32[day]")
        (datetime.date(2026, 3, 1), None)
    """
    if type(value) is str:
        if kind.endswith("string"):
            return value
        return _from_text(value, kind)
    if value is None:
        return None
    value = _plain(value)
    if isinstance(value, datetime) and value != value:  # noqa: PLR0124 - what pandas has for no time
        return None
    if kind.startswith(("int", "uint")):
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if kind.startswith("timestamp"):
        return value if isinstance(value, datetime) else None
    if kind.startswith("date"):
        return _day(value)
    if kind.startswith("bool"):
        return value if isinstance(value, bool) else None
    if kind in {"double", "float"}:
        return float(value) if isinstance(value, int | float) else None
    return None if kind.endswith("string") and not isinstance(value, str) else value


def family(kind: str) -> str:
    """Types that compare without loss: all whole numbers, all text, all moments; another type is a family of its own.

    Args:
        kind: Arrow's name.

    Example:
        >>> family("int8"), family("large_string"), family("bool")
        ('whole number', 'text', 'bool')
    """
    if kind.startswith("dictionary"):
        kind = kind.split("values=", 1)[1].split(",", 1)[0]
    families = {
        "whole number": ("int", "uint"),
        "text": ("string", "large_string"),
        "moment": ("timestamp",),
        "day": ("date",),
        "number": ("double", "float", "halffloat"),
    }
    return next((name for name, starts in families.items() if kind.startswith(starts)), kind)


def _from_text(value: str, kind: str) -> object | None:
    try:
        if kind.startswith(("int", "uint")):
            return int(value)
        if kind.startswith("timestamp"):
            return utc(value)
        if kind.startswith("date"):
            return date.fromisoformat(value)
        if kind in {"double", "float"}:
            return float(value)
    except (ValueError, InputError):
        return None
    return {"true": True, "false": False}.get(value) if kind == "bool" else None


def _day(value: object) -> date | None:
    """A day, also as a frame of pandas holds it: the moment at which it begins."""
    if isinstance(value, datetime):
        return value.date() if value == datetime(value.year, value.month, value.day, tzinfo=value.tzinfo) else None
    return value if isinstance(value, date) else None


def _plain(part: Any) -> object:
    if part is None:
        raise InputError("A part of the entity key is null.", mend="a row without a key matches nothing: leave it out")
    if hasattr(part, "item"):
        part = part.item()
    return utc(part) if isinstance(part, datetime) else part

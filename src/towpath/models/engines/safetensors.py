"""The head of a safetensors file, checked before a framework believes what it declares."""

import json
from math import prod
from pathlib import Path
from typing import Any

from towpath.errors import FormatError

__all__ = ["check"]

_HEAD_BYTES = 100 * 2**20
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
         "F32": 32, "I64": 64, "U64": 64, "F64": 64}  # fmt: skip
_LENGTH_BYTES = 8


def check(path: Path) -> dict[str, tuple[int, ...]]:
    """Read what a file declares, and hold it against the bytes that are there.

    Args:
        path: A safetensors file.

    Returns:
        Name of each tensor → its shape.

    Raises:
        FormatError: It is cut off, or a tensor has another size than its shape says, overlaps another or lies outside.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _HEAD_BYTES):
            raise _damaged(path, f"its head says {length:,} bytes, the file has {size:,}")
        raw = file.read(length)
    try:
        head: Any = json.loads(raw)
    except (ValueError, RecursionError) as fault:
        raise _damaged(path, f"its head is no JSON: {fault}") from None
    if not isinstance(head, dict):
        raise _damaged(path, "its head is no JSON object")
    found: dict[str, tuple[int, ...]] = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in head.items():
        if name == "__metadata__":
            continue
        shape, (begin, end) = _entry(path, name, entry)
        found[name] = shape
        places.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(places):
        if begin != at:
            raise _damaged(path, f"'{name}' begins at {begin:,}, the one before it ends at {at:,}")
        at = end
    if at != size - _LENGTH_BYTES - length:
        raise _damaged(path, f"its tensors end at {at:,} of {size - _LENGTH_BYTES - length:,} bytes")
    return found


def _entry(path: Path, name: str, entry: Any) -> tuple[tuple[int, ...], tuple[int, int]]:
    said: dict[str, Any] = entry if isinstance(entry, dict) else {}
    shape, kind, place = _numbers(said.get("shape")), str(said.get("dtype")), _numbers(said.get("data_offsets"))
    if shape is None or place is None or len(place) != 2 or kind not in _BITS:  # noqa: PLR2004 - begin, end
        raise _damaged(path, f"'{name}' is no tensor that is known: {str(entry)[:80]}")
    begin, end = place
    needed = prod(shape) * _BITS[kind] // 8
    if end - begin != needed:
        raise _damaged(path, f"'{name}' of shape {list(shape)} needs {needed:,} bytes and has {end - begin:,}")
    return shape, (begin, end)


def _numbers(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(type(number) is int and number >= 0 for number in value):
        return None
    return tuple(value)


def _damaged(path: Path, found: str) -> FormatError:
    return FormatError(f"'{path}' is a damaged safetensors file: {found}.", mend="write it again")

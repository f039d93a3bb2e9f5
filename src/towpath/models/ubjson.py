"""Whether a Universal Binary JSON document is whole: XGBoost's reader runs past the end of one that is cut off."""

import struct

__all__ = ["end_of", "top_keys"]

_FIXED = {b"Z": 0, b"N": 0, b"T": 0, b"F": 0, b"i": 1, b"U": 1, b"C": 1, b"I": 2, b"u": 2, b"l": 4, b"m": 4, b"d": 4, b"L": 8, b"M": 8, b"D": 8}  # fmt: skip
_INTEGER = {b"i": ">b", b"U": ">B", b"I": ">h", b"u": ">H", b"l": ">i", b"m": ">I", b"L": ">q", b"M": ">Q"}
_DEEPEST = 64


def top_keys(data: bytes) -> list[str]:
    r"""The keys of the outermost object.

    Raises:
        ValueError: It is no whole document.

    Example:
        >>> top_keys(b"{U\x01aU\x07}")
        ['a']
    """
    keys: list[str] = []
    end = end_of(data, keys)
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes follow the end")
    return keys


def end_of(data: bytes, keys: list[str]) -> int:
    """Walk one value from the start and give the position after it.

    Args:
        data: The document.
        keys: Takes the keys of the outermost object.

    Raises:
        ValueError: It is cut off, or holds a marker that does not exist.
    """
    try:
        return _value(data, 0, 0, keys)
    except (struct.error, IndexError, UnicodeDecodeError) as fault:
        raise ValueError(f"cut off: {fault}") from None


def _value(data: bytes, at: int, depth: int, keys: list[str] | None = None) -> int:
    marker = data[at : at + 1]
    return _payload(data, at + 1, marker, depth, keys)


def _payload(data: bytes, at: int, marker: bytes, depth: int, keys: list[str] | None) -> int:
    if depth > _DEEPEST:
        raise ValueError(f"deeper than {_DEEPEST}")
    if marker in _FIXED:
        return _within(data, at + _FIXED[marker])
    if marker in {b"S", b"H"}:
        size, at = _size(data, at)
        return _within(data, at + size)
    if marker in {b"[", b"{"}:
        return _box(data, at, b"]" if marker == b"[" else b"}", depth, keys)
    raise ValueError(f"marker {marker!r} at {at - 1}")


def _box(data: bytes, at: int, closing: bytes, depth: int, keys: list[str] | None) -> int:
    """An array or an object; both may say their type and their length up front."""
    kind = b""
    left = -1
    if data[at : at + 1] == b"$":
        kind, at = data[at + 1 : at + 2], at + 2
    if data[at : at + 1] == b"#":
        left, at = _size(data, at + 1)
    elif kind:
        raise ValueError(f"a typed box without a length at {at}")
    if closing == b"]" and kind in _FIXED:
        return _within(data, at + left * _FIXED[kind])
    while left and (left > 0 or data[at : at + 1] != closing):
        if closing == b"}":
            size, at = _size(data, at)
            if keys is not None:
                keys.append(data[at : at + size].decode())
            at = _within(data, at + size)
        at = _payload(data, at, kind, depth + 1, None) if kind else _value(data, at, depth + 1)
        left -= 1
    return at if left >= 0 and left == 0 else at + 1


def _size(data: bytes, at: int) -> tuple[int, int]:
    form = _INTEGER.get(data[at : at + 1])
    if form is None:
        raise ValueError(f"no length at {at}")
    size = int(struct.unpack_from(form, data, at + 1)[0])
    if size < 0:
        raise ValueError(f"a negative length at {at}")
    return size, at + 1 + struct.calcsize(form)


def _within(data: bytes, end: int) -> int:
    if end > len(data):
        raise ValueError(f"needs {end} bytes, there are {len(data)}")
    return end

"""The outermost fields of a protobuf message, read without its schema: enough to know a whole ONNX file."""

from collections.abc import Iterator

__all__ = ["fields"]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST = 10


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk the fields of one message.

    Args:
        data: The whole message.

    Yields:
        Field number, and the number or the bytes that it holds.

    Raises:
        ValueError: The bytes are no message, or end within a field.

    Example:
        >>> [(number, value) for number, value in fields(memoryview(bytes([8, 7])))]
        [(1, 7)]
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field 0")
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _LENGTH:
            size, at = _varint(data, at)
        elif wire in {_FIXED64, _FIXED32}:
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError(f"field {number} needs {size} bytes at {at}, the end is at {len(data)}")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for position in range(_LONGEST):
        if at + position >= len(data):
            raise ValueError(f"ends within a number at {at}")
        byte = data[at + position]
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:  # noqa: PLR2004 - the last byte has its top bit clear
            return value, at + position + 1
    raise ValueError(f"a number of more than {_LONGEST} bytes at {at}")

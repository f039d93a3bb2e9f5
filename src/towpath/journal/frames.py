"""How a worker's file is laid out: a mark, then frames of length, checksum, kind and payload."""

import struct
import zlib
from collections.abc import Iterator

from towpath.errors import FormatError

__all__ = ["BESIDE", "HEADER_BYTES", "LANDED", "MARK", "OUTCOMES", "RECORD", "close_frame", "frames"]

MARK = b"TWJ1"
"""The first bytes of each file, so that a foreign one is told apart."""
RECORD, OUTCOMES, BESIDE, LANDED = 1, 2, 3, 4
"""Kinds of payload: msgpack of one `Record`, of one `Beside`; of lists of `OutcomeRow` and of `LandedRow`, acknowledged as a whole."""

_HEADER = struct.Struct("<IIB")
HEADER_BYTES = _HEADER.size


def close_frame(buffer: bytearray, kind: int) -> None:
    """Fill in the header of a buffer whose payload stands from `HEADER_BYTES` on.

    Args:
        buffer: The frame; changed in place, so that the path of an answer copies nothing.
        kind: `RECORD`, `OUTCOMES`, `BESIDE` or `LANDED`.

    Example:
        >>> frame = bytearray(HEADER_BYTES) + b"payload"
        >>> close_frame(frame, RECORD)
        >>> list(frames(MARK + frame + b"torn"))
        [(1, b'payload')]
    """
    # The checksum is that of the whole frame with zero in its own place, so that the length is covered too.
    length = len(buffer) - HEADER_BYTES
    _HEADER.pack_into(buffer, 0, length, 0, kind)
    _HEADER.pack_into(buffer, 0, length, zlib.crc32(buffer), kind)


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Read the frames of a file up to the first one that is torn or damaged.

    A process that is killed inside a write leaves a torn tail: nobody was told that it is there, so it is ignored.

    Args:
        data: The whole file.

    Yields:
        Kind and payload, in the order of writing.

    Raises:
        FormatError: The file does not begin with `MARK`.
    """
    if not data:
        return
    if not data.startswith(MARK):
        if MARK.startswith(data):
            return
        raise FormatError(
            f"This is no journal file: it begins with {data[:8]!r} and not with {MARK!r}.",
            mend="move the file out of the journal folder",
        )
    at = len(MARK)
    while at + HEADER_BYTES <= len(data):
        length, checksum, kind = _HEADER.unpack_from(data, at)
        end = at + HEADER_BYTES + length
        payload = data[at + HEADER_BYTES : end]
        if end > len(data) or zlib.crc32(payload, zlib.crc32(_HEADER.pack(length, 0, kind))) != checksum:
            return
        yield kind, payload
        at = end

"""Bodies that travel packed: gzip and deflate, in and out; what a small body unpacks to never grows beyond the limit."""

import asyncio
import zlib
from collections.abc import Mapping
from functools import lru_cache

from towpath.errors import InputError, TooLargeError

__all__ = ["ENOUGH_BYTES", "accepted", "compressed", "unpacked"]

ENOUGH_BYTES = 4_096
"""A smaller answer fits into three packets, and to compress it costs more than to send it."""
_BESIDE_BYTES = 16_384
"""Above it the work is done in a thread; zlib lets go of the interpreter's lock."""
_STEP_BYTES = 1 << 18
_LEVEL = 1
_AUTOMATIC = zlib.MAX_WBITS | 32
"""Gzip or zlib, told from the first bytes."""
_MOST_HEADERS = 256
_MOST_MEMBERS = 100
"""Of one gzip body: each costs a copy of what follows it, and empty ones would cost nothing to send."""
_ZLIB_METHOD = 8
_WBITS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_NAMES = {"x-gzip": "gzip"}


async def unpacked(body: bytes, encoding: bytes, limit_bytes: int) -> bytes:
    """A body as it was before it was compressed.

    Args:
        body: As it came.
        encoding: The header ``Content-Encoding``.
        limit_bytes: What may come out of it.

    Raises:
        InputError: The encoding is not known, or the body is not in it.
        TooLargeError: More comes out than the limit; nothing beyond it was unpacked.
    """
    text = encoding.decode("latin-1").strip().lower()
    name = _NAMES.get(text, text)
    if name in {"", "identity"}:
        return body
    if name not in _WBITS:
        raise InputError(
            f"The header 'Content-Encoding' is '{text[:40]}', which is not taken.",
            mend="send gzip, deflate or identity",
        )
    if len(body) <= ENOUGH_BYTES:
        return _unpacked(body, name, limit_bytes)
    return await asyncio.get_running_loop().run_in_executor(None, _unpacked, body, name, limit_bytes)


async def compressed(body: bytes, encoding: str) -> bytes:
    """A body in one of the two encodings, quickly rather than tightly."""
    if len(body) <= _BESIDE_BYTES:
        return _compressed(body, encoding)
    return await asyncio.get_running_loop().run_in_executor(None, _compressed, body, encoding)


def accepted(headers: Mapping[bytes, bytes]) -> str:
    """Which encoding the caller wants; empty where it wants none that we have.

    Example:
        >>> accepted({b"accept-encoding": b"br, gzip;q=0.5"}), accepted({})
        ('gzip', '')
    """
    wanted = headers.get(b"accept-encoding")
    return "" if wanted is None else _wanted(wanted)


@lru_cache(maxsize=_MOST_HEADERS)
def _wanted(header: bytes) -> str:
    shares: dict[str, float] = {}
    for part in header.decode("latin-1").lower().split(","):
        name, _, share = part.partition(";")
        try:
            shares[name.strip()] = float(share.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
    others = shares.get("*", 0.0)
    best = max(_WBITS, key=lambda name: shares.get(name, others))  # gzip where both are as welcome
    return best if shares.get(best, others) > 0 else ""


def _unpacked(body: bytes, name: str, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size, rest, members = 0, body, 0
    while rest or not members:
        members += 1
        # some clients send bare deflate under that name, without the two bytes of zlib before it
        bare = name == "deflate" and not _is_zlib(rest)
        unpacking = zlib.decompressobj(-zlib.MAX_WBITS if bare else _AUTOMATIC)
        while not unpacking.eof:
            try:
                part = unpacking.decompress(rest, _STEP_BYTES)
            except zlib.error:
                raise _damaged(name) from None
            size += len(part)
            if size > limit_bytes:
                raise TooLargeError(
                    f"The body has {len(body):,} bytes and more than {limit_bytes:,} when it is unpacked (limit {limit_bytes:,}).",
                    mend="send fewer rows, or raise serving.max_body_bytes",
                )
            parts.append(part)
            rest = unpacking.unconsumed_tail
            if not part and not rest and not unpacking.eof:
                raise _damaged(name)
        rest = unpacking.unused_data
        if rest and (name != "gzip" or members == _MOST_MEMBERS):
            raise _damaged(name)
    return b"".join(parts)


def _compressed(body: bytes, encoding: str) -> bytes:
    packing = zlib.compressobj(_LEVEL, wbits=_WBITS[encoding])
    return packing.compress(body) + packing.flush()


def _is_zlib(body: bytes) -> bool:
    return len(body) > 1 and body[0] & 0x0F == _ZLIB_METHOD and (body[0] << 8 | body[1]) % 31 == 0


def _damaged(name: str) -> InputError:
    return InputError(
        f"The body is not whole {name}, which the header 'Content-Encoding' promises.", mend="send it again, or plain"
    )

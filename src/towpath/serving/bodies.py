"""Headers and body of an HTTP request: read within its limit, unpacked within the same one, and told as rows."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, cast

from towpath.errors import InputError, TooLargeError
from towpath.serving.compression import unpacked

__all__ = ["Given", "Receive", "at_hand", "by_name", "checked_rows", "rows_of", "throw_away", "whole_body"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Given = bytes | Receive
"""The whole body, or where it comes from."""
_DRAIN_S = 2.0
"""How long a body that was refused is still read and thrown away, so that the caller sees the answer, not a reset."""


def by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers of a request; of one that came several times the last, and of ``tracestate`` all, as W3C asks.

    Example:
        >>> by_name([(b"tracestate", b"shop=a1"), (b"host", b"x"), (b"tracestate", b"other=b2")])[b"tracestate"]
        b'shop=a1,other=b2'
    """
    found = dict(headers)
    if b"tracestate" in found:
        found[b"tracestate"] = b",".join(value for name, value in headers if name == b"tracestate")
    return found


def at_hand(given: Given, headers: Mapping[bytes, bytes], limit: int) -> bytes | None:
    """The body where it is here as its sender wrote it, as nearly all are; else `whole_body` has to be waited for.

    Example:
        >>> at_hand(b"[]", {}, 10), at_hand(b"[]", {b"content-encoding": b"gzip"}, 10), at_hand(b"[]", {}, 1)
        (b'[]', None, None)
    """
    return given if isinstance(given, bytes) and len(given) <= limit and b"content-encoding" not in headers else None


async def whole_body(given: Given, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """The whole body; refused from its length before it is read, else as soon as it has grown too large.

    Raises:
        TooLargeError: It is over the limit, as it came or unpacked.
        InputError: It is not in the encoding that it claims.
    """
    body = await _as_it_came(given, headers, limit)
    encoding = headers.get(b"content-encoding")
    return body if encoding is None else await unpacked(body, encoding, limit)


async def throw_away(receive: Receive) -> None:
    """Read what else comes, for a while."""
    until = time.monotonic() + _DRAIN_S
    while time.monotonic() < until:
        try:
            message = await asyncio.wait_for(receive(), timeout=until - time.monotonic())
        except TimeoutError:
            return
        if message["type"] != "http.request" or not message.get("more_body"):
            return


def rows_of(body: Any, *, objects: bool = True) -> list[Any]:
    """``{"rows": [...]}``, a list of rows, or one row; all of them `objects`, unless the caller looks at each row itself.

    Raises:
        InputError: It is none of these, or there is no row.
    """
    if isinstance(body, dict):
        rows = cast("dict[str, Any]", body).get("rows")
        body = cast("Any", [body]) if rows is None else rows
    if not isinstance(body, list):
        raise InputError("The body is neither rows nor one row.", mend='send {"rows": [{"column": value}]}')
    rows = cast("list[Any]", body)
    if not rows:
        raise InputError("Field 'rows' is empty.", mend="send at least one row")
    for number, row in enumerate(rows if objects else ()):
        if not isinstance(row, dict):
            raise InputError(f"Row {number} of 'rows' is no JSON object.", mend='send {"rows": [{"column": value}]}')
    return rows


def checked_rows(count: int, limit: int) -> None:
    """Refuse more rows than are taken.

    Raises:
        TooLargeError: There are more.
    """
    if count > limit:
        raise TooLargeError(f"The request has {count} rows (limit {limit}).", mend="send several requests")


async def _as_it_came(given: Given, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    if isinstance(given, bytes):
        if len(given) > limit:
            raise _too_large(len(given), limit)
        return given
    receive = given
    declared = headers.get(b"content-length")
    if declared is not None and int(declared) > limit:
        raise _too_large(int(declared), limit)
    message = await receive()
    if not message.get("more_body"):
        return message.get("body", b"")
    parts, size = [message.get("body", b"")], len(message.get("body", b""))
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InputError("The caller went away.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(size, limit)
    return b"".join(parts)


def _too_large(size: int, limit: int) -> TooLargeError:
    return TooLargeError(
        f"The body has {size:,} bytes or more (limit {limit:,}).",
        mend="send fewer rows, or raise serving.max_body_bytes",
    )

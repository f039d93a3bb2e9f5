"""One system call for one answer: the head of a response waits for its body, which follows in the same turn of the loop."""

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: TID253 - imported with uvicorn, by the worker

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OneWriteProtocol"]


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's protocol; it writes head and body one after the other, which costs a tenth of a small answer's CPU time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn has it
        """Begin with a connection."""
        super().connection_made(_Joining(transport, self.loop.call_soon))  # pyright: ignore[reportArgumentType] - a transport in all that is used


class _Joining:
    """A transport that keeps the head of a response until the next write, or until the turn of the loop ends."""

    def __init__(self, transport: asyncio.Transport, soon: "Callable[..., Any]") -> None:
        self._transport = transport
        self._soon = soon
        self._head = b""
        # What is asked for on each request, without a detour
        self.is_closing = transport.is_closing
        self.resume_reading = transport.resume_reading
        self.pause_reading = transport.pause_reading

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, after the head that waits."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._soon(self.flush)  # an answer without a body, or one whose body takes a while
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write the head that waits, if there is one."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        """Close, after everything is written."""
        self.flush()
        self._transport.close()

"""An answer in one write: uvicorn's protocol with a short way for small answers whose length is known."""

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import (  # noqa: TID253 - imported with uvicorn, by the worker
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

if TYPE_CHECKING:
    from towpath.serving.http import Headers

__all__ = ["OneWriteCycle", "OneWriteProtocol"]

_LENGTH = b"content-length"
_CLOSES = b"connection"


class OneWriteCycle(RequestResponseCycle):
    """One request and its answer.

    uvicorn writes head and body one after the other, which is two system calls, and looks at each header with two regular
    expressions. Our headers are our own, or were parsed from a request and so hold no line break; so an answer that
    begins with its length and needs nothing special is joined and written at once. Everything else goes uvicorn's way.
    """

    _head: bytes | None = None
    """Kept from the start of the answer until its body."""

    async def send(self, message: Any) -> None:
        """Take a message of the application, which is `towpath.serving.http.App`."""
        if message["type"] == "http.response.start":
            headers: Headers = message["headers"]
            if self._is_plain(headers):
                lines = [STATUS_LINE[message["status"]]]
                for name, value in headers:
                    lines += (name, b": ", value, b"\r\n")
                lines.append(b"\r\n")
                self.response_started = True
                self.waiting_for_100_continue = False
                self._head = b"".join(lines)
                return
        elif self._head is not None:
            head, self._head = self._head, None
            if self.disconnected:
                return
            if self.flow.write_paused:
                await self.flow.drain()
            self.transport.write(head + message["body"])
            self.response_complete = True
            self.message_event.set()
            self.on_response()
            return
        await super().send(message)

    def _is_plain(self, headers: "Headers") -> bool:
        return (
            headers[0][0] == _LENGTH
            and self.keep_alive
            and not self.default_headers
            and self.scope["method"] != "HEAD"
            and all(name != _CLOSES for name, _ in headers)
        )


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's protocol, whose requests are answered by a `OneWriteCycle`."""

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        cycle.__class__ = OneWriteCycle
        super()._start_asgi_task(cycle, app)

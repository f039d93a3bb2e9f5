"""uvicorn's protocol with limits: large or slow heads, slow bodies, idling, and too many connections."""

from typing import TYPE_CHECKING, Any, NoReturn

import httptools
from uvicorn.protocols.http.flow_control import FlowControl  # noqa: TID253 - imported with uvicorn, by the worker
from uvicorn.protocols.http.httptools_impl import (  # noqa: TID253 - imported with uvicorn, by the worker
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from towpath.errors import InputError, OverloadedError, TooLargeError, TowpathError
from towpath.serving.limits import Limits

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGI3Application

__all__ = ["BETWEEN", "BODY", "HEAD", "LimitedProtocol"]

BETWEEN, HEAD, BODY = 0, 1, 2
"""What the parser is in."""
_PIECE_BYTES = 16 << 10
"""So much is parsed before it is looked whether requests wait for others; a loop reads up to 256 KiB at once."""
_TURN_AWAY_S = 1.0
_AGAIN_S = 1.0
_MISUSE = 2
"""At so many times the connections nobody is told why any more."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which has no option for any of this.

    Whatever comes whole in one packet, as nearly all requests do, pays for two comparisons and a few flags. Only a head or a
    body that is still open when a packet ends is timed, by the connection's one timer.

    Requests that are sent behind one which is not answered yet wait, some hundred parsed and the rest as bytes, and nothing
    more is read from the connection meanwhile. uvicorn reads on with each answer: a caller that sends and never reads made it
    hold thousands of requests for every one that it answered.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._limits: Limits = getattr(self.app, "limits", Limits())
        self._phase = BETWEEN
        self._open_since = 0.0
        """When a head or body was first found unfinished; 0 where it was not."""
        self._open_bytes = 0
        self._held = b""
        """What came behind requests that wait, and was not parsed yet."""
        self._at_work: RequestResponseCycle | None = None
        """The request that the application answers, of those that go uvicorn's way."""
        self._suspect = False
        """Whether the head must be measured before it is answered."""
        self._one_too_many = False
        self._quiet_since = 0.0
        self._stalled_since = 0.0
        self._wake_at = 0.0

    # what the transport calls

    def connection_made(self, transport: "asyncio.Transport") -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn's
        """Let it in; one too many is told so when it asks for something."""
        super().connection_made(transport)
        self.flow: _Flow = _Flow(transport)  # pyright: ignore[reportIncompatibleVariableOverride] - it does more
        now = self._quiet_since = self.loop.time()
        count = len(self.connections)
        if count > self._limits.connections:
            if count > self._limits.connections * _MISUSE:
                transport.abort()
                return
            self._one_too_many = self._suspect = True
            self._wake_by(now + _TURN_AWAY_S)
            return
        self._wake_by(now + self._limits.idle_s)

    def data_received(self, data: bytes) -> None:
        """Parse, and keep an eye on what is not finished."""
        if self.flow.waiting or len(data) > _PIECE_BYTES:
            self._held += data
            self.read_on()
            return
        self._feed(data)
        if self.pipeline:
            self.flow.wait()

    def read_on(self) -> None:
        """Parse what is held, until requests wait for an answer; read from the connection again once nothing is held."""
        held, at = self._held, 0
        while at < len(held) and not self.pipeline and not self.transport.is_closing():
            self._feed(held[at : at + _PIECE_BYTES])
            at += _PIECE_BYTES
        self._held = held[at:]
        if self.transport.is_closing():
            self._held = b""
        elif self._held or self.pipeline:
            self.flow.wait()
        else:
            self.flow.go_on()

    def _feed(self, data: bytes) -> None:
        if self._phase == HEAD or len(data) > self._limits.header_bytes:
            self._suspect = True
        try:
            self.parser.feed_data(data)  # pyright: ignore[reportOptionalMemberAccess] - None only once the connection is lost
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                self._turn_away(400, InputError("This is no HTTP request.", mend="HTTP/1.1"))
            return
        if self._phase:
            self._unfinished(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller went away; uvicorn tells the newest request of it, and the one at work may be an older one."""
        self._held = b""
        for cycle in (self._at_work, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        self._at_work = None
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)

    # what the parser calls: `_phase` and `_open_since` are set here, and by the subclass which goes its own way

    def on_message_begin(self) -> None:
        """A head begins."""
        self._phase, self._open_since = HEAD, 0.0
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """A body ends."""
        self._phase = BETWEEN
        super().on_message_complete()

    def check_head(self) -> None:
        """Turn the caller away, if its head is too large or there are too many connections; else go on."""
        limits = self._limits
        self._suspect = False
        if self._one_too_many:
            self._turn_away(
                503, OverloadedError(f"There are {limits.connections} connections already.", mend="try again later")
            )
            self._end()
        if len(self.headers) > limits.headers:
            self._turn_away(
                431,
                TooLargeError(
                    f"The request has {len(self.headers)} headers (limit {limits.headers}).", mend="send fewer"
                ),
            )
            self._end()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > limits.header_bytes:
            self._turn_away(431, _too_large(limits.header_bytes))
            self._end()

    @staticmethod
    def _end() -> NoReturn:
        """Stop the parser, which would go on with what else came."""
        raise ConnectionAbortedError

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        self._at_work = cycle
        super()._start_asgi_task(cycle, app)

    # the one timer of a connection

    def timeout_keep_alive_handler(self) -> None:
        """Look at what the connection does, and when to look again."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing():
            return
        now = self.loop.time()
        if self._one_too_many:
            self._turn_away(408, InputError("No request came.", mend="send one"))
        elif self.flow.write_paused:  # first: as long as answers wait for the caller, what it sends waits for us
            self._look_at_reader(now)
        elif self._phase and self._open_since:
            self._look_at_sender(now)
        elif self.cycle and not self.cycle.response_complete:
            self._look_at_reader(now)
        elif now < self._quiet_since + self._limits.idle_s:
            self._wake_by(self._quiet_since + self._limits.idle_s)
        elif self.transport.get_write_buffer_size():
            self.transport.abort()  # it never read its answer; a close would wait for that
        else:
            self.transport.close()

    def _unset_keepalive_if_required(self) -> None:
        """Uvicorn cancels its timer with each packet; ours stays."""

    def _wake_by(self, at: float) -> None:
        task = self.timeout_keep_alive_task
        if task is not None:
            if self._wake_at <= at:
                return
            task.cancel()
        self._wake_at = at
        self.timeout_keep_alive_task = self.loop.call_at(at, self.timeout_keep_alive_handler)

    def _unfinished(self, size: int) -> None:
        if not self._open_since:
            self._open_since, self._open_bytes = self.loop.time(), 0
            self._wake_by(self._open_since + self._limits.header_s)
            return
        self._open_bytes += size
        if self._phase == HEAD and self._open_bytes > self._limits.header_bytes:
            self._turn_away(431, _too_large(self._limits.header_bytes))

    def _look_at_sender(self, now: float) -> None:
        taken_s, limits = now - self._open_since, self._limits
        if self._phase == HEAD and self.cycle and not self.cycle.response_complete:
            self._look_at_reader(now)  # a head behind a request that is still at work; that one comes first
            return
        if self._phase == BODY and self.flow.read_paused:  # it is we who do not read
            self._open_since, self._open_bytes, taken_s = now, 0, 0.0
        if taken_s < limits.header_s:
            self._wake_by(self._open_since + limits.header_s)
        elif self._phase == HEAD:
            self._turn_away(
                408, InputError(f"The head of the request took over {limits.header_s:g} s.", mend="send it")
            )
        elif self._open_bytes < taken_s * limits.body_bytes_per_s:
            slow = f"The body came with {self._open_bytes / taken_s:,.0f} bytes/s (least {limits.body_bytes_per_s:,})."
            self._turn_away(408, InputError(slow, mend="send it faster, or fewer rows at a time"))
        else:
            self._wake_by(now + limits.header_s)

    def _look_at_reader(self, now: float) -> None:
        """An answer is being made, or one waits for a caller that does not read."""
        if not self.flow.write_paused:
            self._stalled_since = 0.0
        elif not self._stalled_since:
            self._stalled_since = now
        elif now - self._stalled_since >= self._limits.idle_s:
            self.transport.abort()
            return
        self._wake_by(now + _AGAIN_S)

    def _turn_away(self, status: int, error: TowpathError) -> None:
        """Say why, and close; where another answer is still being written, only close."""
        cycle: Any = self.cycle
        told = getattr(self.app, "turned_away", None)
        body: bytes = told(error) if told is not None else error.what.encode()
        in_body = self._phase == BODY
        if cycle is None or cycle.response_complete or (in_body and not getattr(cycle, "response_started", True)):
            head = b"content-type: application/json\r\nconnection: close\r\n"
            again = b"retry-after: 1\r\n" if status == OverloadedError.status else b""
            length = b"content-length: %d\r\n\r\n" % len(body)
            self.transport.write(b"".join((STATUS_LINE[status], head, again, length, body)))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()
        if self.transport.get_write_buffer_size():  # a close waits for a caller that reads
            self.loop.call_later(self._limits.idle_s, self.transport.abort)


class _Flow(FlowControl):
    """Keeps the connection from being read while requests wait, whoever asks for more."""

    waiting = False

    def wait(self) -> None:
        """Read nothing more."""
        self.waiting = True
        self.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if self.waiting:
            self.waiting = False
            self.resume_reading()

    def resume_reading(self) -> None:
        """Asked for by uvicorn after each answer, and by whoever wants the body of one request."""
        if not self.waiting:
            super().resume_reading()


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"The head of the request has more than {limit:,} bytes.", mend="send fewer headers, or a shorter path"
    )

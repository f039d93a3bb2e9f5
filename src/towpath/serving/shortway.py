"""The short way of a request: uvicorn's protocol, which answers small posts itself and leaves everything else to uvicorn."""

import types
from collections.abc import Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE  # noqa: TID253 - imported with uvicorn, by the worker

from towpath.serving.bodies import by_name
from towpath.serving.limited import BETWEEN, BODY, HEAD, LimitedProtocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from towpath.serving.http import Headers

    Answering = Coroutine[Any, Any, tuple[int, bytes, Headers]]

__all__ = ["ShortWayProtocol", "going_on"]

_SHORT_BYTES = 64 << 10
"""Bodies up to here are collected before anybody is asked."""
_LENGTH_DIGITS = 5
_KNOWN_HEADS = 8
_KNOWN_HEADERS = 24
_KNOWN_HEAD_BYTES = 2_048
"""Kept of a connection, by number and size; it is the mapping of many small headers that takes memory, 35 KiB more at the most."""
_ONCE_ONLY = (b"traceparent", b"tracestate", b"x-request-id")
"""Headers that differ with each request: a head that has one does not come again."""
_END_OF_HEAD = b"\r\n\r\n"


class ShortWayProtocol(LimitedProtocol):
    """Answers ``POST`` with a small body of known length by `towpath.serving.http.App.respond`.

    uvicorn makes a scope, a cycle, an event, a task and a timer for each request, and writes head and body one after the
    other: 35 of the 90 µs that a prediction took without a network. Here the body is collected by the parser's own
    callbacks, the application's coroutine is begun at once and, as a model that is called inline never waits, mostly ends
    at once; one that waits goes on as a task. Everything else (other methods, long or chunked bodies, ``Expect``,
    upgrades, HTTP/1.0, connections that close) goes uvicorn's way, also when it is pipelined behind a short one.

    A caller that keeps its connection sends the same head again and again, up to the length of the body. A head that was
    parsed as that of a short request, and came whole with its body, is kept with what it says; where exactly these bytes come
    again, with as long a body and nothing else, the parser, which would come to the same, is left out: an eighth of the time.
    That holds as long as the parser takes no head that ends with bare line feeds: two requests could pass for one. Heads are
    kept by the connection that sent them, a few of them, and go with it.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._respond: Any = getattr(self.app, "respond", None)
        self._turn: Any = getattr(self.app, "turn", None)
        self._short = _Short()
        self._reading = False
        """Whether the request that the parser is in goes the short way."""
        self._given: Mapping[bytes, bytes] = {}
        self._body = b""
        self._known: dict[bytes, _Known] = {}
        """Heads of this connection, as they came."""
        self._parsed: _Known | None = None
        """What the last request was, where its head may come again."""

    # what the transport calls

    def data_received(self, data: bytes) -> None:
        """Answer what is known, and parse everything else."""
        if self._phase != BETWEEN or self._suspect or self.flow.waiting or not self._may_go_short():
            super().data_received(data)
            return
        head_bytes = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        known = self._known.get(data[:head_bytes])
        if known is None:
            self._parsed = None
            super().data_received(data)
            if self._parsed is not None:
                self._learn(self._parsed, data, head_bytes)
        elif len(data) == head_bytes + known.body_bytes and not self.transport.is_closing():
            self._begin()
            self._answer(known.path, known.given, data[head_bytes:])
        else:
            super().data_received(data)

    def _learn(self, parsed: "_Known", data: bytes, head_bytes: int) -> None:
        """Keep a head that came whole, with its body and with nothing else."""
        if (
            self._phase == BETWEEN
            and len(data) == head_bytes + parsed.body_bytes
            and head_bytes <= _KNOWN_HEAD_BYTES
            and len(parsed.given) <= _KNOWN_HEADERS
            and not any(name in parsed.given for name in _ONCE_ONLY)
        ):
            if len(self._known) >= _KNOWN_HEADS:
                del self._known[next(iter(self._known))]
            self._known[data[:head_bytes]] = parsed

    # what the parser calls

    def on_message_begin(self) -> None:
        """A request begins; what uvicorn makes here is made when it turns out to be needed."""
        self._phase, self._open_since = HEAD, 0.0
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Choose the way."""
        if self._suspect or len(self.headers) > self._limits.headers:
            self.check_head()
        self._phase, self._open_since = BODY, 0.0
        given = by_name(self.headers)
        self._parsed = None
        if self._is_short(given):
            self._reading, self._given, self._body = True, given, b""
            self._begin()
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self._phase = BODY
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)  # the scope has this very list
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._reading:
            self._body = self._body + body if self._body else body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer."""
        if not self._reading:
            super().on_message_complete()
            return
        self._reading, self._phase = False, BETWEEN
        path = self.url.decode("ascii")
        self._parsed = _Known(path, self._given, len(self._body))
        self._answer(path, self._given, self._body)

    def _begin(self) -> None:
        short = self._short
        short.response_complete, short.keep_alive, short.disconnected = False, True, False
        self.cycle = short  # pyright: ignore[reportAttributeAccessIssue] - it has what uvicorn asks of one

    def _answer(self, path: str, given: "Mapping[bytes, bytes]", body: bytes) -> None:
        answer: Answering = self._respond("POST", path, given, body)
        try:
            waits_for = answer.send(None)
        except StopIteration as done:
            self._turn.leave(partial(self._leave, *done.value))
        else:
            self._go_on(self._rest(answer, waits_for))

    def _may_go_short(self) -> bool:
        """Whether nothing is at work on this connection, and the server does not ask its callers to leave."""
        return (
            (not self.cycle or self.cycle.response_complete)
            and not self.pipeline
            and not self.server_state.default_headers
        )

    def _is_short(self, given: "Mapping[bytes, bytes]") -> bool:
        length = given.get(b"content-length")
        parser: Any = self.parser
        url = self.url
        return (
            length is not None
            and len(length) <= _LENGTH_DIGITS
            and int(length) <= _SHORT_BYTES
            and self._may_go_short()
            and self._respond is not None
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and b"transfer-encoding" not in given
            and url.isascii()
            and url[:1] == b"/"
            and not any(special in url for special in b"%?#")
        )

    # the answer

    def _go_on(self, rest: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(rest)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _rest(self, answer: "Answering", waits_for: Any) -> None:
        self._turn.leave(partial(self._leave, *await going_on(answer, waits_for)))

    def _leave(self, status: int, body: bytes, headers: "Headers") -> None:
        if self.flow.write_paused:
            self._go_on(self._later(status, body, headers))
        else:
            self._write(status, body, headers)

    async def _later(self, status: int, body: bytes, headers: "Headers") -> None:
        await self.flow.drain()
        self._write(status, body, headers)

    def _write(self, status: int, body: bytes, headers: "Headers") -> None:
        """Head and body in one write; the headers are our own, or were parsed from a request, and hold no line break."""
        short = self._short
        short.response_complete = True
        if self.transport.is_closing():
            return
        parts = [STATUS_LINE[status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", body) if short.keep_alive else (b"connection: close\r\n\r\n", body)
        self.transport.write(b"".join(parts))
        if not short.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """Start what is pipelined, or wait for the next request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        started = bool(self.pipeline)
        if started:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        if self.flow.waiting and not self.pipeline:
            self.loop.call_soon(self.read_on)
        if started:
            return
        now = self._quiet_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wake_by(now + self._limits.idle_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller went away."""
        self._reading = False
        self._known.clear()
        super().connection_lost(exc)


class _Known(NamedTuple):
    """What the head of a short request says."""

    path: str
    given: "Mapping[bytes, bytes]"
    body_bytes: int


class _Short:
    """Stands where uvicorn keeps its request in progress, so that pipelining, draining and a lost connection see ours."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete", "response_started")

    def __init__(self) -> None:
        self.response_complete = True
        self.response_started = False
        self.keep_alive = True
        self.disconnected = False
        self.message_event = self

    def set(self) -> None:
        """Nobody waits for a body that is whole."""


@types.coroutine
def going_on(answer: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that was begun outside a task: hands the task what it waits for, and back what came."""
    try:
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's, which may clean up
                waits_for = answer.throw(error)
            else:
                waits_for = answer.send(sent)
    except StopIteration as done:
        return done.value

"""gRPC over our own HTTP/2: a call that is answered at once costs one read, one call of its handler and one write.

Handlers are written as for ``grpc.aio``: ``async def method(message, context)``, or over an iterator of messages, and they find on their
context what they would find there. A unary handler that never waits is run to its end by the very callback that read its last frame;
only one that waits becomes a task.
"""

import asyncio
import logging
import socket
import ssl
import time
import zlib
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

from towpath.serving.h2 import Connection, H2Limits, Headers, Stream, block, literal
from towpath.serving.limits import Limits
from towpath.serving.shortway import going_on
from towpath.settings import ServingSettings

__all__ = ["AbortError", "Context", "GrpcDoor", "Method", "Status"]

_log = logging.getLogger("towpath.serving")
_UNITS_S = {"H": 3_600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT_DIGITS = 8
_PREFIX_BYTES = 5
_WAITING_MESSAGES = 8
"""Of a stream, that were read and not taken yet; further ones wait at the caller."""
_TURN_S = 1.0
_UNPRINTABLE = bytes(range(0x20, 0x7F)).replace(b"%", b"")
_HEAD = b"\x88" + literal(b"content-type", b"application/grpc")  # 0x88: ``:status 200`` of the static table
_OK = literal(b"grpc-status", b"0")
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Status(NamedTuple):
    """A status of gRPC; `name` is as everybody writes it."""

    name: str
    code: int


_NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
STATUSES = {name: Status(name, code) for code, name in enumerate(_NAMES)}
"""Every status by its name."""


class AbortError(Exception):
    """How a call ends that has no answer."""

    def __init__(self, status: Status, details: str, trailing: Sequence[tuple[str, str | bytes]] = ()) -> None:
        super().__init__(details)
        self.status = status
        self.details = details
        self.trailing = trailing


class Method(NamedTuple):
    """What answers one path."""

    function: Callable[[Any, "Context"], Any]
    """A coroutine of bytes; an asynchronous iterator of them where it answers often."""
    asks_often: bool = False
    """Whether it is given an asynchronous iterator of messages, and not one."""
    answers_often: bool = False
    """Whether it answers with several messages."""

    @property
    def streams(self) -> bool:
        """Whether messages come or go one after the other."""
        return self.asks_often or self.answers_often


class Context:
    """What a handler knows of its call."""

    __slots__ = ("_deadline", "_metadata", "encoding", "initial", "left", "status", "trailing")

    def __init__(self, metadata: tuple[tuple[str, str | bytes], ...], deadline: float, encoding: str) -> None:
        self._metadata = metadata
        self._deadline = deadline
        self.encoding = encoding
        """How the answer is packed."""
        self.initial: list[tuple[str, str | bytes]] = []
        self.trailing: list[tuple[str, str | bytes]] = []
        self.status: Status | None = None
        self.left = False

    def done(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return self.left

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Names in lower case, values as text; bytes where the name ends with ``-bin``."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds until the caller hangs up; none where it never does."""
        return None if self._deadline == float("inf") else max(0.0, self._deadline - time.monotonic())

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Say something before the answer; it leaves with the first message."""
        self.initial.extend(metadata)

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Say something after it."""
        self.trailing = list(metadata)

    def set_compression(self, name: str) -> None:
        """Pack the answer: ``gzip``, ``deflate`` or ``identity``."""
        self.encoding = name

    async def abort(
        self, status: Any, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> Any:
        """End the call without an answer.

        Raises:
            AbortError: Always.
        """
        self.status = STATUSES[status if isinstance(status, str) else status.name]
        raise AbortError(self.status, details, trailing_metadata)

    def code(self) -> Status | None:
        """How it ended; none before that."""
        return self.status


class _Call:
    """One call; what `towpath.serving.h2` asks of an exchange."""

    def __init__(self, door: "GrpcDoor", stream: Stream, method: Method, context: Context, packed: str) -> None:
        self._door = door
        self._stream = stream
        self._method = method
        self._context = context
        self._packed = packed
        self._body: bytes | bytearray = b""
        self._messages: deque[bytes] = deque()
        self._coming: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        self._whole = False
        self._streams = method.streams
        if self._streams:
            stream.patient = method.asks_often
            self._task = door.spawn(self._stream_of_messages())

    # what the connection calls

    def data(self, body: bytes) -> None:
        """A piece of a message."""
        if not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body
        limit = self._door.max_bytes + _PREFIX_BYTES
        if len(self._body) > limit and self._length() + _PREFIX_BYTES > limit:
            self._refuse(f"The message has more than {self._door.max_bytes:,} bytes.")
            return
        if self._streams:
            self._take_messages()

    def end(self) -> None:
        """The caller has said all."""
        self._whole = True
        if self._streams:
            self._wake()
            return
        if not self._begun:
            self._begun = True
            self._answer()

    def gone(self) -> None:
        """The caller hung up."""
        self._context.left = True
        if self._task is not None:
            self._task.cancel()

    # one message, one answer

    def _answer(self) -> None:
        try:
            if len(self._body) != self._length() + _PREFIX_BYTES:
                raise AbortError(STATUSES["INVALID_ARGUMENT"], "The call holds no whole message, or more than one.")
            answering: Coroutine[Any, Any, bytes] = self._method.function(
                self._unpacked(bytes(self._body)), self._context
            )
            try:
                waits_for = answering.send(None)
            except StopIteration as done:
                self._send(done.value)
                return
        except AbortError as error:
            self._abort(error)
            return
        except Exception:  # noqa: BLE001 - the edge: a fault of ours is logged whole and told plainly
            self._failed()
            return
        self._task = self._door.spawn(self._rest(answering, waits_for))

    async def _rest(self, answering: Coroutine[Any, Any, bytes], waits_for: Any) -> None:
        try:
            self._send(await going_on(answering, waits_for))
        except AbortError as error:
            self._abort(error)
        except Exception:  # noqa: BLE001 - the same edge
            self._failed()

    def _send(self, message: bytes) -> None:
        context = self._context
        context.status = STATUSES["OK"]
        trailers = _OK + _metadata(context.trailing) if context.trailing else _OK
        self._stream.send(self._head(), self._packed_message(message), trailers)

    # messages one after the other

    async def _stream_of_messages(self) -> None:
        context, stream = self._context, self._stream
        begun = False
        try:
            left = context.time_remaining()
            async with asyncio.timeout(left):
                given: Any = self._all() if self._method.asks_often else await self._only()
                async for message in self._method.function(given, context):
                    stream.send(None if begun else self._head(), self._packed_message(message), None)
                    begun = True
                    if stream.backed_up:
                        await stream.drained()
        except AbortError as error:
            self._abort(error, begun=begun)
        except TimeoutError:
            self._abort(AbortError(STATUSES["DEADLINE_EXCEEDED"], "The deadline of the stream passed."), begun=begun)
        except Exception:  # noqa: BLE001 - the same edge
            self._failed(begun=begun)
        else:
            context.status = STATUSES["OK"]
            stream.send(None if begun else self._head(), b"", _OK + _metadata(context.trailing))

    async def _all(self) -> AsyncIterator[bytes]:
        while True:
            while not self._messages:
                if self._whole:
                    if self._body:
                        raise AbortError(STATUSES["INVALID_ARGUMENT"], "The last message is cut off.")
                    return
                self._coming = asyncio.get_running_loop().create_future()
                await self._coming
            packed = self._messages.popleft()
            if len(self._messages) < _WAITING_MESSAGES // 2:
                self._stream.go_on()
            yield self._unpacked(packed)

    async def _only(self) -> bytes:
        async for message in self._all():
            return message
        raise AbortError(STATUSES["INVALID_ARGUMENT"], "The call holds no message.")

    def _take_messages(self) -> None:
        body, at = self._body, 0
        while len(body) - at >= _PREFIX_BYTES:
            stop = at + _PREFIX_BYTES + int.from_bytes(body[at + 1 : at + _PREFIX_BYTES], "big")
            if stop - at - _PREFIX_BYTES > self._door.max_bytes:
                self._refuse(f"A message has more than {self._door.max_bytes:,} bytes.")
                return
            if stop > len(body):
                break
            self._messages.append(bytes(body[at:stop]))
            at = stop
        if at:
            self._body = body[at:]
            self._stream.taken(at)
            self._wake()
        if len(self._messages) >= _WAITING_MESSAGES:
            self._stream.pause()

    def _wake(self) -> None:
        if self._coming is not None and not self._coming.done():
            self._coming.set_result(None)

    # messages and blocks

    def _length(self) -> int:
        return int.from_bytes(self._body[1:_PREFIX_BYTES], "big") if len(self._body) >= _PREFIX_BYTES else 0

    def _unpacked(self, framed: bytes) -> bytes:
        message = framed[_PREFIX_BYTES:]
        if not framed[0]:
            return message
        if framed[0] != 1 or self._packed not in _WINDOW_BITS:
            raise AbortError(
                STATUSES["UNIMPLEMENTED"] if framed[0] == 1 else STATUSES["INVALID_ARGUMENT"],
                f"The message is packed as '{self._packed}', which is not known here: gzip, deflate or identity.",
                [("grpc-accept-encoding", "identity,deflate,gzip")],
            )
        limit = self._door.max_bytes
        unpacker = zlib.decompressobj(_WINDOW_BITS[self._packed])
        try:
            found = unpacker.decompress(message, limit + 1)
        except zlib.error as error:
            raise AbortError(STATUSES["INVALID_ARGUMENT"], f"The packed message is damaged: {error}.") from None
        if len(found) > limit:
            raise AbortError(STATUSES["RESOURCE_EXHAUSTED"], f"The message has more than {limit:,} bytes unpacked.")
        if not unpacker.eof:
            raise AbortError(STATUSES["INVALID_ARGUMENT"], "The packed message is cut off.")
        return found

    def _packed_message(self, message: bytes) -> bytes:
        encoding = self._context.encoding
        if encoding in _WINDOW_BITS:
            packer = zlib.compressobj(wbits=_WINDOW_BITS[encoding])
            message = packer.compress(message) + packer.flush()
            return b"\1" + len(message).to_bytes(4, "big") + message
        return b"\0" + len(message).to_bytes(4, "big") + message

    def _head(self) -> bytes:
        context = self._context
        encoding = literal(b"grpc-encoding", context.encoding.encode()) if context.encoding in _WINDOW_BITS else b""
        return _HEAD + encoding + _metadata(context.initial) if context.initial else _HEAD + encoding

    def _refuse(self, why: str) -> None:
        self._abort(AbortError(STATUSES["RESOURCE_EXHAUSTED"], why))
        if self._task is not None:
            self._task.cancel()

    def _abort(self, error: AbortError, *, begun: bool = False) -> None:
        self._begun = True
        self._context.status = error.status
        said = [("grpc-status", str(error.status.code)), ("grpc-message", _percent(error.details)), *error.trailing]
        trailers = _metadata([*said, *self._context.trailing])
        self._stream.send(None, b"", trailers if begun else _HEAD + _metadata(self._context.initial) + trailers)

    def _failed(self, *, begun: bool = False) -> None:
        _log.exception("a gRPC request failed")
        self._abort(AbortError(STATUSES["UNAVAILABLE"], "The request could not be answered."), begun=begun)


class _Refused:
    """A request that was answered before its body came; what comes of it is not kept."""

    def data(self, body: bytes) -> None:
        """Throw it away."""

    def end(self) -> None:
        """Nothing is owed."""

    def gone(self) -> None:
        """Nor here."""


class GrpcDoor:
    """Listens, and gives each call to its method.

    Args:
        methods: ``/package.Service/Method`` → what answers it.
        settings: Limits.
    """

    def __init__(self, methods: Mapping[str, Method], settings: ServingSettings) -> None:
        self._methods = {path.encode(): method for path, method in methods.items()}
        self.max_bytes = settings.max_body_bytes
        own = Limits.of(settings)
        self._limits = H2Limits(
            header_bytes=own.header_bytes,
            streams=settings.max_streams,
            connections=own.connections,
            held_bytes=4 * (settings.max_body_bytes + (1 << 20)),
            header_s=own.header_s,
            body_bytes_per_s=own.body_bytes_per_s,
            write_s=own.idle_s,
        )
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._ticker: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> int:
        """Calls that are open."""
        return sum(one.busy for one in self._connections)

    async def start(self, listener: socket.socket, *, tls: ssl.SSLContext | None = None, backlog: int = 2_048) -> None:
        """Listen on a bound socket.

        Raises:
            OSError: It cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        made = partial(Connection, self._begin, self._limits, self._connections)
        self._servers.append(await loop.create_server(made, sock=listener, ssl=tls, backlog=backlog))
        if self._ticker is None:
            self._tick()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, wait for those that are open, and close; what is still open after the grace is cut off."""
        for server in self._servers:
            server.close()
        for one in list(self._connections):
            one.leave()
        until = time.monotonic() + grace_s
        while self.busy and time.monotonic() < until:  # noqa: ASYNC110 - a call that is cut off has nobody who could set an event
            await asyncio.sleep(0.01)
        for task in list(self._tasks):
            task.cancel()
        for one in list(self._connections):
            one.abort()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """A task that is kept until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _tick(self) -> None:
        for one in list(self._connections):
            one.look()
        self._ticker = asyncio.get_running_loop().call_later(_TURN_S, self._tick)

    def _begin(self, stream: Stream, headers: Headers) -> "_Call | _Refused":
        """Read the head of a call; what cannot be a call is told so."""
        if stream.too_large:
            most = self._limits.header_bytes
            return _refused(stream, STATUSES["RESOURCE_EXHAUSTED"], f"The metadata has more than {most:,} bytes.")
        path = kind = verb = packed = accepted = b""
        deadline = float("inf")
        metadata: list[tuple[str, str | bytes]] = []
        try:
            for name, value in headers:
                if name[:1] == b":":
                    path, verb = (value if name == b":path" else path), (value if name == b":method" else verb)
                elif name == b"content-type":
                    kind = value
                elif name == b"grpc-timeout":
                    deadline = time.monotonic() + _timeout_s(value)
                elif name == b"grpc-encoding":
                    packed = value
                elif name == b"grpc-accept-encoding":
                    accepted = value
                elif name != b"te":
                    metadata.append(_read(name, value))
        except ValueError:
            return _refused(stream, STATUSES["INVALID_ARGUMENT"], "A header cannot be read.")
        if verb != b"POST" or not kind.startswith(b"application/grpc"):
            stream.send(None, b"", block([(b":status", b"415" if verb == b"POST" else b"405")]))
            return _Refused()
        method = self._methods.get(path)
        if method is None:
            return _refused(stream, STATUSES["UNIMPLEMENTED"], f"There is no method '{path.decode('latin-1')[:200]}'.")
        encoding = packed.decode("latin-1")
        mirrored = encoding if encoding in _WINDOW_BITS and packed in accepted.replace(b" ", b"").split(b",") else ""
        return _Call(self, stream, method, Context(tuple(metadata), deadline, mirrored), encoding)


def _refused(stream: Stream, status: Status, why: str) -> _Refused:
    stream.send(None, b"", _HEAD + _metadata([("grpc-status", str(status.code)), ("grpc-message", _percent(why))]))
    return _Refused()


def _timeout_s(value: bytes) -> float:
    digits, unit = value[:-1], value[-1:].decode("ascii")
    if not digits.isdigit() or len(digits) > _TIMEOUT_DIGITS or unit not in _UNITS_S:
        raise ValueError(value)
    return int(digits) * _UNITS_S[unit]


def _read(name: bytes, value: bytes) -> tuple[str, str | bytes]:
    text = name.decode("ascii")
    if text.endswith("-bin"):
        return text, b64decode(value + b"=" * (-len(value) % 4), validate=True)
    return text, value.decode("latin-1")


def _metadata(pairs: Sequence[tuple[str, str | bytes]]) -> bytes:
    return b"".join(
        literal(
            name.encode("ascii"), value.encode("latin-1", "replace") if isinstance(value, str) else b64encode(value)
        )
        for name, value in pairs
    )


def _percent(text: str) -> str:
    """A message as ``grpc-message`` carries it: ASCII that can be printed, all else in percent."""
    return quote_from_bytes(text.encode(), safe=_UNPRINTABLE)

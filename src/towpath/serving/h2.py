"""HTTP/2 as a server speaks it (RFC 9113): frames, flow control, and limits on everything that a peer may do.

Only what gRPC needs is here: requests with bodies in, answers with trailers out; no push, no priorities, no upgrade from HTTP/1. What
a request means is the `Exchange`'s business. Headers are read with ``hpack``; a block that was read before under the same table is not
read again. Answers are written as literals, so that there is no state of ours to keep.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any, Protocol

import msgspec
from hpack import Decoder, HPACKError
from hpack.table import HeaderTable

__all__ = ["Connection", "Exchange", "H2Limits", "Headers", "PeerError", "Stream", "block", "literal"]

Headers = list[tuple[bytes, bytes]]

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM = 11
END_STREAM = ACK = 1
END_HEADERS, PADDED, WITH_PRIORITY = 4, 8, 32

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = Struct(">HBBBL")
_LONG = Struct(">L")
_SETTING = Struct(">HL")
_MOST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_FRAME_BYTES = 65_536
"""Of a frame that a peer may send; larger ones would be no quicker and hold the event loop longer."""
_LEAST_FRAME_BYTES, _MOST_FRAME_BYTES = 16_384, 16_777_215
_STREAM_WINDOW = 1 << 20
_CONNECTION_WINDOW = 8 << 20
_KNOWN_BLOCKS = 64
_CALM_S, _CALM_FRAMES = 10.0, 2_000
"""So many frames that ask for nothing, and so many calls taken back, may a peer send in so long."""
_CONTINUATIONS = 32
_HEAD_TIMES = 4
_GOODBYE_S = 1.0
_PING_PAUSE_S, _PING_STRIKES = 10.0, 3
"""A caller that asks more often whether we are there, while nothing is answered, is sent away."""


class H2Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection may cost."""

    header_bytes: int = 32_768
    streams: int = 256
    connections: int = 4_096
    held_bytes: int = 64 << 20
    """Of bodies that are not whole yet, all streams together."""
    header_s: float = 10.0
    body_bytes_per_s: int = 1_000
    write_s: float = 75.0
    """How long a peer may leave its answers unread."""
    idle_s: float = 1_800.0
    """A connection without a call is closed after so long."""
    ping_s: float = 60.0
    """Who says nothing for so long is asked whether it is there, and let go when it does not say so in a third of that."""


class PeerError(Exception):
    """The peer broke the protocol, or asked too much: the connection ends."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Exchange(Protocol):
    """One request and its answer, as `Connection` sees them."""

    def data(self, body: bytes) -> None:
        """A piece of the body."""
        ...

    def end(self) -> None:
        """The body is whole."""
        ...

    def gone(self) -> None:
        """The peer took the request back, or went away."""
        ...


class _Table(HeaderTable):
    """Counts what is put in, so that a block which changed nothing is known."""

    additions = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.additions += 1
        super().add(name, value)


def literal(name: bytes, value: bytes) -> bytes:
    """One header as a literal that neither side remembers (RFC 7541, 6.2.2).

    Example:
        >>> list(Decoder().decode(literal(b"grpc-status", b"0"), raw=True))
        [(b'grpc-status', b'0')]
    """
    return b"\0" + _text(name) + _text(value)


def block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers in the order given."""
    return b"".join(literal(name, value) for name, value in headers)


def _text(value: bytes) -> bytes:
    size = len(value)
    if size < 127:  # noqa: PLR2004 - what seven bits hold
        return bytes((size,)) + value
    size -= 127
    encoded = bytearray((127,))
    while size >= 128:  # noqa: PLR2004
        encoded.append(size % 128 + 128)
        size //= 128
    encoded.append(size)
    return bytes(encoded) + value


class Stream:
    """One request on a connection.

    `send` writes an answer, in one write where the peer's windows allow it. `ended` says that nothing more may be sent.
    """

    __slots__ = (
        "_connection", "begun_s", "ended", "exchange", "held", "identity", "incoming", "outgoing", "patient", "paused",
        "pending", "too_large", "whole",
    )  # fmt: skip

    def __init__(self, connection: "Connection", identity: int, window: int) -> None:
        self._connection = connection
        self.identity = identity
        self.exchange: Exchange | None = None
        self.begun_s = time.monotonic()
        self.incoming = _STREAM_WINDOW
        """Bytes that the peer may still send."""
        self.outgoing = window
        """Bytes that we may still send."""
        self.held = 0
        """Bytes of the body so far."""
        self.pending: deque[tuple[bytes, bytes | None]] = deque()
        """What waits for a window: data, and the trailers that end the stream."""
        self.too_large = False
        """Whether its head is larger than the limit."""
        self.whole = False
        """Whether the body is here."""
        self.ended = False
        self.paused = False
        """Whether the peer is kept from sending more, as what came was not taken yet."""
        self.patient = False
        """Whether its body may come as slowly as it likes, as that of a stream of messages."""

    def send(self, head: bytes | None, data: bytes, trailers: bytes | None) -> None:
        """Send blocks and data, each where given; trailers end the stream."""
        if not self.ended:
            self._connection.send(self, head, data, trailers)

    def reset(self, code: int = CANCEL) -> None:
        """End it without an answer."""
        if not self.ended:
            self._connection.reset(self, code)

    @property
    def backed_up(self) -> bool:
        """Whether what was sent still waits for the peer."""
        return bool(self.pending) or self._connection.write_paused

    async def drained(self) -> None:
        """Wait until what was sent is on its way, so that a slow peer slows down who answers it."""
        while self.backed_up and not self.ended:
            await self._connection.progress()

    def taken(self, size: int) -> None:
        """Note that part of the body needs no memory any more, as a message that was handed on."""
        self._connection.taken(self, size)

    def pause(self) -> None:
        """Let the peer send no more than it may already."""
        self.paused = True

    def go_on(self) -> None:
        """Let it send again."""
        if self.paused and not self.ended:
            self.paused = False
            self._connection.credit(self)


class Connection(asyncio.Protocol):
    """One peer.

    Args:
        begin: Called with a stream and its headers when a request begins; gives what answers it. It may send at once.
        limits: What a peer may do.
        others: All connections of the server; it adds itself.
    """

    def __init__(
        self,
        begin: Callable[[Stream, Headers], Exchange],
        limits: H2Limits,
        others: "set[Connection]",
        *,
        secure: bool = False,
    ) -> None:
        self._begin = begin
        self._limits = limits
        self._others = others
        self._secure = secure
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._greeted = False
        self._settled = False
        """Whether the peer's first settings came, which must come first."""
        # a head within four times the limit is read and refused by itself, as the table must go on; beyond, the connection ends
        self._decoder = Decoder(max_header_list_size=limits.header_bytes * _HEAD_TIMES)
        self._decoder.header_table = self._table = _Table()
        self._known: dict[bytes, Headers] = {}
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._block: tuple[int, int, list[bytes]] | None = None
        """A block that goes on: stream, flags of its first frame, pieces."""
        self._peer_window = _DEFAULT_WINDOW
        self._peer_frame = _LEAST_FRAME_BYTES
        self._outgoing = _DEFAULT_WINDOW
        self._incoming = _CONNECTION_WINDOW
        self._held = 0
        self._waiters: list[asyncio.Future[None]] = []
        self.write_paused = False
        self._leaving = False
        self._cheap, self._cheap_since = 0, 0.0
        self._heard_s = self._asked_s = self._busy_s = self._begun_s = time.monotonic()
        self._stalled_s = self._open_s = 0.0
        self._asked = False
        self._pings, self._pinged_s = 0, 0.0
        self._by_kind: tuple[Callable[[int, int, bytes], None], ...] = (
            self._data, self._headers, self._priority, self._reset, self._settings, self._pushed, self._ping,
            self._goodbye_of_peer, self._window, self._continuation,
        )  # fmt: skip

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what we take."""
        made: Any = transport
        self._transport = made
        self._others.add(self)
        if len(self._others) > self._limits.connections:
            self._goodbye(ENHANCE_YOUR_CALM)
            return
        settings = ((3, self._limits.streams), (4, _STREAM_WINDOW), (5, _FRAME_BYTES), (6, self._limits.header_bytes))
        said = b"".join(_SETTING.pack(name, value) for name, value in settings)
        more = _LONG.pack(_CONNECTION_WINDOW - _DEFAULT_WINDOW)
        made.write(_frame(SETTINGS, 0, 0, said) + _frame(WINDOW_UPDATE, 0, 0, more))

    def connection_lost(self, exc: Exception | None) -> None:
        """Take back what was asked."""
        del exc
        self._others.discard(self)
        self._transport = None
        for stream in list(self._streams.values()):
            self._close(stream, gone=True)
        self._wake()

    def pause_writing(self) -> None:
        """The peer does not read: it is not read either, so that it cannot ask for more."""
        self.write_paused, self._stalled_s = True, time.monotonic()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self.write_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Read the frames that are whole."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        try:
            if not self._greeted:
                if len(data) < len(_PREFACE) and _PREFACE.startswith(data):
                    self._rest = data
                    return
                if not data.startswith(_PREFACE):
                    raise PeerError(PROTOCOL_ERROR, "this is not HTTP/2")
                self._greeted, data = True, data[len(_PREFACE) :]
            at, end = 0, len(data)
            while end - at >= _HEAD.size and self._transport is not None:
                high, low, kind, flags, identity = _HEAD.unpack_from(data, at)
                length = high << 8 | low
                if length > _FRAME_BYTES:
                    raise PeerError(FRAME_SIZE_ERROR, "a frame is too large")
                stop = at + _HEAD.size + length
                if stop > end:
                    break
                self._frame(kind, flags, identity & _MOST_WINDOW, data[at + _HEAD.size : stop])
                at = stop
            self._rest = data[at:]
        except PeerError as error:
            self._goodbye(error.code, str(error))
            return
        self._heard_s = time.monotonic()
        self._open_s = 0.0 if not self._rest and self._block is None else self._open_s or self._heard_s

    # frames

    def _frame(self, kind: int, flags: int, identity: int, payload: bytes) -> None:
        if self._leaving and self._transport is not None and self._transport.is_closing():
            return
        if self._block is not None and (kind != CONTINUATION or identity != self._block[0]):
            raise PeerError(PROTOCOL_ERROR, "a block of headers was interrupted")
        if not self._settled and kind != SETTINGS:
            raise PeerError(PROTOCOL_ERROR, "settings come first")
        if kind < len(self._by_kind):
            self._by_kind[kind](flags, identity, payload)
        else:  # what later versions may say
            self._spend()

    def _goodbye_of_peer(self, flags: int, identity: int, payload: bytes) -> None:
        del flags
        if identity or len(payload) < 8:  # noqa: PLR2004 - last stream and code
            raise PeerError(PROTOCOL_ERROR, "a goodbye that is none")
        self._leaving = True
        self._leave()

    def _pushed(self, flags: int, identity: int, payload: bytes) -> None:
        del flags, identity, payload
        raise PeerError(PROTOCOL_ERROR, "a caller pushes nothing")

    def _priority(self, flags: int, identity: int, payload: bytes) -> None:
        del flags
        if len(payload) != 5 or not identity:  # noqa: PLR2004
            raise PeerError(FRAME_SIZE_ERROR, "a priority that is none")
        self._spend()

    def _data(self, flags: int, identity: int, payload: bytes) -> None:
        size = len(payload)
        self._incoming -= size
        if self._incoming < 0:
            raise PeerError(FLOW_CONTROL_ERROR, "more than the window of the connection")
        if self._incoming < _CONNECTION_WINDOW // 2:
            self._write(_frame(WINDOW_UPDATE, 0, 0, _LONG.pack(_CONNECTION_WINDOW - self._incoming)))
            self._incoming = _CONNECTION_WINDOW
        stream = self._streams.get(identity)
        if stream is None or stream.whole:
            if not identity or identity > self._last:
                raise PeerError(PROTOCOL_ERROR, "data of a stream that was not opened")
            self._spend()  # of one that we ended; the peer may not know yet
            return
        stream.incoming -= size
        if stream.incoming < 0:
            raise PeerError(FLOW_CONTROL_ERROR, "more than the window of a stream")
        body = _unpadded(payload) if flags & PADDED else payload
        if not body and not flags & END_STREAM:
            self._spend()
        stream.held += len(body)
        self._held += len(body)
        exchange = stream.exchange
        if exchange is None:
            return
        if self._held > self._limits.held_bytes:
            self._close(stream, gone=True)
            self._write(_frame(RST_STREAM, 0, identity, _LONG.pack(ENHANCE_YOUR_CALM)))
            return
        if body:
            exchange.data(body)
        if flags & END_STREAM:
            self._whole(stream)
        elif not stream.paused:
            self.credit(stream)

    def _whole(self, stream: Stream) -> None:
        stream.whole = True
        self._held -= stream.held
        stream.held = 0
        self._cheap = 0
        if stream.exchange is not None and not stream.ended:
            stream.exchange.end()
        if stream.ended:
            self._streams.pop(stream.identity, None)

    def _headers(self, flags: int, identity: int, payload: bytes) -> None:
        if flags & PADDED:
            payload = _unpadded(payload)
        if flags & WITH_PRIORITY:
            if len(payload) < 5:  # noqa: PLR2004 - stream and weight
                raise PeerError(FRAME_SIZE_ERROR, "a priority that is none")
            payload = payload[5:]
        if flags & END_HEADERS:
            self._begun(flags, identity, payload)
        else:
            self._block = (identity, flags, [payload])

    def _continuation(self, flags: int, identity: int, payload: bytes) -> None:
        if self._block is None:
            raise PeerError(PROTOCOL_ERROR, "headers that go on without a beginning")
        identity, first, pieces = self._block
        pieces.append(payload)
        if sum(map(len, pieces)) > self._limits.header_bytes * _HEAD_TIMES or len(pieces) > _CONTINUATIONS:
            raise PeerError(ENHANCE_YOUR_CALM, "too many headers")
        if flags & END_HEADERS:
            self._block = None
            self._begun(first, identity, b"".join(pieces))

    def _begun(self, flags: int, identity: int, encoded: bytes) -> None:
        headers, too_large = self._decoded(encoded)  # also of a stream that is refused: the table goes on
        stream = self._streams.get(identity)
        if stream is not None:
            if stream.whole or not flags & END_STREAM:
                raise PeerError(PROTOCOL_ERROR, "headers in the middle of a request")
            self._whole(stream)
            return
        if not identity & 1 or identity <= self._last:
            raise PeerError(PROTOCOL_ERROR, "streams of callers are odd and count up")
        self._last = identity
        if self._leaving or len(self._streams) >= self._limits.streams:
            self._spend()
            self._write(_frame(RST_STREAM, 0, identity, _LONG.pack(REFUSED_STREAM)))
            return
        stream = self._streams[identity] = Stream(self, identity, self._peer_window)
        stream.too_large = too_large
        stream.exchange = self._begin(stream, headers)
        if flags & END_STREAM:
            self._whole(stream)

    def _decoded(self, encoded: bytes) -> tuple[Headers, bool]:
        found = self._known.get(encoded)
        if found is not None:
            return found, False
        before = self._table.additions
        resized = bool(encoded) and encoded[0] & 0xE0 == 0x20  # noqa: PLR2004 - 001: the table changes its size
        try:
            found = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(encoded, raw=True)]  # pyright: ignore[reportArgumentType] - raw gives bytes
        except HPACKError as error:
            raise PeerError(COMPRESSION_ERROR, f"headers: {error}") from None
        too_large = sum(len(name) + len(value) + 32 for name, value in found) > self._limits.header_bytes
        if resized or self._table.additions != before:
            self._known.clear()
        elif len(self._known) < _KNOWN_BLOCKS and not too_large:
            self._known[encoded] = found
        return found, too_large

    def _settings(self, flags: int, identity: int, payload: bytes) -> None:
        if identity or len(payload) % 6 or (flags & ACK and payload):
            raise PeerError(FRAME_SIZE_ERROR, "settings that are none")
        self._settled = True
        if flags & ACK:
            return
        self._spend()
        for name, value in _SETTING.iter_unpack(payload):
            if name == 4:  # noqa: PLR2004 - the window of new and open streams
                if value > _MOST_WINDOW:
                    raise PeerError(FLOW_CONTROL_ERROR, "a window that is too large")
                for stream in self._streams.values():
                    stream.outgoing += value - self._peer_window
                self._peer_window = value
            elif name == 5:  # noqa: PLR2004 - the size of frames
                if not _LEAST_FRAME_BYTES <= value <= _MOST_FRAME_BYTES:
                    raise PeerError(PROTOCOL_ERROR, "a frame size that is none")
                self._peer_frame = value
            elif name == 2 and value > 1:  # noqa: PLR2004 - push, which we never do
                raise PeerError(PROTOCOL_ERROR, "a switch that is neither on nor off")
        self._write(_frame(SETTINGS, ACK, 0, b""))
        self._flush()

    def _ping(self, flags: int, identity: int, payload: bytes) -> None:
        if identity or len(payload) != 8:  # noqa: PLR2004
            raise PeerError(FRAME_SIZE_ERROR, "a ping that is none")
        if flags & ACK:
            self._asked = False
            return
        self._spend()
        now = time.monotonic()
        self._pings = self._pings + 1 if now - self._pinged_s < _PING_PAUSE_S else 0
        self._pinged_s = now
        if self._pings > _PING_STRIKES:
            raise PeerError(ENHANCE_YOUR_CALM, "too_many_pings")  # the words by which gRPC's clients learn to ping less
        self._write(_frame(PING, ACK, 0, payload))

    def _reset(self, flags: int, identity: int, payload: bytes) -> None:
        del flags
        if len(payload) != 4 or not identity or identity > self._last:  # noqa: PLR2004
            raise PeerError(PROTOCOL_ERROR, "an end of a stream that was not opened")
        stream = self._streams.get(identity)
        self._spend(20)
        if stream is not None:
            self._close(stream, gone=True)

    def _window(self, flags: int, identity: int, payload: bytes) -> None:
        del flags
        if len(payload) != 4:  # noqa: PLR2004
            raise PeerError(FRAME_SIZE_ERROR, "a window that is none")
        more = _LONG.unpack(payload)[0] & _MOST_WINDOW
        stream = self._streams.get(identity)
        if not more or (identity and stream is None and identity > self._last):
            raise PeerError(PROTOCOL_ERROR, "a window that does not open")
        if not identity:
            self._outgoing += more
        elif stream is not None:
            stream.outgoing += more
        if self._outgoing > _MOST_WINDOW or (stream is not None and stream.outgoing > _MOST_WINDOW):
            raise PeerError(FLOW_CONTROL_ERROR, "a window that is too large")
        if not self._flush():
            self._spend()

    def _spend(self, much: int = 1) -> None:
        """Count a frame that asks for nothing; a peer that sends many and little else is sent away."""
        now = time.monotonic()
        if now - self._cheap_since > _CALM_S:
            self._cheap, self._cheap_since = 0, now
        self._cheap += much
        if self._cheap > _CALM_FRAMES:
            raise PeerError(ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    # what streams ask for

    def send(self, stream: Stream, head: bytes | None, data: bytes, trailers: bytes | None) -> None:
        """Write what the windows allow, and keep the rest."""
        self._pings = 0
        out: list[bytes] = []
        if head is not None:
            self._add_block(out, stream, head, 0)
        size = len(data)
        if not stream.pending and size <= stream.outgoing and size <= self._outgoing and size <= self._peer_frame:
            if data:
                stream.outgoing -= size
                self._outgoing -= size
                out.append(_frame(DATA, 0, stream.identity, data))
            if trailers is not None:
                self._add_block(out, stream, trailers, END_STREAM)
        else:
            stream.pending.append((data, trailers))
        self._write(b"".join(out))
        if trailers is not None and not stream.pending:
            self._done(stream)
        elif stream.pending:
            self._flush()

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream without an answer."""
        self._write(_frame(RST_STREAM, 0, stream.identity, _LONG.pack(code)))
        self._close(stream, gone=False)

    def credit(self, stream: Stream) -> None:
        """Let the peer send on a stream again, when half of its window is used."""
        if stream.incoming < _STREAM_WINDOW // 2 and not stream.whole:
            more = _STREAM_WINDOW - stream.incoming
            stream.incoming = _STREAM_WINDOW
            self._write(_frame(WINDOW_UPDATE, 0, stream.identity, _LONG.pack(more)))

    def taken(self, stream: Stream, size: int) -> None:
        """Note that part of a body needs no memory any more, as that of a long stream of messages."""
        size = min(size, stream.held)
        stream.held -= size
        self._held -= size

    async def progress(self) -> None:
        """Wait until something could be written, or the connection is gone."""
        if self._transport is None:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _flush(self) -> bool:
        """Write what waited for a window; whether there was anything."""
        wrote = False
        for stream in [one for one in self._streams.values() if one.pending]:
            out: list[bytes] = []
            while stream.pending:
                data, trailers = stream.pending.popleft()
                size = min(len(data), stream.outgoing, self._outgoing, self._peer_frame)
                if data and size <= 0:
                    stream.pending.appendleft((data, trailers))
                    break
                if data:
                    stream.outgoing -= size
                    self._outgoing -= size
                    out.append(_frame(DATA, 0, stream.identity, data[:size]))
                if size < len(data):
                    stream.pending.appendleft((data[size:], trailers))
                elif trailers is not None:
                    self._add_block(out, stream, trailers, END_STREAM)
                    self._write(b"".join(out))
                    out = []
                    self._done(stream)
                wrote = True
            if out:
                self._write(b"".join(out))
        if wrote:
            self._wake()
        return wrote

    def _add_block(self, out: list[bytes], stream: Stream, encoded: bytes, flags: int) -> None:
        frame = self._peer_frame
        if len(encoded) <= frame:
            out.append(_frame(HEADERS, flags | END_HEADERS, stream.identity, encoded))
            return
        out.append(_frame(HEADERS, flags, stream.identity, encoded[:frame]))
        for at in range(frame, len(encoded), frame):
            last = END_HEADERS if at + frame >= len(encoded) else 0
            out.append(_frame(CONTINUATION, last, stream.identity, encoded[at : at + frame]))

    def _done(self, stream: Stream) -> None:
        """The answer is out; a request that is not whole by then is not wanted any more."""
        if not stream.whole:
            self._write(_frame(RST_STREAM, 0, stream.identity, _LONG.pack(NO_ERROR)))
        self._close(stream, gone=False)

    def _close(self, stream: Stream, *, gone: bool) -> None:
        stream.ended = True
        stream.pending.clear()
        self._held -= stream.held
        stream.held = 0
        self._streams.pop(stream.identity, None)
        self._busy_s = time.monotonic()
        exchange, stream.exchange = stream.exchange, None
        if gone and exchange is not None:
            exchange.gone()
            self._wake()
        if self._leaving and not self._streams:
            self._leave()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # ends

    @property
    def busy(self) -> int:
        """Calls that are open."""
        return len(self._streams)

    def leave(self) -> None:
        """Take no more calls; the connection closes when those that are open are answered."""
        if not self._leaving:
            self._leaving = True
            self._write(_frame(GOAWAY, 0, 0, _LONG.pack(self._last) + _LONG.pack(NO_ERROR)))
        self._leave()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _leave(self) -> None:
        if not self._streams and self._transport is not None:
            self._transport.close()

    def _goodbye(self, code: int, why: str = "") -> None:
        """Say why and close; answers that are being written are cut off."""
        self._leaving = True
        self._rest = b""
        said = _LONG.pack(self._last) + _LONG.pack(code) + why.encode()[:200]
        self._write(_frame(GOAWAY, 0, 0, said))
        for stream in list(self._streams.values()):
            self._close(stream, gone=True)
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(_GOODBYE_S, self.abort)

    def look(self) -> None:
        """What a clock finds: slow heads and bodies, answers that nobody reads, idling, and peers that are gone. Once a second."""
        now, limits = time.monotonic(), self._limits
        if self._transport is None or self._transport.is_closing():
            return
        if self.write_paused:
            if now - self._stalled_s > limits.write_s:
                self.abort()
            return
        if (not self._settled and now - self._begun_s > limits.header_s) or (
            self._open_s and now - self._open_s > limits.header_s
        ):
            self._goodbye(ENHANCE_YOUR_CALM, "a frame that took too long")
            return
        for stream in list(self._streams.values()):
            took_s = now - stream.begun_s
            slow = not (stream.whole or stream.patient) and took_s > limits.header_s
            if slow and stream.held < took_s * limits.body_bytes_per_s:
                self.reset(stream, ENHANCE_YOUR_CALM)
        if not self._streams and now - self._busy_s > limits.idle_s:
            self.leave()
        elif self._asked and now - self._asked_s > limits.ping_s / 3:
            self.abort()
        elif not self._asked and now - self._heard_s > limits.ping_s:
            self._asked, self._asked_s = True, now
            self._write(_frame(PING, 0, 0, b"towpath?"))


def _frame(kind: int, flags: int, identity: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 255, kind, flags, identity) + payload


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise PeerError(PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]

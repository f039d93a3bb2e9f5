"""HTTP/2 by hand: what the standard asks, and what a hostile peer may try."""

import asyncio
import logging
import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes
from hpack import Encoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from towpath.serving.grpc_door import Context, GrpcDoor, Method
from towpath.serving.h2 import Connection, H2Limits
from towpath.settings import ServingSettings

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = [
    (":method", "POST"), (":scheme", "http"), (":path", "/s/Echo"), (":authority", "x"), ("te", "trailers"),
    ("content-type", "application/grpc"),
]  # fmt: skip


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def a_call(stream: int = 1, body: bytes = b"hello", encoder: Encoder | None = None, **more: str) -> bytes:
    head = (encoder or Encoder()).encode([*HEAD, *more.items()])
    return frame(1, 4, stream, head) + frame(0, 1, stream, message(body))


OPENED = PREFACE + frame(4, 0, 0)


class Wire(asyncio.Transport):
    """The server's end of a connection without a network; what it writes is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.reading = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        found, at = [], 0
        while at < len(self.written):
            high, low, kind, flags, stream = struct.unpack_from(">HBBBL", self.written, at)
            size = high << 8 | low
            found.append((kind, flags, stream, self.written[at + 9 : at + 9 + size]))
            at += 9 + size
        return found

    def bodies(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for kind, _, stream, payload in self.frames():
            if kind == 0:
                found[stream] = found.get(stream, b"") + payload
        return found

    def goodbye(self) -> int | None:
        codes = [struct.unpack(">L", payload[4:8])[0] for kind, _, _, payload in self.frames() if kind == 7]
        return codes[0] if codes else None

    def resets(self) -> dict[int, int]:
        return {stream: struct.unpack(">L", payload)[0] for kind, _, stream, payload in self.frames() if kind == 3}


async def echo(body: bytes, _: Context) -> bytes:
    return body


async def late(body: bytes, _: Context) -> bytes:
    await asyncio.sleep(0.01)
    return body


METHODS = {"/s/Echo": Method(echo), "/s/Late": Method(late)}


def served(act: Callable[[Connection, Wire], Any], **limits: Any) -> Wire:
    """A connection in an event loop of its own, and what it wrote."""

    async def run() -> Wire:
        door = GrpcDoor(METHODS, ServingSettings(max_body_bytes=1 << 20))
        wire = Wire()
        made = Connection(door._begin, H2Limits(**limits), set())
        made.connection_made(wire)
        done = act(made, wire)
        if done is not None:
            await done
        await asyncio.sleep(0)
        return wire

    return asyncio.run(run())


def told(*pieces: bytes, **limits: Any) -> Wire:
    def act(made: Connection, _: Wire) -> None:
        for piece in pieces:
            made.data_received(piece)

    return served(act, **limits)


def test_a_call_is_answered_by_the_very_read_that_brought_its_end() -> None:
    wire = told(OPENED + a_call())
    assert wire.bodies() == {1: message(b"hello")}
    assert [kind for kind, _, stream, _ in wire.frames() if stream == 1] == [1, 0, 1]
    assert not wire.closed


def test_a_block_that_was_seen_is_read_right_again_also_after_the_table_changed() -> None:
    encoder = Encoder()
    calls = [a_call(stream, b"%d" % stream, encoder, **{"x-number": str(stream // 6)}) for stream in range(1, 40, 2)]
    wire = told(OPENED + b"".join(calls))
    assert wire.bodies() == {stream: message(b"%d" % stream) for stream in range(1, 40, 2)}


BROKEN: dict[str, tuple[bytes, int]] = {
    "http/1": (b"GET / HTTP/1.1\r\n\r\n", 1),
    "no settings first": (PREFACE + frame(6, 0, 0, b"12345678"), 1),
    "a frame that is too large": (OPENED + frame(0, 0, 1, b"x" * 70_000), 6),
    "data of an idle stream": (OPENED + frame(0, 1, 1, b"x"), 1),
    "data of stream 0": (OPENED + frame(0, 1, 0, b"x"), 1),
    "headers of an even stream": (OPENED + frame(1, 5, 2, Encoder().encode(HEAD)), 1),
    "headers that count down": (OPENED + a_call(3) + a_call(1), 1),
    "headers twice": (OPENED + frame(1, 4, 1, Encoder().encode(HEAD)) * 2, 1),
    "a block that is interrupted": (OPENED + frame(1, 0, 1, b"") + frame(6, 0, 0, b"12345678"), 1),
    "a block that goes on from nothing": (OPENED + frame(9, 4, 1, b""), 1),
    "too much padding": (OPENED + frame(1, 4 | 8, 1, b"\xff\0"), 1),
    "a priority that is cut off": (OPENED + frame(1, 4 | 32, 1, b"\0\0"), 6),
    "headers that are none": (OPENED + frame(1, 4, 1, b"\xff\xff\xff\xff\xff"), 9),
    "an index beyond the table": (OPENED + frame(1, 4, 1, b"\xfe"), 9),
    "a table larger than allowed": (OPENED + frame(1, 4, 1, b"\x3f\xe1\xff\x03"), 9),
    "settings of a stream": (PREFACE + frame(4, 0, 1), 6),
    "settings of a strange size": (PREFACE + frame(4, 0, 0, b"12345"), 6),
    "an acknowledgement with a payload": (OPENED + frame(4, 1, 0, b"123456"), 6),
    "a window of 2^31": (PREFACE + frame(4, 0, 0, struct.pack(">HL", 4, 2**31)), 3),
    "a frame size of 1": (PREFACE + frame(4, 0, 0, struct.pack(">HL", 5, 1)), 1),
    "push of 2": (PREFACE + frame(4, 0, 0, struct.pack(">HL", 2, 2)), 1),
    "a ping of 7 bytes": (OPENED + frame(6, 0, 0, b"1234567"), 6),
    "a ping of a stream": (OPENED + frame(6, 0, 1, b"12345678"), 6),
    "a reset of an idle stream": (OPENED + frame(3, 0, 1, b"\0\0\0\0"), 1),
    "a window of 0": (OPENED + frame(8, 0, 0, b"\0\0\0\0"), 1),
    "a window of an idle stream": (OPENED + frame(8, 0, 7, b"\0\0\0\1"), 1),
    "windows that add up to too much": (OPENED + frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2, 3),
    "a push": (OPENED + frame(5, 4, 1, b"\0\0\0\2"), 1),
    "a goodbye that is cut off": (OPENED + frame(7, 0, 0, b"\0"), 1),
    "pings": (OPENED + frame(6, 0, 0, b"12345678") * 2_100, 11),
    "settings": (OPENED + frame(4, 0, 0) * 2_100, 11),
    "priorities": (OPENED + frame(2, 0, 1, b"12345") * 2_100, 11),
    "unknown frames": (OPENED + frame(99, 0, 1, b"12345") * 2_100, 11),
    "windows": (OPENED + frame(8, 0, 0, b"\0\0\0\1") * 2_100, 11),
    "empty data": (OPENED + frame(1, 4, 1, Encoder().encode(HEAD)) + frame(0, 0, 1) * 2_100, 11),
    "calls taken back": (
        OPENED + b"".join(frame(1, 4, n, Encoder().encode(HEAD)) + frame(3, 0, n, b"\0\0\0\x08") for n in range(1, 300, 2)), 11,
    ),
    "headers that never end": (OPENED + frame(1, 0, 1, b"") + frame(9, 0, 1, b"\0\1a\1b") * 50, 11),
    "many headers in one block": (OPENED + frame(1, 4, 1, Encoder().encode([("a", "b" * 100)] * 1_000)), 9),
    "many headers out of few bytes": (
        OPENED + frame(1, 4, 1, b"\x40\x01a\x7f\x80\x1f" + b"b" * 4_095 + b"\xbe" * 5_000), 9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", BROKEN)
def test_a_peer_that_breaks_the_protocol_is_told_and_sent_away(why: str, caplog: pytest.LogCaptureFixture) -> None:
    sent, code = BROKEN[why]
    wire = told(sent)
    assert (wire.goodbye(), wire.closed) == (code, True), why
    assert not caplog.records


def test_more_than_the_windows_ends_the_connection() -> None:
    head = frame(1, 4, 1, Encoder().encode(HEAD))

    def act(made: Connection, wire: Wire) -> None:
        made.data_received(OPENED + head)
        for stream in list(made._streams.values()):
            stream.pause()  # as one whose messages nobody takes
        for _ in range(20):
            made.data_received(frame(0, 0, 1, b"\0" * 60_000))

    assert served(act).goodbye() == 3


def test_bodies_that_are_never_whole_hold_no_more_than_the_limit() -> None:
    heads = b"".join(frame(1, 4, n, Encoder().encode(HEAD)) for n in range(1, 20, 2))
    data = b"".join(frame(0, 0, n, b"\0\0\x0f\xff\xff" + b"x" * 50_000) for n in range(1, 20, 2))
    wire = told(OPENED + heads + data, held_bytes=220_000)
    assert set(wire.resets().values()) == {11}
    assert len(wire.resets()) >= 5


def test_calls_beyond_the_limit_are_refused_and_their_headers_still_read() -> None:
    encoder = Encoder()
    open_ones = b"".join(frame(1, 4, n, encoder.encode(HEAD)) for n in (1, 3))
    wire = told(
        OPENED + open_ones + a_call(5, b"x", encoder) + frame(0, 1, 1, message(b"1")) + a_call(7, b"7", encoder),
        streams=2,
    )
    assert wire.resets() == {5: 7}
    assert wire.bodies() == {1: message(b"1"), 7: message(b"7")}


def test_a_peer_with_a_window_of_three_bytes_gets_its_answer_in_pieces() -> None:
    start = PREFACE + frame(4, 0, 0, struct.pack(">HL", 4, 3))
    more = [frame(8, 0, 1, b"\0\0\0\3")] * 4
    wire = told(start + a_call(), *more)
    assert wire.bodies() == {1: message(b"hello")}
    assert [len(payload) for kind, _, _, payload in wire.frames() if kind == 0] == [3, 3, 3, 1]
    assert wire.frames()[-1][:2] == (1, 5)


def test_a_window_may_shrink_below_zero_and_opens_again() -> None:
    start = PREFACE + frame(4, 0, 0, struct.pack(">HL", 4, 5))
    wire = told(start + a_call(), frame(4, 0, 0, struct.pack(">HL", 4, 0)), frame(8, 0, 1, b"\0\0\0\5"))
    assert wire.bodies() == {1: message(b"hello")[:5]}
    assert told(start + a_call(), frame(8, 0, 1, b"\0\0\0\5")).bodies() == {1: message(b"hello")}


def test_an_answer_larger_than_frames_and_windows_arrives_whole() -> None:
    body = bytes(range(256)) * 3_000
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    got, ended = b"", False

    def act(made: Connection, wire: Wire) -> Any:
        nonlocal got, ended
        client.send_headers(1, HEAD)
        left, seen = message(body), 0
        while not ended:
            size = min(client.local_flow_control_window(1), client.max_outbound_frame_size, len(left))
            if size:
                client.send_data(1, left[:size])
                left = left[size:]
                if not left:
                    client.end_stream(1)
            made.data_received(client.data_to_send())
            for event in client.receive_data(wire.written[seen:]):
                if isinstance(event, DataReceived):
                    got += event.data
                    client.acknowledge_received_data(event.flow_controlled_length, 1)
                ended |= isinstance(event, StreamEnded)
            seen = len(wire.written)

    wire = served(act)
    assert got == message(body)
    assert wire.goodbye() is None


def test_trailers_of_the_caller_end_its_request() -> None:
    encoder = Encoder()
    sent = frame(1, 4, 1, encoder.encode(HEAD)) + frame(0, 0, 1, message(b"x"))
    wire = told(OPENED + sent + frame(1, 5, 1, encoder.encode([("x-after", "1")])))
    assert wire.bodies() == {1: message(b"x")}


def test_padding_and_priorities_are_read_over() -> None:
    head = b"\x03" + b"\0\0\0\0\x10" + Encoder().encode(HEAD) + b"\0\0\0"
    body = b"\x02" + message(b"x") + b"\0\0"
    wire = told(OPENED + frame(1, 4 | 8 | 32, 1, head) + frame(0, 1 | 8, 1, body))
    assert wire.bodies() == {1: message(b"x")}


def test_headers_in_pieces_are_one_block() -> None:
    head = Encoder().encode(HEAD)
    pieces = frame(1, 0, 1, head[:7]) + frame(9, 0, 1, head[7:20]) + frame(9, 4, 1, head[20:])
    assert told(OPENED + pieces + frame(0, 1, 1, message(b"x"))).bodies() == {1: message(b"x")}


def test_a_connection_that_ends_finishes_what_is_open_and_takes_no_more() -> None:
    async def rest(made: Connection, wire: Wire) -> None:
        made.data_received(OPENED + a_call(1, path_late=""))
        head = [(name, "/s/Late" if name == ":path" else value) for name, value in HEAD]
        made.data_received(frame(1, 4, 3, Encoder().encode(head)) + frame(0, 1, 3, message(b"late")))
        made.leave()
        made.data_received(a_call(5))
        await asyncio.sleep(0.05)

    wire = served(rest)
    assert wire.bodies() == {1: message(b"hello"), 3: message(b"late")}
    assert (wire.goodbye(), wire.resets(), wire.closed) == (0, {5: 7}, True)


def test_a_peer_that_does_not_read_is_not_read_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr("towpath.serving.h2.time.monotonic", lambda: now[0])

    def act(made: Connection, wire: Wire) -> None:
        made.data_received(OPENED)
        made.pause_writing()
        assert not wire.reading
        now[0] += 74
        made.look()
        assert not wire.closed
        now[0] += 2
        made.look()

    assert served(act).closed


@pytest.mark.parametrize(
    ("sent", "after_s", "end"),
    [
        (b"", 9, None),
        (b"", 11, 11),
        (PREFACE[:10], 11, 11),
        (OPENED + frame(0, 0, 1, b"x" * 100)[:50], 11, 11),
        (OPENED + frame(1, 0, 1, b""), 11, 11),
        (OPENED, 61, "ping"),
        (OPENED + a_call(), 50, None),
    ],
)
def test_what_takes_too_long_is_given_up(
    sent: bytes, after_s: float, end: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("towpath.serving.h2.time.monotonic", lambda: now[0])

    def act(made: Connection, _: Wire) -> None:
        made.data_received(sent) if sent else None
        now[0] += after_s
        made.look()

    wire = served(act)
    pinged = [payload for kind, flags, _, payload in wire.frames() if kind == 6 and not flags]
    assert (wire.goodbye() if end != "ping" else "ping") == end
    assert bool(pinged) == (end == "ping")
    if end == "ping":

        def unanswered(made: Connection, _: Wire) -> None:
            made.data_received(sent)
            for _number in range(3):
                now[0] += 61
                made.look()

        assert served(unanswered).closed


def test_a_body_that_crawls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr("towpath.serving.h2.time.monotonic", lambda: now[0])

    def act(made: Connection, _: Wire) -> None:
        made.data_received(OPENED + frame(1, 4, 1, Encoder().encode(HEAD)) + frame(0, 0, 1, message(b"x" * 50)[:20]))
        now[0] += 11
        made.look()

    assert served(act).resets() == {1: 11}


SCRIPT = OPENED + b"".join(a_call(n, bytes([n]) * n * 7) for n in range(1, 12, 2)) + frame(6, 0, 0, b"12345678")


@given(st.lists(st.integers(0, len(SCRIPT)), max_size=12))
@settings(max_examples=150, deadline=None)
def test_wherever_the_bytes_are_cut_the_answers_are_the_same(cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(SCRIPT)})
    wire = told(*(SCRIPT[start:end] for start, end in pairwise(places)))
    assert wire.bodies() == {n: message(bytes([n]) * n * 7) for n in range(1, 12, 2)}
    assert (6, 1, 0, b"12345678") in wire.frames()


FRAMES = st.builds(
    frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.integers(0, 9),
    st.one_of(st.binary(max_size=40), st.just(Encoder().encode(HEAD)), st.binary(max_size=9).map(message)),
)


@given(st.lists(st.one_of(FRAMES, st.binary(max_size=30)), max_size=12))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_frames_whatever_raise_in_the_server(caplog: pytest.LogCaptureFixture, frames: list[bytes]) -> None:
    caplog.set_level(logging.WARNING)
    told(OPENED, *frames)
    assert not caplog.records


def test_a_client_of_somebody_elses_finds_nothing_wrong() -> None:
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    client.update_settings({SettingCodes.MAX_FRAME_SIZE: 20_000, SettingCodes.INITIAL_WINDOW_SIZE: 1_000})
    events: list[Any] = []

    def act(made: Connection, wire: Wire) -> None:
        seen = 0
        for number in range(1, 60, 2):
            client.send_headers(number, HEAD)
            client.send_data(number, message(b"x" * number), end_stream=True)
            made.data_received(client.data_to_send())
            events.extend(client.receive_data(wire.written[seen:]))
            seen = len(wire.written)

    served(act)
    assert sum(isinstance(one, TrailersReceived) for one in events) == 30
    assert not any(isinstance(one, StreamReset | ConnectionTerminated) for one in events)

"""gRPC over our own HTTP/2, asked by the client that everybody uses."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from towpath.serving.grpc_door import Context, GrpcDoor, Method
from towpath.serving.worker import listening
from towpath.settings import ServingSettings

cancelled = threading.Event()


async def echo(message: bytes, context: Context) -> bytes:
    sent = dict(context.invocation_metadata())
    if "x-back" in sent:
        await context.send_initial_metadata([("x-head", str(sent["x-back"]))])
        context.set_trailing_metadata([("x-tail-bin", b"\0\xff")])
    if "x-raw-bin" in sent:
        return bytes(sent["x-raw-bin"])  # pyright: ignore[reportArgumentType] - it is bytes by its name
    return message


async def late(message: bytes, context: Context) -> bytes:
    try:
        await asyncio.sleep(float(message))
    except asyncio.CancelledError:
        cancelled.set()
        raise
    left = context.time_remaining()
    return b"" if left is None else b"%.1f" % left


async def refuse(message: bytes, context: Context) -> bytes:
    if message:
        await asyncio.sleep(0)
    return await context.abort(grpc.StatusCode.NOT_FOUND, "grün 100 %\n", (("towpath-code", "unknown"),))


async def fail(_: bytes, __: Context) -> bytes:
    raise RuntimeError("a secret")


async def double(messages: AsyncIterator[bytes], _: Context) -> AsyncIterator[bytes]:
    async for one in messages:
        yield one * 2


async def many(messages: AsyncIterator[bytes], _: Context) -> AsyncIterator[bytes]:
    async for one in messages:
        for _number in range(int(one)):
            yield b"x" * 100_000


async def one_by_one(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    try:
        async for one in messages:
            await asyncio.sleep(0.01)
            if one == b"stop":
                await context.abort("OUT_OF_RANGE", "told so")
            yield one
    except asyncio.CancelledError:
        cancelled.set()
        raise


METHODS = {
    "/t.T/Echo": Method(echo), "/t.T/Late": Method(late), "/t.T/Refuse": Method(refuse), "/t.T/Fail": Method(fail),
    "/t.T/Double": Method(double, asks_often=True, answers_often=True), "/t.T/Many": Method(many, asks_often=True, answers_often=True),
    "/t.T/Steps": Method(one_by_one, asks_often=True, answers_often=True),
}  # fmt: skip


class Running:
    """A door in an event loop of its own thread."""

    def __init__(self, **settings: Any) -> None:
        self._settings = ServingSettings(**settings)
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._up.wait(10)

    async def _run(self) -> None:
        self.loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self.grace_s = 5.0
        self.door = GrpcDoor(METHODS, self._settings)
        listener = listening("127.0.0.1", 0, reuse=False)
        self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        await self.door.start(listener)
        self._up.set()
        await self._over.wait()
        await self.door.stop(self.grace_s)

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


@contextmanager
def running(**settings: Any) -> Iterator[Running]:
    made = Running(**settings)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def door() -> Iterator[Running]:
    with running(max_streams=8) as made:
        yield made


@pytest.fixture(scope="module")
def channel(door: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(door.address, options=[("grpc.max_receive_message_length", -1)]) as made:
        yield made


def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


@pytest.mark.parametrize("size", [0, 1, 126, 127, 16_384, 65_535, 1_048_576, 16_777_216])
def test_messages_of_any_size_come_back(channel: grpc.Channel, size: int) -> None:
    sent = bytes(size)
    assert channel.unary_unary("/t.T/Echo")(sent, timeout=30) == sent


@pytest.mark.parametrize("packing", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_caller_that_packs_gets_packed_answers(channel: grpc.Channel, packing: Any) -> None:
    sent = b"again and again " * 50_000
    answer, call = channel.unary_unary("/t.T/Echo").with_call(sent, compression=packing, timeout=10)
    assert answer == sent
    assert dict(call.initial_metadata()).get("grpc-encoding") in {"gzip", "deflate", None}  # the client may hide it


def test_metadata_goes_in_and_comes_back_before_and_after(channel: grpc.Channel) -> None:
    sent = (("x-back", "yes"), ("x-raw-bin", b"\0\1\xff" * 5))
    answer, call = channel.unary_unary("/t.T/Echo").with_call(b"", metadata=sent, timeout=10)
    assert answer == b"\0\1\xff" * 5
    assert dict(call.initial_metadata())["x-head"] == "yes"
    assert dict(call.trailing_metadata())["x-tail-bin"] == b"\0\xff"


@pytest.mark.parametrize("body", [b"", b"later"])
def test_an_aborted_call_has_its_code_its_text_and_its_metadata(channel: grpc.Channel, body: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t.T/Refuse")(body, timeout=10)
    error: Any = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "grün 100 %\n")
    assert dict(error.trailing_metadata())["towpath-code"] == "unknown"


def test_what_fails_is_told_plainly(channel: grpc.Channel) -> None:
    assert code_of(lambda: channel.unary_unary("/t.T/Fail")(b"", timeout=10)) == (
        grpc.StatusCode.UNAVAILABLE,
        "The request could not be answered.",
    )
    assert code_of(lambda: channel.unary_unary("/t.T/None")(b"", timeout=10))[0] == grpc.StatusCode.UNIMPLEMENTED
    too_much = code_of(lambda: channel.unary_unary("/t.T/Echo")(bytes(16_777_217), timeout=10))
    assert too_much == (grpc.StatusCode.RESOURCE_EXHAUSTED, "The message has more than 16,777,216 bytes.")
    bomb = bytes(40_000_000)
    packed = code_of(lambda: channel.unary_unary("/t.T/Echo")(bomb, compression=grpc.Compression.Gzip, timeout=10))
    assert packed == (grpc.StatusCode.RESOURCE_EXHAUSTED, "The message has more than 16,777,216 bytes unpacked.")


def test_a_deadline_is_known_here_and_a_caller_that_hangs_up_stops_the_work(channel: grpc.Channel) -> None:
    assert 4.5 < float(channel.unary_unary("/t.T/Late")(b"0.1", timeout=5)) <= 4.9
    assert channel.unary_unary("/t.T/Late")(b"0") == b""
    cancelled.clear()
    assert (
        code_of(lambda: channel.unary_unary("/t.T/Late")(b"30", timeout=0.05))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    )
    assert cancelled.wait(5)


def test_more_calls_at_once_than_a_connection_may_have_open_wait_at_the_caller(channel: grpc.Channel) -> None:
    late = channel.unary_unary("/t.T/Late")
    start = time.perf_counter()
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda _: late(b"0.1", timeout=20), range(24)))
    assert time.perf_counter() - start > 0.25  # 24 calls, 8 at a time


def test_streams_answer_message_for_message_whatever_their_sizes(channel: grpc.Channel) -> None:
    sent = [b"", b"a", b"b" * 70_000, b"c" * 2_000_000, b""] * 4
    assert list(channel.stream_stream("/t.T/Double")(iter(sent), timeout=30)) == [one * 2 for one in sent]
    assert list(channel.stream_stream("/t.T/Double")(iter([]), timeout=10)) == []


def test_a_slow_reader_slows_the_stream_down_and_a_slow_handler_its_caller(channel: grpc.Channel) -> None:
    # more than every window and buffer hold, read with pauses
    got = 0
    for number, message in enumerate(channel.stream_stream("/t.T/Many")(iter([b"300"]), timeout=60)):
        got += len(message)
        if number % 100 == 0:
            time.sleep(0.05)
    assert got == 300 * 100_000
    sent = [b"y" * 300_000] * 30
    assert list(channel.stream_stream("/t.T/Steps")(iter(sent), timeout=60)) == sent


def test_a_stream_that_is_aborted_or_left_ends_its_handler(channel: grpc.Channel) -> None:
    found: list[bytes] = []

    def read() -> None:
        found.extend(channel.stream_stream("/t.T/Steps")(iter([b"1", b"2", b"stop", b"3"]), timeout=10))

    assert code_of(read) == (grpc.StatusCode.OUT_OF_RANGE, "told so")
    assert found == [b"1", b"2"]
    cancelled.clear()
    hold = threading.Event()

    def forever() -> Iterator[bytes]:
        yield b"1"
        hold.wait(20)

    call: Any = channel.stream_stream("/t.T/Steps")(forever(), timeout=30)
    assert next(call) == b"1"
    call.cancel()
    assert cancelled.wait(5)
    hold.set()
    hold = threading.Event()
    assert code_of(lambda: list(channel.stream_stream("/t.T/Steps")(forever(), timeout=0.3)))[0] == (
        grpc.StatusCode.DEADLINE_EXCEEDED
    )
    hold.set()


def test_an_end_finishes_what_is_open_and_new_calls_go_elsewhere() -> None:
    with running() as made, grpc.insecure_channel(made.address) as channel:
        open_one = channel.unary_unary("/t.T/Late").future(b"0.5", timeout=10)
        while not made.door.busy:
            time.sleep(0.01)
        threading.Thread(target=made.stop).start()
        assert open_one.result() != b""
        time.sleep(0.2)
        assert code_of(lambda: channel.unary_unary("/t.T/Echo")(b"", timeout=1))[0] == grpc.StatusCode.UNAVAILABLE


def test_an_end_cuts_off_what_outlasts_the_grace() -> None:
    with running() as made, grpc.insecure_channel(made.address) as channel:
        made.grace_s = 0.2
        open_one = channel.unary_unary("/t.T/Late").future(b"30", timeout=60)
        while not made.door.busy:
            time.sleep(0.01)
        start = time.perf_counter()
        made.stop()
        assert time.perf_counter() - start < 5
        assert open_one.code() == grpc.StatusCode.UNAVAILABLE


def test_connections_beyond_the_limit_are_sent_away() -> None:
    with running(max_connections=3) as made:
        channels = [
            grpc.insecure_channel(made.address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)
        ]
        answers = []
        for channel in channels:
            try:
                answers.append(channel.unary_unary("/t.T/Echo")(b"1", timeout=2))
            except grpc.RpcError as error:
                answers.append(error.code())  # pyright: ignore[reportAttributeAccessIssue]
        assert answers[:3] == [b"1"] * 3
        assert answers[3] in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        for channel in channels:
            channel.close()

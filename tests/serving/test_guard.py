"""The guard: deadlines, threads left behind, queues."""

import asyncio
import threading
import time

from towpath.serving.guard import Call, Lane


def in_ms(milliseconds: float) -> float:
    return time.perf_counter() + milliseconds / 1000


def test_a_call_past_its_deadline_is_given_up_and_its_lane_goes_on() -> None:
    # given a model that hangs
    lane, gate = Lane("m", queue_rows=100), threading.Event()
    # when it is called with a deadline
    start = time.perf_counter()
    outcome = Call(lane, gate.wait, 1, in_ms(30)).wait()
    # then the caller goes on at the deadline, the thread is counted, and the next call is answered by a fresh one
    assert outcome.reason == "slow"
    assert time.perf_counter() - start < 5
    assert lane.abandoned == 1
    assert Call(lane, lambda: 7, 1, in_ms(5_000)).wait().value == 7
    # and when it comes back it is counted no more
    gate.set()
    until = time.perf_counter() + 5
    while lane.abandoned and time.perf_counter() < until:
        time.sleep(0.001)
    assert lane.abandoned == 0


def test_the_event_loop_goes_on_while_a_model_blocks() -> None:
    lane, gate = Lane("m", queue_rows=100), threading.Event()

    async def both() -> list[str]:
        order: list[str] = []

        async def blocked() -> None:
            order.append((await Call(lane, gate.wait, 1, in_ms(10_000)).waited()).reason)

        async def others() -> None:
            await asyncio.sleep(0)
            order.append("others")
            gate.set()

        await asyncio.gather(blocked(), others())
        return order

    assert asyncio.run(both()) == ["others", "ok"]


def test_a_deadline_in_the_event_loop_is_kept() -> None:
    lane, gate = Lane("m", queue_rows=100), threading.Event()
    assert asyncio.run(Call(lane, gate.wait, 1, in_ms(20)).waited()).reason == "slow"
    assert lane.abandoned == 1
    gate.set()


def test_an_exception_even_system_exit_is_an_outcome() -> None:
    def leave() -> None:
        raise SystemExit(3)

    outcome = Call(Lane("m", queue_rows=1), leave, 1, in_ms(5_000)).wait()
    assert outcome.reason == "wrong"
    assert isinstance(outcome.error, SystemExit)


def block(lane: Lane, gate: threading.Event) -> list[threading.Thread]:
    """Keep all four threads of a lane busy until the gate opens."""
    begun = threading.Semaphore(0)

    def hold() -> None:
        begun.release()
        gate.wait()

    threads = [threading.Thread(target=Call(lane, hold, 1, in_ms(20_000)).wait) for _ in range(4)]
    for thread in threads:
        thread.start()
        assert begun.acquire(timeout=10)
    return threads


def test_a_full_queue_refuses_at_once() -> None:
    lane, gate = Lane("m", queue_rows=10), threading.Event()
    blockers = block(lane, gate)
    waiting = threading.Thread(target=Call(lane, lambda: 1, 10, in_ms(20_000)).wait)
    waiting.start()
    until = time.perf_counter() + 5
    while lane.waiting_rows != 10 and time.perf_counter() < until:
        time.sleep(0.001)
    assert Call(lane, lambda: 1, 1, in_ms(20_000)).wait().reason == "overloaded"
    gate.set()
    for thread in [*blockers, waiting]:
        thread.join()


def test_work_that_waited_past_its_deadline_never_starts() -> None:
    lane, gate, ran = Lane("m", queue_rows=100), threading.Event(), []
    blockers = block(lane, gate)
    late = Call(lane, lambda: ran.append(1), 1, in_ms(30))
    assert late.wait().reason == "slow"
    gate.set()
    for thread in blockers:
        thread.join()
    assert Call(lane, lambda: 5, 1, in_ms(5_000)).wait().value == 5
    assert ran == []
    assert lane.abandoned == 0


def test_nobody_waits_behind_a_call_that_gave_up() -> None:
    lane, gate = Lane("m", queue_rows=10), threading.Event()
    blockers = block(lane, gate)
    assert Call(lane, lambda: 1, 10, in_ms(30)).wait().reason == "slow"
    # when its time in the line is over
    assert lane.waiting_rows == 0
    # then there is room again, for one who has more time
    late = Call(lane, lambda: 5, 10, in_ms(60_000))
    waiting = threading.Thread(target=late.wait)
    waiting.start()
    until = time.perf_counter() + 5
    while lane.waiting_rows != 10 and time.perf_counter() < until:
        time.sleep(0.001)
    gate.set()
    for thread in [*blockers, waiting]:
        thread.join()
    assert late.outcome is not None
    assert late.outcome.value == 5


def test_a_lane_whose_threads_all_hang_says_down() -> None:
    lane, gate = Lane("m", queue_rows=1_000), threading.Event()
    until = time.perf_counter() + 20
    while lane.abandoned < 8 and time.perf_counter() < until:
        assert Call(lane, gate.wait, 1, in_ms(20)).wait().reason == "slow"
    assert lane.stuck
    assert Call(lane, lambda: 1, 1, in_ms(1_000)).wait().reason == "down"
    gate.set()

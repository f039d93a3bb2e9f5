"""The line before a model: bounded, fair between consumers, and honest about what cannot be done in time."""

import threading
import time
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from towpath.serving.guard import Call, Lane, Outcome
from towpath.serving.waiting import Line


class Item(NamedTuple):
    consumer: str
    rows: int
    number: int = 0


items = st.lists(st.builds(Item, st.sampled_from("abc"), st.integers(1, 600), st.integers()), max_size=60)


@given(given_items=items)
def test_everybody_who_stood_in_line_is_taken_once_and_each_consumer_in_order(given_items: list[Item]) -> None:
    line: Line[Item] = Line(10**9)
    for item in given_items:
        line.put(item)
    taken = [line.take() for _ in given_items]
    assert len(line) == line.rows == 0
    for consumer in "abc":
        assert [i for i in taken if i.consumer == consumer] == [i for i in given_items if i.consumer == consumer]


@given(given_items=items, limit=st.integers(1, 2_000))
def test_the_line_is_never_longer_than_its_limit_but_for_one_call_alone(given_items: list[Item], limit: int) -> None:
    line: Line[Item] = Line(limit)
    for item in given_items:
        if line.room_for(item) is not None:
            line.put(item)
        assert line.rows <= limit or len(line) == 1


def test_a_flood_waits_behind_itself() -> None:
    line: Line[Item] = Line(10_000)
    for number in range(1_000):
        line.put(Item("flood", 1, number))
    line.put(Item("other", 1))
    # a turn is 256 rows
    assert [line.take().consumer for _ in range(258)].count("other") == 1
    line.put(Item("other", 1))
    assert line.ahead_of("other") < line.ahead_of("flood")


def test_a_full_line_sends_the_newest_of_the_largest_away_for_one_below_its_share() -> None:
    line: Line[Item] = Line(10)
    for number in range(10):
        line.put(Item("flood", 1, number))
    assert line.room_for(Item("flood", 1)) is None
    assert line.room_for(Item("other", 6)) is None
    assert line.room_for(Item("other", 2)) == [Item("flood", 1, 9), Item("flood", 1, 8)]


def occupied(lane: Lane, gate: threading.Event) -> list[threading.Thread]:
    """Keep all threads of a lane busy until the gate opens."""
    begun = threading.Semaphore(0)

    def hold() -> None:
        begun.release()
        gate.wait()

    threads = [threading.Thread(target=Call(lane, hold, 0, time.perf_counter() + 20).wait) for _ in range(4)]
    for thread in threads:
        thread.start()
        assert begun.acquire(timeout=10)
    return threads


def test_what_cannot_be_done_in_time_is_refused_at_once() -> None:
    # given a lane whose rows take 20 ms each, all of its threads busy, and a thousand rows that wait
    lane, gate = Lane("m", queue_rows=2_000), threading.Event()
    for _ in range(3):
        Call(lane, lambda: time.sleep(0.02), 1, time.perf_counter() + 10).wait()
    assert 0.015 < lane.row_s < 0.2
    blockers = occupied(lane, gate)
    waiting = [Call(lane, lambda: 1, 200, time.perf_counter() + 60) for _ in range(5)]
    assert [lane.put(call) for call in waiting] == [None] * 5
    # when a call has two seconds, its turn would come after five
    started = time.perf_counter()
    refused = Call(lane, lambda: 1, 1, started + 2).wait()
    assert refused.reason == "overloaded"
    assert "late" in str(refused.error)
    assert time.perf_counter() - started < 1
    # and with time enough it is let in
    patient = Call(lane, lambda: 1, 1, time.perf_counter() + 60)
    assert lane.put(patient) is None
    gate.set()
    for blocker in blockers:
        blocker.join()


def test_a_lane_that_was_slow_once_lets_the_next_call_try() -> None:
    lane = Lane("m", queue_rows=100)
    Call(lane, lambda: time.sleep(0.2), 1, time.perf_counter() + 10).wait()
    assert Call(lane, lambda: 7, 1, time.perf_counter() + 0.1).wait() == Outcome(7, "ok")


def test_a_consumer_is_answered_in_time_while_another_floods_the_model() -> None:
    # given a model of 2 ms a row, and a consumer that sends all that it can, from forty callers
    lane, stop = Lane("m", queue_rows=200), threading.Event()
    reasons: list[str] = []

    def flood() -> None:
        while not stop.is_set():
            outcome = Call(lane, lambda: time.sleep(0.02), 10, time.perf_counter() + 0.3, "flood").wait()
            reasons.append(outcome.reason)
            if outcome.reason == "overloaded":
                time.sleep(0.005)

    callers = [threading.Thread(target=flood) for _ in range(40)]
    for caller in callers:
        caller.start()
    time.sleep(0.3)
    # when another asks now and then
    mine = [Call(lane, lambda: 1, 1, time.perf_counter() + 0.3, "other").wait().reason for _ in range(20)]
    stop.set()
    for caller in callers:
        caller.join()
    # then it is answered, and the flood is told that there is too much of it
    assert mine == ["ok"] * 20
    assert "overloaded" in reasons
    assert "ok" in reasons

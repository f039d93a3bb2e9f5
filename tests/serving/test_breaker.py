"""The circuit breaker: opens, tries, closes; and is not fooled by its callers."""

import logging
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_stand import PlainModel, a_manifest, deployed, responding

from towpath.project.declarations import BreakerDeclaration, FallbackDeclaration, ServingDeclaration
from towpath.serving.breaker import Breaker
from towpath.serving.served import Served

ZERO = FallbackDeclaration(name="zero", constant=0.0)
FIVE = BreakerDeclaration(failures=5, share=0.5, window=20, pause_ms=1_000)


class Seconds:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_failures_in_a_row_and_closes_after_one_trial_that_worked() -> None:
    clock = Seconds()
    breaker = Breaker("m@1", FIVE, clock)
    for _ in range(4):
        breaker.failed("slow")
    assert breaker.lets_in()
    breaker.failed("slow")
    # open: nobody, until the pause is over; then one, and nobody beside it
    assert not breaker.lets_in()
    clock.now += 1.01
    assert [breaker.lets_in(), breaker.lets_in()] == [True, False]
    breaker.worked()
    assert breaker.state == "closed"
    assert breaker.lets_in()


def test_a_trial_that_fails_doubles_the_pause_up_to_thirty_times() -> None:
    clock = Seconds()
    breaker = Breaker("m@1", FIVE, clock)
    for _ in range(5):
        breaker.failed("slow")
    pauses: list[float] = []
    for _ in range(8):
        before = clock.now
        while not breaker.lets_in():
            clock.now += 0.25
        pauses.append(clock.now - before)
        breaker.failed("slow")
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_share_of_failures_opens_it_though_they_never_come_in_a_row() -> None:
    breaker = Breaker("m@1", FIVE)
    for _ in range(9):
        breaker.failed("slow")
        breaker.worked()
    assert breaker.state == "closed"
    breaker.failed("slow")
    assert breaker.state == "open"


@given(calls=st.lists(st.booleans(), max_size=200))
def test_it_never_opens_while_less_than_the_share_fails_and_never_so_many_in_a_row(calls: list[bool]) -> None:
    breaker = Breaker("m@1", FIVE)
    row = 0
    for place, failed in enumerate(calls):
        (breaker.failed("slow") if failed else breaker.worked())
        row = row + 1 if failed else 0
        lately = calls[max(0, place - 19) : place + 1]
        if row >= 5 or sum(lately) >= 10:
            return  # may be open, and is
        assert breaker.state == "closed"


def test_a_trial_that_never_comes_back_is_not_the_last_one() -> None:
    clock = Seconds()
    breaker = Breaker("m@1", FIVE, clock)
    for _ in range(5):
        breaker.failed("slow")
    clock.now += 1.01
    assert breaker.lets_in()
    clock.now += 1.01
    assert breaker.lets_in()


def test_each_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Seconds()
    breaker = Breaker("m@1", FIVE, clock)
    with caplog.at_level(logging.INFO, "towpath.serving"):
        for _ in range(9):
            breaker.failed("slow")
        clock.now += 1.01
        breaker.lets_in()
        breaker.worked()
        breaker.worked()
    said = [record.message.split(" (")[0] for record in caplog.records]
    assert said == [
        "m@1: circuit open, its fallback answers",
        "m@1: circuit trying, one call is tried",
        "m@1: circuit closed, it answers again",
    ]
    assert breaker.changes == 3


def test_a_version_that_fails_its_golden_cases_answers_nobody_until_it_passes_them() -> None:
    breaker = Breaker("m@1", FIVE)
    breaker.proven(passed=False, why="a case")
    assert not breaker.lets_in()
    breaker.came_of(answered=True, why="")
    breaker.worked()
    assert breaker.state == "unproven"
    breaker.proven(passed=True)
    assert breaker.lets_in()


class Moody:
    """A model that raises for negative ``a``, and for everything while it is broken."""

    def __init__(self) -> None:
        self.broken = False
        self.calls = 0

    def __call__(self, columns: Any) -> dict[str, Any]:
        self.calls += 1
        if self.broken or (columns["a"] < 0).any():
            raise ValueError("no")
        return {"prediction": columns["a"] + columns["b"]}


def eventually(check: Any, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("inline", [True, False])
def test_inputs_that_no_model_could_take_do_not_open_it_and_a_broken_model_does(inline: bool) -> None:
    # given a version that answered once
    moody = Moody()
    serving = ServingDeclaration(timeout_ms=5_000, breaker=BreakerDeclaration(failures=3, pause_ms=50))
    served = Served(a_manifest(serving=serving, fallback=(ZERO,)), PlainModel(predict=moody, inline=inline))
    responder, _ = responding(deployed(served))
    assert responder.answer("demand", [{"a": 1.0, "b": 1.0}]).predictions[0].source == "champion"
    # when a caller keeps sending what it cannot take
    for _ in range(20):
        row = responder.answer("demand", [{"a": -1.0, "b": 1.0}]).predictions[0]
        assert (row.source, row.reason) == ("fallback:zero", "wrong")
        eventually(lambda: served._asking is None)
    # then others are answered by it as before
    assert served.breaker.state == "closed"
    assert responder.answer("demand", [{"a": 1.0, "b": 1.0}]).predictions[0].source == "champion"
    # and when it breaks for everybody, it is left alone
    moody.broken = True
    for _ in range(20):
        responder.answer("demand", [{"a": 1.0, "b": 1.0}])
        eventually(lambda: served._asking is None)
        if served.breaker.state == "open":
            break
    calls = moody.calls
    row = responder.answer("demand", [{"a": 1.0, "b": 1.0}]).predictions[0]
    assert (row.source, row.reason, moody.calls) == ("fallback:zero", "down", calls)
    # and healed, it is found by a trial
    moody.broken = False
    eventually(lambda: responder.answer("demand", [{"a": 1.0, "b": 1.0}]).predictions[0].source == "champion")
    assert served.breaker.state == "closed"


def test_a_hanging_model_is_left_alone_so_that_its_callers_wait_no_more() -> None:
    # given a version that answers, and then hangs
    gate, hangs = threading.Event(), threading.Event()

    def predict(columns: Any) -> dict[str, Any]:
        if hangs.is_set():
            gate.wait(20)
        return {"prediction": columns["a"]}

    serving = ServingDeclaration(timeout_ms=60, breaker=BreakerDeclaration(failures=2, pause_ms=60_000))
    served = Served(a_manifest(serving=serving, fallback=(ZERO,)), PlainModel(predict=predict, inline=False))
    responder, _ = responding(deployed(served))
    responder.answer("demand", [{"a": 1.0, "b": 1.0}])
    hangs.set()
    reasons = [responder.answer("demand", [{"a": 1.0, "b": 1.0}]).predictions[0].reason for _ in range(6)]
    # then after a few callers have waited, nobody does
    assert reasons[0] == "slow"
    assert reasons[-1] == "down"
    assert served.breaker.state == "open"
    assert served.lane.abandoned <= 6
    gate.set()


def test_a_caller_in_a_hurry_does_not_open_it() -> None:
    def predict(columns: Any) -> dict[str, Any]:
        time.sleep(0.02)
        return {"prediction": columns["a"]}

    serving = ServingDeclaration(timeout_ms=5_000, breaker=BreakerDeclaration(failures=1))
    served = Served(a_manifest(serving=serving, fallback=(ZERO,)), PlainModel(predict=predict, inline=False))
    responder, _ = responding(deployed(served))
    for _ in range(3):
        hurried = responder.answer("demand", [{"a": 1.0, "b": 1.0}], timeout_s=0.004).predictions[0]
        assert hurried.reason in {"slow", "overloaded"}
    assert served.breaker.state == "closed"
    assert np.isclose(responder.answer("demand", [{"a": 1.0, "b": 1.0}]).predictions[0].prediction, 1.0)

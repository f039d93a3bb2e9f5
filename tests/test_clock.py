"""Clocks tell aware UTC times; a scaled one is a pure function of the machine's time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.clock import FixedClock, ScaledClock, SteppedClock, SystemClock
from towpath.errors import InputError

START = datetime(2026, 3, 1, tzinfo=UTC)


def test_the_system_clock_is_aware_and_does_not_stand_still() -> None:
    clock = SystemClock()
    first = clock.now()
    while clock.now() == first:
        pass
    assert clock.now() > first
    assert first.tzinfo is UTC


def test_a_fixed_clock_stands_still_and_takes_text() -> None:
    clock = FixedClock("2011-09-01T01:00+01:00")
    assert clock.now() == clock.now() == datetime(2011, 9, 1, tzinfo=UTC)


@given(speed=st.floats(0.5, 1e6), ahead=st.integers(-86_400, 86_400))
def test_two_scaled_clocks_of_one_origin_agree(speed: float, ahead: int) -> None:
    # given the same origin in two processes
    real = SystemClock().now() + timedelta(seconds=ahead)
    one, two = ScaledClock(START, real, speed), ScaledClock(START, real, speed)
    # when both are read one after the other
    first, second, third = one.now(), two.now(), one.now()
    # then the second lies between two readings of the first
    assert first <= second <= third


def test_a_scaled_clock_runs_at_its_speed() -> None:
    real = SystemClock().now() - timedelta(seconds=10)
    shown = ScaledClock(START, real, 8_640).now() - START
    assert timedelta(days=1) <= shown < timedelta(days=2)


@pytest.mark.parametrize("start", [datetime(2026, 3, 1), START])
def test_a_naive_origin_is_utc(start: datetime) -> None:
    assert ScaledClock(start, SystemClock().now(), 1).now() - START < timedelta(minutes=1)


def test_a_clock_file_that_somebody_wrote_by_hand_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("2011-09-01T00:30:00+00:00")
    with pytest.raises(InputError, match="says no time"):
        SteppedClock(tmp_path / "clock").now()

"""A cron line that would never be due, or be due by mistake, is told at once."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.project.cron import cron_fault, cron_times


@given(st.integers(0, 59), st.integers(0, 23), st.integers(1, 31), st.integers(1, 12), st.integers(0, 7))
def test_every_moment_within_bounds_can_be_written(minute: int, hour: int, day: int, month: int, weekday: int) -> None:
    assert cron_fault(f"{minute} {hour} {day} {month} {weekday}") == ""


@given(st.text(max_size=30))
def test_no_text_breaks_it(line: str) -> None:
    assert isinstance(cron_fault(line), str)


@pytest.mark.parametrize(
    "line", ["* * * * *", "*/15 0-6,22 1 jan-mar mon,WED", "0 5 * * 1-5/2", "@daily", " 0  5 * * sun "]
)
def test_the_usual_forms_are_fine(line: str) -> None:
    assert cron_fault(line) == ""


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0 5 * *", "4 fields where five are needed"),
        ("60 5 * * *", "minute 60 is not within 0 to 59"),
        ("0 5 0 * *", "day 0 is not within 1 to 31"),
        ("0 5 * foo *", "month foo is not within 1 to 12"),
        ("*/0 * * * *", "minute '*/0' has a step of 0"),
        ("0 9-5 * * *", "hour '9-5' runs backwards"),
        ("0 5 * * mon,,tue", "weekday '' cannot be read"),
        ("@dayly", "there is no '@dayly'"),
    ],
)
def test_a_fault_is_said(line: str, fault: str) -> None:
    assert cron_fault(line) == fault


@pytest.mark.parametrize(
    ("line", "times"),
    [
        ("0 5 * * *", ["Sun 05:00", "Mon 05:00", "Tue 05:00"]),
        ("30 */8 * * mon", ["Mon 00:30", "Mon 08:30", "Mon 16:30"]),
        ("5,50 7-8 3 * *", ["Tue 07:05", "Tue 07:50", "Tue 08:05", "Tue 08:50"]),
        ("0 0 2 * sun", ["Sun 00:00", "Mon 00:00"]),  # either of day and weekday is enough
        ("@daily", ["Sun 00:00", "Mon 00:00", "Tue 00:00"]),
        ("0 0 * * 7", ["Sun 00:00"]),
        ("0 20/2 2 3 *", ["Mon 20:00", "Mon 22:00"]),
        ("0 0 1 4 *", []),
    ],
)
def test_a_line_is_due_when_cron_would_run_it(line: str, times: list[str]) -> None:
    assert cron_fault(line) == ""
    found = cron_times(line, datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 4, tzinfo=UTC))
    assert [f"{at:%a %H:%M}" for at in found] == times

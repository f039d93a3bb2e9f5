"""A cron line that would never be due, or be due by mistake, is told at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.project.cron import cron_fault


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

"""Durations, times and names are read one way and written the same way."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath import types
from towpath.errors import InputError
from towpath.types import Name, duration, duration_text, micros, model_and_version, utc

times = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29))
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.timedeltas(timedelta(0), timedelta(days=36_525)))
def test_a_duration_is_read_back_as_it_was_written(value: timedelta) -> None:
    assert duration(duration_text(value)) == value


@given(st.integers(0, 1_000), st.sampled_from(["us", "ms", "s", "m", "h", "d", "w"]))
def test_a_duration_is_its_number_times_its_unit(number: int, unit: str) -> None:
    assert duration(f"{number}{unit}") == number * duration(f"1{unit}")


@pytest.mark.parametrize(
    "text", ["", "30", "d", "-1d", "1 day", "1d2h", "1e3s", "1.d", ".5s", "\u0661d", "inf d", "1D", "nan s"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(InputError, match="is no duration"):
        duration(text)


def test_a_duration_is_at_most_a_hundred_years() -> None:
    assert duration("36525d") == timedelta(days=36_525)
    with pytest.raises(InputError, match="longer than 100 years"):
        duration("36526d")
    with pytest.raises(InputError, match="longer than 100 years"):
        duration("9" * 400 + "w")


@given(times, zones)
def test_utc_keeps_the_instant_and_is_idempotent(value: datetime, zone: timezone) -> None:
    aware = value.replace(tzinfo=zone)
    assert utc(aware) == aware
    assert utc(utc(aware)) == utc(aware)
    assert utc(aware).tzinfo is UTC
    assert utc(aware.isoformat()) == aware


@given(times)
def test_a_naive_time_is_utc_already(value: datetime) -> None:
    assert utc(value) == value.replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "2011-13-01", "2011-09-01T25:00", "2011-02-30"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no time"):
        utc(text)


@given(st.integers(-(2**50), 2**50))
def test_micros_count_from_1970_exactly(count: int) -> None:
    assert micros(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=count)) == count


@given(st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True), st.none() | st.integers(1, 999_999))
def test_a_model_with_or_without_a_version_is_read(name: str, version: int | None) -> None:
    assert model_and_version(name if version is None else f"{name}@{version}") == (name, version)


@pytest.mark.parametrize(
    "text",
    ["", "Demand", "demand@", "demand@x", "demand@-1", "1demand", "a/b", "demand@1234567", "demand\n", "demand@0"],
)
def test_what_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="names no model"):
        model_and_version(text)


@pytest.mark.parametrize("text", ["", "A", "1a", "a-b", "a" * 64, "a b", "a\n", "é"])
def test_a_name_is_lower_case_letters_digits_and_underscores(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Name)


def test_reasons_are_listed_once_each() -> None:
    assert len(set(types.REASONS)) == len(types.REASONS) == 8

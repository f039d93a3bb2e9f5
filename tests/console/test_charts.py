"""Charts: every value stands where its day and its number put it, and nothing leaves the drawing."""

import re
import xml.etree.ElementTree as ET
from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.console.charts import bar, lines

MONDAY = date(2026, 2, 2)
values = st.one_of(st.none(), st.just(float("nan")), st.floats(-1e9, 1e9))


def week(*offsets: int) -> list[date]:
    return [MONDAY + timedelta(days=offset) for offset in offsets]


def drawn(text: str) -> ET.Element:
    return ET.fromstring(text)


def polylines(text: str) -> list[list[tuple[float, float]]]:
    found = [line.get("points", "") for line in drawn(text).iter("polyline")]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in points.split())] for points in found]


@given(st.lists(values, min_size=1, max_size=40), st.booleans())
def test_no_point_and_no_label_leaves_the_drawing(series: list[float | None], narrow: bool) -> None:
    text = lines(week(*range(len(series))), {"model": series}, title="WAPE", narrow=narrow)
    if not text:
        return
    _, _, width, height = (float(part) for part in drawn(text).get("viewBox", "").split())
    for line in polylines(text):
        assert all(0 <= x <= width and 0 <= y <= height for x, y in line)
    for label in drawn(text).iter("text"):
        assert 0 <= float(label.get("x", "nan")) <= width
        assert 0 <= float(label.get("y", "nan")) <= height


@given(st.lists(st.floats(0.001, 1e6), min_size=2, max_size=30))
def test_a_larger_value_stands_no_lower(series: list[float]) -> None:
    (line,) = polylines(lines(week(*range(len(series))), {"model": series}, title="WAPE"))
    for (_, y), value in zip(line, series, strict=True):
        for (_, other_y), other in zip(line, series, strict=True):
            assert value <= other or y <= other_y


def test_nothing_known_draws_nothing() -> None:
    assert lines(week(0, 1), {"model": [None, float("nan")]}, title="WAPE") == ""
    assert lines([], {"model": []}, title="WAPE") == ""


def test_a_missing_value_breaks_the_line() -> None:
    text = lines(week(0, 1, 2, 3, 4), {"model": [0.2, 0.3, None, 0.2, 0.1]}, title="WAPE")
    assert [len(line) for line in polylines(text)] == [2, 2]


def test_a_long_gap_breaks_the_line_and_takes_its_room() -> None:
    text = lines(week(0, 1, 2, 12, 13), {"model": [0.2, 0.3, 0.2, 0.2, 0.1]}, title="WAPE")
    first, second = polylines(text)
    assert (len(first), len(second)) == (3, 2)
    assert second[0][0] - first[-1][0] == pytest.approx(10 * (first[1][0] - first[0][0]), abs=1)


def test_a_model_that_answers_weekly_has_an_unbroken_line() -> None:
    assert len(polylines(lines(week(0, 7, 14, 21), {"model": [0.2, 0.3, 0.2, 0.2]}, title="WAPE"))) == 1


def test_a_single_day_is_a_dot() -> None:
    assert len(list(drawn(lines(week(0), {"model": [0.2]}, title="WAPE")).iter("circle"))) == 1


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("days", [1, 7, 60, 400])
def test_dates_under_the_axis_do_not_touch(days: int, narrow: bool) -> None:
    text = lines(week(*range(days)), {"model": [0.2] * days}, title="WAPE", narrow=narrow)
    labels = [t for t in drawn(text).iter("text") if t.get("text-anchor") == "middle"]
    places = [float(label.get("x", "nan")) for label in labels]
    assert places
    assert all(after - before >= 60 for before, after in pairwise(places))


def test_names_are_escaped_and_read_aloud() -> None:
    text = lines(week(0), {"<b>": [0.2]}, title="a < b & c")
    assert "<b>" not in text
    assert drawn(text).findtext("title") == "a < b & c"


def test_the_axis_begins_at_zero_and_has_round_steps() -> None:
    text = lines(week(0, 1), {"model": [0.13, 0.17]}, title="WAPE", unit="%")
    ticks = [t.text for t in drawn(text).iter("text") if t.get("text-anchor") == "end"]
    assert ticks == ["0%", "0.05%", "0.1%", "0.15%", "0.2%"]


@given(st.floats(-5, 5))
def test_a_bar_is_never_longer_than_whole(share: float) -> None:
    width = float(re.findall(r'rect width="([0-9.]+)"', bar(share))[0])
    assert width == pytest.approx(100 * min(1, max(0, share)), abs=0.06)

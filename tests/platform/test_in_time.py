"""``tow check`` warns where rows land after the hour at which a model predicts, from schedules and what builds saw."""

from collections.abc import Callable
from pathlib import Path

import pytest

from towpath.clock import FixedClock
from towpath.platform import Platform
from towpath.platform.in_time import late_views, observed
from towpath.platform.remembered import LandingDay
from towpath.project import Answers, init

Late = Callable[..., list[str]]


@pytest.fixture
def late(tmp_path: Path) -> Late:
    """The warnings of a shop whose rows land at 02:00, for an hour of prediction."""
    folder = tmp_path / "shop"
    init(folder, Answers(name="shop", team="fresh"), clock=FixedClock("2026-03-02"))

    def warned(
        predict: str, *, built: bool = True, header: str = "", created: bool = True, sources: str = ""
    ) -> list[str]:
        model, view = folder / "models/demand/model.toml", folder / "features/item_sales.sql"
        model.write_text(model.read_text("utf-8").replace('predict = "0 6 * * *"', f'predict = "{predict}"'), "utf-8")
        text = view.read_text("utf-8").replace('ttl = "3d"', f'ttl = "3d"\n{header}')
        view.write_text(text if created else text.replace("created_time", "# created_time", 1), "utf-8")
        (folder / "sources.toml").write_text(sources, "utf-8")
        with Platform.open(folder, clock=FixedClock("2026-03-02T07:00"), variables={}) as platform:
            if built:
                platform.features.build()
            return [str(one) for one in late_views(platform)]

    return warned


def test_rows_that_land_before_the_prediction_are_in_time(late: Late) -> None:
    assert late("0 6 * * *") == []


def test_rows_that_land_after_the_prediction_are_a_warning_with_the_line_and_a_better_hour(late: Late) -> None:
    assert late("30 1 * * *") == [
        (
            "models/demand/model.toml:38: warning: 'demand' predicts at 01:30 UTC, and rows of view 'item_sales' up to 00:00 "
            "land only by 02:00 (as builds saw on 1 day): it reads those of the time before; "
            'predict after 02:00, such as "10 2 * * *"'
        )
    ]


def test_a_prediction_in_the_evening_before_is_not_late_for_a_batch_that_is_not_closed_yet(late: Late) -> None:
    assert late("0 23 * * *") == []


def test_a_build_that_comes_after_the_prediction_is_a_warning(late: Late) -> None:
    (one,) = late("0 3 * * *", header='schedule = "15 5 * * *"')
    assert "land only by 02:00 (as builds saw on 1 day) and are built at 05:15 (its schedule)" in one


def test_a_build_each_hour_is_in_time_soon_after_the_landing(late: Late) -> None:
    assert late("0 3 * * *", header='schedule = "5 * * * *"') == []


def test_before_the_first_build_the_schedules_alone_are_known(late: Late) -> None:
    assert late("30 1 * * *", built=False) == []
    (one,) = late("30 1 * * *", built=False, header='schedule = "15 5 * * *"')
    assert "up to 00:00 are built at 05:15 (its schedule)" in one


def test_a_view_that_does_not_say_when_rows_land_is_told_by_its_source(late: Late) -> None:
    text = '["shop.sales"]\nlands = "10 6 * * *"\n'
    (one,) = late("0 5 * * *", created=False, sources=text)
    assert "land only by 06:10 (sources.toml, 'shop.sales')" in one


def _day(number: int, first: int, last: int, delay: int = 365) -> LandingDay:
    return LandingDay(day=f"2026-03-{number:02}", first_minute=first, last_minute=last, delay_minutes=delay, rows=9)


def test_one_late_day_of_ten_does_not_move_the_hour_and_a_stream_has_none() -> None:
    steady = [_day(i, 350, 370) for i in range(1, 10)]
    found = observed([*steady, _day(10, 900, 1000)])
    assert found is not None
    assert found.landed.total_seconds() == 370 * 60
    assert observed([_day(i, 10, 1400) for i in range(1, 10)]) is None
    assert observed([]) is None

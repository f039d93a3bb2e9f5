"""The simulated shop: what is promised of its truth, its faults and its growth day by day."""

import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.demo.shop import OPENED, Shop, append, open_shop
from towpath.errors import InputError

SMALL = open_shop(np.random.default_rng(3), items=10)


@settings(max_examples=20, deadline=None)
@given(first=st.integers(0, 200), length=st.integers(0, 30), cut=st.integers(0, 30))
def test_days_made_in_two_goes_are_the_days_made_in_one(first: int, length: int, cut: int) -> None:
    since = OPENED + timedelta(days=first)
    middle, until = since + timedelta(days=min(cut, length)), since + timedelta(days=length)
    whole = SMALL.days(since, until)
    parts = [SMALL.days(since, middle), SMALL.days(middle, until)]
    for table, columns in whole.items():
        for name, values in columns.items():
            assert np.array_equal(np.concatenate([part[table][name] for part in parts]), values), (table, name)


@settings(max_examples=20, deadline=None)
@given(first=st.integers(0, 400))
def test_nobody_buys_more_than_there_is_and_sold_out_says_when_more_was_wanted(first: int) -> None:
    day = SMALL.days(OPENED + timedelta(days=first), OPENED + timedelta(days=first + 7))
    sales, truth = day["sales"], day["truth"]
    assert (sales["units"] == np.minimum(truth["wanted_units"], sales["units_stocked"])).all()
    assert (sales["sold_out"] == (truth["wanted_units"] >= sales["units_stocked"])).all()
    assert (day["waste"]["units_wasted"] + sales["units"] <= sales["units_stocked"]).all()


def test_the_seed_decides_everything() -> None:
    same = open_shop(np.random.default_rng(3), items=10)
    other = open_shop(np.random.default_rng(4), items=10)
    week = (date(2025, 5, 1), date(2025, 5, 8))
    assert np.array_equal(same.days(*week)["sales"]["units"], SMALL.days(*week)["sales"]["units"])
    assert not np.array_equal(other.days(*week)["sales"]["units"], SMALL.days(*week)["sales"]["units"])


def test_what_was_wanted_is_the_expected_demand_on_average(shop: Shop) -> None:
    truth = shop.days(date(2025, 1, 1), date(2026, 1, 1))["truth"]
    assert truth["wanted_units"].sum() == pytest.approx(truth["expected_units"].sum(), rel=0.01)


def test_shelves_hide_some_demand_and_leave_some_waste(shop: Shop) -> None:
    day = shop.days(date(2025, 1, 1), date(2026, 1, 1))
    sold, wanted = day["sales"]["units"].sum(), day["truth"]["wanted_units"].sum()
    assert 0.02 < 1 - sold / wanted < 0.2
    assert 0.05 < day["waste"]["units_wasted"].sum() / sold < 0.4


def test_a_promotion_lifts_demand_and_a_saturday_beats_a_sunday(shop: Shop) -> None:
    day = shop.days(date(2025, 1, 1), date(2026, 1, 1))
    price, truth = day["prices"], day["truth"]
    promoted = price["price_eur"] < price["list_price_eur"] * 0.95
    usual = np.array([shop.traits["mean_units"][int(i) - 10_001] for i in truth["item_id"]])
    lift = truth["expected_units"] / usual
    assert lift[promoted].mean() > 1.5 * lift[~promoted].mean()
    weekday = (truth["day"].astype(np.int64) + 3) % 7
    assert lift[weekday == 5].mean() > 1.5 * lift[weekday == 6].mean()


def test_new_items_have_no_row_before_the_day_they_are_listed() -> None:
    shop = open_shop(np.random.default_rng(3), items=5, new_items=2, new_on=date(2025, 3, 3))
    sales = shop.days(date(2025, 3, 1), date(2025, 3, 5))["sales"]
    counts = [
        int((sales["day"] == np.datetime64(d)).sum()) for d in ("2025-03-01", "2025-03-02", "2025-03-03", "2025-03-04")
    ]
    assert counts == [5, 5, 7, 7]


def test_a_price_list_in_cents_is_a_hundredfold_on_that_day_alone() -> None:
    span = (date(2025, 3, 1), date(2025, 3, 4))
    right = SMALL.days(*span)["prices"]
    wrong = SMALL.days(*span, cents_on=frozenset({date(2025, 3, 2)}))["prices"]
    ratio = (wrong["price_eur"] / right["price_eur"]).reshape(3, -1)
    assert ratio[1] == pytest.approx(100, rel=0.02)
    assert (ratio[[0, 2]] == 1).all()


def test_days_before_the_opening_are_refused() -> None:
    with pytest.raises(InputError, match="no days from 2024-12-31"):
        SMALL.days(date(2024, 12, 31), date(2025, 1, 2))


def test_appending_day_by_day_and_again_gives_the_files_of_one_go(tmp_path: Path) -> None:
    # given one shop written at once, and one that grew day by day with a day written twice
    since, until = date(2025, 3, 1), date(2025, 3, 8)
    append(tmp_path / "once", SMALL, since, until)
    for day in range(7):
        append(tmp_path / "grown", SMALL, since + timedelta(days=day), since + timedelta(days=day + 1))
    append(tmp_path / "grown", SMALL, since + timedelta(days=3), since + timedelta(days=4))
    # then the rows are the same, and the plans reach as far
    for name in ("sales", "prices", "waste", "items"):
        once, grown = (pq.read_table(tmp_path / go / f"{name}.parquet") for go in ("once", "grown"))
        order = [(column, "ascending") for column in once.column_names if column in {"item_id", "day", "valid_from"}]
        assert once.sort_by(order).equals(grown.sort_by(order)), name
    assert pq.read_table(tmp_path / "once" / "calendar.parquet")["day"].to_pylist()[-1] == until + timedelta(days=27)
    assert not list(tmp_path.rglob("*.half"))


def test_mending_a_day_replaces_its_price_list(tmp_path: Path) -> None:
    day = date(2025, 3, 5)
    append(tmp_path, SMALL, day, day + timedelta(days=1), cents_on=frozenset({day}))
    wrong = pq.read_table(tmp_path / "prices.parquet")["price_eur"].to_numpy()
    append(tmp_path, SMALL, day, day + timedelta(days=1))
    mended = pq.read_table(tmp_path / "prices.parquet")
    assert len(mended) == len(wrong) == 10
    assert mended["price_eur"].to_numpy() == pytest.approx(wrong / 100, abs=0.01)


def test_rows_land_after_the_day_and_a_few_a_day_late(shop: Shop) -> None:
    sales = shop.days(date(2025, 1, 1), date(2025, 12, 1))["sales"]
    hours = (sales["landed_at"] - sales["day_end"]) / np.timedelta64(1, "h")
    assert hours.min() >= 2
    assert 0.001 < (hours > 6).mean() < 0.006


def test_a_year_of_120_items_takes_less_than_a_second_of_processor_time() -> None:
    started = time.process_time()
    open_shop(np.random.default_rng(7)).days(date(2025, 1, 1), date(2026, 2, 5))
    assert time.process_time() - started < 1


def test_times_are_stored_as_utc_microseconds(demo: Path) -> None:
    table = pq.read_table(demo / "warehouse" / "shop" / "sales.parquet")
    assert str(table.schema.field("landed_at").type) == "timestamp[us, tz=UTC]"
    assert table["day_end"][0].as_py() == datetime(2025, 3, 11, tzinfo=UTC)

"""The hotel example on the real file: what it may not know is not there, and three weeks of bookings lived day by day until all are decided."""

import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sqlglot import exp

from towpath import project
from towpath.demo.files import write_project
from towpath.platform import Platform
from towpath.project import Project
from towpath.stats.difference import ratio_difference
from towpath.warehouse import Warehouse, open_warehouse

FOLDER = Path(__file__).parents[2] / "examples" / "hotel"
BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)
AS_OF = datetime(2016, 10, 3, tzinfo=UTC)
ALL_DECIDED = datetime(2017, 9, 16, tzinfo=UTC)
LISBON = ZoneInfo("Europe/Lisbon")
NIGHTS = 21
AFTER_THE_FACT = {
    "country", "deposit_type", "booking_changes", "assigned_room_type", "required_car_parking_spaces",
    "total_of_special_requests", "days_in_waiting_list", "is_canceled", "reservation_status", "reservation_status_date",
}  # fmt: skip
"""Columns that the file has as of the arrival or the cancellation."""


@pytest.fixture(scope="module")
def file(data_folder: Path) -> Path:
    found = data_folder / "hotel-bookings" / "bookings.parquet"
    if not found.exists():
        pytest.skip(f"hotel-bookings is missing in '{data_folder}' (examples/hotel/README.md says how to get it)")
    return found


@pytest.fixture(scope="module")
def hotel() -> Project:
    return project.read(FOLDER, {})


@pytest.fixture(scope="module")
def warehouse(hotel: Project, file: Path) -> Warehouse:
    return open_warehouse(hotel.settings.warehouse, FOLDER, {"TOWPATH_DATA": str(file.parents[1])})


@pytest.fixture(scope="module")
def bookings(file: Path) -> Any:
    """The file with its dates worked out by pandas, days as numbers since 1970."""
    found = pq.read_table(file).to_pandas()
    text = (
        found.arrival_date_year.astype(str)
        + " "
        + found.arrival_date_month
        + " "
        + found.arrival_date_day_of_month.astype(str)
    )
    arrival = pd.to_datetime(text, format="%Y %B %d").to_numpy().astype("datetime64[D]").astype(int)
    return found.assign(
        arrival=arrival,
        booked=arrival - found.lead_time,
        leaves=arrival + found.stays_in_weekend_nights + found.stays_in_week_nights,
        decided=pd.to_datetime(found.reservation_status_date).to_numpy().astype("datetime64[D]").astype(int),
    )


@pytest.fixture(scope="module")
def spine(hotel: Project, warehouse: Warehouse) -> pa.Table:
    """As of 2016-10-03."""
    return warehouse.read(hotel.models["cancellation"].training.query, {"as_of": AS_OF, "since": BEGINNING})


@pytest.fixture(scope="module")
def trained_on(file: Path, spine: pa.Table) -> pa.Table:
    """The training set of that moment."""
    with Platform.open(FOLDER, variables={"TOWPATH_DATA": str(file.parents[1])}) as opened:
        features = opened.project.models["cancellation"].declaration.features
        return opened.at(AS_OF).features.training_set(spine, features, keys=["booking_id"], time="booked_at")


def test_the_example_has_no_problem() -> None:
    assert project.problems(FOLDER) == []


def test_there_is_a_row_for_each_booking_made_since_july_2015_on_a_day_that_is_over(
    spine: pa.Table, bookings: Any
) -> None:
    made = bookings[(bookings.booked >= _day(date(2015, 7, 1))) & (bookings.booked < _day(AS_OF.date()) - 0)]
    # summer time in Lisbon: 2016-10-02 ended at 23:00 UTC
    assert sorted(spine["booking_id"].to_pylist()) == (made.index + 1).tolist()
    assert max(spine["booked_at"].to_pylist()) == datetime(2016, 10, 1, 23, tzinfo=UTC)


def test_by_the_end_of_the_planned_stay_every_booking_is_decided(bookings: Any) -> None:
    assert (bookings.decided <= bookings.leaves).all()


def test_training_uses_no_label_that_was_not_known_by_then(spine: pa.Table, bookings: Any) -> None:
    rows = bookings.loc[spine["booking_id"].to_numpy() - 1]
    known = spine["is_canceled"].is_valid().to_numpy()
    today = _day(AS_OF.date())
    assert (rows.leaves < today).to_numpy()[known].all()
    assert (rows.decided < today).to_numpy()[known].all()
    # and of those that were decided some wait all the same: the cancellations of stays that are still to come
    waiting = rows[(rows.decided < today).to_numpy() & ~known]
    assert len(waiting) > 1_000
    assert waiting.is_canceled.mean() > 0.9
    assert spine["is_canceled"].to_numpy()[known].tolist() == rows.is_canceled[known].tolist()


def test_the_decided_bookings_of_a_quarter_are_no_sample_of_it(bookings: Any) -> None:
    # the numbers of README.md: why a label counts from the end of the planned stay
    today = _day(AS_OF.date())
    quarter = bookings[(bookings.booked >= today - 91) & (bookings.booked < today)]
    assert quarter.is_canceled.mean() == pytest.approx(0.353, abs=0.001)
    assert quarter[quarter.decided < today].is_canceled.mean() == pytest.approx(0.433, abs=0.001)


def test_no_feature_is_read_from_what_is_known_after_the_booking(hotel: Project) -> None:
    read = {
        name: {column.name for column in view.query.tree.find_all(exp.Column)} for name, view in hotel.views.items()
    }
    assert not read["bookings"] & AFTER_THE_FACT
    for name in ("on_the_books", "segment_history", "agent_history"):  # of other bookings, and when they were decided
        assert read[name] & AFTER_THE_FACT <= {"is_canceled", "reservation_status_date"}, name
        assert "reservation_status" not in read[name]


def test_the_features_are_what_a_person_would_count_who_knew_no_more(trained_on: pa.Table, bookings: Any) -> None:
    # given some hundred bookings by chance, and the file as it stood on the morning of each
    chance = np.random.default_rng(7)
    places = np.sort(chance.choice(trained_on.num_rows, 300, replace=False))
    for row in trained_on.take(places).to_pylist():
        own = bookings.loc[row["booking_id"] - 1]
        today = own.booked
        # then how full the day is, is what stood in the books last night
        same = bookings[(bookings.hotel == own.hotel) & (bookings.arrival == own.arrival) & (bookings.booked < today)]
        gone = same[(same.is_canceled == 1) & (same.decided < today)]
        assert _same(row["on_the_books.rooms"], len(same) - len(gone) if len(same) else None), row["booking_id"]
        assert _same(row["on_the_books.cancelled_share"], len(gone) / len(same) if len(same) else None)
        # the segment's share is of stays that were over, up to the newest day on which one ended within 60 days
        segment = bookings[(bookings.hotel == own.hotel) & (bookings.market_segment == own.market_segment)]
        over = segment[segment.leaves < today]
        last = over.leaves.max()
        year = over[over.leaves > last - 365] if len(over) and last + 1 >= today - 60 else over[:0]
        assert _same(row["segment_history.cancelled_share_365d"], year.is_canceled.mean() if len(year) else None)
        # and the agent's is of the newest arrivals of whom all had left or cancelled
        year = _decided_year(bookings[(bookings.agent == own.agent) & (bookings.arrival < today)], today)
        assert _same(row["agent_history.bookings_365d"], len(year) or None), row["booking_id"]
        assert _same(row["agent_history.cancelled_share_365d"], year.is_canceled.mean() if len(year) else None)


def test_without_the_landing_time_the_agents_history_would_tell_the_future(
    file: Path, spine: pa.Table, trained_on: pa.Table
) -> None:
    name = "agent_history.cancelled_share_365d"
    with Platform.open(FOLDER, variables={"TOWPATH_DATA": str(file.parents[1])}) as opened:
        told = opened.features.training_set(spine, [name], keys=["booking_id"], time="booked_at", as_of="event")
    known, leaked = (table[name].to_numpy() for table in (trained_on, told))
    both = ~np.isnan(known) & ~np.isnan(leaked)
    assert (known[both] != leaked[both]).mean() > 0.2


def test_a_file_that_knows_nothing_after_a_moment_gives_the_same_rows_and_features(
    file: Path, bookings: Any, trained_on: pa.Table, tmp_path: Path
) -> None:
    # given the file as it was that morning: later bookings blank (a row keeps its place, which is its number), and later fates unknown
    today = _day(AS_OF.date())
    table = pq.read_table(file)
    later, open_still = ((bookings[name] >= today).to_numpy() for name in ("booked", "decided"))
    for at, name in enumerate(table.column_names):
        fate = name in {"is_canceled", "reservation_status", "reservation_status_date"}
        blank = pa.array(later | open_still if fate else later)
        nothing = pa.scalar(None, table[name].type)
        table = table.set_column(at, name, pc.call_function("if_else", [blank, nothing, table[name]]))
    (tmp_path / "hotel-bookings").mkdir()
    pq.write_table(table, tmp_path / "hotel-bookings" / "bookings.parquet")
    with Platform.open(FOLDER, variables={"TOWPATH_DATA": str(tmp_path)}) as opened:
        model = opened.project.models["cancellation"]
        spine = opened.warehouse.read(model.training.query, {"as_of": AS_OF, "since": BEGINNING})
        again = opened.at(AS_OF).features.training_set(
            spine, model.declaration.features, keys=["booking_id"], time="booked_at"
        )
    # then no row and no value is another one
    assert again.schema.names == trained_on.schema.names
    for name in again.column_names:
        if pa.types.is_floating(again.schema.field(name).type):
            assert np.allclose(again[name].to_numpy(), trained_on[name].to_numpy(), rtol=1e-12, equal_nan=True), name
        else:
            assert again[name].equals(trained_on[name]), name


def test_online_equals_offline_after_twelve_days_of_builds_that_read_what_is_new_alone(
    file: Path, tmp_path: Path
) -> None:
    # given online tables that were brought up to date each night
    variables = {"TOWPATH_DATA": str(file.parents[1])}
    write_project(tmp_path, FOLDER)
    with Platform.open(tmp_path, variables=variables) as platform:
        nights = [platform.at(AS_OF + timedelta(days=day, minutes=30)).features.build() for day in range(12)]
        assert {one.work for one in nights[-1].values()} == {"since"}
        # when the bookings of a month are asked for, online and in the warehouse, as of that night
        last = platform.at(AS_OF + timedelta(days=11, minutes=30))
        window = {"as_of": last.now(), "since": last.now() - timedelta(days=30)}
        spine = last.warehouse.read(last.project.models["cancellation"].training.query, window)
        keys = ["booking_id", "hotel", "market_segment", "agent", "arrival_date"]
        asked = spine.select(keys).append_column(
            "now", pa.array([last.now()] * spine.num_rows, pa.timestamp("us", "UTC"))
        )
        features = [f"{view}.*" for view in last.project.views]
        offline = last.features.training_set(asked, features, keys=keys, time="now")
        online = last.features.read(features, {key: spine.column(key).to_pylist() for key in keys})
    # then every value is the same
    assert spine.num_rows > 4_000
    for name, values in online.items():
        expected = offline[name].to_pylist()
        found = [None if pd.isna(value) else value for value in values.tolist()]
        assert found == expected, name


@pytest.fixture(scope="module")
def lived(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained, judged and promoted on 2016-10-03; three weeks of nights; then every eight weeks until all stays are over."""
    folder = tmp_path_factory.mktemp("hotel") / "hotel"
    write_project(folder, FOLDER)
    settings = folder / "towpath.toml"
    settings.write_text(settings.read_text().replace("{TOWPATH_DATA}", str(file.parents[1])))
    with Platform.open(folder, variables={}) as platform:
        model = platform.at(AS_OF).models["cancellation"]
        model.train()
        model.gate()
        model.promote(because="it passed the gate")
        nights = [AS_OF + timedelta(days=1 + day, minutes=30) for day in range(NIGHTS)]
        for night in nights:
            today = platform.at(night)
            today.models["cancellation"].collect()
            today.models["cancellation"].predict()
            platform.at(night + timedelta(minutes=15)).watch.check()
        later = nights[-1]
        while later < ALL_DECIDED:
            later = min(later + timedelta(weeks=8), ALL_DECIDED)
            platform.at(later).models["cancellation"].collect()
            platform.at(later).watch.check()
    return folder


@pytest.fixture
def afterwards(lived: Path) -> Iterator[Platform]:
    with Platform.open(lived, variables={}) as opened:
        yield opened.at(ALL_DECIDED)


@pytest.mark.slow
def test_every_booking_of_three_weeks_is_answered_the_night_after_by_the_champion(
    afterwards: Platform, bookings: Any
) -> None:
    first = _day(AS_OF.date())
    made = bookings[(bookings.booked >= first) & (bookings.booked < first + NIGHTS)]
    found = afterwards.sql(
        "select entity_key, source, reason, predicted_at, target_at from predictions", since=AS_OF
    ).to_pylist()
    assert sorted(msgspec.json.decode(row["entity_key"])[0] for row in found) == (made.index + 1).tolist()
    assert {(row["source"], row["reason"]) for row in found} == {("champion", "ok")}
    assert all(timedelta(hours=24) <= row["predicted_at"] - row["target_at"] <= timedelta(hours=26) for row in found)


@pytest.mark.slow
def test_the_outcomes_are_what_happened_and_none_came_before_the_stay_was_over(
    afterwards: Platform, bookings: Any
) -> None:
    found = _matured(afterwards)
    rows = bookings.loc[[msgspec.json.decode(key)[0] - 1 for key in found["entity_key"].to_pylist()]]
    first = _day(AS_OF.date())
    assert found.num_rows == ((bookings.booked >= first) & (bookings.booked < first + NIGHTS)).sum()
    assert found["actual"].to_pylist() == rows.is_canceled.tolist()
    for happened, arrived, leaves in zip(
        found["happened_at"].to_pylist(), found["arrived_at"].to_pylist(), rows.leaves, strict=True
    ):
        assert happened.astimezone(LISBON).date() == date(1970, 1, 1) + timedelta(days=int(leaves) + 1)
        assert arrived >= happened
    # and a person who looked at Christmas saw those of whom the stay was over
    christmas = _matured(afterwards.at(datetime(2016, 12, 24, tzinfo=UTC)))
    assert 0 < christmas.num_rows < found.num_rows


@pytest.mark.slow
def test_the_model_says_more_than_the_segments_share(afterwards: Platform) -> None:
    found = _matured(afterwards)
    said, share, actual = (found[name].to_numpy() for name in ("prediction", "fallback_prediction", "actual"))
    ones, rows = np.ones(len(actual)), np.arange(len(actual))
    better = ratio_difference(
        (said - actual) ** 2, ones, (share - actual) ** 2, ones, rows, rng=np.random.default_rng(7)
    )
    assert better.high < 0
    # over all, as many were cancelled as it said, within a tenth
    assert said.sum() == pytest.approx(actual.sum(), rel=0.1)


@pytest.mark.slow
def test_every_monitor_was_asked_every_night_and_none_could_not_be(afterwards: Platform) -> None:
    asked = afterwards.catalog.read(
        "select monitor, count(distinct at_us) as days, sum(case when status = 'error' then 1 else 0 end) as errors"
        " from checks where model = 'cancellation' group by monitor"
    )
    names = {
        "did_it_run",
        "far_from_previous",
        "features_as_trained",
        "worse_than_promised",
        "cancellation/as_many_as_said",
    }
    assert {row["monitor"] for row in asked} == names
    assert {row["errors"] for row in asked} == {0}
    assert len({row["days"] for row in asked}) == 1


@pytest.mark.slow
def test_a_booking_that_stands_in_the_house_is_answered_online_as_it_was_in_the_batch(
    lived: Path, tmp_path: Path
) -> None:
    # given the online tables as they stood on the morning of a day
    shutil.copytree(lived, tmp_path / "hotel")
    with Platform.open(tmp_path / "hotel", variables={}) as platform:
        morning = datetime(2016, 10, 11, 23, tzinfo=UTC)  # 2016-10-12 begins in Lisbon
        then = platform.at(morning)
        then.features.build()
        batch = platform.at(ALL_DECIDED).sql(
            "select entity_key, prediction from predictions where target_at = timestamptz '2016-10-11 23:00:00+00' order by entity_key limit 5",
            since=AS_OF,
        )
        query = then.project.models["cancellation"].training.query
        spine = then.warehouse.read(query, {"as_of": morning + timedelta(days=1), "since": morning}).to_pylist()
        rows = {row["booking_id"]: row for row in spine}
        # when each is asked for as the reservation system would
        for asked in batch.to_pylist():
            row = rows[msgspec.json.decode(asked["entity_key"])[0]]
            keys = {name: row[name] for name in ("booking_id", "hotel", "market_segment", "agent", "arrival_date")}
            tried = then.models["cancellation"].try_row({name: _json(value) for name, value in keys.items()})
            # then it is the same answer
            assert tried.prediction == pytest.approx(asked["prediction"], rel=1e-9), tried


def _matured(platform: Platform) -> pa.Table:
    return platform.sql(
        "select entity_key, happened_at, arrived_at, prediction, fallback_prediction, actual from matured order by entity_key",
        since=AS_OF,
    )


def _decided_year(rows: Any, today: int) -> Any:
    """The year up to the newest arrival day at which everybody of that year had left or cancelled before today."""
    for last in sorted(rows.arrival.unique(), reverse=True):
        year = rows[(rows.arrival <= last) & (rows.arrival > last - 365)]
        if year.decided.max() < today:
            return year
    return rows[:0]


def _same(found: float | None, expected: float | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return found == pytest.approx(expected, rel=1e-12)


def _json(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value


def _day(moment: date) -> int:
    return (moment - date(1970, 1, 1)).days

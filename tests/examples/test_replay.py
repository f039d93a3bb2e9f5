"""The retail circle on the real file: eight weeks lived day by day, and what the stores say of them afterwards."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from towpath.demo.replay import Replayed, as_facts, as_rows, replay
from towpath.errors import ProjectError, RefusedError
from towpath.platform import Platform
from towpath.warehouse import Engine

SINCE, RETRAINED, UNTIL = (datetime(2011, *day, tzinfo=UTC) for day in ((9, 1), (10, 1), (10, 27)))
HORIZON = timedelta(days=7)


@pytest.fixture(scope="module")
def file(data_folder: Path) -> Path:
    found = data_folder / "online-retail" / "transactions.parquet"
    if not found.exists():
        pytest.skip(f"online-retail is missing in '{data_folder}' (examples/retail/README.md says how to get it)")
    return found


@pytest.fixture(scope="module")
def replayed(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    return replay(tmp_path_factory.mktemp("retail") / "shop", data=file, since=SINCE, weeks=8, retrain_on=RETRAINED)


@pytest.fixture
def afterwards(replayed: Replayed) -> Iterator[Platform]:
    with Platform.open(Path(replayed.folder)) as opened:
        yield opened.at(UNTIL + HORIZON)


@pytest.mark.slow
def test_each_item_sold_in_the_last_28_days_is_predicted_after_each_trading_day(
    replayed: Replayed, afterwards: Platform, file: Path
) -> None:
    # given the items as counted by a second statement over the file, without a line of the project's SQL
    engine = Engine(memory_mib=512)
    engine.register("bought", [str(file)])
    counted = engine.read("""
        with once as (
            select distinct * replace (upper(stock_code) as stock_code) from bought
            where unit_price > 0 and regexp_full_match(upper(stock_code), '[0-9]{5}[A-Z]*')
        ),
        sold as (
            select stock_code, invoice_date::date as day from once
            group by stock_code, day, coalesce(customer_id, 0) having sum(quantity) > 0
        ),
        days as (select distinct invoice_date::date as day from bought)
        select days.day, count(distinct stock_code) as items
        from days join sold on sold.day between days.day - 27 and days.day
        where days.day >= date '2011-08-31' and days.day < date '2011-10-26'
        group by days.day order by days.day
    """).to_pylist()
    engine.close()
    # then the night after each of these days holds as many answers, each item once
    nights = afterwards.sql("""
        select predicted_at, count(*) as rows, count(distinct entity_key) as items from predictions
        group by predicted_at order by predicted_at
    """).to_pylist()
    assert [(night["predicted_at"].date() - timedelta(days=1), night["items"]) for night in nights] == [
        (day["day"], day["items"]) for day in counted
    ]
    assert all(night["rows"] == night["items"] for night in nights)
    assert replayed.trading_days == len(counted) == 48
    assert replayed.rows == sum(day["items"] for day in counted)
    # and three in ten sold nothing in the week ahead
    assert 0.2 < replayed.zero_rows / replayed.matured < 0.4


@pytest.mark.slow
def test_the_model_beats_the_heuristic_or_the_gate_said_no(replayed: Replayed) -> None:
    whole = replayed.parts[0]
    assert whole.difference is not None
    assert whole.difference.high < 0 or replayed.versions[0].passed is False
    # and README.md says so
    assert whole.wape is not None
    assert whole.heuristic_wape is not None
    assert whole.wape.estimate == pytest.approx(0.609, abs=0.01)
    assert whole.heuristic_wape.estimate == pytest.approx(0.695, abs=0.001)
    assert replayed.by_source.get("champion", 0) == replayed.rows or replayed.versions[0].passed is False


@pytest.mark.slow
def test_each_week_and_segment_has_its_numbers_with_intervals_by_item(replayed: Replayed) -> None:
    names = [part.part for part in replayed.parts]
    assert names[0] == "all"
    assert sum(name.startswith("week of ") for name in names) == 8
    assert {name.split("=")[0] for name in names[9:]} == {"price_band", "popularity_band"}
    for part in replayed.parts:
        for found in (part.wape, part.heuristic_wape, part.difference, part.bias, part.heuristic_bias):
            assert found is not None
            assert found.low <= found.estimate <= found.high
            assert found.entities < part.rows  # items, not rows
    for kind in ("week of ", "price_band=", "popularity_band="):
        assert sum(part.rows for part in replayed.parts if part.part.startswith(kind)) == replayed.matured
    # and people can read them
    assert [row["part"] for row in as_rows(replayed)] == names
    assert "48 trading days" in as_facts(replayed)["weeks"]


@pytest.mark.slow
def test_an_answer_is_measured_when_its_week_has_passed_and_not_before(afterwards: Platform) -> None:
    for days in (1, 7, 8, 30):
        then = afterwards.at(SINCE + timedelta(days=days, hours=2))
        found = then.sql("select count(*) as rows, max(target_at) as last from matured").to_pylist()[0]
        due = then.sql("select count(*) as rows from predictions where target_at <= :as_of").to_pylist()[0]
        assert found["rows"] == due["rows"]
        assert found["last"] is None or found["last"] <= then.now()
    early = "select count(*) as n from matured where arrived_at < target_at or arrived_at < happened_at"
    assert afterwards.sql(early)["n"].to_pylist() == [0]


@pytest.mark.slow
def test_every_monitor_was_asked_every_day_and_what_opened_closed(replayed: Replayed, afterwards: Platform) -> None:
    asked = afterwards.catalog.read(
        "select monitor, count(distinct at_us) as days, sum(case when status = 'error' then 1 else 0 end) as errors"
        " from checks where model = 'demand' group by monitor"
    )
    assert {row["monitor"] for row in asked} >= {
        "did_it_run", "far_from_previous", "worse_than_promised", "demand/too_low", "demand/new_dirt",
    }  # fmt: skip
    assert {(row["days"], row["errors"]) for row in asked} == {(48, 0)}
    assert replayed.days_watched == 48
    # an autumn that nobody who has seen only spring and summer knows of: what sells most is forecast too low
    assert replayed.incidents_by_monitor.get("demand/too_low", 0) >= 1
    assert replayed.incidents_closed >= 1


@pytest.mark.slow
def test_the_second_version_was_judged_against_the_champion(replayed: Replayed, afterwards: Platform) -> None:
    first, second = replayed.versions
    assert first.against is None
    assert second.against == 1
    assert first.as_of == SINCE
    assert second.as_of is not None
    assert RETRAINED <= second.as_of < RETRAINED + timedelta(days=3)
    assert second.rows is not None
    assert first.rows is not None
    assert second.rows > first.rows
    # and it answers from the day of its promotion on, or never
    assert second.champion == second.passed
    versions = afterwards.sql("select version, min(predicted_at) as since from predictions group by version")
    answered = {row["version"]: row["since"] for row in versions.to_pylist()}
    assert answered[1].date() == SINCE.date()
    assert answered.get(2) == (second.as_of if second.passed else None)


@pytest.mark.slow
def test_a_day_that_ends_the_file_is_answered_as_in_the_whole_file(
    replayed: Replayed, afterwards: Platform, file: Path, tmp_path: Path
) -> None:
    # given a copy of the project whose file knows nothing after 2011-09-14
    night = datetime(2011, 9, 15, 0, 30, tzinfo=UTC)
    lines = pq.read_table(file)
    cut = lines.filter(pc.less(lines["invoice_date"], pa.scalar(datetime(2011, 9, 15), lines["invoice_date"].type)))
    pq.write_table(cut, tmp_path / "transactions.parquet")
    shutil.copytree(replayed.folder, tmp_path / "shop")
    settings = tmp_path / "shop" / "towpath.toml"
    settings.write_text(settings.read_text().replace(str(file.resolve()), str(tmp_path / "transactions.parquet")))
    # when that night is predicted again there
    question = "select entity_key, prediction, fallback_prediction from predictions where predicted_at = :at order by 1"
    before = afterwards.watch.ask(question, {"at": night})
    with Platform.open(tmp_path / "shop") as platform:
        again = platform.at(night)
        assert again.models["demand"].predict().rows == before.num_rows
        after = again.watch.ask(question, {"at": night})
    # then no answer is another one
    assert after["entity_key"].equals(before["entity_key"])
    for name in ("prediction", "fallback_prediction"):
        assert after[name].to_pylist() == pytest.approx(before[name].to_pylist(), rel=1e-9)


@pytest.mark.slow
def test_a_replay_that_ran_to_its_end_has_nothing_left_to_do(replayed: Replayed, file: Path) -> None:
    said: list[str] = []
    again = replay(Path(replayed.folder), data=file, since=SINCE, weeks=8, retrain_on=RETRAINED, progress=said.append)
    assert again.parts == replayed.parts
    assert again.versions == replayed.versions
    assert (again.trading_days, again.rows, again.days_watched) == (48, replayed.rows, 48)
    assert not [line for line in said if "training" in line or "rows by" in line]


def test_a_folder_of_somebody_else_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear to me")
    with pytest.raises(RefusedError, match="no replay made"):
        replay(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_missing_file_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="is not there"):
        replay(tmp_path / "shop", data=tmp_path / "nowhere")
    assert not (tmp_path / "shop").exists()

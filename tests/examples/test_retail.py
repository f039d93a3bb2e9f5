"""The retail example on the real file: what its SQL says of dirt, of time and of the future, and whether its model is any good."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from towpath import project
from towpath.clock import FixedClock
from towpath.platform import Platform
from towpath.project import Project
from towpath.warehouse import Engine, Warehouse

FOLDER = Path(__file__).parents[2] / "examples" / "retail"
BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)
AS_OF = datetime(2011, 9, 1, tzinfo=UTC)
END = datetime(2011, 12, 17, tzinfo=UTC)
LONDON = ZoneInfo("Europe/London")
VIEWS = ("sales_windows", "prices", "calendar", "shop_trend")


@pytest.fixture(scope="module")
def retail() -> Project:
    return project.read(FOLDER, {})


@pytest.fixture(scope="module")
def shop(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with a state of its own."""
    if not (data_folder / "online-retail" / "transactions.parquet").exists():
        pytest.skip(f"online-retail is missing in '{data_folder}' (examples/retail/README.md says how to get it)")
    left_out = shutil.ignore_patterns(".towpath")
    return Path(shutil.copytree(FOLDER, tmp_path_factory.mktemp("retail") / "shop", ignore=left_out))


@pytest.fixture(scope="module")
def warehouse(shop: Path, data_folder: Path) -> Iterator[Warehouse]:
    with Platform.open(shop, variables={"TOWPATH_DATA": str(data_folder)}) as platform:
        yield platform.warehouse


@pytest.fixture(scope="module")
def lines(data_folder: Path, warehouse: Warehouse) -> pa.Table:
    return pq.read_table(data_folder / "online-retail" / "transactions.parquet")


@pytest.fixture(scope="module")
def units(lines: pa.Table) -> dict[tuple[str, date], float]:
    """Item and day → units, without SQL: the rules of README.md a second time."""
    found = lines.to_pandas().assign(item=lambda rows: rows.stock_code.str.upper())
    found = found[(found.unit_price > 0) & found["item"].str.fullmatch(r"\d{5}[A-Z]*")]
    found = found.drop(columns="stock_code").drop_duplicates()
    found = found.assign(day=found.invoice_date.dt.date, customer=found.customer_id.fillna(0))
    netted = found.groupby(["item", "day", "customer"]).quantity.sum().clip(lower=0)
    return netted.groupby(["item", "day"]).sum().to_dict()


@pytest.fixture(scope="module")
def views(retail: Project, warehouse: Warehouse) -> dict[str, pa.Table]:
    return {name: warehouse.read(retail.views[name].query) for name in VIEWS}


@pytest.fixture(scope="module")
def spine(retail: Project, warehouse: Warehouse) -> pa.Table:
    """Of the whole file, as of a week after its last day."""
    return warehouse.read(retail.models["demand"].training.query, {"as_of": END, "since": BEGINNING})


@pytest.fixture(scope="module")
def spine_then(retail: Project, warehouse: Warehouse) -> pa.Table:
    """Of the whole file, as of 2011-09-01."""
    return warehouse.read(retail.models["demand"].training.query, {"as_of": AS_OF, "since": BEGINNING})


def test_the_example_has_no_problem() -> None:
    assert project.problems(FOLDER) == []


def test_the_steps_that_stand_in_three_files_are_the_same() -> None:
    found = []
    for name in ("features/sales_windows.sql", "features/shop_trend.sql", "models/demand/training.sql"):
        text = (FOLDER / name).read_text("utf-8")
        steps = re.search(r"goods as \(\n.*?\),\n\ntrading as .*?\n\),", text, re.DOTALL)
        assert steps is not None, name
        found.append(steps[0])
    assert found[0] == found[1] == found[2]


def test_there_is_a_row_for_each_trading_day_and_each_item_sold_in_the_28_days_up_to_it(
    spine: pa.Table, lines: pa.Table, units: dict[tuple[str, date], float]
) -> None:
    # given the days with an invoice, by hand
    traded = set(pc.unique(lines["invoice_date"].cast(pa.date32())).to_pylist())
    assert len(traded) == 305
    assert not [day for day in traded if day.weekday() == 5]
    # then the spine has these, each item once, and on 2011-08-31 exactly the items that a set in Python finds
    assert {_last_day(at) for at in pc.unique(spine["day_end"]).to_pylist()} == traded
    assert len(spine.group_by(["item_id", "day_end"]).aggregate([])) == len(spine) == 769_869
    day = date(2011, 8, 31)
    sold = {item for (item, on), n in units.items() if n > 0 and timedelta(0) <= day - on < timedelta(days=28)}
    assert set(_on(spine, day)["item_id"].to_pylist()) == sold


def test_the_label_is_what_a_person_would_count(spine: pa.Table, units: dict[tuple[str, date], float]) -> None:
    for day in (date(2010, 12, 23), date(2011, 3, 24), date(2011, 9, 15), date(2011, 10, 26)):
        rows = _on(spine, day)
        expected = [
            sum(units.get((item, day + timedelta(days=ahead)), 0) for ahead in range(1, 8))
            for item in rows["item_id"].to_pylist()
        ]
        assert rows["units_next_7d"].to_pylist() == expected
    # over Christmas the shop is closed: true zeros, not gaps
    assert pc.sum(_on(spine, date(2010, 12, 23))["units_next_7d"]).as_py() == 0


def test_an_order_that_was_cancelled_the_same_day_is_no_demand(spine: pa.Table) -> None:
    # given the 74,215 jars of 2011-01-18 and the 80,995 birdies of 2011-12-09, each cancelled within a quarter of an hour
    jars = spine.filter(pc.equal(spine["item_id"], "23166"))
    assert pc.max(jars["units_next_7d"]).as_py() < 1_000
    assert "23843" not in set(spine["item_id"].to_pylist())


def test_zero_sales_are_rows_and_nothing_is_negative(spine: pa.Table) -> None:
    known = spine["units_next_7d"].drop_null()
    assert pc.min(known).as_py() == 0
    assert pc.mean(pc.equal(known, 0).cast(pa.float64())).as_py() == pytest.approx(0.296, abs=0.005)


def test_only_goods_are_predicted(spine: pa.Table) -> None:
    items = pc.unique(spine["item_id"]).to_pylist()
    assert not {"POST", "DOT", "M", "D", "BANK CHARGES", "AMAZONFEE", "B"} & set(items)
    assert all(re.fullmatch(r"\d{5}[A-Z]*", item) for item in items)


def test_a_label_is_known_seven_days_later_and_never_before(spine_then: pa.Table) -> None:
    found = spine_then
    wait = found["known_at"].to_numpy() - found["day_end"].to_numpy()
    assert (wait == np.timedelta64(7, "D")).all()
    known = pc.less_equal(found["known_at"], pa.scalar(AS_OF, found["known_at"].type))
    assert known.equals(pc.is_valid(found["units_next_7d"]))
    assert pc.max(found["day_end"]).as_py() == datetime(2011, 8, 31, 23, tzinfo=UTC)


def test_a_warehouse_that_ends_at_a_moment_gives_what_the_whole_file_gives_as_of_it(
    retail: Project,
    warehouse: Warehouse,
    views: dict[str, pa.Table],
    lines: pa.Table,
    spine_then: pa.Table,
    shop: Path,
    tmp_path: Path,
) -> None:
    # given the lines of the time before 2011-09-01 alone, with what they say of any later day gone
    (tmp_path / "online-retail").mkdir()
    cut = lines.filter(pc.less(lines["invoice_date"], pa.scalar(datetime(2011, 9, 1), lines["invoice_date"].type)))
    pq.write_table(cut, tmp_path / "online-retail" / "transactions.parquet")
    past = Platform.open(shop, variables={"TOWPATH_DATA": str(tmp_path)}).warehouse
    # then no feature that was true then is another one, and neither is a row of the spine
    for name, whole in views.items():
        header = retail.views[name].header
        then = whole.filter(pc.less_equal(whole[header.event_time], pa.scalar(AS_OF, whole[header.event_time].type)))
        assert _near(past.read(retail.views[name].query), then, [*header.keys, header.event_time]), name
    query = retail.models["demand"].training.query
    keys = ["item_id", "day_end"]
    assert _near(past.read(query, {"as_of": AS_OF, "since": BEGINNING}), spine_then, keys)


def test_a_day_ends_at_midnight_in_london_also_when_the_clocks_change(spine: pa.Table) -> None:
    ends = {_last_day(at): at for at in pc.unique(spine["day_end"]).to_pylist()}
    # the Sundays of both changes are trading days: one has 23 hours, the other 25
    assert ends[date(2011, 3, 25)] == datetime(2011, 3, 26, 0, tzinfo=UTC)
    assert ends[date(2011, 3, 27)] == datetime(2011, 3, 27, 23, tzinfo=UTC)
    assert ends[date(2011, 10, 28)] == datetime(2011, 10, 28, 23, tzinfo=UTC)
    assert ends[date(2011, 10, 30)] == datetime(2011, 10, 31, 0, tzinfo=UTC)


def test_every_spine_row_finds_its_features_and_none_from_after_it(spine: pa.Table, views: dict[str, pa.Table]) -> None:
    joined = _joined(spine, views)
    assert len(joined) == len(spine)
    assert joined["sales_windows.units_28d"].null_count == 0
    assert joined["prices.price_gbp"].null_count == 0
    assert joined["calendar.days_open_next_7d"].null_count == 0
    assert pc.min(joined["sales_windows.units_28d"]).as_py() > 0


def test_the_week_ahead_as_planned_is_the_week_as_it_came(views: dict[str, pa.Table], lines: pa.Table) -> None:
    # the planned closings are written by hand in the SQL: for this file they must name all and no other days
    traded = set(pc.unique(lines["invoice_date"].cast(pa.date32())).to_pylist())
    for row in views["calendar"].to_pylist():
        day = _last_day(row["day_end"])
        if day + timedelta(days=7) <= max(traded):
            assert row["days_open_next_7d"] == sum(day + timedelta(days=n) in traded for n in range(1, 8)), day


def test_the_segments_are_wide_enough_to_decide_and_unequal_as_trade_is(spine: pa.Table) -> None:
    def shares(column: str) -> dict[str, float]:
        counts = spine[column].value_counts().to_pylist()
        return {c["values"]: c["counts"] / len(spine) for c in counts}

    assert shares("price_band") == pytest.approx({"under 1": 0.244, "1 to 3": 0.422, "3 and more": 0.334}, abs=0.005)
    assert shares("popularity_band") == pytest.approx({"low": 0.514, "middle": 0.290, "high": 0.196}, abs=0.005)
    high = spine.filter(pc.equal(spine["popularity_band"], "high"))
    assert pc.sum(high["units_next_7d"]).as_py() / pc.sum(spine["units_next_7d"]).as_py() > 0.6


def test_a_stretch_of_the_spine_is_what_the_whole_spine_says_of_it(
    retail: Project, warehouse: Warehouse, spine: pa.Table
) -> None:
    # given stretches that begin at midnight in London, within a day, and in the weeks of both clock changes
    query = retail.models["demand"].training.query
    for since in ("2011-10-13T23:00", "2011-10-13T23:01", "2011-03-27T00:00", "2011-03-26T23:30", "2011-10-31T00:00"):
        moment = datetime.fromisoformat(since).replace(tzinfo=UTC)
        until = moment + timedelta(days=9)
        part = warehouse.read(query, {"as_of": until, "since": moment})
        at = spine["day_end"]
        kind = at.type
        inside = pc.and_(pc.greater_equal(at, pa.scalar(moment, kind)), pc.less_equal(at, pa.scalar(until, kind)))
        whole = spine.filter(inside)
        # then the same rows come, and the same labels where they were known by then
        given = [name for name in part.column_names if name != "units_next_7d"]
        assert part.select(given).equals(whole.select(given))
        known = pc.less_equal(part["known_at"], pa.scalar(until, kind))
        assert part.filter(known).equals(whole.filter(known))
        assert part.filter(pc.invert(known))["units_next_7d"].null_count == pc.sum(pc.invert(known)).as_py()


def _last_day(end: datetime) -> date:
    """The trading day that ended then."""
    return end.astimezone(LONDON).date() - timedelta(days=1)


def _on(spine: pa.Table, day: date) -> pa.Table:
    end = datetime(day.year, day.month, day.day, tzinfo=LONDON) + timedelta(days=1)
    return spine.filter(pc.equal(spine["day_end"], pa.scalar(end.astimezone(UTC), spine["day_end"].type)))


def _near(left: pa.Table, right: pa.Table, keys: list[str]) -> bool:
    """Same rows whatever their order; sums of floats may differ in the last digits."""
    order = [(key, "ascending") for key in keys]
    left, right = left.sort_by(order), right.sort_by(order)
    if left.schema != right.schema or len(left) != len(right):
        return False
    for name in left.column_names:
        if not pa.types.is_floating(left.schema.field(name).type):
            if not left[name].equals(right[name]):
                return False
        elif not np.allclose(left[name].to_numpy(), right[name].to_numpy(), rtol=1e-9, equal_nan=True):
            return False
    return True


def _joined(spine: pa.Table, views: dict[str, pa.Table]) -> pa.Table:
    """Point-in-time by hand: the newest row at or before the spine's time."""
    engine = Engine(memory_mib=1_024)
    engine.register("spine", spine)
    joins, chosen = [], []
    for name, table in views.items():
        engine.register(name, table)
        key = "item_id" if "item_id" in table.column_names else "shop"
        joins.append(f"asof left join {name} on spine.{key} = {name}.{key} and spine.day_end >= {name}.day_end")
        chosen += [f'{name}.{c} as "{name}.{c}"' for c in table.column_names if c not in {key, "day_end"}]
    found = engine.read(f"select spine.*, {', '.join(chosen)} from spine {' '.join(joins)}")
    engine.close()
    return found


TILL = """
import sys, time
from pathlib import Path
from towpath.clock import FixedClock
from towpath.platform import Platform

shop = Platform.open(Path(sys.argv[1]), clock=FixedClock("2011-09-01T11:00"))
row = {"item_id": "22509", "day_end": "2011-09-01T11:00", "price_gbp": 9.95, "price_to_mean_84d": 0.6, "bulk_ratio": 1.0}
print(shop.features.push("prices", row).accepted, flush=True)
time.sleep(600)
"""


def test_a_markdown_that_the_till_pushed_is_online_at_once_and_in_the_next_training_set_also_after_kill_9(
    shop: Path, data_folder: Path
) -> None:
    # given prices of the night before
    variables = {"TOWPATH_DATA": str(data_folder)}
    names = ["prices.price_gbp"]

    def opened(moment: str) -> Platform:
        return Platform.open(shop, clock=FixedClock(moment), variables=variables)

    with opened("2011-09-01T00:30") as platform:
        platform.features.build("prices")
        assert platform.features.read(names, {"item_id": ["22509"]})["prices.price_gbp"].tolist() == [16.95]
    # when a till pushes another price and is killed as soon as that is acknowledged
    with subprocess.Popen(
        [sys.executable, "-c", TILL, str(shop)], stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}
    ) as till:
        assert till.stdout is not None
        assert till.stdout.readline() == "1\n"
        till.send_signal(signal.SIGKILL)
    # then it is online, and in a training set it is known from its moment on, and not before
    with opened("2011-09-01T12:00") as platform:
        assert platform.features.read(names, {"item_id": ["22509"]})["prices.price_gbp"].tolist() == [9.95]
        spine = (
            "select '22509' as item_id, timestamp '2011-09-01 10:00' + i * interval 1 hour as at from range(3) as r(i)"
        )
        joined = platform.features.training_set(spine, names, time="at")
        assert joined.column("prices.price_gbp").to_pylist() == [16.95, 9.95, 9.95]
        # and a whole build does not take it back
        platform.features.build("prices", full=True)
        assert platform.features.read(names, {"item_id": ["22509"]})["prices.price_gbp"].tolist() == [9.95]

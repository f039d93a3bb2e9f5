"""Build and online read: what serving sees is what training would have seen at that moment."""

import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from towpath import features
from towpath.clock import FixedClock
from towpath.errors import InputError, UnknownError
from towpath.project.declarations import FeatureDeclaration, FeatureHeader
from towpath.project.folder import ViewFile
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.stores.online import OnlineStore, open_online
from towpath.types import micros
from towpath.warehouse import Warehouse, open_warehouse

START = datetime(2011, 9, 1, tzinfo=UTC)
CLOCK = FixedClock(START)


def at(tick: int | None) -> datetime | None:
    return None if tick is None else START + timedelta(milliseconds=tick)


class Stand:
    """A warehouse and an online store; each case has a view of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "warehouse"
        self.folder.mkdir(parents=True)
        self.warehouse: Warehouse = open_warehouse(WarehouseSettings(memory_mib=512, threads=1), folder, {})
        self.online: OnlineStore = open_online("lmdb://online", folder)
        self._numbers = itertools.count()

    def land(self, name: str, table: pa.Table) -> None:
        pq.write_table(table, self.folder / f"{name}.parquet")

    def view(self, table: pa.Table, *, name: str | None = None, **header: object) -> features.View:
        name = name or f"v{next(self._numbers)}"
        self.land(name, table)
        query = Query.parse(f"select * from {name}", f"{name}.sql")
        declared = FeatureHeader(**{"entity": "id", "event_time": "event", **header})  # pyright: ignore[reportArgumentType]
        return features.describe(ViewFile(name=name, query=query, header=declared), self.warehouse, project="shop")

    def build(self, view: features.View, as_of: datetime, since: datetime | None = None) -> features.Built:
        return features.build(view, self.warehouse, self.online, as_of=as_of, since=since, clock=CLOCK)

    def read(self, view: features.View, keys: dict[str, list[object]], now: datetime) -> features.OnlineRows:
        locks = features.lock({view.name: view}, [f"{view.name}.*"])
        reader = features.OnlineReader(self.online, locks, project="shop")
        return reader.read(keys, len(next(iter(keys.values()))), micros(now))


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    opened = Stand(tmp_path_factory.mktemp("stand"))
    yield opened
    opened.warehouse.close()
    opened.online.close()


def landing(rows: list[tuple[str | None, int | None, int | None]]) -> pa.Table:
    """Values are made from key and times, so that rows in a full tie say the same."""
    return pa.table(
        {
            "id": pa.array([row[0] for row in rows], pa.string()),
            "event": pa.array([at(row[1]) for row in rows], pa.timestamp("us", "UTC")),
            "created": pa.array([at(row[2]) for row in rows], pa.timestamp("us")),
            "x": pa.array([None if row[1] == 3 else float(hash(row[1:]) % 1_000) for row in rows], pa.float64()),
            "y": pa.array([str(row) for row in rows], pa.string()),
        }
    )


ticks = st.one_of(st.integers(0, 9), st.none())
landings = st.lists(st.tuples(st.sampled_from(["1", "11", "é", None]), ticks, ticks), max_size=6)
steps = st.lists(st.tuples(landings, st.one_of(st.none(), st.integers(0, 10))), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, now=st.integers(8, 14), ttl=st.one_of(st.none(), st.integers(0, 12)), declared=st.booleans())
def test_online_equals_offline_after_any_order_of_landing_and_building(
    stand: Stand,
    steps: list[tuple[list[tuple[str | None, int | None, int | None]], int | None]],
    now: int,
    ttl: int | None,
    declared: bool,
) -> None:
    # given batches that land in any order, with builds in between, of any moment up to now
    header = {"created_time": "created" if declared else None, "ttl": None if ttl is None else f"{ttl}ms"}
    rows: list[tuple[str | None, int | None, int | None]] = []
    table = landing(rows) if declared else landing(rows).drop_columns("created")
    view = stand.view(table, **header)
    for batch, built_at in steps:
        rows += batch
        table = landing(rows if declared else [(key, event, None) for key, event, _ in rows])
        stand.land(view.name, table if declared else table.drop_columns("created"))
        if built_at is not None:
            stand.build(view, at(min(built_at, now)) or START)
    # when all is built as of now
    moment = at(now) or START
    stand.build(view, moment)
    # then every key reads online what it reads offline
    keys: list[object] = ["1", "11", "é", None, "never", "1"]
    online = stand.read(view, {"id": keys}, moment)
    spine = pa.table({"id": pa.array(keys, pa.string()), "t": pa.array([moment] * len(keys))})
    offline = features.training_set(
        stand.warehouse, spine, keys=["id"], time="t", features=[f"{view.name}.*"], views={view.name: view}
    )
    x = [None if np.isnan(value) else value for value in online.columns[f"{view.name}.x"].tolist()]
    assert x == offline.column(f"{view.name}.x").to_pylist()
    assert online.columns[f"{view.name}.y"].tolist() == offline.column(f"{view.name}.y").to_pylist()


def small() -> pa.Table:
    return pa.table({"id": [1, 2], "event": [at(1), at(5)], "price": [2.5, None], "units": [7, 8], "name": ["a", "b"]})


def test_a_build_says_what_it_did_and_may_be_repeated(stand: Stand) -> None:
    view = stand.view(small())
    seen: list[int] = []
    built = features.build(
        view, stand.warehouse, stand.online, as_of=START + timedelta(1), clock=CLOCK, progress=seen.append
    )
    again = stand.build(view, START + timedelta(1))
    assert (built.rows, built.entities, built.newest_event_time, built.at) == (2, 2, at(5), START)
    assert (built.work, built.because) == ("everything", "it was never built")
    assert again.entities == 2
    assert seen == [0, 2]


def test_since_leaves_older_events_out(stand: Stand) -> None:
    view = stand.view(small())
    assert stand.build(view, START + timedelta(1), since=at(2)).rows == 1


def test_a_missing_value_says_so_and_why_it_matters(stand: Stand) -> None:
    declared = {
        "price": FeatureDeclaration(missing="default", default=9.75),
        "units": FeatureDeclaration(missing="refuse"),
        "name": FeatureDeclaration(default="never used"),
    }
    view = stand.view(small(), features=declared)
    stand.build(view, START + timedelta(1))
    rows = stand.read(view, {"id": [1, 2, 3, None]}, START + timedelta(1))
    name = view.name
    assert rows.columns[f"{name}.price"].tolist() == [2.5, 9.75, 9.75, 9.75]
    assert rows.columns[f"{name}.name"].tolist() == ["a", "b", None, None]
    assert np.isnan(rows.columns[f"{name}.units"][2:]).all()
    every = (f"{name}.price", f"{name}.units", f"{name}.name")
    assert rows.missing == [(), (f"{name}.price",), every, every]
    assert rows.refused.tolist() == [False, False, True, True]
    assert rows.event_us[name].tolist()[:2] == [micros(START) + 1_000, micros(START) + 5_000]
    assert (rows.event_us[name][2:] < 0).all()


def test_training_sees_the_defaults_that_serving_will_give(stand: Stand) -> None:
    view = stand.view(small(), features={"price": FeatureDeclaration(missing="default", default=9.75)})
    stand.build(view, START + timedelta(1))
    keys: list[object] = [1, 2, 3]
    spine = pa.table({"id": keys, "t": [START + timedelta(1)] * 3})
    name = f"{view.name}.price"
    raw = features.training_set(stand.warehouse, spine, keys=["id"], time="t", features=[name], views={view.name: view})
    trained = features.with_defaults(raw, features.lock({view.name: view}, [name]))
    assert raw.column(name).to_pylist() == [2.5, None, None]
    served = stand.read(view, {"id": keys}, START + timedelta(1)).columns[name]
    assert trained.column(name).to_pylist() == served.tolist() == [2.5, 9.75, 9.75]
    wrong = features.lock({view.name: view}, [name], {name: FeatureDeclaration(missing="default", default="much")})
    with pytest.raises(InputError, match="'much'"):
        features.with_defaults(raw, wrong)


def test_before_the_first_build_all_is_missing_and_after_it_nothing_needs_a_restart(stand: Stand) -> None:
    view = stand.view(small())
    reader = features.OnlineReader(stand.online, features.lock({view.name: view}, [f"{view.name}.units"]))
    before = reader.read({"id": [1]}, 1, micros(START + timedelta(1)))
    assert before.missing == [(f"{view.name}.units",)]
    stand.build(view, START + timedelta(1))
    after = reader.read({"id": [1]}, 1, micros(START + timedelta(1)))
    assert after.columns[f"{view.name}.units"].tolist() == [7.0]


def test_a_view_whose_key_nobody_gave_is_missing(stand: Stand) -> None:
    view = stand.view(small())
    stand.build(view, START + timedelta(1))
    rows = stand.read(view, {"customer": [1, 2]}, START + timedelta(1))
    assert [len(missing) for missing in rows.missing] == [3, 3]


def test_keys_as_callers_write_them_find_their_row(stand: Stand) -> None:
    table = pa.table({"id": [1], "day": [date(2011, 9, 1)], "event": [at(1)], "x": [5.0]})
    view = stand.view(table, entity=("id", "day"))
    stand.build(view, START + timedelta(1))
    ids: list[object] = [1, "1", 1.0, np.int64(1), "x", True, 1.5, None]
    days: list[object] = [date(2011, 9, 1), "2011-09-01", *[date(2011, 9, 1)] * 6]
    found = stand.read(view, {"id": ids, "day": days}, START + timedelta(1)).columns[f"{view.name}.x"]
    assert [value == 5.0 for value in found] == [True] * 4 + [False] * 4


def test_another_projects_view_is_called_by_both_names(stand: Stand) -> None:
    view = stand.view(small())
    stand.build(view, START + timedelta(1))
    (kept,) = features.lock({f"shop/{view.name}": view}, [f"shop/{view.name}.units"])
    rows = features.OnlineReader(stand.online, [kept], project="search").read(
        {"id": [2]}, 1, micros(START + timedelta(1))
    )
    assert {name: column.tolist() for name, column in rows.columns.items()} == {f"shop/{view.name}.units": [8.0]}


def test_a_view_comes_back_from_its_lock(stand: Stand) -> None:
    text = "/* ---\nentity = 'id'\nevent_time = 'event'\nttl = '1d'\n--- */\nselect * from kept"
    stand.land("kept", small())
    query = Query.parse(text, "features/kept.sql")
    source = ViewFile(name="kept", query=query, header=FeatureHeader(entity="id", event_time="event", ttl="1d"))
    view = features.describe(source, stand.warehouse, project="shop")
    (kept,) = features.lock({"kept": view}, ["kept.*"])
    again = features.view_of_lock(kept)
    assert (again.columns, again.table, again.header) == (view.columns, view.table, view.header)
    assert kept.ttl_us == 86_400_000_000


def test_a_part_that_is_null_makes_no_key() -> None:
    with pytest.raises(InputError, match="null"):
        features.entity_key(["a", None])
    assert features.entity_key([np.int64(3), np.str_("é"), datetime(2011, 9, 1)]) == '[3,"é","2011-09-01T00:00:00Z"]'


def test_an_unknown_feature_is_named_with_the_nearest(stand: Stand) -> None:
    view = stand.view(small(), name="prices")
    with pytest.raises(UnknownError, match="did you mean 'price'"):
        features.lock({"prices": view}, ["prices.prce"])
    with pytest.raises(UnknownError, match="did you mean 'prices'"):
        features.lock({"prices": view}, ["prics.price"])

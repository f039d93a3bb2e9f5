"""The views: maturity, corrections, runs and rankings, as of any moment."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.clock import FixedClock
from towpath.journal import views, write_rows, write_run
from towpath.journal.record import Run
from towpath.stores.objects import Objects
from towpath.types import utc
from towpath.warehouse.engine import Engine

MONDAY = utc("2026-01-05")
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    opened = Engine(memory_mib=256, threads=1)
    yield opened
    opened.close()


class Fleet:
    """A store that is filled row by row and asked as of a moment."""

    def __init__(self, engine: Engine, url: str = "memory://") -> None:
        self.objects = Objects(url)
        self.engine = engine
        self.files = 0

    def predict(self, prediction_id: str, **columns: Any) -> None:
        row = {"project": "shop", "model": "demand", "predicted_at": MONDAY, "target_at": MONDAY + DAY} | columns
        self._write("predictions", {"prediction_id": prediction_id, **row})

    def happen(self, outcome_id: str, **columns: Any) -> None:
        row = {"project": "shop", "model": "demand", "metric": "outcome", "weight": 1.0, "arrived_at": MONDAY + DAY}
        row = row | {"happened_at": MONDAY + DAY} | columns
        self._write("outcomes", {"outcome_id": outcome_id, **row})

    def run(self, run_id: str, status: str, at: datetime = MONDAY, as_of: datetime = MONDAY) -> None:
        ended = None if status == "running" else at
        run = Run(
            run_id=run_id,
            project="shop",
            model="demand",
            version=1,
            as_of=as_of,
            started_at=at,
            finished_at=ended,
            status=status,
        )
        write_run(self.objects, run, clock=FixedClock(at))

    def ask(self, sql: str, as_of: datetime = MONDAY + 9 * DAY, **window: Any) -> list[dict[str, Any]]:
        views(self.engine, self.objects, as_of=as_of, **window)
        return self.engine.read(sql).to_pylist()

    def _write(self, table: str, row: dict[str, Any]) -> None:
        self.files += 1
        data = pa.table({name: [value] for name, value in row.items()})
        write_rows(self.objects, table, data, name=f"file{self.files}", clock=FixedClock(MONDAY))


@pytest.fixture
def fleet(engine: Engine) -> Fleet:
    return Fleet(engine)


def test_an_empty_store_has_all_views_and_no_rows(fleet: Fleet) -> None:
    for view in ("runs", "predictions", "outcomes", "matured", "previous"):
        assert fleet.ask(f"select * from {view}") == []


def test_a_prediction_matures_when_its_time_has_passed_and_its_outcome_has_arrived(fleet: Fleet) -> None:
    fleet.predict("p", target_at=MONDAY + 7 * DAY, prediction=4.0)
    fleet.happen("early", prediction_id="p", value=1.0, arrived_at=MONDAY + DAY)
    fleet.happen("late", prediction_id="p", value=5.0, arrived_at=MONDAY + 8 * DAY)
    assert fleet.ask("select * from matured", MONDAY + 6 * DAY) == []
    [at_seven] = fleet.ask("select prediction, actual from matured", MONDAY + 7 * DAY)
    assert at_seven == {"prediction": 4.0, "actual": 1.0}
    [corrected] = fleet.ask("select actual, outcome_id from matured", MONDAY + 8 * DAY)
    assert corrected == {"actual": 5.0, "outcome_id": "late"}
    assert len(fleet.ask("select * from outcomes", MONDAY + 8 * DAY)) == 2


def test_an_outcome_without_an_id_finds_its_prediction_by_entity_and_target(fleet: Fleet) -> None:
    for name, key, days, horizon in [
        ("a", '["1"]', 1, "1d"),
        ("b", '["1"]', 2, "1d"),
        ("c", '["2"]', 1, "7d"),
        ("d", None, 1, None),
    ]:
        fleet.predict(name, entity_key=key, target_at=MONDAY + days * DAY, horizon=horizon)
    fleet.happen("x", entity_key='["1"]', target_at=MONDAY + DAY, value=1.0)
    fleet.happen("y", entity_key='["2"]', target_at=MONDAY + DAY, value=2.0, horizon="1d")
    fleet.happen("z", entity_key=None, target_at=MONDAY + DAY, value=3.0)
    assert fleet.ask("select prediction_id, actual from matured") == [{"prediction_id": "a", "actual": 1.0}]
    fleet.happen("y2", entity_key='["2"]', target_at=MONDAY + DAY, value=2.0, horizon="7d")
    assert fleet.ask("select prediction_id from matured order by 1") == [{"prediction_id": "a"}, {"prediction_id": "c"}]


def test_another_model_or_project_with_the_same_entity_is_another_thing(fleet: Fleet) -> None:
    fleet.predict("p", entity_key='["1"]')
    fleet.happen("x", entity_key='["1"]', target_at=MONDAY + DAY, value=1.0, model="search")
    fleet.happen("y", entity_key='["1"]', target_at=MONDAY + DAY, value=1.0, project="bakery")
    assert fleet.ask("select * from matured") == []


def test_clicks_are_read_by_position_and_a_whole_order_counts_once(fleet: Fleet) -> None:
    for position, item in enumerate(["x", "y", "z"], 1):
        fleet.predict("list", item=item, position=position)
    fleet.happen("click", prediction_id="list", item="y", metric="click", value=1.0)
    fleet.happen("order", prediction_id="list", metric="order_eur", value=30.0)
    assert fleet.ask("select metric, position, actual from matured order by metric") == [
        {"metric": "click", "position": 2, "actual": 1.0},
        {"metric": "order_eur", "position": 1, "actual": 30.0},
    ]


def test_of_several_runs_for_one_moment_the_latest_done_one_counts(fleet: Fleet) -> None:
    def state() -> list[str]:
        return [row["prediction_id"] for row in fleet.ask("select prediction_id from predictions order by 1")]

    fleet.predict("online")
    for run_id in ("first", "second", "third"):
        fleet.predict(f"of {run_id}", run_id=run_id)
    fleet.run("first", "running")
    assert state() == ["online"]
    fleet.run("first", "done")
    assert state() == ["of first", "online"]
    # a repeated run ends at the same moment of a standing clock, and still it is the later one
    fleet.run("second", "running")
    fleet.run("second", "done")
    assert state() == ["of second", "online"]
    fleet.run("third", "running")
    fleet.run("third", "failed")
    assert state() == ["of second", "online"]
    fleet.predict("of another day", run_id="another", predicted_at=MONDAY + DAY)
    fleet.run("another", "done", at=MONDAY + DAY, as_of=MONDAY + DAY)
    assert state() == ["of another day", "of second", "online"]
    assert fleet.ask("select run_id, status, counts from runs order by run_id") == [
        {"run_id": "another", "status": "done", "counts": True},
        {"run_id": "first", "status": "done", "counts": False},
        {"run_id": "second", "status": "done", "counts": True},
        {"run_id": "third", "status": "failed", "counts": False},
    ]
    # as of the evening before, the other day's run was not there
    assert len(fleet.ask("select * from runs", MONDAY)) == 3


def test_previous_is_the_prediction_before_of_the_same_entity(fleet: Fleet) -> None:
    for name, key, day, value in [
        ("a", '["1"]', 0, 1.0),
        ("b", '["1"]', 1, 2.0),
        ("c", '["2"]', 1, 9.0),
        ("d", None, 1, 0.0),
    ]:
        fleet.predict(name, entity_key=key, predicted_at=MONDAY + day * DAY, prediction=value)
    found = fleet.ask(
        "select prediction_id, previous_prediction_id as before, previous_prediction as was from previous order by 1"
    )
    assert [tuple(row.values()) for row in found] == [("a", None, None), ("b", "a", 1.0), ("c", None, None)]


def test_a_window_and_a_list_of_models_limit_what_is_seen(fleet: Fleet) -> None:
    for day in range(3):
        fleet.predict(f"d{day}", predicted_at=MONDAY + day * DAY)
    fleet.predict("other", model="search")
    names = "select prediction_id from predictions order by 1"
    assert [r["prediction_id"] for r in fleet.ask(names, since=MONDAY, until=MONDAY + 2 * DAY)] == ["d0", "d1", "other"]
    assert [r["prediction_id"] for r in fleet.ask(names, models=["search"])] == ["other"]
    assert [r["prediction_id"] for r in fleet.ask(names, since=MONDAY + DAY + DAY / 2)] == ["d2"]
    assert [r["prediction_id"] for r in fleet.ask(names, MONDAY)] == ["d0", "other"]


def test_a_folder_and_a_remote_store_give_the_same(engine: Engine, tmp_path: Path) -> None:
    answers = []
    for url in ("memory://", str(tmp_path)):
        fleet = Fleet(engine, url)
        fleet.predict("p", entity_key='["1"]', prediction=2.0)
        fleet.happen("o", prediction_id="p", value=3.0)
        answers.append(fleet.ask("select * exclude (recorded_at) from matured"))
    assert answers[0] == answers[1]
    assert len(answers[0]) == 1


@settings(max_examples=8, deadline=None)
@given(
    landed=st.lists(
        st.tuples(st.sampled_from(["p0", "p1", "p2"]), st.integers(0, 5), st.floats(0, 10)),
        max_size=8,
        unique_by=lambda o: (o[0], o[1]),
    ),
    day=st.integers(0, 6),
)
def test_matured_is_the_newest_outcome_known_whatever_the_order_of_landing(
    engine: Engine, landed: list[tuple[str, int, float]], day: int
) -> None:
    fleet = Fleet(engine)
    for name in ("p0", "p1", "p2"):
        fleet.predict(name, target_at=MONDAY + int(name[1]) * DAY)
    for at, (name, arrived, value) in enumerate(landed):
        fleet.happen(f"o{at}", prediction_id=name, value=value, arrived_at=MONDAY + arrived * DAY)
    known = sorted((o for o in landed if o[1] <= day and int(o[0][1]) <= day), key=lambda o: o[1])
    expected = {name: value for name, _, value in known}
    found = fleet.ask("select prediction_id, actual from matured", MONDAY + day * DAY)
    assert {row["prediction_id"]: row["actual"] for row in found} == expected
    assert len(found) == len(expected)

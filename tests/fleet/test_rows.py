"""The fleet's rows: states, calls, consumers, incidents, and the metric beside the fallback's."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from towpath.clock import FixedClock
from towpath.fleet import FleetRow, Member, rows
from towpath.journal import views, write_rows
from towpath.monitors import Incident, Watched
from towpath.sql import Query
from towpath.stores.objects import Objects
from towpath.types import utc
from towpath.warehouse.engine import Engine

MONDAY = utc("2026-01-05")
DAY = timedelta(days=1)
WAPE = Query.parse(
    "select abs(prediction - actual) * weight as numerator, abs(actual) * weight as denominator from scored"
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    opened = Engine(memory_mib=256, threads=1)
    yield opened
    opened.close()


class Store:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.objects, self.files = engine, Objects("memory://"), 0

    def answer(self, request: str, model: str = "demand", at: datetime = MONDAY, rows: int = 1, **columns: Any) -> None:
        row = {
            "project": "shop",
            "model": model,
            "request_id": request,
            "predicted_at": at,
            "target_at": at + DAY,
            "consumer": "till",
            "source": "champion",
            "latency_ms": 2.0,
        } | columns
        self._write("predictions", [row | {"prediction_id": f"{request}-{n}"} for n in range(rows)])

    def happen(self, prediction_id: str, value: float, model: str = "demand") -> None:
        row = {"outcome_id": f"o{prediction_id}", "project": "shop", "model": model, "prediction_id": prediction_id}
        row |= {"metric": "outcome", "value": value, "weight": 1.0, "happened_at": MONDAY, "arrived_at": MONDAY}
        self._write("outcomes", [row])

    def fleet(
        self, *members: Member, as_of: datetime = MONDAY + 2 * DAY, incidents: tuple[Incident, ...] = ()
    ) -> tuple[FleetRow, ...]:
        views(self.engine, self.objects, as_of=as_of)
        return rows(self.engine, members, incidents, as_of=as_of)

    def _write(self, table: str, records: list[Mapping[str, Any]]) -> None:
        self.files += 1
        columns = {name: [record[name] for record in records] for name in records[0]}
        write_rows(self.objects, table, pa.table(columns), name=f"f{self.files}", clock=FixedClock(MONDAY))


def member(model: str = "demand", **fields: Any) -> Member:
    watched = Watched(
        project="shop", team="food", model=model, owner="ana", tier="critical", champion=3, metric="wape", query=WAPE
    )
    return Member(watched=watched, **fields)


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


def test_a_store_without_models_has_no_rows(store: Store) -> None:
    assert store.fleet() == ()


def test_a_model_waits_then_lives_then_falls_silent(store: Store) -> None:
    store.answer("r1", at=MONDAY)
    deployed = member(waiting_since=MONDAY - 3 * DAY, integrator="ordering")
    states = {days: store.fleet(deployed, as_of=MONDAY + days * DAY)[0].state for days in (-1, 0, 7, 8)}
    assert states == {-1: "waiting", 0: "live", 7: "live", 8: "silent"}
    [waiting] = store.fleet(deployed, as_of=MONDAY - DAY)
    assert (waiting.calls, waiting.consumers, waiting.fallback_share, waiting.metric_value) == (0, (), None, None)
    assert (waiting.waiting_since, waiting.integrator, waiting.owner, waiting.tier) == (
        MONDAY - 3 * DAY,
        "ordering",
        "ana",
        "critical",
    )
    assert store.fleet(member(retired=True))[0].state == "retired"


def test_calls_are_requests_and_the_share_is_of_rows(store: Store) -> None:
    store.answer("r1", rows=3)
    store.answer("r2", consumer="web", source="fallback:mean")
    store.answer("old", at=MONDAY - 6 * DAY, consumer="gone")
    store.answer("other", model="search")
    [row, other] = store.fleet(member(), member("search"))
    assert (row.calls, row.rows, row.fallback_share, row.consumers) == (2, 4, 0.25, ("till", "web"))
    assert (row.first_called_at, row.last_called_at, row.latency_p99_ms) == (MONDAY - 6 * DAY, MONDAY, 2.0)
    assert (other.model, other.calls) == ("search", 1)


def test_a_ranking_is_one_row(store: Store) -> None:
    for position in (1, 2, 3):
        store.answer("r1", item=f"i{position}", position=pa.scalar(position, pa.int32()).as_py())
    [row] = store.fleet(member())
    assert (row.calls, row.rows) == (1, 1)


def test_the_metric_stands_beside_the_fallbacks_on_the_same_rows(store: Store) -> None:
    store.answer("a", prediction=9.0, fallback_prediction=5.0)
    store.answer("b", prediction=20.0)
    store.answer("c", prediction=99.0, source="fallback:mean")
    for name in "abc":
        store.happen(f"{name}-0", 10.0)
    [row] = store.fleet(member())
    assert (row.metric, row.matured_rows) == ("wape", 2)
    assert row.metric_value == pytest.approx(0.55)
    assert (row.fallback_value, row.beside_fallback_value) == (pytest.approx(0.5), pytest.approx(0.1))
    [before] = store.fleet(member(), as_of=MONDAY)
    assert (before.metric_value, before.matured_rows) == (None, 0)


def test_a_model_without_a_known_metric_has_none(store: Store) -> None:
    store.answer("a", prediction=9.0)
    store.happen("a-0", 10.0)
    unknown = Member(watched=Watched(project="shop", team="food", model="demand", owner="ana", metric="waste_eur"))
    [row] = store.fleet(unknown)
    assert (row.metric, row.metric_value, row.champion) == ("waste_eur", None, None)
    assert row.unmeasured == "'waste_eur' is no metric of this project."


def test_a_metric_that_cannot_be_read_hides_no_other_model(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    for model in ("broken", "demand"):
        store.answer(model, model=model, prediction=9.0)
        store.happen(f"{model}-0", 10.0, model)
    query = Query.parse("select purchase_price as numerator, weight as denominator from scored")
    broken = Member(watched=msgspec.structs.replace(member("broken").watched, query=query))
    first, second = store.fleet(broken, member())
    assert (first.model, first.calls, first.metric_value) == ("broken", 1, None)
    assert "purchase_price" in first.unmeasured
    assert second.unmeasured == ""
    assert second.metric_value == pytest.approx(0.1)
    assert "'broken' has no metric" in caplog.text


def incident(name: str, opened: int, closed: int | None) -> Incident:
    return Incident(
        incident_id=name,
        project="shop",
        model="demand",
        monitor="did_it_run",
        segment="",
        severity="critical",
        status="open" if closed is None else "closed",
        opened_at=MONDAY + opened * DAY,
        last_seen_at=MONDAY + opened * DAY,
        closed_at=None if closed is None else MONDAY + closed * DAY,
        failing_rows=1,
        detail={},
        owner="ana",
        mend="",
        delivered_at=None,
    )


def test_incidents_are_shown_as_they_stood(store: Store) -> None:
    found = (incident("one", 0, 3), incident("two", 1, None), incident("three", 5, None))
    at = {days: store.fleet(member(), as_of=MONDAY + days * DAY, incidents=found)[0] for days in (-1, 2, 4, 6)}
    assert [row.open_incidents for row in at.values()] == [0, 2, 1, 2]
    assert [row.last_incident_id for row in at.values()] == [None, "two", "two", "three"]
    assert at[4].last_incident_status == "open"

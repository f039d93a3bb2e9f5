"""Monitors asked over a real journal: what they see, and when they stay silent."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from towpath.clock import FixedClock
from towpath.errors import ProjectError
from towpath.gate.verdict import SegmentResult, Verdict
from towpath.journal import views, write_rows, write_run
from towpath.journal.record import Run
from towpath.monitors import Checked, Monitor, Promise, Watched, built_in, check, measured, promises, register
from towpath.project.declarations import MonitorHeader
from towpath.sql import Query
from towpath.stores.objects import Objects
from towpath.types import utc
from towpath.warehouse.engine import Engine

MONDAY = utc("2026-01-05")
DAY = timedelta(days=1)
WAPE = Query.parse(
    "select abs(prediction - actual) * weight as numerator, abs(actual) * weight as denominator from scored", "wape.sql"
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    opened = Engine(memory_mib=256, threads=1)
    yield opened
    opened.close()


class Story:
    """A model that predicts 100 items a day in two price bands, and what happened to each a day later."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.objects, self.files = engine, Objects("memory://"), 0
        self.chance = np.random.default_rng(7)

    def day(
        self,
        number: int,
        *,
        factor: float = 1.0,
        factor_of_low: float | None = None,
        matured: float = 1.0,
        source: str = "champion",
        run_id: str | None = None,
        rows: int = 100,
    ) -> None:
        at = MONDAY + number * DAY
        actual = 10.0 + self.chance.integers(0, 5, rows)
        band = np.array(["low", "high"])[np.arange(rows) % 2]
        wrong = np.where(band == "low", factor if factor_of_low is None else factor_of_low, factor)
        ids = [f"{number}-{source}-{item}" for item in range(rows)]
        common = {"project": ["shop"] * rows, "model": ["demand"] * rows}
        keys = [f'["{item}"]' for item in range(rows)]
        predictions = {
            "prediction_id": ids,
            "version": pa.array([3] * rows, pa.int32()),
            "predicted_at": [at] * rows,
            "target_at": [at + DAY] * rows,
            "entity_key": keys,
            "segment": [f'{{"price_band":"{one}"}}' for one in band],
            "source": [source] * rows,
            "run_id": pa.array([run_id] * rows, pa.string()),
            "prediction": actual * wrong,
            "fallback_prediction": actual * 1.5,
        }
        self.write("predictions", common | predictions)
        known = int(rows * matured)
        outcomes = {
            "outcome_id": [f"o{one}" for one in ids],
            "prediction_id": ids,
            "metric": ["outcome"] * rows,
            "value": actual,
            "weight": [1.0] * rows,
            "happened_at": [at + DAY] * rows,
            "arrived_at": [at + DAY] * rows,
        }
        self.write("outcomes", {name: values[:known] for name, values in (common | outcomes).items()})

    def run(
        self, run_id: str, status: str, number: int, expected: int | None = None, written: int | None = None
    ) -> None:
        at = MONDAY + number * DAY
        run = Run(
            run_id=run_id,
            project="shop",
            model="demand",
            version=3,
            as_of=at,
            started_at=at,
            finished_at=None if status == "running" else at,
            status=status,
            expected_rows=expected,
            written_rows=written,
        )
        write_run(self.objects, run, clock=FixedClock(at))

    def ask(self, name: str, as_of: datetime, model: "Watched | None" = None, **parameters: float) -> Checked:
        model = model or watched()
        views(self.engine, self.objects, as_of=as_of)
        register(self.engine, [model])
        monitors = {one.name: one for one in built_in(model, {name: parameters})}
        [answer] = check(self.engine, [monitors[name]], as_of=as_of)
        assert answer.error == ""
        return answer

    def write(self, table: str, columns: Mapping[str, Any]) -> None:
        self.files += 1
        write_rows(self.objects, table, pa.table(dict(columns)), name=f"f{self.files}", clock=FixedClock(MONDAY))


def watched(promised: float = 0.1, better: str = "lower") -> Watched:
    segments = ("", "price_band=low", "price_band=high")
    return Watched(
        project="shop",
        team="food",
        model="demand",
        owner="ana",
        champion=3,
        metric="wape",
        query=WAPE,
        better=better,  # type: ignore[arg-type]
        promised=tuple(Promise(version=3, segment=one, value=promised, rows=1_000) for one in segments),
    )


@pytest.fixture
def story(engine: Engine) -> Story:
    return Story(engine)


def test_a_model_that_stops_is_noticed_and_one_that_waits_is_not(story: Story) -> None:
    assert story.ask("did_it_run", MONDAY + DAY).status == "ok"  # never called yet
    story.day(0)
    assert story.ask("did_it_run", MONDAY + DAY).status == "ok"
    stopped = story.ask("did_it_run", MONDAY + 2 * DAY)
    assert (stopped.status, stopped.rows[0]["what"]) == ("failing", "no predictions")


def test_a_run_that_failed_or_wrote_too_little_is_noticed_until_a_later_one_is_whole(story: Story) -> None:
    evening = MONDAY + DAY / 2
    story.run("r1", "running", 0)
    [row] = story.ask("did_it_run", evening).rows
    assert (row["what"], row["run_id"]) == ("a run did not finish", "r1")
    story.run("r1", "failed", 0)
    assert story.ask("did_it_run", evening).status == "failing"
    story.day(0, run_id="r2", rows=40)
    story.run("r2", "done", 0, expected=100, written=40)
    [row] = story.ask("did_it_run", evening).rows
    assert (row["what"], row["rows_written"], row["expected_rows"]) == ("a run wrote too few rows", 40, 100)
    story.day(0, run_id="r3", source="champion again")
    story.run("r3", "done", 0, expected=100, written=100)
    assert story.ask("did_it_run", evening).status == "ok"


def test_answers_far_from_the_ones_before_are_told_by_segment(story: Story) -> None:
    story.day(0)
    story.day(1)
    assert story.ask("far_from_previous", MONDAY + 2 * DAY, min_rows=50).status == "ok"
    story.day(2, factor_of_low=5.0)
    far = story.ask("far_from_previous", MONDAY + 3 * DAY, min_rows=50)
    assert set(far.segments) == {"", "price_band=low"}
    assert far.rows[0]["far_share"] == 1.0
    assert story.ask("far_from_previous", MONDAY + 3 * DAY, min_rows=101).status == "ok"


def test_a_class_that_flips_is_far_from_the_one_before(story: Story) -> None:
    for number, label in enumerate(["yes", "no"]):
        rows = {"prediction_id": [f"{number}-{n}" for n in range(10)], "entity_key": [f"[{n}]" for n in range(10)]}
        common = {"project": "shop", "model": "demand", "label": label, "predicted_at": MONDAY + number * DAY}
        columns = rows | {name: [value] * 10 for name, value in (common | {"target_at": MONDAY + 9 * DAY}).items()}
        story.write("predictions", columns)
    answer = story.ask("far_from_previous", MONDAY + DAY + DAY / 2, min_rows=10)
    assert [(row["segment"], row["far_rows"], row["mean"]) for row in answer.rows] == [("", 10, None)]


def test_worse_than_promised_names_the_segment_that_is_worse(story: Story) -> None:
    for number in range(5):
        story.day(number, factor=1.05, factor_of_low=1.3)
    answer = story.ask("worse_than_promised", MONDAY + 6 * DAY)
    assert set(answer.segments) == {"", "price_band=low"}
    low = next(row for row in answer.rows if row["segment"] == "price_band=low")
    assert low["value"] == pytest.approx(0.3)
    assert (low["promised"], low["limit_value"], low["rows"], low["version"]) == (0.1, pytest.approx(0.12), 250, 3)
    assert low["matured_share"] == 1.0


def test_worse_than_promised_is_silent_where_it_knows_too_little(story: Story) -> None:
    # given answers that are far worse than promised
    for number in range(5):
        story.day(number, factor=2.0, matured=0.5)
    end = MONDAY + 6 * DAY
    # then it waits for labels, for rows, and for the version that promised
    assert story.ask("worse_than_promised", end).status == "ok"
    assert story.ask("worse_than_promised", end, min_matured_share=0.4).status == "failing"
    assert story.ask("worse_than_promised", end, min_matured_share=0.4, min_rows=1_000).status == "ok"
    other = msgspec.structs.replace(watched(), promised=())
    assert story.ask("worse_than_promised", end, other, min_matured_share=0.4).status == "ok"


def test_a_fallbacks_answers_do_not_break_the_champions_promise(story: Story) -> None:
    for number in range(5):
        story.day(number, factor=1.05)
        story.day(number, factor=3.0, source="fallback:mean")
    assert story.ask("worse_than_promised", MONDAY + 6 * DAY).status == "ok"


@pytest.mark.parametrize(
    ("better", "promised", "status"), [("lower", 0.4, "ok"), ("higher", 0.4, "failing"), ("zero", 0.0, "failing")]
)
def test_worse_depends_on_which_way_is_better(story: Story, better: str, promised: float, status: str) -> None:
    for number in range(5):
        story.day(number, factor=1.3)
    assert story.ask("worse_than_promised", MONDAY + 6 * DAY, watched(promised, better)).status == status


def test_a_metric_that_cannot_be_read_is_said_and_silences_no_other_monitor(story: Story) -> None:
    story.day(0)
    query = Query.parse("select purchase_price as numerator, weight as denominator from scored")
    broken = msgspec.structs.replace(watched(), query=query)
    [row] = story.ask("worse_than_promised", MONDAY + 2 * DAY, broken).rows
    assert "wape cannot be read" in row["metric"]
    assert "purchase_price" in row["metric"]
    assert story.ask("did_it_run", MONDAY + DAY, broken).status == "ok"


def test_measured_rows_add_up_to_the_metric_of_model_and_fallback(story: Story) -> None:
    story.day(0, factor=1.2)
    views(story.engine, story.objects, as_of=MONDAY + 2 * DAY)
    table = measured(story.engine, [watched(), Watched(project="shop", team="", model="other", owner="")])
    total = {name: float(np.sum(table[name].to_numpy())) for name in table.column_names if name.endswith("ator")}
    assert total["numerator"] / total["denominator"] == pytest.approx(0.2)
    assert total["fallback_numerator"] / total["fallback_denominator"] == pytest.approx(0.5)


def test_a_metric_may_read_a_segment_as_a_column(story: Story) -> None:
    story.day(0)
    views(story.engine, story.objects, as_of=MONDAY + 2 * DAY)
    query = Query.parse(
        "select case when price_band = 'low' then 1.0 else 0.0 end as numerator, weight as denominator from scored"
    )
    model = Watched(project="shop", team="", model="demand", owner="", query=query)
    assert sum(measured(story.engine, [model])["numerator"].to_pylist()) == 50


def test_promises_are_those_of_the_last_verdict_of_a_version() -> None:
    def verdict(candidate: float | None) -> Verdict:
        segment = SegmentResult(segment="a=b", rows=9, candidate=candidate, reference=None, decides=True, passed=True)
        return Verdict(
            project="shop",
            model="demand",
            version=3,
            against=None,
            at=MONDAY,
            by="ana",
            passed=True,
            metric="wape",
            rows=10,
            entities=2,
            candidate=candidate,
            segments=(segment,),
        )

    found = promises([verdict(0.5), verdict(0.4), verdict(None)])
    assert [(one.segment, one.value, one.rows) for one in found] == [("", 0.4, 10), ("a=b", 0.4, 9)]


def monitor(sql: str, **header: Any) -> Monitor:
    header = {"description": "asks something"} | header
    return Monitor(
        name="mine",
        query=Query.parse(sql, "monitors/mine.sql"),
        header=MonitorHeader(**header),
        project="shop",
        model="demand",
    )


def test_a_monitor_joins_the_journal_with_its_inputs_from_the_warehouse(story: Story) -> None:
    story.day(0)
    views(story.engine, story.objects, as_of=MONDAY + DAY)
    asked: list[Mapping[str, object]] = []

    def ask(query: Query, parameters: Mapping[str, object]) -> pa.Table:
        asked.append(parameters)
        assert query.tables == ("sales.items",)
        return pa.table({"item": ['["3"]'], "listed_at": pa.array([MONDAY], pa.timestamp("us", "UTC"))})

    mine = monitor(
        "select 'price' as segment, p.entity_key from predictions p join items i on p.entity_key = i.item "
        "and p.predicted_at = i.listed_at where p.prediction > :limit and p.predicted_at >= :since",
        inputs={"items": "select * from sales.items where listed_at <= :as_of"},
        parameters={"limit": 1},
        window="2d",
    )
    [answer] = check(story.engine, [mine], as_of=MONDAY + DAY, ask=ask)
    assert (answer.error, answer.status, answer.segments) == ("", "failing", {"price": 1})
    assert asked[0]["since"] == MONDAY - DAY
    [without] = check(story.engine, [mine], as_of=MONDAY + DAY)
    assert (without.status, "needs the warehouse" in without.error) == ("error", True)


def test_a_broken_monitor_silences_no_other(story: Story) -> None:
    story.day(0)
    views(story.engine, story.objects, as_of=MONDAY + DAY)
    broken, fine = monitor("select nothing from nowhere"), monitor("select * from predictions")
    first, second = check(story.engine, [broken, fine], as_of=MONDAY + DAY)
    assert (first.status, second.status, second.failing_rows, len(second.rows)) == ("error", "failing", 100, 20)


def test_an_unknown_monitor_or_parameter_is_told_with_the_nearest() -> None:
    with pytest.raises(ProjectError, match="'did_it_run'"):
        built_in(watched(), {"did_it_ran": {}})
    with pytest.raises(ProjectError, match="'min_rows'"):
        built_in(watched(), {"did_it_run": {"min_row": 1}})

"""The fallback's answer beside the model's, of requests: a sample of units, after the answer, in nobody's way."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from serving_stand import AT, PlainModel, Standing, a_manifest, deployed

from towpath.clock import FixedClock
from towpath.fleet import FleetRow, Member, rows
from towpath.journal import Journal, flush, outcome_rows, views
from towpath.journal.record import Outcome
from towpath.monitors import Watched
from towpath.project.declarations import FallbackDeclaration, OutputDeclaration, ServingDeclaration
from towpath.project.folder import built_in_metrics
from towpath.serving.responder import Responder
from towpath.serving.served import Served
from towpath.stores.objects import Objects
from towpath.traffic import point
from towpath.warehouse.engine import Engine

CLOCK = FixedClock(AT)
MEAN = FallbackDeclaration(name="mean", function="mean")
Columns = Mapping[str, NDArray[Any]]


def standing(
    mean: Callable[[Columns], NDArray[Any]] | None = None,
    *,
    share: float = 1.0,
    fallback: tuple[FallbackDeclaration, ...] = (MEAN,),
    output: OutputDeclaration | None = None,
    predict: Callable[[Columns], dict[str, NDArray[Any]]] | None = None,
    **more: Any,
) -> Served:
    manifest = a_manifest(
        fallback=fallback,
        serving=ServingDeclaration(timeout_ms=2_000, beside_share=share),
        output=output or OutputDeclaration(low=0),
        **more,
    )
    fallbacks = {"mean": mean or (lambda columns: columns["a"] * 2)}
    return Served(manifest, PlainModel(predict=predict, fallbacks=fallbacks))


class Stand:
    """A responder with a journal on the disk, and what the journal says once it is flushed."""

    def __init__(self, folder: Path, served: Served) -> None:
        self.folder, self.served, self.objects = folder, served, Objects("memory://")
        self.journal = Journal(folder, server="one", clock=CLOCK, roll_s=60)
        deployment = deployed(served)
        self.responder = Responder(Standing(deployment), clock=CLOCK, journal=self.journal, beside=self.journal)

    def said(self) -> list[dict[str, Any]]:
        until = time.monotonic() + 5
        while (self.served.beside_lane.waiting_rows or not self.idle) and time.monotonic() < until:
            time.sleep(0.01)
        self.journal.close()
        flush(self.folder, self.objects, clock=CLOCK)
        engine = Engine(memory_mib=128, threads=1)
        views(engine, self.objects, as_of=AT + timedelta(days=1))
        found = engine.read(
            "select prediction_id, source, prediction, fallback_prediction from predictions order by all"
        ).to_pylist()
        engine.close()
        return found

    def fleet(self, metric: str, **watched: Any) -> FleetRow:
        engine = Engine(memory_mib=128, threads=1)
        views(engine, self.objects, as_of=AT + timedelta(days=1))
        query = built_in_metrics()[metric].query
        model = Watched(
            project="shop", team="food", model="demand", owner="ana", champion=1, metric=metric, query=query, **watched
        )
        [row] = rows(engine, [Member(watched=model)], [], as_of=AT + timedelta(days=1))
        engine.close()
        return row

    @property
    def idle(self) -> bool:
        lane = self.served.beside_lane
        return lane._idle == lane._threads


@pytest.fixture
def stand(tmp_path: Path) -> Callable[..., Stand]:
    return lambda served: Stand(tmp_path / "journal", served)


def test_what_the_fallback_would_have_said_stands_beside_the_answer(stand: Callable[..., Stand]) -> None:
    at = stand(standing())
    answered = at.responder.answer("demand", [{"a": 1.0, "b": 2.0}, {"a": -4.0, "b": 5.0}])
    assert [row.prediction for row in answered.predictions] == [3.0, 1.0]
    said = at.said()
    assert [row["prediction"] for row in said] == [3.0, 1.0]
    # what may not be given as an answer is not compared with either
    assert [row["fallback_prediction"] for row in said] == [2.0, None]


def test_the_fleet_shows_both_metrics_of_a_model_that_is_only_called(tmp_path: Path) -> None:
    served = standing()
    at = Stand(tmp_path / "journal", served)
    happened = [
        Outcome(prediction_id=at.responder.answer("demand", [{"a": a, "b": 1.0}]).predictions[0].prediction_id, value=v)
        for a, v in ((1.0, 2.0), (2.0, 4.0), (5.0, 5.0))
    ]
    at.journal.outcomes(outcome_rows(happened, project="shop", model="demand", consumer="local", arrived_at=AT))
    assert len(at.said()) == 3
    row = at.fleet("mae")
    assert row.metric_value == pytest.approx(2 / 3)
    assert (row.fallback_value, row.beside_fallback_value, row.beside_rows) == (
        pytest.approx(5 / 3),
        pytest.approx(2 / 3),
        3,
    )
    assert row.difference == pytest.approx(-1)
    assert row.difference_low is not None
    assert row.difference_high is not None
    assert row.difference_low < -1 < row.difference_high


LABELS: dict[str, tuple[Callable[[NDArray[Any]], NDArray[Any]], tuple[str, ...]]] = {
    "text": (lambda a: np.where(a > 2, "many", "few").astype(object), ("few", "many")),
    "numbers": (lambda a: np.where(a > 2, 1, 0), ("0", "1")),
}


@pytest.mark.parametrize("labels", LABELS)
def test_labels_of_both_are_compared_on_the_same_rows(labels: str, tmp_path: Path) -> None:
    # given a model that is right twice in three, and a fallback that always says the first class
    label, (few, many) = LABELS[labels]
    first = [few if labels == "text" else 0]
    served = standing(
        lambda columns: np.array(first * len(columns["a"]), dtype=object),
        output=OutputDeclaration(kind="class", classes=(few, many)),
        predict=lambda columns: {"prediction": label(columns["a"])},
    )
    at = Stand(tmp_path / "journal", served)
    happened = [
        Outcome(
            prediction_id=at.responder.answer("demand", [{"a": a, "b": 1.0}]).predictions[0].prediction_id, label=truth
        )
        for a, truth in ((1.0, few), (3.0, many), (4.0, few), (5.0, many), (6.0, many), (1.5, many))
    ]
    at.journal.outcomes(outcome_rows(happened, project="shop", model="demand", consumer="local", arrived_at=AT))
    at.said()
    # then the fleet has the accuracy of both
    row = at.fleet("accuracy", kind="class", better="higher")
    assert (row.metric_value, row.fallback_value) == (pytest.approx(4 / 6), pytest.approx(2 / 6))
    assert (row.beside_fallback_value, row.beside_rows, row.difference) == (
        pytest.approx(4 / 6),
        6,
        pytest.approx(1 / 3),
    )


@pytest.mark.parametrize(("metric", "ours", "theirs"), [("hit_rate", 2 / 3, 2 / 3), ("mrr", 1 / 2, 4 / 9)])
@pytest.mark.parametrize("together", [True, False], ids=["one request", "a request each"])
def test_lists_of_both_are_compared_on_the_same_rows(
    metric: str, ours: float, theirs: float, together: bool, tmp_path: Path
) -> None:
    def listed(*items: Any) -> Callable[[Columns], NDArray[Any]]:
        def answer(columns: Columns) -> NDArray[Any]:
            answers = np.empty(len(columns["a"]), dtype=object)
            answers[:] = [list(items) for _ in columns["a"]]
            return answers

        return answer

    # given a model and a fallback that each show everybody the same items, which have numbers for names
    served = standing(
        listed(3, 8, 1), output=OutputDeclaration(kind="ranking"), predict=lambda c: {"prediction": listed(7, 3)(c)}
    )
    at = Stand(tmp_path / "journal", served)
    asked = [{"a": 1.0, "b": 1.0}] * 3
    pages = [asked] if together else [[row] for row in asked]
    ids = [row.prediction_id for page in pages for row in at.responder.answer("demand", page).predictions]
    # when one takes the first item of the model, one the second, and one what only the fallback has: at its third place
    taken = zip(ids, ("7", "3", "1"), strict=True)
    happened = [
        Outcome(prediction_id=one, item=item, value=1.0) if item != "1" else Outcome(prediction_id=one, label=item)
        for one, item in taken
    ]
    at.journal.outcomes(outcome_rows(happened, project="shop", model="demand", consumer="local", arrived_at=AT))
    at.said()
    row = at.fleet(metric, kind="ranking", better="higher")
    assert row.beside_rows == 3
    assert (row.metric_value, row.fallback_value) == (pytest.approx(ours), pytest.approx(theirs))
    assert row.difference == pytest.approx(ours - theirs)


def test_a_unit_is_always_in_the_sample_or_never(stand: Callable[..., Stand]) -> None:
    served = standing(share=0.3, unit="who", journal="none")
    at = stand(served)
    names = [f"customer {n}" for n in range(60)]
    for _ in range(2):
        at.responder.answer("demand", [{"a": 1.0, "b": 1.0, "who": name} for name in names])
        for name in names[:20]:
            at.responder.answer("demand", [{"a": 1.0, "b": 1.0, "who": name}])
    kept = [point(name, "demand", "beside") < 0.3 for name in names]
    expected = 2 * (sum(kept) + sum(kept[:20]))
    assert 0 < expected < 160
    assert sum(row["fallback_prediction"] is not None for row in at.said()) == expected


def test_no_answer_waits_for_it_and_a_fallback_that_hangs_hurts_no_other(stand: Callable[..., Stand]) -> None:
    hangs = threading.Event()

    def mean(columns: Columns) -> NDArray[Any]:
        hangs.wait(20)
        return columns["a"]

    served = standing(mean)
    at = stand(served)
    started = time.perf_counter()
    for _ in range(3_000):
        (row,) = at.responder.answer("demand", [{"a": 1.0, "b": 2.0}]).predictions
        assert row.source == "champion"
    assert time.perf_counter() - started < 10
    # one is asked, as many wait as may, the others are skipped, and neither worker nor fallback lane is troubled
    assert served.beside_lane.waiting_rows <= 2_000
    assert not served.stuck
    hangs.set()
    assert len(at.said()) == 3_000


def test_a_row_that_the_fallback_answered_is_not_asked_again(stand: Callable[..., Stand]) -> None:
    asked: list[int] = []

    def mean(columns: Columns) -> NDArray[Any]:
        asked.append(len(columns["a"]))
        return columns["a"]

    at = stand(standing(mean))
    sources = [
        row.source for row in at.responder.answer("demand", [{"a": 1.0, "b": -9.0}, {"a": 1.0, "b": 1.0}]).predictions
    ]
    assert sources == ["fallback:mean", "champion"]
    assert [row["fallback_prediction"] for row in at.said()] == [None, 1.0]
    assert asked == [1, 1]


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        (standing(share=0.0), None),
        (standing(fallback=()), None),
        (standing(lambda _: np.array(["x"])), None),
        (standing(lambda _: 1 / 0), None),  # pyright: ignore[reportArgumentType]
        (standing(fallback=(FallbackDeclaration(name="zero", constant=0.0),)), 0.0),
        (standing(fallback=(FallbackDeclaration(name="before", version="previous"),)), None),
    ],
    ids=["switched off", "no fallback", "text", "raises", "a constant", "no version before"],
)
def test_a_fallback_that_cannot_be_compared_leaves_nothing_beside(
    stand: Callable[..., Stand], served: Served, expected: float | None
) -> None:
    at = stand(served)
    (row,) = at.responder.answer("demand", [{"a": 1.0, "b": 2.0}]).predictions
    assert row.prediction == 3.0
    assert [one["fallback_prediction"] for one in at.said()] == [expected]

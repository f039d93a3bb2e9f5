"""On-demand features in a request: where their inputs come from, and what a function that fails costs."""

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from serving_stand import AT, LOCK, OnlineTable, PlainModel, a_manifest, deployed, responding

from towpath.errors import InputError
from towpath.features import FeatureColumn, OnDemand, OnDemandInputLock, OnDemandLock
from towpath.models.manifest import Field
from towpath.project.declarations import FallbackDeclaration, ServingDeclaration
from towpath.serving.infer import model_metadata
from towpath.serving.metrics import Meter
from towpath.serving.served import Served

INPUTS = (
    OnDemandInputLock(name="amount", reads="request", type="double"),
    OnDemandInputLock(name="a", reads="sales.a", type="double"),
    OnDemandInputLock(name="now", reads="time", type="timestamp[us, tz=UTC]"),
)
CONSTANT = (FallbackDeclaration(name="seven", constant=7.0),)
ONLINE = OnlineTable({"x": {"sales.a": 2.0, "sales.b": 1.0}}, ("sales.a", "sales.b"))


def basket(amount: Any, a: Any, now: Any) -> dict[str, Any]:
    hour = (now - now.astype("M8[D]")) // np.timedelta64(1, "h")
    return {"share": amount / a, "hour": hour}


def served(
    function: Callable[..., Any] = basket,
    *,
    missing: Any = "null",
    budget_ms: int = 500,
    required: bool = False,
    time: str | None = None,
) -> Served:
    columns = (FeatureColumn(name="share", type="double", missing=missing), FeatureColumn(name="hour", type="int64"))
    inputs = (msgspec.structs.replace(INPUTS[0], required=required), *INPUTS[1:])
    lock = OnDemandLock(
        project="shop",
        view="basket",
        path="features/basket.py",
        digest="",
        inputs=inputs,
        columns=columns,
        budget_ms=budget_ms,
    )
    fields = tuple(Field(name=name, type="double") for name in ("basket.share", "sales.b"))
    manifest = a_manifest(
        features=(LOCK,),
        on_demand=(lock,),
        entity=("item_id",),
        fallback=CONSTANT,
        time=time,
        serving=ServingDeclaration(timeout_ms=2_000),
    )
    model = PlainModel(
        inputs=fields,
        predict=lambda columns: {
            "prediction": np.nan_to_num(columns["basket.share"], nan=-1.0) * 10 + columns["sales.b"]
        },
    )
    return Served(manifest, model, reader=ONLINE, functions=[OnDemand(lock, function)])


def answers(one: Served, rows: list[dict[str, Any]], **more: Any) -> Any:
    responder, journal = responding(deployed(one), **more)
    return responder.answer("demand", rows), journal


def test_keys_bring_the_views_and_the_row_brings_the_rest() -> None:
    found, journal = answers(served(), [{"item_id": "x", "amount": 3.0}, {"item_id": "x", "amount": None}])
    assert [row.prediction for row in found.predictions] == [16.0, -9.0]
    assert [row.missing for row in found.predictions] == [(), ("basket.share",)]
    assert journal.records[0].rows.prediction == [16.0, -9.0]


def test_the_metadata_names_the_keys_and_what_the_function_reads_of_the_request() -> None:
    assert model_metadata(deployed(served()))["inputs"] == [
        {"name": "item_id", "datatype": "BYTES", "shape": [-1]},
        {"name": "amount", "datatype": "FP64", "shape": [-1]},
    ]


def test_a_column_that_a_row_does_not_name_is_null_and_said() -> None:
    found, _ = answers(served(), [{"item_id": "x"}])
    assert found.predictions[0].missing == ("amount", "basket.share")


def test_a_required_column_that_a_row_does_not_name_is_the_callers_fault() -> None:
    with pytest.raises(InputError, match=r"row 1 has no column 'amount', which 'basket' needs"):
        answers(served(required=True), [{"item_id": "x", "amount": 1.0}, {"item_id": "x"}])


def test_a_value_of_another_type_is_the_callers_fault() -> None:
    with pytest.raises(InputError, match="row 0, 'amount': 'much' is no number"):
        answers(served(), [{"item_id": "x", "amount": "much"}])
    with pytest.raises(InputError, match=r"unknown column 'amuont'; did you mean 'amount'\?"):
        answers(served(), [{"item_id": "x", "amuont": 1.0}])


def test_a_row_may_bring_what_is_looked_up_and_what_is_computed() -> None:
    rows = [
        {"item_id": "x", "amount": 3.0, "sales.a": 1.0},  # instead of what is looked up
        {"item_id": "x", "amount": 3.0, "basket.share": 5.0},  # instead of what is computed
        {"item_id": "nobody", "amount": 3.0, "sales.a": 3.0, "sales.b": 0.0},
    ]
    found, _ = answers(served(), rows)
    assert [row.prediction for row in found.predictions] == [31.0, 51.0, 10.0]


def test_without_a_key_a_row_brings_everything_that_is_read() -> None:
    found, _ = answers(served(), [{"amount": 4.0, "sales.a": 2.0, "sales.b": 0.0}])
    assert found.predictions[0].prediction == 20.0
    with pytest.raises(InputError, match=r"row 0 has no column 'sales.a' and no key to look it up by"):
        answers(served(), [{"amount": 4.0, "sales.b": 0.0}])


def test_the_moment_is_the_rows_own_where_it_names_one() -> None:
    def late(amount: Any, a: Any, now: Any) -> dict[str, Any]:
        return {"share": basket(amount, a, now)["hour"].astype(float), "hour": amount}

    rows = [{"item_id": "x", "amount": 1.0, "day": "2026-01-01T05:30Z"}, {"item_id": "x", "amount": 1.0}]
    found, _ = answers(served(late, time="day"), rows)
    assert [row.prediction for row in found.predictions] == [51.0, AT.hour * 10 + 1.0]


def test_columns_are_read_as_rows_are() -> None:
    one = served()
    given = {"item_id": np.array(["x", "y"], dtype=object), "amount": np.array([3.0, np.nan])}
    prepared = one.whole(one.from_columns(given, 2, 0))
    assert np.array_equal(prepared.columns["basket.share"], [1.5, np.nan], equal_nan=True)
    assert prepared.missing is not None
    assert prepared.missing[0] == ()
    assert "basket.share" in prepared.missing[1]


@pytest.mark.parametrize("fault", [ValueError("no thirteens"), SystemExit(13)])
def test_one_bad_row_costs_its_neighbours_nothing_and_is_counted(fault: BaseException) -> None:
    def picky(amount: Any, a: Any, now: Any) -> dict[str, Any]:
        if (amount == 13).any():
            raise fault
        return basket(amount, a, now)

    meter = Meter()
    rows = [{"item_id": "x", "amount": value} for value in (2.0, 13.0, 4.0)]
    found, _ = answers(served(picky, missing="refuse"), rows, meter=meter)
    assert [(row.prediction, row.reason) for row in found.predictions] == [
        (11.0, "ok"),
        (7.0, "features"),
        (21.0, "ok"),
    ]
    assert found.predictions[1].source == "fallback:seven"
    assert b'towpath_on_demand_missing_total{model="demand",view="basket",why="raised"} 1.0' in meter.text()


def test_a_slow_function_costs_its_features_and_not_the_answer() -> None:
    waiting = threading.Event()

    def slow(amount: Any, a: Any, now: Any) -> dict[str, Any]:
        waiting.wait(10)
        return basket(amount, a, now)

    meter, one = Meter(), served(slow, budget_ms=300)
    started = time.perf_counter()
    found, _ = answers(one, [{"item_id": "x", "amount": 2.0}], meter=meter)
    assert time.perf_counter() - started < 5.0
    assert found.predictions[0].prediction == -9.0
    assert found.predictions[0].reason == "ok"
    assert found.predictions[0].missing == ("basket.share",)
    assert b'why="slow"} 1.0' in meter.text()
    assert one.features_lane.abandoned == 1
    waiting.set()


def test_a_slow_function_whose_feature_must_be_there_sends_the_row_to_the_fallback() -> None:
    waiting = threading.Event()

    def slow(amount: Any, a: Any, now: Any) -> dict[str, Any]:
        waiting.wait(10)
        return basket(amount, a, now)

    found, _ = answers(served(slow, missing="refuse", budget_ms=30), [{"item_id": "x", "amount": 2.0}])
    assert (found.predictions[0].prediction, found.predictions[0].reason) == (7.0, "features")
    waiting.set()


def test_a_function_that_breaks_its_promise_is_missing_and_not_an_error() -> None:
    found, _ = answers(served(lambda amount, a, now: {"shere": amount}), [{"item_id": "x", "amount": 2.0}])
    assert found.predictions[0].missing == ("basket.share",)


def test_the_journal_keeps_what_was_computed() -> None:
    _, journal = answers(served(), [{"amount": 4.0, "sales.a": 2.0, "sales.b": 0.0}])
    (features,) = journal.records[0].rows.features or [None]
    assert msgspec.json.decode(features) == {"basket.share": 2.0, "sales.b": 0.0}

"""From rows to answers: who answers, why, and what is written down."""

import asyncio
import math
import threading
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from serving_stand import AT, LOCK, LOOKED_UP, OnlineTable, PlainModel, a_manifest, deployed, responding

from towpath.errors import InputError, OverloadedError, UnavailableError, UnknownError
from towpath.models.manifest import Field, Signature
from towpath.project.declarations import FallbackDeclaration, OutputDeclaration, ServingDeclaration
from towpath.registry.log import Challenger, Kill, TrafficState
from towpath.serving.answered import Ask
from towpath.serving.served import Served
from towpath.types import micros

ZERO = FallbackDeclaration(name="zero", constant=0.0)
MEAN = FallbackDeclaration(name="mean", function="mean", budget_ms=500)
ROW = {"a": 1.0, "b": 2.0}


def test_a_row_is_answered_by_the_champion_and_written_down() -> None:
    responder, journal = responding(deployed(Served(a_manifest(), PlainModel())))
    (row,) = responder.answer("demand", [ROW], request_id="r1", consumer="brand_a").predictions
    assert (row.prediction, row.source, row.reason, row.version) == (3.0, "champion", "ok", 1)
    (record,) = journal.records
    assert (record.request_id, record.consumer, record.prediction_id) == ("r1", "brand_a", row.prediction_id)
    assert record.rows.prediction == [3.0]
    assert record.rows.features == [b'{"a":1.0,"b":2.0}']
    assert record.predicted_at == micros(AT)


@given(wrong=st.lists(st.sampled_from([math.nan, math.inf, -5.0, 7.0]), min_size=1, max_size=8))
def test_only_the_rows_that_are_wrong_fall_back(wrong: list[float]) -> None:
    # given a model that answers NaN, infinity and numbers out of range for some rows
    served = Served(
        a_manifest(fallback=(ZERO,), output=OutputDeclaration(low=0, high=100)),
        PlainModel(predict=lambda columns: {"prediction": np.array(wrong)}),
    )
    responder, journal = responding(deployed(served))
    # when it is asked
    rows = responder.answer("demand", [ROW] * len(wrong)).predictions
    # then each row says for itself who answered
    for value, row in zip(wrong, rows, strict=True):
        good = value == 7.0
        assert row.source == ("champion" if good else "fallback:zero")
        assert row.reason == ("ok" if good else "wrong")
        assert row.prediction == (7.0 if good else 0.0)
        assert row.version == (1 if good else None)
    assert journal.records[0].rows.source == [row.source for row in rows]


@given(refused=st.lists(st.booleans(), min_size=2, max_size=40), inline=st.booleans())
def test_a_row_that_the_model_raises_on_falls_alone(refused: list[bool], inline: bool) -> None:
    # given a model that raises as soon as one row of a call is negative
    def predict(columns: Any) -> dict[str, Any]:
        if (columns["a"] < 0).any():
            raise ValueError("negative")
        return {"prediction": columns["a"]}

    served = Served(a_manifest(fallback=(ZERO,)), PlainModel(predict=predict, inline=inline))
    responder, journal = responding(deployed(served))
    # when at most two rows of many are (each takes two calls for every halving)
    given_rows = [
        {"a": -1.0 if bad and sum(refused[:at]) < 2 else float(at), "b": 0.0} for at, bad in enumerate(refused)
    ]
    rows = responder.answer("demand", given_rows).predictions
    # then only these fall back, and the journal says the same
    for sent, row in zip(given_rows, rows, strict=True):
        good = sent["a"] >= 0
        assert (row.source, row.reason) == (("champion", "ok") if good else ("fallback:zero", "wrong"))
        assert row.prediction == (sent["a"] if good else 0.0)
    assert journal.records[0].rows.source == [row.source for row in rows]


def test_a_model_that_always_raises_is_not_asked_for_each_row() -> None:
    calls: list[int] = []

    def predict(columns: Any) -> dict[str, Any]:
        calls.append(len(columns["a"]))
        raise ValueError("always")

    served = Served(a_manifest(fallback=(ZERO,)), PlainModel(predict=predict))
    rows = responding(deployed(served))[0].answer("demand", [ROW] * 1_000).predictions
    assert {(row.source, row.reason) for row in rows} == {("fallback:zero", "wrong")}
    assert len(calls) <= 33


@pytest.mark.parametrize("inline", [True, False])
def test_an_exception_and_a_wrong_shape_fall_back(inline: bool) -> None:
    def broken(columns: Any) -> dict[str, Any]:
        raise ZeroDivisionError

    for predict in (broken, lambda columns: {"prediction": np.zeros(7)}, lambda columns: {}):
        served = Served(a_manifest(fallback=(ZERO,)), PlainModel(predict=predict, inline=inline))
        (row,) = responding(deployed(served))[0].answer("demand", [ROW]).predictions
        assert (row.source, row.reason, row.prediction) == ("fallback:zero", "wrong", 0.0)


def test_a_model_that_hangs_is_answered_for_within_the_deadline() -> None:
    gate = threading.Event()
    model = PlainModel(
        predict=lambda columns: {"prediction": np.array([float(gate.wait())])},
        inline=False,
        fallbacks={"mean": lambda columns: columns["a"] * 10},
    )
    served = Served(a_manifest(fallback=(MEAN, ZERO), serving=ServingDeclaration(timeout_ms=900)), model)
    responder, _ = responding(deployed(served))
    (row,) = responder.answer("demand", [ROW], timeout_s=0.8).predictions
    assert (row.source, row.reason, row.prediction) == ("fallback:mean", "slow", 10.0)
    assert served.lane.abandoned == 1
    gate.set()


def test_the_same_steps_run_in_the_event_loop() -> None:
    model = PlainModel(inline=False)
    responder, _ = responding(deployed(Served(a_manifest(), model)))

    async def ask() -> float:
        steps = responder.steps(responder.deployment("demand"), Ask(rows=[ROW]))
        return (await responder.waited(steps, next(steps))).predictions[0]

    assert asyncio.run(ask()) == 3.0


def test_a_link_that_fails_hands_on_to_the_next_and_the_last_cannot_fail() -> None:
    def fails(columns: Any) -> Any:
        raise KeyError("no table")

    chain = (MEAN, FallbackDeclaration(name="before", version="previous"), ZERO)
    previous = Served(a_manifest(version=1), PlainModel(predict=lambda columns: {"p": columns["a"] * math.nan}))
    champion = Served(
        a_manifest(version=2, fallback=chain),
        PlainModel(predict=lambda columns: {"p": columns["a"] * math.nan}, fallbacks={"mean": fails}),
    )
    both = deployed(champion, previous, state=TrafficState(champion=2, previous=1))
    (row,) = responding(both)[0].answer("demand", [ROW]).predictions
    assert (row.source, row.reason) == ("fallback:zero", "wrong")
    # and where the version before does answer, it is named
    better = Served(a_manifest(version=1), PlainModel())
    both = deployed(champion, better, state=TrafficState(champion=2, previous=1))
    (row,) = responding(both)[0].answer("demand", [ROW]).predictions
    assert (row.source, row.version, row.prediction) == ("fallback:before", 1, 3.0)


def test_a_killed_model_and_the_holdout_get_the_fallback() -> None:
    served = Served(a_manifest(fallback=(ZERO,)), PlainModel())
    kill = Kill(because="wrong", by="ana", at=AT)
    for state, reason in (
        (TrafficState(champion=1, kills=(kill,)), "killed"),
        (TrafficState(champion=1, holdout_share=1.0), "holdout"),
    ):
        (row,) = responding(deployed(served, state=state))[0].answer("demand", [ROW]).predictions
        assert (row.source, row.reason) == ("fallback:zero", reason)


def test_a_champion_that_could_not_be_loaded_is_down_and_its_constant_answers() -> None:
    responder, _ = responding(deployed(chain=(ZERO,)))
    (row,) = responder.answer("demand", [ROW]).predictions
    assert (row.source, row.reason, row.prediction) == ("fallback:zero", "down", 0.0)


def test_without_any_fallback_the_prediction_is_null_and_the_request_is_an_error() -> None:
    served = Served(a_manifest(), PlainModel(predict=lambda columns: {"p": columns["a"] * math.nan}))
    responder, _ = responding(deployed(served))
    answered = responder.run("demand", Ask(rows=[ROW]))
    assert answered.unanswered
    assert answered.predictions == [None]
    assert "(wrong)" in str(answered.error())
    answered.reasons = ["overloaded"]
    assert isinstance(answered.error(), OverloadedError)


def test_challengers_answer_their_units_and_say_so() -> None:
    champion = Served(a_manifest(version=1, unit="u"), PlainModel())
    challenger = Served(
        a_manifest(version=2, unit="u"), PlainModel(predict=lambda columns: {"p": columns["a"] * 0 - 1})
    )
    state = TrafficState(champion=1, challengers=(Challenger(version=2, arm="b", share=0.5),))
    responder, journal = responding(deployed(champion, challenger, state=state))
    rows = [ROW | {"u": f"u{i}"} for i in range(200)]
    answers = responder.answer("demand", rows).predictions
    assert {(r.source, r.version, r.arm, r.prediction) for r in answers} == {
        ("champion", 1, None, 3.0),
        ("challenger", 2, "b", -1.0),
    }
    again = responder.answer("demand", rows).predictions
    assert [r.version for r in again] == [r.version for r in answers]
    assert journal.records[0].rows.unit_id == [row["u"] for row in rows]


def test_features_are_looked_up_by_key_and_what_is_missing_is_named(by_key: Served) -> None:
    responder, journal = responding(deployed(by_key))
    known, unknown = responder.answer("demand", [{"item_id": "x", "band": "low"}, {"item_id": "y"}]).predictions
    assert (known.prediction, known.missing) == (3.0, ())
    assert unknown.missing == ("sales.a", "sales.b")
    assert unknown.reason == "wrong"
    rows = journal.records[0].rows
    assert rows.entity_key == ['["x"]', '["y"]']
    assert rows.segment == [{"band": "low"}, None]
    assert rows.target_at == [micros(AT) + 7 * 86_400_000_000] * 2
    assert rows.feature_ref == ["sales@5", "sales@-1"]


def test_a_raw_feature_wins_over_the_one_looked_up(by_key: Served) -> None:
    responder, _ = responding(deployed(by_key))
    rows = [{"item_id": "x", "sales.a": 10.0}, {"sales.a": 1.0, "sales.b": 1.0}, {"item_id": "y", "sales.a": 4.0}]
    first, second, third = responder.answer("demand", rows).predictions
    assert (first.prediction, second.prediction) == (12.0, 2.0)
    assert third.missing == ("sales.b",)
    (raw,) = responder.answer("demand", [{"sales.a": 1.0, "sales.b": 1.5}]).predictions
    assert (raw.prediction, raw.missing) == (2.5, ())


def test_a_row_that_lacks_a_needed_feature_falls_back_alone() -> None:
    table = OnlineTable({"x": {"sales.a": 1.0, "sales.b": 2.0}}, ("sales.a", "sales.b"))
    needed = replace(LOCK, columns=(LOCK.columns[0], replace(LOCK.columns[1], missing="refuse")))
    manifest = a_manifest(
        entity=("item_id",),
        features=(needed,),
        fallback=(ZERO,),
        signature=Signature(container="numpy", inputs=LOOKED_UP, outputs=()),
    )
    served = Served(
        manifest, PlainModel(inputs=LOOKED_UP, predict=lambda c: {"p": np.ones(len(c["sales.a"]))}), reader=table
    )
    responder, _ = responding(deployed(served))
    rows = [{"item_id": "x"}, {"item_id": "y"}, {"item_id": "y", "sales.b": 1.0}]
    known, unknown, given_by_hand = responder.answer("demand", rows).predictions
    assert (known.source, unknown.source, unknown.reason) == ("champion", "fallback:zero", "features")
    assert (given_by_hand.source, given_by_hand.missing) == ("champion", ("sales.a",))


def test_while_the_online_store_is_away_the_fallback_answers(by_key: Served) -> None:
    class Away:
        waits = False

        def nothing(self, n: int, error: UnavailableError) -> Any:
            raise error

        def read(self, key_columns: Any, n: int, now_us: int) -> Any:
            raise UnavailableError("the store is away")

    model = PlainModel(inputs=LOOKED_UP, fallbacks={"mean": lambda columns: np.full(len(columns["sales.a"]), 4.0)})
    served = Served(replace(by_key.manifest, fallback=(MEAN,)), model, reader=Away())
    responder, _ = responding(deployed(served))
    (row,) = responder.answer("demand", [{"item_id": "x"}]).predictions
    assert (row.prediction, row.source, row.reason) == (4.0, "fallback:mean", "features")
    ask = Ask(columns={"item_id": np.array(["x"], dtype=object)}, rows_count=1)
    assert responder.run("demand", ask).sources == ["fallback:mean"]


def test_a_ranking_is_an_ordered_list_and_keeps_its_items() -> None:
    items = [f"item{i}" for i in range(20)]
    ranked = np.empty(2, dtype=object)
    ranked[:] = [items, [*items[:19], items[0]]]
    served = Served(
        a_manifest(output=OutputDeclaration(kind="ranking", top=20), fallback=(ZERO,)),
        PlainModel(predict=lambda columns: {"items": ranked}),
    )
    responder, journal = responding(deployed(served))
    good, twice = responder.answer("demand", [ROW, ROW]).predictions
    assert good.prediction == items
    assert (twice.source, twice.reason) == ("fallback:zero", "wrong")
    ranked[1] = items[::-1]
    responder.answer("demand", [ROW, ROW])
    assert journal.records[-1].rows.item == [items, items[::-1]]


def test_classes_and_probabilities_are_answered_together() -> None:
    served = Served(
        a_manifest(output=OutputDeclaration(kind="class", classes=("no", "yes"))),
        PlainModel(
            predict=lambda c: {"label": np.array(["yes"], dtype=object), "probabilities": np.array([[0.1, 0.9]])}
        ),
    )
    responder, journal = responding(deployed(served))
    (row,) = responder.answer("demand", [ROW]).predictions
    assert (row.prediction, row.output) == ("yes", {"probabilities": [0.1, 0.9]})
    assert journal.records[0].rows.label == ["yes"]
    assert journal.records[0].rows.output == [{"probabilities": [0.1, 0.9]}]


def test_nothing_of_the_input_is_written_where_the_journal_is_none() -> None:
    served = Served(a_manifest(journal="none", entity=("item_id",)), PlainModel())
    responder, journal = responding(deployed(served))
    responder.answer("demand", [ROW | {"item_id": "secret", "a": 12345.0}])
    rows = journal.records[0].rows
    assert (rows.entity_key, rows.unit_id, rows.features, rows.segment) == (None, None, None, None)


def test_the_batch_path_takes_columns_and_keeps_the_fallback_beside() -> None:
    model = PlainModel(fallbacks={"mean": lambda columns: columns["a"] * 10})
    responder, journal = responding(deployed(Served(a_manifest(fallback=(MEAN,)), model)))
    columns = {"a": np.arange(3.0), "b": np.ones(3)}
    at = micros(datetime.fromisoformat("2011-09-01T00:00:00+00:00"))
    ask = Ask(
        columns=columns, rows_count=3, at_us=at, run_id="run", protocol="batch", with_fallback=True, timeout_s=math.inf
    )
    answered = responder.run("demand", ask)
    assert answered.predictions == [1.0, 2.0, 3.0]
    (record,) = journal.records
    assert (record.run_id, record.predicted_at, record.recorded_at) == ("run", at, micros(AT))
    assert record.rows.fallback_prediction == [0.0, 10.0, 20.0]


def test_one_tensor_under_any_name_is_read_as_the_columns_of_a_tabular_model() -> None:
    responder, _ = responding(deployed(Served(a_manifest(), PlainModel())))
    ask = Ask(columns={"whatever": np.array([[1.0, 2.0], [3.0, 4.0]])}, rows_count=2)
    assert responder.run("demand", ask).predictions == [3.0, 7.0]


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"x": np.zeros((2, 3))}, "shape"),
        ({"a": np.zeros(2)}, "'b' is missing"),
        ({"a": np.zeros(2), "c": np.zeros(2)}, "'c'"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "'b'"),
        ({"a": np.zeros(2), "b": np.array(["x", "y"], dtype=object)}, "'b'"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(columns: Any, names: str) -> None:
    responder, journal = responding(deployed(Served(a_manifest(), PlainModel())))
    with pytest.raises(InputError, match=names):
        responder.run("demand", Ask(columns=columns, rows_count=2))
    assert journal.records == []


def test_a_tensor_model_wants_its_own_datatype_and_shape() -> None:
    inputs = (Field(name="image", type="FP32", shape=(-1, 2, 2)),)
    signature = Signature(container="tensors", inputs=inputs, outputs=())
    model = PlainModel(inputs=inputs, container="tensors", predict=lambda c: {"out": c["image"].sum(axis=(1, 2))})
    responder, _ = responding(deployed(Served(a_manifest(signature=signature), model)))
    good = Ask(columns={"image": np.ones((3, 2, 2), dtype=np.float32)}, rows_count=3)
    assert responder.run("demand", good).predictions == [4.0] * 3
    for bad in (np.ones((3, 2), dtype=np.float32), np.ones((3, 2, 3), dtype=np.float32), np.ones((3, 2, 2), dtype=int)):
        with pytest.raises(InputError, match="'image'"):
            responder.run("demand", Ask(columns={"image": bad}, rows_count=3))


def test_an_unknown_model_is_told_the_nearest() -> None:
    responder, _ = responding(deployed(Served(a_manifest(), PlainModel())))
    with pytest.raises(UnknownError, match="did you mean 'demand'"):
        responder.answer("demnad", [ROW])

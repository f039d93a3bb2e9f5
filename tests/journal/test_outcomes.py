"""Outcomes: posted one by one or read from the warehouse, they name the same prediction in the same words."""

from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from towpath.errors import InputError
from towpath.journal import outcome_rows, outcomes_from_table
from towpath.journal.record import OUTCOME_COLUMNS, Outcome, OutcomeRow
from towpath.types import micros, utc

MONDAY = utc("2026-01-05")
NOON = MONDAY + timedelta(hours=12)


def rows(*posted: Outcome, kinds: tuple[str, ...] = ()) -> list[OutcomeRow]:
    return outcome_rows(posted, project="shop", model="demand", consumer="till", arrived_at=NOON, kinds=kinds)


def test_every_way_to_write_a_key_is_one_key() -> None:
    ways = [("10002", 7), '["10002",7]', '[ "10002", 7 ]']
    found = {row.entity_key for row in rows(*(Outcome(entity_key=way, target_at=MONDAY, value=1) for way in ways))}
    assert found == {'["10002",7]'}
    [bare] = rows(Outcome(entity_key="10002", target_at=MONDAY, value=1))
    assert bare.entity_key == '["10002"]'


def test_parts_take_the_type_of_the_models_key() -> None:
    [typed] = rows(Outcome(entity_key=("7", "2026-01-05"), target_at=MONDAY, value=1), kinds=("int64", "date32[day]"))
    assert typed.entity_key == '[7,"2026-01-05"]'
    with pytest.raises(InputError, match="Row 0: entity_key holds 'x', which is no int64"):
        rows(Outcome(entity_key=("x",), target_at=MONDAY, value=1), kinds=("int64",))
    with pytest.raises(InputError, match="1 parts and the model's key 2"):
        rows(Outcome(entity_key=("x",), target_at=MONDAY, value=1), kinds=("int64", "string"))


def test_an_outcome_happened_when_its_target_was_unless_it_says_otherwise() -> None:
    by_id, by_key, said = rows(
        Outcome(prediction_id="p", value=1),
        Outcome(entity_key=("1",), target_at=MONDAY, label="yes"),
        Outcome(prediction_id="p", value=1, happened_at=MONDAY + timedelta(hours=1)),
    )
    assert [row.happened_at for row in (by_id, by_key, said)] == [
        micros(at) for at in (NOON, MONDAY, MONDAY + timedelta(hours=1))
    ]
    assert all(row.arrived_at == micros(NOON) for row in (by_id, by_key, said))


def test_the_same_outcome_sent_twice_is_the_same_row_and_a_corrected_one_is_not() -> None:
    first, second, corrected = rows(
        Outcome(prediction_id="p", value=1), Outcome(prediction_id="p", value=1), Outcome(prediction_id="p", value=2)
    )
    assert first == second
    assert corrected.outcome_id != first.outcome_id


BEYOND = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2)))


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome(value=1), "names no prediction"),
        (Outcome(entity_key=("1",), value=1), "names no prediction"),
        (Outcome(entity_key=(None,), target_at=MONDAY, value=1), "names no prediction"),
        (Outcome(entity_key="[broken", target_at=MONDAY, value=1), "no JSON array"),
        (Outcome(prediction_id="p"), "says nothing"),
        (Outcome(prediction_id="p", value=1, target_at=BEYOND), "target_at is '9999-12-31 23:00:00-02:00'"),
        (Outcome(prediction_id="p", value=1, happened_at=BEYOND), "happened_at is '9999-12-31 23:00:00-02:00'"),
        (Outcome(prediction_id="p", model="search", value=1), "'search' and the path says 'demand'"),
    ],
)
def test_what_cannot_be_used_is_refused_by_row(outcome: Outcome, said: str) -> None:
    with pytest.raises(InputError, match=f"Row 1.*{said}"):
        rows(Outcome(prediction_id="p", value=1), outcome)


def test_a_table_of_the_warehouse_gives_the_rows_that_posting_would() -> None:
    table = pa.table(
        {
            "item": ["10002", None, "10003", "10004"],
            "shop": [1, 1, 2, 2],
            "day": pa.array([MONDAY.date()] * 4, pa.date32()),
            "units": [5, 6, None, 0],
        }
    )
    found = outcomes_from_table(
        table,
        project="shop",
        model="demand",
        arrived_at=NOON,
        keys=("item", "shop"),
        target_at="day",
        value="units",
        consumer="till",
    )
    assert {
        name: str(kind) for name, kind in zip(found.column_names, found.schema.types, strict=True)
    } == OUTCOME_COLUMNS
    posted = rows(
        Outcome(entity_key=("10002", 1), target_at=MONDAY, value=5),
        Outcome(entity_key=("10004", 2), target_at=MONDAY, value=0),
    )
    assert found["outcome_id"].to_pylist() == [row.outcome_id for row in posted]
    assert found["entity_key"].to_pylist() == ['["10002",1]', '["10004",2]']


def test_a_table_may_name_predictions_labels_weights_and_items() -> None:
    table = pa.table(
        {
            "id": ["p1", "p2"],
            "at": pa.array([None, None], pa.timestamp("us", "UTC")),
            "what": ["yes", "no"],
            "heavy": np.array([2.0, 3.0]),
            "article": ["x", "y"],
        }
    )
    found = outcomes_from_table(
        table,
        project="shop",
        model="demand",
        arrived_at=NOON,
        prediction_id="id",
        target_at="at",
        label="what",
        weight="heavy",
        item="article",
        metric="click",
    ).to_pylist()
    assert [(row["prediction_id"], row["label"], row["weight"], row["item"], row["metric"]) for row in found] == [
        ("p1", "yes", 2.0, "x", "click"),
        ("p2", "no", 3.0, "y", "click"),
    ]
    assert found[0]["happened_at"] == NOON


def test_a_column_that_is_not_there_is_named() -> None:
    table = pa.table({"item": ["1"], "day": [date(2026, 1, 5)], "units": [1]})
    common: dict[str, Any] = {"project": "shop", "model": "demand", "arrived_at": NOON, "target_at": "day"}
    with pytest.raises(InputError, match="'unit'; did you mean 'units'"):
        outcomes_from_table(table, **common, keys=("item",), value="unit")
    with pytest.raises(InputError, match="name nothing"):
        outcomes_from_table(table, **common, value="units")
    with pytest.raises(InputError, match="say nothing"):
        outcomes_from_table(table, **common, keys=("item",))

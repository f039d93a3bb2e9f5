"""Each built-in metric is the ratio of two sums, and the number that its formula says."""

import numpy as np
import pyarrow as pa
import pytest

from towpath.project.folder import built_in_metrics
from towpath.warehouse.engine import Engine

RNG = np.random.default_rng(7)
N = 200
ACTUAL = RNG.poisson(5, N).astype(float)
PREDICTION = ACTUAL + RNG.normal(0.3, 1.0, N)
HAPPENED = RNG.integers(0, 2, N).astype(float)
CHANCE = np.clip(RNG.random(N), 0, 1)
WEIGHT = RNG.uniform(0.5, 2, N)
LABEL = RNG.choice(["a", "b"], N)
SAID = RNG.choice(["a", "b"], N)


def _value(name: str, prediction: np.ndarray, actual: np.ndarray) -> float:
    engine = Engine(256, 1)
    engine.register(
        "scored",
        pa.table(
            {"prediction": prediction, "actual": actual, "label": LABEL, "predicted_label": SAID, "weight": WEIGHT}
        ),
    )
    rows = engine.read(built_in_metrics()[name].query)
    engine.close()
    assert rows.num_rows == N
    return float(np.asarray(rows["numerator"]).sum() / np.asarray(rows["denominator"]).sum())


@pytest.mark.parametrize(
    ("name", "prediction", "actual", "expected"),
    [
        ("wape", PREDICTION, ACTUAL, (np.abs(PREDICTION - ACTUAL) * WEIGHT).sum() / (ACTUAL * WEIGHT).sum()),
        ("bias", PREDICTION, ACTUAL, ((PREDICTION - ACTUAL) * WEIGHT).sum() / (ACTUAL * WEIGHT).sum()),
        ("mae", PREDICTION, ACTUAL, np.average(np.abs(PREDICTION - ACTUAL), weights=WEIGHT)),
        ("mse", PREDICTION, ACTUAL, np.average((PREDICTION - ACTUAL) ** 2, weights=WEIGHT)),
        ("brier", CHANCE, HAPPENED, np.average((CHANCE - HAPPENED) ** 2, weights=WEIGHT)),
        (
            "logloss",
            CHANCE,
            HAPPENED,
            -np.average(HAPPENED * np.log(CHANCE) + (1 - HAPPENED) * np.log(1 - CHANCE), weights=WEIGHT),
        ),
        ("accuracy", CHANCE, HAPPENED, np.average(LABEL == SAID, weights=WEIGHT)),
    ],
)
def test_the_ratio_is_what_the_formula_says(
    name: str, prediction: np.ndarray, actual: np.ndarray, expected: float
) -> None:
    assert _value(name, prediction, actual) == pytest.approx(expected)


def test_a_certainty_that_was_wrong_costs_much_and_not_infinity() -> None:
    assert 30 < _value("logloss", np.zeros(N), np.ones(N)) < 40


def test_each_says_which_way_is_good() -> None:
    assert {name: metric.header.better for name, metric in built_in_metrics().items()} == {
        "wape": "lower",
        "bias": "zero",
        "mae": "lower",
        "mse": "lower",
        "brier": "lower",
        "logloss": "lower",
        "accuracy": "higher",
        "hit_rate": "higher",
        "mrr": "higher",
    }


def test_a_ranking_is_measured_by_where_the_true_item_stands() -> None:
    engine = Engine(256, 1)
    items = pa.array([["a", "b"], ["b", "a", "c"], ["a"], [], None, ["a"]], pa.list_(pa.string()))
    engine.register(
        "scored", pa.table({"items": items, "label": ["a", "c", "z", "a", "a", None], "weight": [1.0, 2, 1, 1, 1, 1]})
    )
    found = {name: engine.read(built_in_metrics()[name].query).to_pydict() for name in ("hit_rate", "mrr")}
    engine.close()
    assert found["hit_rate"] == {"numerator": [1, 2, 0, 0, 0, 0], "denominator": [1, 2, 1, 1, 1, 1]}
    assert found["mrr"] == {"numerator": [1, pytest.approx(2 / 3), 0, 0, 0, 0], "denominator": [1, 2, 1, 1, 1, 1]}

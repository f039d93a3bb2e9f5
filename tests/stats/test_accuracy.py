from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from towpath.errors import InputError, UndefinedError
from towpath.stats.accuracy import accuracy, bias, brier, logloss, mae, mse, rmse, wape

Floats = np.ndarray
demand = arrays(np.float64, st.integers(1, 30), elements=st.floats(0.5, 1_000))
NUMBERS = [wape, bias, mae, mse, rmse]


@given(actual=demand, unit=st.floats(0.01, 100))
def test_wape_and_bias_do_not_care_whether_we_count_crates_or_bottles(actual: Floats, unit: float) -> None:
    forecast = actual + 1
    assert wape(actual * unit, forecast * unit) == pytest.approx(wape(actual, forecast))
    assert bias(actual * unit, forecast * unit) == pytest.approx(bias(actual, forecast))
    assert mae(actual * unit, forecast * unit) == pytest.approx(unit * mae(actual, forecast))
    assert rmse(actual * unit, forecast * unit) == pytest.approx(unit * rmse(actual, forecast))


@given(actual=demand, scale=st.floats(0.01, 100))
def test_the_scale_of_weights_does_not_matter(actual: Floats, scale: float) -> None:
    weight = np.arange(1, len(actual) + 1)
    for metric in NUMBERS:
        plain = metric(actual, actual * 1.5 + 1, weight=weight)
        assert metric(actual, actual * 1.5 + 1, weight=weight * scale) == pytest.approx(plain)


@given(actual=demand)
def test_a_whole_weight_counts_a_row_that_often(actual: Floats) -> None:
    weight = np.arange(len(actual)) + 1
    for metric in NUMBERS:
        repeated = metric(np.repeat(actual, weight), np.repeat(actual + 2, weight))
        assert metric(actual, actual + 2, weight=weight) == pytest.approx(repeated)


@given(actual=demand, error=st.floats(-5, 5))
def test_bias_never_exceeds_wape_and_mae_never_rmse(actual: Floats, error: float) -> None:
    forecast = actual + error * np.cos(np.arange(len(actual)))
    assert abs(bias(actual, forecast)) <= wape(actual, forecast) + 1e-12
    assert mae(actual, forecast) <= rmse(actual, forecast) + 1e-9


@given(actual=demand)
def test_a_perfect_forecast_has_no_error(actual: Floats) -> None:
    assert all(metric(actual, actual) == 0 for metric in NUMBERS)


@given(truth=arrays(np.float64, 20, elements=st.sampled_from([0.0, 1.0])))
def test_probabilities_that_know_less_score_worse(truth: Floats) -> None:
    for metric in (brier, logloss):
        sure, unsure, wrong = (metric(truth, np.abs(truth - doubt)) for doubt in (0.0, 0.3, 1.0))
        assert sure < unsure < wrong
        assert np.isfinite(wrong)


def test_labels_are_compared_as_they_are() -> None:
    true, predicted = np.array(["a", None, "b"], dtype=object), np.array(["a", None, "c"], dtype=object)
    assert accuracy(true, predicted, weight=[1, 1, 2]) == 0.5


@pytest.mark.parametrize("metric", [wape, bias])
def test_no_volume_is_undefined_and_says_how_many_rows(metric: Callable[..., float]) -> None:
    with pytest.raises(UndefinedError, match="2 rows"):
        metric([0, 0], [1, 1])


@pytest.mark.parametrize("metric", [wape, bias, mae, mse, rmse, brier, logloss, accuracy])
def test_no_rows_are_undefined_and_ragged_ones_refused(metric: Callable[..., float]) -> None:
    with pytest.raises(UndefinedError):
        metric([], [])
    with pytest.raises(InputError, match="must match"):
        metric([1, 0], [1])


def test_what_is_not_finite_is_refused_with_its_number() -> None:
    with pytest.raises(InputError, match="1 of 2 forecasts are not finite"):
        mae([1, 2], [1, np.nan])
    with pytest.raises(InputError, match="1 of 2 probabilities lie outside"):
        brier([1, 0], [1.2, 0])
    with pytest.raises(InputError, match="1 of 2 weights are below 0"):
        mae([1, 0], [1, 0], weight=[1, -1])

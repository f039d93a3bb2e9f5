"""How far a forecast was off, as one number."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from towpath.errors import InputError, UndefinedError

__all__ = ["accuracy", "bias", "brier", "logloss", "mae", "mse", "rmse", "wape"]

Floats = NDArray[np.float64]

_SURE = 1e-15


def wape(actual: ArrayLike, forecast: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """Share of the true volume that the forecast missed.

    Unlike MAPE it stays finite on days without sales, and large sellers weigh more.

    Args:
        actual: Observed demand, shape ``(n,)``, in any one unit (crates, euros).
        forecast: Forecast demand, shape ``(n,)``, same unit and row order as `actual`.
        weight: How much a row counts, shape ``(n,)``, at least 0; 1 each unless given.

    Returns:
        A ratio: 0.0 is perfect, 0.15 means 15% of the volume was missed, above 1 is possible.

    Raises:
        UndefinedError: `actual` sums to zero, so no ratio exists.
        InputError: Lengths differ, or a value is not finite.

    Source:
        Kolassa & Schütz (2007), "Advantages of the MAD/Mean ratio over the MAPE".

    Example:
        >>> wape([10, 0, 30], [8, 1, 33])
        0.15
    """
    truth, guess, weights = _rows(actual, forecast, weight)
    return _ratio(np.abs(guess - truth) * weights, np.abs(truth) * weights, "WAPE: the true volume is zero")


def bias(actual: ArrayLike, forecast: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """By how much of the true volume the forecast is too high, or below zero too low.

    Args:
        actual: Observed demand, shape ``(n,)``.
        forecast: Forecast demand, shape ``(n,)``, same unit and row order.
        weight: How much a row counts, shape ``(n,)``; 1 each unless given.

    Returns:
        A ratio: 0.0 is balanced, 0.1 is 10% too much.

    Raises:
        UndefinedError: `actual` sums to zero.
        InputError: Lengths differ, or a value is not finite.

    Example:
        >>> bias([10, 0, 30], [8, 1, 33])
        0.05
    """
    truth, guess, weights = _rows(actual, forecast, weight)
    return _ratio((guess - truth) * weights, np.abs(truth) * weights, "Bias: the true volume is zero")


def mae(actual: ArrayLike, forecast: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """Mean absolute error, in the unit of `actual`.

    Args:
        actual: Observed values, shape ``(n,)``.
        forecast: Forecast values, shape ``(n,)``, same unit and row order.
        weight: How much a row counts, shape ``(n,)``; 1 each unless given.

    Raises:
        UndefinedError: There are no rows, or their weights sum to zero.
        InputError: Lengths differ, or a value is not finite.

    Example:
        >>> mae([10, 0, 30], [8, 1, 33])
        2.0
    """
    truth, guess, weights = _rows(actual, forecast, weight)
    return _ratio(np.abs(guess - truth) * weights, weights, "MAE: there are no rows")


def mse(actual: ArrayLike, forecast: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """Mean squared error, in the squared unit of `actual`; one large miss weighs more than many small ones.

    Args:
        actual: Observed values, shape ``(n,)``.
        forecast: Forecast values, shape ``(n,)``, same unit and row order.
        weight: How much a row counts, shape ``(n,)``; 1 each unless given.

    Raises:
        UndefinedError: There are no rows, or their weights sum to zero.
        InputError: Lengths differ, or a value is not finite.

    Example:
        >>> mse([1, 2], [1, 4])
        2.0
    """
    truth, guess, weights = _rows(actual, forecast, weight)
    return _ratio((guess - truth) ** 2 * weights, weights, "MSE: there are no rows")


def rmse(actual: ArrayLike, forecast: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """Root of the mean squared error, in the unit of `actual`.

    Args:
        actual: Observed values, shape ``(n,)``.
        forecast: Forecast values, shape ``(n,)``, same unit and row order.
        weight: How much a row counts, shape ``(n,)``; 1 each unless given.

    Raises:
        UndefinedError: There are no rows, or their weights sum to zero.
        InputError: Lengths differ, or a value is not finite.

    Example:
        >>> rmse([0, 0], [3, 3])
        3.0
    """
    return float(np.sqrt(mse(actual, forecast, weight=weight)))


def brier(happened: ArrayLike, probability: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """Mean squared distance of a probability from what happened.

    Args:
        happened: 0 or 1, shape ``(n,)``.
        probability: Of a 1, shape ``(n,)``, 0 to 1.
        weight: How much a row counts, shape ``(n,)``; 1 each unless given.

    Returns:
        0.0 is perfect; a coin that says 0.5 gets 0.25.

    Raises:
        UndefinedError: There are no rows, or their weights sum to zero.
        InputError: Lengths differ, a value is not finite, or a probability lies outside 0 to 1.

    Source:
        Brier (1950), "Verification of forecasts expressed in terms of probability".

    Example:
        >>> brier([1, 0], [0.5, 0.5])
        0.25
    """
    truth, guess, weights = _rows(happened, probability, weight)
    _check_probability(guess)
    return _ratio((guess - truth) ** 2 * weights, weights, "Brier score: there are no rows")


def logloss(happened: ArrayLike, probability: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """Mean surprise, in nats, of a probability at what happened.

    A certainty that was wrong counts as one in 10¹⁵, so that a single row cannot make the mean infinite.

    Args:
        happened: 0 or 1, shape ``(n,)``.
        probability: Of a 1, shape ``(n,)``, 0 to 1.
        weight: How much a row counts, shape ``(n,)``; 1 each unless given.

    Raises:
        UndefinedError: There are no rows, or their weights sum to zero.
        InputError: Lengths differ, a value is not finite, or a probability lies outside 0 to 1.

    Source:
        Good (1952), "Rational decisions".

    Example:
        >>> round(logloss([1, 0], [0.5, 0.5]), 3)
        0.693
    """
    truth, guess, weights = _rows(happened, probability, weight)
    _check_probability(guess)
    surprise = -(truth * np.log(np.maximum(guess, _SURE)) + (1 - truth) * np.log(np.maximum(1 - guess, _SURE)))
    return _ratio(surprise * weights, weights, "Log loss: there are no rows")


def accuracy(actual: ArrayLike, predicted: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """Share of rows whose label was the true one.

    Args:
        actual: True labels, shape ``(n,)``, of any kind that can be compared.
        predicted: Predicted labels, shape ``(n,)``, same row order.
        weight: How much a row counts, shape ``(n,)``; 1 each unless given.

    Raises:
        UndefinedError: There are no rows, or their weights sum to zero.
        InputError: Lengths differ.

    Example:
        >>> accuracy(["yes", "no", "no", "no"], ["yes", "yes", "no", "no"])
        0.75
    """
    truth, guess = np.asarray(actual, dtype=object), np.asarray(predicted, dtype=object)
    if truth.shape != guess.shape:
        raise InputError(f"Rows must match: {truth.shape} true labels, {guess.shape} predicted ones.")
    hit = np.equal(truth, guess).astype(np.float64)
    _, hits, weights = _rows(hit, hit, weight)
    return _ratio(hits * weights, weights, "Accuracy: there are no rows")


def _rows(actual: ArrayLike, forecast: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    truth, guess = np.asarray(actual, dtype=np.float64), np.asarray(forecast, dtype=np.float64)
    weights = np.ones_like(truth) if weight is None else np.asarray(weight, dtype=np.float64)
    if truth.ndim != 1 or not truth.shape == guess.shape == weights.shape:
        raise InputError(
            f"Rows must match: {truth.shape} true values, {guess.shape} forecasts, {weights.shape} weights.",
            mend="one-dimensional arrays of one length",
        )
    for name, values in (("true values", truth), ("forecasts", guess), ("weights", weights)):
        if not np.isfinite(values).all():
            raise InputError(
                f"{int((~np.isfinite(values)).sum())} of {len(values)} {name} are not finite.",
                mend="leave rows without a label out, and let the guard replace what is not finite",
            )
    if (weights < 0).any():
        raise InputError(f"{int((weights < 0).sum())} of {len(weights)} weights are below 0.")
    return truth, guess, weights


def _check_probability(values: Floats) -> None:
    outside = int(((values < 0) | (values > 1)).sum())
    if outside:
        raise InputError(f"{outside} of {len(values)} probabilities lie outside 0 to 1.")


def _ratio(numerator: Floats, denominator: Floats, undefined: str) -> float:
    below = float(denominator.sum())
    if below == 0:
        raise UndefinedError(f"{undefined}; {len(denominator)} rows.", mend="a longer window, or another metric")
    return float(numerator.sum()) / below

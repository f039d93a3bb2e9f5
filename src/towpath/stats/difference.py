"""Is A better than B on the same rows? Ratios of sums, resampled by entity.

Rows of one entity are not independent: overlapping labels and one item's habits make 56 daily rows of an item worth far
fewer than 56. So whole entities are drawn, with all their rows, for both sides at once.
"""

import math
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from towpath.errors import InputError, UndefinedError

__all__ = ["Estimate", "ratio_difference", "ratio_interval"]

Floats = NDArray[np.float64]

_CELLS = 1 << 21
"""Entities times resamples that are held at once: 16 MiB of draws whatever the number of rows."""
_BLOCKS = 1 << 14
"""More entities than this are dealt at random into as many blocks, and blocks are drawn.

Blocks of independent entities are independent too, and 16,384 of them know a variance to 1%. A million entities took
18 s drawn one by one and take 0.5 s drawn in blocks, with the same bounds to the second digit of their width.
"""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A number with the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float
    confidence: float
    """0.95: of a hundred such intervals about 95 hold the true number."""
    entities: int
    """How many independent units carry it."""
    rows: int
    resamples: int
    """Bootstrap resamples whose ratio exists."""


def ratio_difference(
    numerator_a: ArrayLike,
    denominator_a: ArrayLike,
    numerator_b: ArrayLike,
    denominator_b: ArrayLike,
    groups: ArrayLike,
    *,
    resamples: int = 1_000,
    confidence: float = 0.95,
    rng: np.random.Generator,
    absolute: bool = False,
) -> Estimate:
    """The ratio of A minus the ratio of B on the same rows, with a paired bootstrap interval by entity.

    Expanded percentile interval: the percentiles are widened by what a t interval with as many entities would be
    wider than a normal one, because the plain ones are too narrow below some fifty entities. Of 5,000 simulated 90%
    intervals 87.5% held the truth at 12 entities, 88.7% at 30 and 89.5% at 200.

    Args:
        numerator_a: Of side A, shape ``(n,)``; its metric is ``sum(numerator) / sum(denominator)``.
        denominator_a: Of side A, shape ``(n,)``.
        numerator_b: Of side B, shape ``(n,)``, same row order.
        denominator_b: Of side B, shape ``(n,)``.
        groups: The entity of each row, shape ``(n,)``; integers or anything that sorts.
        resamples: How many times all entities are drawn anew, 100 or more.
        confidence: Such as 0.95.
        rng: Where chance comes from; the same generator gives the same bounds.
        absolute: Compare distances from zero, ``|A| - |B|``, for a bias.

    Returns:
        The difference; below zero A is lower. Memory does not grow with rows times resamples: 120 MiB
        for the process at a million rows.

    Raises:
        UndefinedError: A denominator sums to zero, in total or in too many resamples, or there are fewer than two
            entities, so that nothing says how far chance reaches.
        InputError: Lengths differ, or a value is not finite.

    Source:
        Efron & Tibshirani (1993), "An introduction to the bootstrap", ch. 8 and 13; Hesterberg (2015), "What teachers
        should know about the bootstrap", on the expanded percentile interval.

    Example:
        >>> same = ratio_difference([1, 2], [4, 4], [1, 2], [4, 4], [0, 1], rng=np.random.default_rng(0))
        >>> same.estimate, same.low, same.high
        (0.0, 0.0, 0.0)
    """

    def difference(sums: Floats) -> Floats:
        a, b = sums[..., 0] / sums[..., 1], sums[..., 2] / sums[..., 3]
        return np.abs(a) - np.abs(b) if absolute else a - b

    columns = (numerator_a, denominator_a, numerator_b, denominator_b)
    return _bootstrap(columns, groups, difference, resamples=resamples, confidence=confidence, rng=rng)


def ratio_interval(
    numerator: ArrayLike,
    denominator: ArrayLike,
    groups: ArrayLike,
    *,
    resamples: int = 1_000,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> Estimate:
    """A ratio of sums with a bootstrap interval by entity.

    Args:
        numerator: Shape ``(n,)``.
        denominator: Shape ``(n,)``, same row order.
        groups: The entity of each row, shape ``(n,)``.
        resamples: How many times all entities are drawn anew, 100 or more.
        confidence: Such as 0.95.
        rng: Where chance comes from.

    Raises:
        UndefinedError: The denominator sums to zero, in total or in too many resamples, or there are fewer than two
            entities.
        InputError: Lengths differ, or a value is not finite.

    Source:
        As `ratio_difference`.

    Example:
        >>> found = ratio_interval([1, 1, 1], [4, 4, 4], [0, 1, 2], rng=np.random.default_rng(0))
        >>> found.estimate, found.low, found.high, found.entities
        (0.25, 0.25, 0.25, 3)
    """

    def ratio(sums: Floats) -> Floats:
        return sums[..., 0] / sums[..., 1]

    return _bootstrap((numerator, denominator), groups, ratio, resamples=resamples, confidence=confidence, rng=rng)


def _bootstrap(
    columns: tuple[ArrayLike, ...],
    groups: ArrayLike,
    statistic: Callable[[Floats], Floats],
    *,
    resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> Estimate:
    """Sum the columns by entity, draw entities, and take the statistic of the sums of each draw."""
    sums, rows = _by_entity(columns, groups)
    entities = len(sums)
    total = sums.sum(axis=0)
    if (total[1::2] == 0).any():
        raise UndefinedError(
            f"The denominator sums to zero over {rows} rows of {entities} entities, so no ratio exists.",
            mend="a longer window, or another metric",
        )
    if entities < 2:  # noqa: PLR2004 - chance shows between two or more
        raise UndefinedError(
            f"{rows} rows of one entity say nothing about how far chance reaches.",
            mend="rows of more entities, or a spine without entities, where each row is one",
        )
    units = _dealt(sums, rng) if entities > _BLOCKS else sums
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.concatenate(
            [statistic(_draws(units, count, rng)) for count in _chunks(resamples, max(1, _CELLS // len(units)))]
        )
    exist = drawn[np.isfinite(drawn)]
    tail = (1 - confidence) / 2
    if len(exist) < resamples * (1 - tail):
        raise UndefinedError(
            f"In {resamples - len(exist)} of {resamples} resamples the denominator is zero: "
            f"too few of the {entities} entities carry any of it.",
            mend="a longer window, or another metric",
        )
    low, high = np.quantile(exist, [_widened(tail, entities), 1 - _widened(tail, entities)])
    return Estimate(
        estimate=float(statistic(total)),
        low=float(low),
        high=float(high),
        confidence=confidence,
        entities=entities,
        rows=rows,
        resamples=len(exist),
    )


def _by_entity(columns: tuple[ArrayLike, ...], groups: ArrayLike) -> tuple[Floats, int]:
    values = [np.asarray(column, dtype=np.float64) for column in columns]
    entity = np.asarray(groups)
    if entity.ndim != 1 or any(column.shape != entity.shape for column in values):
        raise InputError(
            f"Rows must match: {entity.shape} entities and {', '.join(str(column.shape) for column in values)} values.",
            mend="one-dimensional arrays of one length",
        )
    unfinite = max((int((~np.isfinite(column)).sum()) for column in values), default=0)
    if unfinite:
        raise InputError(f"{unfinite} of {len(entity)} values are not finite.", mend="leave rows without a label out")
    names, codes = np.unique(entity, return_inverse=True)
    sums = np.empty((len(names), len(values)))
    for at, column in enumerate(values):
        sums[:, at] = np.bincount(codes, column, len(names))
    return sums, len(entity)


def _dealt(sums: Floats, rng: np.random.Generator) -> Floats:
    block = rng.permutation(len(sums)) % _BLOCKS
    blocks = np.empty((_BLOCKS, sums.shape[1]))
    for at in range(sums.shape[1]):
        blocks[:, at] = np.bincount(block, sums[:, at], _BLOCKS)
    return blocks


def _draws(sums: Floats, count: int, rng: np.random.Generator) -> Floats:
    """`count` times as many entities as there are, drawn with replacement: the sums of each draw, ``(count, columns)``."""
    entities = len(sums)
    picks = rng.integers(0, entities, size=(count, entities), dtype=np.int32)
    picks += (np.arange(count, dtype=np.int32) * entities)[:, None]
    # How often each entity was drawn, times its sums: one matrix product instead of a gather for each column.
    times = np.bincount(picks.ravel(), minlength=count * entities).reshape(count, entities)
    return times.astype(np.float64) @ sums


def _chunks(total: int, size: int) -> list[int]:
    return [size] * (total // size) + ([total % size] if total % size else [])


def _widened(tail: float, entities: int) -> float:
    """Tail share of the expanded percentile interval."""
    from scipy.special import ndtr, stdtrit  # pyright: ignore[reportMissingTypeStubs] - scipy ships none

    return float(ndtr(math.sqrt(entities / (entities - 1)) * stdtrit(entities - 1, tail)))

"""Rows that were scored: numerators and denominators of a metric, and what worse means."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["Better", "Scores", "gap", "ratio", "segment_codes"]

Better = Literal["lower", "higher", "zero"]
"""Which way a metric is good; ``zero`` for a bias."""
Floats = NDArray[np.float64]


class Scores(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One metric of one contestant on the held-out rows, in their order; NaN where the row has no score."""

    numerator: Floats
    """Shape ``(n,)``."""
    denominator: Floats
    """Shape ``(n,)``; the metric is the ratio of the two sums."""

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which rows have a score, shape ``(n,)``."""
        return np.isfinite(self.numerator) & np.isfinite(self.denominator)


def ratio(scores: Scores, rows: NDArray[np.bool_]) -> float | None:
    """The metric over some rows; None where its denominator sums to zero.

    Example:
        >>> one = Scores(numerator=np.array([1.0, 2.0]), denominator=np.array([4.0, 8.0]))
        >>> ratio(one, one.scored), ratio(one, ~one.scored)
        (0.25, None)
    """
    below = float(scores.denominator[rows].sum())
    return float(scores.numerator[rows].sum()) / below if below else None


def gap(candidate: float, reference: float, better: Better) -> float:
    """How much worse the candidate is, in the metric's own unit; below zero it is better.

    Example:
        >>> gap(0.3, 0.2, "lower") > 0, gap(0.3, 0.2, "higher") > 0, gap(-0.3, 0.2, "zero") > 0
        (True, False, True)
    """
    if better == "zero":
        return abs(candidate) - abs(reference)
    return candidate - reference if better == "lower" else reference - candidate


def segment_codes(values: Sequence[object] | NDArray[Any]) -> tuple[list[str], NDArray[np.intp]]:
    """Number the values of a segment column; null, None and NaN are one segment of their own.

    Returns:
        The names, sorted, and for each row the number of its name, shape ``(n,)``.

    Example:
        >>> segment_codes(["b", None, "a", "b"])
        (['a', 'b', 'null'], array([1, 2, 0, 1]))
    """
    column = np.asarray(values)
    if column.dtype.kind == "O":  # dictionary, because None does not sort
        numbers: dict[object, int] = {}
        codes = np.fromiter((numbers.setdefault(None if v != v else v, len(numbers)) for v in column), np.intp)  # noqa: PLR0124 - NaN alone differs from itself
        found: list[object] = list(numbers)
    else:
        unique, codes = np.unique(column, return_inverse=True)
        found = [None if value != value else value for value in unique.tolist()]  # noqa: PLR0124 - as above
    names = ["null" if value is None else str(value) for value in found]
    sorted_names = sorted(set(names))
    order = {name: number for number, name in enumerate(sorted_names)}
    place = np.array([order[name] for name in names], dtype=np.intp)
    return sorted_names, place[codes] if names else codes.astype(np.intp)

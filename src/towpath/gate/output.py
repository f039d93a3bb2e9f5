"""What an answer may be: the range, the classes, and that it is a number at all."""

from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from towpath.project.declarations import OutputDeclaration

__all__ = ["OutputCheck", "allowed", "check_output", "wrong_rows"]


class OutputCheck(msgspec.Struct, frozen=True, kw_only=True):
    """How many answers were none."""

    rows: int
    wrong: int
    detail: str = ""
    """The first wrong row and why; empty where none is."""


def wrong_rows(values: NDArray[Any], declaration: OutputDeclaration) -> NDArray[np.bool_]:
    """Which answers break what the model declared: these rows fall back with reason *wrong*.

    Args:
        values: The predictions, first dimension n: numbers (or text, for classes).
        declaration: ``[output]`` of ``model.toml``.

    Returns:
        Shape ``(n,)``. A number is wrong where it is not finite or outside ``low`` to ``high`` (a probability outside 0
        to 1); a class where it is null or not among ``classes``; text where null; a vector where any part is; a ranking where
        it is no list, is longer than ``top``, or an item is null or stands there twice.

    Example:
        >>> wrong_rows(np.array([1.0, -1.0, np.nan]), OutputDeclaration(low=0.0)).tolist()
        [False, True, True]
    """
    if declaration.kind == "ranking":
        return np.array([not _is_ranking(items, declaration.top) for items in values.tolist()], dtype=bool)
    if declaration.kind in {"class", "text"}:
        return _wrong_labels(values, declaration)
    if values.dtype.kind not in "fiub":
        values = _numbers(values)
    low, high = declaration.low, declaration.high
    if declaration.kind == "probability":
        low, high = max(low or 0.0, 0.0), min(1.0 if high is None else high, 1.0)
    bad: NDArray[np.bool_] = np.asarray(~np.isfinite(values))
    with np.errstate(invalid="ignore"):
        if low is not None:
            bad |= values < low
        if high is not None:
            bad |= values > high
    return np.asarray(bad.any(axis=tuple(range(1, bad.ndim))))


def check_output(values: NDArray[Any], declaration: OutputDeclaration) -> OutputCheck:
    """Count the answers on the held-out rows that break what the model declared.

    Args:
        values: The predictions, first dimension n.
        declaration: ``[output]`` of ``model.toml``.

    Example:
        >>> check_output(np.array([1.0, -1.0]), OutputDeclaration(low=0.0)).detail
        'row 1 answers -1.0'
    """
    wrong = wrong_rows(values, declaration)
    if not wrong.any():
        return OutputCheck(rows=len(values), wrong=0)
    first = int(wrong.argmax())
    return OutputCheck(rows=len(values), wrong=int(wrong.sum()), detail=f"row {first} answers {_shown(values[first])}")


def allowed(declaration: OutputDeclaration) -> str:
    """What the declaration allows, for a message.

    Example:
        >>> allowed(OutputDeclaration(low=0.0))
        'a number from 0 up'
    """
    if declaration.classes:
        return "one of " + ", ".join(f"'{name}'" for name in declaration.classes)
    if declaration.kind == "ranking":
        return (
            "a list of different items"
            if declaration.top is None
            else f"a list of at most {declaration.top} different items"
        )
    low, high = declaration.low, declaration.high
    if declaration.kind == "probability":
        return "a probability from 0 to 1"
    if low is not None and high is not None:
        return f"a number from {low:g} to {high:g}"
    if low is not None:
        return f"a number from {low:g} up"
    return f"a number up to {high:g}" if high is not None else "a finite number"


def _wrong_labels(values: NDArray[Any], declaration: OutputDeclaration) -> NDArray[np.bool_]:
    flat = values.reshape(len(values), -1).tolist() if values.size else []
    known = set(declaration.classes)
    if not known:
        return np.array([any(_is_null(part) for part in row) for row in flat], dtype=bool)
    return np.array([any(str(part) not in known for part in row) for row in flat], dtype=bool)


def _is_ranking(items: Any, top: int | None) -> bool:
    if not isinstance(items, list):
        return False
    named = cast("list[Any]", items)
    return (top is None or len(named) <= top) and None not in named and len(set(named)) == len(named)


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """What is no number becomes NaN, and so is wrong."""
    flat = [float(v) if isinstance(v, int | float) else np.nan for v in values.reshape(-1).tolist()]
    return np.array(flat, dtype=np.float64).reshape(values.shape)


def _is_null(value: object) -> bool:
    return value is None or value != value  # noqa: PLR0124 - NaN alone differs from itself


def _shown(value: Any) -> str:
    plain: Any = cast("NDArray[Any]", value).tolist() if isinstance(value, np.ndarray | np.generic) else value
    text = repr(plain)
    return text if len(text) <= 80 else text[:79] + "…"  # noqa: PLR2004 - fits on a line

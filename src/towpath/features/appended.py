"""On-demand features of a training set: computed for every row by the code that serves them, and strictly."""

import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import InputError, ModelError, nearest
from towpath.features.lock import FeatureLock
from towpath.features.on_demand import MOMENT, Columns, OnDemand, column_of, is_own, place_of
from towpath.features.training_set import with_defaults
from towpath.project.on_demand import TIME

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["appended_by", "with_computed"]

_BATCH_ROWS = 65_536
_TRIED_ROWS = 8
"""Rows that training asks about alone, to see that a row's value does not hang on its neighbours."""


def appended_by(
    functions: Sequence[OnDemand], table: "pa.Table", locks: Sequence[FeatureLock], *, project: str, time: str
) -> "pa.Table":
    """A training set with everything that functions give; they see its features with the declared defaults in place.

    Args:
        functions: In their order.
        table: A training set with everything that they read.
        locks: Of the views that they read, for the defaults.
        project: As in `with_defaults`.
        time: The column with the moments of prediction.

    Raises:
        InputError: The spine lacks a column that a function reads, or has it in another type.
        ModelError: A function failed.
    """
    filled = with_defaults(table, locks, project)
    given = {name for one in functions for name in one.outputs}
    inputs: dict[str, NDArray[Any]] = {}
    for function in functions:
        for one, place in zip(function.lock.inputs, function.reads, strict=True):
            if one.reads == TIME or place in given or place in inputs:
                continue
            if place not in filled.column_names:
                raise InputError(
                    f"'{function.view}' reads '{place}', which the spine does not have"
                    f"{nearest(place, filled.column_names)}.",
                    function.lock.path,
                    f"select {place} in the spine",
                )
            inputs[place] = column_of(filled.column(place), one.type, f"'{place}', which '{function.view}' reads,")
    moments = column_of(table.column(time), "timestamp", f"The time column '{time}'")
    return with_computed(table, functions, inputs, moments)


def with_computed(
    table: "pa.Table", functions: Sequence[OnDemand], inputs: Mapping[str, NDArray[Any]], moments: NDArray[Any]
) -> "pa.Table":
    """Append what the functions give for every row of a training set; any fault is the user's to see.

    Args:
        table: Its rows.
        functions: In their order.
        inputs: What they read beside each other's features, one value a row, defaults in place.
        moments: The moments of prediction.

    Raises:
        ModelError: A function raised or broke its declaration; holds the traceback of the user's own lines. Or a row's value
            hangs on the rows beside it, which in serving are others.
    """
    import pyarrow as pa

    n = table.num_rows
    known: dict[str, NDArray[Any]] = {**inputs, MOMENT: moments}
    for one in functions:
        parts: list[list[NDArray[Any]]] = []
        for start in range(0, max(n, 1), _BATCH_ROWS):
            part = {place: known[place][start : start + _BATCH_ROWS] for place in one.reads}
            parts.append(_strictly(one, part, min(_BATCH_ROWS, n - start)))
        _refuse_mixed_rows(one, known, parts[0], n)
        for place, column in enumerate(one.lock.columns):
            values = np.concatenate([part[place] for part in parts])
            name = one.outputs[place]
            known[name] = one.filled(name, values)
            kind = pa.timestamp("us", "UTC") if column.type.startswith("timestamp") else pa.type_for_alias(column.type)
            array = pa.array(values, from_pandas=True)
            table = table.append_column(name, array if array.type == kind else array.cast(kind))
    return table


def _strictly(one: OnDemand, part: Columns, n: int) -> list[NDArray[Any]]:
    try:
        return one.call(part, n)
    except (ModelError, MemoryError):
        raise
    except Exception as error:
        told = traceback.TracebackException.from_exception(error)
        inside = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        own = [said for said, frame in zip(told.stack, inside, strict=True) if is_own(frame.f_globals)]
        told.stack = traceback.StackSummary.from_list(own)
        said = "".join(told.format()).rstrip()
        raise ModelError(
            f"{one.view}() failed: {type(error).__name__}: {error}\n\n{said}", place_of(error) or one.lock.path
        ) from error


def _refuse_mixed_rows(one: OnDemand, known: Columns, first: Sequence[NDArray[Any]], n: int) -> None:
    """Ask about a few rows alone: a mean over the batch is another number in serving."""
    size = min(n, _BATCH_ROWS)
    if size <= 1:
        return
    for row in np.unique(np.linspace(0, size - 1, _TRIED_ROWS).astype(int)).tolist():
        alone = _strictly(one, {place: known[place][row : row + 1] for place in one.reads}, 1)
        for name, whole, single in zip(one.outputs, first, alone, strict=True):
            if not _same(whole[row], single[0]):
                raise ModelError(
                    f"'{name}' is {whole[row]} for row {row} among {size} rows and {single[0]} for the same row alone.",
                    one.lock.path,
                    "each row by itself: in serving the rows beside it are others",
                )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float | np.floating):
        return bool(np.isclose(one, other, rtol=1e-9, atol=0, equal_nan=True))
    return bool(one == other) or (one != one and other != other)  # noqa: PLR0124 - NaT differs from itself

"""Requests that are answered together: what waits for a model's thread becomes one call, without a timer."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from towpath.models.columns import Matrix, columns_from_rows, rows_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from towpath.models.manifest import Field
    from towpath.serving.served import Columns, Served

__all__ = ["Joint", "answered_apart", "fit", "pays", "rows_worth_joining", "trial_rows"]

_log = logging.getLogger("towpath.serving")
_JOINT_ROWS = 128
"""Of several requests in one call, where measuring said that it pays: what a tree ensemble answers in about the time of one."""
_TRIED_ROWS = 32
_PROVED_ROWS = 4
_TRIES = 3
_MOST_TRIAL_S = 0.5
_SAVED_S = 20e-6
"""Per row, below which joining costs more than it gives."""
_HOP_S = 100e-6
"""The same for a model that is called inline today: a call in a thread and back costs about as much."""
_RELATIVE = 1e-5
"""Single precision sums in another order differ by less."""


class Joint(NamedTuple):
    """What a call needs beside its function to be answered together with others."""

    columns: "Columns"
    """Its rows."""
    predict: "Callable[[Columns], dict[str, NDArray[Any]]]"
    """Answers rows of several calls; the same for all that are joined."""


def fit(one: Joint, other: Joint) -> bool:
    """Whether the rows of two calls can stand below each other: the same columns, types and shapes.

    Example:
        >>> a, b = {"a": np.zeros(2)}, {"a": np.zeros(1)}
        >>> fit(Joint(a, dict), Joint(b, dict)), fit(Joint(a, dict), Joint({"a": np.array(["x"])}, dict))
        (True, False)
    """
    first, second = one.columns, other.columns
    if isinstance(first, Matrix) or isinstance(second, Matrix):
        return isinstance(first, Matrix) and isinstance(second, Matrix) and first.names == second.names
    return first.keys() == second.keys() and all(
        column.dtype == second[name].dtype and column.shape[1:] == second[name].shape[1:]
        for name, column in first.items()
    )


def answered_apart(joints: Sequence[Joint]) -> "list[dict[str, NDArray[Any]]] | None":
    """Answer all rows in one call, and give each its own; none where the model gave other than a value per row.

    Args:
        joints: That `fit` each other.

    Raises:
        Exception: Whatever the model raises.

    Example:
        >>> twice = lambda columns: {"p": columns["a"] * 2}
        >>> [one["p"].tolist() for one in answered_apart([Joint({"a": np.array(x)}, twice) for x in ([1, 2], [3])])]
        [[2, 4], [6]]
    """
    ends = np.cumsum([0, *(rows_in(one.columns) for one in joints)]).tolist()
    outputs = joints[0].predict(_below_each_other([one.columns for one in joints]))
    if not outputs or any(values.ndim == 0 or values.shape[0] != ends[-1] for values in outputs.values()):
        return None
    return [{name: values[start:end] for name, values in outputs.items()} for start, end in pairwise(ends)]


def rows_worth_joining(served: "Served") -> int:
    """How many rows of several requests a version answers in one call: declared, or measured here.

    A model is joined by itself only where it says that each row is answered for itself, and where a trial on made-up rows (or
    on its golden cases) shows the same answers in less time. A project's own ``predict`` may look at all the rows it gets,
    to rank them, say; whoever knows better declares ``batch_rows``.

    Args:
        served: A version that was proven.

    Returns:
        1 where requests are answered one by one.
    """
    declared = served.manifest.serving.batch_rows
    if declared is not None:
        return declared
    if not served.model.row_by_row or served.manifest.output.kind == "ranking":
        return 1
    try:
        rows = trial_rows(served)
        joined = rows is not None and pays(
            served.loaded.predict, rows, at_least_s=_HOP_S if served.inline else _SAVED_S
        )
    except Exception as error:  # noqa: BLE001 - the edge to a model: one that cannot take made-up rows is called one by one
        _log.debug("%s@%d: not joined: %s", served.manifest.model, served.version, error)
        return 1
    return _JOINT_ROWS if joined else 1


def pays(
    predict: "Callable[[Columns], dict[str, NDArray[Any]]]", rows: "Sequence[Columns]", *, at_least_s: float
) -> bool:
    """Whether one call about many rows gives the same answers as many calls, and spares time for each.

    Args:
        predict: The model.
        rows: Inputs of one row each.
        at_least_s: What has to be spared per row.

    Example:
        >>> rows = [{"a": np.array([float(n)])} for n in range(32)]
        >>> pays(lambda columns: (time.sleep(0.001), {"p": columns["a"]})[1], rows, at_least_s=1e-5)
        True
        >>> pays(lambda columns: (time.sleep(0.001), {"p": columns["a"] - columns["a"].mean()})[1], rows, at_least_s=1e-5)
        False
    """
    began = time.perf_counter()
    single_s = joint_s = float("inf")
    apart: list[dict[str, NDArray[Any]]] = []
    for row in rows[:_PROVED_ROWS]:
        start = time.perf_counter()
        apart.append(predict(row))
        single_s = min(single_s, time.perf_counter() - start)
        if time.perf_counter() - began > _MOST_TRIAL_S:
            return False
    if single_s < at_least_s:
        return False
    together = [Joint(row, predict) for row in rows]
    found: list[dict[str, NDArray[Any]]] | None = None
    for _ in range(_TRIES):
        start = time.perf_counter()
        found = answered_apart(together)
        joint_s = min(joint_s, time.perf_counter() - start)
        if time.perf_counter() - began > _MOST_TRIAL_S:
            break
    if found is None or not all(_same(one, other) for one, other in zip(apart, found, strict=False)):
        return False
    return single_s - joint_s / len(rows) >= at_least_s


def _same(one: "Mapping[str, NDArray[Any]]", other: "Mapping[str, NDArray[Any]]") -> bool:
    if one.keys() != other.keys():
        return False
    for name, values in one.items():
        if values.dtype.kind == "f":
            if values.shape != other[name].shape or not np.allclose(
                values, other[name], rtol=_RELATIVE, atol=_RELATIVE, equal_nan=True
            ):
                return False
        elif not np.array_equal(values, other[name]):
            return False
    return True


def _below_each_other(columns: "Sequence[Columns]") -> "Columns":
    first = columns[0]
    if isinstance(first, Matrix):
        return Matrix(first.names, np.concatenate([one.array for one in columns if isinstance(one, Matrix)]))
    return {name: np.concatenate([one[name] for one in columns]) for name in first}


def trial_rows(served: "Served") -> "list[Columns] | None":
    """Rows of one each, all different: of the golden cases where they say everything, else made up; none for a model of tensors."""
    signature = served.signature
    if signature.container == "tensors":
        return None
    known = [case.request for case in served.golden if all(name in case.request for name in served.names)]
    rng = np.random.default_rng(len(signature.inputs))
    made = [{field.name: _made_up(field, rng) for field in signature.inputs} for _ in range(_TRIED_ROWS)]
    asked = [{name: case[name] for name in served.names} for case in known[:_TRIED_ROWS]] + made
    return [columns_from_rows(signature, [row]) for row in asked[:_TRIED_ROWS]]


def _made_up(field: "Field", rng: np.random.Generator) -> Any:
    if field.levels:
        return field.levels[int(rng.integers(len(field.levels)))]
    if field.type == "bool":
        return bool(rng.integers(2))
    if field.type.startswith(("int", "uint")):
        return int(rng.integers(100))
    if field.type.startswith(("timestamp", "date")):
        return "2026-01-01T00:00:00Z"
    if field.type in {"double", "float", "halffloat"} or field.type.startswith("decimal"):
        return float(rng.normal())
    return "a"

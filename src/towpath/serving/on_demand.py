"""The on-demand features of one version: what a request gives them to read, and what they give the model."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from towpath.errors import InputError, nearest
from towpath.features.on_demand import MOMENT, Computed, Fault, OnDemand, compute, gaps
from towpath.models.columns import Matrix, array_of
from towpath.models.manifest import Field
from towpath.project.on_demand import TIME, is_feature
from towpath.types import Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from towpath.models.manifest import Manifest

__all__ = ["Functions", "Pending", "plain"]

Columns = Mapping[str, "NDArray[Any]"]
_NOTHING: tuple[str, ...] = ()


class Pending(NamedTuple):
    """On-demand features that are still to be computed."""

    functions: Sequence[OnDemand]
    columns: Columns
    """What they read."""
    rows: int
    """How many."""
    budget_s: float
    own: "Mapping[str, NDArray[np.bool_] | None]"
    """Feature → the rows that brought it themselves; None for none."""
    absent: Sequence[tuple[str, ...]] | None
    """Per row the columns of the request that are read and that it does not name."""

    def run(self, into: Computed | None = None) -> Computed:
        """Compute them in this thread."""
        return compute(self.functions, self.columns, self.rows, into)

    def read_by(self, row: int) -> dict[str, Any]:
        """What the functions read of one row, its moment in microseconds; nothing where the row brought a feature of theirs."""
        if any(mask is not None and mask[row] for mask in self.own.values()):
            return {}
        found = {name: plain(column[row]) for name, column in self.columns.items() if name != MOMENT}
        moment = self.columns.get(MOMENT)
        return found if moment is None else {**found, MOMENT: int(moment[row].astype(np.int64))}

    def not_in(self, computed: Computed, why: Reason) -> list[Fault]:
        """A fault for each function that did not come to its end."""
        late = [one for one in self.functions if one.outputs[0] not in computed.columns]
        return [Fault(one.view, why, self.rows) for one in late]


class Functions:
    """Reads requests for the functions of one version, and lays what they gave into the columns of its model.

    Args:
        manifest: Of the version.
        functions: In the order in which they are called.
        names: The inputs of the model.
    """

    def __init__(self, manifest: "Manifest", functions: Sequence[OnDemand], names: Sequence[str]) -> None:
        self._functions = functions
        self._time = manifest.time
        self._budget_s = sum(one.lock.budget_ms for one in functions) / 1e3
        self._of = {name: one for one in functions for name in one.outputs}
        self.gives = tuple(name for name in names if name in self._of)
        """What the model reads of them."""
        inputs = [one for function in functions for one in function.lock.inputs]
        self._asked = {one.name: one for one in inputs if one.reads == "request"}
        self._fields = {name: Field(name=name, type=one.type) for name, one in self._asked.items()}
        self._features = tuple(
            dict.fromkeys(one.reads for one in inputs if is_feature(one.reads) and one.reads not in self._of)
        )
        self._read_fields = {
            one.reads: Field(name=one.reads, type=one.type) for one in inputs if one.reads in self._features
        }
        self._timed = any(one.reads == TIME for one in inputs)
        self.reads = (*self._asked, *self._features)
        """What a row may name for them beside the inputs of the model."""
        self.fixed_by = (*self.reads, *([manifest.time or MOMENT] if self._timed else ()))
        """What a row must name so that its on-demand features are the same at any time."""
        self.needed = tuple(dict.fromkeys([*(n for n in names if n not in self._of), *self._features]))
        """Looked-up features, of the model and of the functions."""
        self.must_have = tuple(
            f"{function.view}.{column.name}"
            for function in functions
            for column in function.lock.columns
            if column.missing == "refuse" and f"{function.view}.{column.name}" in names
        )

    def nothing(self, n: int) -> dict[str, "NDArray[Any]"]:
        """The columns of the model that they will give, all missing."""
        empty: dict[str, NDArray[Any]] = {}
        for one in self._functions:
            empty |= one.nothing(n)
        return {name: empty[name] for name in self.gives}

    def from_rows(self, rows: Sequence[Mapping[str, Any]], looked: Columns, now_us: int) -> Pending:
        """Take what is read from JSON rows.

        Raises:
            InputError: A value is of another type, or a row lacks a column that is required.
        """
        count = len(rows)
        own: dict[str, NDArray[np.bool_] | None] = {}
        for name in self.gives:
            named = [name in row for row in rows]
            own[name] = np.array(named) if any(named) else None
        if self.gives and all(mask is not None and mask.all() for mask in own.values()):
            return Pending((), {}, count, 0.0, own, None)
        columns: dict[str, NDArray[Any]] = {}
        absent: list[tuple[str, ...]] | None = None
        for name, one in self._asked.items():
            columns[name] = array_of(self._fields[name], [row.get(name) for row in rows])
            gone = [name not in row for row in rows]
            if not any(gone):
                continue
            if one.required:
                self._refuse(name, gone.index(True), rows[gone.index(True)])
            absent = absent or [_NOTHING] * count
            absent = [(*names, name) if lacks else names for names, lacks in zip(absent, gone, strict=True)]
        for name, field in self._read_fields.items():
            columns[name] = _laid_over(field, rows, looked.get(name))
        if self._timed:
            columns[MOMENT] = self._moments([row.get(self._time) for row in rows] if self._time else [], count, now_us)
        return Pending(self._functions, columns, count, self._budget_s, own, absent)

    def from_columns(self, given: Columns, looked: Columns, n: int, now_us: int) -> Pending:
        """Take what is read from columns or tensors.

        Raises:
            InputError: Names the input.
        """
        every = np.ones(n, dtype=bool)
        own = {name: every if name in given else None for name in self.gives}
        if self.gives and all(name in given for name in self.gives):
            return Pending((), {}, n, 0.0, own, None)
        columns: dict[str, NDArray[Any]] = {}
        lacking: list[str] = []
        for name, one in self._asked.items():
            field = self._fields[name]
            if name in given:
                columns[name] = _read(field, given[name])
                continue
            if one.required:
                raise InputError(f"Input '{name}' is missing{nearest(name, given)}.")
            lacking.append(name)
            columns[name] = array_of(field, [None] * n)
        for name, field in self._read_fields.items():
            if name in given:
                columns[name] = _read(field, given[name])
            elif name in looked:
                columns[name] = looked[name]
            else:
                raise InputError(f"Input '{name}' is missing{nearest(name, given)}.")
        if self._timed:
            own_time = given.get(self._time) if self._time else None
            columns[MOMENT] = self._moments([] if own_time is None else own_time, n, now_us)
        absent = [tuple(lacking)] * n if lacking else None
        return Pending(self._functions, columns, n, self._budget_s, own, absent)

    def laid(
        self, columns: Columns, pending: Pending, computed: Computed
    ) -> tuple[Columns, list[tuple[str, ...]] | None]:
        """Lay what was computed into the columns of the model, but over nothing that a row brought itself.

        Returns:
            The columns, and per row the features without a value; None where all have one.
        """
        if not pending.functions:
            return columns, None
        laid = Matrix(columns.names, columns.array.copy()) if isinstance(columns, Matrix) else dict(columns)
        lacking: list[tuple[str, NDArray[np.bool_]]] = []
        for name in self.gives:
            one = self._of[name]
            values = computed.columns.get(name)
            if values is None:
                values = one.nothing(pending.rows)[name]
            gone, own = gaps(values), pending.own[name]
            values = one.filled(name, values)
            if own is not None:
                gone &= ~own
            if gone.any():
                lacking.append((name, gone))
            if isinstance(laid, Matrix):
                column = laid[name]
                np.copyto(column, values, where=True if own is None else ~own)
            elif own is None:
                laid[name] = values
            else:
                kept = laid[name].astype(np.result_type(laid[name], values))
                kept[~own] = values[~own]
                laid[name] = kept
        if not lacking:
            return laid, None
        missing: list[tuple[str, ...]] = [_NOTHING] * pending.rows
        for row in np.flatnonzero(np.logical_or.reduce([gone for _, gone in lacking])).tolist():
            missing[row] = tuple(name for name, gone in lacking if gone[row])
        return laid, missing

    def _moments(self, given: Any, n: int, now_us: int) -> "NDArray[Any]":
        """The row's own moment of prediction where it names one, else this one."""
        now = np.full(n, np.datetime64(now_us, "us"))
        if len(given) == 0:
            return now
        field = Field(name=self._time or "", type="timestamp[us, tz=UTC]")
        own = _read(field, given) if isinstance(given, np.ndarray) else array_of(field, cast("list[Any]", given))
        return np.where(np.isnat(own), now, own)

    def _refuse(self, name: str, number: int, row: Mapping[str, Any]) -> None:
        view = next(f.view for f in self._functions if any(one.name == name for one in f.lock.inputs))
        raise InputError(
            f"row {number} has no column '{name}', which '{view}' needs{nearest(name, row) if row else ''}.",
            mend="send null where it is not known",
        )


def plain(value: Any) -> Any:
    """A value of an array as JSON knows it; a number that is no number is null."""
    if isinstance(value, np.generic | np.ndarray):
        value = cast("Any", value).tolist()
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _laid_over(field: Field, rows: Sequence[Mapping[str, Any]], looked: "NDArray[Any] | None") -> "NDArray[Any]":
    """A looked-up column with the values that rows name themselves laid over it."""
    at = [number for number, row in enumerate(rows) if field.name in row]
    if looked is None:
        if len(at) < len(rows):
            number = next(number for number, row in enumerate(rows) if field.name not in row)
            raise InputError(
                f"row {number} has no column '{field.name}' and no key to look it up by.",
                mend="send the entity key, or the value, null where it is not known",
            )
        return array_of(field, [row[field.name] for row in rows])
    if not at:
        return looked
    given = array_of(field, [rows[number][field.name] for number in at], numbers=at)
    laid = looked.astype(np.result_type(looked, given))
    laid[at] = given
    return laid


def _read(field: Field, array: "NDArray[Any]") -> "NDArray[Any]":
    """A column as it was sent: numbers and times as they are, text and what else there is value by value."""
    if field.type.startswith(("timestamp", "date")):
        if array.dtype.kind == "M":
            return array.astype("M8[us]", copy=False)
    elif array.dtype.kind in "fiub" and not field.type.endswith("string"):
        return array
    values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in array.tolist()]
    return array_of(field, [None if value != value else value for value in values])  # noqa: PLR0124 - NaN and NaT

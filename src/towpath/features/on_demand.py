"""On-demand features: a plain function over columns, the same in training and in serving, once for a batch."""

import hashlib
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from towpath.errors import InputError, ModelError, ProjectError, UnknownError, nearest
from towpath.features.lock import FeatureColumn, FeatureLock, OnDemandInputLock, OnDemandLock, names_of
from towpath.project.on_demand import TIME, OnDemandFile, is_feature

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "MOMENT",
    "Computed",
    "Fault",
    "OnDemand",
    "Split",
    "column_of",
    "compute",
    "gaps",
    "is_own",
    "lock_on_demand",
    "place_of",
    "split",
]

MOMENT = ":time"
"""The column of the moments of prediction among those that functions read; no column of a user has this name."""
_MOST = 2.0**63
_NOT_A_TIME = np.datetime64("NaT", "us")
_log = logging.getLogger("towpath.features")

Columns = Mapping[str, NDArray[Any]]
_KINDS = {"timestamp": "t", "date": "t", "string": "s", "large_string": "s", "bool": "b"}
_ARROW = {"timestamp": "timestamp[us, tz=UTC]"}
_GIVES = {"double": "n", "int64": "i", "bool": "b", "string": "s", "timestamp": "t"}


class Fault(NamedTuple):
    """Why rows of one function have no value."""

    view: str
    why: str
    """``raised``, ``wrong`` (not what was declared) or ``slow``."""
    rows: int
    error: BaseException | None = None


class Computed(NamedTuple):
    """What functions gave for n rows."""

    columns: dict[str, NDArray[Any]]
    """``view.feature`` → shape ``(n,)``, in the forms of the online read."""
    faults: list[Fault]


class OnDemand:
    """One function with what its file declares. Calls may come from many threads at once.

    Args:
        lock: What it reads and gives.
        function: The user's own.
    """

    def __init__(self, lock: OnDemandLock, function: Callable[..., Any]) -> None:
        self.lock = lock
        self.view = lock.view
        self.function = function
        self.reads = tuple(_place(one) for one in lock.inputs)
        """The columns that it is called with, in its own order."""
        self.outputs = tuple(f"{lock.view}.{column.name}" for column in lock.columns)
        self._readers = tuple((_place(one), _READERS[_kind(one.type)]) for one in lock.inputs)
        self._plain = all(reader is _number_in for _, reader in self._readers)
        self._names = [column.name for column in lock.columns]
        self._kinds = [_GIVES["timestamp" if c.type.startswith("timestamp") else c.type] for c in lock.columns]
        self._numbers = set(self._kinds) == {"n"}
        self._defaults = {
            name: column.default
            for name, column in zip(self.outputs, lock.columns, strict=True)
            if column.missing == "default" and column.default is not None
        }
        self._noted: set[str] = set()

    def arguments(self, columns: Columns) -> list[NDArray[Any]]:
        """What the function is called with: numbers and truth values as float64, times as ``datetime64[us]``, text as objects.

        They are copies, so that a function which writes into them changes nothing that others read too.
        """
        if self._plain:  # all at once: ten columns one by one took twice as long
            return list(np.array([columns[place] for place in self.reads], dtype=np.float64))
        return [reader(columns[place]).copy() for place, reader in self._readers]

    def call(self, columns: Columns, n: int) -> list[NDArray[Any]]:
        """Call the function once for n rows; what it raises is raised, what it gives is checked.

        Raises:
            ModelError: It gave something else than was declared.
            RuntimeError: It would have ended the process or the thread, as `exit` does.
        """
        arguments = self.arguments(columns)
        try:
            with np.errstate(all="ignore"):
                raw = self.function(*arguments)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - nobody else catches these: they would cost more than the row
            said = f"{type(error).__name__}({error})"
            raise RuntimeError(f"it ended itself with {said}").with_traceback(error.__traceback__) from None
        return self._taken(raw, n)

    def compute(self, columns: Columns, n: int) -> tuple[list[NDArray[Any]], Fault | None]:
        """Call the function, once; where that fails, once more for each row alone, so that one row costs only itself."""
        try:
            return self.call(columns, n), None
        except Exception as error:  # noqa: BLE001 - the edge to the user's code
            first = error
        nothing = [_nothing(kind, n) for kind in self._kinds]
        bad = n
        if n > 1:
            for row in range(n):
                try:
                    one = self.call({place: columns[place][row : row + 1] for place in self.reads}, 1)
                except Exception as error:  # noqa: BLE001 - as above
                    first = error
                    continue
                bad -= 1
                for whole, part in zip(nothing, one, strict=True):
                    whole[row] = part[0]
        if not bad:  # each row alone is well, and all together are not: the function mixes rows
            self._note("alone", "%s: it failed for %d rows together and for none alone: %s", n, first)
            return nothing, Fault(self.view, "raised", 0, first)
        why = "wrong" if isinstance(first, ModelError) else "raised"
        self._note(type(first).__name__, "%s: %d rows have no value: %s", bad, first)
        return nothing, Fault(self.view, why, bad, first)

    def nothing(self, n: int) -> dict[str, NDArray[Any]]:
        """All its features, all missing."""
        return {name: _nothing(kind, n) for name, kind in zip(self.outputs, self._kinds, strict=True)}

    def filled(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """A column with the declared default where a value is missing."""
        default = self._defaults.get(name)
        if default is None:
            return values
        gap = gaps(values)
        if gap.any():
            values = values.copy()
            values[gap] = default
        return values

    @property
    def has_defaults(self) -> bool:
        """Whether any of its features has one."""
        return bool(self._defaults)

    def _note(self, key: str, message: str, rows: int, error: BaseException) -> None:
        """Once for each kind of fault: a feature that fails on every request must not fill the disk."""
        if key in self._noted:
            return
        self._noted.add(key)
        place = place_of(error)
        said = error.what if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
        _log.warning(
            message + "%s; said once, counted in towpath_on_demand_missing",
            self.view,
            rows,
            said,
            place and f" ({place})",
        )

    def _taken(self, raw: Any, n: int) -> list[NDArray[Any]]:
        """What the function gave, in the order and the forms that were declared."""
        names = self._names
        if not isinstance(raw, Mapping) or len(raw) != len(names):
            raise self._not_declared(raw)
        try:
            found = [raw[name] for name in names]
        except KeyError:
            raise self._not_declared(raw) from None
        shape_wanted = (n,)
        if self._numbers and all(type(values) is np.ndarray for values in found):
            # One look at all of them; only where that fails each is looked at alone, to say which.
            with suppress(ValueError):
                block = np.array(found)
                if block.dtype.char == "d" and block.shape == (len(names), n):
                    return self._finite_rows(block)
        for name, values in zip(names, found, strict=True):
            if not isinstance(values, np.ndarray) or values.shape != shape_wanted:
                shape = (
                    list(values.shape) if isinstance(values, np.ndarray) else f"no array but {type(values).__name__}"
                )
                raise self._wrong(f"'{name}' has the shape {shape} for {n} rows", f"one value a row, shape ({n},)")
        if self._numbers:
            return self._finite_rows(self._block(found))
        return [self._form(name, values, kind) for name, values, kind in zip(names, found, self._kinds, strict=True)]

    def _finite_rows(self, block: NDArray[np.float64]) -> list[NDArray[Any]]:
        # A sum of squares is finite only where all numbers are; it takes a third of `np.isfinite(block).all()`.
        if not isfinite(np.vdot(block, block)):
            block[~np.isfinite(block)] = np.nan
        return list(block)

    def _block(self, found: list[NDArray[Any]]) -> NDArray[np.float64]:
        """All numbers as one array: ten columns one by one took three times as long."""
        for values in found:
            if values.dtype.kind not in "fiub":
                return np.stack([self._form(name, each, "n") for name, each in zip(self._names, found, strict=True)])
        return np.array(found, dtype=np.float64)

    def _form(self, name: str, values: NDArray[Any], kind: str) -> NDArray[Any]:
        try:
            return _FORMS[kind](values)
        except (TypeError, ValueError, OverflowError):
            declared = next(column.type for column in self.lock.columns if column.name == name)
            raise self._wrong(f"'{name}' is {values.dtype} and no {declared}", f"an array of {declared}") from None

    def _not_declared(self, raw: object) -> ModelError:
        if not isinstance(raw, Mapping):
            return self._wrong(f"it returned {type(raw).__name__}", "return {'" + "': …, '".join(self._names) + "': …}")
        lacking = [name for name in self._names if name not in raw]
        strange = [str(name) for name in raw if name not in self._names]
        if lacking:
            return self._wrong(f"it gave no '{lacking[0]}'{nearest(lacking[0], strange)}", "declare what it returns")
        return self._wrong(f"it gave '{strange[0]}', which is not declared", "add it to [outputs]")

    def _wrong(self, what: str, mend: str) -> ModelError:
        return ModelError(f"{self.view}(): {what}.", self.lock.path, mend)


def compute(functions: Sequence[OnDemand], columns: Columns, n: int, into: Computed | None = None) -> Computed:
    """Call functions in their order, so that one may read what another gave.

    Args:
        functions: As `split` ordered them.
        columns: What they read: columns of the request, features, and `MOMENT`.
        n: Number of rows.
        into: Gets each function's columns as it ends, so that whoever stops waiting has those that are there.
    """
    made = into or Computed({}, [])
    known = dict(columns)
    for one in functions:
        values, fault = one.compute(known, n)
        found = dict(zip(one.outputs, values, strict=True))
        if fault is not None:
            made.faults.append(fault)
        made.columns.update(found)
        known.update({name: one.filled(name, column) for name, column in found.items()} if one.has_defaults else found)
    return made


def lock_on_demand(
    files: Sequence[OnDemandFile], locks: Sequence[FeatureLock], project: str
) -> tuple[OnDemandLock, ...]:
    """Keep on-demand files as they stand.

    Args:
        files: In the order of `split`.
        locks: Of the views that they read.
        project: Whose they are.

    Raises:
        ProjectError: A feature that is read is a list or a struct.
    """
    types = {name: column.type for k in locks for name, column in zip(names_of(k, project), k.columns, strict=True)}
    found: list[OnDemandLock] = []
    for file in files:
        inputs: list[OnDemandInputLock] = []
        for name in file.arguments:
            said = file.header.inputs[name]
            reads = TIME if said.type == TIME else said.type if is_feature(said.type) else "request"
            kind = _ARROW.get("timestamp" if reads == TIME else said.type, said.type)
            kind = types[reads] if is_feature(reads) else kind
            if kind.startswith(("list", "struct", "map", "large_list", "fixed_size_list")):
                raise ProjectError(f"'{file.name}' reads '{reads}', which is {kind}.", file.path, "one value a row")
            inputs.append(OnDemandInputLock(name=name, reads=reads, type=kind, required=said.required))
        columns = tuple(
            FeatureColumn(name=name, type=_ARROW.get(o.type, o.type), default=o.default, missing=o.missing)
            for name, o in file.header.outputs.items()
        )
        types |= {f"{file.name}.{column.name}": column.type for column in columns}
        found.append(
            OnDemandLock(
                project=project,
                view=file.name,
                path=file.path,
                digest=f"sha256:{hashlib.sha256(file.files[file.path] if file.files else file.file.read_bytes()).hexdigest()}",
                inputs=tuple(inputs),
                columns=columns,
                budget_ms=file.header.budget_ms,
            )
        )
    return tuple(found)


class Split(NamedTuple):
    """Features that were asked for, told apart."""

    features: list[str]
    """Of views, those that only functions read among them."""
    files: list[OnDemandFile]
    """On-demand ones, each after those that it reads."""
    computed: list[str]
    """The on-demand features that were asked for."""
    hidden: list[str]
    """Of `features`, those that were not asked for."""


def split(features: Sequence[str], files: Mapping[str, OnDemandFile]) -> Split:
    """Tell the features of views from on-demand ones, and add what the latter read.

    Args:
        features: ``view.feature`` or ``view.*``.
        files: The project's on-demand files.

    Raises:
        UnknownError: An on-demand file does not give a feature; the nearest name is offered.
        ProjectError: On-demand files read each other in a circle.
    """
    asked = [name for name in features if name.rpartition(".")[0] not in files]
    computed: list[str] = []
    for name in features:
        view, _, feature = name.rpartition(".")
        if view not in files:
            continue
        known = list(files[view].header.outputs)
        if feature != "*" and feature not in known:
            raise UnknownError(f"'{view}' gives no feature '{feature}'{nearest(feature, known)}", files[view].path)
        computed += [f"{view}.{one}" for one in (known if feature == "*" else [feature])]
    graph, waiting = dict[str, list[str]](), [name.rpartition(".")[0] for name in computed]
    hidden: list[str] = []
    while waiting:
        view = waiting.pop()
        if view in graph:
            continue
        read = [one.type for one in files[view].header.inputs.values() if is_feature(one.type)]
        graph[view] = [name.rpartition(".")[0] for name in read if name.rpartition(".")[0] in files]
        waiting += graph[view]
        hidden += [name for name in read if name.rpartition(".")[0] not in files]
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " reads ".join(f"'{name}'" for name in reversed(error.args[1]))
        raise ProjectError(f"{circle}.", files[error.args[1][0]].path, "break the circle") from None
    whole = {name[:-2] for name in asked if name.endswith(".*")}
    extra = [name for name in dict.fromkeys(hidden) if name not in asked and name.rpartition(".")[0] not in whole]
    return Split([*asked, *extra], [files[view] for view in order], list(dict.fromkeys(computed)), extra)


def column_of(column: "pa.ChunkedArray", kind: str, called: str) -> NDArray[Any]:
    """An Arrow column as functions read it, in the forms of the online read.

    Args:
        column: Of a spine, or a feature of a view.
        kind: Arrow's name of the type that is read.
        called: For the error.

    Raises:
        InputError: It is of another family of types; nothing is cast silently.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    held, wanted = column.type, _kind(kind)
    number = pa.types.is_floating(held) or pa.types.is_integer(held) or pa.types.is_decimal(held)
    fits = {
        "n": number or pa.types.is_boolean(held),
        "b": pa.types.is_boolean(held),
        "t": pa.types.is_timestamp(held) or pa.types.is_date(held),
        "s": pa.types.is_string(held) or pa.types.is_large_string(held),
    }
    if pa.types.is_null(held):
        return _nothing(wanted.replace("b", "n"), len(column))
    if not fits[wanted]:
        raise InputError(f"{called} is {held} in the spine and not {kind}.", mend="cast it in the SELECT")
    if wanted == "s":
        return column.to_numpy()
    if wanted == "t":
        zone = held.tz if pa.types.is_timestamp(held) else None
        return column.cast(pa.timestamp("us", zone), safe=False).cast(pa.timestamp("us")).to_numpy()
    if pa.types.is_boolean(held):
        column = column.cast(pa.int8())
    return column.cast(pa.float64(), safe=False).to_numpy()


def gaps(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a column has no value."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "M":
        return np.isnat(values)
    return np.array([value is None for value in values.tolist()], dtype=bool)


def place_of(error: BaseException) -> str:
    """``file:line`` of the user's own line that an error came from; empty where there is none."""
    frames = [frame for frame in traceback.walk_tb(error.__traceback__) if is_own(frame[0].f_globals)]
    return f"{frames[-1][0].f_code.co_filename}:{frames[-1][1]}" if frames else ""


def is_own(module: Mapping[str, Any]) -> bool:
    """Whether a frame with these globals is of the user's own code."""
    return not str(module.get("__name__", "")).startswith(("towpath.", "numpy"))


def _place(one: OnDemandInputLock) -> str:
    return one.name if one.reads == "request" else MOMENT if one.reads == TIME else one.reads


def _kind(kind: str) -> str:
    if kind.startswith("dictionary"):
        kind = kind.split("values=", 1)[1]
    return next((letter for start, letter in _KINDS.items() if kind.startswith(start)), "n")


def _nothing(kind: str, n: int) -> NDArray[Any]:
    if kind in "ni":
        return np.full(n, np.nan)
    return np.full(n, _NOT_A_TIME) if kind == "t" else np.full(n, None, dtype=object)


def _number_in(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype.char == "d" else _numbers(values)


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype.kind == "O":
        return np.array([np.nan if value is None else value for value in values.tolist()], dtype=np.float64)
    if values.dtype.kind not in "fiub":
        raise TypeError
    return values.astype(np.float64)


def _time_in(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "M":
        return values.astype("M8[us]", copy=False)
    if values.dtype.kind == "f" and np.isnan(values).all():
        return np.full(len(values), _NOT_A_TIME)
    return np.array([_NOT_A_TIME if value is None else value for value in values.tolist()], dtype="M8[us]")


def _text_in(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype.kind == "O" else values.astype(object)


_READERS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "n": _number_in,
    "b": _number_in,
    "t": _time_in,
    "s": _text_in,
}


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    numbers = _numbers(values)
    if numbers is values:
        numbers = numbers.copy()
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def _whole(values: NDArray[Any]) -> NDArray[Any]:
    numbers = _finite(values)
    if (np.isnan(numbers) | (numbers == np.rint(numbers)) & (np.abs(numbers) < _MOST)).all():
        return numbers
    raise ValueError


def _truths(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "b":
        return values.astype(object)
    truths = [None if value is None or value != value else value for value in values.tolist()]  # noqa: PLR0124 - NaN
    if any(value not in (None, 0, 1) for value in truths):
        raise ValueError
    found = np.empty(len(truths), dtype=object)
    found[:] = [None if value is None else bool(value) for value in truths]
    return found


def _texts(values: NDArray[Any]) -> NDArray[Any]:
    texts = [None if value is None or value != value else value for value in values.tolist()]  # noqa: PLR0124 - as above
    if any(value is not None and type(value) is not str for value in texts):
        raise ValueError
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return found


def _times(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind != "M" and not (values.dtype.kind == "O"):
        raise TypeError
    return _time_in(values)


_FORMS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "n": _finite,
    "i": _whole,
    "b": _truths,
    "s": _texts,
    "t": _times,
}

"""A version that is loaded: how its input is read, its output checked, and what the journal calls its rows."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np

from towpath.apart import Apart
from towpath.errors import FormatError, InputError, TowpathError, UnavailableError, nearest
from towpath.features.lock import names_of
from towpath.features.on_demand import OnDemand
from towpath.models.columns import Matrix, array_of, columns_from_rows, columns_from_tensor, in_type, is_number
from towpath.serving.breaker import Breaker
from towpath.serving.guard import Call, Lane
from towpath.serving.on_demand import Functions, Pending, plain
from towpath.serving.statistics import Timed
from towpath.serving.targets import HORIZON, TARGET, horizon_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from towpath.features.on_demand import Computed
    from towpath.gate.golden import GoldenCase
    from towpath.models.manifest import Field, Manifest, Signature

__all__ = ["Columns", "LoadedModel", "OnlineRows", "Prepared", "Reader", "Served", "subset"]

_log = logging.getLogger("towpath.serving")
Columns = Mapping[str, "NDArray[Any]"]
"""One array per column, all of one length."""
_ALWAYS = (TARGET, HORIZON)
_BESIDE_ROWS = 2_000
"""Rows that may wait to be asked of the fallback after their answer; beyond it they are skipped."""
_PROOF_S = 5.0
"""How long a replay of the golden cases may take; longer is a failure."""
_GOOD_ROWS = 64
"""Rows of the largest input that is remembered as one which was answered."""
_MATRIX_DIMENSIONS = 2
_SLACK = 1e-6
"""By which a share may leave [0, 1]: models compute in single precision."""


class LoadedModel(Protocol):
    """What serving asks of a model; `towpath.models.Model` is one."""

    @property
    def signature(self) -> "Signature":
        """What goes in and what comes out."""
        ...

    @property
    def inline(self) -> bool:
        """Whether it is ours and quick enough to be called inside the event loop."""
        ...

    @property
    def row_by_row(self) -> bool:
        """Whether each row is answered for itself, as far as is known."""
        ...

    def predict(self, columns: Columns) -> "dict[str, NDArray[Any]]":
        """Outputs by name, the first is the prediction."""
        ...

    def fallback(self, name: str, columns: Columns) -> "NDArray[Any]":
        """What a function of ``model.py`` answers instead."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class OnlineRows(Protocol):
    """What an online read gave; `towpath.features.OnlineRows` is one."""

    @property
    def columns(self) -> Columns:
        """``view.feature`` → values."""
        ...

    @property
    def missing(self) -> Sequence[tuple[str, ...]]:
        """Per row the features without a value."""
        ...

    @property
    def event_us(self) -> "Mapping[str, NDArray[np.int64]]":
        """View → when each row's values became true, microseconds since 1970; below zero where there are none."""
        ...

    @property
    def matrix(self) -> "NDArray[np.float64] | None":
        """All columns side by side, where they are numbers and were read so."""
        ...


class Reader(Protocol):
    """Looks features up; `towpath.features.OnlineReader` is one."""

    @property
    def waits(self) -> bool:
        """Whether a read may wait for a server, and so has no place in the event loop."""
        ...

    def nothing(self, n: int, error: UnavailableError) -> OnlineRows:
        """What `read` gives while the store is away."""
        ...

    def read(self, key_columns: Mapping[str, Sequence[object]], n: int, now_us: int) -> OnlineRows:
        """Read the newest row of each view for each of `n` rows."""
        ...


class Prepared(NamedTuple):
    """The input of one version, read and looked up."""

    columns: Columns
    missing: "Sequence[tuple[str, ...]] | None"
    refused: "list[int]"
    """Rows that lack a feature which must not be missing."""
    online: "OnlineRows | None"
    pending: "Pending | None" = None
    """What on-demand features are computed of; their columns are null until `Served.completed`."""
    asked: "Pending | None" = None
    """The same, and it stays: the journal keeps it for a sample of keys, so that they can be computed again."""


class Served:
    """One version in memory.

    Args:
        manifest: Of the version; of a bare file one that was made for it.
        model: The loaded model.
        reader: Looks its features up; none where it reads none.
        functions: Its on-demand features, in their order.
        heuristics: Looks up what the ``sql`` links of its chain answer; none where there are none.
    """

    def __init__(
        self,
        manifest: "Manifest",
        model: LoadedModel,
        *,
        reader: Reader | None = None,
        functions: Sequence[OnDemand] = (),
        heuristics: Reader | None = None,
    ) -> None:
        self.manifest = manifest
        self.heuristics = heuristics
        self.heuristic_keys = _ordered([key for lock in manifest.fallback_features for key in lock.entity])
        self.golden: Sequence[GoldenCase] = ()
        """Requests with known answers, replayed while it serves."""
        self.problem = ""
        """Why it stands in for a version that could not be loaded."""
        self.breaker = Breaker(f"{manifest.model}@{manifest.version}", manifest.serving.breaker)
        self.breaker.ask_again = self._ask_again
        self._good: Columns | None = None
        self._asking: Call | None = None
        self.loaded = model
        """The model itself: what is asked of it is not counted."""
        self.timed = Timed(model)
        self.model = cast("LoadedModel", self.timed)
        self.reader = reader
        self.signature = model.signature
        self.version = manifest.version
        self.inline = model.inline
        self.timeout_s = manifest.serving.timeout_ms / 1000
        self.entity = manifest.entity
        self.segments = manifest.segments
        self.names = tuple(field.name for field in self.signature.inputs)
        self.functions = Functions(manifest, functions, self.names) if functions else None
        self.plain = not (
            self.entity or self.segments or manifest.unit or manifest.time or manifest.features or functions
        )
        """Whether a row is its features and nothing else."""
        self.keys = _ordered([*self.entity, *(key for lock in manifest.features for key in lock.entity)])
        self.extra = self._read_beside_inputs(manifest) | frozenset(_ALWAYS)
        self.known = self.extra | frozenset(self.names)
        """All that a request may name."""
        self.own_target = all(
            field.name != TARGET or field.type.startswith(("timestamp", "date")) for field in self.signature.inputs
        )
        """Whether ``target_at`` says when what is predicted about ends, and is no number that the model happens to read."""
        self.scalar = all(is_number(field) for field in self.signature.inputs)
        """Whether each input is one number a row, and so small in the journal."""
        self.lane = Lane(manifest.model, queue_rows=manifest.serving.queue_rows)
        self.fallback_lane = Lane(f"{manifest.model}-fallback", queue_rows=manifest.serving.queue_rows)
        self.beside_lane = Lane(f"{manifest.model}-beside", queue_rows=_BESIDE_ROWS, threads=1)
        """Of its own, so that a fallback which hangs when nobody needs it costs nobody an answer."""
        self.features_lane = Lane(f"{manifest.model}-features", queue_rows=manifest.serving.queue_rows)
        self.look_up_lane = Lane(f"{manifest.model}-look-up", queue_rows=manifest.serving.queue_rows)
        """Where look-ups wait for a server; those that hang are no fault of this worker, so it is not replaced for them."""
        self.horizon = horizon_of(
            manifest.output.horizon, read=HORIZON in {*self._read_beside_inputs(manifest), *self.names}
        )
        called = {
            name: column
            for lock in manifest.features
            for name, column in zip(names_of(lock, manifest.project), lock.columns, strict=True)
        }
        self._looked_up = tuple(called)
        self._looked_up_set = frozenset(called)
        self._order = self._order_of(called)
        self._by_view = {
            view: frozenset(name for name in called if name.rpartition(".")[0] == view)
            for view in {name.rpartition(".")[0] for name in called}
        }
        self._must_have = frozenset(
            [name for name, column in called.items() if column.missing == "refuse"]
            + list(self.functions.must_have if self.functions is not None else ())
        )
        self.bad_rows = _checker(manifest)
        """Values of the prediction → the rows that are wrong."""

    def _read_beside_inputs(self, manifest: "Manifest") -> frozenset[str]:
        """What a row names that is no input: keys, what on-demand features read, what it is routed and shown by."""
        also = [name for name in (manifest.time, manifest.unit) if name is not None]
        computed_from = self.functions.reads if self.functions is not None else ()
        return frozenset([*self.keys, *self.heuristic_keys, *self.segments, *also, *computed_from])

    @property
    def given(self) -> frozenset[str]:
        """Inputs that a caller need not send: looked up, or computed when it asks."""
        looked_up = self._looked_up_set if self.reader is not None else frozenset[str]()
        return looked_up | frozenset(self.functions.gives if self.functions is not None else ())

    @property
    def form(self) -> str:
        """The format that answers; where ONNX's was asked for, what came of it."""
        own = self.manifest.artefact.format
        return getattr(self.loaded, "format", own) if self.manifest.serving.compile is not None else own

    @property
    def stuck(self) -> bool:
        """Whether so many calls hang that the worker should be replaced."""
        return any(lane.stuck for lane in self.lanes)

    @property
    def process(self) -> Mapping[str, Any] | None:
        """State of the process that it runs in, where that is one of its own."""
        return self.loaded.says if isinstance(self.loaded, Apart) else None

    @property
    def lanes(self) -> tuple[Lane, Lane, Lane]:
        """Where callers wait for its code: model, fallback functions, on-demand features."""
        return self.lane, self.fallback_lane, self.features_lane

    def join(self, rows: int) -> None:
        """Answer so many rows of several requests in one call, in a thread; 1 leaves it as it is."""
        if rows > 1:
            self.lane.join(rows)
            self.inline = False

    def close_lanes(self) -> None:
        """Let idle threads end; nothing more is taken."""
        for lane in (*self.lanes, self.beside_lane, self.look_up_lane):
            lane.close()

    def close(self) -> None:
        """Let go of threads and model; nothing more is answered."""
        self.close_lanes()
        self.model.close()
        self.breaker.ask_again = None  # a circle would wait for the collector, which does not look here

    def worked(self, columns: Columns, rows: int) -> None:
        """Note an input that it answered."""
        if rows <= _GOOD_ROWS:
            self._good = columns
        if self.breaker.bits or self.breaker.state != "closed":
            self.breaker.worked()

    def prove_beside(self, replay: Callable[[], None]) -> None:
        """Replay its golden cases in a thread of its own lane, and tell the breaker; one that is busy is left alone.

        Args:
            replay: Raises `ModelError` where a case is answered wrongly.
        """
        outcome = Call(self.lane, replay, 0, time.perf_counter() + max(self.timeout_s, _PROOF_S)).wait()
        if outcome.reason in {"overloaded", "down"} or isinstance(outcome.error, UnavailableError):
            return
        why = outcome.error.what if isinstance(outcome.error, TowpathError) else f"golden cases: {outcome.reason}"
        self.breaker.proven(passed=outcome.reason == "ok", why=why)

    def _ask_again(self) -> bool:
        """Find out beside the requests whether it still answers what it answered last, and tell the breaker."""
        good, asking = self._good, self._asking
        if asking is not None and time.perf_counter() < asking.deadline:
            return True
        if good is None or (asking is not None and asking.give_up().reason == "slow"):
            self._asking = None
            return False
        self._asking = call = Call(
            self.lane, partial(self._answers_still, good), 1, deadline=time.perf_counter() + self.timeout_s
        )
        return self.lane.put(call) is None

    def _answers_still(self, columns: Columns) -> None:
        try:
            outputs = self.loaded.predict(columns)
        except Exception as error:  # noqa: BLE001 - the edge to a model
            why = f"{type(error).__name__}: {error}"
        else:
            why = "" if outputs else "no output"
        self._asking = None
        self.breaker.came_of(answered=not why, why=why)

    def waits(self, rows: Sequence[Any] | None, columns: Columns | None) -> bool:
        """Whether reading this input may wait for a server: it names a key, and rows are looked up over a network."""
        if self.reader is None or not self.reader.waits:
            return False
        given = rows if rows is not None else [columns or {}]
        return any(key in row for row in given if isinstance(row, Mapping) for key in self.keys)

    @cached_property
    def other_keys(self) -> tuple[str, ...]:
        """Keys of views that are no part of the entity; the journal has them beside the features that were looked up by them."""
        return tuple(key for key in self.keys if key not in self.entity)

    def from_rows(
        self, rows: Sequence[Mapping[str, Any]], now_us: int, *, away: UnavailableError | None = None
    ) -> Prepared:
        """Read JSON rows.

        Args:
            rows: One mapping per row.
            now_us: What ttl is counted from.
            away: Why nothing can be looked up, where that is known; nobody is asked then.

        Raises:
            InputError: Names the row and the field.
        """
        functions = self.functions
        if self.reader is None and functions is None:
            return Prepared(columns_from_rows(self.signature, rows, extra=self.extra), None, [], None)
        if not all(isinstance(cast("object", row), Mapping) for row in rows):
            raise InputError("A row is no JSON object.", mend='send {"rows": [{"column": value}]}')
        asked = {key: [row.get(key) for row in rows] for key in self.keys if any(key in row for row in rows)}
        for key, parts in asked.items():
            _check_parts(key, parts)
        wanting = self.reader is not None and bool(asked)
        online = self._look_up(asked, len(rows), now_us, away) if wanting else None
        if online is not None and functions is None and (matrix := self._as_looked_up(online, rows)) is not None:
            return Prepared(matrix, online.missing, self._refused(online.missing), online)
        looked: Columns = {}
        if wanting:
            looked = self._nothing(len(rows)) if online is None else online.columns
        if functions is None:
            columns = columns_from_rows(self.signature, rows, extra=self.extra, looked_up=looked)
            return self._prepared(columns, online, rows, wanting=wanting)
        columns = columns_from_rows(
            self.signature, rows, extra=self.extra, looked_up={**looked, **functions.nothing(len(rows))}
        )
        pending = functions.from_rows(rows, looked, now_us)
        prepared = self._prepared(columns, online, rows, wanting=wanting)
        return prepared._replace(missing=_joined(prepared.missing, pending.absent), pending=pending, asked=pending)

    def whole(self, prepared: Prepared) -> Prepared:
        """The same with its on-demand features computed here, in this thread and without a deadline."""
        if prepared.pending is None:
            return prepared
        return self.completed(prepared, prepared.pending.run())

    def completed(self, prepared: Prepared, computed: "Computed") -> Prepared:
        """The same with what on-demand functions gave; what they did not give is missing."""
        pending, functions = prepared.pending, self.functions
        if pending is None or functions is None:
            return prepared
        columns, missing = functions.laid(prepared.columns, pending, computed)
        missing = _joined(prepared.missing, missing)
        refused = prepared.refused
        if missing is not None:
            refused = sorted({*refused, *self._refused(missing)})
        return prepared._replace(columns=columns, missing=missing, refused=refused, pending=None)

    def answered_by_itself(self, request: Mapping[str, Any]) -> bool:
        """Whether nothing but the row itself decides about its features: no look-up, no present moment."""
        if all(name in request for name in self.names):
            return True
        if self.functions is None:
            return self.reader is None
        own = [name for name in self.names if name not in self.functions.gives]
        return all(name in request for name in (*own, *self.functions.fixed_by))

    def _prepared(
        self, columns: Columns, online: "OnlineRows | None", rows: Sequence[Mapping[str, Any]], *, wanting: bool
    ) -> Prepared:
        if not wanting:
            return Prepared(columns, None, [], None)
        if online is None:
            return Prepared(columns, [self._looked_up] * len(rows), list(range(len(rows))), None)
        missing = _still_missing(online.missing, rows)
        return Prepared(columns, missing, self._refused(missing), online)

    def from_columns(self, given: Columns, n: int, now_us: int, *, away: UnavailableError | None = None) -> Prepared:
        """Read columns or tensors: one per input, or a single 2-D one for all columns of a tabular model.

        Args:
            given: By name.
            n: Number of rows.
            now_us: As in `from_rows`.
            away: As in `from_rows`.

        Raises:
            InputError: Names the input.
        """
        if len(given) == 1 and self.signature.container != "tensors":
            ((name, only),) = given.items()
            if (
                only.ndim == _MATRIX_DIMENSIONS
                and name not in self.extra
                and (name not in self.names or only.shape[1] != 1)
            ):
                return Prepared(columns_from_tensor(self.signature, only, name=name), None, [], None)
        if self.signature.container == "tensors" and len(given) == 1 and len(self.names) == 1:
            given = {self.names[0]: next(iter(given.values()))}
        for name, array in given.items():
            if name in self.names:
                continue
            if name not in self.extra:
                raise InputError(f"There is no input '{name}'{nearest(name, [*self.names, *self.extra])}.")
            _flat(name, array, n)
        keys = {key: _flat(key, given[key], n).tolist() for key in self.keys if key in given}
        # whoever brings every feature, as the batch path does, is not given today's
        needed = self.names if self.functions is None else self.functions.needed
        wanting = self.reader is not None and bool(keys) and not all(name in given for name in needed)
        online = self._look_up(keys, n, now_us, away) if wanting else None
        looked: Columns = {}
        if wanting:
            looked = self._nothing(n) if online is None else online.columns
        functions = self.functions
        columns = self._columns(given, looked if functions is None else {**functions.nothing(n), **looked}, n)
        if not wanting:
            prepared = Prepared(columns, None, [], None)
        elif online is None:
            prepared = Prepared(columns, [self._looked_up] * n, list(range(n)), None)
        else:
            missing = [tuple(name for name in names if name not in given) for names in online.missing]
            prepared = Prepared(columns, missing, self._refused(missing), online)
        if functions is None:
            return prepared
        pending = functions.from_columns({name: _flat(name, given[name], n) for name in given}, looked, n, now_us)
        return prepared._replace(missing=_joined(prepared.missing, pending.absent), pending=pending, asked=pending)

    def _columns(self, given: Columns, known: Columns, n: int) -> "dict[str, NDArray[Any]]":
        columns: dict[str, NDArray[Any]] = {}
        for field in self.signature.inputs:
            if field.name in given:
                columns[field.name] = self._fitted(field, given[field.name], n)
            elif field.name in known:
                columns[field.name] = known[field.name]
            else:
                raise InputError(f"Input '{field.name}' is missing{nearest(field.name, given)}.")
        return columns

    def brought(
        self, rows: Sequence[Mapping[str, Any]] | None, columns: Columns | None, view: str | None = None
    ) -> bool:
        """Whether the caller names a feature that is looked up, so that his value stood in for what was found.

        Args:
            rows: Of the request, where it has rows.
            columns: Of the request, where it has columns.
            view: Only features of this one.
        """
        given = rows if rows is not None else [columns or {}]
        names = self._by_view.get(view, frozenset()) if view is not None else self._looked_up_set
        return any(not names.isdisjoint(row) for row in given)

    def all_features_of(self, columns: Columns, rows: int) -> list[dict[str, Any]]:
        """The features of each row, as the journal keeps them."""
        if not isinstance(columns, Matrix):
            return [self.features_of(columns, row) for row in range(rows)]
        names, found = columns.names, cast("list[list[float | None]]", columns.array.tolist())
        if not np.isfinite(columns.array).all():
            found = [[v if v is not None and isfinite(v) else None for v in values] for values in found]
        return [dict(zip(names, values, strict=True)) for values in found]

    def features_of(self, columns: Columns, row: int) -> dict[str, Any]:
        """The features of one row, as the journal keeps them."""
        if isinstance(columns, Matrix):  # 20 numbers at once cost a sixth of 20 numbers one by one
            found = columns.array[row]
            values: list[float | None] = found.tolist()
            if not np.isfinite(found).all():
                values = [value if value is not None and isfinite(value) else None for value in values]
            return dict(zip(columns.names, values, strict=True))
        return {name: plain(columns[name][row]) for name in self.names}

    def _order_of(self, looked_up: Collection[str]) -> "tuple[()] | list[int] | None":
        """Where the model's columns are in what is looked up: empty as they come, none where it reads other things too."""
        if not self.names or not self.scalar or any(name not in looked_up for name in self.names):
            return None
        given = list(looked_up)
        return () if given == list(self.names) else [given.index(name) for name in self.names]

    def _as_looked_up(self, online: "OnlineRows", rows: Sequence[Mapping[str, Any]]) -> Matrix | None:
        """What was looked up as the model's own matrix, where rows are keys and nothing else."""
        matrix = online.matrix
        if matrix is None or self._order is None or not all(map(self.extra.issuperset, rows)):
            return None
        return Matrix(self.names, matrix[:, self._order] if self._order else matrix)

    def _look_up(
        self, keys: Mapping[str, Sequence[object]], n: int, now_us: int, away: UnavailableError | None
    ) -> "OnlineRows | None":
        """The online rows; none where the store is away or a row is damaged, and then the fallback answers."""
        reader = cast("Reader", self.reader)
        try:
            return reader.read(keys, n, now_us) if away is None else reader.nothing(n, away)
        except (UnavailableError, FormatError) as error:
            _log.warning("%s: features cannot be read: %s", self.manifest.model, error)
            return None

    def _nothing(self, n: int) -> Columns:
        """All looked-up columns, all null."""
        empty: dict[str, NDArray[Any]] = {}
        for field in self.signature.inputs:
            if field.name in self._looked_up:
                empty[field.name] = np.full(n, np.nan) if is_number(field) else np.full(n, None, dtype=object)
        for name in self._looked_up:  # those that only functions read
            if name not in empty:
                empty[name] = np.full(n, None, dtype=object)
        return empty

    def _refused(self, missing: Sequence[tuple[str, ...]]) -> list[int]:
        if not self._must_have:
            return []
        return [row for row, names in enumerate(missing) if not self._must_have.isdisjoint(names)]

    def _fitted(self, field: "Field", array: "NDArray[Any]", n: int) -> "NDArray[Any]":
        if self.signature.container == "tensors":
            return _tensor_fitted(field, array)
        array = _flat(field.name, array, n)
        if is_number(field):
            if array.dtype.kind not in "fiub":
                array = array_of(field, array.tolist())
            return array.astype(np.float64, copy=False)
        if field.type in {"binary", "large_binary"}:  # a tensor has bytes; those that happen to be text were made text
            return array_of(field, [v.encode() if isinstance(v, str) else v for v in array.tolist()])
        return array_of(field, [plain(v) for v in array])


def subset(columns: Columns, rows: list[int]) -> Columns:
    """Some of the rows, in the order given."""
    if isinstance(columns, Matrix):
        return Matrix(columns.names, columns.array[rows])
    return {name: values[rows] for name, values in columns.items()}


def _checker(manifest: "Manifest") -> "Callable[[list[Any]], list[int]]":
    """The promise of the output, as a function from values to the rows that break it."""
    output = manifest.output
    low = -float("inf") if output.low is None else output.low
    high = float("inf") if output.high is None else output.high

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and isfinite(value) and low <= value <= high

    def share(value: Any) -> bool:
        return isinstance(value, int | float) and -_SLACK <= value <= 1 + _SLACK

    def label(value: Any) -> bool:
        return value is not None and (not output.classes or str(value) in output.classes)

    def ranking(value: Any) -> bool:
        if not isinstance(value, list):
            return False
        items = cast("list[Any]", value)
        return (output.top is None or len(items) <= output.top) and None not in items and len(set(items)) == len(items)

    def all_of(one: Callable[[Any], bool]) -> Callable[[Any], bool]:
        def several(value: Any) -> bool:
            return all(several(v) for v in cast("list[Any]", value)) if isinstance(value, list) else one(value)

        return several

    def anything(value: Any) -> bool:
        return value is not None and (not isinstance(value, float) or isfinite(value))

    fits: dict[str, Callable[[Any], bool]] = {
        "number": number,
        "probability": all_of(share),
        "class": label,
        "quantiles": all_of(number),
        "vector": all_of(number),
        "ranking": ranking,
        "text": lambda value: isinstance(value, str),
    }
    fit = fits.get(output.kind, all_of(anything))

    def bad_rows(values: list[Any]) -> list[int]:
        return [row for row, value in enumerate(values) if not fit(value)]

    return bad_rows


def _tensor_fitted(field: "Field", array: "NDArray[Any]") -> "NDArray[Any]":
    from towpath.serving.oip import tensor

    given = tensor(field.name, array).datatype
    if given != field.type and not (given.startswith("FP") and field.type.startswith("FP")):
        raise InputError(f"Input '{field.name}' is {given}; the model reads {field.type}.")
    shape = field.shape
    fits = len(shape) == array.ndim and all(w in {-1, g} for w, g in zip(shape[1:], array.shape[1:], strict=True))
    if not fits:
        raise InputError(f"Input '{field.name}' has the shape {list(array.shape)}; the model reads {list(shape)}.")
    if given != field.type:
        from towpath.serving.oip import DTYPES

        try:
            return in_type(array, DTYPES[field.type])
        except ValueError:
            raise InputError(f"Input '{field.name}' holds a number that is beyond {field.type}.") from None
    return array


def _flat(name: str, array: "NDArray[Any]", n: int) -> "NDArray[Any]":
    """A column of n rows, given as (n,) or (n, 1)."""
    if array.ndim == _MATRIX_DIMENSIONS and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (n,):
        raise InputError(f"Input '{name}' has the shape {list(array.shape)}; {n} rows need [{n}].")
    return array


def _check_parts(key: str, parts: Iterable[object]) -> None:
    for row, part in enumerate(parts):
        if isinstance(part, list | dict):
            raise InputError(f"row {row}, '{key}': a key is text or a number, not a list or an object.")


def _still_missing(missing: Sequence[tuple[str, ...]], rows: Sequence[Mapping[str, Any]]) -> Sequence[tuple[str, ...]]:
    """What a row names itself is not missing."""
    if not any(missing):
        return missing
    return [tuple(name for name in names if name not in row) for names, row in zip(missing, rows, strict=True)]


def _joined(
    missing: Sequence[tuple[str, ...]] | None, more: Sequence[tuple[str, ...]] | None
) -> Sequence[tuple[str, ...]] | None:
    if missing is None or more is None:
        return more if missing is None else missing
    return [(*one, *other) for one, other in zip(missing, more, strict=True)]


def _ordered(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))

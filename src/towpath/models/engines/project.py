"""Models that need Python: scikit-learn and pickled objects, and any model whose project wrote its own ``predict``."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import ModelError, TowpathError, UnavailableError, nearest
from towpath.models.columns import Columns, Encoder, rows_in
from towpath.models.containers import container
from towpath.models.manifest import Manifest, Signature
from towpath.models.model import Model, Outputs, classified
from towpath.types import OutputKind

__all__ = ["Objects", "OnlyFunctions", "WithFunctions", "outputs_of"]


class Objects:
    """An object with ``predict``, or a project's own ``predict(model, rows)`` over whatever ``train`` returned.

    Args:
        name: For errors, such as ``demand@3``.
        trained: What was loaded.
        signature: Says what the rows are handed over in, and what comes out.
        kind: What a prediction is.
        written: Format and framework of the artefact.
        module: The project's ``model.py``; its ``predict`` is used where it has one.
    """

    inline = False

    def __init__(
        self,
        name: str,
        trained: Any,
        signature: Signature,
        kind: OutputKind,
        *,
        written: tuple[str, str],
        module: ModuleType | None = None,
    ) -> None:
        self.signature = signature
        self.kind: OutputKind = kind
        self.format, self.framework = written
        self._name = name
        self._trained = trained
        self._encoder = Encoder(signature.inputs)
        self.unseen: Counter[str] = self._encoder.unseen
        own: Callable[[Any, Any], Any] | None = getattr(module, "predict", None) if module else None
        self.row_by_row = own is None
        self._answer: Callable[[Any], Any] = (lambda rows: own(trained, rows)) if own else self._natural()
        self._functions = _Functions(name, module)

    def predict(self, columns: Columns) -> Outputs:
        """Answer n rows; what the code raises becomes a ModelError."""
        rows = container(columns, self.signature, self._encoder)
        try:
            raw = self._answer(rows)
        except TowpathError:
            raise
        except Exception as fault:  # the edge to the user's code: whatever it raises is a model that failed
            raise ModelError(
                f"{self._name}: predict raised {type(fault).__name__}: {fault}.", where=_line_of(fault)
            ) from fault
        return outputs_of(raw, self.signature, rows_in(columns), f"{self._name}: predict")

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """Call a named function of ``model.py``."""
        return self._functions.call(name, container(columns, self.signature, self._encoder), rows_in(columns))

    def close(self) -> None:
        """Leave the memory to the garbage collector: a call in another thread may still need it."""

    def _natural(self) -> Callable[[Any], Any]:
        """What the object does by itself, by what its prediction shall be."""
        trained, kind = self._trained, self.kind
        if kind in {"class", "probability"} and hasattr(trained, "predict_proba"):
            labels = np.asarray(trained.classes_) if hasattr(trained, "classes_") else None
            if labels is not None and labels.dtype.kind in "SU":
                labels = labels.astype(object)
            return lambda rows: classified(kind, np.asarray(trained.predict_proba(rows), dtype=np.float64), labels)
        for call in ("predict", "__call__"):
            if hasattr(trained, call):
                return getattr(trained, call)
        raise ModelError(
            f"{self._name} is a {type(trained).__name__}, which has no predict of its own.",
            where="model.py",
            mend="write def predict(model, rows) in model.py",
        )


class WithFunctions:
    """A data-only model beside its project's ``model.py``, which has fallback functions but no ``predict``."""

    def __init__(self, name: str, model: Model, module: ModuleType, signature: Signature) -> None:
        self._model = model
        self._functions = _Functions(name, module)
        self._encoder = Encoder(signature.inputs)
        self.signature = signature
        self.kind: OutputKind = model.kind
        self.inline = model.inline
        self.row_by_row = model.row_by_row
        self.format = model.format
        self.framework = model.framework
        self.unseen: Counter[str] = model.unseen
        self.predict = model.predict
        self.close = model.close

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """Call a named function of ``model.py``."""
        return self._functions.call(name, container(columns, self.signature, self._encoder), rows_in(columns))


class OnlyFunctions:
    """The fallback functions of a version whose model could not be loaded: the chain goes on without it.

    Args:
        manifest: Of the version.
        module: Its ``model.py``; none where it has none, or that could not be loaded either.
        why: What became of the model.
    """

    inline = False
    row_by_row = False
    framework = ""

    def __init__(self, manifest: Manifest, module: ModuleType | None, why: str) -> None:
        self._name = f"{manifest.model}@{manifest.version}"
        self._why = why
        self._functions = _Functions(self._name, module)
        self._encoder = Encoder(manifest.signature.inputs)
        self.signature = manifest.signature
        self.kind: OutputKind = manifest.output.kind
        self.format = manifest.artefact.format
        self.unseen: Counter[str] = Counter()

    def predict(self, columns: Columns) -> Outputs:
        """Refuse.

        Raises:
            UnavailableError: Always; it says why.
        """
        raise UnavailableError(f"{self._name} is not loaded, and cannot answer {rows_in(columns)} rows: {self._why}")

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """Call a named function of ``model.py``."""
        return self._functions.call(name, container(columns, self.signature, self._encoder), rows_in(columns))

    def close(self) -> None:
        """Nothing is held."""


def outputs_of(raw: Any, signature: Signature, rows: int, who: str) -> Outputs:
    """Bring what user code gave into the outputs that the signature names.

    Args:
        raw: An array, a list, a Series, an Arrow array, a frame or a mapping of those.
        signature: Names the outputs.
        rows: How many there must be.
        who: For the error.

    Raises:
        ModelError: Another number of rows, or an output is missing.
    """
    names = [field.name for field in signature.outputs]
    parts = _parts(raw)
    if parts is None:
        parts = {names[0]: raw}
    missing = [name for name in names if name not in parts]
    if missing and len(parts) == 1 and len(names) == 1:
        parts, missing = {names[0]: next(iter(parts.values()))}, []
    if missing:
        raise ModelError(
            f"{who} gave no '{missing[0]}'{nearest(missing[0], parts)}.", mend=f"return {{{', '.join(names)}}}"
        )
    outputs: Outputs = {}
    for field in signature.outputs:
        values = _array(parts[field.name])
        if len(field.shape) == 1 and values.ndim == 2 and values.shape[1] == 1:  # noqa: PLR2004 - a column of one
            values = values[:, 0]
        if values.ndim == 0 or len(values) != rows:
            given = "one value" if values.ndim == 0 else f"{len(values)} rows"
            raise ModelError(
                f"{who} gave {given} for {rows} rows ('{field.name}').", mend="one value per row, in order"
            )
        outputs[field.name] = values
    return outputs


class _Functions:
    """The functions of ``model.py`` that a fallback chain names."""

    def __init__(self, name: str, module: ModuleType | None) -> None:
        self._name = name
        self._module = module

    def call(self, function: str, rows: Any, count: int) -> NDArray[Any]:
        own = getattr(self._module, function, None) if self._module else None
        if not callable(own):
            known = [name for name, value in vars(self._module).items() if callable(value)] if self._module else []
            raise ModelError(
                f"{self._name} has no function '{function}'{nearest(function, known)}.",
                where="model.py",
                mend="define it",
            )
        try:
            values = _array(own(rows))
        except TowpathError:
            raise
        except Exception as fault:  # the edge to the user's code
            raise ModelError(
                f"{self._name}: {function} raised {type(fault).__name__}: {fault}.", where=_line_of(fault)
            ) from fault
        if values.ndim == 0 or len(values) != count:
            given = "one value" if values.ndim == 0 else f"{len(values)}"
            raise ModelError(f"{self._name}: {function} gave {given} for {count} rows.", mend="one value per row")
        return values


def _parts(raw: Any) -> Mapping[str, Any] | None:
    """Named outputs: of a mapping, or the columns of a frame or table."""
    if isinstance(raw, Mapping):
        return raw
    if hasattr(raw, "column_names") and hasattr(raw, "column"):  # Arrow
        return {name: raw.column(name) for name in raw.column_names}
    if hasattr(raw, "columns") and hasattr(raw, "__getitem__"):  # pandas, polars
        return {str(name): raw[name] for name in raw.columns}
    return None


def _array(values: Any) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        array: NDArray[Any] = values
    elif hasattr(values, "to_numpy"):
        array = np.asarray(values.to_numpy())
    elif isinstance(values, Sequence) and values and not isinstance(values, str | bytes):
        array = _of_sequence(values)
    else:
        array = np.asarray(values)
    return array.astype(object) if array.dtype.kind in "SU" else array


def _of_sequence(values: Sequence[Any]) -> NDArray[Any]:
    """A list of numbers is an array; a list of lists of different lengths (rankings) is an array of objects."""
    try:
        return np.asarray(values)
    except ValueError:
        ragged = np.empty(len(values), dtype=object)
        ragged[:] = values
        return ragged


def _line_of(fault: BaseException) -> str:
    """The last line of the project's own code that a fault went through, else the last one of all."""
    places: list[str] = []
    own: list[str] = []
    frame = fault.__traceback__
    while frame is not None:
        place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
        (own if frame.tb_frame.f_globals.get("__name__", "").startswith("_towpath_") else places).append(place)
        frame = frame.tb_next
    return (own or places or [""])[-1]

"""A model in ONNX's form: converted, held against its own form on sample rows, and only then served."""

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import RefusedError
from towpath.models.columns import Columns, Encoder
from towpath.models.engines.extra import framework
from towpath.models.engines.onnx import open_session
from towpath.models.engines.timing import is_quick
from towpath.models.manifest import Signature
from towpath.models.model import Model, Outputs, classified
from towpath.types import OutputKind

__all__ = ["compiled", "compiled_or_own"]

_log = logging.getLogger("towpath.models")

_TOLERANCE = 1e-4
"""By how much an answer may differ, relative to its size and at least to 1: ONNX trees compute in single precision."""
_ROWS = 512
_SCALES = (0.1, 1.0, 10.0, 1_000.0)
_NULL_SHARE = 0.05
_OPSET = 15
_SHOWN = 6


def compiled_or_own(model: Model, path: Path, name: str, *, trained: Callable[[], Any] | None = None) -> Model:
    """As `compiled`; where there is no ONNX form that answers the same the log says why, and it is `model` itself that serves.

    Raises:
        ExtraError: The converter is not installed.
    """
    try:
        return compiled(model, path, name, trained=trained)
    except RefusedError as fault:
        _log.warning("%s: its own form (%s) serves, not ONNX's: %s", name, model.format, fault.what)
        return model


def compiled(model: Model, path: Path, name: str, *, trained: Callable[[], Any] | None = None) -> Model:
    """Convert a loaded model to ONNX and prove that it answers the same.

    Args:
        model: As its own runtime has it.
        path: Its file.
        name: For errors.
        trained: Gives the estimator of a scikit-learn model.

    Returns:
        The ONNX form with the signature and the kind of `model`; `model` itself where it is ONNX already.

    Raises:
        ExtraError: The converter is not installed.
        RefusedError: The format has no converter, the conversion failed, or an answer differs; shows the worst row.
    """
    if model.format == "onnx":
        return model
    signature = model.signature
    if signature.container == "tensors" or any(
        field.type == "string" and field.levels is None for field in signature.inputs
    ):
        raise _no("it reads other things than numbers and categories")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = _converted(model, path, trained)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, ImportError) as fault:
        raise _no(f"the conversion failed: {type(fault).__name__}: {str(fault)[:200]}") from None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(graph.SerializeToString())
        found = _Compiled(model, open_session(file, name), name)
    try:
        _prove(model, found, name)
    except RefusedError:
        # trees that saw no null in training send one another way than ONNX does (scikit-learn); such requests get the own form
        found.nulls_apart = True
        _prove(model, found, name)
    return found


class _Compiled:
    """The ONNX form of a model, with the outputs of the model itself.

    `nulls_apart` says that a request with a null is answered by the model's own form, because ONNX answers it otherwise.
    """

    format = "onnx"
    framework = "onnxruntime"
    row_by_row = True

    def __init__(self, model: Model, session: Any, name: str) -> None:
        self.signature: Signature = model.signature
        self.kind: OutputKind = model.kind
        self.nulls_apart = False
        self._model, self._session, self._name = model, session, name
        self._encoder = Encoder(model.signature.inputs)
        self.unseen: Counter[str] = self._encoder.unseen
        levels = model.signature.outputs[0].levels
        self._labels = None if levels is None else np.array(levels, dtype=object)
        names = [node.name for node in session.get_outputs()]
        # a classifier gives its label first, then probabilities
        self._wanted = [names[-1]]
        self._classifies = len(names) > 1
        width = len(model.signature.inputs)
        self.inline = is_quick(lambda: self._raw(np.zeros((1, width))))

    def predict(self, columns: Columns) -> Outputs:
        """Answer n rows."""
        matrix = self._encoder.matrix(columns)
        if self.nulls_apart and np.isnan(matrix).any():
            return self._model.predict(columns)
        raw = self._raw(matrix)
        if self._classifies:
            return classified(self.kind, raw, self._labels)
        return {self.signature.outputs[0].name: raw[:, 0] if raw.ndim > 1 and raw.shape[1] == 1 else raw}

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """As the model's own form does."""
        return self._model.fallback(name, columns)

    def close(self) -> None:
        """Give the model's own form back."""
        self._model.close()

    def _raw(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        (answer,) = self._session.run(self._wanted, {"x": values.astype(np.float32)})
        return np.asarray(answer, dtype=np.float64)


def _converted(model: Model, path: Path, trained: Callable[[], Any] | None) -> Any:
    """The ONNX graph, by the converter of its framework."""
    width = len(model.signature.inputs)
    if model.format in {"lightgbm", "xgboost"}:
        tools: Any = framework("onnxmltools", "--compile onnx")
        types: Any = framework("onnxmltools.convert.common.data_types", "--compile onnx")
        given: dict[str, Any] = {
            "initial_types": [("x", types.FloatTensorType([None, width]))],
            "target_opset": _OPSET,
        }
        if model.format == "lightgbm":
            lightgbm: Any = framework("lightgbm", "--compile onnx of a LightGBM model")
            return tools.convert_lightgbm(lightgbm.Booster(model_file=str(path)), zipmap=False, **given)
        xgboost: Any = framework("xgboost", "--compile onnx of an XGBoost model")
        booster = xgboost.Booster(model_file=bytearray(path.read_bytes()))
        booster.feature_names = None
        return tools.convert_xgboost(booster, **given)
    if trained is not None:
        estimator = trained()
        converter: Any = framework("skl2onnx", "--compile onnx")
        types = framework("skl2onnx.common.data_types", "--compile onnx")
        options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
        return converter.convert_sklearn(
            estimator,
            initial_types=[("x", types.FloatTensorType([None, width]))],
            options=options,
            target_opset=_OPSET,
        )
    raise _no(f"there is no converter for the format '{model.format}'")


def _prove(model: Model, other: Model, name: str) -> None:
    """Hold both forms against each other on rows made from the signature.

    Raises:
        RefusedError: They differ by more than the tolerance; shows the worst row.
    """
    columns = _sample(model.signature)
    own, theirs = model.predict(columns), _by_rows(other, columns)
    for field in model.signature.outputs:
        mine, given = own[field.name], theirs[field.name]
        if mine.dtype.kind not in "fiu":
            continue  # a label is decided by the probabilities beside it
        mine = np.asarray(mine, dtype=np.float64).reshape(_ROWS, -1)
        given = np.asarray(given, dtype=np.float64).reshape(_ROWS, -1)
        if mine.shape != given.shape:
            raise _no(f"'{field.name}' is of shape {list(mine.shape)} in its own form and {list(given.shape)} in ONNX")
        apart = np.abs(mine - given) / np.maximum(1.0, np.abs(mine))
        worst = int(np.nan_to_num(apart, nan=np.inf).max(axis=1).argmax())
        if not apart[worst].max() <= _TOLERANCE:
            row = {one.name: columns[one.name][worst] for one in model.signature.inputs[:_SHOWN]}
            shown = ", ".join(f"{key}={value}" for key, value in row.items())
            raise _no(
                f"it answers otherwise: '{field.name}' is {given[worst].tolist()} where its own form says {mine[worst].tolist()} "
                f"for {shown}{', …' if len(model.signature.inputs) > _SHOWN else ''} (limit {_TOLERANCE:g} of its size, {name})"
            )


def _by_rows(model: Model, columns: Columns) -> Outputs:
    """Answers to rows that were asked one by one, so that a null in one row changes nothing of the others."""
    one_by_one = [
        model.predict({key: values[row : row + 1] for key, values in columns.items()}) for row in range(_ROWS)
    ]
    return {name: np.concatenate([answer[name] for answer in one_by_one]) for name in one_by_one[0]}


def _sample(signature: Signature) -> dict[str, NDArray[Any]]:
    """Rows of several scales with a few nulls, and every level of a category."""
    draw = np.random.default_rng(7)
    columns: dict[str, NDArray[Any]] = {}
    for field in signature.inputs:
        if field.levels is not None:
            levels = np.array([*field.levels, None], dtype=object)
            columns[field.name] = levels[draw.integers(0, len(levels), _ROWS)]
            continue
        values = draw.normal(size=_ROWS) * draw.choice(_SCALES, _ROWS)
        if field.type.startswith(("int", "uint")):
            values = np.abs(np.rint(values))
        if field.nullable:
            values[draw.random(_ROWS) < _NULL_SHARE] = np.nan
        columns[field.name] = values
    return columns


def _no(why: str) -> RefusedError:
    return RefusedError(
        f"the model is not served as ONNX: {why}.",
        where="serving.compile",
        mend="serve it in its own form, without compile",
    )

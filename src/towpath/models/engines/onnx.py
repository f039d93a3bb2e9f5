"""ONNX models through onnxruntime: one 2-D input of floats (scikit-learn) is columns, all else is tensors."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import FormatError, InputError, ModelError
from towpath.models.columns import Columns, Encoder, rows_in, tensor_dtype
from towpath.models.engines.extra import framework
from towpath.models.engines.timing import is_quick
from towpath.models.manifest import Field, Signature
from towpath.models.model import Outputs, kind_of
from towpath.types import OutputKind

__all__ = ["Onnx", "open_session"]

_TYPES = {
    "float": "FP32", "double": "FP64", "float16": "FP16", "bool": "BOOL", "string": "BYTES", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
_WIDEST = 4_096
_COLUMN_TYPES = {
    "FP32": "double",
    "FP64": "double",
    "FP16": "double",
    "INT64": "int64",
    "INT32": "int64",
    "BYTES": "string",
}


def open_session(path: Path, name: str) -> Any:
    """Load the file for one thread a call; a session may be called from many threads.

    Raises:
        ExtraError: onnxruntime is not installed.
        FormatError: onnxruntime refuses the file.
    """
    runtime = framework("onnxruntime", f"'{name}' is an ONNX model")
    options: Any = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised; it need not be printed too
    try:
        return runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except (RuntimeError, ValueError, *_faults(runtime)) as fault:
        said = str(fault).strip().splitlines()[0]
        raise FormatError(f"onnxruntime refuses the file: {said}.", where=str(path), mend="export it again") from None


class Onnx:
    """One ONNX model. `tensor` is the name of the only input of a tabular one, empty otherwise."""

    format = "onnx"
    framework = "onnxruntime"

    def __init__(
        self, path: Path, *, name: str, signature: Signature | None = None, kind: OutputKind | None = None
    ) -> None:
        runtime = framework("onnxruntime", f"'{name}' is an ONNX model")
        self._session = open_session(path, name)
        self._faults = _faults(runtime)
        self._name = name
        inputs = self._session.get_inputs()
        self.tensor = inputs[0].name if len(inputs) == 1 and _is_table(inputs[0]) else ""
        self._fields = tuple(_field(node) for node in inputs)
        self._columns = not self.tensor and bool(inputs) and all(_is_column(node) for node in inputs)
        outputs = [node for node in self._session.get_outputs() if not node.type.startswith(("seq(seq", "optional"))]
        self._outputs = [node.name for node in outputs]
        found = Signature(
            container="numpy" if self.tensor or self._columns else "tensors",
            inputs=self._table(inputs),
            outputs=tuple(_output(node, tabular=bool(self.tensor or self._columns)) for node in outputs),
        )
        if signature is not None and len(signature.inputs) != len(found.inputs):
            raise FormatError(
                f"'{name}' has {len(found.inputs)} inputs in its file and {len(signature.inputs)} in its signature.",
                where=str(path),
                mend="publish the version again",
            )
        self.signature = found if signature is None else signature
        self._encoder = Encoder(self.signature.inputs)
        self.unseen: Counter[str] = self._encoder.unseen
        self.inline = self._warm()
        self.kind: OutputKind = kind or kind_of(self.signature)

    def predict(self, columns: Columns) -> Outputs:
        """Answer n rows."""
        try:
            raw = self._session.run(self._outputs, self._fed(columns))
        except self._faults as fault:
            raise InputError(f"'{self._name}' cannot read this: {str(fault).splitlines()[0]}.") from None
        rows = rows_in(columns)
        return {
            field.name: _flat(value, field, rows) for field, value in zip(self.signature.outputs, raw, strict=False)
        }

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """A bare file has no functions."""
        del columns
        raise ModelError(f"'{self._name}' is a bare ONNX file and has no function '{name}'.", where="fallback")

    def close(self) -> None:
        """Leave the memory to the garbage collector: a call in another thread may still read it."""

    def _fed(self, columns: Columns) -> dict[str, NDArray[Any]]:
        if self.tensor:
            return {self.tensor: self._encoder.matrix(columns).astype(tensor_dtype(self._fields[0]), copy=False)}
        if self._columns:
            return {
                native.name: columns[field.name]
                .reshape(-1, *([1] * (len(native.shape) - 1)))
                .astype(tensor_dtype(native))
                for native, field in zip(self._fields, self.signature.inputs, strict=True)
            }
        return {field.name: np.asarray(columns[field.name], dtype=tensor_dtype(field)) for field in self._fields}

    def _table(self, inputs: Any) -> tuple[Field, ...]:
        if self.tensor:
            return tuple(Field(name=f"f{number}", type="double") for number in range(int(inputs[0].shape[1])))
        if self._columns:
            return tuple(
                Field(
                    name=field.name,
                    type=_COLUMN_TYPES.get(field.type, "double"),
                    nullable=field.type in {"FP32", "FP64"},
                )
                for field in self._fields
            )
        return self._fields

    def _warm(self) -> bool:
        """Call once with zeros where the shape is known; a model of open shapes goes to a thread."""
        if any(size < 0 for field in self.signature.inputs for size in field.shape[1:]):
            return False
        blank = {
            field.name: np.zeros(
                (1, *field.shape[1:]), dtype=object if field.type in {"string", "BYTES"} else np.float64
            )
            for field in self.signature.inputs
        }
        for name, column in blank.items():
            if column.dtype == object:
                blank[name] = np.full(column.shape, "", dtype=object)
        try:
            return is_quick(lambda: self.predict(blank))
        except InputError:
            return False


def _is_table(node: Any) -> bool:
    shape = node.shape
    return (
        node.type in {"tensor(float)", "tensor(double)"}
        and len(shape) == 2  # noqa: PLR2004 - rows and columns
        and isinstance(shape[1], int)
        and 1 <= shape[1] <= _WIDEST
    )


def _is_column(node: Any) -> bool:
    shape = node.shape
    return _type(node) in _COLUMN_TYPES and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))  # noqa: PLR2004


def _type(node: Any) -> str:
    inner = str(node.type).removeprefix("tensor(").removesuffix(")")
    return _TYPES.get(inner, inner)


def _field(node: Any) -> Field:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape) or (-1,)
    # A batch size that was frozen at export stands for any: the first dimension is the row
    return Field(name=node.name, type=_type(node), shape=(-1, *shape[1:]), nullable=False)


def _output(node: Any, *, tabular: bool) -> Field:
    if str(node.type).startswith("seq(map"):  # scikit-learn's zipmap: a dict of probabilities per row
        return Field(name=node.name, type="FP32", shape=(-1, -1), nullable=False)
    field = _field(node)
    if tabular and field.shape[1:] == (1,):
        return Field(name=field.name, type=field.type, nullable=False)
    return field


def _flat(value: Any, field: Field, rows: int) -> NDArray[Any]:
    if isinstance(value, list):  # zipmap
        return np.array([list(row.values()) for row in value], dtype=np.float32)
    array = np.asarray(value)
    if len(field.shape) == 1 and array.ndim == 2 and array.shape == (rows, 1):  # noqa: PLR2004 - a column of one
        array = array[:, 0]
    return array.astype(object) if array.dtype.kind in "SU" else array


def _faults(runtime: Any) -> tuple[type[Exception], ...]:
    """Everything that onnxruntime raises; it has no common root."""
    state = runtime.capi.onnxruntime_pybind11_state
    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoSuchFile",
        "NotImplemented",
        "RuntimeException",
    )
    return tuple(getattr(state, name) for name in names if hasattr(state, name))

"""ONNX models through onnxruntime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import FormatError, InputError
from towpath.models.engines.extra import framework
from towpath.models.engines.tensors import TensorModel
from towpath.models.formats import first_byte
from towpath.models.manifest import Field, Signature
from towpath.types import OutputKind

__all__ = ["Onnx", "open_session"]

_TYPES = {
    "float": "FP32", "double": "FP64", "float16": "FP16", "bool": "BOOL", "string": "BYTES", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip


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
    # A folder is a graph whose weights are in the files beside it, which `sniff` looked for
    given = str(_graph(path)) if path.is_dir() else path.read_bytes()
    try:
        return runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except (RuntimeError, ValueError, *_faults(runtime)) as fault:
        said = str(fault).strip().splitlines()[0]
        raise FormatError(f"onnxruntime refuses the file: {said}.", where=str(path), mend="export it again") from None


def _graph(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.is_file() and first_byte(path) == b"\x08")


class Onnx(TensorModel):
    """One ONNX model: a file, or a folder where its weights are in files beside it."""

    format = "onnx"
    framework = "onnxruntime"
    called = "ONNX"

    def __init__(
        self, path: Path, *, name: str, signature: Signature | None = None, kind: OutputKind | None = None
    ) -> None:
        runtime = framework("onnxruntime", f"'{name}' is an ONNX model")
        self._session = open_session(path, name)
        self._faults = _faults(runtime)
        outputs = [node for node in self._session.get_outputs() if not node.type.startswith(("seq(seq", "optional"))]
        self._outputs = [node.name for node in outputs]
        inputs = [_field(node) for node in self._session.get_inputs()]
        self.describe(name, str(path), inputs, [_output(node) for node in outputs], signature=signature, kind=kind)

    def run(self, fed: Mapping[str, NDArray[Any]]) -> Sequence[Any]:
        """Answer n rows."""
        try:
            raw: list[Any] = self._session.run(self._outputs, fed)
        except self._faults as fault:
            raise InputError(f"'{self._name}' cannot read this: {str(fault).splitlines()[0]}.") from None
        return [_unmapped(value) if isinstance(value, list) else value for value in raw]


def _type(node: Any) -> str:
    inner = str(node.type).removeprefix("tensor(").removesuffix(")")
    return _TYPES.get(inner, inner)


def _field(node: Any) -> Field:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape) or (-1,)
    # A batch size that was frozen at export stands for any: the first dimension is the row
    return Field(name=node.name, type=_type(node), shape=(-1, *shape[1:]), nullable=False)


def _output(node: Any) -> Field:
    if str(node.type).startswith("seq("):  # of maps: scikit-learn's zipmap; of tensors: one a row
        return Field(name=node.name, type="FP32", shape=(-1, -1), nullable=False)
    return _field(node)


def _unmapped(rows: list[Any]) -> NDArray[Any]:
    """A sequence as one array: probabilities of scikit-learn's zipmap, a dict a row, or tensors of one shape, one a row."""
    if rows and isinstance(rows[0], dict):
        return np.array([list(row.values()) for row in rows], dtype=np.float32)
    try:
        return np.array(rows)
    except ValueError:  # of different lengths
        ragged = np.empty(len(rows), dtype=object)
        ragged[:] = rows
        return ragged


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

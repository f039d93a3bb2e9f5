"""TensorFlow SavedModel folders, by their serving signature."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import FormatError, InputError
from towpath.models.engines import tensorflow_graphs
from towpath.models.engines.extra import check_version, framework
from towpath.models.engines.tensors import TensorModel
from towpath.models.manifest import Field, Signature
from towpath.types import OutputKind

__all__ = ["SavedModel"]

_TYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL", "string": "BYTES", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
_SIGNATURE = "serving_default"


class SavedModel(TensorModel):
    """One SavedModel: its signature ``serving_default``, or the only one that it has."""

    format = "savedmodel"
    framework = "tensorflow"
    called = "TensorFlow"
    check = staticmethod(tensorflow_graphs.check)

    def __init__(
        self, path: Path, *, name: str, signature: Signature | None = None, kind: OutputKind | None = None
    ) -> None:
        self._loaded = self.opened(path, name)
        self._tensorflow: Any = framework("tensorflow", f"'{name}' is a TensorFlow model")
        signatures = dict(self._loaded.signatures)
        known = [one for one in signatures if not one.startswith("__")]
        chosen = _SIGNATURE if _SIGNATURE in signatures else known[0] if len(known) == 1 else ""
        if not chosen:
            raise FormatError(
                f"'{name}' has the signatures {known or 'none'}, and none is called {_SIGNATURE}.",
                where=str(path),
                mend="model.export(folder), or tf.saved_model.save(model, folder, signatures=…)",
            )
        self._call = signatures[chosen]
        inputs = [_field(each, spec) for each, spec in self._call.structured_input_signature[1].items()]
        made = self._call.structured_outputs
        outputs = [_field(each, spec) for each, spec in sorted(made.items())]
        self._made = [field.name for field in outputs]
        self.describe(name, str(path), inputs, outputs, signature=signature, kind=kind)

    @staticmethod
    def opened(path: Path, name: str) -> Any:
        """The loaded object, for code of the project that calls it.

        Raises:
            ExtraError: TensorFlow is not installed.
            FormatError: TensorFlow refuses the folder, or its graph reaches files.
            RefusedError: Another major version wrote it.
        """
        wrote = tensorflow_graphs.check(path)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when it is imported; what goes wrong is raised
        tensorflow: Any = framework("tensorflow", f"'{name}' is a TensorFlow model")
        check_version(name, "tensorflow", wrote)
        _settle(tensorflow)
        try:
            return tensorflow.saved_model.load(str(path))
        except Exception as fault:  # noqa: BLE001 - what TensorFlow raises has no common root
            said = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
            raise FormatError(
                f"TensorFlow refuses the folder: {said[:300]}.", where=str(path), mend="write it again"
            ) from None

    def run(self, fed: Mapping[str, NDArray[Any]]) -> Sequence[Any]:
        """Answer n rows."""
        tensorflow = self._tensorflow
        try:
            made = self._call(**{name: tensorflow.constant(_words(array)) for name, array in fed.items()})
        except (tensorflow.errors.OpError, ValueError, TypeError) as fault:
            raise InputError(f"'{self._name}' cannot read this: {str(fault).splitlines()[0]}.") from None
        return [_texts(made[name].numpy()) for name in self._made]


def _settle(tensorflow: Any) -> None:
    """One thread a call, as single rows want it; too late where somebody used TensorFlow before."""
    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(1)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return


def _field(name: str, spec: Any) -> Field:
    shape = tuple(-1 if size is None else int(size) for size in spec.shape.as_list()) if spec.shape.rank else (-1,)
    return Field(name=name, type=_TYPES.get(spec.dtype.name, "FP32"), shape=(-1, *shape[1:]), nullable=False)


def _words(array: NDArray[Any]) -> Any:
    """TensorFlow takes no None among texts."""
    if array.dtype != object:
        return array
    return np.array(["" if value is None else value for value in array.ravel()], dtype=object).reshape(array.shape)


def _texts(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind != "O":
        return array
    flat = np.empty(array.size, dtype=object)
    flat[:] = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in array.ravel()]
    return flat.reshape(array.shape)

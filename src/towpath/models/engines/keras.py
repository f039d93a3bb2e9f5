"""Keras 3 files, on whichever of its backends is installed; layers that carry code are refused."""

import contextlib
import importlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import FormatError, InputError
from towpath.models.engines.extra import check_version, framework
from towpath.models.engines.tensors import TensorModel
from towpath.models.manifest import Field, Signature
from towpath.types import OutputKind

__all__ = ["Keras", "check_config"]

_TYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL", "string": "BYTES", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
_ROOMS = ("activations", "constraints", "dtype_policies", "initializers", "layers", "losses", "metrics", "models", "optimizers",
          "optimizers.schedules", "quantizers", "regularizers")  # fmt: skip
_MODULES = frozenset({"keras", *(f"keras.{room}" for room in _ROOMS)})
_MODEL_MODULES = frozenset(
    {"keras.src.models.functional", "keras.src.models.sequential", "keras.src.engine.functional"}
)
_NEVER = frozenset(
    {
        "Lambda",
        "TFSMLayer",
        "TorchModuleWrapper",
        "JaxLayer",
        "FlaxLayer",
        "__lambda__",
        "load_model",
        "clone_model",
        "get_file",
    }
)
_CONFIG_BYTES = 64 * 2**20
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)
_BACKENDS = ("torch", "tensorflow", "jax")


def check_config(path: Path) -> str:
    """Refuse a config that names anything but Keras' own layers; the version that wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            for part in ("config.json", "metadata.json"):
                if archive.getinfo(part).file_size > _CONFIG_BYTES:
                    raise _damaged(path, f"'{part}' has more than {_CONFIG_BYTES:,} bytes")
            config: Any = json.loads(archive.read("config.json"))
            said: Any = json.loads(archive.read("metadata.json"))
    except (*_BROKEN, KeyError, ValueError, RecursionError) as fault:
        raise _damaged(path, f"{type(fault).__name__}: {fault}") from None
    waiting: list[Any] = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting += node.values()
            if why := _fault(node):
                raise FormatError(
                    f"'{path}' is a Keras model that would run {why}; nothing of it was run.",
                    mend="a model of Keras' own layers (no Lambda, no classes of your own); or model.export(folder), or ONNX",
                )
    return str(said.get("keras_version", "")) if isinstance(said, dict) else ""


class Keras(TensorModel):
    """One Keras model."""

    format = "keras"
    framework = "keras"
    called = "Keras"

    @staticmethod
    def check(path: Path) -> None:
        """Refuse a file with code or with weights elsewhere, before Keras is imported for it."""
        check_config(path)
        _check_weights(path)

    def __init__(
        self, path: Path, *, name: str, signature: Signature | None = None, kind: OutputKind | None = None
    ) -> None:
        self._keras, self._model = _opened(path, name)
        given, made = self._model.inputs, self._model.outputs
        if not given or not made:
            raise FormatError(
                f"'{name}' does not say what it reads: it was saved before it was built.",
                where=str(path),
                mend="build it (keras.Input, or one call) before model.save",
            )
        self._by_name = isinstance(getattr(self._model, "_inputs_struct", None), dict)
        inputs = [_field(one.name, one) for one in given]
        labels = ["prediction"] if len(made) == 1 else list(self._model.output_names)
        outputs = [_field(label, one) for label, one in zip(labels, made, strict=True)]
        self.describe(name, str(path), inputs, outputs, signature=signature, kind=kind)

    @staticmethod
    def opened(path: Path, name: str) -> Any:
        """The model, for code of the project that calls it."""
        return _opened(path, name)[1]

    def run(self, fed: Mapping[str, NDArray[Any]]) -> Sequence[Any]:
        """Answer n rows."""
        given: Any = dict(fed) if self._by_name else list(fed.values())
        if not self._by_name and len(given) == 1:
            given = given[0]
        try:
            with _without_gradients(self._keras):
                made = self._model(given, training=False)
        except (ValueError, TypeError, RuntimeError, IndexError) as fault:
            raise InputError(f"'{self._name}' cannot read this: {str(fault).strip().splitlines()[0]}.") from None
        parts = list(made.values()) if isinstance(made, dict) else made if isinstance(made, list | tuple) else [made]
        return [np.asarray(self._keras.ops.convert_to_numpy(part)) for part in parts]


def _opened(path: Path, name: str) -> tuple[Any, Any]:
    """Keras and the model.

    Raises:
        ExtraError: Keras is not installed.
        FormatError: The file is damaged, or would run code.
        RefusedError: Another major version wrote it.
    """
    wrote = check_config(path)
    _check_weights(path)
    if "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ:
        found = next((each for each in _BACKENDS if importlib.util.find_spec(each)), "numpy")
        os.environ["KERAS_BACKEND"] = found
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keras: Any = framework("keras", f"'{name}' is a Keras model")
    check_version(name, "keras", wrote)
    try:
        # Keras tells by the suffix, and nobody else does
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / "model.keras"
            named.symlink_to(path.resolve())
            return keras, keras.saving.load_model(named, compile=False, safe_mode=True)
    except Exception as fault:  # noqa: BLE001 - what Keras raises has no common root
        said = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise FormatError(f"Keras refuses the file: {said[:300]}.", where=str(path), mend="write it again") from None


def _fault(node: dict[str, Any]) -> str:
    kind = node.get("class_name")
    words = node.get("vocabulary")
    if isinstance(words, str) or isinstance(node.get("idf_weights"), str):
        return f"a read of the file '{words or node.get('idf_weights')}'"
    if not isinstance(kind, str):
        return ""
    module = node.get("module")
    if kind in _NEVER:
        return f"'{kind}', which carries code"
    if kind.startswith("__") and kind.endswith("__") and module in {None, "builtins"}:  # tuples, numpy values …
        return ""
    if module not in _MODULES and module not in _MODEL_MODULES:
        return f"'{module}.{kind}', which is not of Keras"
    if node.get("registered_name") not in {None, kind}:
        return f"'{node['registered_name']}', a class of its own"
    return ""


def _check_weights(path: Path) -> None:
    """Refuse weights that point to other files, as HDF5 may, or that declare more than is there."""
    h5py: Any = framework("h5py", f"'{path}' is a Keras model")
    with zipfile.ZipFile(path) as archive:
        try:
            data = io.BytesIO(archive.read("model.weights.h5"))
            with h5py.File(data, "r") as file:
                _walk(path, file, h5py, len(data.getvalue()))
        except (*_BROKEN, KeyError, ValueError) as fault:
            raise _damaged(path, f"its weights: {fault}") from None


def _walk(path: Path, group: Any, h5py: Any, size: int) -> None:
    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise FormatError(
                f"'{path}' has weights that are a link to another file ('{link.filename}').", mend="save it again"
            )
        if isinstance(link, h5py.SoftLink):
            raise FormatError(f"'{path}' has weights that are a link ('{name}').", mend="save it again")
        part = group[name]
        if isinstance(part, h5py.Group):
            _walk(path, part, h5py, size)
        elif part.external or part.is_virtual:
            raise FormatError(f"'{path}' has weights that lie in another file ('{name}').", mend="save it again")
        elif part.nbytes > max(size, 2**20) * 200:
            raise _damaged(path, f"'{name}' declares {part.nbytes:,} bytes")


def _field(name: str, spec: Any) -> Field:
    shape = tuple(-1 if size is None else int(size) for size in spec.shape) or (-1,)
    return Field(name=name, type=_TYPES.get(str(spec.dtype), "FP32"), shape=(-1, *shape[1:]), nullable=False)


def _without_gradients(keras: Any) -> Any:
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    torch: Any = importlib.import_module("torch")

    return torch.inference_mode()


def _damaged(path: Path, found: str) -> FormatError:
    return FormatError(f"'{path}' is a damaged Keras file: {found}.", mend="write it again")

"""MLflow folders: what ``MLmodel`` says, and where it lies; a flavour of a data-only format needs no MLflow at all."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from towpath.errors import FormatError, RefusedError
from towpath.models.columns import Columns, Matrix
from towpath.models.engines.extra import check_version, framework
from towpath.models.engines.project import Objects
from towpath.models.folders import files_of
from towpath.models.manifest import Field, Signature
from towpath.models.model import Model, Outputs
from towpath.types import OutputKind

__all__ = ["Described", "Renamed", "load_python", "read", "renamed"]

_LONGEST_BYTES = 4 * 2**20
_DATA = ("data", "pickled_model", "model_data", "model_binary", "model_path", "pipeline")
_WITHIN = ("", "model.keras", "model", "model.pt2", "model.pth")
_TYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float",
    "double": "double",
    "string": "string",
    "binary": "string",
    "datetime": "timestamp[us, tz=UTC]",
}
_VERSIONS = {
    "lgb_version": "lightgbm",
    "xgb_version": "xgboost",
    "catboost_version": "catboost",
    "sklearn_version": "sklearn",
    "keras_version": "keras",
    "pytorch_version": "torch",
}


class Described(NamedTuple):
    """What ``MLmodel`` says."""

    places: tuple[Path, ...]
    """Where each flavour keeps its model, those of a framework before MLflow's own ``python_function``."""
    inputs: tuple[Field, ...]
    """Of its signature; empty where it has none, or none of columns."""
    code: str
    """The folder of code that it brings; empty where it brings none."""
    python: bool
    """Whether MLflow itself could load it as ``python_function``."""


def read(folder: Path, name: str) -> Described:
    """Read ``MLmodel``.

    Raises:
        FormatError: It is damaged, or points out of its folder.
        RefusedError: Another major version of the framework wrote it.
    """
    import yaml  # here, so that a process with an environment of its own needs numpy and msgspec alone

    files = files_of(folder)
    path = files["MLmodel"]
    if path.stat().st_size > _LONGEST_BYTES:
        raise FormatError(f"'{path}' has more than {_LONGEST_BYTES:,} bytes.", mend="log the model again")
    try:
        said: Any = yaml.safe_load(path.read_bytes())
        flavours: dict[str, dict[str, Any]] = dict(said["flavors"])
        inputs = _columns(json.loads((said.get("signature") or {}).get("inputs") or "[]"))
        own = flavours.pop("python_function", None)
        code = next((str(flavour["code"]) for flavour in (own or {}, *flavours.values()) if flavour.get("code")), "")
        places: list[Path] = []
        for flavour in (*flavours.values(), *([own] if own else [])):
            for key, module in _VERSIONS.items():
                check_version(name, module, str(flavour.get(key) or ""))
            data = next((str(flavour[key]) for key in _DATA if isinstance(flavour.get(key), str)), "")
            if ".." in data.split("/"):
                raise ValueError(f"'{data}' leads out of the folder")
            places += [place for place in _places(folder, files, data) if place not in places]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as fault:
        raise FormatError(
            f"'{path}' is a damaged MLmodel: {type(fault).__name__}: {str(fault)[:200]}.", mend="log the model again"
        ) from None
    return Described(tuple(places), inputs, code, own is not None)


def load_python(folder: Path, name: str, described: Described) -> Model:
    """Load a ``python_function`` with MLflow, which unpickles and imports whatever the folder says; only where the user trusts it.

    Raises:
        ExtraError: MLflow is not installed.
        FormatError: MLflow refuses the folder.
        RefusedError: It has no signature, so nobody knows what it reads.
    """
    mlflow: Any = framework("mlflow.pyfunc", f"'{name}' is an MLflow model")
    if not described.inputs:
        raise RefusedError(
            f"'{name}' has no signature of columns in its MLmodel.",
            where=str(folder / "MLmodel"),
            mend="log it again with signature=mlflow.models.infer_signature(inputs, outputs)",
        )
    try:
        trained = mlflow.load_model(str(folder))
    except Exception as fault:  # noqa: BLE001 - it runs what the folder holds
        said = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise FormatError(f"MLflow refuses the folder: {said[:300]}.", where=str(folder), mend="log it again") from None
    outputs = (Field(name="prediction", type="double", nullable=False),)
    signature = Signature(container="pandas", inputs=described.inputs, outputs=outputs)
    kind: OutputKind = "number"
    return Objects(name, trained, signature, kind, written=("mlflow", "mlflow"))


def renamed(model: Model, inputs: tuple[Field, ...]) -> Model:
    """The model with the names of a signature, where it has as many inputs and names of its own alone."""
    own = [field.name for field in model.signature.inputs]
    given = [field.name for field in inputs]
    invented = own == [f"f{number}" for number in range(len(own))] or own == [f"Column_{n}" for n in range(len(own))]
    return Renamed(model, given) if len(own) == len(given) and own != given and invented else model


class Renamed:
    """A model whose file has no names for its columns, with those of the signature beside it."""

    def __init__(self, model: Model, names: list[str]) -> None:
        self._model = model
        self._own = tuple(field.name for field in model.signature.inputs)
        self._given = tuple(names)
        fields = (
            Field(name=name, type=field.type, shape=field.shape, nullable=field.nullable, levels=field.levels)
            for name, field in zip(names, model.signature.inputs, strict=True)
        )
        self.signature = Signature(
            container=model.signature.container, inputs=tuple(fields), outputs=model.signature.outputs
        )
        self.kind: OutputKind = model.kind
        self.inline = model.inline
        self.row_by_row = model.row_by_row
        self.format = model.format
        self.framework = model.framework
        self.unseen: Counter[str] = model.unseen
        self.close = model.close

    def predict(self, columns: Columns) -> Outputs:
        """Answer n rows."""
        return self._model.predict(self._named(columns))

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """A bare file has no functions."""
        return self._model.fallback(name, self._named(columns))

    def _named(self, columns: Columns) -> Columns:
        if isinstance(columns, Matrix) and columns.names == self._given:
            return Matrix(self._own, columns.array)
        return {own: columns[given] for own, given in zip(self._own, self._given, strict=True)}


def _columns(said: Any) -> tuple[Field, ...]:
    """The columns of a signature; none where it is of tensors, which the model's own file says better."""
    if not isinstance(said, list) or any(column.get("type") not in _TYPES or "name" not in column for column in said):
        return ()
    return tuple(
        Field(name=str(column["name"]), type=_TYPES[column["type"]], nullable=not column.get("required", True))
        for column in said
    )


def _places(folder: Path, files: dict[str, Path], data: str) -> Iterator[Path]:
    """Where the model of a flavour may lie; a path that leads out of the folder is none."""
    for inner in _WITHIN if data else ():
        place = "/".join(part for part in (data.strip("/"), inner) if part)
        if place in files or any(name.startswith(place + "/") for name in files):
            yield folder / place

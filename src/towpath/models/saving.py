"""Keeping what ``train`` returned: a file as it is, the framework's data-only format, else skops, else a pickle."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from towpath.errors import FormatError, RefusedError
from towpath.models import pickles
from towpath.models.engines import mlflow, sklearn
from towpath.models.engines.extra import installed_version
from towpath.models.folders import digest_of, files_of, size_of
from towpath.models.formats import sniff
from towpath.models.manifest import Artefact, Field, Signature, StoredFile
from towpath.models.model import output_fields
from towpath.types import Container, OutputKind

__all__ = ["as_answered", "save", "signature_of"]

_Saved = tuple[str, str, str]
"""Name of file or folder, format, import name of the framework."""
_TEXTS = frozenset({"string", "large_string", "BYTES"})
_RUNS = frozenset({"pickle", "joblib"})
"""Formats that a file may have and a version not: there they have the list of what was seen when we wrote them."""


def save(
    trained: object,
    folder: Path,
    format: Literal["auto", "pickle", "skops"] = "auto",  # noqa: A002 - model.toml names it so
    *,
    own_predict: bool = False,
    width: int = 0,
) -> Artefact:
    """Write a trained object into a folder.

    Args:
        trained: What ``train`` returned; a `Path` is a model that something else wrote, as a file or a folder, and is copied as it is.
            Of an MLflow folder the model of its data-only flavour is kept.
        folder: Where the file goes; it is made.
        format: ``auto`` takes the framework's own data-only format where it has one.
        own_predict: Whether ``model.py`` has a ``predict(model, rows)``: it gets a Booster back where ``train`` returned one, and a
            scikit-learn wrapper where it returned that, so that wrappers are kept whole.
        width: Columns that it was trained on; a PyTorch module is exported for rows of as many floats.

    Returns:
        What the manifest says of the file.

    Raises:
        RefusedError: It cannot be kept in that format.
        FormatError: The file is no model, or damaged or hostile.
        ExtraError: skops is not installed and was asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if trained is None:
        raise RefusedError("train() returned nothing.", where="model.py, train", mend="return the trained model")
    if isinstance(trained, Path):
        saved = _copied(trained, folder)
    else:
        saved = _data_only(trained, folder, width, own_predict=own_predict) if format == "auto" else None
    allow: tuple[str, ...] = ()
    if saved is None and format != "pickle" and (format == "skops" or sklearn.is_estimator(trained)):
        whole = (
            sklearn.save_skops(trained, folder / "model.skops")
            if installed_version("skops") or format == "skops"
            else False
        )
        if not whole and format == "skops":
            raise RefusedError(
                f"what train() returned ({type(trained).__name__}) holds types that are not on our skops list.",
                where="model.toml, train.format",
                mend='format = "auto"',
            )
        saved = ("model.skops", "skops", "sklearn") if whole else None
    if saved is None:
        data, allow = pickles.dump(trained)
        (folder / "model.pkl").write_bytes(data)
        saved = ("model.pkl", "pickle", type(trained).__module__.split(".")[0])
    name, kind, module = saved
    whole = (folder / name).is_dir()
    first = f"{name}/{next(iter(files_of(folder / name)))}" if whole else name
    file = StoredFile(path=first, digest=digest_of(folder / first), size_bytes=size_of(folder / first))
    return Artefact(
        file=file,
        folder=name if whole else "",
        format=kind,
        framework=module,
        framework_version=installed_version(module),
        allow=allow,
    )


def signature_of(
    inputs: tuple[Field, ...],
    container: Container,
    kind: OutputKind,
    trained: object,
    predictions: "dict[str, NDArray[Any]] | NDArray[Any] | None" = None,
) -> Signature:
    """The signature of a trained model.

    Args:
        inputs: What it was trained on, from `fields_of`.
        container: What ``train`` read.
        kind: What ``model.toml`` says that a prediction is.
        trained: What ``train`` returned; a classifier says its labels.
        predictions: What ``predict`` gave for a few rows, where it was tried: names, types and widths of the outputs.

    Example:
        >>> signature_of((Field(name="a", type="double"),), "numpy", "number", object()).outputs[0].name
        'prediction'
    """
    if isinstance(predictions, dict):
        outputs = tuple(_output(name, np.asarray(values)) for name, values in predictions.items())
        return Signature(container=container, inputs=inputs, outputs=outputs)
    if predictions is not None:
        values = np.asarray(predictions)
        return Signature(container=container, inputs=inputs, outputs=(_output("prediction", values),))
    labels = getattr(trained, "classes_", None)
    levels = None if labels is None else tuple(str(label) for label in np.asarray(labels).tolist())
    return Signature(container=container, inputs=inputs, outputs=output_fields(kind, levels))


def as_answered(signature: Signature, outputs: "dict[str, NDArray[Any]]") -> Signature:
    """The signature with the outputs as the model gave them: a label where a number was taken for granted, as many as there are.

    Args:
        signature: Of the trained model, as its kind and its object say.
        outputs: What it answered to some rows.

    Example:
        >>> taken = signature_of((Field(name="a", type="double"),), "numpy", "class", object())
        >>> [(field.name, field.type) for field in as_answered(taken, {"prediction": np.array(["no", "yes"])}).outputs]
        [('prediction', 'string')]
    """
    known = {field.name: field for field in signature.outputs}
    fields: list[Field] = []
    for name, values in outputs.items():
        field, lists = known.get(name), values.dtype.kind == "O" and not isinstance(values.flat[0], str | bytes)
        seen = _output(name, values)
        same = field is not None and (field.type in _TEXTS) == (seen.type in _TEXTS) and len(field.shape) == values.ndim
        fields.append(field if field is not None and (same or lists) else seen)
    return replace(signature, outputs=tuple(fields))


def _output(name: str, values: NDArray[Any]) -> Field:
    kind = {"f": "double", "i": "int64", "u": "int64", "b": "bool"}.get(values.dtype.kind, "string")
    return Field(name=name, type=kind, shape=(-1, *values.shape[1:]), nullable=False)


def _copied(given: Path, folder: Path) -> _Saved:
    """A file or folder that something else wrote, told from its bytes."""
    found, place = sniff(given), given
    if found.format == "mlflow":
        places = [place for place in mlflow.read(given, given.name).places if not _is_outer(place)]
        known = [(place, sniff(place)) for place in places]
        place, found = next((pair for pair in known if pair[1].format not in _RUNS), (given, found))
    if found.format in {*_RUNS, "mlflow"}:
        raise RefusedError(
            f"train() returned '{given}', which is {'an MLflow model' if place is given and given.is_dir() else 'a pickle'} ({found.detail}).",
            where="model.py, train",
            mend="return the object itself, such as mlflow.sklearn.load_model(path) gives: it is kept in its data-only format",
        )
    if found.format == "remote":
        raise RefusedError(f"'{given}' is {found.detail}.", "model.py, train", "model.toml, [artefact] remote")
    if place.is_dir():
        for name, file in files_of(place).items():
            (folder / "model" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / "model" / name)
    else:
        shutil.copyfile(place, folder / "model")
    return ("model", found.format, found.framework)


def _is_outer(place: Path) -> bool:
    """Whether it is a folder whose model is further within."""
    if not place.is_dir():
        return False
    try:
        sniff(place)
    except FormatError as fault:
        return fault.what.startswith(f"'{place}' is a folder of")
    return False


def _data_only(trained: Any, folder: Path, width: int, *, own_predict: bool) -> _Saved | None:
    """Write a framework's own format; told by class name, so that no framework is imported for the asking."""
    for kind in type(trained).__mro__:
        write = _WRITERS.get((kind.__module__.split(".")[0], kind.__name__))
        if write is not None and not (own_predict and sklearn.is_estimator(trained)):
            return write(trained, folder, width)
    return None


def _lightgbm(booster: Any, folder: Path, _width: int) -> _Saved:
    best = booster.best_iteration
    booster.save_model(str(folder / "model.txt"), num_iteration=best if best and best > 0 else None)
    return ("model.txt", "lightgbm", "lightgbm")


def _xgboost(booster: Any, folder: Path, _width: int) -> _Saved:
    booster.save_model(str(folder / "model.ubj"))
    return ("model.ubj", "xgboost", "xgboost")


def _catboost(model: Any, folder: Path, _width: int) -> _Saved:
    model.save_model(str(folder / "model.cbm"))
    return ("model.cbm", "catboost", "catboost")


def _onnx(model: Any, folder: Path, _width: int) -> _Saved:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return ("model.onnx", "onnx", "onnxruntime")


def _torch(module: Any, folder: Path, width: int) -> _Saved:
    from towpath.models.engines import torch

    name = torch.save(module, folder, width)
    return (name, "pt2" if name.endswith(".pt2") else "torchscript", "torch")


def _keras(model: Any, folder: Path, _width: int) -> _Saved:
    model.save(folder / "model.keras")
    return ("model.keras", "keras", "keras")


def _huggingface(pipeline: Any, folder: Path, _width: int) -> _Saved:
    from towpath.models.engines import huggingface

    return (huggingface.save(pipeline, folder), "huggingface", "transformers")


_WRITERS: dict[tuple[str, str], Callable[[Any, Path, int], _Saved]] = {
    ("lightgbm", "Booster"): _lightgbm,
    ("lightgbm", "LGBMModel"): lambda model, folder, width: _lightgbm(model.booster_, folder, width),
    ("xgboost", "Booster"): _xgboost,
    ("xgboost", "XGBModel"): lambda model, folder, width: _xgboost(model.get_booster(), folder, width),
    ("catboost", "CatBoost"): _catboost,
    ("onnx", "ModelProto"): _onnx,
    ("keras", "Model"): _keras,
    ("transformers", "Pipeline"): _huggingface,
    ("torch", "Module"): _torch,
    ("torch", "ExportedProgram"): _torch,
}

"""Telling a model file or folder from its bytes, never from its suffix, and without running anything of it."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from towpath.errors import FormatError
from towpath.models import pickles, protobuf, ubjson
from towpath.models.folders import files_of, zip_entries

__all__ = ["Found", "first_byte", "sniff"]

_KNOWN = (
    "ONNX, LightGBM text, XGBoost JSON or UBJ, CatBoost .cbm, skops, Keras .keras, torch.export .pt2, TorchScript, pickle, "
    "or a folder of TensorFlow, Hugging Face or MLflow"
)
_HEAD_BYTES = 4_096
_LOCATION = b"\x0a\x08location\x12"
_STRANGERS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF",
    b"PAR1": "a Parquet table",
    b"ARROW1": "an Arrow file",
    b"\x89HDF": "an HDF5 file (Keras 2 wrote those)",
    b"\x7fELF": "a program",
    b"SQLite format 3": "an SQLite database",
    b"<!DOCTYPE": "an HTML page",
    b"<html": "an HTML page",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file with git lfs pull",
    b"\xfd7zXZ": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\x1f\x8b": "a gzip archive; unpack it first",
}
_PACKED_PICKLES = {b"\x1f\x8b": "gzip", b"x\x9c": "zlib", b"x\xda": "zlib", b"x\x01": "zlib", b"x^": "zlib"}


class Found(NamedTuple):
    """What a file is."""

    format: str
    """``onnx lightgbm xgboost catboost skops keras pt2 torchscript savedmodel huggingface mlflow pickle joblib``."""
    framework: str
    """Import name of what runs it."""
    detail: str
    """More for people, such as ``UBJ`` or what a pickle would import."""


def sniff(path: Path) -> Found:
    """Tell what a model file is.

    Args:
        path: Any file, or the folder that a framework wrote; its name does not matter.

    Returns:
        The format; the file is whole as far as its bytes can say.

    Raises:
        FormatError: It is missing, empty, damaged, hostile, or nothing that we know; the text says what was found.
    """
    if path.is_dir():
        return _foldered(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as fault:
        raise FormatError(f"'{path}' cannot be read: {fault.strerror}.", mend="the path of a model file") from None
    if not head:
        raise FormatError(f"'{path}' is empty.", mend="write it again")
    for told in (_catboost, _lightgbm, _zipped, _braces, _pickled, _onnx):
        found = told(path, head, size)
        if found is not None:
            return found
    raise _unknown(path, head, size)


def _catboost(path: Path, head: bytes, size: int) -> Found | None:
    if not head.startswith(b"CBM1"):
        return None
    # The core's length stands behind the magic; what follows it are categorical tables with lengths of their own
    core = int.from_bytes(head[4:8], "little")
    if len(head) < 8 or core + 8 > size:  # noqa: PLR2004 - magic and length
        raise _cut(path, "CatBoost model", f"its head says {core + 8:,} bytes, there are {size:,}")
    return Found("catboost", "catboost", "CBM1")


def _lightgbm(path: Path, head: bytes, size: int) -> Found | None:
    if not head.startswith((b"tree\n", b"tree\r\n")):
        return None
    with path.open("rb") as file:
        file.seek(max(0, size - 2**20))
        whole = b"end of trees" in file.read() or b"end of trees" in path.read_bytes()
    if b"version=" not in head[:64] or not whole:
        raise _cut(path, "LightGBM text model", f"{size:,} bytes without 'end of trees'")
    return Found("lightgbm", "lightgbm", "text")


def _zipped(path: Path, head: bytes, size: int) -> Found | None:
    del size
    if not head.startswith(b"PK\x03\x04"):
        return None
    names = {entry.filename for entry in zip_entries(path, "zip archive (skops, Keras or PyTorch)")}
    if "schema.json" in names:
        return Found("skops", "sklearn", f"{len(names)} parts")
    if {"metadata.json", "config.json", "model.weights.h5"} <= names:
        return Found("keras", "keras", f"{len(names)} parts")
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner or "serialized_exported_program.json" in names:
        return Found("pt2", "torch", "torch.export")
    if {"constants.pkl", "data.pkl"} <= inner:
        return Found("torchscript", "torch", f"{sum(name.startswith('code/') for name in inner)} parts of code")
    shown = ", ".join(sorted(names)[:4])
    if "data.pkl" in inner:
        raise FormatError(
            f"'{path}' is a pickle of PyTorch (torch.save; {shown}), which can run anything when it is loaded; nothing was run.",
            mend="torch.export.save(torch.export.export(model, (example,)), 'model.pt2')",
        )
    raise FormatError(f"'{path}' is a zip archive ({shown}), no model.", mend=f"one of {_KNOWN}")


def _foldered(path: Path) -> Found:
    """Tell a folder by the file that each framework puts at its top."""
    files = files_of(path)
    if "MLmodel" in files:
        return Found("mlflow", "mlflow", f"{len(files)} files")
    if "saved_model.pb" in files:
        return Found("savedmodel", "tensorflow", f"{len(files)} files")
    if "config.json" in files:
        weights = [name for name in files if name.endswith(".safetensors")]
        return Found("huggingface", "transformers", f"{len(weights)} files of weights")
    if (graph := _onnx_folder(path, files)) is not None:
        return graph
    shown = ", ".join(f"'{name}'" for name in list(files)[:4])
    raise FormatError(
        f"'{path}' is a folder of {len(files)} files ({shown}), no model.",
        mend="a SavedModel (saved_model.pb), a Hugging Face model (config.json), MLflow's (MLmodel), or the path of one file",
    )


def _braces(path: Path, head: bytes, size: int) -> Found | None:
    del size
    if not head.lstrip().startswith(b"{"):
        return None
    data = path.read_bytes()
    form = "UBJ" if head[1:2] in {b"L", b"l", b"I", b"U", b"i", b"$", b"#"} and head[:1] == b"{" else "JSON"
    try:
        keys = ubjson.top_keys(data) if form == "UBJ" else list(msgspec.json.decode(data, type=dict[str, msgspec.Raw]))
    except (ValueError, msgspec.DecodeError) as fault:
        if b"learner" in head or b"gradient_booster" in head:
            raise _cut(path, f"XGBoost {form} model", str(fault)) from None
        raise FormatError(f"'{path}' is damaged {form}: {fault}.", mend=f"one of {_KNOWN}") from None
    if "learner" in keys:
        return Found("xgboost", "xgboost", form)
    if "remote" in keys:
        return Found("remote", "", "a model of another server")
    shown = ", ".join(f"'{key}'" for key in keys[:4])
    raise FormatError(f"'{path}' is {form} with the keys {shown}, no XGBoost model.", mend=f"one of {_KNOWN}")


def _pickled(path: Path, head: bytes, size: int) -> Found | None:
    packing = next((name for magic, name in _PACKED_PICKLES.items() if head.startswith(magic)), "")
    if not packing and not pickles.looks_like(head):
        return None
    if packing:
        if not pickles.packed(path):
            return None
        return Found("joblib", "joblib", f"{packing}-packed pickle")
    seen = pickles.imports_of(path)
    if seen is None:
        raise _cut(path, "pickle", f"{size:,} bytes that end within it")
    joblib = any(module.startswith("joblib.") for module, _ in seen)
    shown = ", ".join(f"{module}.{name}" for module, name in sorted(seen)[:6])
    return Found("joblib" if joblib else "pickle", "joblib" if joblib else "pickle", f"imports {shown or 'nothing'}")


def _onnx(path: Path, head: bytes, size: int) -> Found | None:
    del size
    if head[0] != 0x08:  # noqa: PLR2004 - field 1, a number: ir_version, which every writer puts first
        return None
    version, elsewhere = _graph_of(path)
    if elsewhere:
        raise FormatError(
            f"'{path}' is an ONNX model that keeps its weights in other files ({', '.join(sorted(elsewhere)[:3])}).",
            mend=f"serve the folder that holds them all, '{path.parent}', or onnx.save(model, path, save_as_external_data=False)",
        )
    return Found("onnx", "onnxruntime", f"ir {version}")


def first_byte(path: Path) -> bytes:
    """Of a file; empty where it has none."""
    with path.open("rb") as file:
        return file.read(1)


def _onnx_folder(folder: Path, files: Mapping[str, Path]) -> Found | None:
    """A graph at the top of a folder whose weights are in the other files of it, and nowhere else."""
    graphs = [name for name, file in files.items() if "/" not in name and first_byte(file) == b"\x08"]
    if len(graphs) != 1:
        return None
    version, elsewhere = _graph_of(files[graphs[0]])
    strangers = sorted(elsewhere - set(files))
    if strangers:
        raise FormatError(
            f"'{folder}' is an ONNX model whose weights are in '{strangers[0]}', which is not in the folder.",
            mend="copy the file into it; weights outside of the folder are never read",
        )
    return Found("onnx", "onnxruntime", f"ir {version}, {graphs[0]}")


def _graph_of(path: Path) -> tuple[Any, set[str]]:
    """The version of a whole ONNX file, and the files beside it that hold its weights."""
    data = path.read_bytes()
    try:
        fields = dict(protobuf.fields(memoryview(data)))
    except ValueError as fault:
        raise _cut(path, "ONNX model (protobuf)", str(fault)) from None
    if 7 not in fields or 8 not in fields:  # noqa: PLR2004 - graph and opset_import of ModelProto
        raise _cut(path, "ONNX model (protobuf)", f"fields {sorted(fields)}, where a graph (7) and opsets (8) belong")
    # A TensorProto names the file in a pair of strings, wherever in the graph it stands
    elsewhere: set[str] = set()
    at = data.find(_LOCATION)
    while at >= 0:
        place = at + len(_LOCATION)
        pairs = protobuf.fields(memoryview(data)[place - 1 :])
        with contextlib.suppress(ValueError):
            elsewhere.add(bytes(cast("memoryview", next(pairs)[1])).decode(errors="replace"))
        at = data.find(_LOCATION, place)
    return fields.get(1), elsewhere


def _cut(path: Path, what: str, found: str) -> FormatError:
    return FormatError(f"'{path}' begins like a {what} and is damaged or cut off: {found}.", mend="write it again")


def _unknown(path: Path, head: bytes, size: int) -> FormatError:
    what = next((said for magic, said in _STRANGERS.items() if head.startswith(magic)), "")
    start = head[:16]
    shown = repr(start.decode()) if start.isascii() and start.decode().isprintable() else start.hex(" ")
    if not what:
        text = all(byte >= 0x20 or byte in b"\t\r\n" for byte in head)  # noqa: PLR2004 - printable
        what = "text" if text else "of no known format"
    return FormatError(f"'{path}' is {what} ({size:,} bytes that begin {shown}), no model.", mend=f"one of {_KNOWN}")

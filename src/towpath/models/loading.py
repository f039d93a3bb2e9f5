"""Loading a model: a bare file by what its bytes say, a version by its manifest."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from towpath.errors import FormatError, RefusedError, TowpathError
from towpath.features.on_demand import OnDemand
from towpath.models import pickles
from towpath.models.code import module_at, project_module, unpack_code
from towpath.models.engines import catboost, lightgbm, onnx, sklearn, xgboost
from towpath.models.engines.extra import check_version
from towpath.models.engines.project import Objects, OnlyFunctions, WithFunctions
from towpath.models.formats import sniff
from towpath.models.manifest import Manifest, OnDemandLock
from towpath.models.model import Model

__all__ = ["load_file", "load_functions", "load_on_demand", "load_version", "on_demand_of", "try_here"]

_NATIVE: dict[str, Any] = {
    "lightgbm": lightgbm.LightGbm,
    "xgboost": xgboost.XgBoost,
    "catboost": catboost.CatBoost,
    "onnx": onnx.Onnx,
}

_UNPROVED = frozenset({"xgboost", "catboost"})
"""Their readers follow what the file says without looking (of 20 files with a few bytes changed, 1 to 3 ended the process)."""
_TRIAL_S = 60


def load_file(path: Path, *, name: str, trust_pickle: bool = False) -> Model:
    """Load a bare model file; its signature is read from the model.

    Args:
        path: The file.
        name: What the model is called in errors.
        trust_pickle: Whether the user said ``--trust-pickle``.

    Raises:
        FormatError: Of no known format, damaged, or hostile; nothing of it was run.
        RefusedError: A pickle without `trust_pickle`, or another major version of its framework wrote it.
        ExtraError: Its framework is not installed; names the install line.
    """
    found = sniff(path)
    if found.format in _NATIVE:
        if found.format in _UNPROVED:
            _try_apart(found.format, path)
        model: Model = _NATIVE[found.format](path, name=name)
        return model
    if found.format == "skops":
        trained = sklearn.load_skops(path, name)
        signature, kind = sklearn.describe(trained)
        return Objects(name, sklearn.settle(trained), signature, kind, written=("skops", "sklearn"))
    pickles.refuse_hostile(str(path), pickles.imports_of(path) or ())
    if not trust_pickle:
        raise RefusedError(
            f"'{path}' is a {found.detail if found.format == 'joblib' else 'pickle'} ({found.detail}), and loading one runs its code.",
            where=str(path),
            mend="tow serve FILE --trust-pickle, if you made it yourself; better: ONNX, skops, or the framework's own format",
        )
    trained = pickles.load_trusted(path, found.format)
    if sklearn.is_estimator(trained):
        sklearn.prove_trees(trained, str(path))
        check_version(name, "sklearn", sklearn.written_by(trained))
    signature, kind = sklearn.describe(trained)
    framework = type(trained).__module__.split(".")[0]
    return Objects(name, sklearn.settle(trained), signature, kind, written=(found.format, framework))


def load_version(manifest: Manifest, folder: Path) -> Model:
    """Load a version.

    Args:
        manifest: Whose signature was verified.
        folder: Holds the version's files; their digests were verified.

    Raises:
        FormatError: A file is not what the manifest says, or a pickle wants more than its list.
        RefusedError: Another major version of the framework wrote it.
        ModelError: The project's code failed while it was imported.
        ExtraError: Its framework is not installed.
    """
    name = f"{manifest.model}@{manifest.version}"
    artefact = manifest.artefact
    path = folder / artefact.file.path
    check_version(name, artefact.framework, artefact.framework_version)
    module = _module(manifest, folder)
    if artefact.format != "pickle":
        found = sniff(path)
        if found.format != artefact.format:
            raise FormatError(
                f"{name} should be {artefact.format} and is {found.format} ({found.detail}).",
                where=str(path),
                mend="publish the version again",
            )
    kind = manifest.output.kind
    if artefact.format in _NATIVE and not hasattr(module, "predict"):
        native: Model = _NATIVE[artefact.format](path, name=name, signature=manifest.signature, kind=kind)
        return native if module is None else WithFunctions(name, native, module, manifest.signature)
    trained = sklearn.settle(_object(manifest, path, name))
    written = (artefact.format, artefact.framework)
    return Objects(name, trained, manifest.signature, kind, written=written, module=module)


def load_functions(manifest: Manifest, folder: Path | None, why: str) -> Model:
    """What is left of a version whose model could not be loaded: its signature, and its functions where they load.

    Args:
        manifest: Whose signature was verified.
        folder: Holds the version's files; none where they could not be fetched.
        why: What became of the model.
    """
    module: ModuleType | None = None
    if folder is not None:
        with contextlib.suppress(TowpathError):
            module = _module(manifest, folder)
    return OnlyFunctions(manifest, module, why)


def load_on_demand(manifest: Manifest, folder: Path) -> tuple[OnDemand, ...]:
    """Load the on-demand features of a version, in their order.

    Args:
        manifest: Whose signature was verified.
        folder: Holds the version's files; their digests were verified.

    Raises:
        FormatError: ``code.zip`` does not hold what the version was trained on.
        ModelError: A file failed while it was imported.
    """
    if not manifest.on_demand:
        return ()
    return on_demand_of((folder / "code.zip").read_bytes(), manifest.on_demand)


def on_demand_of(code: bytes, locks: Sequence[OnDemandLock], *, root: Path | None = None) -> tuple[OnDemand, ...]:
    """The functions of on-demand files that were packed.

    Args:
        code: What `pack_code` gave.
        locks: Which files, in the order in which they are called.
        root: The project's folder, so that tracebacks show the user's own files.

    Raises:
        FormatError: A file differs from its lock, or has no such function.
        ModelError: A file failed while it was imported.
    """
    files = unpack_code(code)
    found: list[OnDemand] = []
    for lock in locks:
        held = f"sha256:{hashlib.sha256(files.get(lock.path, b'')).hexdigest()}"
        if held != lock.digest:
            raise FormatError(
                f"'{lock.path}' is not what the version was trained on: {held[:19]}… in code.zip, {lock.digest[:19]}… locked.",
                lock.path,
                "publish the version again",
            )
        function = getattr(module_at(code, lock.path, root=root), lock.view, None)
        if not callable(function):
            raise FormatError(f"'{lock.path}' has no function {lock.view}.", lock.path, f"def {lock.view}(…): …")
        found.append(OnDemand(lock, function))
    return tuple(found)


def _module(manifest: Manifest, folder: Path) -> ModuleType | None:
    if not any(file.path == "code.zip" for file in manifest.files):
        return None
    return project_module((folder / "code.zip").read_bytes(), manifest.model)


def _try_apart(format: str, path: Path) -> None:  # noqa: A002 - as in the manifest
    """Load the file and answer one row in a process of its own, so that one that ends its process is refused instead."""
    code = f"from towpath.models.loading import try_here; try_here({format!r}, {str(path.resolve())!r})"
    variables = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    try:
        tried = subprocess.run(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-I", "-c", code],
            env={**variables, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=_TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FormatError(f"'{path}' did not load within {_TRIAL_S} s.", mend="write it again") from None
    if tried.returncode < 0:  # what it raises is raised again, better said, when we load it ourselves
        ended = signal.Signals(-tried.returncode).name
        raise FormatError(
            f"'{path}' is a damaged {format} model: reading it ended the process that tried it ({ended}).",
            mend="write it again",
        )


def try_here(format: str, path: str) -> None:  # noqa: A002 - as in the manifest
    """Load a bare file and answer one row, in the process that was started for it."""
    with contextlib.suppress(TowpathError):
        _NATIVE[format](Path(path), name="trial")


def _object(manifest: Manifest, path: Path, name: str) -> Any:
    """What ``train`` returned, for code that is called with it."""
    artefact = manifest.artefact
    match artefact.format:
        case "pickle":
            return pickles.load_allowed(path.read_bytes(), artefact.allow, name)
        case "skops":
            return sklearn.load_skops(path, name, artefact.framework_version)
        case "lightgbm":
            return lightgbm.open_booster(path, name)
        case "xgboost":
            return xgboost.open_booster(path, name)
        case "catboost":
            return catboost.open_model(path, name)
        case "onnx":
            return onnx.open_session(path, name)
        case other:
            raise FormatError(f"{name} is of the unknown format '{other}'.", mend="a newer towpath")

"""Loading a model: a bare file by what its bytes say, a version by its manifest."""

import contextlib
import hashlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from towpath.errors import FormatError, ModelError, RefusedError, TowpathError
from towpath.features.on_demand import OnDemand
from towpath.models import pickles
from towpath.models.code import module_at, project_module, unpack_code
from towpath.models.compiling import compiled_or_own
from towpath.models.engines import catboost, lightgbm, mlflow, onnx, sklearn, xgboost
from towpath.models.engines.extra import check_version
from towpath.models.engines.project import Objects, OnlyFunctions, WithFunctions
from towpath.models.folders import size_of
from towpath.models.formats import sniff
from towpath.models.manifest import Manifest, OnDemandLock
from towpath.models.model import Model

__all__ = [
    "compile_file",
    "left_of_on_demand",
    "load_file",
    "load_functions",
    "load_on_demand",
    "load_version",
    "on_demand_of",
    "try_here",
    "with_functions",
]

_NATIVE: dict[str, Any] = {
    "lightgbm": lightgbm.LightGbm,
    "xgboost": xgboost.XgBoost,
    "catboost": catboost.CatBoost,
    "onnx": onnx.Onnx,
}

_LAZY = {
    "pt2": ("torch", "TorchExport"),
    "torchscript": ("torch", "TorchScript"),
    "huggingface": ("huggingface", "HuggingFace"),
    "keras": ("keras", "Keras"),
    "savedmodel": ("tensorflow", "SavedModel"),
}
"""Format → module and class of an engine that is imported when one is met."""

_UNPROVED = frozenset({"xgboost", "catboost", *_LAZY})
"""Their readers follow what the file says without looking (of 20 files with a few bytes changed, 1 to 3 ended the process)."""
_TRIAL_CPU_S = 120
_TRIAL_S = 600
"""On a machine that is busy, or has a fraction of a core, an import of TensorFlow alone takes longer than a minute."""
_TRIAL_BYTES = 8 * 2**30
"""Memory of a trial beyond six times the file; enough for each framework with an empty model."""
_TOO_MUCH = 71
"""How a trial ends that ran out of it."""


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
    if found.format == "mlflow":
        return _load_mlflow(path, name, trust_pickle=trust_pickle)
    if (engine := _engine(found.format)) is not None:
        if hasattr(engine, "check"):
            engine.check(path)
        if found.format in _UNPROVED:
            _try_apart(found.format, path)
        model: Model = engine(path, name=name)
        return model
    if found.format == "skops":
        trained = sklearn.load_skops(path, name)
        signature, kind = sklearn.describe(trained)
        return Objects(name, sklearn.settle(trained), signature, kind, written=("skops", "sklearn"))
    pickles.refuse_hostile(str(path), pickles.imports_of(path) or ())
    if not trust_pickle:
        raise RefusedError(
            f"'{path}' is a {'file of joblib' if found.format == 'joblib' else 'pickle'} ({found.detail}), and loading one runs its code.",
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


def _load_mlflow(path: Path, name: str, *, trust_pickle: bool) -> Model:
    """An MLflow folder: by our own engine where a flavour is data only, else by MLflow where the user trusts it."""
    described = mlflow.read(path, name)
    if described.code and not trust_pickle:
        raise RefusedError(
            f"'{path}' brings code of its own ('{described.code}'), and loading it could run it.",
            where="MLmodel, code",
            mend="tow serve FOLDER --trust-pickle, if you made it yourself; better: log it without code_paths",
        )
    pickled: RefusedError | None = None
    for place in described.places:
        try:
            return mlflow.renamed(load_file(place, name=name, trust_pickle=trust_pickle), described.inputs)
        except RefusedError as fault:
            pickled = fault
        except FormatError as fault:
            if fault.what.startswith(f"'{place}' is a folder of"):  # the model is further within
                continue
            raise
    if pickled is None and described.python and trust_pickle:
        return mlflow.load_python(path, name, described)
    raise pickled or RefusedError(
        f"'{path}' is a Python function of MLflow, and loading one runs its code.",
        where="MLmodel, flavors",
        mend="tow serve FOLDER --trust-pickle, if you made it yourself; better: a flavour of a data-only format",
    )


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
    path = folder / (artefact.folder or artefact.file.path)
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
    if (engine := _engine(artefact.format)) is not None and not hasattr(module, "predict"):
        native: Model = engine(path, name=name, signature=manifest.signature, kind=kind)
        if manifest.serving.compile == "onnx":
            native = compiled_or_own(native, path, name)
        return native if module is None else WithFunctions(name, native, module, manifest.signature)
    trained = sklearn.settle(_object(manifest, path, name))
    written = (artefact.format, artefact.framework)
    objects = Objects(name, trained, manifest.signature, kind, written=written, module=module)
    if manifest.serving.compile == "onnx" and not hasattr(module, "predict"):
        return compiled_or_own(objects, path, name, trained=lambda: trained)
    return objects


def compile_file(model: Model, path: Path, *, name: str) -> Model:
    """The ONNX form of a bare file that `load_file` loaded, or what was loaded; see `compiled_or_own`.

    Args:
        model: As it was loaded.
        path: The file.
        name: For errors.

    Raises:
        ExtraError: The converter is not installed.
    """
    if sniff(path).format == "skops":
        return compiled_or_own(model, path, name, trained=lambda: sklearn.load_skops(path, name))
    return compiled_or_own(model, path, name)


def with_functions(manifest: Manifest, folder: Path, model: Model) -> Model:
    """A model that was loaded elsewhere, beside the functions of the version's ``model.py``.

    Raises:
        ModelError: The project's code failed while it was imported.
    """
    module = _module(manifest, folder)
    return model if module is None else WithFunctions(model.format, model, module, manifest.signature)


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


def left_of_on_demand(manifest: Manifest, folder: Path | None, why: str) -> tuple[OnDemand, ...]:
    """The on-demand features of a version that could not be loaded; one that does not load either gives nothing to any row.

    With them callers go on leaving out what is computed, and the fallback functions read it.

    Args:
        manifest: Whose signature was verified.
        folder: Holds the version's files; none where they could not be fetched.
        why: What became of the model.
    """
    if folder is not None:
        with contextlib.suppress(TowpathError, OSError):
            return load_on_demand(manifest, folder)

    def gives_nothing(*_: Any) -> Any:
        raise ModelError(why)

    return tuple(OnDemand(lock, gives_nothing) for lock in manifest.on_demand)


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
        function = getattr(module_at(code, lock.path, root=root), lock.view.rpartition("/")[2], None)
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
    code = f"from towpath.models.loading import try_here; try_here({format!r}, {str(path.resolve())!r}, {_TRIAL_CPU_S})"
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
    if tried.returncode == -signal.SIGXCPU:
        raise FormatError(f"'{path}' did not load within {_TRIAL_CPU_S} s of computing.", mend="write it again")
    if tried.returncode == _TOO_MUCH:
        raise FormatError(
            f"'{path}' declares more than it holds: loading it needs more than {_TRIAL_BYTES // 2**30 + 6 * size_of(path) // 2**30} GiB.",
            mend="a model file from a source that you trust",
        )
    if tried.returncode < 0:  # what it raises is raised again, better said, when we load it ourselves
        ended = signal.Signals(-tried.returncode).name
        raise FormatError(
            f"'{path}' is a damaged {format} model: reading it ended the process that tried it ({ended}).",
            mend="write it again",
        )


def try_here(format: str, path: str, cpu_s: int) -> None:  # noqa: A002 - as in the manifest
    """Load a bare file and answer one row, in the process that was started for it."""
    import resource

    most = _TRIAL_BYTES + 6 * size_of(Path(path))
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 10))
    try:
        engine = _engine(format)
        if engine is not None:
            engine(Path(path), name="trial")
    except MemoryError:
        raise SystemExit(_TOO_MUCH) from None
    except TowpathError as fault:
        if "alloc" in fault.what.lower() or "memory" in fault.what.lower():
            raise SystemExit(_TOO_MUCH) from None


def _engine(format: str) -> Any:  # noqa: A002 - as in the manifest
    """The class that loads a data-only format; none for the others."""
    if format in _LAZY:
        module, kind = _LAZY[format]
        return getattr(importlib.import_module(f"towpath.models.engines.{module}"), kind)
    return _NATIVE.get(format)


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
        case "pt2" | "torchscript" | "keras" | "savedmodel" | "huggingface":
            return _engine(artefact.format).opened(path, name)
        case other:
            raise FormatError(f"{name} is of the unknown format '{other}'.", mend="a newer towpath")

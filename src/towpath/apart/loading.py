"""Where a version is loaded: in this process, or in one of its own."""

import logging
import os
import sys
from collections.abc import Mapping
from math import ceil
from pathlib import Path

from towpath.apart.environments import interpreter
from towpath.apart.keeper import NotBegunError
from towpath.apart.model import Apart
from towpath.apart.remote import Remote
from towpath.apart.wire import Opening
from towpath.compute import kept_variables, mebibytes, thread_variables
from towpath.models import Model, load_version
from towpath.models.loading import with_functions
from towpath.models.manifest import Manifest
from towpath.project.locks import LOCKS

__all__ = ["PICKLES", "is_apart", "open_file", "open_version", "with_lock"]

_log = logging.getLogger("towpath.apart")
PICKLES = frozenset({"pickle", "joblib", "mlflow"})
"""Formats whose loading may run what the file says; of MLflow only where the user trusts it, else a flavour of data is read."""
_ALSO_KEPT = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")


def is_apart(manifest: Manifest) -> bool:
    """Whether the version runs in a process of its own: it asks for it, has a lock of its own, or is a pickle."""
    asked = manifest.serving.isolation == "process"
    return asked or manifest.artefact.format in PICKLES or with_lock(manifest) is not None


def with_lock(manifest: Manifest) -> str | None:
    """The name of the lock that the version carries; None where it runs in our environment."""
    there = {file.path for file in manifest.files}
    return next((name for name in LOCKS if name in there), None)


def open_version(
    manifest: Manifest,
    folder: Path,
    *,
    environments: Path,
    own_s: float | None = None,
    spare: bool = False,
    variables: Mapping[str, str] | None = None,
) -> Model:
    """Load a version where it belongs; whoever asks closes it.

    Args:
        manifest: Whose signature was verified.
        folder: Holds the version's files; their digests were verified.
        environments: Folder of the environments that locks describe.
        own_s: What a call may take by the model's own declaration; None for as long as it takes.
        spare: Whether a second process waits to take over.
        variables: Where the values of its declared variables come from; `os.environ` unless given.

    Raises:
        TowpathError: What `load_version` raises, wherever it runs.
        FormatError: Reading it ended its process.
        ProjectError: Its lock cannot be used.
        ResourceError: Its environment could not be built.
        ExtraError: It needs an environment and there is no uv.
    """
    if manifest.artefact.format == "remote":
        return _remote(manifest, folder, own_s, variables)
    if not is_apart(manifest):
        return load_version(manifest, folder)
    there = os.environ if variables is None else variables
    memory = manifest.resources.memory
    name = f"{manifest.model}@{manifest.version}"
    lock = with_lock(manifest)

    def opened(python: str) -> Apart:
        return Apart(
            Opening(name=name, manifest=manifest, path=str(folder.resolve())),
            python=python,
            variables=_variables(there, manifest.variables, ceil(manifest.resources.cpu or 1)),
            own_s=own_s,
            memory_mib=None if memory is None else mebibytes(memory),
            spare=spare,
            functions=any(link.function is not None for link in manifest.fallback),
            prints=manifest.journal != "none",
        )

    if lock is None:
        return opened(sys.executable)
    wrote = manifest.environment.python if manifest.environment is not None else ""
    version = ".".join(wrote.split(".")[:2])
    python = interpreter(folder / lock, environments, python=version, who=name)
    try:
        return opened(python)
    except NotBegunError as error:
        _log.warning("%s: its environment is damaged and is built again (%s)", name, error.what)
        return opened(interpreter(folder / lock, environments, python=version, who=name, again=True))


def _remote(manifest: Manifest, folder: Path, own_s: float | None, variables: Mapping[str, str] | None) -> Model:
    """A model of another server, beside the functions of its ``model.py``."""
    model = Remote(
        folder / manifest.artefact.file.path,
        name=f"{manifest.model}@{manifest.version}",
        signature=manifest.signature,
        kind=manifest.output.kind,
        own_s=own_s,
        variables=variables,
    )
    return with_functions(manifest, folder, model)


def open_file(path: Path, *, name: str, own_s: float) -> Apart:
    """Load a bare pickle that the user trusts, in a process without any variable of ours.

    Args:
        path: The file or MLflow folder; its format was told from its bytes.
        name: What the model is called in errors.
        own_s: What a call may take.

    Raises:
        TowpathError: What `load_file` raises, from there.
        FormatError: Reading it ended the process.
    """
    return Apart(
        Opening(name=name, path=str(path.resolve())),
        python=sys.executable,
        variables=_variables(os.environ, (), 1),
        own_s=own_s,
    )


def _variables(there: Mapping[str, str], named: tuple[str, ...], threads: int) -> dict[str, str]:
    """All that its process sees: where programs and homes are, how many threads, and what ``model.toml`` names."""
    kept = kept_variables() | {name: os.environ[name] for name in _ALSO_KEPT if name in os.environ}
    given = {name: os.environ.get(name, count) for name, count in thread_variables(threads).items()}
    return kept | given | {name: there[name] for name in named if name in there}

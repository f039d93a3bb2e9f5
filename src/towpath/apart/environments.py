"""Environments of models that have a lock of their own: built by uv once a machine, kept by the digest of the lock."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from towpath import errors
from towpath.errors import ExtraError, ProjectError, ResourceError
from towpath.project.locks import MEND, lacking

__all__ = ["arguments", "find_uv", "interpreter", "packages"]

_log = logging.getLogger("towpath.apart")
_BUILD_S = 1_800
_MARK = "towpath.lock"
"""Written last: an environment without it is not whole."""


def find_uv() -> str:
    """The program that builds environments.

    Raises:
        ExtraError: It is not installed.
    """
    found = shutil.which("uv")
    if found is None:
        raise ExtraError("A model with a lock of its own needs uv, which is not installed.", mend="pip install uv")
    return found


def interpreter(
    lock: Path, cache: Path, *, python: str = "", who: str, training: bool = False, again: bool = False
) -> str:
    """The interpreter of the environment that a lock describes; built where it is not there yet.

    Two processes that ask at once build once. What is there was built whole: it is made beside and renamed.

    Args:
        lock: ``requirements.lock`` (with hashes) or ``pylock.toml``.
        cache: Folder of all environments.
        python: Version such as ``3.11``; ours unless given.
        who: For the log and errors, such as ``demand@3``.
        training: Whether a model shall be trained in it, too.
        again: Whether to throw away what is there.

    Raises:
        ProjectError: The lock lacks hashes or a package that the process needs.
        ExtraError: There is no uv.
        ResourceError: It could not be built; holds what uv said.
    """
    data = lock.read_bytes()
    wrong = lacking(lock.name, data, training=training)
    if wrong:
        raise ProjectError(
            f"The lock of {who} cannot be used: {wrong}.",
            lock.name,
            MEND,
        )
    version = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(data + version.encode() + lock.suffix.encode()).hexdigest()[:32]
    folder = cache.resolve() / key
    found = folder / "bin" / "python"
    if not again and _whole(folder):
        return str(found)
    uv = find_uv()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{key}.building").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not again and _whole(folder):
            return str(found)
        started = time.monotonic()
        _log.info("%s: building its environment from %s", who, lock.name)
        beside = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=cache))
        try:
            _build(uv, beside, lock, version, who)
            (beside / _MARK).write_bytes(data)
            if folder.exists():
                folder.rename(beside.with_suffix(".old"))
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(beside.with_suffix(".old"), ignore_errors=True)
        _log.info("%s: its environment was built in %.1f s", who, time.monotonic() - started)
    return str(found)


def arguments(python: str, code: str, folder: Path) -> list[str]:
    """The command that runs code of ours in another environment: it gets our package, and nothing that is installed beside it.

    Args:
        python: Of `interpreter`, or our own.
        code: A line of Python that imports from ``towpath``.
        folder: Empty, and there as long as the process.
    """
    (folder / "towpath").symlink_to(Path(errors.__file__).parent)
    return [python, "-I", "-u", "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"]


def packages(python: str) -> dict[str, str]:
    """Distribution → version in the environment of an interpreter, by name."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - of `interpreter`
    return dict(sorted(json.loads(done.stdout).items(), key=lambda item: item[0].lower()))


def _whole(folder: Path) -> bool:
    python = folder / "bin" / "python"
    return (folder / _MARK).is_file() and os.access(python, os.X_OK)


def _build(uv: str, folder: Path, lock: Path, version: str, who: str) -> None:
    """An empty environment, and into it exactly what the lock says: wheels alone, for a source may run anything."""
    steps = (
        [uv, "venv", "--quiet", "--no-project", "--clear", "--relocatable", "--python", version, str(folder)],
        [
            uv, "pip", "sync", "--quiet", "--require-hashes", "--no-build", "--python", str(folder / "bin" / "python"), str(lock),
        ],
    )  # fmt: skip
    variables = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    for step in steps:
        try:
            done = subprocess.run(  # noqa: S603 - uv itself, with words of ours
                step, capture_output=True, text=True, check=False, timeout=_BUILD_S, cwd=folder, env=variables
            )
        except subprocess.TimeoutExpired:
            raise ResourceError(f"The environment of {who} was not built within {_BUILD_S} s.", lock.name) from None
        if done.returncode:
            said = " ".join(line.strip() for line in done.stderr.strip().splitlines()[-6:])
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
            raise ResourceError(
                f"The environment of {who} could not be built: {said[:600]}",
                lock.name,
                "run it yourself: uv pip sync --require-hashes --no-build " + lock.name,
            )

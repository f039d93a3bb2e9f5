"""Versions: numbered by a create-only claim, whole once their signed manifest stands, fetched by digest."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from towpath.errors import ConflictError, FormatError, RefusedError, UnknownError, nearest
from towpath.gate.verdict import Verdict
from towpath.models.manifest import Manifest, StoredFile
from towpath.registry.claims import owner
from towpath.registry.signing import Signer, Trusted
from towpath.registry.stored import decode, digest_of, digest_of_file, encode, put_once
from towpath.stores.objects import Objects

__all__ = [
    "VersionClaim",
    "fetch",
    "manifest",
    "next_version",
    "publish",
    "read_file",
    "put_verdict",
    "verdicts",
    "version_folder",
    "versions",
]

_MANIFEST = "manifest.json"
_SEAL = ".sig"


class VersionClaim(msgspec.Struct, frozen=True, kw_only=True):
    """``models/<name>/versions/000017/claim.json``: which run the number was given to."""

    schema: int = 1
    run_id: str


def version_folder(model: str, version: int) -> str:
    """Where a version lies in the object store.

    Example:
        >>> version_folder("demand", 17)
        'models/demand/versions/000017'
    """
    return f"models/{model}/versions/{version:06d}"


def next_version(objects: Objects, model: str, *, run_id: str) -> int:
    """Take the next free version number of a model; no two runs ever get the same one.

    A run that dies afterwards leaves a gap in the numbers, never half a version.

    Args:
        objects: The fleet's store.
        model: A claimed model name.
        run_id: The run that asks; unique.
    """
    taken = [int(name) for name in objects.folders(f"models/{model}/versions/") if name.isdigit()]
    number = max(taken, default=0) + 1
    data = encode(VersionClaim(run_id=run_id))
    while True:
        try:
            put_once(objects, f"{version_folder(model, number)}/claim.json", data)
        except ConflictError:
            number += 1
        else:
            return number


def publish(objects: Objects, manifest: Manifest, files: Mapping[str, bytes | Path], signer: Signer) -> Manifest:
    """Store a version: its files, then the signature, and last the manifest that makes it whole.

    Safe to run again after a crash: what stands already with the same bytes is no conflict.

    Args:
        objects: The fleet's store.
        manifest: Complete but for the digests and sizes, which are taken from `files`.
        files: Path in the version → bytes, or the file that holds them; ``manifest.artefact.file.path`` is among them.
        signer: Whose signature servers will check.

    Returns:
        The manifest as it was stored.

    Raises:
        RefusedError: The model's name belongs to another project.
        UnknownError: The name is not claimed, or the number was not given out by `next_version`.
        ConflictError: The version is published already, with other bytes.
        FormatError: The artefact is not among the files, or a path leads out of the version.
    """
    claim = owner(objects, manifest.model)
    if claim.project != manifest.project:
        raise RefusedError(
            f"'{manifest.model}' belongs to project '{claim.project}' of team '{claim.team}'; "
            f"'{manifest.project}' cannot publish a version of it.",
            f"models/{manifest.model}/claim.json",
            "choose another model name",
        )
    folder = version_folder(manifest.model, manifest.version)
    if not objects.exists(f"{folder}/claim.json"):
        raise UnknownError(f"Nobody took the number of {manifest.model}@{manifest.version}.", folder, "next_version")
    artefact = manifest.artefact.file.path
    if artefact not in files:
        raise FormatError(f"The artefact '{artefact}' is not among the files{nearest(artefact, files)}", folder)
    stored = {path: _put_file(objects, folder, path, content) for path, content in files.items()}
    whole = msgspec.structs.replace(
        manifest,
        artefact=msgspec.structs.replace(manifest.artefact, file=stored[artefact]),
        files=tuple(file for path, file in sorted(stored.items()) if path != artefact),
    )
    data = encode(whole)
    put_once(objects, f"{folder}/{_MANIFEST}{_SEAL}", signer.seal(data))
    put_once(objects, f"{folder}/{_MANIFEST}", data)
    return whole


def manifest(objects: Objects, model: str, version: int, trusted: Trusted | None) -> Manifest:
    """Read a version's manifest and check who signed it.

    Args:
        objects: The fleet's store.
        model: Its name.
        version: Its number.
        trusted: Whose signatures count; None only to look at a version, never to load or promote it.

    Raises:
        UnknownError: There is no such version, or its training never finished.
        RefusedError: The signature is missing, not trusted or does not fit, or the manifest belongs elsewhere.
    """
    path = f"{version_folder(model, version)}/{_MANIFEST}"
    try:
        data = objects.get(path)
    except UnknownError:
        owner(objects, model)  # a misspelt model is told from a missing version
        known = versions(objects, model)
        raise UnknownError(
            f"There is no version {model}@{version}; there are: {', '.join(map(str, known)) or 'none'}.",
            objects.url,
            f"tow show {model}",
        ) from None
    if trusted is not None:
        _verify(objects, path, data, trusted)
    found = decode(data, Manifest, path)
    if (found.model, found.version) != (model, version):
        raise RefusedError(
            f"'{path}' is the manifest of {found.model}@{found.version}, not of {model}@{version}.",
            path,
            "find out who wrote to the store",
        )
    return found


def versions(objects: Objects, model: str) -> list[int]:
    """Numbers of the whole versions of a model, ascending; a number that a crashed run left behind is not among them."""
    depth = version_folder(model, 1).count("/") + 1
    return sorted(
        int(path.split("/")[-2])
        for path in objects.paths(f"models/{model}/versions/")
        if path.endswith("/" + _MANIFEST) and path.count("/") == depth
    )


def fetch(objects: Objects, manifest: Manifest, into: Path) -> Path:
    """Bring a version's files into a local cache, checked against the digests of its manifest.

    Many processes may share a cache: a folder appears whole or not at all, and what is there is checked again. One that
    lacks a file, or has one that is altered, a link, or not of the version, is fetched anew.

    Args:
        objects: The fleet's store.
        manifest: As `manifest` gave it, signature checked.
        into: The cache.

    Returns:
        The folder that holds exactly the version's files.

    Raises:
        RefusedError: A stored file differs from the manifest; the text says which and how.
        UnknownError: A file is gone.
    """
    files = (manifest.artefact.file, *manifest.files)
    name = digest_of("\n".join(f"{file.digest} {file.path}" for file in files).encode())[7:23]
    folder = into / f"{manifest.model}@{manifest.version}-{name}"
    if folder.is_dir():
        if _names_in(folder) == {file.path for file in files} and all(_is_whole(folder, file) for file in files):
            return folder
        # Altered on this machine's disk: moved aside in one step, so that nobody loads half of it. A file too many counts,
        # for what lies in a framework's folder is what the framework reads.
        _discard(folder)
    draft = into / f".{folder.name}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        for file in files:
            data = _as_signed(objects, manifest, file)
            target = draft / _inside(file.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        try:
            draft.rename(folder)
        except OSError:  # another process was quicker; its folder was checked as ours was
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def put_verdict(objects: Objects, verdict: Verdict, signer: Signer) -> str:
    """Store a verdict beside its version, signed, under the next free number.

    Returns:
        The path, by which a promotion names it.
    """
    folder = f"{version_folder(verdict.model, verdict.version)}/verdicts"
    data = encode(verdict)
    seal = signer.seal(data)
    number = 1 + max((int(PurePosixPath(path).name[:6]) for path in objects.paths(folder + "/")), default=0)
    while True:
        path = f"{folder}/{number:06d}.json"
        try:
            # The signature takes the number, so that of two gates that race one moves on.
            objects.put_new(path + _SEAL, seal)
        except ConflictError:
            number += 1
        else:
            put_once(objects, path, data)
            return path


def verdicts(objects: Objects, model: str, version: int, trusted: Trusted | None) -> dict[str, Verdict]:
    """All verdicts on a version, path → verdict, the newest last.

    Args:
        objects: The fleet's store.
        model: Its name.
        version: Its number.
        trusted: Whose signatures count; None only to look.

    Raises:
        RefusedError: A verdict was tampered with, is not signed by a trusted key, or belongs to another version.
    """
    found: dict[str, Verdict] = {}
    for path in objects.paths(f"{version_folder(model, version)}/verdicts/"):
        if not path.endswith(".json"):
            continue
        data = objects.get(path)
        if trusted is not None:
            _verify(objects, path, data, trusted)
        verdict = decode(data, Verdict, path)
        if (verdict.model, verdict.version) != (model, version):
            raise RefusedError(
                f"'{path}' is the verdict on {verdict.model}@{verdict.version}, not on {model}@{version}.",
                path,
                "find out who wrote to the store",
            )
        found[path] = verdict
    return found


def _put_file(objects: Objects, folder: str, path: str, content: bytes | Path) -> StoredFile:
    data = content if isinstance(content, bytes) else content.read_bytes()
    put_once(objects, f"{folder}/{_inside(path)}", data)
    return StoredFile(path=path, digest=digest_of(data), size_bytes=len(data))


def _verify(objects: Objects, path: str, data: bytes, trusted: Trusted) -> None:
    try:
        seal = objects.get(path + _SEAL)
    except UnknownError:
        raise RefusedError(
            f"'{path}' is not signed: '{path}{_SEAL}' is missing.", objects.url, "publish the version again"
        ) from None
    trusted.verify(data, seal, path)


def read_file(objects: Objects, manifest: Manifest, path: str) -> bytes:
    """One file of a version, checked against the digest of its manifest.

    Args:
        objects: The fleet's store.
        manifest: As `manifest` gave it, signature checked.
        path: Of the file within the version, such as ``code.zip``.

    Raises:
        RefusedError: The stored file differs from the manifest.
        UnknownError: The version has no such file, or it is gone.
    """
    for file in manifest.files:
        if file.path == path:
            return _as_signed(objects, manifest, file)
    raise UnknownError(f"{manifest.model}@{manifest.version} has no file '{path}'.", objects.url)


def _as_signed(objects: Objects, manifest: Manifest, file: StoredFile) -> bytes:
    path = f"{version_folder(manifest.model, manifest.version)}/{file.path}"
    data = objects.get(path)
    if len(data) != file.size_bytes or digest_of(data) != file.digest:
        raise RefusedError(
            f"'{file.path}' of {manifest.model}@{manifest.version} is not what was signed: "
            f"{file.size_bytes} bytes {file.digest[:19]}… in the manifest, "
            f"{len(data)} bytes {digest_of(data)[:19]}… in the store.",
            path,
            "do not serve it; restore the object, or find out who wrote to the store",
        )
    return data


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or pure.as_posix() != path:
        raise FormatError(f"'{path}' leads out of the version's folder.", path, "a plain relative path")
    if path in {_MANIFEST, _MANIFEST + _SEAL, "claim.json"} or pure.parts[0] == "verdicts":
        raise FormatError(f"'{path}' is a name that the registry writes itself.", path, "another file name")
    return path


def _is_whole(folder: Path, file: StoredFile) -> bool:
    path = folder / _inside(file.path)
    return path.is_file() and path.stat().st_size == file.size_bytes and digest_of_file(path) == file.digest


def _names_in(folder: Path) -> set[str]:
    """Paths of all files; of a link with a mark that no file of a version has, also where it leads to a folder."""
    found: set[str] = set()
    for place, folders, names in os.walk(folder):
        paths = [Path(place, name) for name in names] + [Path(place, name) for name in folders]
        found |= {
            path.relative_to(folder).as_posix() + ("\\" if path.is_symlink() else "")
            for path in paths
            if path.is_symlink() or not path.is_dir()
        }
    return found


def _discard(folder: Path) -> None:
    aside = folder.with_name(f".{folder.name}.damaged.{os.getpid()}.{os.urandom(4).hex()}")
    with contextlib.suppress(FileNotFoundError):  # another process was quicker
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)

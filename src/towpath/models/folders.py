"""A folder as an artefact: which files it holds, within limits, and with no way out of it."""

import hashlib
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from towpath.errors import FormatError

__all__ = ["digest_of", "files_of", "size_of", "zip_entries"]

_MOST_FILES = 2_000
_MOST_DEEP = 12
_ZIP_RATIO = 200
_ZIP_SMALL_BYTES = 2**26
_ZIP_BYTES = 64 * 2**30
_ZIP_ENTRIES = 20_000


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a folder.

    Args:
        folder: Where a framework wrote a model.

    Returns:
        Path within the folder (``/`` between parts) → the file, in the order of the paths.

    Raises:
        FormatError: It is empty, holds more than 2,000 files or folders 12 deep, a device, or a link that leads out of it.
    """
    root = folder.resolve()
    found: dict[str, Path] = {}
    waiting = [root]
    while waiting:
        here = waiting.pop()
        if len(here.relative_to(root).parts) > _MOST_DEEP:
            raise FormatError(f"'{folder}' has folders more than {_MOST_DEEP} deep.", mend="a folder with one model")
        for path in here.iterdir():
            target = path.resolve()
            if target != root and root not in target.parents:
                raise FormatError(
                    f"'{folder}' holds a link that leads out of it: '{path.relative_to(root)}' is '{path.readlink()}'.",
                    mend=f"cp -rL '{folder}' COPY, where you trust what it points to",
                )
            if path.is_symlink() and target.is_dir():
                raise FormatError(f"'{folder}' holds a link to a folder: '{path.relative_to(root)}'.", mend="cp -rL")
            if path.is_dir():
                waiting.append(path)
                continue
            if not target.is_file() or not stat.S_ISREG(target.stat().st_mode):
                raise FormatError(f"'{folder}' holds '{path.relative_to(root)}', which is no file.", mend="remove it")
            found[path.relative_to(root).as_posix()] = path
            if len(found) > _MOST_FILES:
                raise FormatError(f"'{folder}' holds more than {_MOST_FILES:,} files.", mend="a folder with one model")
    if not found:
        raise FormatError(f"'{folder}' is an empty folder.", mend="the folder that a framework wrote a model into")
    return dict(sorted(found.items()))


def digest_of(path: Path) -> str:
    """One digest of a file, or of a folder: of the digests and names of its files.

    Raises:
        FormatError: As `files_of`.
    """
    if not path.is_dir():
        return f"sha256:{_hashed(path)}"
    lines = "".join(f"{_hashed(file)} {name}\n" for name, file in files_of(path).items())
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return path.stat().st_size if not path.is_dir() else sum(file.stat().st_size for file in files_of(path).values())


def zip_entries(path: Path, what: str) -> Sequence[zipfile.ZipInfo]:
    """What a zip says that it holds, unread.

    Args:
        path: The zip.
        what: For the error, such as ``zip archive (skops, Keras or PyTorch)``.

    Raises:
        FormatError: It is damaged, a bomb (by ratio, size or number of entries), or an entry leads out of it.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as fault:
        raise FormatError(
            f"'{path}' begins like a {what} and is damaged or cut off: {fault}.", mend="write it again"
        ) from None
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _ZIP_BYTES or (unpacked > _ZIP_SMALL_BYTES and unpacked > size * _ZIP_RATIO):
        raise FormatError(
            f"'{path}' is a zip of {size:,} bytes that unpacks to {unpacked:,}: a zip bomb.",
            mend="a model file from a source that you trust",
        )
    if len(entries) > _ZIP_ENTRIES:
        raise FormatError(
            f"'{path}' is a zip of {len(entries):,} entries (limit {_ZIP_ENTRIES:,}): a zip bomb.",
            mend="a model file from a source that you trust",
        )
    names: set[str] = set()
    for entry in entries:
        place = PurePosixPath(entry.filename)
        linked = stat.S_ISLNK(entry.external_attr >> 16)
        if place.is_absolute() or ".." in place.parts or "\\" in entry.filename or linked:
            raise FormatError(
                f"'{path}' is a zip whose entry '{entry.filename}' leads out of it; nothing of it was read.",
                mend="a model file from a source that you trust",
            )
        if entry.filename in names:
            raise FormatError(f"'{path}' is a zip with two entries '{entry.filename}'.", mend="write it again")
        names.add(entry.filename)
    return entries


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

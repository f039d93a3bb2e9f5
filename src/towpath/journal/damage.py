"""Files of the journal that cannot be read: found, named, left out of their day, and taken back once they are whole."""

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import msgspec

from towpath.clock import Clock
from towpath.errors import RefusedError, TowpathError, UnknownError, nearest
from towpath.journal.days import ROOT, damaged, follow, newest, read_file, rows_or_fault
from towpath.journal.record import DayManifest, LeftOut
from towpath.stores.objects import Objects

__all__ = ["Suspect", "examine", "explanation", "leave_out", "take_back"]

_READERS = 8
_SUFFIX = ".parquet"


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the journal that does not count, or that stops whoever reads its day."""

    table: str
    day: str
    path: str
    state: Literal["damaged", "left out", "unnamed"]
    """``unnamed``: it lies in the day's folder, and the day does not name it; a flusher may be about to."""
    rows: int | None
    """How many it holds, as the day's manifest counts; null where several of a day are damaged."""
    detail: str
    mend: str


def explanation(objects: Objects, files: Sequence[str]) -> Callable[[str], TowpathError | None]:
    """What an engine asks when it cannot answer: is it one of the files?

    Args:
        objects: Where the journal lies.
        files: What the engine reads.

    Returns:
        Takes the engine's words, which may name a file; gives the error that names the damaged one, if there is one.
    """

    def ask(said: str) -> TowpathError | None:
        named = [file for file in files if file in said]
        return next((damaged(objects, path, found) for path, found in _faults(objects, named or files)), None)

    return ask


def examine(objects: Objects) -> list[Suspect]:
    """Read every file of every day whole, page by page with its checksums; gives those that are not as they should be.

    Raises:
        FormatError: A day's manifest cannot be read.
        UnavailableError: The store cannot be read.
    """
    found: list[Suspect] = []
    for table, day in _days(objects):
        manifest = newest(objects, table, day)
        if manifest is None:
            continue
        for path, fault in _faults(objects, manifest.files):
            mend = f"put it back from a backup, or tow journal leave-out '{path}' --because '…'"
            found.append(_suspect(manifest, path, "damaged", _lost(objects, manifest, path), fault, mend))
        for path, left in manifest.left_out.items():
            why = f"by {left.by} on {left.at:%Y-%m-%d %H:%M}: {left.because}"
            found.append(_suspect(manifest, path, "left out", left.rows, why, f"tow journal take-back '{path}'"))
        known = {*manifest.files, *manifest.left_out, *manifest.replaced}
        for path in objects.paths(f"{ROOT}/{table}/{day}/"):
            if path.endswith(_SUFFIX) and path not in known:
                mend = f"tow journal take-back '{path}', if no flusher is at work"
                found.append(_suspect(manifest, path, "unnamed", None, "the day does not name it", mend))
    return found


def leave_out(objects: Objects, path: str, *, because: str, by: str, clock: Clock) -> LeftOut:
    """Let a day be read without one of its files; the object stays where it is, and the manifest says who, when and why.

    Args:
        objects: Where the journal lies.
        path: Of the object, as the error named it.
        because: Why; kept for ever.
        by: Who.
        clock: Dates the manifest.

    Raises:
        UnknownError: No day names such a file.
        RefusedError: It can be read: what was said is not taken out of history.
    """
    manifest = _manifest_of(objects, path)
    if path in manifest.left_out:
        return manifest.left_out[path]
    if path not in manifest.files:
        raise UnknownError(
            f"The day names no file '{path}'{nearest(path, manifest.files)}", objects.url, "tow journal check"
        )
    if not any(_faults(objects, [path])):
        raise RefusedError(
            f"'{path}' was not left out: it can be read, and what was said stays.", objects.url, "tow journal check"
        )
    left = LeftOut(at=clock.now(), by=by, because=because, rows=_lost(objects, manifest, path))

    def without(before: DayManifest) -> DayManifest:
        files = tuple(file for file in before.files if file != path)
        rows = before.rows - (left.rows or 0)
        return msgspec.structs.replace(before, files=files, rows=rows, left_out=before.left_out | {path: left})

    follow(objects, manifest, without, clock=clock)
    return left


def take_back(objects: Objects, path: str, *, clock: Clock) -> int:
    """Name a file in its day again, now that it is whole; gives its rows.

    Args:
        objects: Where the journal lies.
        path: Of the object, as `examine` or the error named it.
        clock: Dates the manifest.

    Raises:
        FormatError: It still cannot be read.
        RefusedError: The day names it already, or a larger file holds its rows.
        UnknownError: There is no such object.
    """
    manifest = _manifest_of(objects, path)
    name = path.rsplit("/", 1)[-1]
    if path in manifest.files:
        raise RefusedError(f"'{path}' is named by its day already.", objects.url, "tow journal check")
    if path in manifest.replaced or ("-merged" in name and path not in manifest.left_out):
        raise RefusedError(
            f"'{path}' was not taken back: its rows may stand in another file too.", objects.url, "tow journal check"
        )
    rows = read_file(objects, path).num_rows

    def with_it(before: DayManifest) -> DayManifest:
        left = {file: one for file, one in before.left_out.items() if file != path}
        return msgspec.structs.replace(before, files=(*before.files, path), rows=before.rows + rows, left_out=left)

    follow(objects, manifest, with_it, clock=clock)
    return rows


def _faults(objects: Objects, files: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The damaged ones, each with what is the matter."""

    def fault(path: str) -> str | None:
        found = rows_or_fault(objects, path)
        return found if isinstance(found, str) else None

    with ThreadPoolExecutor(_READERS) as readers:
        for path, found in zip(files, readers.map(fault, files), strict=True):
            if found is not None:
                yield path, found


def _lost(objects: Objects, manifest: DayManifest, path: str) -> int | None:
    """The rows of one file: those of the day that no other file has; null where another one is damaged too."""
    import pyarrow.parquet as pq

    others = 0
    for file in manifest.files:
        if file == path:
            continue
        try:
            others += pq.ParquetFile(io.BytesIO(objects.get(file))).metadata.num_rows
        except (UnknownError, ValueError, OSError):
            return None
    return max(manifest.rows - others, 0)


def _days(objects: Objects) -> list[tuple[str, str]]:
    """Table and day of every manifest."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in objects.paths(f"{ROOT}/"):
        table, slash, _ = path.removeprefix(f"{ROOT}/").rpartition("/manifests/")
        if slash:
            name, _, day = table.rpartition("/")
            found[name].add(day)
    return [(table, day) for table in sorted(found) for day in sorted(found[table])]


def _manifest_of(objects: Objects, path: str) -> DayManifest:
    folder, _, name = path.rpartition("/")
    table, _, day = folder.removeprefix(f"{ROOT}/").rpartition("/")
    manifest = newest(objects, table, day) if table and folder.startswith(f"{ROOT}/") else None
    if manifest is None or not name.endswith(_SUFFIX):
        raise UnknownError(
            f"'{path}' is no file of the journal.", objects.url, "tow journal check names them: journal/<table>/<day>/…"
        )
    return manifest


def _suspect(
    manifest: DayManifest,
    path: str,
    state: Literal["damaged", "left out", "unnamed"],
    rows: int | None,
    detail: str,
    mend: str,
) -> Suspect:
    return Suspect(table=manifest.table, day=manifest.day, path=path, state=state, rows=rows, detail=detail, mend=mend)

"""A day of a table is the set of files that its newest manifest names; no reader globs."""

import hashlib
import io
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.clock import Clock
from towpath.errors import ConflictError, FormatError, UnknownError
from towpath.journal.record import SCHEMA, DayManifest, Run
from towpath.journal.unfold import by_day, conform, schema_of
from towpath.stores.objects import Objects

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ROOT",
    "add",
    "compact",
    "damaged",
    "day_column",
    "day_files",
    "expire",
    "follow",
    "landing",
    "newest",
    "put_file",
    "read_file",
    "rows_of",
    "rows_or_fault",
    "source",
    "write_rows",
    "write_run",
]

_log = logging.getLogger("towpath.journal")
ROOT = "journal"
_GROUP_FILES = 60
_PARQUET = b"PAR1"
_LEVELS = 4
_KEPT_MANIFESTS = 20
_READERS = 16
_GRACE = timedelta(hours=1)
_MERGED = re.compile(r"-merged(\d)-[0-9a-f]{16}$")
_DAY_OF = {"predictions": "predicted_at", "outcomes": "happened_at", "runs": "started_at", "landing": "arrived_at"}


def landing(project: str, view: str) -> str:
    """The table of the journal that holds the pushed rows of one view."""
    return f"landing/{project}/{view}"


def day_column(table: str) -> str:
    """The time by which the rows of a table are split into days."""
    return _DAY_OF[table.partition("/")[0]]


def write_rows(objects: Objects, table: str, data: "pa.Table", *, name: str, clock: Clock) -> int:
    """Write rows straight to the store, as the batch path does; the same name again changes nothing.

    Args:
        objects: Where the journal lies.
        table: ``predictions``, ``outcomes`` or ``runs``.
        data: Columns of that table, any missing one is null.
        name: What makes these rows these rows, such as the run's id; names the files.
        clock: Dates the manifests.

    Returns:
        The number of rows.

    Raises:
        InputError: A column does not fit.
        UnavailableError: The store cannot be written; call again with the same name.
    """
    days = by_day(conform(data, table), day_column(table))
    for day, rows in days.items():
        put_file(objects, table, day, name, rows)
    for day, rows in days.items():
        add(objects, table, day, {_path(table, day, name): rows.num_rows}, clock=clock)
    return data.num_rows


def write_run(objects: Objects, run: Run, *, clock: Clock) -> None:
    """Write down that a run started, and again how it ended; its rows count once it is *done*.

    Args:
        objects: Where the journal lies.
        run: As it stands now.
        clock: Dates the manifests.

    Raises:
        UnavailableError: The store cannot be written.
    """
    import pyarrow as pa

    fields = msgspec.structs.asdict(run)
    data = pa.table({name: [value] for name, value in fields.items()}, schema=schema_of("runs"))
    write_rows(objects, "runs", data, name=f"{run.run_id}-{run.status}", clock=clock)


def put_file(objects: Objects, table: str, day: str, name: str, data: "pa.Table") -> str:
    """Write one Parquet file under its deterministic name; where it exists already, it is the same and stays."""
    import pyarrow.parquet as pq

    path = _path(table, day, name)
    buffer = io.BytesIO()
    pq.write_table(data, buffer, compression="zstd", write_page_checksum=True)
    try:
        objects.put_new(path, buffer.getvalue())
    except ConflictError:  # an earlier attempt got this far
        return path
    return path


def add(objects: Objects, table: str, day: str, files: Mapping[str, int], *, clock: Clock) -> DayManifest:
    """Name more files as part of a day, whoever else does the same at this moment.

    Args:
        objects: Where the journal lies.
        table: Of the journal.
        day: ``2026-01-05``.
        files: Path → rows; those that the day already names are left as they are.
        clock: Dates the manifest.

    Returns:
        The newest manifest, which names all of `files`.
    """
    while True:
        current = newest(objects, table, day)
        old = {*current.files, *current.left_out} if current else set[str]()
        new = [path for path in files if path not in old]
        if current and not new:
            return current
        before = current or DayManifest(table=table, day=day, revision=0, files=(), rows=0, written_at=clock.now())
        _follow(
            objects,
            before,
            files=(*before.files, *new),
            rows=before.rows + sum(files[path] for path in new),
            written_at=clock.now(),
        )


def compact(objects: Objects, table: str, day: str, *, owner: str, keep: Collection[str], clock: Clock) -> int:
    """Make one larger file of many small ones, so that a day of flushes is some files and not thousands.

    Only the flusher that wrote the small files may do so, while no other flusher of its folder is at work: what `keep`
    does not name will never be added again, and so cannot come back beside the larger file.

    Args:
        objects: Where the journal lies.
        table: Of the journal.
        day: ``2026-01-05``.
        owner: Begins the names of this flusher's files.
        keep: Names that may be added again; they are left as they are.
        clock: Dates the manifest and ends the grace of what was replaced.

    Returns:
        How many files were replaced.
    """
    current = newest(objects, table, day)
    small = [
        path
        for path in (current.files if current else ())
        if (name := _name(path)).startswith(f"{owner}-") and name not in keep
    ]
    # Merged files are merged again with their like, so that a row is rewritten once for each power of the group.
    for level in range(_LEVELS):
        group = [path for path in small if _level(_name(path)) == level]
        if current is None or len(group) < _GROUP_FILES:
            continue
        try:
            merged = rows_of(objects, table, group)
        except FormatError as error:  # the rows of the others are read as they are; whoever reads this day is told
            _log.error("journal: %s of %s is not made one file: %s", table, day, error.what)
            continue
        digest = hashlib.sha256("\n".join(group).encode()).hexdigest()[:16]
        path = put_file(objects, table, day, f"{owner}-merged{level + 1}-{digest}", merged)
        while not _replace(objects, current, group, path, clock):
            current = newest(objects, table, day) or current
        return len(group)
    return 0


def expire(objects: Objects, table: str, *, before: datetime, clock: Clock) -> int:
    """Take days that had ended before a moment out of a table. Readers lose them at once, the files go after their grace.

    Args:
        objects: Where the journal lies.
        table: Of the journal.
        before: Days that end at or before it go.
        clock: Dates the manifests and ends the grace.

    Returns:
        How many rows went.

    Raises:
        UnavailableError: The store cannot be written; call again.
    """
    rows = 0
    for day in objects.folders(f"{ROOT}/{table}/"):
        if datetime.fromisoformat(f"{day}T00:00+00:00") + timedelta(days=1) > before:
            continue
        current = newest(objects, table, day)
        while current is not None and (current.files or current.left_out):
            now = clock.now()
            replaced = current.replaced | dict.fromkeys((*current.files, *current.left_out), now)
            if _follow(objects, current, files=(), rows=0, replaced=replaced, left_out={}, written_at=now):
                rows += current.rows
                break
            current = newest(objects, table, day)
        else:
            if current is not None and all(clock.now() - at >= _GRACE for at in current.replaced.values()):
                for path in (*current.replaced, *objects.paths(f"{ROOT}/{table}/{day}/manifests/")):
                    objects.delete(path)
    return rows


def _replace(objects: Objects, current: DayManifest, group: Sequence[str], path: str, clock: Clock) -> bool:
    now = clock.now()
    expired = [name for name, at in current.replaced.items() if now - at >= _GRACE]
    replaced = {name: at for name, at in current.replaced.items() if name not in expired} | dict.fromkeys(group, now)
    gone = set(group)
    files = (*(name for name in current.files if name not in gone), path)
    if not _follow(objects, current, files=files, replaced=replaced, written_at=now):
        return False
    for name in expired:
        objects.delete(name)
    return True


def follow(
    objects: Objects, current: DayManifest, changed: Callable[[DayManifest], DayManifest], *, clock: Clock
) -> None:
    """Change what a day names, whoever else does so at this moment."""
    while True:
        after = changed(current)
        done = _follow(
            objects, current, files=after.files, rows=after.rows, left_out=after.left_out, written_at=clock.now()
        )
        if done:
            return
        current = newest(objects, current.table, current.day) or current


def _follow(objects: Objects, current: DayManifest, **changes: Any) -> bool:
    """Write the next manifest; False where somebody else wrote it first, or went far past it."""
    manifest = msgspec.structs.replace(current, revision=current.revision + 1, **changes)
    try:
        objects.put_new(_manifest_path(current.table, current.day, manifest.revision), msgspec.json.encode(manifest))
    except ConflictError:
        return False
    if manifest.revision > _KEPT_MANIFESTS:
        objects.delete(_manifest_path(current.table, current.day, manifest.revision - _KEPT_MANIFESTS))
    # A writer that slept while the others went on may have written a number that they had removed already.
    latest = newest(objects, current.table, current.day)
    return latest is not None and set(latest.files) >= set(manifest.files)


def newest(objects: Objects, table: str, day: str) -> DayManifest | None:
    """The manifest of a day that counts; none where the day has no rows.

    Raises:
        FormatError: It cannot be read.
    """
    while paths := objects.paths(f"{ROOT}/{table}/{day}/manifests/"):
        with suppress(UnknownError):  # it was replaced and removed between the two reads
            return _read(objects, paths[-1])
    return None


def day_files(
    objects: Objects, table: str, *, since: datetime | None = None, until: datetime | None = None
) -> list[str]:
    """Files of the days that touch a window, day by day in the order in which they landed.

    Args:
        objects: Where the journal lies.
        table: ``predictions``, ``outcomes`` or ``runs``.
        since: Days that end before it are left out.
        until: Days that begin at or after it are left out.
    """
    first = since.strftime("%Y-%m-%d") if since else ""
    days = [
        day
        for day in objects.folders(f"{ROOT}/{table}/")
        if day >= first and (until is None or datetime.fromisoformat(f"{day}T00:00+00:00") < until)
    ]
    with ThreadPoolExecutor(_READERS) as readers:  # a remote store answers in tens of milliseconds, a year has 365 days
        manifests = list(readers.map(lambda day: newest(objects, table, day), days))
    return [file for manifest in manifests if manifest for file in manifest.files]


def source(objects: Objects, table: str, files: Sequence[str]) -> "pa.Table | list[str]":
    """What an engine registers: paths where the store is a folder, else the rows themselves."""
    if files and objects.path is not None:
        return [str(objects.path / file) for file in files]
    return rows_of(objects, table, files)


def rows_of(objects: Objects, table: str, files: Sequence[str]) -> "pa.Table":
    """The rows of some files, in their order; a column that an older file has not is null.

    Raises:
        FormatError: One of them is damaged or gone.
    """
    import pyarrow as pa

    with ThreadPoolExecutor(_READERS) as readers:
        parts = list(readers.map(lambda file: read_file(objects, file), files))
    return pa.concat_tables([schema_of(table).empty_table(), *parts], promote_options="default")


def read_file(objects: Objects, path: str) -> "pa.Table":
    """The rows of one file, each page held against its checksum where it has one.

    Raises:
        FormatError: It is damaged or gone; the text says what was found, what is lost and how to go on.
    """
    found = rows_or_fault(objects, path)
    if isinstance(found, str):
        raise damaged(objects, path, found)
    return found


def rows_or_fault(objects: Objects, path: str) -> "pa.Table | str":
    """The rows of one file, or what is the matter with it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = b""
    try:
        data = objects.get(path)
        # `pq.read_table` opens a data set for each file: 1.3 ms against 0.2, and a year of runs is 700 files.
        return pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True).read()
    except UnknownError:
        return "it is gone"
    except (pa.ArrowException, OSError) as error:
        return _found_in(data, error)


def _found_in(data: bytes, error: Exception) -> str:
    if not data:
        return "it is empty"
    if not data.startswith(_PARQUET):
        return f"it begins with {data[:4]!r}, and a Parquet file with {_PARQUET!r}"
    if not data.endswith(_PARQUET):
        return f"it ends after {len(data):,} bytes without the foot of a Parquet file: it was cut short"
    return f"its {len(data):,} bytes are damaged: {str(error).splitlines()[0].rstrip('.')}"


def damaged(objects: Objects, path: str, found: str) -> FormatError:
    """The error that names a damaged file, what is lost and how to go on."""
    table, day = path.removeprefix(f"{ROOT}/").rsplit("/", 2)[:2]
    return FormatError(
        f"A file of the journal cannot be read, which holds {table} of {day}: '{path}'; {found}.",
        objects.url,
        f"put it back from a backup; or lose its rows, and only them: tow journal leave-out '{path}' --because '…'",
    )


def _read(objects: Objects, path: str) -> DayManifest:
    try:
        manifest = msgspec.json.decode(objects.get(path), type=DayManifest)
    except msgspec.DecodeError as error:
        raise FormatError(
            f"The manifest '{path}' cannot be read: {error}.",
            objects.url,
            "put it back from a backup; or remove it: the day is then what the manifest before it names, and tow journal check"
            " says which files it does not",
        ) from error
    if manifest.schema > SCHEMA:
        raise FormatError(
            f"The manifest '{path}' has schema {manifest.schema}; this Towpath reads up to {SCHEMA}.",
            objects.url,
            "upgrade towpath on this machine",
        )
    return manifest


def _path(table: str, day: str, name: str) -> str:
    return f"{ROOT}/{table}/{day}/{name}.parquet"


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".parquet")


def _level(name: str) -> int:
    """0 for a flushed file, n for one that was merged n times."""
    found = _MERGED.search(name)
    return int(found[1]) if found else 0


def _manifest_path(table: str, day: str, revision: int) -> str:
    return f"{ROOT}/{table}/{day}/manifests/{revision:06d}.json"

"""A day of a table is the set of files that its newest manifest names; no reader globs."""

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from towpath.clock import Clock
from towpath.errors import ConflictError, FormatError
from towpath.journal.record import SCHEMA, DayManifest, Run
from towpath.journal.unfold import by_day, conform, schema_of
from towpath.stores.objects import Objects

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ROOT", "add", "day_files", "newest", "put_file", "source", "write_rows", "write_run"]

ROOT = "journal"
_DAY_OF = {"predictions": "predicted_at", "outcomes": "happened_at", "runs": "started_at"}


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
    days = by_day(conform(data, table), _DAY_OF[table])
    for day, rows in days.items():
        put_file(objects, table, day, name, rows)
    for day, rows in days.items():
        add(objects, table, day, {_path(table, day, name): rows.num_rows}, clock=clock)
    return data.num_rows


def write_run(objects: Objects, run: Run, *, clock: Clock) -> None:
    """Write down that a run started, and again how it ended; its rows count once it is *done*.

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
    pq.write_table(data, buffer, compression="zstd")
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
        old = current.files if current else ()
        new = [path for path in files if path not in set(old)]
        if current and not new:
            return current
        manifest = DayManifest(
            table=table,
            day=day,
            revision=current.revision + 1 if current else 1,
            files=(*old, *new),
            rows=(current.rows if current else 0) + sum(files[path] for path in new),
            written_at=clock.now(),
        )
        try:
            objects.put_new(_manifest_path(table, day, manifest.revision), msgspec.json.encode(manifest))
        except ConflictError:  # somebody else's files are in; read again and add ours
            continue
        return manifest


def newest(objects: Objects, table: str, day: str) -> DayManifest | None:
    """The manifest of a day that counts; none where the day has no rows.

    Raises:
        FormatError: It cannot be read.
    """
    paths = objects.paths(f"{ROOT}/{table}/{day}/manifests/")
    return _read(objects, paths[-1]) if paths else None


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
    manifests: dict[str, str] = {}
    for path in objects.paths(f"{ROOT}/{table}/"):
        parts = path.split("/")
        if len(parts) == 5 and parts[3] == "manifests":  # noqa: PLR2004 - journal, table, day, manifests, file
            manifests[parts[2]] = path
    first = since.strftime("%Y-%m-%d") if since else ""
    chosen = [
        path
        for day, path in sorted(manifests.items())
        if day >= first and (until is None or datetime.fromisoformat(f"{day}T00:00+00:00") < until)
    ]
    return [file for path in chosen for file in _read(objects, path).files]


def source(objects: Objects, table: str, files: Sequence[str]) -> "pa.Table | list[str]":
    """What an engine registers: paths where the store is a folder, else the rows themselves."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if files and objects.path is not None:
        return [str(objects.path / file) for file in files]
    schema = schema_of(table)
    parts = [pq.read_table(io.BytesIO(objects.get(file))) for file in files]
    return pa.concat_tables([schema.empty_table(), *parts], promote_options="default")


def _read(objects: Objects, path: str) -> DayManifest:
    try:
        manifest = msgspec.json.decode(objects.get(path), type=DayManifest)
    except msgspec.DecodeError as error:
        raise FormatError(f"The manifest '{path}' cannot be read: {error}", objects.url) from error
    if manifest.schema > SCHEMA:
        raise FormatError(
            f"The manifest '{path}' has schema {manifest.schema}; this Towpath reads up to {SCHEMA}.",
            objects.url,
            "upgrade towpath on this machine",
        )
    return manifest


def _path(table: str, day: str, name: str) -> str:
    return f"{ROOT}/{table}/{day}/{name}.parquet"


def _manifest_path(table: str, day: str, revision: int) -> str:
    return f"{ROOT}/{table}/{day}/manifests/{revision:06d}.json"

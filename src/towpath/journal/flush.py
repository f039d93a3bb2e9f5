"""Closed files of this host become Parquet in the store: every record exactly once, wherever it is interrupted."""

import fcntl
import gc
import logging
import os
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.clock import Clock
from towpath.errors import FormatError, UnavailableError
from towpath.journal.append import LOCK, SUFFIX, identity
from towpath.journal.days import add, compact, day_column, landing, put_file
from towpath.journal.frames import BESIDE, HEADER_BYTES, LANDED, MARK, OUTCOMES, RECORD, close_frame, frames
from towpath.journal.record import Beside, LandedRow, OutcomeRow, Record
from towpath.journal.unfold import by_day, landing_table, outcome_table, prediction_table
from towpath.stores.objects import Objects

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Flushed", "flush"]

_log = logging.getLogger("towpath.journal")
_GROUP_BYTES = 64 << 20
_UNREADABLE = ".unreadable"
_UNFIT = (ValueError, TypeError, OverflowError)
"""What Arrow raises where a value does not fit its column."""
_record = msgspec.msgpack.Decoder(Record)
_outcomes = msgspec.msgpack.Decoder(list[OutcomeRow])
_beside = msgspec.msgpack.Decoder(Beside)
_landed = msgspec.msgpack.Decoder(list[LandedRow])


class Flushed(msgspec.Struct, frozen=True):
    """What one flush did; all zero where another flusher of this folder was at work."""

    files: int = 0
    """Files of workers that are now in the store, and gone from here."""
    rows: int = 0
    """Predictions, outcomes and pushed feature rows in them."""
    bytes: int = 0
    """Size of those files."""


def flush(folder: Path, objects: Objects, *, clock: Clock) -> Flushed:
    """Bring every file that has no living owner into the store.

    First the Parquet files are put, under names that follow from the worker's file; then the manifests of their days
    name them; then the worker's file is removed. A crash between any two leaves work that the next call does again
    with the same names, so no row is lost and none is there twice. Last, many small files of a day become a larger one.

    Args:
        folder: Where the workers of this host append.
        objects: Where the journal lies.
        clock: Dates the manifests.

    Returns:
        What was flushed.

    Raises:
        UnavailableError: The store or the folder cannot be written; nothing is lost, call again later.
    """
    if not folder.is_dir():
        return Flushed()
    try:
        return _flushed(folder, objects, clock)
    except OSError as error:
        raise UnavailableError(
            f"The journal folder cannot be flushed: {error.strerror}.",
            str(error.filename or folder),
            "check its rights and the disk; what is in it stays",
        ) from error


def _flushed(folder: Path, objects: Objects, clock: Clock) -> Flushed:
    done = Flushed()
    with _alone(folder) as alone:
        if not alone:
            return done
        owner = identity(folder)
        touched: set[tuple[str, str]] = set()
        for group in _groups(folder):
            with _owned(group) as owned:
                days, rows = _store(owned, objects, owner, clock)
                touched |= days
                for path in owned:
                    size = path.stat().st_size
                    path.unlink()
                    done = Flushed(done.files + 1, done.rows, done.bytes + size)
                done = Flushed(done.files, done.rows + rows, done.bytes)
        keep = {f"{owner}-{path.stem}" for path in folder.glob(f"*{SUFFIX}")}
        for table, day in sorted(touched):
            compact(objects, table, day, owner=owner, keep=keep, clock=clock)
    return done


def _store(paths: list[Path], objects: Objects, owner: str, clock: Clock) -> tuple[set[tuple[str, str]], int]:
    """Put the files and name them; gives the tables and days that changed, and the number of rows."""
    named: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for path in list(paths):
        try:
            with _without_cycles():
                tables = _contents(path)
        except FormatError as error:
            _log.error("journal: '%s' cannot be read and is set aside: %s", path, error)
            path.rename(path.with_suffix(_UNREADABLE))
            paths.remove(path)
            continue
        for table, data in tables.items():
            for day, rows in by_day(data, day_column(table)).items():
                file = put_file(objects, table, day, f"{owner}-{path.stem}", rows)
                named[table, day][file] = rows.num_rows
    for (table, day), files in named.items():
        add(objects, table, day, files, clock=clock)
    return set(named), sum(sum(files.values()) for files in named.values())


def _contents(path: Path) -> "dict[str, pa.Table]":
    """The tables of one file; frames that cannot be read are set aside, and stop no other."""
    records: list[tuple[bytes, Record]] = []
    outcomes: list[OutcomeRow] = []
    found_beside: list[Beside] = []
    landed: dict[str, list[LandedRow]] = defaultdict(list)
    aside: list[tuple[int, bytes]] = []
    for kind, payload in frames(path.read_bytes()):
        try:
            if kind == RECORD:
                records.append((payload, _record.decode(payload)))
            elif kind == OUTCOMES:
                outcomes.extend(_outcomes.decode(payload))
            elif kind == BESIDE:
                found_beside.append(_beside.decode(payload))
            elif kind == LANDED:
                for row in _landed.decode(payload):
                    landed[landing(row.project, row.view)].append(row)
            else:
                aside.append((kind, payload))
        except msgspec.DecodeError:
            aside.append((kind, payload))
    records = _with_beside(records, found_beside)
    try:
        predictions = prediction_table(record for _, record in records)
    except _UNFIT:
        fit = [(payload, record) for payload, record in records if _fits(record)]
        aside += [(RECORD, payload) for payload, record in records if not _fits(record)]
        predictions = prediction_table(record for _, record in fit)
    if aside:
        _set_aside(path, aside)
    tables = {"predictions": predictions, "outcomes": outcome_table(outcomes)}
    return tables | {table: landing_table(rows) for table, rows in landed.items()}


def _with_beside(records: list[tuple[bytes, Record]], found: list[Beside]) -> list[tuple[bytes, Record]]:
    """The records with what the fallback said in their rows; what came after its record's file was closed is let go."""
    if not found:
        return records
    by_record = {one.prediction_id: one for one in found}
    joined: list[tuple[bytes, Record]] = []
    for payload, record in records:
        beside = by_record.get(record.prediction_id)
        rows = len(record.rows.source)
        if beside is None or not _of_these_rows(beside, rows):
            joined.append((payload, record))
            continue
        whole = msgspec.structs.replace(
            record.rows,
            fallback_prediction=_placed(beside.values, beside.rows, rows),
            fallback_label=_placed(beside.labels, beside.rows, rows),
            fallback_items=_placed(beside.items, beside.rows, rows),
        )
        joined.append((payload, msgspec.structs.replace(record, rows=whole)))
    return joined


def _of_these_rows(beside: Beside, rows: int) -> bool:
    """Whether it says one thing about each row that it names, and the record has them."""
    said = (beside.values, beside.labels, beside.items)
    return all(one is None or len(one) == len(beside.rows) for one in said) and all(row < rows for row in beside.rows)


def _placed(said: Sequence[Any] | None, places: Sequence[int], rows: int) -> list[Any] | None:
    """A column of all rows of the record; null in those that were not asked about."""
    if said is None:
        return None
    column: list[Any] = [None] * rows
    for place, value in zip(places, said, strict=True):
        column[place] = value
    return column


def _fits(record: Record) -> bool:
    """Whether its columns are of one length and of the types of the table."""
    try:
        prediction_table([record])
    except _UNFIT:
        return False
    return True


def _set_aside(path: Path, found: list[tuple[int, bytes]]) -> None:
    """Keep for a person what a newer or a faulty writer wrote: bytes that we cannot read are not ours to remove."""
    kept = bytearray(MARK)
    for kind, payload in found:
        frame = bytearray(HEADER_BYTES) + payload
        close_frame(frame, kind)
        kept += frame
    path.with_suffix(_UNREADABLE).write_bytes(kept)
    _log.error("journal: %d records of '%s' cannot be read and are set aside as %s", len(found), path, _UNREADABLE)


@contextmanager
def _without_cycles() -> Generator[None]:
    """A hundred thousand records hold no cycles, and looking for some costs a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _groups(folder: Path) -> Iterator[list[Path]]:
    """Oldest first, and no more at a time than fits in memory."""
    group: list[Path] = []
    size = 0
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        group.append(path)
        size += path.stat().st_size
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


@contextmanager
def _alone(folder: Path) -> Generator[bool]:
    """One flusher at a time for each folder; the others have nothing to do."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _owned(paths: list[Path]) -> Generator[list[Path]]:
    """Those whose owner is dead or done with them; ours until the block ends."""
    owned: list[Path] = []
    descriptors: list[int] = []
    try:
        for path in paths:
            descriptor = os.open(path, os.O_RDWR)
            descriptors.append(descriptor)
            if _locked(descriptor):
                owned.append(path)
        yield owned
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

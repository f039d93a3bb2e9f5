"""The path of an answer: one encode and one write to the worker's own file, safe on ``kill -9``."""

import errno
import fcntl
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from towpath.clock import Clock, now_us
from towpath.errors import UnavailableError
from towpath.journal.frames import BESIDE, HEADER_BYTES, LANDED, MARK, OUTCOMES, RECORD, close_frame
from towpath.journal.record import Beside, LandedRow, OutcomeRow, Record, plain
from towpath.types import Tier

__all__ = ["LOCK", "SUFFIX", "TIER_SHARES", "Journal", "identity"]

SUFFIX = ".journal"
LOCK = ".flush.lock"
_IDENTITY = ".identity"
TIER_SHARES: dict[Tier, float] = {"experimental": 0.6, "standard": 0.85, "critical": 1.0}
"""Share of the disk budget up to which records of a tier are still written; outcomes count as critical."""

_log = logging.getLogger("towpath.journal")
_MEASURE_S = 1.0
_REOPEN_S = 0.1
_KEPT_BUFFER_BYTES = 1 << 20


class Journal:
    """A worker's append-only file. Calls may come from many threads; each process opens its own.

    A record that was appended survives the death of the process at once (the kernel has it) and the death of the
    machine after `sync_ms` (a thread of ours calls ``fdatasync`` for the group). The file in use carries an
    ``flock``, so that a flusher knows the files of the dead from those of the living.

    Args:
        folder: Where the files of all workers of this host lie; made where missing.
        server: Name of this worker, part of the file's name.
        budget_bytes: Disk that all unflushed files of the folder may take together.
        clock: Dates the file's name.
        tier: Of records that are appended without a tier of their own.
        sync_ms: How long a group of records waits for its ``fdatasync``.
        roll_bytes: A file that has grown beyond this is closed, and so may be flushed.
        roll_s: So is a file that is older than this, in real time.

    Raises:
        UnavailableError: The folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        server: str,
        clock: Clock,
        budget_bytes: int = 1 << 30,
        tier: Tier = "standard",
        sync_ms: float = 50,
        roll_bytes: int = 64 << 20,
        roll_s: float = 5.0,
    ) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(
                f"The journal folder cannot be made: {error.strerror}.", str(folder), "check serving.journal"
            ) from error
        with suppress(OSError):  # made now, because a flusher must be able to work on a full disk
            identity(folder)
            (folder / LOCK).touch(0o600)
        self.folder = folder
        self.server = server
        self.dropped = 0
        """Records that were not written, since the start."""
        self.appended = 0
        """Records that were written, since the start."""
        self._clock = clock
        self._limits = {name: int(budget_bytes * share) for name, share in TIER_SHARES.items()}
        self._tier: Tier = tier
        self._sync_s = sync_ms / 1_000
        self._roll_bytes = roll_bytes
        self._roll_s = roll_s
        self._encode_into = msgspec.msgpack.Encoder(enc_hook=plain).encode_into
        self._lock = threading.Lock()
        self._buffer = bytearray(4_096)
        self._held = bytearray()
        """Frames that wait for `write_held`."""
        self._held_records = 0
        self._file: _File | None = None
        self._retired: list[_File] = []
        self._used_bytes = _used_bytes(folder)
        self._reopen_at = 0.0
        self._dropping_because = ""
        self._unsynced = False
        self._refused = False
        self._dirty = False
        self._closed = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"journal-{server}", daemon=True)
        self._thread.start()

    @property
    def holds(self) -> bool:
        """Whether records wait for `write_held`."""
        return self._held_records > 0

    def append(self, record: Record, *, tier: Tier | None = None, held: bool = False) -> bool:
        """Write one record; an answer never waits for it and never fails by it.

        Args:
            record: One request with its rows.
            tier: Of the record's model; the journal's own unless given.
            held: Keep it until `write_held`, which whoever asks calls before the answer goes out: so all requests that the
                event loop found readable at once cost one write.

        Returns:
            False where the disk is full or the tier's share of the budget is used up: the record is dropped and counted.
        """
        with self._lock:
            limit_bytes = self._limits[tier or self._tier]
            written = self._hold(record, limit_bytes) if held else self._write(RECORD, record, limit_bytes)
            if written:
                self.appended += 1
            else:
                self.dropped += 1
            return written

    def write_held(self) -> None:
        """Write what `append` was to hold; what the disk does not take is dropped and counted."""
        with self._lock:
            self._put_held()

    def beside(self, found: Beside) -> bool:
        """Write what the fallback would have said; the first thing to go where the disk gets full, and not counted as a drop.

        Where the record's file was closed meanwhile it is not joined: one unit less in a sample.
        """
        with self._lock:
            return self._write(BESIDE, found, self._limits["experimental"])

    def outcomes(self, rows: Sequence[OutcomeRow]) -> None:
        """Write what really happened; all rows or none, and who sent them may be told that they are kept.

        Raises:
            UnavailableError: They were not written, because the disk is full or the budget is used up.
        """
        self._write_all(OUTCOMES, rows, "outcomes")

    def landed(self, rows: Sequence[LandedRow]) -> None:
        """Write feature rows that were pushed; all rows or none, and who sent them may be told that they are kept.

        Raises:
            UnavailableError: They were not written, because the disk is full or the budget is used up.
        """
        self._write_all(LANDED, rows, "feature rows")

    def roll(self) -> None:
        """Close the file in use, so that it may be flushed; the next record opens another."""
        with self._lock:
            self._put_held()
            self._retire()
        self._sync()

    def close(self) -> None:
        """Sync, close the file and end the thread; a later record is dropped and counted."""
        with self._lock:
            self._put_held()
            self._closed = True
            self._retire()
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._sync()

    def _write_all(self, kind: int, rows: Sequence[object], called: str) -> None:
        if not rows:
            return
        with self._lock:
            if not self._write(kind, list(rows), self._limits["critical"]):
                raise UnavailableError(
                    f"{len(rows)} {called} were not kept: {self._dropping_because}.",
                    str(self.folder),
                    "send them again later",
                )

    def _write(self, kind: int, payload: object, limit_bytes: int) -> bool:
        self._put_held()
        buffer = self._framed(kind, payload, limit_bytes)
        return buffer is not None and self._put(buffer)

    def _hold(self, record: Record, limit_bytes: int) -> bool:
        buffer = self._framed(RECORD, record, limit_bytes)
        if buffer is None:
            return False
        self._held += buffer
        self._held_records += 1
        if len(self._held) > _KEPT_BUFFER_BYTES:
            self._put_held()
        return True

    def _put_held(self) -> None:
        records, held = self._held_records, self._held
        if not records:
            return
        self._held_records, self._held = 0, bytearray()
        if not self._put(held):
            self.appended -= records
            self.dropped += records

    def _framed(self, kind: int, payload: object, limit_bytes: int) -> bytearray | None:
        """One frame; none where it cannot be made or has no room."""
        buffer = self._buffer
        try:
            self._encode_into(payload, buffer, HEADER_BYTES)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            self._refuse(f"it cannot be encoded ({error})")
            return None
        close_frame(buffer, kind)
        size = len(buffer)
        if size > _KEPT_BUFFER_BYTES:
            self._buffer = bytearray(4_096)
        if self._used_bytes + len(self._held) + size > limit_bytes:
            self._refuse(f"the unflushed files take {self._used_bytes:,} of {limit_bytes:,} bytes")
            return None
        return buffer

    def _put(self, frames: bytearray) -> bool:
        """Write whole frames."""
        size = len(frames)
        file = self._file or self._open()
        if file is None:
            return False
        try:
            written = os.write(file.descriptor, frames)
        except OSError as error:
            return self._refuse(f"the disk said '{error.strerror}'")
        if written != size:
            self._cut(file)
            return self._refuse(f"the disk took {written} of {size} bytes")
        file.size += size
        self._used_bytes += size
        if not self._dirty:
            self._dirty = True
            self._wake.set()
        if file.size >= self._roll_bytes:
            self._retire()
        return True

    def _open(self) -> "_File | None":
        if self._closed:
            self._refuse("the journal is closed")
            return None
        if time.monotonic() < self._reopen_at:
            return None
        try:
            self._file = _File.create(self.folder, self.server, now_us(self._clock))
        except OSError as error:
            self._reopen_at = time.monotonic() + _REOPEN_S
            self._refuse(f"no file could be made, the disk said '{error.strerror}'")
        return self._file

    def _cut(self, file: "_File") -> None:
        """Take back half a frame: whatever follows it would never be read."""
        try:
            os.ftruncate(file.descriptor, file.size)
        except OSError:
            self._retire()

    def _retire(self) -> None:
        if self._file is not None:
            self._retired.append(self._file)
            self._file = None
            self._wake.set()

    def _refuse(self, because: str) -> bool:
        if not self._dropping_because:
            _log.warning("journal: dropping records in '%s': %s", self.folder, because)
        self._dropping_because = because
        self._refused = True
        return False

    def _measure(self) -> None:
        with suppress(OSError):  # the folder is gone: each append says so itself
            self._used_bytes = _used_bytes(self.folder)
        # A second without a drop ends the state; per record, a budget that cuts one tier would log each other tier.
        if self._dropping_because and not self._refused:
            _log.warning("journal: writing again in '%s'; %d records were dropped so far", self.folder, self.dropped)
            self._dropping_because = ""
        self._refused = False

    def _keep(self) -> None:
        """The thread: sync what is dirty, close what is old, measure what the folder takes."""
        measure_at = time.monotonic() + _MEASURE_S
        while not self._stop.is_set():
            if self._wake.wait(min(_MEASURE_S, self._roll_s)):
                self._stop.wait(self._sync_s)
                self._wake.clear()
                self._sync()
            now = time.monotonic()
            with self._lock:
                if self._file is not None and now - self._file.opened_at >= self._roll_s:
                    self._retire()
            if now >= measure_at:
                measure_at = now + _MEASURE_S
                self._measure()

    def _sync(self) -> None:
        with self._lock:
            try:
                active = None if self._file is None else os.dup(self._file.descriptor)
            except OSError as error:  # no descriptor is free: the next turn tries again, and the records stay written
                if not self._unsynced:
                    _log.warning("journal: '%s' is not synced for now: %s", self.folder, error.strerror)
                self._unsynced = True
                self._wake.set()
                return
            self._unsynced = False
            retired, self._retired = self._retired, []
            self._dirty = False
        try:
            if active is not None:
                os.fdatasync(active)
        except OSError as error:
            _log.warning("journal: '%s' could not be synced: %s", self.folder, error.strerror)
        finally:
            if active is not None:
                os.close(active)
        for file in retired:
            file.close()


class _File:
    """One file and the lock that says that its owner lives."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor = descriptor
        self.path = path
        self.size = len(MARK)
        self.opened_at = time.monotonic()

    @classmethod
    def create(cls, folder: Path, server: str, at_us: int) -> "_File":
        # Random, because a replay with a standing clock must never make the name of a file that was flushed before.
        name = f"{at_us:016x}-{re.sub(r'[^A-Za-z0-9_.]', '_', server)}-{secrets.token_hex(6)}"
        path, unlocked = folder / (name + SUFFIX), folder / f"{name}.new"
        descriptor = os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(descriptor, MARK) != len(MARK):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            unlocked.rename(path)  # a flusher sees it from here on, and it is locked already
        except OSError:
            os.close(descriptor)
            unlocked.unlink(missing_ok=True)
            raise
        return cls(descriptor, path)

    def close(self) -> None:
        try:
            os.fdatasync(self.descriptor)
        except OSError as error:
            _log.warning("journal: '%s' could not be synced: %s", self.path, error.strerror)
        # The unlock reaches a duplicate that a sync in flight still holds; a close would not.
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        os.close(self.descriptor)


def identity(folder: Path) -> str:
    """Of a journal folder, for ever: begins the names of its files in the store, so that no two hosts share one.

    Raises:
        OSError: It is not made yet, and the disk is full.
    """
    path = folder / _IDENTITY
    if not path.exists():
        made = folder / f"{_IDENTITY}.{secrets.token_hex(4)}"
        made.write_text(secrets.token_hex(4), "ascii")
        with suppress(FileExistsError):  # another worker was first, and whole
            os.link(made, path)
        made.unlink()
    return path.read_text("ascii")


def _used_bytes(folder: Path) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                try:
                    total += entry.stat().st_size
                except FileNotFoundError:  # a flusher was here first
                    continue
    return total

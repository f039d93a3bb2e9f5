"""Pushed rows laid out on this machine by the day of their event: what lands today rewrites today, and not the history."""

import fcntl
import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from towpath.clock import SystemClock
from towpath.errors import ResourceError
from towpath.journal.days import source
from towpath.sql import quoted
from towpath.stores.objects import Objects

if TYPE_CHECKING:
    from towpath.warehouse import Engine

__all__ = ["LaidDay", "LaidOut", "LaidState"]

SCHEMA = 1
_STATE = "state.json"
_AT_ONCE = 256
"""Files of the journal that are read together; a store that is no folder sends their rows into memory."""
_GRACE = timedelta(hours=1)
"""A file that was replaced stays that long, for readers at work."""


class LaidDay(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one day of events."""

    raw: str
    """File with the journal's rows, each once."""
    laid: str
    """File with the columns of the view."""
    arrived: tuple[str, ...]
    """The days on which they arrived."""


class LaidState(msgspec.Struct, frozen=True, kw_only=True):
    """``state.json``: what was laid out. A folder without it, or with one of another schema, is laid out anew."""

    schema: int = SCHEMA
    shape: str = ""
    """Digest of the SQL that gives rows the view's columns."""
    files: tuple[str, ...] = ()
    """The journal's files whose rows are in it."""
    days: dict[str, LaidDay] = {}
    """Day of the events → its rows."""


class LaidOut:
    """The pushed rows of one view as Parquet files of its columns. Safe from several processes.

    Args:
        folder: Its own; it is made, and may be removed at any time: it can be laid out again.
        engine: Reads and writes the files.
        objects: Where the journal lies.
        table: Of the journal.
    """

    def __init__(self, folder: Path, engine: "Engine", objects: Objects, table: str) -> None:
        self.folder = folder
        self._engine = engine
        self._objects = objects
        self._table = table
        self._raw = f"towpath landed {table}"

    def brought_up(self, files: Sequence[str], sql: Callable[[str], str]) -> list[Path]:
        """Bring it up to the journal's files, and give its own.

        Rows of files that are new are put beside the rows of the same days; days of arrival of which the journal has no file
        any more are taken out; everything else stays as it is. A crash leaves what was there.

        Args:
            files: Of the journal, as its manifests name them.
            sql: The SELECT of the view's columns, of a table of the journal's rows that it is given the name of.

        Raises:
            ResourceError: The folder cannot be written.
            UnavailableError: The store cannot be read.
        """
        shape = hashlib.sha256(sql("rows").encode()).hexdigest()[:16]
        try:
            with self._alone():
                state = self._read()
                if (state.files, state.shape) != (tuple(files), shape):
                    state = self._followed(state, files, sql, shape)
                    self._write(state)
                    self._sweep(state)
                return [self.folder / day.laid for _, day in sorted(state.days.items())]
        except OSError as error:
            raise ResourceError(
                f"Pushed rows cannot be laid out in '{self.folder}': {error}.", str(self.folder), "make room"
            ) from error

    def _followed(self, state: LaidState, files: Sequence[str], sql: Callable[[str], str], shape: str) -> LaidState:
        days, known, changed = dict(state.days), set(state.files), set[str]()
        gone = {_day(file) for file in known} - {_day(file) for file in files}
        for name in [name for name, day in days.items() if gone & set(day.arrived)]:
            changed.add(name)
            self._take(days, name, [self._path(days[name].raw)], gone)
        fresh = [file for file in files if file not in known]
        for start in range(0, len(fresh), _AT_ONCE):
            self._engine.register(self._raw, source(self._objects, self._table, fresh[start : start + _AT_ONCE]))
            found = self._engine.read(
                f"select distinct cast(event_time as date) as day from {quoted(self._raw)} order by day"
            )
            for each in found.column("day").to_pylist():
                name = each.isoformat()
                changed.add(name)
                self._add(days, name, datetime(each.year, each.month, each.day, tzinfo=UTC))
        self._engine.forget(self._raw)
        for name in days:
            if name in changed or state.shape != shape:
                self._lay_out(days, name, sql)
        return LaidState(shape=shape, files=tuple(files), days=days)

    def _add(self, days: dict[str, LaidDay], name: str, begin: datetime) -> None:
        """The fresh rows of a day, beside those that are there already; a row that a merged file brings again is one row."""
        inside, before = self._new(f"{name} fresh"), days.get(name)
        window = {"since": begin, "until": begin + timedelta(days=1)}
        self._engine.write_parquet(
            f"select * from {quoted(self._raw)} where event_time >= $since and event_time < $until", inside, window
        )
        self._take(days, name, [*([self._path(before.raw)] if before else []), inside], ())
        inside.unlink()

    def _take(self, days: dict[str, LaidDay], name: str, files: Sequence[Path], gone: Iterable[str]) -> None:
        """The journal's rows of a day from some files, each once, without those that arrived on a day that is gone."""
        of_day, path = f"{self._raw} {name}", self._new(f"{name} raw")
        self._engine.register(of_day, [str(file) for file in files])
        left_out = ", ".join(f"date '{day}'" for day in sorted(gone)) or "null"
        kept = f"select distinct * from {quoted(of_day)} where (cast(arrived_at as date) in ({left_out})) is not true"
        rows = self._engine.write_parquet(kept, path)
        self._engine.register(of_day, [str(path)])
        arrived = self._engine.read(
            f"select distinct cast(cast(arrived_at as date) as varchar) as day from {quoted(of_day)} order by day"
        )
        self._engine.forget(of_day)
        if not rows:
            days.pop(name, None)
            return
        days[name] = LaidDay(raw=path.name, laid="", arrived=tuple(arrived.column("day").to_pylist()))

    def _lay_out(self, days: dict[str, LaidDay], name: str, sql: Callable[[str], str]) -> None:
        of_day, path = f"{self._raw} {name}", self._new(name)
        self._engine.register(of_day, [str(self._path(days[name].raw))])
        self._engine.write_parquet(sql(quoted(of_day)), path)
        self._engine.forget(of_day)
        days[name] = msgspec.structs.replace(days[name], laid=path.name)

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _new(self, name: str) -> Path:
        """A name that no file of the folder ever had."""
        moment = SystemClock().now()
        return self.folder / f"{name} {moment:%Y%m%dT%H%M%S%f}.parquet"

    def _read(self) -> LaidState:
        try:
            state = msgspec.json.decode((self.folder / _STATE).read_bytes(), type=LaidState)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return LaidState()
        whole = all(self._path(name).exists() for day in state.days.values() for name in (day.raw, day.laid))
        return state if whole and state.schema == SCHEMA else LaidState()

    def _write(self, state: LaidState) -> None:
        unfinished = self.folder / f"{_STATE}.unfinished"
        unfinished.write_bytes(msgspec.json.encode(state))
        unfinished.replace(self.folder / _STATE)

    def _sweep(self, state: LaidState) -> None:
        """Remove what nothing names any more and no reader can still hold."""
        named = {name for day in state.days.values() for name in (day.raw, day.laid)}
        oldest = (SystemClock().now() - _GRACE).timestamp()
        for path in self.folder.glob("*.parquet*"):
            with suppress(FileNotFoundError):
                if path.name not in named and path.stat().st_mtime < oldest:
                    path.unlink()

    @contextmanager
    def _alone(self) -> Generator[None]:
        """One process at a time; the others wait, and find it done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _day(file: str) -> str:
    """The day of arrival, of ``journal/<table>/<day>/<name>.parquet``."""
    return file.rsplit("/", 2)[1]

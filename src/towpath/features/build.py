"""Materialise: bring a view's newest rows into the online store, of new rows alone where that is enough."""

import contextlib
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from towpath.clock import Clock
from towpath.errors import InputError, ProjectError, TowpathError
from towpath.features import builds
from towpath.features.builds import BuildState
from towpath.features.due import Due, beginning, counted, due, lookback, snapshot_digest
from towpath.features.encoding import RowSchema, encode
from towpath.features.keys import key_bytes
from towpath.features.views import View
from towpath.stores.online import OnlineStore
from towpath.types import micros, utc

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse import Warehouse

__all__ = ["SCHEMAS", "Built", "build", "schema_key"]

SCHEMAS = "schemas"
"""The online table that keeps what rows of the others look like."""


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What a build did."""

    rows: int
    """Rows handed to the online store: one per key that has a row; what is newer there stays."""
    entities: int
    """Rows that the online table holds now."""
    seconds: float
    """How long it took."""
    newest_event_time: datetime | None
    """Of the rows handed over."""
    at: datetime
    """When it was done, by the clock."""
    work: Literal["nothing", "since", "everything", "interval"] = "everything"
    """Whether it read nothing, what became known since the last build, everything, or the interval that was asked for."""
    since: datetime | None = None
    """From when on rows were read."""
    because: str = ""
    """Why."""


class _Run(msgspec.Struct):
    """One build under way."""

    view: View
    warehouse: "Warehouse"
    online: OnlineStore
    as_of: datetime
    progress: Callable[[int], None] | None
    rows: int = 0
    newest_us: int | None = None

    def pour(
        self, into: Callable[[list[tuple[bytes, bytes]]], None], *, event: datetime, known: datetime | None
    ) -> None:
        """Hand the newest rows over in batches: of events since then, and of what became known since then."""
        # LMDB is a sorted file: appended to in order it stays half as large, and little of it is mapped at a time.
        facts = msgspec.structs.replace(self.view.facts(), in_key_order=not self.online.waits)
        if known is not None:
            facts = msgspec.structs.replace(facts, landed_since_us=micros(known))
        with self.warehouse.newest(facts, {"as_of": self.as_of, "until": self.as_of, "since": event}) as reader:
            types = tuple(str(reader.schema.field(f"k{i}").type) for i in range(len(self.view.header.keys)))
            schema = RowSchema(number=self.view.number, keys=types, columns=self.view.columns)
            self.online.write(SCHEMAS, [(schema_key(self.view.table, schema.number), schema.to_bytes())])
            for batch in _named(self.view, reader):
                if batch.num_rows == 0:
                    continue
                into(list(zip(_keys(batch, len(types)), encode(batch.columns[len(types) :], schema), strict=True)))
                self.rows += batch.num_rows
                last = int(batch.column("event").to_numpy().max())
                self.newest_us = last if self.newest_us is None else max(self.newest_us, last)
                if self.progress is not None:
                    self.progress(self.rows)


def build(
    view: View,
    warehouse: "Warehouse",
    online: OnlineStore,
    *,
    as_of: datetime,
    since: datetime | None = None,
    full: bool = False,
    clock: Clock,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """Write the newest row per key that was known at `as_of` to the view's online table.

    What became known since the last build is read alone where landing can be followed (`towpath.features.due` decides);
    such rows go into the table that is read, where the newer ``(event, landing)`` stays. Everything goes to a table
    beside, which readers are sent to when it is whole; keys that the source no longer has are gone with it. A build that
    was killed leaves what was there readable, and the next one does its work again.

    Args:
        view: Whose rows.
        warehouse: Where the view's tables are.
        online: Where the rows go.
        as_of: Rows of a later event or landing are left out; the view's ``:as_of`` and ``:until``.
        since: Build this interval of event times alone, ``[since, as_of]``, whatever was built before.
        full: Everything, whether it is needed or not.
        clock: Says when the build was done.
        progress: Called with the number of rows so far; with 0 before the first is read.

    Raises:
        InputError: The interval begins before the view's ``start``, or is empty; or `since` and `full` are both given.
        ProjectError: The warehouse refuses the SQL, or a table is missing.
        ConflictError: Another process is building everything of this view.
        UnavailableError: The online store cannot be written.
    """
    started = time.perf_counter()
    as_of, since = utc(as_of), utc(since) if since else None
    _check_interval(view, since, as_of, full=full)
    if progress is not None:
        progress(0)
    state = builds.build_state(online, view.table)
    snapshot = snapshot_digest(view, warehouse)
    run = _Run(view, warehouse, online, as_of, progress)
    if since is not None:
        run.pour(lambda rows: builds.write_rows(online, view.table, rows), event=since, known=None)
        builds.write_rows(online, view.table, [])
        work = Due(work="since", since=since, because="asked for")
    else:
        work = due(view, state, warehouse, as_of=as_of, full=full, snapshot=snapshot)
        if work.work != "nothing":
            _bring_up(run, state, work, snapshot, clock)
    return Built(
        rows=run.rows,
        entities=online.count(builds.rows_table(online, view.table)),
        seconds=time.perf_counter() - started,
        newest_event_time=None if run.newest_us is None else datetime.fromtimestamp(run.newest_us / 1e6, tz=UTC),
        at=clock.now(),
        work=work.work if since is None else "interval",
        since=work.since,
        because=work.because,
    )


def schema_key(table: str, number: int) -> bytes:
    """Where a schema stands in the table of schemas."""
    return f"{table}#{number}".encode()


def _bring_up(run: _Run, state: BuildState | None, work: Due, snapshot: str | None, clock: Clock) -> None:
    view, online = run.view, run.online
    done = _done(run, snapshot, clock)
    if work.work == "everything" and not (state is not None and state.table and _pushed(view)):
        _fill_beside(run, done)
        return
    run.pour(lambda rows: builds.write_rows(online, view.table, rows), event=beginning(view), known=work.since)
    if state is not None and state.as_of is not None and run.as_of < state.as_of and work.work == "since":
        return  # of an earlier moment: what the last build knew of it stands
    standing = builds.build_state(online, view.table)
    assert standing is not None  # there was a table to write to
    after = msgspec.structs.replace(
        done, step=standing.step + 1, table=standing.table, beside=standing.beside, former=standing.former
    )
    builds.put_state(online, view.table, after)
    builds.sweep(online, view.table, after)


def _fill_beside(run: _Run, done: BuildState) -> None:
    online, table = run.online, run.view.table
    announced = builds.begin_beside(online, table)
    assert announced.beside is not None
    beside = announced.beside.table

    def into(rows: list[tuple[bytes, bytes]]) -> None:
        nonlocal announced
        announced = builds.going_on(online, table, announced)
        online.write(beside, rows)

    try:
        run.pour(into, event=beginning(run.view), known=None)
        builds.swap(online, table, announced, done)
    except BaseException:
        with contextlib.suppress(TowpathError):
            builds.give_up(online, table, announced)
        raise


def _done(run: _Run, snapshot: str | None, clock: Clock) -> BuildState:
    """What stands in the store when the build has ended; counted before it reads, so that nothing slips between."""
    back = lookback(run.view)
    edge = None if back is None else run.as_of - back
    return BuildState(
        step=0,
        as_of=run.as_of,
        fingerprint=run.view.fingerprint,
        number=run.view.number,
        snapshot=snapshot,
        counted_until=edge,
        counted_rows=None if edge is None else counted(run.view, run.warehouse, edge),
        built_at=clock.now(),
    )


def _pushed(view: View) -> bool:
    """Whether rows come in by push too: then what is online may be ahead of the tables, and no swap may take it back."""
    return any(table.startswith("landing.") for table in view.query.tables)


def _check_interval(view: View, since: datetime | None, as_of: datetime, *, full: bool) -> None:
    start, name = beginning(view), view.name
    if since is not None and full:
        raise InputError("An interval and everything cannot both be built.", mend="--since, or --full")
    if since is not None and since > as_of:
        raise InputError(f"The interval ends at {as_of:%Y-%m-%d %H:%M} and begins after it.", mend="an earlier --since")
    if (since is not None and since < start) or as_of < start:
        asked = since if since is not None else as_of
        raise InputError(
            f"'{name}' has nothing before {start:%Y-%m-%d %H:%M}, and {asked:%Y-%m-%d %H:%M} is asked for.",
            view.place("start"),
            "ask for a later interval, or mend start in the header",
        )


def _named(view: View, reader: "pa.RecordBatchReader") -> "Generator[pa.RecordBatch]":
    """The batches; an error that names one of their columns by its place says the view's name for it."""
    try:
        yield from reader
    except ProjectError as error:
        names = {f"'k{i}'": name for i, name in enumerate(view.header.keys)}
        names |= {f"'f{i}'": name for i, name in enumerate(view.features)}
        place = next((place for place in names if f"Column {place}" in error.what), None)
        if place is None:
            raise
        said = error.what.replace(place, f"'{names[place]}'")
        raise ProjectError(said, view.query.path, error.mend, error.problems) from error


def _keys(batch: "pa.RecordBatch", parts: int) -> list[bytes]:
    columns = [batch.column(f"k{i}").to_pylist() for i in range(parts)]
    return [key_bytes(row) for row in zip(*columns, strict=True)]

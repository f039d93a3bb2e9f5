"""Materialise: bring a view's newest rows into the online store."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from towpath.clock import Clock
from towpath.features.encoding import RowSchema, encode
from towpath.features.keys import key_bytes
from towpath.features.views import View
from towpath.stores.online import OnlineStore
from towpath.types import utc

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse import Warehouse

__all__ = ["SCHEMAS", "Built", "build", "schema_key"]

SCHEMAS = "schemas"
"""The online table that keeps what rows of the others look like."""
_BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)


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


def build(
    view: View,
    warehouse: "Warehouse",
    online: OnlineStore,
    *,
    as_of: datetime,
    since: datetime | None = None,
    clock: Clock,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """Write the newest row per key that was known at `as_of` to the view's online table.

    The table converges whatever the order of builds, because the newer ``(event, landing)`` stays. A build that was
    stopped half-way left whole rows; run again it is right.

    Args:
        view: Whose rows.
        warehouse: Where the view's tables are.
        online: Where the rows go.
        as_of: Rows of a later event or landing are left out; the view's ``:as_of`` and ``:until``.
        since: Rows of an earlier event are left out; the view's ``:since``. All unless given.
        clock: Says when the build was done.
        progress: Called with the number of rows so far.

    Raises:
        ProjectError: The warehouse refuses the SQL, or a table is missing.
        UnavailableError: The online store cannot be written.
    """
    started = time.perf_counter()
    moments = {"as_of": utc(as_of), "until": utc(as_of), "since": utc(since) if since else _BEGINNING}
    rows, newest_us = 0, None
    with warehouse.newest(view.facts(), moments) as reader:
        types = tuple(str(reader.schema.field(f"k{i}").type) for i in range(len(view.header.keys)))
        schema = RowSchema(keys=types, columns=view.columns)
        online.write(SCHEMAS, [(schema_key(view.table, schema.number), schema.to_bytes())])
        online.write(view.table, [])
        for batch in reader:
            if batch.num_rows == 0:
                continue
            online.write(view.table, zip(_keys(batch, len(types)), encode(batch, schema), strict=True))
            rows += batch.num_rows
            last = int(batch.column("event").to_numpy().max())
            newest_us = last if newest_us is None else max(newest_us, last)
            if progress is not None:
                progress(rows)
    return Built(
        rows=rows,
        entities=online.count(view.table),
        seconds=time.perf_counter() - started,
        newest_event_time=None if newest_us is None else datetime.fromtimestamp(newest_us / 1e6, tz=UTC),
        at=clock.now(),
    )


def schema_key(table: str, number: int) -> bytes:
    """Where a schema stands in the table of schemas."""
    return f"{table}#{number}".encode()


def _keys(batch: "pa.RecordBatch", parts: int) -> list[bytes]:
    columns = [batch.column(f"k{i}").to_pylist() for i in range(parts)]
    return [key_bytes(row) for row in zip(*columns, strict=True)]

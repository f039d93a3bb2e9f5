"""The journal as an engine sees it: predictions, outcomes, matured, previous and runs, as of a moment."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from towpath.journal.damage import explanation
from towpath.journal.days import day_files, rows_of, source
from towpath.journal.unfold import schema_of
from towpath.sql import Query
from towpath.stores.objects import Objects
from towpath.types import utc

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse.engine import Engine

__all__ = ["VIEWS", "views"]

VIEWS = ("runs", "predictions", "outcomes", "matured", "previous")
"""In the order in which each may read the ones before it."""

_SLACK = timedelta(days=7)  # what happened is dated by its sender, who may be wrong by a closed week


def views(
    engine: "Engine",
    objects: Objects,
    *,
    as_of: datetime,
    models: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> None:
    """Give an engine the views of the journal; what they read is the day manifests' files of this moment.

    Args:
        engine: Where the views are made; called again it replaces them.
        objects: Where the journal lies.
        as_of: What became known later is not there, so that history can be replayed.
        models: Only these; all unless given.
        since: Only predictions made at or after it, and no outcome or run of more than a week before it.
        until: Only predictions made before it.

    Raises:
        FormatError: A file is damaged; one whose damage shows only when it is read says so then.
        UnavailableError: The store cannot be read.
    """
    as_of = utc(as_of)
    earlier = None if since is None else utc(since) - _SLACK
    files = {
        "predictions": day_files(objects, "predictions", since=since, until=until),
        "outcomes": day_files(objects, "outcomes", since=earlier),
    }
    engine.when_refused(explanation(objects, [file for paths in files.values() for file in paths]))
    for table, paths in files.items():
        engine.register(f"journal.{table}", source(objects, table, paths), at_least=schema_of(table))
    engine.register("journal.runs", _runs(objects, earlier))
    values = {
        "as_of": as_of,
        "since": None if since is None else utc(since),
        "until": None if until is None else utc(until),
        "models": None if models is None else list(models),
    }
    for name in VIEWS:
        engine.view(name, _query(name), values)


@cache
def _query(name: str) -> Query:
    path = f"journal/sql/{name}.sql"
    return Query.parse((resources.files("towpath.journal") / "sql" / f"{name}.sql").read_text("utf-8"), path)


def _runs(objects: Objects, since: datetime | None) -> "pa.Table":
    """Runs in the order in which they landed: with a standing clock a repeated run ends at the same moment."""
    import pyarrow as pa

    runs = rows_of(objects, "runs", day_files(objects, "runs", since=since))
    return runs.append_column("landed", pa.array(range(runs.num_rows), pa.int64()))

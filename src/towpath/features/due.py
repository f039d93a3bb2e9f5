"""What a build has to do, and why: nothing, what became known since the last one, or everything."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import msgspec

from towpath.clock import SystemClock
from towpath.errors import ProjectError
from towpath.features.builds import BuildState
from towpath.features.views import View
from towpath.sql import Query
from towpath.types import duration, duration_text, micros, utc
from towpath.warehouse import Snapshots

if TYPE_CHECKING:
    from towpath.warehouse import Warehouse

__all__ = ["BEGINNING", "Due", "beginning", "counted", "due", "lookback", "may_change_unseen", "snapshot_digest"]

BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)
_LOOKBACK = timedelta(hours=1)
"""Where a landing time is declared and no lookback."""


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What a build of one form of a view would do."""

    work: Literal["nothing", "since", "everything"]
    """``since``: the rows that became known since a moment; ``everything`` goes to a table beside, which is swapped in."""
    since: datetime | None = None
    """Rows that landed, or became true, at or after it are read."""
    because: str
    """Why, in words."""
    unseen: str = ""
    """What this cannot know, in words, and would take a build of everything; empty where it knows."""


def due(
    view: View,
    state: BuildState | None,
    warehouse: "Warehouse",
    *,
    as_of: datetime,
    full: bool = False,
    snapshot: str | None = None,
) -> Due:
    """Decide what a build as of a moment has to read.

    Work is followed by landing, never by event time: a row that lands late is read, however old its event is.

    Args:
        view: The form that is to be built.
        state: How far it is built.
        warehouse: Asked how many rows were known at the edge of the last build, where the answer matters.
        as_of: The moment of the build.
        full: Somebody asks for everything.
        snapshot: What `snapshot_digest` said of the view's tables now.

    Raises:
        ProjectError: The warehouse refuses the SQL.
    """
    if full:
        return Due(work="everything", because="asked for")
    if state is None or not state.table:
        return Due(work="everything", because="it was never built")
    if state.as_of is None:
        return Due(work="everything", because="only single intervals were built so far")
    if view.number < state.number:
        return Due(work="everything", because="its file says an earlier form again")
    if state.number != view.number:
        return Due(work="everything", because="columns were added, and old rows do not have them")
    unchanged = snapshot is not None and snapshot == state.snapshot
    if unchanged and as_of <= state.as_of:
        return Due(work="nothing", because="its tables did not change since the last build")
    if moment := _names_moment(view.query):
        return Due(work="everything", because=f"its SQL names :{moment}, so each moment has rows of its own")
    if unchanged:
        return Due(work="since", since=state.as_of, because="time went on; its tables did not change")
    return _changed(view, state, warehouse, known_files=snapshot is not None)


def _changed(view: View, state: BuildState, warehouse: "Warehouse", *, known_files: bool) -> Due:
    """Tables changed, or nobody can tell whether they did."""
    assert state.as_of is not None
    back = lookback(view)
    if back is None:
        why = "its tables changed" if known_files else "the engine does not tell whether its tables changed"
        return Due(work="everything", because=f"{why}, and it declares neither created_time nor lookback")
    if state.counted_until is not None and state.counted_rows is not None:
        before = counted(view, warehouse, state.counted_until)
        if before != state.counted_rows:
            count, verb = abs(before - state.counted_rows), "landed" if before > state.counted_rows else "went"
            rows = "row" if count == 1 else "rows"
            return Due(work="everything", because=f"{count} {rows} {verb} behind the lookback of {duration_text(back)}")
    by = "landed" if view.header.created_time else "became true"
    return Due(
        work="since",
        since=state.as_of - back,
        because=f"what {by} since the last build, and {duration_text(back)} before it",
        unseen=f"a value that was changed in place, in a row that {by} before that, needs --full",
    )


def lookback(view: View) -> timedelta | None:
    """How far before the last build rows are read again; none where the view gives nothing to follow."""
    if view.header.lookback is not None:
        return duration(view.header.lookback)
    return _LOOKBACK if view.header.created_time else None


def beginning(view: View) -> datetime:
    """The view's ``start``, else the beginning of time."""
    return utc(view.header.start) if view.header.start else BEGINNING


def counted(view: View, warehouse: "Warehouse", until: datetime) -> int:
    """Rows of a view with a key that were known at a moment; the engine counts, nothing is fetched.

    Args:
        view: Whose rows.
        warehouse: Where its tables are.
        until: The moment.

    Raises:
        ProjectError: The warehouse refuses the SQL.
    """
    from sqlglot import exp

    header = view.header
    moments: list[exp.Expr] = [exp.cast(exp.column(header.event_time, quoted=True), "timestamptz")]
    if header.created_time:
        created = exp.cast(exp.column(header.created_time, quoted=True), "timestamptz")
        moments.append(exp.func("coalesce", created, moments[0].copy()))
    known = [exp.LTE(this=moment, expression=exp.Placeholder(this="counted_until")) for moment in moments]
    keys = [exp.column(key, quoted=True).is_(exp.null()).not_() for key in header.keys]
    chosen = exp.select(exp.func("count", exp.Star()).as_("n")).from_(view.query.tree.subquery("v", copy=True))
    query = view.query.with_tree(chosen.where(*known, *keys))
    given = {"counted_until": until, "as_of": until, "until": until, "since": beginning(view)}
    found = warehouse.read(query, given).column("n")[0].as_py()
    if not isinstance(found, int):
        raise ProjectError(f"The rows of '{view.name}' cannot be counted.", view.query.path)
    return found


def snapshot_digest(view: View, warehouse: "Warehouse") -> str | None:
    """What the view's tables look like, as one digest; none where the engine does not tell, or cannot tell yet.

    Args:
        view: Whose tables.
        warehouse: Where they are.
    """
    if not isinstance(warehouse, Snapshots):
        return None
    state = warehouse.snapshot(view.query)
    now_ns = micros(SystemClock().now()) * 1_000
    if state is None or any(may_change_unseen(ns, now_ns) for table in state for _, _, ns in table.files):
        return None
    return hashlib.sha256(msgspec.json.encode(state)).hexdigest()


def may_change_unseen(written_ns: int, now_ns: int) -> bool:
    """Whether the file could be written again and show the same time: a kernel's clock ticks each 4 to 10 ms, some disks' each 2 s.

    Args:
        written_ns: When it was last written.
        now_ns: The moment of looking.
    """
    tick_ns = 2_000_000_000 if written_ns % 1_000_000_000 == 0 else 20_000_000
    return now_ns - written_ns < tick_ns


def _names_moment(query: Query) -> str:
    """The parameter that gives each moment rows of its own; none where ``:since`` cuts an interval out."""
    named = query.parameters
    return "as_of" if "as_of" in named else "until" if "until" in named and "since" not in named else ""

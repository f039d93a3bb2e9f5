"""The fleet: one row per model, computed in SQL over the journal, as of any moment."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from towpath.errors import ProjectError
from towpath.monitors import Incident, Watched
from towpath.monitors.watched import measured
from towpath.sql import Query
from towpath.types import utc

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse.engine import Engine

__all__ = ["FleetRow", "Member", "rows"]

_log = logging.getLogger("towpath.fleet")
_WEEK = timedelta(days=7)


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the store, as its log and its champion's manifest say."""

    watched: Watched
    retired: bool = False
    waiting_since: datetime | None = None
    """When its first champion was promoted: from then on it could be called."""
    integrator: str = ""
    """Who builds the caller; of the charter."""


class FleetRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the fleet page."""

    project: str
    team: str
    model: str
    owner: str
    tier: str
    state: Literal["waiting", "live", "silent", "retired"]
    """*waiting* for its first caller, *live*, or *silent*: nobody called it in the last window."""
    champion: int | None
    waiting_since: datetime | None
    integrator: str
    first_called_at: datetime | None
    last_called_at: datetime | None
    calls: int
    """Requests of the window."""
    rows: int
    """Predictions of the window; a ranking is one."""
    fallback_share: float | None
    """Of those rows, 0 to 1; null without rows."""
    consumers: tuple[str, ...]
    """Who called in the window."""
    latency_p99_ms: float | None
    metric: str
    better: str
    metric_value: float | None
    """On matured outcomes, of the answers that the model gave itself."""
    fallback_value: float | None
    """The same metric, had the fallback answered: on the rows where its answer was recorded too."""
    beside_fallback_value: float | None
    """The model's metric on exactly those rows; the fair comparison."""
    beside_rows: int
    """How many rows that comparison rests on."""
    difference: float | None
    """The model's metric minus the fallback's on those rows; of their distances from 0 where the metric should be zero."""
    difference_low: float | None
    """Lower end of its 95% interval, counted by entity; null where there are fewer than two."""
    difference_high: float | None
    unmeasured: str
    """Why there is no metric; empty where there is one."""
    matured_rows: int
    matured_until: datetime | None
    open_incidents: int
    last_incident_id: str | None
    last_incident_monitor: str | None
    last_incident_segment: str | None
    last_incident_status: str | None
    last_incident_at: datetime | None


def rows(
    engine: "Engine",
    members: Sequence[Member],
    incidents: Sequence[Incident],
    *,
    as_of: datetime,
    window: timedelta = _WEEK,
) -> tuple[FleetRow, ...]:
    """One row per model of the store, by project and name.

    Args:
        engine: With the journal's views as of that moment; how far they reach back limits what *matured* looks at, and
            when a model counts as never called.
        members: The models.
        incidents: Of the catalog; those that opened later than `as_of` are left out.
        as_of: The moment.
        window: What *lately* means for calls, the fallback's share and consumers, and after which a model is silent.

    A model whose metric reads what the journal does not have is shown without one, and the log says so: one broken file
    hides no other model.
    """
    as_of = utc(as_of)
    engine.register("models", _members(members))
    engine.register("incidents", _incidents([one for one in incidents if one.opened_at <= as_of], as_of))
    found_measured, unmeasured = _measured(engine, members)
    engine.register("measured", found_measured)
    engine.register("unmeasured", unmeasured)
    query = Query.parse(
        (resources.files("towpath.fleet") / "sql" / "fleet.sql").read_text("utf-8"), "fleet/sql/fleet.sql"
    )
    found = engine.read(query, {"as_of": as_of, "since": as_of - window, "silent_since": as_of - window})
    return tuple(msgspec.convert(row, FleetRow) for row in found.to_pylist())


def _measured(engine: "Engine", members: Sequence[Member]) -> "tuple[pa.Table, pa.Table]":
    """The metric row by row, and of which models it cannot be measured, and why."""
    import pyarrow as pa

    parts, faults = [measured(engine, [])], list[dict[str, str]]()
    for member in members:
        watched = member.watched
        if watched.query is None:
            known = f"'{watched.metric}' is no metric of this project" if watched.metric else "No metric is declared"
            faults.append({"model": watched.model, "error": f"{known}."})
            continue
        try:
            parts.append(measured(engine, [watched]))
        except ProjectError as error:
            _log.warning("fleet: '%s' has no metric: %s", watched.model, error.what)
            faults.append({"model": watched.model, "error": error.what})
    schema = pa.schema([("model", pa.string()), ("error", pa.string())])
    return pa.concat_tables(parts), pa.Table.from_pylist(faults, schema=schema)


def _members(members: Sequence[Member]) -> "pa.Table":
    import pyarrow as pa

    kinds = {"champion": pa.int32(), "retired": pa.bool_(), "waiting_since": pa.timestamp("us", "UTC")}
    names = ("project", "team", "model", "owner", "tier", "champion", "metric", "better")
    records: list[dict[str, Any]] = [
        {name: getattr(member.watched, name) for name in names}
        | {"retired": member.retired, "waiting_since": member.waiting_since, "integrator": member.integrator}
        for member in members
    ]
    fields = [*names, "retired", "waiting_since", "integrator"]
    return pa.Table.from_pylist(records, schema=pa.schema([(name, kinds.get(name, pa.string())) for name in fields]))


def _incidents(incidents: Sequence[Incident], as_of: datetime) -> "pa.Table":
    """As they stood at that moment: one that closed later was still open."""
    import pyarrow as pa

    records = [
        {
            "incident_id": one.incident_id,
            "model": one.model,
            "monitor": one.monitor,
            "segment": one.segment,
            "status": "closed" if one.closed_at is not None and one.closed_at <= as_of else "open",
            "opened_at": one.opened_at,
        }
        for one in incidents
    ]
    names = ("incident_id", "model", "monitor", "segment", "status")
    fields = [*((name, pa.string()) for name in names), ("opened_at", pa.timestamp("us", "UTC"))]
    return pa.Table.from_pylist(records, schema=pa.schema(fields))

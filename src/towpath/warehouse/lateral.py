"""The same eight rules as PostgreSQL is good at them: a temporary copy with an index, and one look into it per spine row."""

from datetime import timedelta

import msgspec

from towpath.sql import quoted
from towpath.warehouse.point_in_time import AsOf, Facts

__all__ = ["SPINE", "Steps", "newest_select", "training_set_steps"]

SPINE = quoted("towpath spine")
"""Temporary tables hide others of their name, so ours have a space in it."""
_ENTITIES, _RECORDS = quoted("towpath entities"), quoted("towpath records")


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """Statements that go before a SELECT."""

    entities: tuple[str, ...]
    """Number the keys of the spine."""
    records: str
    """Copies the view's rows that may win; takes the view's parameters."""
    indexed: tuple[str, ...]
    """Makes the copy quick to ask."""
    select: str
    """One row per spine row, in its order."""


def training_set_steps(facts: Facts, view: str, *, as_of: AsOf = "known") -> Steps:
    """Compile the point-in-time join of the spine and one view.

    A row that is superseded before its turn comes never wins, see `towpath.warehouse.point_in_time`; a running maximum
    drops it. What stays grows in landing *and* in event time, so the first row of an index on landing, backwards, is the
    winner, however late a history was loaded. Measured at 100k moments and 1M facts (2026-11, two busy cores): 4.6 s;
    carried forward by windows over both tables 6.1 s; an index on event time without dropping anything 3.7 s where rows
    land in time, and not within 60 s where half of the history landed at once.

    Args:
        facts: The view.
        view: Its SELECT, in PostgreSQL's words.
        as_of: With ``known`` and a declared landing time, rule 4 of the design holds.

    Returns:
        The statements, for a transaction that has the temporary table `SPINE` (``rn``, ``t`` as timestamptz, ``k0`` …).

    Example:
        >>> from towpath.sql import Query
        >>> query = Query.parse("select id, at, x from v")
        >>> steps = training_set_steps(
        ...     Facts(query=query, keys=("id",), event_time="at", columns=("x",)), query.in_dialect("postgres")
        ... )
        >>> "left join lateral" in steps.select
        True
    """
    parts = [f"k{i}" for i in range(len(facts.keys))]
    keys = ", ".join(parts)
    present = " and ".join(f"{part} is not null" for part in ("t", *parts))
    same = " and ".join(f"entities.{part} = {{0}}.{part}" for part in parts)
    values = [f"f{i}" for i in range(len(facts.columns))]
    late = as_of == "known" and facts.created_time is not None
    known = "greatest(event, landed)" if late else "event"
    ttl = None if facts.ttl is None else f"interval '{facts.ttl // timedelta(microseconds=1)} microseconds'"
    young = "" if ttl is None else f"and event >= (select min(t) from {SPINE}) - {ttl}"
    begun = "" if facts.start_us is None else f"and event >= {_instant(facts.start_us)}"
    copied = f"""
select entity, event, landed, {known} as known, {", ".join(values)}
from ({_view_rows(facts, view)}) as view_rows
join {_ENTITIES} as entities on {same.format("view_rows")}
where event is not null and {known} <= (select max(t) from {SPINE}) {young} {begun}"""
    if late:
        copied = f"""
select * from (
    select *, max(event) over (partition by entity order by known) as latest from ({copied}
    ) as facts
) as running
where event = latest"""
    chosen = ", ".join(f"winner.f{i} as {quoted(name)}" for i, name in enumerate(facts.columns))
    return Steps(
        entities=(
            f"analyze {SPINE}",
            f"create temporary table {_ENTITIES} as select {keys}, row_number() over () as entity from {SPINE} where {present} group by {keys}",
            f"analyze {_ENTITIES}",
        ),
        records=f"create temporary table {_RECORDS} as {copied}",
        indexed=(
            f"create index on {_RECORDS} (entity, known desc, landed desc)",
            f"analyze {_RECORDS}",
        ),
        select=f"""
select {chosen}
from {SPINE} as spine_rows
left join {_ENTITIES} as entities on {same.format("spine_rows")}
left join lateral (
    select * from {_RECORDS} as records
    where records.entity = entities.entity and records.known <= spine_rows.t
    order by records.known desc, records.landed desc
    limit 1
) as winner on {"true" if ttl is None else f"winner.event >= spine_rows.t - {ttl}"}
order by spine_rows.rn""".strip(),
    )


def newest_select(facts: Facts, view: str, *, as_of: str, since: str) -> str:
    """Compile the newest row per key that is known at `as_of` and whose event is not before `since`.

    Args:
        facts: The view.
        view: Its SELECT, in PostgreSQL's words.
        as_of: Placeholder of a timestamptz.
        since: Another.

    Returns:
        A SELECT of ``k0``, ``k1`` …, ``event``, ``landed`` (microseconds since 1970), then ``f0``, ``f1`` … for its `columns`.
    """
    parts = [f"k{i}" for i in range(len(facts.keys))]
    keys = ", ".join(parts)
    present = " and ".join(f"{part} is not null" for part in parts)
    chosen = ", ".join(f"f{i}" for i in range(len(facts.columns)))
    fresh = ""
    if facts.landed_since_us is not None:
        known = _instant(facts.landed_since_us)
        fresh = f"and (landed >= {known} or event >= {known})"
    return f"""
select {keys}, {_micros("event")} as event, {_micros("landed")} as landed, {chosen}
from (
    select distinct on ({keys}) *
    from ({_view_rows(facts, view)}) as view_rows
    where {present} and event <= {as_of} and landed <= {as_of} and event >= {since} {fresh}
    order by {keys}, event desc, landed desc
) as newest""".strip()


def _view_rows(facts: Facts, view: str) -> str:
    """The view under names of ours. A landing of ``-infinity`` says nothing that an instant could; it counts as none."""
    event = f"{quoted(facts.event_time)}::timestamptz"
    created = facts.created_time
    landed = f"coalesce(nullif({quoted(created)}::timestamptz, '-infinity'), {event})" if created else event
    columns = [f"{quoted(name)} as k{i}" for i, name in enumerate(facts.keys)]
    columns += [f"{event} as event", f"{landed} as landed"]
    columns += [f"{quoted(name)} as f{i}" for i, name in enumerate(facts.columns)]
    return f"select {', '.join(columns)} from ({view}) as towpath_view"


def _instant(micros: int) -> str:
    return f"timestamptz 'epoch' + interval '{micros} microseconds'"


def _micros(instant: str) -> str:
    """Exact: ``extract`` of an instant is a numeric since PostgreSQL 14."""
    return f"(extract(epoch from {instant}) * 1000000)::bigint"

"""What was known at the time: the eight rules of point-in-time joins, compiled to one DuckDB statement per view."""

from datetime import timedelta
from typing import Literal

import msgspec

from towpath.sql import Query, quoted

__all__ = ["bounds_sql", "AsOf", "Facts", "keys_sql", "newest_sql", "training_set_sql"]

AsOf = Literal["known", "event"]
"""``known``: only rows that had landed by the spine's time count; ``event``: landing is ignored."""

# Event time above, landing time below, in one 128-bit number that compares as the pair does.
_PACKED = "event::hugeint * 18446744073709551616 + landed"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """A feature view as the compiler needs it."""

    query: Query
    """The view's SELECT."""
    keys: tuple[str, ...]
    """Key columns, in the order of the spine's ``k0``, ``k1`` …"""
    event_time: str
    """When the value became true."""
    created_time: str | None = None
    """When the row landed; none where the view does not say."""
    ttl: timedelta | None = None
    """How old a value may be; both ends inclusive."""
    columns: tuple[str, ...]
    """Feature columns that are wanted, at least one."""
    start_us: int | None = None
    """For training: events before it are none; microseconds since 1970. Of the newest rows ``:since`` says so."""
    landed_since_us: int | None = None
    """For the newest rows: only those that became known at or after it count, because they landed or their event came true
    then; microseconds since 1970, all unless given."""
    in_key_order: bool = False
    """For the newest rows: about in the order of their keys' text, where the engine can; for a store that is a sorted file."""


def training_set_sql(facts: Facts, *, spine: str, as_of: AsOf = "known") -> str:
    """Compile the point-in-time join of one spine and one view.

    Only keys (as numbers) and times go through one ASOF join; features are fetched for the winners alone. Where landing
    merely decides ties, the join looks at event times, and of the winners' rows the last to land is taken. Where a row must
    have landed, it can be superseded before its turn comes: when it lands, one with a later event has landed already. Such a
    row never wins, at whatever time one asks, and a running maximum over landing order drops it; what stays grows in
    landing *and* in event time.

    Args:
        facts: The view.
        spine: A table with ``rn`` (0 to n-1), ``t`` (microseconds since 1970, may be null) and the key parts ``k0``, ``k1`` …
        as_of: With ``known`` and a declared landing time, rule 4 of the design holds.

    Returns:
        A SELECT of the view's `columns`, in that order: one row per spine row, in the order of ``rn`` (a feature of that
        name would win an unqualified ``order by``).

    Example:
        >>> view = Query.parse("select id, at, x from v")
        >>> facts = Facts(query=view, keys=("id",), event_time="at", columns=("x",))
        >>> "asof join" in training_set_sql(facts, spine="spine")
        True
    """
    parts = [f"k{i}" for i in range(len(facts.keys))]
    keys = ", ".join(parts)
    present = " and ".join(f"{part} is not null" for part in ("t", *parts))
    must_have_landed = as_of == "known" and facts.created_time is not None
    records, payload = _superseding(facts, keys) if must_have_landed else _by_event(facts, keys)
    known = "greatest(event, landed)" if must_have_landed else "event"
    ttl_us = None if facts.ttl is None else facts.ttl // timedelta(microseconds=1)
    young = "" if ttl_us is None else f"and event >= (select min(t) from {spine}) - {ttl_us}"
    begun = "" if facts.start_us is None else f"and event >= {facts.start_us}"
    fresh = "" if ttl_us is None else f"where records.event >= moments.t - {ttl_us}"
    chosen = ", ".join(f"feature_values.f{i} as {quoted(name)}" for i, name in enumerate(facts.columns))
    return f"""
with {_view_rows(facts)},
entities as materialized (
    select {keys}, row_number() over () as entity from {spine} where {present} group by {keys}
),
moments as (
    select rn, t, entity from {spine} join entities using ({keys}) where t is not null
),
facts as (
    select entity, event, landed, {known} as known
    from view_rows join entities using ({keys})
    where event is not null and {known} <= (select max(t) from {spine}) {young} {begun}
),
records as (
    {records}
),
winners as materialized (
    select moments.rn, records.*
    from moments asof join records on moments.entity = records.entity and moments.t >= records.known
    {fresh}
),
{payload}
select {chosen}
from {spine} as spine_rows
left join answers on spine_rows.rn = answers.rn
order by spine_rows.rn
""".strip()


def _by_event(facts: Facts, keys: str) -> tuple[str, str]:
    """The rows that can win where landing decides ties alone, and the winners' features: the last to land of each tie.

    A join on event and landing packed into one number finds the row itself, and took a third more time.
    """
    return (
        "select entity, event, event as known from facts",
        f"""answers as (
    select winners.rn, max_by({_struct(facts)}, landed) as feature_values
    from view_rows join entities using ({keys}) join winners using (entity, event)
    group by winners.rn
)""",
    )


def _superseding(facts: Facts, keys: str) -> tuple[str, str]:
    """The rows that can win where they must have landed, and the winners' features: of a full tie any one row."""
    return (
        f"""select entity, event, landed, known from facts
    qualify {_PACKED} = max({_PACKED}) over (partition by entity order by known)""",
        f"""payload as (
    select entity, event, landed, any_value({_struct(facts)}) as feature_values
    from view_rows join entities using ({keys}) semi join winners using (entity, event, landed)
    group by entity, event, landed
),
answers as (
    select winners.rn, feature_values from winners join payload using (entity, event, landed)
)""",
    )


def newest_sql(facts: Facts, *, between: tuple[str | None, str | None] = (None, None)) -> str:
    """Compile the newest row per key that is known at ``$as_of`` and whose event is not before ``$since``.

    With `Facts.landed_since_us`, of the rows that became known since then: a row is known once it has landed *and* its event
    has come, so the later of the two decides. The filter stands around the view, which need not know.

    Args:
        facts: The view.
        between: Only keys whose text is not below the first, and below the second; see `bounds_sql`.

    Returns:
        A SELECT of ``k0``, ``k1`` …, ``event``, ``landed`` (microseconds since 1970), then ``f0``, ``f1`` … for the view's
        `columns`, so that a feature may have any name. A full tie gives one of its rows, never a mixture.

    Example:
        >>> view = Query.parse("select id, at, x from v")
        >>> "max_by" in newest_sql(Facts(query=view, keys=("id",), event_time="at", columns=("x",)))
        True
    """
    keys = ", ".join(f"k{i}" for i in range(len(facts.keys)))
    chosen = ", ".join(f"feature_values.f{i} as f{i}" for i in range(len(facts.columns)))
    text = _key_text(facts)
    sides = zip((">=", "<"), between, strict=True)
    of_part = " ".join(f"and {text} {sign} {_quoted_text(key)}" for sign, key in sides if key is not None)
    ordered = f"order by {text}" if facts.in_key_order else ""
    return f"""
with {_view_rows(facts)},
newest as (
    select {keys}, max_by({_struct(facts, "event", "landed")}, {_PACKED}) as feature_values
    from view_rows
    where {_is_known(facts)}
        {of_part}
    group by {keys}
)
select {keys}, feature_values.event as event, feature_values.landed as landed, {chosen}
from newest
{ordered}
""".strip()


def bounds_sql(facts: Facts, parts: int) -> str:
    """Compile the texts of keys that cut all keys into so many parts of about one size, told from one key in 256."""
    keys = ", ".join(f"k{i}" for i in range(len(facts.keys)))
    shares = ", ".join(str(part / parts) for part in range(1, parts))
    return f"""
with {_view_rows(facts)},
picked as (
    select distinct {_key_text(facts)} as key
    from view_rows
    where {_is_known(facts)} and hash({keys}) % 256 = 0
)
select unnest(quantile_disc(key, [{shares}])) as key from picked
""".strip()


def keys_sql(facts: Facts) -> str:
    """Compile how many keys `newest_sql` gives, about: a few per cent off."""
    keys = ", ".join(f"k{i}" for i in range(len(facts.keys)))
    return f"""
with {_view_rows(facts)}
select approx_count_distinct(hash({keys})) as entities
from view_rows
where {_is_known(facts)}
""".strip()


def _is_known(facts: Facts) -> str:
    """What the newest row is chosen from."""
    present = " and ".join(f"{part} is not null" for part in ("event", *(f"k{i}" for i in range(len(facts.keys)))))
    since_us = facts.landed_since_us
    landed = "" if since_us is None else f"and (landed >= {since_us} or event >= {since_us})"
    return f"""{present}
        and event <= epoch_us($as_of::timestamptz)
        and landed <= epoch_us($as_of::timestamptz)
        and event >= epoch_us($since::timestamptz)
        {landed}"""


def _key_text(facts: Facts) -> str:
    """A text that sorts as the bytes of the online key do, but for quotes, backslashes and control characters in it."""
    names = [f"k{i}" for i in range(len(facts.keys))]
    parts = [f"case typeof({k}) when 'VARCHAR' then '\"' || {k} || '\"' else {k}::varchar end" for k in names]
    return "(" + " || ',' || ".join(parts) + " || ']')"


def _quoted_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _view_rows(facts: Facts) -> str:
    """The view under names of ours; it stands first, so that no name of ours hides a table of the same name.

    Not materialized: the join reads keys and times alone, and the second reading only the winners' features.
    """
    event = f"epoch_us({quoted(facts.event_time)}::timestamptz)"
    created = facts.created_time
    landed = f"coalesce(epoch_us({quoted(created)}::timestamptz), {event})" if created else event
    columns = [f"{quoted(name)} as k{i}" for i, name in enumerate(facts.keys)]
    columns += [f"{event} as event", f"{landed} as landed"]
    columns += [f"{quoted(name)} as f{i}" for i, name in enumerate(facts.columns)]
    return f"view_rows as not materialized (\n    select {', '.join(columns)}\n    from ({facts.query.in_dialect('duckdb')})\n)"


def _struct(facts: Facts, *more: str) -> str:
    """All wanted features as one value, so that a tie cannot mix two rows."""
    fields = [*more, *(f"f{i}" for i in range(len(facts.columns)))]
    return f"struct_pack({', '.join(f'{name} := {name}' for name in fields)})"

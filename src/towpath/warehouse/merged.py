"""The eight rules for engines that stand elsewhere: one SELECT in their own words, of two forms."""

import re
from datetime import timedelta
from typing import Literal

from towpath.sql import quoted
from towpath.warehouse.point_in_time import AsOf, Facts

__all__ = ["DIALECTS", "Dialect", "Form", "generated_newest_sql", "generated_training_set_sql"]

Dialect = Literal["snowflake", "bigquery", "databricks", "redshift", "duckdb"]
"""``duckdb`` runs the same forms, so that the oracle can judge them; it says nothing of the others' words."""
Form = Literal["asof", "carried"]
DIALECTS: tuple[Dialect, ...] = ("snowflake", "bigquery", "databricks", "redshift")

_BARE = re.compile(r"[a-z_][a-z0-9_$]*")
_MICROS: dict[Dialect, str] = {
    "snowflake": "date_part(epoch_microsecond, {}::timestamp_tz)",
    "bigquery": "unix_micros(cast({} as timestamp))",
    "databricks": "unix_micros(cast({} as timestamp))",
    "redshift": "datediff(microsecond, '1970-01-01'::timestamp, {}::timestamptz at time zone 'UTC')",
    "duckdb": "epoch_us({}::timestamptz)",
}
"""A time of any kind → microseconds since 1970; with the session's time zone UTC, which is the default of all but Snowflake."""


def generated_training_set_sql(
    facts: Facts,
    dialect: Dialect,
    *,
    spine: str,
    as_of: AsOf = "known",
    form: Form | None = None,
    view: str | None = None,
    with_rows: str = "",
    numbered: bool = False,
) -> str:
    """Write the point-in-time join of one spine and one view in an engine's own words.

    Snowflake has an ASOF join with a condition of its own; of rows with one time it takes any, so that ties are decided
    before. The others carry the newest row forward along the union of both tables, with one window and no join on times.

    Args:
        facts: The view.
        dialect: Whose words.
        spine: A table with ``rn``, ``t`` (microseconds since 1970) and the key parts ``k0``, ``k1`` …
        as_of: With ``known`` and a declared landing time, rule 4 of the design holds.
        form: The engine's own unless given.
        view: The view's SELECT in the engine's words; translated unless given.
        with_rows: A common table expression that goes first, ``name as (…)``, where the spine is one.
        numbered: The row's number comes first, as ``rn``, for an engine whose driver does not keep their order.

    Returns:
        A SELECT as `towpath.warehouse.training_set_sql` gives it, parameters in the engine's spelling.

    Example:
        >>> from towpath.sql import Query
        >>> view = Facts(query=Query.parse("select id, at, x from v"), keys=("id",), event_time="at", columns=("x",))
        >>> "match_condition" in generated_training_set_sql(view, "snowflake", spine="spine")
        True
    """
    keys = _keys(facts)
    present = " and ".join(f"{part} is not null" for part in ("t", *_parts(facts)))
    known = "greatest(event, landed)" if as_of == "known" else "event"
    ttl_us = None if facts.ttl is None else facts.ttl // timedelta(microseconds=1)
    fresh = "" if ttl_us is None else f"and event >= t - {ttl_us}"
    begun = "" if facts.start_us is None else f" and event >= {facts.start_us}"
    values = [f"f{i}" for i in range(len(facts.columns))]
    on_winner = " and ".join(f"payload.{part} = winners.{part}" for part in (*_parts(facts), "event", "landed"))
    columns = [f"payload.f{i} as {_label(name, dialect)}" for i, name in enumerate(facts.columns)]
    chosen = ", ".join([*(["spine_rows.rn as towpath_rn"] if numbered else []), *columns])
    first = f"{with_rows},\n" if with_rows else ""
    asof = form == "asof" if form else dialect == "snowflake"
    winners = _asof(facts, dialect) if asof else _carried(facts, dialect)
    return f"""
with {first}view_rows as (
    {_view_rows(facts, dialect, view)}
),
facts as (
    select {keys}, event, landed, {known} as known
    from view_rows
    where event is not null and {known} <= (select max(t) from {spine}){begun}
),
running as (
    select {keys}, event, landed, known,
        max(event) over (
            partition by {keys} order by known, event, landed rows between unbounded preceding and current row
        ) as latest
    from facts
),
records as (
    select {keys}, event, landed, known from running where event = latest
),
moments as (
    select rn, t, {keys} from {spine} where {present}
),
{winners},
winners as (
    select rn, {keys}, event, landed from carried where event is not null {fresh}
),
payload as (
    select {keys}, event, landed, {", ".join(values)}
    from view_rows
    where event is not null
    qualify row_number() over (partition by {keys}, event, landed order by event) = 1
)
select {chosen}
from {spine} as spine_rows
left join winners on spine_rows.rn = winners.rn
left join payload on {on_winner}
order by spine_rows.rn
""".strip()


def generated_newest_sql(
    facts: Facts,
    dialect: Dialect,
    *,
    view: str | None = None,
    moments: tuple[int, int] | None = None,
    with_rows: str = "",
) -> str:
    """Write the newest row per key that is known at ``:as_of`` and whose event is not before ``:since``.

    Args:
        facts: The view.
        dialect: Whose words.
        view: The view's SELECT in the engine's words; translated unless given.
        moments: Both, in microseconds since 1970; parameters unless given.
        with_rows: Common table expressions that go first.

    Returns:
        A SELECT as `towpath.warehouse.newest_sql` gives it.
    """
    keys = _keys(facts)
    present = " and ".join(f"{part} is not null" for part in ("event", *_parts(facts)))
    as_of, since = (_MICROS[dialect].format(_PLACEHOLDERS[dialect].format(name)) for name in ("as_of", "since"))
    if moments is not None:
        as_of, since = (str(moment) for moment in moments)
    fresh = ""
    if facts.landed_since_us is not None:
        fresh = f"and (landed >= {facts.landed_since_us} or event >= {facts.landed_since_us})"
    first = f"{with_rows},\n" if with_rows else ""
    chosen = ", ".join(f"f{i}" for i in range(len(facts.columns)))
    return f"""
with {first}view_rows as (
    {_view_rows(facts, dialect, view)}
)
select {keys}, event, landed, {chosen}
from view_rows
where {present} and event <= {as_of} and landed <= {as_of} and event >= {since} {fresh}
qualify row_number() over (partition by {keys} order by event desc, landed desc) = 1
""".strip()


_PLACEHOLDERS: dict[Dialect, str] = {
    "snowflake": ":{}",
    "bigquery": "@{}",
    "databricks": ":{}",
    "redshift": "%({})s",
    "duckdb": "${}",
}
"""As SQLGlot writes them, so that the view's and ours are the same."""


def _asof(facts: Facts, dialect: Dialect) -> str:
    """The last record at or before the moment; a moment without one stays, with nulls."""
    parts = ", ".join(f"moments.{part}" for part in _parts(facts))
    same = " and ".join(f"moments.{part} = decided.{part}" for part in _parts(facts))
    join = f"asof join decided match_condition (moments.t >= decided.known) on {same}"
    if dialect == "duckdb":
        join = f"asof left join decided on {same} and moments.t >= decided.known"
    return f"""decided as (
    select {_keys(facts)}, event, landed, known
    from records
    qualify row_number() over (partition by {_keys(facts)}, known order by event desc, landed desc) = 1
),
carried as (
    select moments.rn, moments.t, {parts}, decided.event, decided.landed
    from moments {join}
)"""


def _carried(facts: Facts, dialect: Dialect) -> str:
    """Along each key: the newest event and its landing are the last that were not null. What lands at the moment counts."""
    keys = _keys(facts)
    inside = dialect in {"bigquery", "duckdb"}
    last = "last_value({} ignore nulls)" if inside else "last_value({}) ignore nulls"
    window = f"(partition by {keys} order by moment, is_moment, event, landed rows between unbounded preceding and current row)"
    return f"""along as (
    select {keys}, known as moment, 0 as is_moment, event, landed, cast(null as bigint) as rn from records
    union all
    select {keys}, t as moment, 1 as is_moment, null as event, null as landed, rn from moments
),
filled as (
    select rn, moment as t, {keys},
        {last.format("event")} over {window} as event,
        {last.format("landed")} over {window} as landed
    from along
),
carried as (
    select rn, t, {keys}, event, landed from filled where rn is not null
)"""


def _view_rows(facts: Facts, dialect: Dialect, view: str | None) -> str:
    micros = _MICROS[dialect]
    event = micros.format(_quoted(facts.event_time, dialect))
    created = facts.created_time
    landed = f"coalesce({micros.format(_quoted(created, dialect))}, {event})" if created else event
    columns = [f"{_quoted(name, dialect)} as k{i}" for i, name in enumerate(facts.keys)]
    columns += [f"{event} as event", f"{landed} as landed"]
    columns += [f"{_quoted(name, dialect)} as f{i}" for i, name in enumerate(facts.columns)]
    return f"select {', '.join(columns)} from ({view or facts.query.in_dialect(dialect)}) as towpath_view"


def _parts(facts: Facts) -> list[str]:
    return [f"k{i}" for i in range(len(facts.keys))]


def _keys(facts: Facts) -> str:
    return ", ".join(_parts(facts))


def _quoted(name: str, dialect: Dialect) -> str:
    """A column of the view; one that needs no quotes is upper case in Snowflake."""
    return _label(name.upper() if dialect == "snowflake" and _BARE.fullmatch(name) else name, dialect)


def _label(name: str, dialect: Dialect) -> str:
    if dialect == "bigquery":
        return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
    if dialect == "databricks":
        return "`" + name.replace("`", "``") + "`"
    return quoted(name)

"""What PostgreSQL tables look like at a moment, told from the marks that the server keeps on each row; no value is read."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from towpath.errors import ProjectError
from towpath.sql import Query

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MOST_ROWS", "table_state"]

MOST_ROWS = 50_000_000
"""Of one table, as the server estimates; of a larger one nothing is said. A million takes 0.3 s, a digest of the values 1.4 s and more."""
_MARKED_KINDS = {"r", "p", "m"}


def table_state(name: str, query: Query, ask: "Callable[[str], pa.Table]") -> str | None:
    """A digest that is another when a row was written or deleted, or the definition changed; None where nothing sure can be said.

    Each row counts with its place and the transaction that wrote it. A mark comes back when 4 billion transactions have passed
    and a row is written at the very place of an older one. Of a view all tables beneath count, with its SQL. Nothing is said of
    foreign tables, of the server's own, of what calls a function that somebody wrote, and of views that ask for the time.

    Args:
        name: Of a table, as SQL calls it in PostgreSQL.
        query: Reads the table.
        ask: Runs a SELECT, in one transaction with the other calls.
    """
    if _own_functions(query, ask):
        return None
    states: list[str] = []
    for row in ask(_RELATIONS.format(name=_text(name))).to_pylist():
        view = row["kind"] == "v"
        if (
            row["system"]
            or row["own_function"]
            or not (view or row["kind"] in _MARKED_KINDS)
            or row["rows"] > MOST_ROWS
        ):
            return None
        if view and not _replayable(row["definition"]):
            return None
        states.append(row["state"])
        if not view:
            states.append(ask(_MARKS.format(relation=row["name"])).column(0)[0].as_py())
    return " ".join(states) or None


_RELATIONS = """
with recursive beneath (oid) as (
    select to_regclass({name})::oid
    union
    select d.refobjid
    from beneath
    join pg_rewrite as r on r.ev_class = beneath.oid
    join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
)
select
    format('%I.%I', n.nspname, c.relname) as name,
    c.relkind::text as kind,
    n.nspname in ('pg_catalog', 'information_schema') as system,
    greatest(c.reltuples, 0)::bigint as rows,
    case when c.relkind = 'v' then pg_get_viewdef(c.oid) end as definition,
    exists (
        select 1 from pg_rewrite as r
        join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
        where r.ev_class = c.oid and d.refclassid = 'pg_proc'::regclass and d.refobjid >= 16384 and c.relkind = 'v'
    ) as own_function,
    md5(concat(
        (select system_identifier from pg_control_system()), current_database(), c.oid,
        case when c.relkind = 'v' then pg_get_viewdef(c.oid) end,
        -- a column that was added later has a value in old rows that stands here alone
        (
            select string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod, attmissingval), ',' order by attnum)
            from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped
        )
    )) as state
from beneath join pg_class as c on c.oid = beneath.oid join pg_namespace as n on n.oid = c.relnamespace
order by c.oid
"""
_MARKS = """
select concat(count(*), ' rows ', sum(hash_record_extended(row(tableoid, ctid, xmin), 0)::numeric)) as state from {relation}
"""


def _own_functions(query: Query, ask: "Callable[[str], pa.Table]") -> bool:
    """Whether a query calls what somebody wrote: it may do anything, and be another tomorrow."""
    from sqlglot import exp

    names = ", ".join(sorted({_text(node.name.lower()) for node in query.tree.find_all(exp.Anonymous)}))
    return bool(names) and ask(f"select 1 as a from pg_proc where oid >= 16384 and proname in ({names})").num_rows > 0


def _replayable(definition: str) -> bool:
    try:
        return bool(Query.parse(f"/* ---\ndialect = 'postgres'\n--- */\n{definition}").tree)
    except ProjectError:
        return False


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

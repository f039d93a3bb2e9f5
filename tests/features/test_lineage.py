"""Lineage says which source columns a feature is made of; where it cannot know, it says unknown and nothing wrong."""

import time
from pathlib import Path

import pyarrow as pa
import pytest

from towpath.features.lineage import SourceColumn, lineage
from towpath.sql import Query
from towpath.warehouse import Engine

SCHEMAS = {
    "s.orders": ("id", "customer", "amount", "At", "landed"),
    "s.lines": ("order_id", "units", "price", "at"),
    "people": ("customer", "country", "birthday"),
}
UNKNOWN = "?"


def _made(sql: str, *, schemas: dict[str, tuple[str, ...]] | None = SCHEMAS) -> dict[str, str]:
    """Column → what it is made of, as one text; ``rows`` is what decides which rows there are."""
    found = lineage(Query.parse(sql), schemas)
    every = {**found.columns, "rows": found.rows}
    return {name: UNKNOWN if parts is None else " ".join(map(str, parts)) for name, parts in every.items()}


FOLLOWED = [
    ("select id, amount * 2 as double from s.orders", {"id": "s.orders.id", "double": "s.orders.amount", "rows": ""}),
    ("select o.ID from s.orders as o where o.amount > 0", {"ID": "s.orders.id", "rows": "s.orders.amount"}),
    ("select at from s.orders", {"at": "s.orders.At", "rows": ""}),
    ("select s.orders.amount as a from s.orders", {"a": "s.orders.amount", "rows": ""}),
    ("select orders.amount as a from s.orders", {"a": "s.orders.amount", "rows": ""}),
    ("select 1 as one, :as_of as now, count(*) as n from s.orders", {"one": "", "now": "", "n": "", "rows": ""}),
    ("from s.orders select amount as a", {"a": "s.orders.amount", "rows": ""}),
    # stars, by the warehouse's schema
    ("select * from people", {"customer": "people.customer", "country": "people.country", "birthday": "people.birthday", "rows": ""}),
    ("select * exclude (birthday) from people", {"customer": "people.customer", "country": "people.country", "rows": ""}),
    ("select * replace (upper(country) as country) from people", {"customer": "people.customer", "country": "people.country", "birthday": "people.birthday", "rows": ""}),
    ("with p as (select * from people) select country as c from p", {"c": "people.country", "rows": ""}),
    # common table expressions, with a list of names too, and one that hides a table
    ("with p(a, b) as (select customer, country from people) select b from p", {"b": "people.country", "rows": ""}),
    ("with people as (select amount as country from s.orders) select country from people", {"country": "s.orders.amount", "rows": ""}),
    ("with a as (select amount as x from s.orders), b as (select x + 1 as y from a) select y * 2 as z from b", {"z": "s.orders.amount", "rows": ""}),
    # joins: a bare name is found by the schema
    ("select country, amount from s.orders join people using (customer)", {"country": "people.country", "amount": "s.orders.amount", "rows": "people.customer s.orders.customer"}),
    ("select units from s.orders as o left join s.lines as l on o.id = l.order_id", {"units": "s.lines.units", "rows": "s.lines.order_id s.orders.id"}),
    ("select x.u from (select units as u from s.lines where price > 0) as x", {"u": "s.lines.units", "rows": "s.lines.price"}),
    # groups, windows, aggregates
    ("select customer, sum(amount) as total from s.orders group by customer having count(landed) > 3", {"customer": "s.orders.customer", "total": "s.orders.amount", "rows": "s.orders.customer s.orders.landed"}),
    ("select sum(amount) over (partition by customer order by at) as r from s.orders", {"r": "s.orders.At s.orders.amount s.orders.customer", "rows": ""}),
    ("select sum(amount) over w as r from s.orders window w as (partition by customer)", {"r": "s.orders.amount s.orders.customer"}),
    ("select distinct customer from s.orders", {"customer": "s.orders.customer", "rows": "s.orders.customer"}),
    # unions, by position
    ("select id as x from s.orders union all select units from s.lines", {"x": "s.lines.units s.orders.id", "rows": ""}),
    ("with u as (select id as x from s.orders union select units as y from s.lines) select x from u", {"x": "s.lines.units s.orders.id"}),
    # queries within expressions
    ("select (select max(units) from s.lines as l where l.order_id = o.id) as most from s.orders as o", {"most": "s.lines.order_id s.lines.units s.orders.id", "rows": ""}),
    ("select id from s.orders where customer in (select customer from people where country = 'NL')", {"id": "s.orders.id", "rows": "people.country people.customer s.orders.customer"}),
    # a column's own alias, used again
    ("select amount as a, a + 1 as b from s.orders", {"a": "s.orders.amount", "b": "s.orders.amount", "rows": ""}),
    ("select customer as c, sum(amount) as total from s.orders group by all order by total limit 3", {"c": "s.orders.customer", "total": "s.orders.amount", "rows": "s.orders.amount"}),
    ("select exists(select 1 from people as p where p.customer = o.id) as e from s.orders as o", {"e": "people.customer s.orders.id", "rows": ""}),
    ("with unused as (select * from people where country = 'NL') select id from s.orders", {"id": "s.orders.id", "rows": ""}),
    ("select id from s.orders semi join people on s.orders.customer = people.customer", {"id": "s.orders.id", "rows": "people.customer s.orders.customer"}),
    ("select o.id, l.units from s.orders as o asof join s.lines as l on o.id = l.order_id and o.at >= l.at", {"id": "s.orders.id", "units": "s.lines.units", "rows": "s.lines.at s.lines.order_id s.orders.At s.orders.id"}),
    ("select case when amount > 0 then landed end as x from s.orders", {"x": "s.orders.amount s.orders.landed"}),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "made"), FOLLOWED)
def test_a_column_is_followed_to_its_sources(sql: str, made: dict[str, str]) -> None:
    found = _made(sql)
    assert {name: found.get(name) for name in made} == made
    assert set(found) - {"rows"} == set(made) - {"rows"}


@pytest.mark.parametrize(
    ("sql", "unknown"),
    [
        ("select amount from s.orders join s.lines on true", ["amount"]),  # either might have it
        ("with p as (select * from people) select country from p", ["country"]),
        ("with recursive r as (select id as x from s.orders union all select x + 1 from r where x < 5) select x from r", ["x"]),
        ("select unnest(amount) as a, b from s.orders, range(3) as r(b)", ["b"]),
        ("select * from (pivot s.orders on customer using sum(amount))", []),
        ("select columns('a.*') from s.orders", []),
        ("select o from s.orders as o", ["o"]),
        ("select a.x from s.orders as o, lateral (select o.amount as x) as a", ["x"]),
        ("select list_transform(l, x -> x + id) as y from s.orders", ["y"]),
        ("select a from read_parquet('x.parquet')", ["a"]),
        ("select id from s.orders union by name select id from s.lines", ["id"]),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_unknown_and_not_wrong(sql: str, unknown: list[str]) -> None:
    found = _made(sql, schemas=None)
    assert [found[name] for name in unknown] == [UNKNOWN for _ in unknown]


DATA = {
    "s.orders": "select i as id, i % 3 as customer, i * 1.5 as amount, i % 7 as at, i % 5 as landed from range(1, 30) as r(i)",
    "s.lines": "select i % 11 as order_id, i as units, i % 4 as price, i % 6 as at from range(1, 40) as r(i)",
    "people": "select i as customer, case when i = 1 then 'NL' else 'DE' end as country, i + 1 as birthday from range(0, 3) as r(i)",
}
MORE = [
    "select amount from s.orders qualify row_number() over (partition by customer order by landed desc, id) = 1",
    "select customer, arg_max(amount, id) as last from s.orders where landed > (select min(price) from s.lines) group by customer",
    "select coalesce(p.country, 'x') as c, o.amount from s.orders as o left join people as p on o.customer = p.customer",
    "with recursive r as (select 1 as x union all select x + 1 from r where x < 5) select x, (select max(units) from s.lines) as m from r",
    "select o.id, sum(l.units * l.price) filter (where l.at > 2) as worth from s.orders as o join s.lines as l on l.order_id = o.id group by 1",
    "select id from s.orders except select order_id from s.lines",
    "select id, lag(amount, 1, 0) over (order by id) as before from s.orders where at between 2 and 5",
    "select a.id from s.orders as a where not exists (select 1 from s.lines as l where l.order_id = a.id and l.units > a.amount)",
    "select count(*) as n from (select distinct landed from s.orders) as d",
    "select customer from s.orders where landed > 1 intersect select customer from people",
]


@pytest.mark.parametrize("sql", [*(sql for sql, _ in FOLLOWED if ":as_of" not in sql), *MORE])
def test_a_column_that_is_not_named_changes_nothing(sql: str) -> None:
    # given tables in an engine, and what the lineage says
    engine = Engine(memory_mib=256, threads=1)
    tables = {name: engine.read(text) for name, text in DATA.items()}
    found = lineage(Query.parse(sql), {name: tuple(table.column_names) for name, table in tables.items()})

    def asked() -> dict[str, list[object]]:
        for name, table in tables.items():
            engine.register(name, table)
        result = engine.read(Query.parse(sql))
        return {name: sorted(result[name].to_pylist(), key=repr) for name in result.column_names}

    before = asked()
    # when one source column after the other is turned upside down
    for name, table in list(tables.items()):
        for column in table.column_names:
            values = table[column].to_pylist()
            tables[name] = table.set_column(table.column_names.index(column), column, pa.array(values[::-1]))
            after, tables[name] = asked(), table
            # then only what is said to be made of it, or decided by it, may differ
            named = SourceColumn(name, column)
            for output in before:
                parts = found.columns.get(output)
                free = parts is not None and found.rows is not None and named not in {*parts, *found.rows}
                assert not free or before[output] == after[output], f"{output} is made of {named}"
    engine.close()


def test_a_column_that_the_warehouse_does_not_have_is_unknown() -> None:
    assert _made("select amout as a from s.orders")["a"] == UNKNOWN


def test_without_a_schema_the_only_table_is_the_source_and_an_alias_does_not_hide_its_column() -> None:
    found = _made("select b as a, a + 1 as c from s.t where d > 0 order by c", schemas=None)
    assert found == {"a": UNKNOWN, "c": UNKNOWN, "rows": UNKNOWN}
    assert _made("select b as a from s.t where d > 0", schemas=None) == {"a": "s.t.b", "rows": "s.t.d"}
    assert _made("select b as a from s.t where a > 0", schemas=None)["rows"] in {UNKNOWN, "s.t.a", "s.t.a s.t.b"}
    assert _made("select (select max(y) from s.u where y > x) as m from s.t", schemas=None)["m"] == UNKNOWN


def test_a_struct_s_field_is_no_column_of_a_table_named_so() -> None:
    assert _made("select amount.net as n from s.orders")["n"] in {"s.orders.amount", UNKNOWN}


def test_who_reads_a_column_is_yes_no_or_unknown() -> None:
    found = lineage(Query.parse("select id, amount as a from s.orders where customer > 3"), SCHEMAS)
    assert [found.reads("s.orders", name) for name in ("amount", "customer", "landed")] == [True, True, False]
    assert found.made_of("s.orders", "amount") == ("a",)
    assert found.reads("people", "country") is False
    assert lineage(Query.parse("select * from s.orders"), {}).reads("s.orders", "amount") is None


def test_a_view_of_the_retail_example_is_followed_in_the_blink_of_an_eye() -> None:
    text = (Path(__file__).parents[2] / "examples/retail/features/sales_windows.sql").read_text("utf-8")
    columns = (
        "invoice_no",
        "stock_code",
        "description",
        "quantity",
        "invoice_date",
        "unit_price",
        "customer_id",
        "country",
    )
    lineage(Query.parse("select 1 as x"), {})  # the first call imports the parser
    begun = time.perf_counter()
    found = lineage(Query.parse(text), {"retail.lines": columns})
    assert time.perf_counter() - begun < 1
    assert [str(one) for one in found.columns["units_7d"] or ()] != []
    assert all(parts is not None for parts in found.columns.values())
    assert found.rows is not None

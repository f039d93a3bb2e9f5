"""PostgreSQL tells whether its tables changed: a training set can be proved there too."""

from collections.abc import Iterator

import pytest

from postgres_server import PostgresServer
from towpath.sql import Query
from towpath.warehouse import Snapshots
from warehouse_stand import AdbcStand


@pytest.fixture(scope="module")
def server(postgres: PostgresServer) -> Iterator[AdbcStand]:
    opened = AdbcStand(postgres.database())
    yield opened
    opened.close()


@pytest.fixture
def table(server: AdbcStand) -> Iterator[str]:
    server.run("create table facts (id int, x text)")
    server.run("insert into facts values (1, 'a'), (2, 'b'), (3, 'c')")
    yield "facts"
    server.run("drop table facts cascade")


def state(server: AdbcStand, sql: str = "select id, x from facts") -> object:
    assert isinstance(server.warehouse, Snapshots)
    return server.warehouse.snapshot(Query.parse(sql, "v.sql"))


def test_what_nobody_touched_looks_the_same(server: AdbcStand, table: str) -> None:
    before = state(server)
    server.run(f"analyze {table}")
    server.run(f"vacuum {table}")
    server.warehouse.read(Query.parse(f"select * from {table}"))
    assert before is not None
    assert state(server) == before


@pytest.mark.parametrize(
    "change",
    [
        "insert into facts values (4, 'd')",
        "delete from facts where id = 2",
        "update facts set x = 'z' where id = 2",
        "update facts set x = x where id = 2",
        "delete from facts where id = 3; insert into facts values (3, 'c')",
        "truncate facts; insert into facts values (1, 'a'), (2, 'b'), (3, 'c')",
        "alter table facts add column y int default 7",
        "alter table facts alter column x type varchar(9)",
    ],
)
def test_any_change_shows(server: AdbcStand, table: str, change: str) -> None:
    before = state(server)
    for statement in change.split("; "):
        server.run(statement)
    assert state(server) != before


def test_a_column_that_came_back_with_another_default_shows(server: AdbcStand, table: str) -> None:
    """No row is written by either; the value of old rows stands in the catalogue."""
    server.run(f"alter table {table} add column y int default 7")
    before = state(server)
    server.run(f"alter table {table} drop column y")
    server.run(f"alter table {table} add column y int default 8")
    assert state(server) != before


def test_a_view_looks_as_its_tables_and_its_sql_do(server: AdbcStand, table: str) -> None:
    server.run(f"create view inner_view as select id, x from {table}")
    server.run("create view outer_view as select * from inner_view where id > 0")
    asked = "select id from outer_view"
    before = state(server, asked)
    assert before is not None
    assert state(server, asked) == before
    server.run("insert into facts values (9, 'z')")
    grown = state(server, asked)
    server.run("create or replace view outer_view as select * from inner_view where id > 1")
    assert len({str(one) for one in (before, grown, state(server, asked))}) == 3


def test_parts_of_a_table_count(server: AdbcStand) -> None:
    server.run("create table parted (id int, x int) partition by range (id)")
    server.run("create table parted_low partition of parted for values from (0) to (10)")
    before = state(server, "select id from parted")
    server.run("insert into parted_low values (1, 1)")
    assert before is not None
    assert state(server, "select id from parted") != before


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        ("create view restless as select id from facts where now() > '2011-01-01'", "select id from restless"),
        ("create function twice(int) returns int language sql as 'select 2 * $1'", "select twice(id) as y from facts"),
        (
            "create or replace function thrice(int) returns int language sql as 'select 3 * $1'; create view called as select thrice(id) as y from facts",
            "select y from called",
        ),
        ("select 1", "select oid from pg_catalog.pg_class"),
    ],
)
def test_nothing_is_said_where_nothing_is_sure(server: AdbcStand, table: str, made: str, asked: str) -> None:
    for statement in made.split("; "):
        server.run(statement)
    assert state(server, asked) is None


def test_a_name_is_read_as_the_query_reads_it(server: AdbcStand) -> None:
    server.run('create table "Odd ""name" (id int)')
    server.run("create table Plain (id int)")
    assert state(server, 'select id from "Odd ""name"') is not None
    assert state(server, "select id from PLAIN") is not None

"""A table of ours in PostgreSQL: put there whole, in the place of what it held, and nobody sees it half."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pyarrow as pa
import pytest

from postgres_server import PostgresServer
from towpath.errors import ProjectError
from towpath.sql import Query
from towpath.warehouse import TakesTables
from warehouse_stand import AdbcStand

READ = Query.parse('select id, "of" from marts.answers order by id', "read.sql")


@pytest.fixture(scope="module")
def server(postgres: PostgresServer) -> Iterator[AdbcStand]:
    opened = AdbcStand(postgres.database())
    yield opened
    opened.close()


def rows(run: int, count: int) -> pa.Table:
    return pa.table({"id": [f"{n:04d}" for n in range(count)], "of": [run] * count})


def test_a_table_is_made_and_then_replaced_and_stays_the_same_table(server: AdbcStand) -> None:
    warehouse = server.warehouse
    assert isinstance(warehouse, TakesTables)
    warehouse.write_table("marts.answers", rows(1, 3))
    server.run("create view marts.latest as select * from marts.answers")
    server.run("create index by_id on marts.answers (id)")
    warehouse.write_table("marts.answers", rows(2, 2).select(["of", "id"]))
    assert warehouse.read(READ).to_pylist() == [{"id": "0000", "of": 2}, {"id": "0001", "of": 2}]
    assert warehouse.read(Query.parse("select count(*) as n from marts.latest")).to_pylist() == [{"n": 2}]
    # what does not fit leaves what stood there
    for wrong, said in (
        (rows(3, 1).append_column("more", pa.array([1])), "another table"),
        (pa.table({"id": ["a"], "of": ["no number"]}), "type"),
    ):
        with pytest.raises(ProjectError, match=said):
            warehouse.write_table("marts.answers", wrong)
    assert warehouse.read(READ).num_rows == 2
    with pytest.raises(ProjectError, match="nowhere"):
        warehouse.write_table("nowhere.answers", rows(1, 1))


def test_readers_see_one_run_whole_while_writers_wait_for_each_other(server: AdbcStand) -> None:
    warehouse = server.warehouse
    assert isinstance(warehouse, TakesTables)
    warehouse.write_table("marts.busy", rows(0, 500))
    stop, seen = threading.Event(), set[tuple[int, int]]()

    def read() -> None:
        with psycopg.connect(server.url, autocommit=True) as connection:
            while not stop.is_set():
                found = connection.execute('select count(*), count(distinct "of") from marts.busy').fetchone()
                seen.add((found[0], found[1]) if found else (0, 0))

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda run: warehouse.write_table("marts.busy", rows(run, 500)), range(1, 21)))
        # and of those who make it first, all are right
        list(pool.map(lambda run: warehouse.write_table("marts.fresh", rows(run, 50)), range(4)))
    stop.set()
    reader.join()
    assert seen == {(500, 1)}
    assert warehouse.read(Query.parse("select count(*) as n from marts.fresh")).to_pylist() == [{"n": 50}]

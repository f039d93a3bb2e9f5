"""PostgreSQL on a bad day: wrong passwords, tables that vanish, old encodings, spines that do not fit by accident."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from postgres_server import PostgresServer, program
from towpath.errors import ProjectError
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.warehouse import Warehouse, open_warehouse
from warehouse_stand import AdbcStand


@pytest.fixture(scope="module")
def server(postgres: PostgresServer) -> Iterator[AdbcStand]:
    opened = AdbcStand(postgres.database())
    yield opened
    opened.close()


@pytest.fixture
def guarded(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a server of its own, on which the user ``app`` has a password that is asked for by SCRAM."""
    found = program()
    assert found is not None
    own = PostgresServer(found)
    with psycopg.connect(own.url, autocommit=True) as connection:
        connection.execute("set password_encryption = 'scram-sha-256'")
        connection.execute("create role app login password 'right horse'")
        (file,) = connection.execute("show hba_file").fetchone() or ("",)
        rules = Path(file)
        rules.write_text("host all app 127.0.0.1/32 scram-sha-256\n" + rules.read_text("utf-8"), "utf-8")
        connection.execute("select pg_reload_conf()")
    own.restart()
    yield own.url.replace("towpath@", "{}@")
    own.close()


def opened(url: str) -> Warehouse:
    return open_warehouse(WarehouseSettings(url=url, memory_mib=64, threads=1), Path(), {})


def test_a_wrong_password_is_refused_and_told_nowhere(guarded: str) -> None:
    right = opened(guarded.format("app:right%20horse"))
    assert right.read(Query.parse("select current_user::text as me")).to_pylist() == [{"me": "app"}]
    right.close()
    for wrong in ("app:hunter2", "app:right%20hors", "app"):
        refused = opened(guarded.format(wrong))
        with pytest.raises(ProjectError, match="does not let us in") as caught:
            refused.tables()
        told, fault = "", caught.value
        chain: BaseException | None = fault
        while chain is not None:
            told += f"{chain} {chain!r}"
            chain = chain.__cause__ or chain.__context__
        for secret in ("hunter2", "right%20hors", "right hors"):
            assert secret not in told
        assert "app" in str(fault)


def test_a_table_that_vanishes_after_it_was_described_is_named_and_found_when_it_is_back(server: AdbcStand) -> None:
    server.run("create table fleeting as select 1 as id, 2.5::float8 as x")
    query = Query.parse("/* ---\nentity = 'id'\n--- */\nselect id, x\nfrom fleeting", "features/v.sql")
    schema = server.warehouse.describe(query)
    server.run("drop table fleeting")
    with pytest.raises(ProjectError, match='"fleeting" does not exist') as caught:
        server.warehouse.read(query)
    assert caught.value.where == "features/v.sql:5"
    assert "tow doctor" in (caught.value.mend or "")
    # another table of that name is read as it is, with no plan of the first one left
    server.run("create table fleeting as select 'a'::text as id, 7 as x, true as more")
    assert server.warehouse.read(query).to_pylist() == [{"id": "a", "x": 7}]
    assert not server.warehouse.describe(query).equals(schema)


def test_a_table_that_is_read_cannot_be_dropped_before_the_end(server: AdbcStand) -> None:
    server.run("create table held as select i from generate_series(1, 300000) as g(i)")
    with server.warehouse.stream(Query.parse("select i from held where i > :low"), {"low": 0}) as reader:
        first = reader.read_next_batch().num_rows
        with psycopg.connect(server.url) as other:
            other.execute("set lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("drop table held")
        assert first + reader.read_all().num_rows == 300_000
    server.run("drop table held")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_of_another_encoding_gives_its_letters(postgres: PostgresServer, encoding: str) -> None:
    name = f"in_{encoding.lower()}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(
            f"create database {name} encoding '{encoding}' lc_collate 'C' lc_ctype 'C' template template0".encode()
        )
    url = postgres.url.replace("/postgres", f"/{name}")
    with psycopg.connect(url, autocommit=True, client_encoding="utf8") as connection:
        connection.execute("create table towns (id int, name text)")
        connection.execute("insert into towns values (1, 'Zürich'), (2, 'Å')")
    warehouse = opened(url)
    query = Query.parse("select id, name from towns where name = :name", "v.sql")
    assert warehouse.read(query, {"name": "Zürich"}).to_pylist() == [{"id": 1, "name": "Zürich"}]
    assert warehouse.read(Query.parse("select name from towns order by id")).column(0).to_pylist() == ["Zürich", "Å"]
    warehouse.close()


def test_bytes_that_are_no_text_are_a_fault_that_is_told(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("create database bytes encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0")
    url = postgres.url.replace("/postgres", "/bytes")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "create table towns as select 1 as id, convert_from('\\x5afc72696368'::bytea, 'SQL_ASCII') as name"
        )
    warehouse = opened(url)
    with pytest.raises(ProjectError) as caught:
        warehouse.read(Query.parse("select id, name from towns where id = :id", "v.sql"), {"id": 1})
    assert "UTF8" in str(caught.value)
    assert warehouse.read(Query.parse("select id from towns")).num_rows == 1
    warehouse.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc, which Linux has")
def test_a_spine_of_200_000_rows_is_joined_in_bounded_memory(server: AdbcStand) -> None:
    server.run("""
        create table visits as select i % 5000 as id, timestamp '2011-01-01' + i * interval '1 minute' as at, i as x,
            repeat('x', 200) as wide from generate_series(1, 200000) as g(i)
    """)
    script = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.warehouse import Facts, open_warehouse
warehouse = open_warehouse(WarehouseSettings(url=sys.argv[1], memory_mib=64, threads=1), Path(), {})
facts = Facts(query=Query.parse("select * from visits"), keys=("id",), event_time="at", columns=("x",))

def joined(rows):
    us = 1_293_840_000_000_000 + np.arange(rows) * 60_000_000
    spine = pa.table({"rn": np.arange(rows), "t": us, "k0": np.arange(rows) % 5000})
    found = warehouse.point_in_time(facts, spine, "known")
    assert found.num_rows == rows

def mib(line):  # getrusage would tell the peak of the process that began this one, where that was higher
    return int(Path("/proc/self/status").read_text().split(line + ":")[1].split()[0]) / 1024

joined(1_000)
before = mib("VmRSS")
joined(200_000)
print(mib("VmHWM") - before)
warehouse.close()
"""
    done = subprocess.run([sys.executable, "-c", script, server.url], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60  # spine and answer are 7 MiB; the view's rows, 45 MiB, stay on the server

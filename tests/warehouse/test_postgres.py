"""PostgreSQL as warehouse: what its contract cannot say. Its types, its faults, its sessions, and a server that goes away."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from postgres_server import PostgresServer
from towpath.errors import ExtraError, ProjectError, ResourceError, UnavailableError
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.warehouse import Facts, Warehouse, open_warehouse
from warehouse_stand import AdbcStand

NOON = datetime(2011, 7, 1, 12, tzinfo=UTC)
SMALL = WarehouseSettings(memory_mib=64, threads=1)


@pytest.fixture(scope="module")
def server(postgres: PostgresServer) -> Iterator[AdbcStand]:
    opened = AdbcStand(postgres.database())
    yield opened
    opened.close()


def opened(url: str, **variables: str) -> Warehouse:
    return open_warehouse(WarehouseSettings(url=url, memory_mib=64, threads=1), Path(), variables)


def test_what_arrow_has_no_type_for_leaves_as_text_and_numbers_as_numbers(server: AdbcStand) -> None:
    server.run("create type mood as enum ('calm', 'cross')")
    server.run("""
        create table kinds as select
            1.25::numeric(9, 2) as price, 7::numeric(9, 0) as pieces, 0.5::numeric as share, 'NaN'::numeric as odd,
            'ab'::char(5) as code, 'calm'::mood as mood, '7d444840-9dc0-11d1-b245-5ffdce74fad2'::uuid as id,
            '{"a": [1]}'::jsonb as json, inet '10.0.0.1' as host, 3::smallint as small, 1.5::real as real,
            array[1, 2] as counts, array['a'] as words, array[1.5, 2]::numeric[] as shares, true as ok
    """)
    read = server.warehouse.read(Query.parse("select * from kinds"))
    assert {field.name: str(field.type) for field in read.schema} == {
        "price": "double", "pieces": "int64", "share": "double", "odd": "double", "code": "string", "mood": "string",
        "id": "string", "json": "string", "host": "string", "small": "int16", "real": "float",
        "counts": "list<item: int32>", "words": "list<item: string>", "shares": "list<item: double>", "ok": "bool",
    }  # fmt: skip
    (row,) = read.to_pylist()
    assert row.pop("odd") != 0
    assert row == {
        "price": 1.25, "pieces": 7, "share": 0.5, "code": "ab", "mood": "calm",
        "id": "7d444840-9dc0-11d1-b245-5ffdce74fad2", "json": '{"a": [1]}', "host": "10.0.0.1/32", "small": 3,
        "real": 1.5, "counts": [1, 2], "words": ["a"], "shares": [1.5, 2.0], "ok": True,
    }  # fmt: skip
    assert server.warehouse.describe(Query.parse("select * from kinds")).equals(read.schema)


def test_parts_of_a_time_are_those_that_duckdb_gives(server: AdbcStand, tmp_path: Path) -> None:
    names = [
        "dayofmonth",
        "dayofweek",
        "isodow",
        "dayofyear",
        "week",
        "weekofyear",
        "quarter",
        "hour",
        "minute",
        "second",
        "day",
        "month",
        "year",
    ]
    parts = ", ".join(
        f"{name}(t) as {name}, extract({name} from t) as e_{name}, date_part('{name}', t) as p_{name}" for name in names
    )
    query = Query.parse(f"""
        select {parts}, dayofweek(cast(t as date) - dayofweek(cast(t as date))::int) as sunday
        from (values (timestamp '2026-01-04 23:59:58.9'), (timestamp '2024-12-31 00:00:00'), (null)) as v (t)
        where t is null or t < :as_of or dayofyear(t) > 0
    """)
    duckdb = open_warehouse(SMALL, tmp_path, {})
    wanted = duckdb.read(query, {"as_of": NOON})
    assert wanted.num_rows == 3
    assert server.warehouse.read(query, {"as_of": NOON}).equals(wanted)
    duckdb.close()


def test_a_key_may_be_a_uuid_or_a_padded_text(server: AdbcStand) -> None:
    server.run("""
        create table keyed as select '7d444840-9dc0-11d1-b245-5ffdce74fad2'::uuid as id, 'ab'::char(5) as code,
            timestamp '2011-07-01 11:00' as at, 5 as x
    """)
    query = Query.parse("select id, code, at, x from keyed", "v.sql")
    facts = Facts(query=query, keys=("id", "code"), event_time="at", columns=("x",))
    us = int(NOON.timestamp()) * 1_000_000
    spine = pa.table({"rn": [0], "t": [us], "k0": ["7d444840-9dc0-11d1-b245-5ffdce74fad2"], "k1": ["ab"]})
    assert server.warehouse.point_in_time(facts, spine, "known").to_pylist() == [{"x": 5}]


@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
def test_an_infinite_time_is_refused_by_name_where_it_would_leave(server: AdbcStand, moment: str) -> None:
    query = Query.parse(f"select cast('{moment}' as timestamptz) as until", "v.sql")
    with pytest.raises(ProjectError, match=r"'until' holds an infinite time[\s\S]*v.sql"):
        server.warehouse.read(query)


def test_an_infinite_time_of_a_view_matches_nothing(server: AdbcStand) -> None:
    server.run("""
        create table endless as select * from (values
            ('a', timestamptz 'infinity', timestamptz '2011-07-01', 1), ('a', '2011-07-01', 'infinity', 2),
            ('a', '2011-06-01', '-infinity', 3)) as v (id, at, loaded, x)
    """)
    facts = Facts(
        query=Query.parse("select * from endless", "v.sql"), keys=("id",), event_time="at", created_time="loaded", columns=("x",)
    )  # fmt: skip
    spine = pa.table({"rn": [0], "t": [int(NOON.timestamp()) * 1_000_000], "k0": ["a"]})
    assert server.warehouse.point_in_time(facts, spine, "known").to_pylist() == [{"x": 3}]
    with server.warehouse.newest(facts, {"as_of": NOON, "since": datetime(1900, 1, 1, tzinfo=UTC)}) as reader:
        assert reader.read_all().column("f0").to_pylist() == [3]


@pytest.mark.parametrize(
    ("select", "line"),
    [
        ("select\n    1 as a,\n    no_such_column\nfrom kept", 6),
        ("select 1 as a\nfrom no.such_table", 5),
        ("select\n\n\n  no_such_function(1) as a", 7),
        ("select a\nfrom kept\nwhere a < 'x y'::int", None),
    ],
)
def test_a_refusal_names_the_line_where_it_can(server: AdbcStand, select: str, line: int | None) -> None:
    server.run("create table if not exists kept as select 1 as a")
    query = Query.parse(f"/* ---\nentity = 'a'\n--- */\n{select}", "features/v.sql")
    with pytest.raises(ProjectError) as caught:
        server.warehouse.read(query)
    assert caught.value.where == ("features/v.sql" if line is None else f"features/v.sql:{line}")
    assert "LINE" not in str(caught.value)


def test_a_fault_in_the_midst_of_the_rows_is_ours_too(server: AdbcStand) -> None:
    query = Query.parse("select 1 // (90_000 - i) as x from range(100_000) as r(i)", "v.sql")
    with pytest.raises(ProjectError, match="division by zero"):
        server.warehouse.read(query)
    assert server.warehouse.read(Query.parse("select 1 as a")).num_rows == 1


def test_an_idle_connection_holds_no_transaction_and_is_used_again(server: AdbcStand) -> None:
    for _ in range(3):
        server.warehouse.read(Query.parse("select 1 as a where 1 < :as_of"), {"as_of": 2})
    states = "select state, count(*) from pg_stat_activity where application_name = 'towpath' and datname = current_database() group by 1"
    with psycopg.connect(server.url) as connection:
        assert connection.execute(states).fetchall() == [("idle", 1)]


def test_a_query_that_the_server_cancels_says_so(server: AdbcStand) -> None:
    hasty = opened(f"{server.url}?options=-c%20statement_timeout%3D200")
    with pytest.raises(ResourceError, match="statement timeout"):
        hasty.read(Query.parse("select sum(a.i * b.i) as s from range(100_000) a(i), range(100_000) b(i)", "v.sql"))
    hasty.close()


def test_a_user_without_rights_is_told_which_it_needs(server: AdbcStand) -> None:
    server.run("create table private as select 1 as id, now() as at, 2 as x")
    server.run("create role reader login")
    server.run("create table public_facts as select 1 as id, timestamp '2011-01-01' as at, 2 as x")
    server.run("grant select on public_facts to reader")
    server.run("revoke temporary on database " + server.url.rpartition("/")[2] + " from public")
    reader = opened(server.url.replace("towpath@", "reader@"))
    assert "private" not in reader.tables()
    with pytest.raises(ProjectError, match=r"permission denied for table private[\s\S]*grant"):
        reader.read(Query.parse("select * from private", "v.sql"))
    facts = Facts(
        query=Query.parse("select * from public_facts", "v.sql"), keys=("id",), event_time="at", columns=("x",)
    )
    with pytest.raises(ProjectError, match=r"permission denied[\s\S]*temporary on the database"):
        reader.point_in_time(facts, pa.table({"rn": [0], "t": [0], "k0": [1]}), "known")
    reader.close()


def test_a_read_replica_reads_and_says_why_it_cannot_join(server: AdbcStand) -> None:
    replica = opened(f"{server.url}?options=-c%20default_transaction_read_only%3Don")
    server.run("create table if not exists replicated as select 1 as id, timestamp '2011-01-01' as at, 2 as x")
    query = Query.parse("select * from replicated where at <= :as_of", "v.sql")
    assert replica.read(query, {"as_of": NOON}).num_rows == 1
    facts = Facts(query=query, keys=("id",), event_time="at", columns=("x",))
    with replica.newest(facts, {"as_of": NOON, "since": datetime(1900, 1, 1, tzinfo=UTC)}) as reader:
        assert reader.read_all().num_rows == 1
    with pytest.raises(ProjectError, match="read replica"):
        replica.point_in_time(facts, pa.table({"rn": [0], "t": [0], "k0": [1]}), "known", {"as_of": NOON})
    replica.close()


def test_a_server_that_was_restarted_is_used_again_and_one_that_is_away_is_unavailable(
    postgres: PostgresServer,
) -> None:
    warehouse = opened(postgres.database())
    query = Query.parse("select i from range(1_000_000) as r(i)", "v.sql")

    def read_on_over_a_restart() -> None:
        with warehouse.stream(query) as reader:
            reader.read_next_batch()
            postgres.restart()
            reader.read_all()

    with pytest.raises(UnavailableError):
        read_on_over_a_restart()
    assert warehouse.read(query).num_rows == 1_000_000
    postgres.restart()
    assert warehouse.tables() == []
    warehouse.close()


def test_neither_a_wrong_address_nor_a_wrong_password_is_told_with_the_password() -> None:
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        opened("postgresql://app:hunter2@127.0.0.1:1/none").tables()
    assert "hunter2" not in str(caught.value)
    away = opened("env:SHOP_WAREHOUSE", SHOP_WAREHOUSE="postgresql://app:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(away)
    with pytest.raises(ProjectError, match="'SHOP_WAREHOUSE' is not set"):
        opened("env:SHOP_WAREHOUSE")


def test_a_database_or_user_that_is_not_there_is_the_projects_fault(postgres: PostgresServer) -> None:
    for url in (postgres.url.replace("/postgres", "/nowhere"), postgres.url.replace("towpath@", "nobody@")):
        with pytest.raises(ProjectError, match=r"does not let us in[\s\S]*does not exist"):
            opened(url).tables()


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "towpath.warehouse.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    with pytest.raises(ExtraError, match=r"uv add 'towpath\[postgres\]'"):
        opened("postgresql://app@db/shop")


def test_an_engine_that_nobody_made_is_named_with_those_there_are() -> None:
    with pytest.raises(ProjectError, match=r"'teradata'; there are: 'bigquery', 'duckdb', 'postgresql', 'snowflake'"):
        opened("teradata://app@account/shop")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc, which Linux has")
def test_memory_does_not_grow_with_the_rows_that_are_streamed(server: AdbcStand) -> None:
    script = """
import sys
from pathlib import Path
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.warehouse import open_warehouse
warehouse = open_warehouse(WarehouseSettings(url=sys.argv[1], memory_mib=64, threads=1), Path(), {})
peak_mib = []
for rows in (50_000, 1_000_000):
    query = Query.parse("select i, i * 0.5 as x, repeat('x', 100) as text from range(:n) as r(i) where i >= :low")
    with warehouse.stream(query, {"n": rows, "low": 0}) as reader:
        assert sum(batch.num_rows for batch in reader) == rows
    # getrusage would tell the peak of the process that began this one, where that was higher
    peak_mib.append(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024)
print(peak_mib[1] - peak_mib[0])
warehouse.close()
"""
    done = subprocess.run([sys.executable, "-c", script, server.url], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40  # all of the rows would be 120 MiB

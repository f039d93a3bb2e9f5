"""A warehouse of files: which tables there are, where they lie, and what is said where they do not."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from towpath.errors import ProjectError
from towpath.features import key_bytes
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.warehouse import Facts, FileWarehouse, Warehouse, open_warehouse
from towpath.warehouse.point_in_time import bounds_sql, newest_sql


def write(path: Path, *values: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"i": list(values)}), path)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    write(tmp_path / "warehouse" / "top.parquet", 1)
    write(tmp_path / "warehouse" / "sales" / "lines.parquet", 1, 2)
    write(tmp_path / "warehouse" / "sales" / "days" / "a.parquet", 1)
    write(tmp_path / "warehouse" / "sales" / "days" / "deeper" / "b.parquet", 2)
    write(tmp_path / "elsewhere" / "2011" / "x.parquet", 5)
    write(tmp_path / "elsewhere" / "2012" / "x.parquet", 6)
    write(tmp_path / "data" / "set" / "rows.parquet", 7)
    tables = {
        "raw.years": "elsewhere/*/x.parquet",
        "raw.folder": "elsewhere",
        "raw.set": "{TOWPATH_DATA}/set/rows.parquet",
        "raw.gone": "{TOWPATH_DATA}/gone.parquet",
        "raw.lost": "lost.parquet",
    }
    settings = WarehouseSettings(tables=tables, memory_mib=256, threads=1)
    opened = open_warehouse(settings, tmp_path, {"TOWPATH_DATA": str(tmp_path / "data")})
    yield opened
    opened.close()


def values(warehouse: Warehouse, table: str) -> list[int]:
    return sorted(warehouse.read(Query.parse(f"select i from {table}", "some.sql")).column("i").to_pylist())


def test_files_folders_and_declared_tables_are_found(warehouse: Warehouse) -> None:
    assert warehouse.tables() == [
        "raw.folder", "raw.gone", "raw.lost", "raw.set", "raw.years", "sales.days", "sales.lines", "top",
    ]  # fmt: skip
    assert values(warehouse, "top") == [1]
    assert values(warehouse, "sales.lines") == [1, 2]
    assert values(warehouse, "sales.days") == [1, 2]
    assert values(warehouse, "raw.years") == values(warehouse, "raw.folder") == [5, 6]
    assert values(warehouse, "raw.set") == [7]


def test_a_file_that_changes_is_seen_by_the_next_query(warehouse: Warehouse, tmp_path: Path) -> None:
    assert values(warehouse, "top") == [1]
    write(tmp_path / "warehouse" / "top.parquet", 1, 2, 3)
    assert values(warehouse, "top") == [1, 2, 3]
    pq.write_table(pa.table({"i": ["now text"]}), tmp_path / "warehouse" / "top.parquet")
    assert warehouse.read(Query.parse("select * from top")).to_pylist() == [{"i": "now text"}]


def test_a_common_table_expression_is_no_table_of_the_warehouse(warehouse: Warehouse) -> None:
    query = Query.parse("with nowhere as (select i from top) select sum(i) as s from nowhere, range(2)")
    assert warehouse.read(query).to_pylist() == [{"s": 2}]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("sales.lnes", "did you mean 'sales.lines'"),
        ("raw.gone", "or set TOWPATH_DATA to the folder that holds it"),
        ("raw.lost", "put the file at"),
    ],
)
def test_a_table_that_is_not_there_says_how_to_get_it(warehouse: Warehouse, table: str, said: str) -> None:
    with pytest.raises(ProjectError) as caught:
        values(warehouse, table)
    assert said in str(caught.value)


def test_a_damaged_file_is_named(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "warehouse" / "torn.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ProjectError, match=r"torn\.parquet"):
        values(warehouse, "torn")


def test_without_towpath_data_the_data_beside_the_checkout_is_taken(tmp_path: Path) -> None:
    project = tmp_path / "checkout" / "examples" / "retail"
    project.mkdir(parents=True)
    settings = WarehouseSettings(tables={"raw.set": "{TOWPATH_DATA}/rows.parquet"}, memory_mib=256, threads=1)
    lonely = open_warehouse(settings, project, {})
    with pytest.raises(ProjectError, match="'TOWPATH_DATA' is not set"):
        values(lonely, "raw.set")
    (tmp_path / "checkout" / ".git").mkdir()
    write(tmp_path / "shared" / "data" / "rows.parquet", 9)
    assert values(lonely, "raw.set") == [9]
    lonely.close()


def test_an_engine_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="did you mean 'duckdb'"):
        open_warehouse(WarehouseSettings(url="duckd://warehouse"), tmp_path, {})


def test_a_naive_time_of_a_file_is_utc(tmp_path: Path) -> None:
    (tmp_path / "warehouse").mkdir()
    pq.write_table(pa.table({"t": [datetime(2011, 1, 1)]}), tmp_path / "warehouse" / "times.parquet")
    opened = open_warehouse(WarehouseSettings(memory_mib=256, threads=1), tmp_path, {})
    assert str(opened.describe(Query.parse("select t from times")).field("t").type) == "timestamp[us, tz=UTC]"
    opened.close()


def test_more_keys_than_fit_into_memory_come_in_parts_each_key_once(tmp_path: Path) -> None:
    # given twice as many rows as keys, of which 64 MiB hold about an eighth
    keys, features = 400_000, 24
    at = np.datetime64("2026-01-01", "us")
    for hour in (0, 1):
        columns: dict[str, object] = {f"f{n}": np.full(keys, hour + n, dtype=np.float64) for n in range(features)}
        table = pa.table({"id": np.arange(keys), "at": np.full(keys, at + np.timedelta64(hour, "h")), **columns})
        path = tmp_path / "warehouse" / "marts" / "wide" / f"{hour}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    names = tuple(f"f{n}" for n in range(features))
    query = Query.parse(f"select id, at, {', '.join(names)} from marts.wide", "wide.sql")
    facts = Facts(query=query, keys=("id",), event_time="at", columns=names)
    moments = {"as_of": datetime(2026, 1, 2, tzinfo=UTC), "since": datetime(2025, 1, 1, tzinfo=UTC)}
    with_little = open_warehouse(WarehouseSettings(memory_mib=64, threads=1), tmp_path, {})
    # when the newest rows are asked for
    with with_little.newest(facts, moments) as reader:
        found = reader.read_all()
    with_little.close()
    # then each key is there once, with its later row
    assert np.array_equal(np.sort(found.column("k0").to_numpy()), np.arange(keys))
    assert set(found.column("f0").to_pylist()) == {1.0}


def test_the_newest_rows_come_in_the_order_of_their_keys_also_in_parts(tmp_path: Path) -> None:
    # given keys of two parts, numbers of every length and texts with what JSON writes otherwise
    marks = ["a", "a!", 'a"', "a\\", "é", "\n", "", "ab"]
    numbers = np.arange(30_000)
    columns: dict[str, object] = {"mark": [marks[n % 8] for n in numbers], "n": numbers, "x": numbers * 1.0}
    (tmp_path / "warehouse").mkdir()
    pq.write_table(
        pa.table({**columns, "at": np.full(30_000, np.datetime64("2026-01-01", "us"))}),
        tmp_path / "warehouse/t.parquet",
    )
    query = Query.parse("select mark, n, at, x from t", "t.sql")
    facts = Facts(query=query, keys=("mark", "n"), event_time="at", columns=("x",), in_key_order=True)
    moments = {"as_of": datetime(2026, 1, 2, tzinfo=UTC), "since": datetime(2025, 1, 1, tzinfo=UTC)}
    with_little = FileWarehouse("duckdb://warehouse", WarehouseSettings(memory_mib=64, threads=1), tmp_path, {})
    # when they come whole, and in parts
    with_little.prepare(query)
    bounds = with_little.engine.read(bounds_sql(facts, 4), moments).column(0).to_pylist()
    parts = [
        with_little.engine.read(newest_sql(facts, between=one), moments) for one in pairwise([None, *bounds, None])
    ]
    with with_little.newest(facts, moments) as reader:
        whole = reader.read_all()
    with_little.close()
    # then each is there once, in the parts as in the whole, and nearly all in the order in which the store keeps them
    assert pa.concat_tables(parts).select(whole.column_names).equals(whole)
    assert sorted(whole.column("f0").to_pylist()) == numbers.tolist()
    assert min(part.num_rows for part in parts) > 5_000
    keys = [key_bytes(row) for row in zip(whole.column("k0").to_pylist(), whole.column("k1").to_pylist(), strict=True)]
    assert sum(one > other for one, other in pairwise(keys)) < 10

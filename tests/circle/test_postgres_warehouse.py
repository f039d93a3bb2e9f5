"""The circle with its tables in PostgreSQL: the files of the project stay as they are, and say the same."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from circle_stand import begin, inside

import towpath
from postgres_server import PostgresServer
from towpath.clock import SystemClock
from towpath.sql import Query
from towpath.types import utc
from warehouse_stand import AdbcStand


@pytest.fixture(scope="module")
def moved(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, str]]:
    """A project over files, the same over PostgreSQL, and the URL that its variable holds."""
    files = begin(tmp_path_factory.mktemp("circle") / "shop")
    there = files.with_name("there")
    shutil.copytree(files, there)
    shutil.rmtree(there / "warehouse")
    stand = AdbcStand(postgres.database())
    stand.run("create schema shop")
    for path in sorted((files / "warehouse" / "shop").glob("*.parquet")):
        stand.land(pq.read_table(path), f"shop.{path.stem}")
    with (there / "towpath.toml").open("a") as file:
        file.write('\n[warehouse]\nurl = "env:SHOP_WAREHOUSE"\n')
    yield files, there, stand.url
    stand.close()


def test_the_whole_circle_runs_over_postgresql(moved: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, project, url = moved
    monkeypatch.setenv("SHOP_WAREHOUSE", url.replace("towpath@", "towpath:hunter2@"))
    inside("features", "build", "--project", project)
    inside("train", "demand", "--project", project)
    inside("gate", "demand", "--project", project)
    inside("promote", "demand", "--project", project)
    predicted = inside("predict", "demand", "--to", project / "answers.parquet", "--project", project, "--json").json
    answers = pq.read_table(project / "answers.parquet")
    assert answers.num_rows == predicted["rows"] > 0
    # a table there takes them too, run after run; one with other columns is somebody else's
    for _ in range(2):
        inside("predict", "demand", "--to", "shop.answers", "--project", project)
    with towpath.open(project) as platform:
        written = platform.warehouse.read(Query.parse("select * from shop.answers"))
    assert written.select(answers.column_names).sort_by("item_id").equals(answers.sort_by("item_id"))
    refused = inside("predict", "demand", "--to", "shop.sales", "--project", project, expect=2)
    assert "another table" in refused.err
    # the doctor names the engine, its version and its address, and nobody tells the password
    (line,) = [
        f for f in inside("doctor", "--project", project, "--json", expect=None).json if f["what"] == "warehouse"
    ]
    assert line["state"] == "ok"
    assert line["detail"].startswith("PostgreSQL 1")
    assert line["detail"].endswith(": 2 tables")
    assert "hunter2" not in line["detail"]


def test_a_training_set_is_the_same_over_files_and_over_postgresql(
    moved: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, there, url = moved
    monkeypatch.setenv("SHOP_WAREHOUSE", url)
    tables: list[pa.Table] = []
    now = SystemClock().now()
    for folder in (files, there):
        with towpath.open(folder) as platform:
            spine = platform.project.models["demand"].training
            moments = {"as_of": now, "since": utc("1900-01-01"), "until": now}
            joined = platform.features.training_set(
                spine.query, ["item_sales.*"], keys=["item_id"], time="morning", parameters=moments
            )
            tables.append(joined.sort_by([("item_id", "ascending"), ("morning", "ascending")]))
    assert tables[0].num_rows > 100
    assert tables[1].schema.equals(tables[0].schema)
    for name in tables[0].column_names:
        here, other = (table.column(name) for table in tables)
        if pa.types.is_floating(here.type):  # an average of whole numbers is worked out in decimals there
            np.testing.assert_allclose(other.to_numpy(), here.to_numpy(), rtol=1e-12)
        else:
            assert other.equals(here), name

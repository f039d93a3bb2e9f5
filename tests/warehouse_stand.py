"""A warehouse of each engine with a way to put tables into it, for every room that reads one."""

import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from towpath.settings import WarehouseSettings
from towpath.warehouse import FileWarehouse, Warehouse, open_warehouse
from towpath.warehouse.merged import Form, generated_newest_sql, generated_training_set_sql

NAMED = "TOWPATH_TEST_WAREHOUSE_URL"
"""The variable with the URL of a warehouse that others operate."""


class Stand(Protocol):
    """A warehouse and its loading ramp."""

    @property
    def warehouse(self) -> Warehouse:
        """What is asked."""
        ...

    def land(self, table: pa.Table, name: str | None = None, *, by_pandas: bool = False) -> str:
        """Put a table there and give the name that SQL calls it by; a name given must be new."""
        ...

    def close(self) -> None:
        """Let go of the warehouse."""
        ...


class FileStand:
    """DuckDB over Parquet files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "warehouse" / "marts"
        self.folder.mkdir(parents=True)
        self.warehouse: Warehouse = open_warehouse(WarehouseSettings(memory_mib=512, threads=1), folder, {})
        self._numbers = itertools.count()

    def land(self, table: pa.Table, name: str | None = None, *, by_pandas: bool = False) -> str:
        name = name or f"marts.t{next(self._numbers)}"
        path = (self.folder.parent / Path(*name.split("."))).with_suffix(".parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        if by_pandas:
            table.to_pandas().to_parquet(path, index=False)
        else:
            pq.write_table(table, path)
        return name

    def close(self) -> None:
        self.warehouse.close()


class _Generated(FileWarehouse):
    """DuckDB, asked in the form that is generated for engines that nobody runs here."""

    form: Form = "carried"

    def point_in_time(self, facts, spine, as_of, parameters=MappingProxyType({})):
        self.prepare(facts.query)
        self.engine.register("generated spine", spine)
        sql = generated_training_set_sql(facts, "duckdb", spine='"generated spine"', as_of=as_of, form=self.form)
        return self.engine.read(sql, parameters)

    @contextmanager
    def newest(self, facts, parameters=MappingProxyType({})):
        self.prepare(facts.query)
        with self.engine.stream(generated_newest_sql(facts, "duckdb"), parameters) as reader:
            yield reader


class GeneratedStand(FileStand):
    """What it proves: the form, not the words of another engine."""

    def __init__(self, folder: Path, form: Form) -> None:
        super().__init__(folder)
        self.warehouse.close()
        generated = _Generated("duckdb://warehouse", WarehouseSettings(memory_mib=512, threads=1), folder, {})
        generated.form = form
        self.warehouse = generated


class AdbcStand:
    """An engine behind ADBC; tables are ingested by its driver."""

    def __init__(self, url: str) -> None:
        import adbc_driver_postgresql.dbapi

        self.url = url
        self.warehouse = open_warehouse(WarehouseSettings(url=url, memory_mib=64, threads=1), Path(), {})
        self._landing = adbc_driver_postgresql.dbapi.connect(url, autocommit=True)
        self.run("create schema if not exists marts")
        self._numbers = itertools.count()

    def run(self, statement: str) -> None:
        with self._landing.cursor() as cursor:
            cursor.execute(statement)

    def land(self, table: pa.Table, name: str | None = None, *, by_pandas: bool = False) -> str:
        """What pandas makes of a table lands by way of pandas; a database has no nanoseconds of its own."""
        name = name or f"marts.t{next(self._numbers)}"
        schema, _, bare = name.rpartition(".")
        if by_pandas:
            table = pa.Table.from_pandas(table.to_pandas(), schema=table.schema, preserve_index=False)
        with self._landing.cursor() as cursor:
            cursor.adbc_ingest(bare, _of_microseconds(table), mode="create", db_schema_name=schema or None)
        return name

    def close(self) -> None:
        self.warehouse.close()
        self._landing.close()


class SnowflakeStand:
    """An account, or an emulator of one; tables are written there as SQL, named as SQL without quotes would name them."""

    def __init__(self, url: str, *, emulated: bool = False) -> None:
        from towpath.warehouse.snowflake import SnowflakeWarehouse

        class Emulated(SnowflakeWarehouse):
            form = "carried"  # the emulator has no ASOF join

        self.url = url
        settings = WarehouseSettings(url=url, memory_mib=64, threads=1)
        self.warehouse: Warehouse = (
            Emulated(url, settings, Path(), {}) if emulated else open_warehouse(settings, Path(), {})
        )
        self._landing = SnowflakeWarehouse(url, settings, Path(), {})
        self.run("create schema if not exists marts")
        self._numbers = itertools.count()

    def run(self, statement: str) -> None:
        with self._landing._session("") as session:
            session._run(statement)

    def land(self, table: pa.Table, name: str | None = None, *, by_pandas: bool = False) -> str:
        name = name or f"marts.t{next(self._numbers)}"
        *schema, bare = (part.upper() for part in name.split("."))
        if by_pandas:
            table = pa.Table.from_pandas(table.to_pandas(), schema=table.schema, preserve_index=False)
        table = _of_microseconds(table)
        with self._landing._session("") as session:
            for each in schema:
                session._run(f'create schema if not exists "{each}"')
            target = ".".join(f'"{part}"' for part in (*schema, bare))
            session.fill(target, table, kind="table")
        return name

    def close(self) -> None:
        self.warehouse.close()
        self._landing.close()


@contextmanager
def named_stand() -> Iterator[Stand]:
    """The warehouse that `NAMED` names: tables get names that no earlier run had, and are dropped in the end."""
    url = os.environ[NAMED]
    opened = SnowflakeStand(url) if url.startswith("snowflake:") else AdbcStand(url)
    opened._numbers = itertools.count(time.time_ns())
    landed: list[str] = []
    land = opened.land

    def kept(table: pa.Table, name: str | None = None, *, by_pandas: bool = False) -> str:
        landed.append(land(table, name, by_pandas=by_pandas))
        return landed[-1]

    opened.land = kept
    try:
        yield opened
    finally:
        for name in landed:
            opened.run(f"drop table {name}")
        opened.close()


class FakeSnowflake:
    """A private server of fakesnow on a free port; it lives in an environment of its own, because it wants another DuckDB."""

    def __init__(self, found: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process = subprocess.Popen(
            [found, "-s", "-p", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        give_up = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None, "the server ended"
                assert time.monotonic() < give_up, "the server did not start within 60 s"
                time.sleep(0.1)
            else:
                return

    def url(self, database: str) -> str:
        return f"snowflake://fake:snow@127.0.0.1:{self.port}/{database}/PUBLIC?account=fakesnow&protocol=http"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _of_microseconds(table: pa.Table) -> pa.Table:
    """Times as a database keeps them: what is finer is cut off, a zone becomes an instant."""

    def kept(column: pa.ChunkedArray) -> pa.ChunkedArray:
        if not pa.types.is_timestamp(column.type):
            return column
        zone = column.type.tz
        return column.cast(pa.timestamp("us", zone), safe=False).cast(pa.timestamp("us", zone and "UTC"))

    return pa.table({name: kept(table.column(name)) for name in table.column_names})

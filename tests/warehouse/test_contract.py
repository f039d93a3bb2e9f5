"""The contract of a warehouse, on the engines that are executed, and on any other that a URL names."""

import os
from collections.abc import Iterator

import pytest

from postgres_server import PostgresServer
from towpath.testing import WarehouseContract
from warehouse_stand import NAMED as URL
from warehouse_stand import AdbcStand, FakeSnowflake, FileStand, SnowflakeStand, Stand, named_stand

POSTGRES_LACKS = {
    "test_a_sum_of_whole_numbers_is_a_whole_number": "never: there a sum of bigint is a numeric without a scale, which may hold a fraction",
}

EMULATOR_LACKS = {
    "test_times_leave_as_utc_microseconds": "notyet: fakesnow sends a null time as a struct of nulls, which the driver reads as 1970",
    "test_a_sum_of_whole_numbers_is_a_whole_number": "notyet: fakesnow gives a sum as REAL, where Snowflake gives NUMBER(38, 0)",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    opened = FileStand(tmp_path_factory.mktemp("files"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def server(postgres: PostgresServer) -> Iterator[Stand]:
    opened = AdbcStand(postgres.database())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def named() -> Iterator[Stand]:
    """A warehouse that others run; the tables that are made in its schema ``marts`` go in the end."""
    with named_stand() as opened:
        yield opened


@pytest.fixture(scope="module")
def emulated(fake_snowflake: FakeSnowflake) -> Iterator[Stand]:
    opened = SnowflakeStand(fake_snowflake.url("CONTRACT"), emulated=True)
    yield opened
    opened.close()


class TestFiles(WarehouseContract):
    @pytest.fixture
    def stand(self, files: Stand) -> Stand:
        return files


class TestPostgres(WarehouseContract):
    lacks = POSTGRES_LACKS

    @pytest.fixture
    def stand(self, server: Stand) -> Stand:
        return server


class TestEmulatedSnowflake(WarehouseContract):
    """Through the driver that a real account takes; the SQL is run by DuckDB, and the join in its carried form."""

    lacks = EMULATOR_LACKS

    @pytest.fixture
    def stand(self, emulated: Stand) -> Stand:
        return emulated


if URL in os.environ:

    class TestByUrl(WarehouseContract):
        lacks = POSTGRES_LACKS if os.environ[URL].startswith("postgres") else {}

        @pytest.fixture
        def stand(self, named: Stand) -> Stand:
            return named

else:

    @pytest.mark.skip(reason=f"no other warehouse is named (set {URL} to its URL)")
    def test_the_contract_holds_on_the_warehouse_that_a_url_names() -> None:
        """Made of `WarehouseContract` where the variable is set."""

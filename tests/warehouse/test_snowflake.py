"""Snowflake without Snowflake: what is written for it, and what its driver says when nobody answers."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from towpath.errors import ProjectError, ResourceError, UnavailableError
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.warehouse import open_warehouse
from towpath.warehouse.faults import raise_ours
from towpath.warehouse.snowflake import _FAULTS, _lowered, _raised, _written

NOON = datetime(2011, 7, 1, 12, tzinfo=UTC)


def test_names_are_quoted_in_capitals_and_moments_are_cast() -> None:
    query = Query.parse(
        'select a.at, n / :low as half, "Odd" from marts.t as a where at < :until and day > :first and x is :none'
    )
    sql, bound = _written(query, {"until": NOON, "first": date(2011, 1, 1), "none": None, "low": 4})
    assert sql == (
        'SELECT "A"."AT", CAST("N" AS DOUBLE) / :2 AS "HALF", "Odd" FROM "MARTS"."T" AS "A" '
        'WHERE "AT" < CAST(:3 AS TIMESTAMPTZ) AND "DAY" > CAST(:1 AS DATE) AND "X" IS NULL'
    )
    assert bound == ["2011-01-01", 4, "2011-07-01T12:00:00+00:00"]


@pytest.mark.parametrize("name", ["id", "customer_id", "select", "two words", "Größe", "$1"])
def test_a_name_comes_back_as_it_went(name: str) -> None:
    assert _lowered(_raised(name)) == name


def test_neither_a_wrong_address_nor_a_broken_url_is_told_with_the_password() -> None:
    for url in (
        "snowflake://app:hunter2@127.0.0.1:1/SHOP/MARTS?account=acme&protocol=http&token=abcdefgh",
        "snowflake://app:hunter2@",
    ):
        warehouse = open_warehouse(WarehouseSettings(url=url), Path(), {})
        with pytest.raises((UnavailableError, ProjectError)) as caught:
            warehouse.tables()
        for secret in ("hunter2", "abcdefgh"):
            assert secret not in f"{caught.value} {warehouse}"


@pytest.mark.parametrize(
    ("said", "kind", "mend"),
    [
        ("390100 (08004): Incorrect username or password was specified.", ProjectError, "mend warehouse.url"),
        ("000606 (57P03): No active warehouse selected in the current session.", ProjectError, "?warehouse=NAME"),
        (
            "000630 (57014): Statement reached its statement or warehouse timeout of 60 second(s) and was canceled.",
            ResourceError,
            "time",
        ),
        (
            "003001 (42501): SQL access control error: Insufficient privileges to operate on schema 'MARTS'.",
            ProjectError,
            "create stage",
        ),
        ("dial tcp: lookup acme.snowflakecomputing.com: no such host", UnavailableError, "network"),
    ],
)
def test_what_it_says_becomes_ours(said: str, kind: type[Exception], mend: str) -> None:
    with pytest.raises(kind) as caught:
        raise_ours(OSError(said), Query.parse("select 1 as a", "v.sql"), "snowflake://acme", _FAULTS)
    assert mend in str(caught.value)

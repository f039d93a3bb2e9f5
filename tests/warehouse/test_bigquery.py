"""BigQuery without BigQuery: what would be sent, held as text and parsed; the driver takes our options and says who is away."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import sqlglot
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlglot import exp

from towpath.errors import ProjectError, ResourceError, UnavailableError
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.warehouse import Facts, open_warehouse
from towpath.warehouse.bigquery import _NAMED, BigQueryWarehouse, _Session

GOLDEN = Path(__file__).parent / "golden"
NOON = datetime(2011, 7, 1, 12, tzinfo=UTC)
VIEW = """
select shop_id, "at", spend / visits as rate from marts.daily where "at" < :until and day > :first and x is not :nothing
union all
select shop_id, "at", rate from landing.spending
"""


def session() -> _Session:
    return _Session(None, {})


def facts() -> Facts:
    return Facts(
        query=Query.parse(VIEW, "features/spending.sql"),
        keys=("shop_id",),
        event_time="at",
        ttl=timedelta(days=30),
        columns=("rate",),
    )


def spine(rows: int) -> pa.Table:
    return pa.table({"rn": range(rows), "t": [1_300_000_000_000_000] * rows, "k0": [f"shop {i}" for i in range(rows)]})


def sent() -> tuple[str, dict[str, object]]:
    from towpath.warehouse.landed import renamed

    asked = session()
    asked.ingest(
        "towpath landing.spending", pa.table({"shop_id": ["a", None], "at": [NOON, NOON], "rate": [0.5, None]})
    )
    view = renamed(facts().query, {"landing.spending": "towpath landing.spending"})
    given = {"until": NOON, "first": date(2011, 1, 1), "nothing": None}
    ((sql, bound),) = asked.joins(facts(), view, spine(2), "known", given)
    return sql, dict(bound)


def test_what_a_training_set_sends_is_as_it_was_reviewed() -> None:
    """Write it anew with ``python tests/warehouse/test_bigquery.py`` and read the difference."""
    sql, bound = sent()
    assert sql + "\n" == (GOLDEN / "bigquery_sent.sql").read_text("utf-8")
    assert bound == {
        "until": "2011-07-01T12:00:00+00:00",
        "first": "2011-01-01",
        "towpath_landing_spending": '[{"c0":"a","c1":"2011-07-01T12:00:00Z","c2":0.5},{"c0":null,"c1":"2011-07-01T12:00:00Z","c2":null}]',
        "towpath_spine": '[{"c0":0,"c1":1300000000000000,"c2":"shop 0"},{"c0":1,"c1":1300000000000000,"c2":"shop 1"}]',
    }


def test_it_parses_and_takes_exactly_the_parameters_that_are_sent() -> None:
    sql, bound = sent()
    (tree,) = sqlglot.parse(sql, read="bigquery")
    assert isinstance(tree, exp.Select)
    assert {parameter.name for parameter in tree.find_all(exp.Parameter)} == set(bound)
    assert "landing" not in {table.db for table in tree.find_all(exp.Table)}


def test_a_spine_that_does_not_fit_into_one_job_goes_in_several_and_no_row_is_lost() -> None:
    whole = spine(300_000)
    pieces = [
        bound["towpath_spine"]
        for _, bound in session().joins(facts(), Query.parse("select 1 as a"), whole, "known", {})
    ]
    assert len(pieces) > 1
    assert all(len(str(piece)) <= 7 * 2**20 for piece in pieces)
    assert [row["c0"] for piece in pieces for row in json.loads(str(piece))] == list(range(300_000))


def test_an_empty_spine_is_one_job() -> None:
    assert len(list(session().joins(facts(), Query.parse("select 1 as a"), spine(0), "known", {}))) == 1


def test_more_pushed_rows_than_a_job_takes_are_refused_by_name() -> None:
    asked = session()
    asked.ingest("towpath landing.v", pa.table({"text": ["x" * 1_000] * 8_000}))
    with pytest.raises(ResourceError, match=r"8000 pushed rows of 'v' are 7 MiB[\s\S]*load what landed"):
        asked.written(Query.parse('select * from "towpath landing.v"'), {})


@pytest.mark.parametrize(
    "url",
    [
        "bigquery://",
        "bigquery://shop",
        "bigquery:///marts",
        "bigquery://shop/marts/t",
        "bigquery://shop/marts?locaton=EU",
    ],
)
def test_a_url_that_says_too_little_or_too_much_is_refused(url: str) -> None:
    with pytest.raises(ProjectError, match=r"bigquery://PROJECT/DATASET"):
        open_warehouse(WarehouseSettings(url=url), Path(), {})


@pytest.fixture
def account(tmp_path: Path) -> str:
    """A service account that nobody knows; its token is asked for where nobody listens."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    told = {
        "type": "service_account",
        "project_id": "shop",
        "private_key_id": "1",
        "private_key": text.decode(),
        "client_email": "reader@shop.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "http://127.0.0.1:1/token",
    }
    (tmp_path / "key.json").write_text(json.dumps(told))
    return "bigquery://shop/marts?location=EU&credentials=key.json"


def test_the_driver_takes_our_options(account: str, tmp_path: Path) -> None:
    """Nothing is sent; an option that it does not know would be refused."""
    from adbc_driver_bigquery import dbapi

    warehouse = open_warehouse(WarehouseSettings(url=account), tmp_path, {})
    assert isinstance(warehouse, BigQueryWarehouse)
    with dbapi.connect(warehouse._options, autocommit=True) as connection:
        with connection.cursor(adbc_stmt_kwargs=warehouse._unqualified) as cursor:
            cursor.adbc_statement.set_options(**{"adbc.bigquery.sql.query.parameter_mode": _NAMED})
        with pytest.raises(connection.ProgrammingError), connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.bigquery.sql.query.no_such_option": "1"})


def test_an_engine_that_is_away_is_unavailable_and_nobody_waits_for_ever(
    account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("towpath.warehouse.bigquery._HOST", "bigquery.invalid")
    warehouse = open_warehouse(WarehouseSettings(url=account), tmp_path, {})
    with pytest.raises(UnavailableError, match=r"bigquery\.invalid[\s\S]*bigquery://shop/marts"):
        warehouse.tables()


def test_an_account_that_is_no_account_is_the_projects_fault(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text("{}")
    url = "bigquery://shop/marts?credentials=key.json"
    warehouse = open_warehouse(WarehouseSettings(url=url), tmp_path, {"HTTPS_PROXY": "http://127.0.0.1:1"})
    with pytest.raises(ProjectError, match="does not let us in"):
        warehouse.tables()


if __name__ == "__main__":
    (GOLDEN / "bigquery_sent.sql").write_text(sent()[0] + "\n", "utf-8")

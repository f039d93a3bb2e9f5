"""SQL for engines that nobody runs here: as reviewed, and parsed in each dialect; what it means is held by the oracle on DuckDB."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from towpath.sql import Query
from towpath.testing import WarehouseContract
from towpath.warehouse import Facts
from towpath.warehouse.merged import DIALECTS, Dialect, generated_newest_sql, generated_training_set_sql
from warehouse_stand import GeneratedStand, Stand

GOLDEN = Path(__file__).parent / "golden"
VIEW = """
select shop_id, item_id, day_end, loaded_at, spend_7d, orders / visits as rate, "Größe"
from marts.items_daily
where day_end < :until
"""


def facts(**more: object) -> Facts:
    query = Query.parse(VIEW, "features/items.sql")
    declared = {
        "keys": ("shop_id", "item_id"),
        "event_time": "day_end",
        "created_time": "loaded_at",
        "ttl": timedelta(days=30),
        "columns": ("spend_7d", "rate", "Größe"),
    }
    return Facts(query=query, **{**declared, **more})


def generated(dialect: Dialect) -> dict[str, str]:
    return {
        "training_set": generated_training_set_sql(facts(), dialect, spine="spine"),
        "newest": generated_newest_sql(facts(landed_since_us=1_300_000_000_000_000), dialect),
    }


class TestForms(WarehouseContract):
    """Both forms on DuckDB: it proves the form, and says nothing of another engine's own words."""

    @pytest.fixture(scope="module", params=["asof", "carried"])
    @staticmethod
    def stand(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
        opened = GeneratedStand(tmp_path_factory.mktemp("generated"), request.param)
        yield opened
        opened.close()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ["training_set", "newest"])
def test_the_sql_is_as_it_was_reviewed(dialect: Dialect, kind: str) -> None:
    """Write it anew with ``PYTHONPATH=tests python tests/warehouse/test_merged.py`` and read the difference."""
    assert generated(dialect)[kind] + "\n" == (GOLDEN / f"{dialect}_{kind}.sql").read_text("utf-8")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ["training_set", "newest"])
def test_it_parses_in_its_dialect_and_asks_for_nothing_that_the_engine_lacks(dialect: Dialect, kind: str) -> None:
    (tree,) = sqlglot.parse(generated(dialect)[kind], read=dialect)
    assert isinstance(tree, exp.Select)
    asof = [join for join in tree.find_all(exp.Join) if "ASOF" in {join.kind, join.method}]
    assert bool(asof) == (dialect == "snowflake" and kind == "training_set")
    assert all(join.args.get("match_condition") is not None for join in asof)
    assert not list(tree.find_all(exp.Lateral, exp.Command))
    assert not [window for window in tree.find_all(exp.Select) if window.args.get("windows")]  # Snowflake has none


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_views_parameter_is_in_the_engines_spelling(dialect: Dialect) -> None:
    spelt = {"snowflake": ":until", "bigquery": "@until", "databricks": ":until", "redshift": "%(until)s"}
    assert all(f"day_end < {spelt[dialect]}" in sql for sql in generated(dialect).values())


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in DIALECTS:
        for named, sql in generated(each).items():
            (GOLDEN / f"{each}_{named}.sql").write_text(sql + "\n", "utf-8")

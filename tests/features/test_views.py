"""A view is described by the engine and checked against its header, every fault with its line."""

from collections.abc import Iterator
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from towpath import features
from towpath.errors import InputError, ProjectError, UnknownError
from towpath.project.declarations import FeatureHeader
from towpath.project.folder import ViewFile
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.warehouse import Warehouse, open_warehouse

HEAD = '/* ---\nentity = "id"\nevent_time = "at"\n--- */\n'


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "warehouse").mkdir()
    table = pa.table({"id": [1], "at": [datetime(2011, 1, 1)], "price": [2.5], "text": ["2011-01-01"]})
    pq.write_table(table, folder / "warehouse" / "prices.parquet")
    opened = open_warehouse(WarehouseSettings(memory_mib=256, threads=1), folder, {})
    yield opened
    opened.close()


def described(warehouse: Warehouse, text: str, **header: object) -> features.View:
    query = Query.parse(text, "features/prices.sql")
    declared = FeatureHeader(**{"entity": "id", "event_time": "at", **header})  # pyright: ignore[reportArgumentType]
    return features.describe(ViewFile(name="prices", query=query, header=declared), warehouse, project="shop")


def test_names_and_types_come_from_the_engine(warehouse: Warehouse) -> None:
    view = described(
        warehouse, HEAD + "select *, price * 2 as twice, sum(id) over () as total, 1.5 as fixed from prices"
    )
    assert view.columns == (
        ("price", "double"),
        ("text", "string"),
        ("twice", "double"),
        ("total", "int64"),
        ("fixed", "double"),
    )
    assert view.key_types == ("int64",)


def test_what_changes_the_rows_changes_the_table_and_nothing_else_does(warehouse: Warehouse) -> None:
    view = described(warehouse, HEAD + "select id, at, price from prices")
    assert view.table == described(warehouse, HEAD + "select id, at, price from prices\n", ttl="1d", owner="ana").table
    assert view.table != described(warehouse, HEAD + "select id, at, price + 1 as price from prices").table
    assert view.table != described(warehouse, HEAD + "select id, at, price from prices", entity=("id", "at")).table


def test_every_fault_is_told_at_once_with_its_line(warehouse: Warehouse) -> None:
    text = '/* ---\nentity = "idd"\nevent_time = "text"\ncreated_time = "landed"\n--- */\nselect id, text from prices'
    with pytest.raises(ProjectError) as caught:
        described(warehouse, text, entity="idd", event_time="text", created_time="landed")
    assert caught.value.problems == (
        "features/prices.sql:2: the SELECT gives no column 'idd'; did you mean 'id'?",
        "features/prices.sql:4: the SELECT gives no column 'landed'; there are: 'id', 'text'",
        "features/prices.sql:3: 'text' is string and no time; cast it to timestamp in the SELECT",
    )


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ("select id, at from prices", "at least one feature"),
        ("select id, at, price, price from prices", "Two columns are named 'price'.\n  where: features/prices.sql:5"),
        ('select id, at, price, price as "Price" from prices', "Two columns are named 'price'"),
        ("select id, at, price from prices where at < now()", "not replayable"),
        ("select id, at, price from prices; select 1", "2 statements"),
        ("select id, at, price from prices where at < :nw", "unknown parameter ':nw'"),
        ("select id, at, prize from prices", 'Referenced column "prize" not found'),
        ("select id, at, price from prizes", "did you mean 'prices'"),
    ],
)
def test_a_faulty_select_is_refused_with_what_is_wrong(warehouse: Warehouse, select: str, said: str) -> None:
    with pytest.raises(ProjectError) as caught:
        described(warehouse, HEAD + select)
    assert said in str(caught.value)
    assert "features/prices.sql" in str(caught.value)


@pytest.mark.parametrize(
    ("spine", "said"),
    [
        ({"id": ["1"], "t": [datetime(2011, 1, 1)]}, "Key 'id' is string in the spine and int64 in the view 'prices'"),
        ({"id": [1.0], "t": [datetime(2011, 1, 1)]}, "Key 'id' is double in the spine and int64"),
        ({"id": [1.0, None], "t": [datetime(2011, 1, 1)] * 2}, ".astype({'id': 'Int64'})"),
        ({"id": pa.array([2**63], pa.uint64()), "t": [datetime(2011, 1, 1)]}, "goes beyond 9223372036854775807"),
        ({"id": [1], "t": ["2011-01-01"]}, "The time column 't' of the spine is string"),
        ({"idd": [1], "t": [datetime(2011, 1, 1)]}, "no column 'id'; did you mean 'idd'"),
        ({"id": [1], "time": [datetime(2011, 1, 1)]}, "no column 't'"),
        ({"id": [1], "t": [datetime(2011, 1, 1)], "prices.price": [1]}, "has a column 'prices.price' already"),
    ],
)
def test_a_spine_that_does_not_fit_is_refused(warehouse: Warehouse, spine: dict[str, object], said: str) -> None:
    view = described(warehouse, HEAD + "select id, at, price from prices")
    with pytest.raises(InputError) as caught:
        features.training_set(
            warehouse, pa.table(spine), keys=["id"], time="t", features=["prices.price"], views={"prices": view}
        )
    assert said in str(caught.value)


def test_a_view_keyed_by_what_the_spine_lacks_says_which_column(warehouse: Warehouse) -> None:
    view = described(warehouse, HEAD + "select id, at, price, text from prices", entity=("id", "text"))
    spine = pa.table({"id": [1], "t": [datetime(2011, 1, 1)]})
    with pytest.raises(InputError, match="keyed by 'text'"):
        features.training_set(warehouse, spine, keys=["id"], time="t", features=["prices.*"], views={"prices": view})


def test_keys_that_are_all_null_match_nothing_whatever_their_type(warehouse: Warehouse) -> None:
    view = described(warehouse, HEAD + "select id, at, price from prices")
    for kind in (pa.null(), pa.string(), pa.float64()):
        spine = pa.table({"id": pa.nulls(2, kind), "t": [datetime(2012, 1, 1)] * 2})
        joined = features.training_set(
            warehouse, spine, keys=["id"], time="t", features=["prices.price"], views={"prices": view}
        )
        assert joined.column("prices.price").to_pylist() == [None, None]


def test_features_come_in_the_order_asked_and_once(warehouse: Warehouse) -> None:
    view = described(warehouse, HEAD + "select id, at, price, text from prices")
    spine = pa.table({"id": [1], "t": [datetime(2012, 1, 1)]})
    joined = features.training_set(
        warehouse,
        spine,
        keys=["id"],
        time="t",
        features=["prices.text", "prices.*", "prices.text"],
        views={"prices": view},
    )
    assert joined.column_names == ["id", "t", "prices.text", "prices.price"]
    with pytest.raises(UnknownError, match="did you mean 'price'"):
        features.training_set(
            warehouse, spine, keys=["id"], time="t", features=["prices.prize"], views={"prices": view}
        )

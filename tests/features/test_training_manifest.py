"""A training set says what it was made of: the same call is proved to give the same rows, and what changed is named."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from towpath import features
from towpath.errors import FormatError, InputError, ProjectError
from towpath.features import TrainingSetManifest, manifest_of, write_training_set
from towpath.features.training_manifest import BLOCK_ROWS, SpineDigest
from towpath.project.declarations import FeatureHeader
from towpath.project.folder import ViewFile
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.types import micros, utc
from towpath.warehouse import Warehouse, open_warehouse

DAY = datetime(2011, 7, 1, tzinfo=UTC)
BEFORE_NS = 1_300_000_000_000_000_001
SPINE = pa.table({"id": ["a", "b", None, "a"], "t": [DAY, DAY, DAY, None], "label": [1, 2, 3, 4]})


class Shop:
    """A warehouse of one file, and one view of it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "warehouse" / "prices.parquet"
        self.file.parent.mkdir()
        self.land(2.5)
        self.warehouse: Warehouse = open_warehouse(WarehouseSettings(memory_mib=256, threads=1), folder, {})

    def land(self, price: float, written_ns: int = BEFORE_NS) -> None:
        pq.write_table(pa.table({"id": ["a"], "at": [DAY - timedelta(days=1)], "price": [price]}), self.file)
        os.utime(self.file, ns=(written_ns, written_ns))

    def view(self, sql: str = "select id, at, price from prices", **header: object) -> features.View:
        declared = FeatureHeader(**{"entity": "id", "event_time": "at", **header})  # pyright: ignore[reportArgumentType]
        return features.describe(
            ViewFile(name="v", query=Query.parse(sql, "v.sql"), header=declared), self.warehouse, project="shop"
        )

    def rows(self, spine: object = SPINE, view: features.View | None = None, **asked: object) -> pa.Table:
        given = {"time": "t", "features": ["v.*"], "views": {"v": view or self.view()}, **asked}
        return features.training_set(self.warehouse, spine, **given)  # pyright: ignore[reportArgumentType]

    def manifest(self, *spine: object, **asked: object) -> TrainingSetManifest:
        return manifest_of(self.rows(*spine, **asked))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.warehouse.close()


def test_the_same_call_gives_the_same_rows_and_proves_it(shop: Shop) -> None:
    one, other = shop.rows(), shop.rows()
    assert one.equals(other)
    assert manifest_of(one).same_as(manifest_of(other))
    assert manifest_of(one).differences(manifest_of(other)) == ()


def test_what_changes_the_rows_changes_the_digest_and_is_named(shop: Shop) -> None:
    first = shop.manifest()
    changed = {
        "the spine": shop.manifest(SPINE.slice(1)),
        "as_of": shop.manifest(as_of="event"),
        "the view 'v'": shop.manifest(view=shop.view("select id, at, price + 0 as price from prices")),
    }
    shop.land(3.5, BEFORE_NS + 1)
    changed["the table 'prices', which 'v' reads"] = shop.manifest()
    for words, manifest in changed.items():
        assert not first.same_as(manifest)
        assert first.digest != manifest.digest
        assert words in first.differences(manifest)
    # one that was written before views said what they read stands for the same rows
    before = structs.replace(first, views=tuple(structs.replace(view, tables=()) for view in first.views))
    assert before.digest == first.digest


def test_a_ttl_which_is_no_part_of_the_fingerprint_changes_the_digest(shop: Shop) -> None:
    one, other = shop.view(), shop.view(ttl="1h")
    assert one.fingerprint == other.fingerprint
    assert shop.manifest(view=one).differences(shop.manifest(view=other)) == ("the view 'v'",)


def test_a_label_and_the_order_of_rows_are_part_of_the_spine(shop: Shop) -> None:
    first = shop.manifest()
    other = SPINE.set_column(2, "label", pa.array([1, 2, 3, 5]))
    keyless = SPINE.take([0, 1, 2, 2])  # one more row without a key is no other view
    for spine in (other, keyless, SPINE.take([1, 0, 2, 3]), SPINE.rename_columns(["id", "t", "truth"])):
        assert first.differences(shop.manifest(spine)) == ("the spine",)


@pytest.mark.parametrize("column", [["a", None, "", "b"], [True, None, False, True], [1.5, None, float("nan"), 0.0]])
@given(cut=st.integers(0, 4), under=st.integers(0, 3))
def test_neither_chunks_nor_what_lies_under_a_null_count(column: list[object], cut: int, under: int) -> None:
    def digest(table: pa.Table) -> str:
        made = SpineDigest()
        made.add(table)
        return made.text

    array = pa.array(column)
    padded = pa.concat_arrays([array.take([under]), array])
    chunked = pa.chunked_array([padded.slice(1, cut), padded.slice(1 + cut)])
    assert digest(pa.table({"x": chunked})) == digest(pa.table({"x": array}))
    hidden = pa.chunked_array([array.fill_null(column[under] or column[0])])
    masked = pc.call_function("if_else", [array.is_valid(), hidden, pa.scalar(None, array.type)])
    assert digest(pa.table({"x": masked})) == digest(pa.table({"x": array}))
    assert digest(pa.table({"x": hidden})) != digest(pa.table({"x": array}))


def test_a_table_written_this_very_moment_proves_nothing(shop: Shop) -> None:
    shop.land(2.5, micros(utc("2100-01-01")) * 1_000)
    one, other = shop.manifest(), shop.manifest()
    assert one.digest == other.digest
    assert one.unproved == ("prices",)
    assert not one.same_as(other)


def test_keys_left_out_are_those_of_the_views(shop: Shop) -> None:
    assert shop.rows().equals(shop.rows(keys=["id"]))
    assert shop.manifest().keys == ("id",)
    with pytest.raises(InputError, match=r"keyed by 'id', which the spine does not have; did you mean 'idd'"):
        shop.rows(SPINE.rename_columns(["idd", "t", "label"]))


def test_frames_give_the_values_that_arrow_gives(shop: Shop) -> None:
    wanted = shop.rows().column("v.price").to_pylist()
    assert wanted == [2.5, None, None, None]
    by_pandas = shop.rows(SPINE.to_pandas())
    by_polars = shop.rows(pl.from_arrow(SPINE))
    assert by_pandas.to_pandas()["v.price"].fillna(0).tolist() == [2.5, 0, 0, 0]
    frame = pl.from_arrow(by_polars)
    assert isinstance(frame, pl.DataFrame)
    assert frame["v.price"].to_list() == wanted
    assert isinstance(by_pandas.to_pandas(), pd.DataFrame)


def test_a_file_has_the_rows_of_the_table_in_their_order(shop: Shop, tmp_path: Path) -> None:
    # given a spine of two whole pieces and a bit
    n = 2 * BLOCK_ROWS + 17
    keys = np.where(np.arange(n) % 3, "a", "b")
    spine = pa.table({"id": keys, "t": pa.array([DAY] * n), "row": np.arange(n)[::-1]})
    view, path = shop.view(), tmp_path / "rows.parquet"
    # when it is written piece by piece
    manifest = write_training_set(
        shop.warehouse, spine, path, time="t", features=["v.*"], views={"v": view}, piece_rows=BLOCK_ROWS
    )
    # then the rows and the proof are those of one table
    whole = shop.rows(spine, view)
    assert pq.read_table(path).equals(whole)
    assert manifest.rows == n
    assert manifest_of(path) == manifest == manifest_of(pq.read_table(path))
    assert manifest.same_as(manifest_of(whole))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.parquet", "warehouse"]


def test_a_spine_without_rows_gives_a_file_with_its_columns(shop: Shop, tmp_path: Path) -> None:
    spine = Query.parse("select id, at as t from prices where price < 0", "spine.sql")
    path = tmp_path / "rows.parquet"
    manifest = write_training_set(shop.warehouse, spine, path, time="t", features=["v.*"], views={"v": shop.view()})
    assert pq.read_table(path).column_names == ["id", "t", "v.price"]
    assert manifest.same_as(shop.manifest(spine))


def test_a_failure_in_the_midst_leaves_the_file_that_was_there(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"before")
    n, seen = BLOCK_ROWS + 1, list[int]()
    spine = pa.table({"id": ["a"] * n, "t": pa.array([DAY] * n)})

    def fails_at_the_second(table: pa.Table) -> pa.Table:
        seen.append(table.num_rows)
        if len(seen) > 1:
            raise ProjectError("No.")
        return table

    with pytest.raises(ProjectError):
        write_training_set(
            shop.warehouse,
            spine,
            path,
            time="t",
            features=["v.*"],
            views={"v": shop.view()},
            piece_rows=BLOCK_ROWS,
            finish=fails_at_the_second,
        )
    assert seen == [BLOCK_ROWS, 1]
    assert path.read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.parquet", "warehouse"]


@pytest.mark.parametrize(
    "spine", [{"id": [1], "t": [DAY]}, {"id": ["a"], "t": ["2011-07-01"]}, {"idd": ["a"], "t": [DAY]}]
)
def test_a_spine_that_does_not_fit_leaves_nothing_half_written(
    shop: Shop, tmp_path: Path, spine: dict[str, list[object]]
) -> None:
    path = tmp_path / "rows.parquet"
    with pytest.raises(InputError):
        write_training_set(shop.warehouse, pa.table(spine), path, time="t", features=["v.*"], views={"v": shop.view()})
    assert [p.name for p in tmp_path.iterdir()] == ["warehouse"]


def test_a_folder_that_is_not_there_is_refused_before_anything_runs(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_training_set(
            shop.warehouse, SPINE, tmp_path / "no" / "x.parquet", time="t", features=["v.*"], views={"v": shop.view()}
        )


def test_what_is_no_training_set_has_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no manifest"):
        manifest_of(SPINE)
    with pytest.raises(FormatError):
        manifest_of(SPINE.replace_schema_metadata({"towpath": "{}"}))
    with pytest.raises(InputError, match="Parquet"):
        manifest_of(tmp_path / "nowhere.parquet")

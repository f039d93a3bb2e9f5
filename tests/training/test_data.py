"""What train(data) is handed: the same rows in four containers, split by time."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.conftest import FEATURES, HEADER, training_set

from towpath.errors import ProjectError
from towpath.training import TrainingSet


def _data(table: pa.Table | None = None) -> TrainingSet:
    return TrainingSet(table or training_set(), HEADER, FEATURES, parameters={"rounds": 3}, seed=7)


def test_four_containers_hold_the_same_rows() -> None:
    data = _data()
    frame, wide, matrix = data.pandas.features, data.polars.features, data.numpy.features
    assert list(frame.columns) == wide.columns == data.features.column_names == list(FEATURES)
    assert frame["prices.price"].tolist() == wide["prices.price"].to_list() == matrix[:, 0].tolist()
    assert frame["prices.shop"].astype(str).tolist() == data.features["prices.shop"].to_pylist()
    assert wide["prices.shop"].dtype == pl.Enum(["north", "south"])
    assert (
        np.isnan(matrix[:, 2]).sum() == frame["sales.mean_7d"].isna().sum() == data.features["sales.mean_7d"].null_count
    )
    for rows in (data, data.pandas, data.polars, data.numpy):
        assert np.asarray(rows.label).tolist() == training_set()["sold"].to_pylist()
        assert np.asarray(rows.weight)[:6].tolist() == [2, 2, 2, 2, 2, 1]
        assert list(rows.keys["item"])[:2] in (["i0", "i1"], [pa.scalar("i0"), pa.scalar("i1")])
        assert len(rows.time) == len(rows.segments["band"]) == 1_200
    assert str(data.pandas.time.dtype) == "datetime64[us, UTC]"


@pytest.mark.parametrize("kind", ["arrow", "pandas", "polars", "numpy"])
def test_the_container_whose_features_were_read_last_is_the_one_also_in_a_part(kind: str) -> None:
    data = _data()
    _ = data.pandas.features
    _ = data.polars.label
    _ = getattr(data.train, kind).features
    _ = data.pandas.time
    assert data.container == data.validation.container == kind


def test_a_part_has_the_category_levels_of_the_whole() -> None:
    table = training_set()
    late = pa.array(["late" if day >= 55 else "early" for day in np.repeat(np.arange(60), 20)])
    data = _data(table.set_column(table.column_names.index("prices.shop"), "prices.shop", late))
    assert list(data.train.pandas.features["prices.shop"].cat.categories) == ["early", "late"]


@settings(deadline=None, max_examples=30)
@given(st.floats(0.05, 0.8))
def test_validation_is_newer_than_all_that_was_known_for_training(share: float) -> None:
    older, newer = _data().split(share)
    began = min(newer.time.to_pylist())
    assert max(older.time.to_pylist()) < began
    assert max(older.table["known_at"].to_pylist()) <= began
    assert len(older) + len(newer) + 20 >= 1_200


def test_rows_of_one_moment_cannot_be_split() -> None:
    with pytest.raises(ProjectError, match=r"leave 0 to train and 20 to validate"):
        _ = _data(training_set().slice(0, 20)).train


def test_chance_comes_from_the_seed() -> None:
    assert _data().rng.random() == _data().rng.random() == np.random.default_rng(7).random()
    assert repr(_data()) == "TrainingSet(1200 rows, 3 features, label 'sold')"

"""User code gets the container that train read, with the types and levels of training, whatever a request holds."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from towpath.models import columns_from_rows, columns_of, container, fields_of, load_version, signature_of
from towpath.models.manifest import Manifest, Signature
from towpath.types import Container, OutputKind

TABLE = pa.table(
    {
        "price": [1.5, None],
        "units": pa.array([3, 4], pa.int64()),
        "shop": ["b", "a"],
        "day": pa.array([0, 1_000_000], pa.timestamp("us", tz="UTC")),
        "open": [True, False],
    }
)
Publish = Callable[..., tuple[Manifest, Path]]


def wanted(kind: Container) -> Signature:
    return signature_of(fields_of(TABLE), kind, "number", None)


def test_levels_and_types_come_from_the_training_rows() -> None:
    fields = {field.name: field for field in fields_of(TABLE)}
    assert fields["shop"].levels == ("a", "b")
    assert fields["day"].type == "timestamp[us, tz=UTC]"
    assert [fields[name].type for name in ("price", "units", "open")] == ["double", "int64", "bool"]


@pytest.mark.parametrize("kind", ["arrow", "pandas", "polars"])
def test_training_and_one_row_of_a_request_have_the_same_types(kind: Container) -> None:
    # given the training rows and one request with an unseen shop
    signature = wanted(kind)
    row = {"price": 2.0, "units": 3, "shop": "zz", "day": "1970-01-01", "open": True}
    trained = container(columns_of(TABLE), signature)
    asked = container(columns_from_rows(signature, [row]), signature)
    # then both are of one schema, and the unseen level is null
    if kind == "arrow":
        assert trained.schema == asked.schema
        assert asked["shop"].to_pylist() == [None]
        assert trained["shop"].to_pylist() == ["b", "a"]
    elif kind == "pandas":
        assert trained.dtypes.to_dict() == asked.dtypes.to_dict()
        assert asked["shop"].isna().tolist() == [True]
        assert trained["units"].dtype == np.int64
    else:
        assert trained.schema == asked.schema
        assert asked["shop"].to_list() == [None]
        assert trained.schema["shop"] == pl.Enum(["a", "b"])


def test_numpy_gets_the_codes_of_levels() -> None:
    table = TABLE.select(["price", "shop"])
    signature = signature_of(fields_of(table), "numpy", "number", None)
    rows = container(columns_of(table), signature)
    assert rows[:, 1].tolist() == [1.0, 0.0]
    assert math.isnan(rows[1, 0])


def test_an_unseen_level_is_null_and_counted(version: Publish, features: np.ndarray) -> None:
    import lightgbm
    import pandas as pd

    # given a model trained on a categorical column
    table = pa.table({"shop": ["a", "b", "c"] * 100, "price": features[:, 0]})
    signature = signature_of(fields_of(table), "pandas", "number", None)
    frame = container(columns_of(table), signature)
    label = frame["shop"].cat.codes * 10.0
    booster = lightgbm.train(
        {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}, lightgbm.Dataset(frame, label), 10
    )
    model = load_version(*version(booster, signature))
    # when known, unseen and null shops are asked
    rows = [{"shop": shop, "price": 0.0} for shop in ("a", "c", "zz", None)]
    answer = model.predict(columns_from_rows(signature, rows))["prediction"]
    # then they are what LightGBM gives for the same frame, and the unseen one was counted
    shops = pd.Categorical(["a", "c", None, None], categories=["a", "b", "c"])
    assert answer == pytest.approx(booster.predict(pd.DataFrame({"shop": shops, "price": 0.0})))
    assert dict(model.unseen) == {"shop": 1}


def test_a_bare_lightgbm_file_knows_its_levels(tmp_path: Path, features: np.ndarray) -> None:
    import lightgbm
    import pandas as pd

    from towpath.models import load_file

    frame = pd.DataFrame({"shop": pd.Categorical(["a", "b", "c"] * 100), "price": features[:, 0]})
    label = frame["shop"].cat.codes * 10.0
    lightgbm.train({"verbose": -1, "min_data_in_leaf": 5}, lightgbm.Dataset(frame, label), 10).save_model(
        tmp_path / "m"
    )
    model = load_file(tmp_path / "m", name="demand")
    assert model.signature.inputs[0].levels == ("a", "b", "c")
    answer = model.predict(columns_from_rows(model.signature, [{"shop": "c", "price": 1.0}]))["prediction"]
    assert answer[0] > 10


@pytest.mark.parametrize("framework", ["lightgbm", "xgboost", "catboost", "sklearn"])
@pytest.mark.parametrize("kind", ["class", "probability"])
def test_a_classifier_gives_label_and_probabilities(
    framework: str,
    kind: OutputKind,
    version: Publish,
    plain: Callable[..., Signature],
    features: np.ndarray,
    tmp_path: Path,
) -> None:
    # given one classifier of each framework, over two labels
    label = (features[:, 0] > 0).astype(int)
    trained = classifier(framework).fit(features, label)
    model = load_version(*version(trained, plain("numpy", kind, trained), kind=kind))
    # when it answers
    answer = model.predict({f"c{i}": features[:, i] for i in range(4)})
    # then the prediction is the label, or the probability of the last one, as declared
    expected = trained.predict_proba(features)
    if kind == "class":
        assert answer["probabilities"] == pytest.approx(expected, abs=1e-6)
        assert [int(value) for value in answer["prediction"]] == trained.predict(features).tolist()
    else:
        assert answer["prediction"] == pytest.approx(expected[:, 1], abs=1e-6)


def classifier(framework: str) -> Any:
    match framework:
        case "lightgbm":
            import lightgbm

            return lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1)
        case "xgboost":
            import xgboost

            return xgboost.XGBClassifier(n_estimators=5, n_jobs=1)
        case "catboost":
            import catboost

            return catboost.CatBoostClassifier(iterations=5, verbose=False, allow_writing_files=False, thread_count=1)
        case _:
            from sklearn.ensemble import HistGradientBoostingClassifier

            return HistGradientBoostingClassifier(max_iter=5)

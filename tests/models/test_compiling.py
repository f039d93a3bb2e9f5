"""A model's ONNX form answers as its own form does, or is not served."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from towpath.errors import RefusedError
from towpath.models import columns_from_tensor, compile_file, load_file, load_version
from towpath.models.compiling import compiled
from towpath.models.manifest import Manifest, Signature
from towpath.project.declarations import ServingDeclaration

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["model.txt", "model.json", "model.ubj", "model.skops"])
def test_a_file_answers_the_same_in_the_form_of_onnx(name: str, files: dict[str, Path], features: np.ndarray) -> None:
    own = load_file(files[name], name="demand")
    other = compile_file(own, files[name], name="demand")
    assert (other.format, other.signature, other.kind) == ("onnx", own.signature, own.kind)
    columns = columns_from_tensor(own.signature, features)
    first = own.signature.outputs[0].name
    holed = columns_from_tensor(own.signature, np.where(features > 1, np.nan, features)[:40])
    for row in range(40):
        one = {key: values[row : row + 1] for key, values in holed.items()}
        assert other.predict(one)[first] == pytest.approx(own.predict(one)[first], rel=1e-4, abs=1e-4)
    assert other.predict(columns)[first] == pytest.approx(own.predict(columns)[first], rel=1e-4, abs=1e-4)


def test_classes_keep_their_labels(features: np.ndarray, tmp_path: Path) -> None:
    import lightgbm
    import skops.io
    from sklearn.linear_model import LogisticRegression

    label = np.where(features[:, 0] > 0.5, 2, np.where(features[:, 0] > 0, 1, 0))
    booster = lightgbm.train(
        {"verbose": -1, "objective": "multiclass", "num_class": 3, "num_threads": 1},
        lightgbm.Dataset(features, label),
        5,
    )
    booster.save_model(tmp_path / "m.txt")
    skops.io.dump(LogisticRegression().fit(features, np.array(["no", "so", "yes"])[label]), tmp_path / "m.skops")
    for name in ("m.txt", "m.skops"):
        own = load_file(tmp_path / name, name="sort")
        other = compile_file(own, tmp_path / name, name="sort")
        columns = columns_from_tensor(own.signature, features)
        mine, given = own.predict(columns), other.predict(columns)
        assert given["prediction"].tolist() == mine["prediction"].tolist()
        assert given["probabilities"] == pytest.approx(mine["probabilities"], abs=1e-5)


def test_a_version_that_declares_it_is_served_so(
    version: Callable[..., tuple[Manifest, Path]],
    plain: Callable[..., Signature],
    features: np.ndarray,
    label: np.ndarray,
) -> None:
    import lightgbm

    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(features, label), 5)
    manifest, folder = version(booster, plain())
    model = load_version(msgspec.structs.replace(manifest, serving=ServingDeclaration(compile="onnx")), folder)
    assert model.format == "onnx"
    answer = model.predict(columns_from_tensor(model.signature, features))["prediction"]
    assert answer == pytest.approx(booster.predict(features), abs=1e-4)


def test_a_form_that_answers_otherwise_is_refused_with_the_worst_row(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a converter that converts another model
    own = load_file(files["model.txt"], name="demand")
    from sklearn.linear_model import LinearRegression

    wrong: Any = LinearRegression().fit(np.eye(4), [5.0, 0.0, 0.0, 0.0])
    monkeypatch.setattr(own, "format", "skops")
    with pytest.raises(
        RefusedError, match=r"it answers otherwise: .* where its own form says .* for Column_0="
    ) as fault:
        compiled(own, files["model.txt"], "demand", trained=lambda: wrong)
    assert fault.value.where == "serving.compile"


def test_what_has_no_converter_serves_in_its_own_form_and_says_so(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    own = load_file(files["model.cbm"], name="demand")
    assert compile_file(own, files["model.cbm"], name="demand") is own
    assert "demand: its own form (catboost) serves" in caplog.text
    assert "no converter for the format 'catboost'" in caplog.text

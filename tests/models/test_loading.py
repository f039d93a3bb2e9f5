"""Bare files of each format and whole versions answer as their framework does."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from towpath.errors import ExtraError, FormatError, ModelError, RefusedError
from towpath.models import Model, columns_from_rows, columns_from_tensor, load_file, load_version, save
from towpath.models.manifest import Manifest, Signature

Publish = Callable[..., tuple[Manifest, Path]]
SUFFIXES = ["model.txt", "model.json", "model.ubj", "model.cbm", "model.skops", "model.onnx"]


def reference(path: Path, features: np.ndarray) -> np.ndarray:
    """What the framework itself answers."""
    match path.suffix:
        case ".txt":
            import lightgbm

            return np.asarray(lightgbm.Booster(model_file=path).predict(features))
        case ".json" | ".ubj":
            import xgboost

            return xgboost.Booster(model_file=path).inplace_predict(features)
        case ".cbm":
            import catboost

            return catboost.CatBoostRegressor().load_model(str(path)).predict(features)
        case ".skops":
            import skops.io

            return skops.io.load(path, trusted=["sklearn.tree._tree.Tree"]).predict(features)
        case _:
            import onnxruntime

            session: Any = onnxruntime.InferenceSession(path.read_bytes())
            return session.run(None, {"X": features.astype(np.float32)})[0][:, 0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bare_file_answers_as_its_framework_does(
    suffix: str, files: dict[str, Path], loaded: dict[str, Model], features: np.ndarray
) -> None:
    # given a file whose name says nothing
    model = loaded[suffix]
    # when one row, a few and many are asked
    for rows in (1, 7, 300):
        columns = columns_from_tensor(model.signature, features[:rows])
        answer = model.predict(columns)
        # then the answers are the framework's own
        first = answer[model.signature.outputs[0].name]
        assert first.shape == (rows,)
        assert first == pytest.approx(reference(files[suffix], features[:rows]), rel=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_and_a_tensor_give_the_same_answer(suffix: str, loaded: dict[str, Model], features: np.ndarray) -> None:
    model = loaded[suffix]
    names = [field.name for field in model.signature.inputs]
    rows = [dict(zip(names, row, strict=True)) for row in features[:5].tolist()]
    by_rows = model.predict(columns_from_rows(model.signature, rows))
    by_tensor = model.predict(columns_from_tensor(model.signature, features[:5]))
    first = model.signature.outputs[0].name
    assert by_rows[first].tolist() == by_tensor[first].tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_many_threads_get_their_own_answers(suffix: str, loaded: dict[str, Model], features: np.ndarray) -> None:
    model = loaded[suffix]
    first = model.signature.outputs[0].name
    expected = model.predict(columns_from_tensor(model.signature, features))[first]

    def ask(row: int) -> float:
        return float(model.predict(columns_from_tensor(model.signature, features[row : row + 1]))[first][0])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [row % 100 for row in range(400)]))
    assert answers == pytest.approx([expected[row % 100] for row in range(400)], rel=1e-6)


def test_data_only_trees_are_called_inline(files: dict[str, Path]) -> None:
    assert load_file(files["model.txt"], name="demand").inline
    assert not load_file(files["model.skops"], name="demand").inline


def test_a_missing_framework_is_named_with_its_install_line(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in EXTRAS else found(name, *a))
    for suffix, extra in {
        "txt": "lightgbm",
        "ubj": "xgboost",
        "cbm": "catboost",
        "onnx": "onnx",
        "skops": "sklearn",
    }.items():
        with pytest.raises(ExtraError, match=rf"uv add 'towpath\[{extra}\]'"):
            load_file(files[f"model.{suffix}"], name="demand")


EXTRAS = {"lightgbm", "xgboost", "catboost", "onnxruntime", "skops"}


def test_a_version_of_lightgbm_without_predict_is_answered_by_our_own_runtime(
    version: Publish, plain: Callable[..., Signature], features: np.ndarray, label: np.ndarray
) -> None:
    import lightgbm

    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(features, label), 5)
    model = load_version(*version(booster, plain("pandas")))
    assert (model.format, model.inline) == ("lightgbm", True)
    answer = model.predict(columns_from_tensor(model.signature, features))["prediction"]
    assert answer == pytest.approx(booster.predict(features))


def test_predict_of_the_project_gets_the_trained_object_and_the_container_that_train_read(
    version: Publish,
    plain: Callable[..., Signature],
    project: Callable[..., Path],
    features: np.ndarray,
    label: np.ndarray,
) -> None:
    import lightgbm

    root = project(
        "from scaling import doubled\n"
        "def train(data): ...\n"
        "def predict(model, rows):\n"
        "    assert type(rows).__name__ == 'DataFrame', type(rows)\n"
        "    return doubled(model.predict(rows))\n"
        "def fallback(rows):\n"
        "    return rows['c0'] * 10\n",
        scaling="def doubled(x):\n    return 2 * x\n",
    )
    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(features, label), 5)
    model = load_version(*version(booster, plain("pandas"), root=root, own_predict=True))
    columns = columns_from_tensor(model.signature, features[:3])
    assert model.predict(columns)["prediction"] == pytest.approx(2 * booster.predict(features[:3]))
    assert model.fallback("fallback", columns) == pytest.approx(features[:3, 0] * 10)
    assert not model.inline


def test_two_versions_of_one_project_live_in_one_process(
    version: Publish, plain: Callable[..., Signature], project: Callable[..., Path], features: np.ndarray
) -> None:
    # given two versions whose sibling module differs
    code = "from models.demand import rate\nimport factor\ndef predict(model, rows):\n    return rows[:, 0] * factor.F + rate.R\n"
    old = version({}, plain(), number=1, root=project(code, factor="F = 1", models__demand__rate="R = 0"))
    new = version({}, plain(), number=2, root=project(code, factor="F = 3", models__demand__rate="R = 1"))
    # when both are loaded and asked in turns
    first, second = load_version(*old), load_version(*new)
    columns = columns_from_tensor(first.signature, features[:4])
    # then each uses its own code, and nothing of either is visible to the rest of the process
    for _ in range(2):
        assert first.predict(columns)["prediction"] == pytest.approx(features[:4, 0])
        assert second.predict(columns)["prediction"] == pytest.approx(features[:4, 0] * 3 + 1)
    assert "factor" not in sys.modules


def test_an_exception_in_predict_is_a_model_error_that_names_the_line_of_the_project(
    version: Publish, plain: Callable[..., Signature], project: Callable[..., Path], features: np.ndarray
) -> None:
    root = project("def predict(model, rows):\n    return 1 / 0\n")
    model = load_version(*version({}, plain(), root=root))
    with pytest.raises(ModelError, match="ZeroDivisionError") as fault:
        model.predict(columns_from_tensor(model.signature, features[:1]))
    assert fault.value.where.endswith("models/demand/model.py:2")


@pytest.mark.parametrize("body", ["[1.0]", "1.0", "{'other': [1.0, 2.0]}"])
def test_a_wrong_number_of_answers_is_a_model_error(
    body: str, version: Publish, plain: Callable[..., Signature], project: Callable[..., Path], features: np.ndarray
) -> None:
    root = project(f"def predict(model, rows):\n    return {body}\ndef short(rows):\n    return {body}\n")
    model = load_version(*version({}, plain(), root=root))
    columns = columns_from_tensor(model.signature, features[:3])
    with pytest.raises(ModelError):
        model.predict(columns)
    with pytest.raises(ModelError):
        model.fallback("short", columns)
    with pytest.raises(ModelError, match="did you mean 'short'"):
        model.fallback("shrt", columns)


@pytest.mark.parametrize(
    ("framework", "wrote"), [("lightgbm", "3.3.2"), ("sklearn", "0.24.1"), ("xgboost", "1.7.0"), ("onnxruntime", "9.0")]
)
def test_another_major_version_is_refused_with_what_to_install(
    framework: str, wrote: str, version: Publish, plain: Callable[..., Signature]
) -> None:
    manifest, folder = version({}, plain(), framework=framework, framework_version=wrote)
    with pytest.raises(RefusedError, match=rf"(?s)written by .* {wrote};.*>={wrote.split('.', maxsplit=1)[0]},<"):
        load_version(manifest, folder)


def test_a_file_of_another_format_than_the_manifest_says_is_refused(
    version: Publish, plain: Callable[..., Signature], files: dict[str, Path]
) -> None:
    manifest, folder = version({}, plain(), format="lightgbm")
    with pytest.raises(FormatError, match="should be lightgbm and is pickle"):
        load_version(manifest, folder)


def test_a_class_of_the_project_is_pickled_and_found_again(
    version: Publish, plain: Callable[..., Signature], project: Callable[..., Path], features: np.ndarray
) -> None:
    from towpath.models import pack_code, project_module

    root = project(
        "class Mean:\n"
        "    def __init__(self, value): self.value = value\n"
        "    def predict(self, rows): return [self.value] * len(rows)\n"
        "def train(data): return Mean(3.5)\n"
    )
    module = project_module(pack_code(root, root / "models" / "demand"), "demand", root=root)
    manifest, folder = version(module.train(None), plain(), root=root)
    assert manifest.artefact.format == "pickle"
    model = load_version(manifest, folder)
    assert model.predict(columns_from_tensor(model.signature, features[:2]))["prediction"].tolist() == [3.5, 3.5]


def test_what_train_returned_must_be_something_that_can_be_kept(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="returned nothing"):
        save(None, tmp_path)
    with pytest.raises(RefusedError, match="cannot be kept"):
        save(lambda: 1, tmp_path)
    with pytest.raises(RefusedError, match="skops list"):
        save(np.random.default_rng, tmp_path, "skops")

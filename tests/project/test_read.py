"""A project folder becomes frozen values that say what people wrote."""

import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from towpath.errors import ProjectError
from towpath.project import read
from towpath.project.declarations import ModelDeclaration
from towpath.project.faults import Declared
from towpath.project.lines import Lines


def test_everything_that_was_declared_is_there(shop: Path) -> None:
    project = read(shop, {})
    model = project.models["demand"]
    assert (project.name, project.team) == ("shop", "forecasting")
    assert project.views["item_sales"].header.keys == ("item_id",)
    assert model.declaration.gate.beside == ("bias", "short_units")
    assert model.training.header.segments == ("price_band",)
    assert model.training.query.parameters == ("as_of",)
    assert model.has_predict
    assert set(model.code.functions) == {"train", "predict", "same_as_last_week", "_matrix"}
    assert model.golden == model.folder / "golden.jsonl"
    assert project.monitors["demand/too_low"].header.model == "demand"


def test_built_in_metrics_are_there_and_a_projects_own_wins(shop: Path) -> None:
    assert {"wape", "bias", "mae", "mse", "brier", "logloss", "accuracy", "short_units", "hit_rate", "mrr"} == set(
        read(shop, {}).metrics
    )
    own = (shop / "metrics" / "short_units.sql").read_text()
    (shop / "metrics" / "wape.sql").write_text(own)
    metric = read(shop, {}).metrics["wape"]
    assert (metric.built_in, metric.query.path) == (False, "metrics/wape.sql")


def test_a_project_is_frozen(shop: Path) -> None:
    project = read(shop, {})
    with pytest.raises(AttributeError):
        project.settings = None  # type: ignore[misc]


def test_variables_and_environments_reach_the_settings(shop: Path) -> None:
    with (shop / "towpath.toml").open("a") as file:
        file.write("\n[environments.production.serving]\nworkers = 4\nport = 80\n")
    settings = read(shop, {"TOWPATH_ENV": "production", "TOWPATH__SERVING__PORT": "81"}).settings
    assert (settings.environment, settings.serving.workers, settings.serving.port) == ("production", 4, 81)


def test_a_missing_golden_file_is_none(shop: Path) -> None:
    (shop / "models" / "demand" / "golden.jsonl").unlink()
    assert read(shop, {}).models["demand"].golden is None


def test_the_error_says_how_many_and_where_and_survives_pickling(shop: Path) -> None:
    (shop / "models" / "demand" / "model.py").unlink()
    with pytest.raises(ProjectError, match=r"1 problem in 'shop'") as caught:
        read(shop, {})
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert "models/demand/model.py:1: the file is missing; it holds train(data)" in str(again)


def test_reading_parses_no_sql_and_loads_nothing_heavy(shop: Path) -> None:
    code = f"import sys; from towpath.project import read; read({str(shop)!r}, {{}}); print('sqlglot' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_model_in_a_group_keeps_its_own_name(shop: Path) -> None:
    (shop / "models" / "ordering").mkdir()
    (shop / "models" / "demand").rename(shop / "models" / "ordering" / "demand")
    assert read(shop, {}).models["demand"].folder == shop / "models" / "ordering" / "demand"


def test_a_relative_folder_becomes_absolute(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.parent)
    assert read("shop", {}).folder == shop


def test_declarations_can_be_stored_and_read_again(shop: Path) -> None:
    declaration = read(shop, {}).models["demand"].declaration
    assert msgspec.json.decode(msgspec.json.encode(declaration), type=type(declaration)) == declaration


@pytest.mark.parametrize(
    "file", ["src/towpath/demo/project/models/demand/model.toml", "examples/retail/models/demand/model.toml"]
)
def test_a_right_declaration_is_read_as_msgspec_itself_would(file: str) -> None:
    text = (Path(__file__).parents[2] / file).read_text("utf-8")
    declared = Declared(file, Lines(text))
    assert declared.read(ModelDeclaration, tomllib.loads(text)) == msgspec.convert(
        tomllib.loads(text), ModelDeclaration
    )
    assert declared.problems == []

"""``tow init`` writes a project that runs, and harms nothing."""

import ast
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.clock import FixedClock
from towpath.errors import InputError, ProjectError
from towpath.project import Answers, init, problems, read
from towpath.project.start import sales, toml_string
from towpath.warehouse import open_warehouse

CLOCK = FixedClock("2026-03-01T10:00")
ANSWERS = Answers(name="shop", team="forecasting", stop_when='it is "no better"')


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    written = init(tmp_path, ANSWERS, clock=CLOCK)
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "metrics" / "short_units.sql").unlink()
    assert len(written) == 11
    assert init(tmp_path, Answers(name="other"), clock=CLOCK) == []
    assert (tmp_path / "README.md").read_text() == "mine"
    assert not (tmp_path / "metrics" / "short_units.sql").exists()


def test_an_interrupted_run_is_completed(tmp_path: Path) -> None:
    init(tmp_path, ANSWERS, clock=CLOCK)
    for name in ("towpath.toml", "models/demand/model.py"):
        (tmp_path / name).unlink()
    (tmp_path / "models" / "demand" / ".model.py.unfinished").write_text("def tr")
    assert init(tmp_path, ANSWERS, clock=CLOCK) == ["models/demand/model.py", "towpath.toml"]
    assert problems(tmp_path, {}) == []


def test_a_folder_with_other_peoples_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(ProjectError, match=r"thesis\.docx"):
        init(tmp_path, ANSWERS, clock=CLOCK)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_repository_with_a_readme_is_welcome_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / "README.md").write_text("mine")
    assert "README.md" not in init(tmp_path, ANSWERS, clock=CLOCK)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("")
    with pytest.raises(ProjectError, match="is a file"):
        init(tmp_path / "shop", ANSWERS, clock=CLOCK)


def test_a_name_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="My Shop"):
        init(tmp_path / "new", Answers(name="My Shop"), clock=CLOCK)
    assert not (tmp_path / "new").exists()


def test_answers_reach_the_charter_as_they_are_written(tmp_path: Path) -> None:
    init(tmp_path, Answers(name="shop", owner='O\'Hara \\ "x"', decision="a\nb = 1"), clock=CLOCK)
    declaration = read(tmp_path, {}).models["demand"].declaration
    assert (declaration.owner, declaration.charter.decision) == ('O\'Hara \\ "x"', "a\nb = 1")


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])))
def test_any_text_survives_as_a_toml_string(text: str) -> None:
    import tomllib

    assert tomllib.loads(f"a = {toml_string(text)}") == {"a": text}


def test_the_git_ignore_keeps_state_and_keys_out(tmp_path: Path) -> None:
    init(tmp_path, ANSWERS, clock=CLOCK)
    assert ".towpath/" in (tmp_path / ".gitignore").read_text().splitlines()


def test_sales_end_yesterday_and_are_the_same_every_time() -> None:
    one, two = (sales(date(2026, 3, 1), np.random.default_rng(7)) for _ in range(2))
    assert one.equals(two)
    assert max(one["day"].to_pylist()) == date(2026, 2, 28)
    assert max(one["landed_at"].to_pylist()) == datetime(2026, 3, 1, 2, tzinfo=UTC)
    assert one.schema.field("landed_at").type == pa.timestamp("us", "UTC")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The project, and the namespace of its model.py."""
    folder = tmp_path_factory.mktemp("started")
    init(folder, ANSWERS, clock=CLOCK)
    space: dict[str, Any] = {}
    exec(compile(ast.parse((folder / "models/demand/model.py").read_text()), "model.py", "exec"), space)
    return folder, space


def test_its_sql_runs_and_its_model_beats_its_fallback_on_the_holdout(started: tuple[Path, dict[str, Any]]) -> None:
    # given the rows that the view and the spine give, joined where times meet
    folder, code = started
    project = read(folder, {})
    warehouse = open_warehouse(project.settings.warehouse, folder, {})
    as_of = {"as_of": CLOCK.now()}
    spine = warehouse.read(project.models["demand"].training.query, as_of).to_pylist()
    view = {
        (r["item_id"], r["day_end"]): r for r in warehouse.read(project.views["item_sales"].query, as_of).to_pylist()
    }
    warehouse.close()
    rows = [(row, view[row["item_id"], row["morning"].replace(hour=0)]) for row in spine]
    labelled = [pair for pair in rows if pair[0]["units_next_7d"] is not None]
    assert len(rows) == 24 * 112
    assert len(labelled) == 24 * 105
    # when it trains on the older ones
    split = datetime(2026, 2, 9, tzinfo=UTC)

    class Data:
        def __init__(self, pairs: list[Any]) -> None:
            names = ("units_7d", "units_a_week_28d", "price_eur")
            self.features = pa.table({f"item_sales.{n}": [f[n] for _, f in pairs] for n in names})
            self.label = pa.array([row["units_next_7d"] for row, _ in pairs])

    train = Data([pair for pair in labelled if pair[0]["known_at"] <= split])
    held = Data([pair for pair in labelled if pair[0]["morning"] >= split])
    model = code["train"](train)
    # then it is better than last week's sales, and the golden cases hold
    actual = np.asarray(held.label)
    wape = {
        name: np.abs(answer - actual).sum() / actual.sum()
        for name, answer in (
            ("model", code["predict"](model, held.features)),
            ("last week", code["same_as_last_week"](held.features)),
        )
    }
    assert wape["model"] < 0.95 * wape["last week"]


def test_its_golden_cases_are_what_the_model_answers(started: tuple[Path, dict[str, Any]]) -> None:
    import msgspec

    folder, code = started
    table = pq.read_table(folder / "warehouse/shop/sales.parquet")
    assert table.num_rows == 24 * 112
    model = {"weights": [0.2, 0.78, 0.0, 0.5]}
    for line in (folder / "models/demand/golden.jsonl").read_text().splitlines():
        case = msgspec.json.decode(line)
        rows = pa.table({name: [value] for name, value in case["request"].items()})
        assert abs(code["predict"](model, rows)[0] - case["answer"]) <= case["tolerance"]

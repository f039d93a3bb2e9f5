"""The demo project: it is sound, its SQL keeps its promises, and its model beats the mean that it falls back on."""

import importlib.util
import json
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from towpath import project
from towpath.demo.files import write_project
from towpath.demo.story import STORY
from towpath.warehouse import Engine, open_warehouse

AS_OF = STORY.morning(0)


@pytest.fixture(scope="session")
def spine(demo: Path) -> pa.Table:
    found = project.read(demo, {})
    return open_warehouse(found.settings.warehouse, demo, {}).read(
        found.models["demand"].training.query, {"as_of": AS_OF}
    )


def test_the_demo_project_has_no_problem(demo: Path) -> None:
    assert project.problems(demo) == []


def test_writing_the_project_again_keeps_what_was_edited(tmp_path: Path) -> None:
    first = write_project(tmp_path)
    assert {"towpath.toml", "models/demand/model.toml", "features/prices.sql"} < set(first)
    (tmp_path / "towpath.toml").write_text("# mine\n")
    assert write_project(tmp_path) == []
    assert (tmp_path / "towpath.toml").read_text() == "# mine\n"


def test_the_spine_has_one_row_for_each_item_and_morning(spine: pa.Table) -> None:
    assert len(spine) == 120 * (STORY.start - STORY.history_since).days
    assert len(spine.group_by(["item_id", "morning"]).aggregate([])) == len(spine)
    assert pc.max(spine["morning"]).as_py() == AS_OF


def test_a_label_is_null_until_it_is_known_and_known_after_its_seven_days(spine: pa.Table) -> None:
    known = pc.less_equal(spine["known_at"], pa.scalar(AS_OF, spine["known_at"].type))
    assert known.equals(pc.is_valid(spine["units_next_7d"]))
    wait = spine["known_at"].to_numpy() - spine["morning"].to_numpy()
    assert wait.min() == np.timedelta64(7, "D")
    assert spine.filter(pc.equal(spine["morning"], AS_OF))["units_next_7d"].null_count == 120


def test_the_future_in_the_warehouse_does_not_reach_the_spine(demo: Path, spine: pa.Table, tmp_path: Path) -> None:
    # given a warehouse that ends where the story begins, while `spine` was read from one that goes on
    import pyarrow.parquet as pq

    write_project(tmp_path)
    (tmp_path / "warehouse" / "shop").mkdir(parents=True)
    for path in (demo / "warehouse" / "shop").glob("*.parquet"):
        table = pq.read_table(path)
        if path.stem == "sales":
            table = table.filter(pc.less(table["day"], pa.scalar(STORY.start)))
        pq.write_table(table, tmp_path / "warehouse" / "shop" / path.name)
    found = project.read(tmp_path, {})
    cut = open_warehouse(found.settings.warehouse, tmp_path, {}).read(
        found.models["demand"].training.query, {"as_of": AS_OF}
    )
    # then both are the same
    order = [("morning", "ascending"), ("item_id", "ascending")]
    assert cut.sort_by(order).equals(spine.sort_by(order))


def test_the_model_beats_the_recent_mean_it_falls_back_on(demo: Path, spine: pa.Table) -> None:
    # given what was known at each morning, the last four weeks held out
    model = _model(demo)
    rows = _with_features(demo, spine)
    start = AS_OF - timedelta(days=35)
    fitted = model.train(_Data(rows[rows.known_at <= start], _parameters(demo)))
    held_out = rows[(rows.morning > start) & rows.units_next_7d.notna()]
    # when both are measured
    features, actual = held_out[_features(held_out)], held_out.units_next_7d.to_numpy()
    wape = {
        who: np.abs(answer - actual).sum() / actual.sum()
        for who, answer in (("model", model.predict(fitted, features)), ("mean", model.recent_mean(features)))
    }
    # then the model is better by a tenth, and answers the golden cases
    assert wape["model"] < 0.9 * wape["mean"]
    for line in (demo / "models" / "demand" / "golden.jsonl").read_text().splitlines():
        case = json.loads(line)
        row = features.iloc[:1].assign(**{k: v for k, v in case["request"].items() if k in features})
        assert model.predict(fitted, row)[0] == pytest.approx(case["answer"], abs=case["tolerance"])


def test_the_fallback_has_no_answer_for_an_item_without_a_past(demo: Path) -> None:
    import pandas as pd

    rows = pd.DataFrame({"sales_windows.units_28d": [28.0, None]})
    answer = _model(demo).recent_mean(rows)
    assert answer[0] == 7
    assert np.isnan(answer[1])


def test_the_price_monitor_finds_the_day_in_cents_and_no_other(demo: Path) -> None:
    import pyarrow.parquet as pq

    monitor = project.read(demo, {}).monitors["demand/price_list"]
    engine = Engine()
    engine.register("price_list", pq.read_table(demo / "warehouse" / "shop" / "prices.parquet"))
    failing = {}
    for day in range(10):
        until = STORY.morning(day).replace(hour=0) + timedelta(days=1)
        parameters = {"since": until - timedelta(days=1), "until": until, **monitor.header.parameters}
        failing[day] = len(engine.read(monitor.query, parameters))
    assert [day for day, rows in failing.items() if rows] == [8]
    assert failing[8] == 123


def test_the_story_is_in_order_and_within_its_days() -> None:
    days = [event.day for event in STORY.events]
    assert days == sorted(days)
    assert 0 < days[0] <= days[-1] < STORY.days


class _Data:
    """As much of a training set as this model reads."""

    def __init__(self, rows: object, parameters: dict[str, float]) -> None:
        self.pandas = self
        self.features = rows[_features(rows)]  # type: ignore[index]
        self.label = rows["units_next_7d"]  # type: ignore[index]
        self.parameters = parameters
        self.seed = 7


def _features(rows: object) -> list[str]:
    return [name for name in rows.columns if "." in name]  # type: ignore[attr-defined]


def _parameters(folder: Path) -> dict[str, float]:
    return dict(project.read(folder, {}).models["demand"].declaration.train.parameters)  # type: ignore[arg-type]


def _model(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_model", folder / "models" / "demand" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _with_features(folder: Path, spine: pa.Table) -> object:
    """Point-in-time by hand, so that this test needs no room but the warehouse."""
    found = project.read(folder, {})
    warehouse = open_warehouse(found.settings.warehouse, folder, {})
    engine = Engine()
    engine.register("spine", spine)
    parts = []
    for name, view in found.views.items():
        table = warehouse.read(view.query)
        engine.register(name, table)
        header = view.header
        known = f"greatest({header.event_time}, {header.created_time or header.event_time})"
        features = [c for c in table.column_names if c not in {*header.keys, header.event_time, header.created_time}]
        chosen = ", ".join(f'{name}.{c} as "{name}.{c}"' for c in features)
        parts.append(
            (
                f"asof left join (select *, {known} as known from {name}) as {name} on spine.item_id = {name}.item_id and spine.morning >= {name}.known",
                chosen,
            )
        )
    sql = f"select spine.*, {', '.join(c for _, c in parts)} from spine {' '.join(j for j, _ in parts)}"
    rows = engine.read(sql).to_pandas()
    return rows.sort_values(["morning", "item_id"]).reset_index(drop=True)

"""A small project whose truth is known: what sells follows price and shop."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from towpath import training
from towpath.clock import FixedClock
from towpath.project.declarations import (
    Charter,
    FallbackDeclaration,
    ModelDeclaration,
    TrainDeclaration,
    TrainingHeader,
)
from towpath.sql import Query
from towpath.stores.catalog import Catalog
from towpath.training import Runs, Trained

START = datetime(2011, 6, 1, tzinfo=UTC)
DAYS, ITEMS = 60, 20
HEADER = TrainingHeader(
    entity="item", time="day", label="sold", label_time="known_at", segments=("band",), weight="importance"
)
FEATURES = ("prices.price", "prices.shop", "sales.mean_7d")
DECLARATION = ModelDeclaration(
    charter=Charter(decision="how much to order"),
    owner="ana",
    features=FEATURES,
    train=TrainDeclaration(parameters={"rounds": 20}),
    fallback=(
        FallbackDeclaration(name="recent", function="recent"),
        FallbackDeclaration(name="zero", constant=0.0),
    ),
)
METRICS = {
    "wape": Query.parse(
        "select abs(prediction - actual) * weight as numerator, abs(actual) * weight as denominator from scored"
    ),
    "bias": Query.parse(
        "select (prediction - actual) * weight as numerator, abs(actual) * weight as denominator from scored"
    ),
}
MODEL = """
import lightgbm

from words import LOUD

def train(data):
    print(LOUD, len(data), data.parameters["rounds"])
    older, newer = data.train, data.validation
    known = lightgbm.Dataset(older.pandas.features, older.pandas.label)
    parameters = {"verbose": -1, "seed": data.seed, "deterministic": True, "num_threads": 1, "min_data_in_leaf": 5}
    return lightgbm.train(parameters, known, data.parameters["rounds"],
                          valid_sets=[known.create_valid(newer.pandas.features, newer.pandas.label)])

def recent(rows):
    return rows["sales.mean_7d"]
"""

MEAN = """
def train(data):
    return {"mean": data.numpy.label.mean()}

def predict(model, rows):
    return [model["mean"]] * len(rows)
"""


def training_set() -> pa.Table:
    """One row per item and day, in the order of days."""
    rng = np.random.default_rng(1)
    day, item = np.repeat(np.arange(DAYS), ITEMS), np.tile(np.arange(ITEMS), DAYS)
    price = rng.uniform(1, 9, DAYS * ITEMS)
    shop = np.where(item % 2, "north", "south")
    sold = 30 - 3 * price + 5 * (shop == "north") + rng.normal(0, 1, DAYS * ITEMS)
    moment = [START + timedelta(days=int(n)) for n in day]
    times = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "item": pa.array([f"i{n}" for n in item]),
            "day": pa.array(moment, times),
            "known_at": pa.array([at + timedelta(days=1) for at in moment], times),
            "sold": sold,
            "band": np.where(item < ITEMS // 2, "low", "high"),
            "importance": np.where(item < 5, 2.0, 1.0),
            "prices.price": price,
            "prices.shop": shop,
            "sales.mean_7d": pa.array(np.where(rng.random(DAYS * ITEMS) < 0.1, np.nan, 20.0), from_pandas=True),
        }
    )


class Shop(NamedTuple):
    """A project folder, its catalog, and how to train in it."""

    folder: Path
    runs: Runs
    catalog: Catalog
    lines: list[str]

    def write(self, model: str) -> None:
        (self.folder / "models" / "demand" / "model.py").write_text(model)

    def train(self, **changed: Any) -> Trained:
        """Train on the whole training set, with what is given otherwise."""
        declaration = msgspec.structs.replace(DECLARATION, **changed.pop("declared", {}))
        return training.run(
            changed.pop("table", None) or training_set(),
            runs=self.runs,
            project="shop",
            project_folder=self.folder,
            model="demand",
            model_folder=self.folder / "models" / "demand",
            header=HEADER,
            declaration=declaration,
            features=FEATURES,
            metrics=METRICS,
            as_of=START + timedelta(days=DAYS),
            on_line=self.lines.append,
            **changed,
        )


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    folder = tmp_path / "shop"
    (folder / "models" / "demand").mkdir(parents=True)
    (folder / "words.py").write_text("LOUD = 'training on'\n")
    catalog = Catalog("sqlite:///catalog.db", tmp_path)
    made = Shop(folder, Runs(catalog, "shop", tmp_path / "runs", FixedClock(START)), catalog, [])
    made.write(MODEL)
    yield made
    catalog.close()

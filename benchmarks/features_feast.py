"""Feast's side of the feature benchmarks, in an environment of its own: three file views, an online store, the DuckDB store."""

import time
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64
from feast.value_type import ValueType

from features_worker import serve, timed_us


@cache
def store(folder: str, online: str, ttl_days: int) -> FeatureStore:
    """A repository over the tables of a folder; `online` is ``sqlite`` or the address of a Redis."""
    root = Path(folder)
    kept: dict[str, Any] = {"type": "sqlite", "path": str(root / "feast.db")}
    if online != "sqlite":
        kept = {"type": "redis", "connection_string": online}
    opened = FeatureStore(
        config=RepoConfig(
            project="bench",
            registry=str(root / f"feast-{kept['type']}-registry.db"),
            provider="local",
            online_store=kept,
            offline_store={"type": "duckdb"},
            entity_key_serialization_version=3,
        )
    )
    entity = Entity(name="id", join_keys=["id"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=name,
            entities=[entity],
            ttl=timedelta(days=ttl_days),
            schema=[Field(name=f"f{n}", dtype=Float64) for n in range(10)],
            source=FileSource(
                path=str(root / "warehouse" / f"{name}.parquet"),
                timestamp_field="happened_at",
                created_timestamp_column="landed",
            ),
        )
        for name in ("a", "b", "c")
        if (root / "warehouse" / f"{name}.parquet").exists()
    ]
    opened.apply([entity, *views])
    return opened


def build(folder: str, online: str, ttl_days: int, view: str, since: str, until: str) -> dict[str, Any]:
    """Materialise one view."""
    opened = store(folder, online, ttl_days)
    started = time.perf_counter()
    opened.materialize(datetime.fromisoformat(since), datetime.fromisoformat(until), [view])
    return {"seconds": time.perf_counter() - started}


def read(
    folder: str, online: str, ttl_days: int, features: list[str], keys: int, times: int, entities: int
) -> dict[str, Any]:
    """Read features of some keys, many times; the answer as it comes, and brought to lists with ``to_dict``."""
    opened = store(folder, online, ttl_days)
    chance = np.random.default_rng(7)
    asked = [[{"id": key} for key in chance.integers(0, entities, keys).tolist()] for _ in range(times)]
    wanted = [feature.replace(".", ":") for feature in features]

    def answer(rows: list[dict[str, int]]) -> Any:
        return opened.get_online_features(features=wanted, entity_rows=rows, full_feature_names=True)

    answer(asked[0])
    bare = timed_us(answer, asked)
    as_lists = timed_us(lambda rows: answer(rows).to_dict(), asked)
    found = answer([{"id": key} for key in range(50)]).to_dict()
    values = {feature: found[feature.replace(".", "__")] for feature in features}
    return {**bare, **{f"to_dict_{name}": value for name, value in as_lists.items()}, "values": values}


def training_set(folder: str, online: str, ttl_days: int, features: list[str]) -> dict[str, Any]:
    """Join the features to the spine, which is in memory as pandas, and the answer is Arrow."""
    import pandas as pd

    opened = store(folder, online, ttl_days)
    spine = pd.read_parquet(Path(folder) / "warehouse" / "spine.parquet")
    wanted = [feature.replace(".", ":") for feature in features]
    started = time.perf_counter()
    joined = opened.get_historical_features(entity_df=spine, features=wanted, full_feature_names=True).to_arrow()
    seconds = time.perf_counter() - started
    first = joined.column(features[0].replace(".", "__"))
    return {
        "seconds": seconds,
        "rows": joined.num_rows,
        "rows_asked": len(spine),
        "missing": first.null_count,
        "sum": float(np.nansum(first.to_numpy())),
    }


if __name__ == "__main__":
    serve({"build": build, "read": read, "training_set": training_set})

"""Towpath's side of the feature benchmarks: the public API of a project that `features_stand` wrote."""

import time
from pathlib import Path
from typing import Any

import numpy as np

import towpath
from features_worker import serve, timed_us
from towpath.platform import Platform

_open: dict[str, Platform] = {}


def platform(folder: str, moment: str) -> Platform:
    """Opened once; its clock stands at the end of the tables' time."""
    if folder not in _open:
        _open[folder] = towpath.open(Path(folder)).at(moment)
    return _open[folder]


def build(folder: str, moment: str, view: str) -> dict[str, Any]:
    """Materialise one view."""
    opened = platform(folder, moment)
    started = time.perf_counter()
    built = opened.features.build(view)[view]
    return {"seconds": time.perf_counter() - started, "rows": built.rows}


def read(folder: str, moment: str, features: list[str], keys: int, times: int, entities: int) -> dict[str, Any]:
    """Read features of some keys, many times; the answer as it comes, and with every column asked for."""
    opened = platform(folder, moment)
    chance = np.random.default_rng(7)
    asked = [{"id": chance.integers(0, entities, keys).tolist()} for _ in range(times)]
    opened.features.read(features, asked[0])
    figures = timed_us(lambda one: opened.features.read(features, one), asked)

    def looked_into(one: dict[str, list[int]]) -> None:
        answer = opened.features.read(features, one)
        for name in features:
            answer[name]

    columns = timed_us(looked_into, asked)
    found = opened.features.read(features, {"id": list(range(50))})
    values = {name: found[name].tolist() for name in features}
    return {**figures, **{f"columns_{name}": value for name, value in columns.items()}, "values": values}


def training_set(folder: str, moment: str, features: list[str], as_of: str) -> dict[str, Any]:
    """Join the features to the spine, which is in memory as Arrow, and so is the answer."""
    import pyarrow.parquet as pq

    opened = platform(folder, moment)
    spine = pq.read_table(Path(folder) / "warehouse" / "spine.parquet")
    started = time.perf_counter()
    joined = opened.features.training_set(spine, features, keys=["id"], time="event_timestamp", as_of=as_of)
    seconds = time.perf_counter() - started
    first = joined.column(features[0])
    return {
        "seconds": seconds,
        "rows": joined.num_rows,
        "rows_asked": spine.num_rows,
        "missing": first.null_count,
        "sum": float(np.nansum(first.to_numpy())),
    }


if __name__ == "__main__":
    serve({"build": build, "read": read, "training_set": training_set})

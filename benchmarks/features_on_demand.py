"""What Towpath adds to an on-demand function over 100 rows of 10 columns, beside the bare numpy call: JSON lines.

uv run python benchmarks/features_on_demand.py            # 20,000 pairs of calls
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from towpath.features import FeatureColumn, OnDemand, OnDemandInputLock, OnDemandLock
from towpath.features.on_demand import compute

ROWS, COLUMNS = 100, 10
BAR_US = 20.0


def shares(*columns: Any) -> dict[str, Any]:
    """Ten columns in, ten out: each over the sum of all."""
    total = columns[0] + columns[1]
    for column in columns[2:]:
        total = total + column
    return {f"s{i}": column / total for i, column in enumerate(columns)}


def one_of_ten(*columns: Any) -> dict[str, Any]:
    """Ten columns in, one out."""
    return {"s0": shares(*columns)["s0"]}


def wrapped(function: Callable[..., Any], outputs: int) -> OnDemand:
    """The function as a version has it."""
    lock = OnDemandLock(
        project="bench",
        view=function.__name__,
        path="features/bench.py",
        digest="",
        inputs=tuple(OnDemandInputLock(name=f"c{i}", reads="request", type="double") for i in range(COLUMNS)),
        columns=tuple(FeatureColumn(name=f"s{i}", type="double") for i in range(outputs)),
    )
    return OnDemand(lock, function)


def main() -> None:
    """Time bare and wrapped calls in turn, so that both meet the same machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    pairs = parser.parse_args().pairs
    rng = np.random.default_rng(7)
    columns = {f"c{i}": rng.random(ROWS) for i in range(COLUMNS)}
    arrays = list(columns.values())
    for function, outputs in ((shares, COLUMNS), (one_of_ten, 1)):
        ours = [wrapped(function, outputs)]
        bare_us, ours_us, added_us = [], [], []
        for _ in range(pairs):
            start = time.perf_counter_ns()
            function(*arrays)
            between = time.perf_counter_ns()
            compute(ours, columns, ROWS)
            end = time.perf_counter_ns()
            bare_us.append((between - start) / 1e3)
            ours_us.append((end - between) / 1e3)
            added_us.append(ours_us[-1] - bare_us[-1])
        added = statistics.median(added_us)
        print(
            json.dumps(
                {
                    "benchmark": "features_on_demand",
                    "rows": ROWS,
                    "columns_in": COLUMNS,
                    "columns_out": outputs,
                    "pairs": pairs,
                    "bare_us": round(statistics.median(bare_us), 1),
                    "ours_us": round(statistics.median(ours_us), 1),
                    "added_us": round(added, 1),
                    "bar_us": BAR_US,
                    "met": added <= BAR_US,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()

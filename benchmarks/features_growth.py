"""How seconds and memory grow with the rows of a training set and of a build: measured, kept as JSON lines, and drawn.

    uv run --group bench python benchmarks/features_growth.py [--most 10000000]       # measures, then draws
    uv run --group bench python benchmarks/features_growth.py --draw                  # draws what was measured

The spine grows beside 26M feature rows in 3 views (or the share of them that the largest spine is of 1M, where that is less); the
build grows by entities of 10 features, into LMDB. Each point is a new process, once: it is the shape that is asked for.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from features_build import ours_once as built
from features_stand import current_tables, history_tables, project
from features_training import ENTITIES, TTL_DAYS, VIEW_ROWS
from features_training import ours_once as joined
from measure import emit

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "features_growth.svg"
STEPS = (0.01, 0.03, 0.1, 0.3, 1.0)
LIMITS_MIB = {"training set": 8_192, "build": 2_048}


def main() -> None:
    """Write the lines beside the figure, and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--most", type=int, default=10_000_000, help="rows of the largest spine, and entities of the largest build"
    )
    parser.add_argument("--draw", action="store_true", help="what was measured, without measuring")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    given = parser.parse_args()
    lines = given.figure.with_suffix(".jsonl")
    if not given.draw:
        points = measured([int(given.most * step) for step in STEPS])
        lines.parent.mkdir(parents=True, exist_ok=True)
        lines.write_text("".join(f"{json.dumps(point)}\n" for point in points))
    draw([json.loads(line) for line in lines.read_text().splitlines()], given.figure)


def measured(sizes: list[int]) -> list[dict[str, Any]]:
    """One point for each size and kind of work."""
    points: list[dict[str, Any]] = []
    share = min(1.0, sizes[-1] / 1_000_000)
    rows = {name: int(count * share) for name, count in VIEW_ROWS.items()}
    with tempfile.TemporaryDirectory(prefix="towpath-bench-") as made:
        folder = Path(made)
        history_tables(folder, rows, sizes[0], ENTITIES)
        project(folder, tuple(rows), online="lmdb://.towpath/online", memory_mib=1_536, ttl_days=TTL_DAYS)
        for size in sizes:
            history_tables(folder, {}, size, ENTITIES)
            points.append(_point("training set", size, joined(folder, "known")))
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="towpath-bench-") as made:
            current_tables(Path(made), ("a",), size)
            points.append(_point("build", size, built(Path(made), "", size)))
    return points


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Seconds on the left and memory on the right, both over rows, on scales of tens."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {
            "svg.hashsalt": "towpath",
            "svg.fonttype": "none",
            "font.size": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
    for work, colour in (("training set", "#1f6f8b"), ("build", "#c2571a")):
        own = sorted((point for point in points if point["work"] == work), key=lambda point: point["rows"])
        rows = [point["rows"] for point in own]
        left.loglog(rows, [point["seconds"] for point in own], "o-", color=colour, label=work)
        right.loglog(rows, [point["peak_mib"] / 1_024 for point in own], "o-", color=colour, label=work)
        right.axhline(LIMITS_MIB[work] / 1_024, color=colour, linestyle=":", linewidth=1)
    left.set(xlabel="rows of the spine, entities built", ylabel="seconds")
    right.set(xlabel="rows of the spine, entities built", ylabel="GiB at most (dotted: the limits)")
    for side in (left, right):
        side.minorticks_off()
    left.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _point(work: str, rows: int, found: dict[str, Any]) -> dict[str, Any]:
    memory = {name: found[name] for name in ("peak_mib", "peak_own_mib")}
    point = {"work": work, "rows": rows, "seconds": round(found["seconds"], 2), **memory}
    emit(benchmark="features_growth", load=round(os.getloadavg()[0], 1), **point)
    return point


if __name__ == "__main__":
    main()

"""One-row LightGBM (200 trees, 20 floats) over HTTP JSON, one worker, 16 connections, beside a hand-written FastAPI route.

    uv run --group bench python benchmarks/serving.py [--seconds 5] [--rounds 3]

Journal, metrics and routing are on. Both serve the same file, and the answers are compared before any load. Figures are medians of
rounds taken in turn; CPU time is of the whole process tree.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import lightgbm
import numpy as np

from measure import cpu_s, emit, first_answer, free_port, load, median, memory_mib, post, process

FEATURES = 20
SETTLE_S = 7.0


def model_file(folder: Path) -> Path:
    """A booster of 200 trees on made-up data, seeded."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(5_000, FEATURES))
    target = rows[:, 0] * 3 + np.sin(rows[:, 1] * 2) + rng.normal(size=5_000) * 0.1
    parameters = {"objective": "l2", "num_leaves": 31, "verbose": -1, "seed": 7, "num_threads": 2}
    booster = lightgbm.train(parameters, lightgbm.Dataset(rows, target), num_boost_round=200)
    path = folder / "points.txt"
    booster.save_model(path)
    return path


def main() -> None:
    """Print one line a server and one with the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        path = model_file(Path(made))
        row = [round(x, 4) for x in np.random.default_rng(11).normal(size=FEATURES)]
        plain = json.dumps({"instances": [row]}).encode()
        ours = json.dumps({"rows": [{f"Column_{i}": x for i, x in enumerate(row)}]}).encode()
        infer = {"inputs": [{"name": "x", "shape": [1, FEATURES], "datatype": "FP64", "data": row}]}
        oip = json.dumps(infer).encode()
        web, http, grpc = free_port(), free_port(), free_port()
        uvicorn = [sys.executable, "-m", "uvicorn", "routes:app", "--app-dir", "benchmarks", "--log-level", "warning"]
        tow = [sys.executable, "-m", "towpath.cli", "serve", str(path), "--port", str(http), "--grpc-port", str(grpc)]
        with (
            process([*uvicorn, "--port", str(web)], MODEL=str(path)) as route,
            process([*tow, "--state", f"{made}/state"]) as towpath,
        ):
            targets = {
                "fastapi_def": (f"http://127.0.0.1:{web}/predict", plain, route.pid),
                "fastapi_async": (f"http://127.0.0.1:{web}/predict_async", plain, route.pid),
                "towpath_predict": (f"http://127.0.0.1:{http}/predict/points", ours, towpath.pid),
                "towpath_oip": (f"http://127.0.0.1:{http}/v2/models/points/infer", oip, towpath.pid),
            }
            started = time.perf_counter()
            for url, body, _ in targets.values():
                first_answer(url, body, started)
            expected = json.loads(post(targets["fastapi_def"][0], plain))["predictions"][0]
            got = json.loads(post(targets["towpath_predict"][0], ours))["predictions"][0]["prediction"]
            tensor = json.loads(post(targets["towpath_oip"][0], oip))["outputs"][0]["data"][0]
            if not (np.isclose(got, expected) and np.isclose(tensor, expected)):
                raise SystemExit(f"the answers differ: {expected} {got} {tensor}")
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in targets}
            for _ in range(given.rounds):
                for name, (url, body, pid) in targets.items():
                    load(url, body, seconds=1)
                    before = cpu_s(pid)
                    figures = load(url, body, seconds=given.seconds)
                    time.sleep(SETTLE_S)  # the journal of these requests is flushed by then, and its cost is theirs
                    figures["cpu_us_per_request"] = (cpu_s(pid) - before) / figures["requests"] * 1e6
                    figures["memory_mib"] = memory_mib(pid)
                    rounds[name].append(figures)
    medians = {
        name: {key: round(median([r[key] for r in taken]), 3) for key in taken[0]} for name, taken in rounds.items()
    }
    for name, figures in medians.items():
        emit(benchmark="serving", server=name, **figures)
    reference = medians["fastapi_def"]
    for name in ("fastapi_async", "towpath_predict", "towpath_oip"):
        emit(
            benchmark="serving",
            ratio=f"{name} to fastapi_def",
            requests_per_s=round(medians[name]["requests_per_s"] / reference["requests_per_s"], 2),
            cpu=round(medians[name]["cpu_us_per_request"] / reference["cpu_us_per_request"], 3),
        )


if __name__ == "__main__":
    main()

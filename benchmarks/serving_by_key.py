"""Answers by entity key beside a FastAPI route that is handed its numbers.

    uv run --group bench python benchmarks/serving_by_key.py [--seconds 5] [--rounds 3]

Towpath looks 30 features of three views up (LMDB, ttl applied), calls a LightGBM of 200 trees on them, guards, routes and writes the
journal; a new key is asked each time, out of 20,000. The route gets 30 numbers in the request and does nothing but call the same model.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from features_stand import FEATURES, history_tables, project
from measure import cpu_s, emit, first_answer, free_port, load, median, process

VIEWS = ("orders", "visits", "stock")
ENTITIES = 20_000
SETTLE_S = 7.0
CHARTER = """
[charter]
decision = "none"
process = "a benchmark"
integrator = "nobody"
analyst = "nobody"
stop_when = "it is measured"
"""
TRAIN = '''"""Two hundred trees."""

import lightgbm as lgb


def train(data):
    settings = {"objective": "l2", "num_leaves": 31, "verbose": -1, "seed": data.seed, "num_threads": 2}
    return lgb.train(settings, lgb.Dataset(data.pandas.features, data.pandas.label), num_boost_round=200)
'''


def made(folder: Path) -> Path:
    """A project with three views, built online, and a champion; the path of its booster."""
    history_tables(folder, dict.fromkeys(VIEWS, 3 * ENTITIES), 20_000, ENTITIES)
    project(folder, VIEWS, online=f"lmdb://{folder}/online")
    home = folder / "models" / "points"
    home.mkdir(parents=True)
    (home / "model.py").write_text(TRAIN)
    wanted = ", ".join(f'"{view}.*"' for view in VIEWS)
    (home / "model.toml").write_text(
        f'owner = "bench"\nfeatures = [{wanted}]\n{CHARTER}[serving]\ntimeout_ms = 10000\n'
    )
    (home / "training.sql").write_text(
        '/* ---\nentity = "id"\ntime = "at"\nlabel = "points"\n--- */\n'
        "select id, event_timestamp as at, (label % 100)::double as points from spine\n"
    )
    for asked in (
        ("features", "build"),
        ("train", "points"),
        ("promote", "points@1", "--override", "--because", "measuring"),
    ):
        done = subprocess.run([*tow(), *asked, "--project", str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"tow {' '.join(asked)}:\n{done.stdout}\n{done.stderr}")
    found = sorted(folder.rglob("versions/000001/*"))
    return next(path for path in found if path.suffix == ".txt" or path.name.startswith("model"))


def tow() -> list[str]:
    """The command of this environment."""
    return [sys.executable, "-m", "towpath.cli"]


def main() -> None:
    """Print one line a server and number of connections, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made_in, ExitStack() as stack:
        folder = Path(made_in)
        booster = made(folder)
        path = folder / "points.txt"
        path.write_bytes(booster.read_bytes())
        web, http = free_port(), free_port()
        uvicorn = [sys.executable, "-m", "uvicorn", "routes:app", "--app-dir", "benchmarks", "--log-level", "warning"]
        route = stack.enter_context(process([*uvicorn, "--port", str(web)], MODEL=str(path)))
        argv = [*tow(), "serve", "--project", str(folder), "--port", str(http), "--grpc-port", str(free_port())]
        ours = stack.enter_context(process(argv))
        numbers = np.random.default_rng(11).normal(size=FEATURES * len(VIEWS)).round(4).tolist()
        plain = json.dumps({"instances": [numbers]}).encode()
        by_key = json.dumps({"rows": [{"id": 7}]}).encode()
        answer = json.loads(first_answer(f"http://127.0.0.1:{http}/predict/points", by_key, time.perf_counter())[1])
        said = answer["predictions"][0]
        if said["source"] != "champion" or said["missing"]:
            raise SystemExit(f"not an answer out of 30 features: {said}")
        first_answer(f"http://127.0.0.1:{web}/predict", plain, time.perf_counter())
        any_key = '{"rows":[{"id":%d}]}'
        keys = f"request = function() return wrk.format(nil, nil, nil, ('{any_key}'):format(math.random(0, {ENTITIES - 1}))) end"
        targets = {
            "fastapi_def": (f"http://127.0.0.1:{web}/predict", plain, route.pid, ""),
            "fastapi_async": (f"http://127.0.0.1:{web}/predict_async", plain, route.pid, ""),
            "towpath_by_key": (f"http://127.0.0.1:{http}/predict/points", by_key, ours.pid, keys),
        }
        for connections in (1, 16):
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in targets}
            for _ in range(given.rounds):
                for name, (url, body, pid, script) in targets.items():
                    load(url, body, seconds=1, connections=connections, script=script)
                    before = cpu_s(pid)
                    figures = load(url, body, seconds=given.seconds, connections=connections, script=script)
                    time.sleep(SETTLE_S)
                    figures["cpu_us_per_request"] = (cpu_s(pid) - before) / figures["requests"] * 1e6
                    rounds[name].append(figures)
            medians = {
                name: {key: round(median([one[key] for one in taken]), 3) for key in taken[0]}
                for name, taken in rounds.items()
            }
            for name, figures in medians.items():
                emit(benchmark="serving_by_key", server=name, connections=connections, **figures)
            for name in ("fastapi_def", "fastapi_async"):
                emit(
                    benchmark="serving_by_key",
                    connections=connections,
                    ratio=f"towpath_by_key to {name}",
                    p50=round(medians["towpath_by_key"]["p50_ms"] / medians[name]["p50_ms"], 2),
                )
        scraped = subprocess.run(
            ["curl", "-s", f"http://127.0.0.1:{http}/metrics"], capture_output=True, text=True, check=False
        )
        others = [
            line for line in scraped.stdout.splitlines() if re.match(r'towpath_rows_total\{.*source="fallback', line)
        ]
        if others:
            raise SystemExit(f"not all were answered by the model: {others} {os.linesep}")


if __name__ == "__main__":
    main()

"""Model file to first correct HTTP answer, and to the first gRPC one, beside a hand-written FastAPI route.

    uv run --group bench python benchmarks/cold_start.py [--rounds 5]

A random forest of 50 trees as a trusted pickle, and its ONNX form; processes are started in turn, figures are medians.
"""

import argparse
import json
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from measure import emit, first_answer, free_port, median, process

FEATURES = 10


def model_files(folder: Path) -> tuple[dict[str, Path], list[float], float]:
    """The two files, one row, and the answer that both must give."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(7)
    rows = rng.normal(size=(2_000, FEATURES)).astype(np.float32)
    forest = RandomForestRegressor(50, max_depth=10, random_state=7).fit(rows, rows[:, 0] * 2 + rows[:, 1])
    pickled, onnx = folder / "forest.pkl", folder / "forest.onnx"
    pickled.write_bytes(pickle.dumps(forest))
    onnx.write_bytes(to_onnx(forest, rows[:1]).SerializeToString())
    row = [round(float(x), 3) for x in rng.normal(size=FEATURES)]
    return {"pickle": pickled, "onnx": onnx}, row, float(forest.predict(np.array([row], dtype=np.float32))[0])


def grpc_client(port: int, name: str, row: list[float]) -> Callable[[], float]:
    """A Triton client, that is not ours, and its question; made before the clock starts, as the HTTP client's is."""
    import tritonclient.grpc as triton

    # gRPC's clients wait a second before they try again, unless told otherwise; that second is not the server's
    quick = [(f"grpc.{which}_reconnect_backoff_ms", 10) for which in ("initial", "min", "max")]
    client = triton.InferenceServerClient(f"127.0.0.1:{port}", channel_args=quick)
    tensor = triton.InferInput("x", [1, FEATURES], "FP32")
    tensor.set_data_from_numpy(np.array([row], dtype=np.float32))

    def ask() -> float:
        answer = client.infer(name, [tensor])
        return float(answer.as_numpy(answer.get_response().outputs[0].name).ravel()[0])

    return ask


def first_grpc_answer(ask: Callable[[], float], started: float) -> tuple[float, float]:
    """Seconds to the first answer, and the answer."""
    import tritonclient.grpc as triton

    while time.perf_counter() - started < 60:
        try:
            answer = ask()
        except triton.InferenceServerException:
            time.sleep(0.005)
            continue
        return time.perf_counter() - started, answer
    raise TimeoutError("no gRPC answer within 60 s")


def main() -> None:
    """Print one line a form and server, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        files, row, expected = model_files(Path(made))
        plain = json.dumps({"instances": [row]}).encode()
        infer = {"inputs": [{"name": "x", "shape": [1, FEATURES], "datatype": "FP32", "data": row}]}
        for form, path in files.items():
            taken: dict[str, list[float]] = {"fastapi": [], "towpath": [], "towpath_grpc": []}
            trust = ["--trust-pickle"] if form == "pickle" else []
            for _ in range(given.rounds):
                port = free_port()
                argv = [sys.executable, "-m", "uvicorn", "routes:app", "--app-dir", "benchmarks", "--port", str(port)]
                started = time.perf_counter()
                with process(argv, MODEL=str(path)):
                    seconds, answer = first_answer(f"http://127.0.0.1:{port}/predict", plain, started)
                    if not np.isclose(json.loads(answer)["predictions"][0], expected, rtol=1e-4):
                        raise SystemExit(f"wrong answer {answer!r}, expected {expected}")
                    taken["fastapi"].append(seconds)
                port, grpc = free_port(), free_port()
                ask = grpc_client(grpc, "forest", row)
                argv = [sys.executable, "-m", "towpath.cli", "serve", str(path), *trust]
                argv += ["--port", str(port), "--grpc-port", str(grpc), "--name", "forest"]
                started = time.perf_counter()
                with process(argv):
                    url = f"http://127.0.0.1:{port}/v2/models/forest/infer"
                    seconds, answer = first_answer(url, json.dumps(infer).encode(), started)
                    if not np.isclose(json.loads(answer)["outputs"][0]["data"][0], expected, rtol=1e-4):
                        raise SystemExit(f"wrong answer {answer!r}, expected {expected}")
                    taken["towpath"].append(seconds)
                    seconds, found = first_grpc_answer(ask, started)
                    if not np.isclose(found, expected, rtol=1e-4):
                        raise SystemExit(f"wrong answer over gRPC {found!r}, expected {expected}")
                    taken["towpath_grpc"].append(seconds)
            medians = {name: round(median(values), 3) for name, values in taken.items()}
            ratios = {
                name: round(median([o / r for o, r in zip(taken[name], taken["fastapi"], strict=True)]), 3)
                for name in ("towpath", "towpath_grpc")
            }
            bar = 1.0 if form == "onnx" else 1.2
            emit(benchmark="cold_start", form=form, seconds=medians, ratio_to_fastapi=ratios, bar=bar)


if __name__ == "__main__":
    main()

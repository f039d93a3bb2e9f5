"""One LightGBM file (200 trees, 20 floats) behind Towpath and behind the servers that people use for it today.

    uv run python benchmarks/serving_peers.py [--seconds 5] [--rounds 3] [--only one two grpc batch many] [--recorded]

Towpath serves a signed version from a store, with journal, metrics, routing and consumer keys on. MLServer gets an environment of its own
in ``~/.cache/towpath-bench`` (by ``uv``), with ``uvloop`` pinned to 0.21, without which it does not start. With ``--recorded`` the KServe
SDK and BentoML stand beside them in the first comparison. Answers are compared before any load. CPU time is of the whole process tree,
the journal's flush included. Medians of rounds taken in turn.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fleet import Fleet
from measure import cpu_s, emit, first_answer, free_port, grpc_load, load, median, memory_mib, process
from serving import FEATURES, SETTLE_S, model_file
from towpath.project.declarations import ServingDeclaration

HERE = Path(__file__).parent
INFER = "/inference.GRPCInferenceService/ModelInfer"
PEERS = {
    "mlserver": ["mlserver==1.7.1", "mlserver-lightgbm==1.7.1", "lightgbm", "uvloop==0.21.0"],
    "kserve": ["kserve", "lightgbm"],
    "bentoml": ["bentoml", "lightgbm"],
}


class Target:
    """What is loaded: where, with what, whose CPU."""

    def __init__(
        self, name: str, pid: int, url: str, body: bytes, reads: Callable[[Any], float], **headers: str
    ) -> None:
        self.name, self.pid, self.url, self.body, self.reads, self.headers = name, pid, url, body, reads, headers
        self.message = b""
        """For gRPC, where ``url`` is the address."""

    def answer(self) -> float:
        """The first number of its first answer; waits until it is up."""
        found = first_answer(self.url, self.body, time.perf_counter(), within_s=120, headers=self.headers)[1]
        return self.reads(json.loads(found))

    def load(self, seconds: float, connections: int) -> dict[str, float]:
        """One round: rates, latencies, CPU a request, memory."""
        before = cpu_s(self.pid)
        if self.message:
            headers = [f"{name.lower()}: {value}" for name, value in self.headers.items()]
            figures = grpc_load(
                self.url, INFER, self.message, seconds=seconds, connections=connections, headers=headers
            )
        else:
            figures = load(self.url, self.body, seconds=seconds, connections=connections, headers=self.headers)
        time.sleep(SETTLE_S)  # the journal of these requests is flushed by then, and its cost is theirs
        figures["cpu_us_per_request"] = (cpu_s(self.pid) - before) / figures["requests"] * 1e6
        figures["memory_mib"] = memory_mib(self.pid)
        return figures


def python_of(peer: str) -> Path:
    """The interpreter of an environment with that server, made where there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "towpath-bench" / peer
    python = cache / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    if not python.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run(["uv", "venv", "-q", "--python", version, str(cache)], check=True, env=environment)
        subprocess.run(
            ["uv", "pip", "install", "-q", "--python", str(python), *PEERS[peer]], check=True, env=environment
        )
    return python


def infer_json(rows: np.ndarray, inputs: str = "x") -> bytes:
    """An inference request whose data stand in JSON."""
    tensor = {"name": inputs, "shape": list(rows.shape), "datatype": "FP64", "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def infer_binary(rows: np.ndarray) -> tuple[bytes, int]:
    """The same as a binary tensor with a binary answer, and the length of its head."""
    data = rows.astype("<f8").tobytes()
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP64", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + data, len(head)


def infer_message(rows: np.ndarray) -> bytes:
    """The same for gRPC, raw."""
    from towpath.apart.protocol import messages

    request = messages()["ModelInferRequest"](model_name="points")
    request.inputs.add(name="x", datatype="FP64", shape=list(rows.shape))
    request.raw_input_contents.append(rows.astype("<f8").tobytes())
    return request.SerializeToString()


@contextmanager
def towpath(
    folder: Path, path: Path, *, workers: int = 1, model: str = "points", **serving: Any
) -> Iterator[tuple[int, str, str, Mapping[str, str]]]:
    """A fleet of one version, served with a consumer's key: process, HTTP, gRPC, headers."""
    fleet = Fleet(folder, "bench")
    fleet.promote(model, fleet.publish(model, path, serving=ServingDeclaration(timeout_ms=10_000, **serving)))
    key = fleet.consumer("caller")
    http, grpc = free_port(), free_port()
    argv = [sys.executable, "-m", "towpath.cli", "serve", "--store", fleet.url, "--keys", str(fleet.keys)]
    argv += ["--online", f"lmdb://{folder}/online", "--state", str(folder / "state"), "--workers", str(workers)]
    with process([*argv, "--port", str(http), "--grpc-port", str(grpc)]) as running:
        yield running.pid, f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}", {"Authorization": f"Bearer {key}"}


@contextmanager
def mlserver(folder: Path, path: Path, *, workers: int) -> Iterator[tuple[int, str, str]]:
    """MLServer with its own LightGBM runtime; 1 worker is its default, with 0 the model is in the server's own process."""
    folder.mkdir()
    http, grpc = free_port(), free_port()
    settings = {"http_port": http, "grpc_port": grpc, "metrics_port": free_port(), "parallel_workers": workers}
    (folder / "settings.json").write_text(json.dumps(settings | {"debug": False, "host": "127.0.0.1"}))
    model = {"name": "points", "implementation": "mlserver_lightgbm.LightGBMModel", "parameters": {"uri": str(path)}}
    (folder / "model-settings.json").write_text(json.dumps(model))
    started = python_of("mlserver").parent / "mlserver"
    with process([str(started), "start", str(folder)], OMP_NUM_THREADS="1") as running:
        yield running.pid, f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}"


def oip(answer: Any) -> float:
    """The first number of an inference answer."""
    return answer["outputs"][0]["data"][0]


def compared(targets: list[Target], expected: float) -> None:
    """Ask each once.

    Raises:
        SystemExit: One says something else.
    """
    for target in targets:
        if not target.message and not np.isclose(found := target.answer(), expected):
            raise SystemExit(f"{target.name} answers {found}, expected {expected}")


def measured(
    measure: str, targets: list[Target], given: argparse.Namespace, *, connections: int
) -> dict[str, dict[str, float]]:
    """Rounds in turn, medians, and one line each."""
    rounds: dict[str, list[dict[str, float]]] = {target.name: [] for target in targets}
    for target in targets:
        target.load(1, connections)
    for _ in range(given.rounds):
        for target in targets:
            rounds[target.name].append(target.load(given.seconds, connections))
    medians = {
        name: {key: round(median([one[key] for one in taken]), 3) for key in taken[0]} for name, taken in rounds.items()
    }
    for name, figures in medians.items():
        emit(benchmark="serving_peers", measure=measure, server=name, connections=connections, **figures)
    return medians


def ratios(measure: str, medians: Mapping[str, Mapping[str, float]], ours: str = "towpath") -> None:
    """Ours over each: requests a second, and how many times less CPU."""
    mine = medians[ours]
    for name, figures in medians.items():
        if name != ours:
            emit(
                benchmark="serving_peers",
                measure=measure,
                ratio=f"{ours} to {name}",
                requests_per_s=round(mine["requests_per_s"] / figures["requests_per_s"], 2),
                cpu_times_less=round(figures["cpu_us_per_request"] / mine["cpu_us_per_request"], 2),
            )


def one_row(made: Path, path: Path, row: np.ndarray, expected: float, given: argparse.Namespace) -> None:
    """One worker, 16 connections, HTTP JSON; gRPC of the same two servers."""
    with ExitStack() as stack:
        pid, url, grpc, key = stack.enter_context(towpath(made / "ours", path))
        peer, peer_url, peer_grpc = stack.enter_context(mlserver(made / "mlserver", path, workers=1))
        alone, alone_url, alone_grpc = stack.enter_context(mlserver(made / "mlserver_0", path, workers=0))
        rows = json.dumps({"rows": [{f"Column_{i}": x for i, x in enumerate(row[0].tolist())}]}).encode()
        targets = [
            Target("towpath", pid, f"{url}/predict/points", rows, lambda a: a["predictions"][0]["prediction"], **key),
            Target("towpath_oip", pid, f"{url}/v2/models/points/infer", infer_json(row), oip, **key),
            Target("mlserver", peer, f"{peer_url}/v2/models/points/infer", infer_json(row), oip),
            Target("mlserver_no_workers", alone, f"{alone_url}/v2/models/points/infer", infer_json(row), oip),
        ]
        if given.recorded:
            targets += recorded(stack, path, row)
        compared(targets, expected)
        if "one" in given.only:
            ratios("one", measured("one", targets, given, connections=16))
        if "grpc" in given.only:
            pair = [
                Target("towpath", pid, grpc, b"", oip, **key),
                Target("mlserver", peer, peer_grpc, b"", oip),
                Target("mlserver_no_workers", alone, alone_grpc, b"", oip),
            ]
            for target in pair:
                target.message = infer_message(row)
            ratios("grpc", measured("grpc", pair, given, connections=16))
        if "many" in given.only:
            table = np.repeat(row, 64, axis=0)
            body, head = infer_binary(table)
            binary = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(head)}
            pair = [
                Target("towpath", pid, f"{url}/v2/models/points/infer", body, oip, **key, **binary),
                Target("mlserver", peer, f"{peer_url}/v2/models/points/infer", infer_json(table), oip),
                Target("mlserver_no_workers", alone, f"{alone_url}/v2/models/points/infer", infer_json(table), oip),
            ]
            ratios("many", measured("many", pair, given, connections=16))


def recorded(stack: ExitStack, path: Path, row: np.ndarray) -> list[Target]:
    """The servers that are measured now and then."""
    http = {name: free_port() for name in ("kserve", "bentoml")}
    kserve = stack.enter_context(
        process(
            [str(python_of("kserve")), str(HERE / "peers" / "kserve_server.py")],
            MODEL=str(path), PORT=str(http["kserve"]), GRPC_PORT=str(free_port()), OMP_NUM_THREADS="1",
        )
    )  # fmt: skip
    bento = python_of("bentoml").parent
    argv = [str(bento / "bentoml"), "serve", "bento_server:Points", "--port", str(http["bentoml"])]
    bentoml = stack.enter_context(
        process(
            [*argv, "--working-dir", str(HERE / "peers")],
            MODEL=str(path), OMP_NUM_THREADS="1", BENTOML_DO_NOT_TRACK="True", PATH=f"{bento}:{os.environ['PATH']}",
        )
    )  # fmt: skip
    plain = json.dumps({"rows": row.tolist()}).encode()
    return [
        Target("kserve", kserve.pid, f"http://127.0.0.1:{http['kserve']}/v2/models/points/infer", infer_json(row), oip),
        Target("bentoml", bentoml.pid, f"http://127.0.0.1:{http['bentoml']}/predict", plain, lambda answer: answer[0]),
    ]


def two_workers(made: Path, path: Path, row: np.ndarray, expected: float, given: argparse.Namespace) -> None:
    """Two workers, 64 connections, beside one."""
    rows = json.dumps({"rows": [{f"Column_{i}": x for i, x in enumerate(row[0].tolist())}]}).encode()

    def reads(answer: Any) -> float:
        return answer["predictions"][0]["prediction"]

    with ExitStack() as stack:
        pid, url, _, key = stack.enter_context(towpath(made / "two", path, workers=2))
        one, one_url, _, one_key = stack.enter_context(towpath(made / "single", path))
        peer, peer_url, _ = stack.enter_context(mlserver(made / "mlserver_two", path, workers=2))
        targets = [
            Target("towpath", pid, f"{url}/predict/points", rows, reads, **key),
            Target("towpath_1_worker", one, f"{one_url}/predict/points", rows, reads, **one_key),
            Target("mlserver", peer, f"{peer_url}/v2/models/points/infer", infer_json(row), oip),
        ]
        compared(targets, expected)
        ratios("two", measured("two", targets, given, connections=64))


def batches(made: Path, given: argparse.Namespace) -> None:
    """Gradient boosting of scikit-learn, 64 connections, joined and not."""
    from sklearn.ensemble import GradientBoostingRegressor
    from skops.io import dump

    rng = np.random.default_rng(7)
    table = rng.normal(size=(3_000, FEATURES))
    trained = GradientBoostingRegressor(random_state=7).fit(table, table[:, 0] * 3 + np.sin(table[:, 1] * 2))
    path = made / "boosting.skops"
    dump(trained, path)
    row = table[:1]
    body = json.dumps({"rows": [{f"f{i}": x for i, x in enumerate(row[0].tolist())}]}).encode()
    with ExitStack() as stack:
        pid, url, _, key = stack.enter_context(towpath(made / "joined", path, model="boosting"))
        alone, alone_url, _, alone_key = stack.enter_context(
            towpath(made / "alone", path, model="boosting", batch_rows=1)
        )

        def reads(answer: Any) -> float:
            return answer["predictions"][0]["prediction"]

        targets = [
            Target("towpath", pid, f"{url}/predict/boosting", body, reads, **key),
            Target("towpath_unbatched", alone, f"{alone_url}/predict/boosting", body, reads, **alone_key),
        ]
        compared(targets, float(trained.predict(row)[0]))
        # a caller who waits for each answer cannot hear sooner than connections / throughput, so fewer of them say what is ours
        for connections in (64, 16):
            ratios("batch", measured("batch", targets, given, connections=connections))


def main() -> None:
    """Print one line a server and measure, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    measures = ("one", "two", "grpc", "batch", "many")
    parser.add_argument("--only", nargs="+", choices=measures, default=measures)
    parser.add_argument("--recorded", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        for name in ("ours", "two", "single", "joined", "alone"):
            (made / name).mkdir()
        path = model_file(made)
        row = np.random.default_rng(11).normal(size=(1, FEATURES)).round(4)
        import lightgbm

        expected = float(lightgbm.Booster(model_file=str(path)).predict(row)[0])
        if {"one", "grpc", "many"} & set(given.only):
            one_row(made, path, row, expected, given)
        if "two" in given.only:
            two_workers(made, path, row, expected, given)
        if "batch" in given.only:
            batches(made, given)


if __name__ == "__main__":
    main()

"""What a process of its own costs a model: calls, restarts, starts, and the ways in which rows could cross.

uv run python benchmarks/isolation.py [--seconds 1]
"""

import argparse
import io
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
from sklearn.ensemble import GradientBoostingRegressor

from measure import emit, median
from towpath.apart import Apart, open_version
from towpath.apart.wire import Channel, Message, arrays_of, parts_of
from towpath.errors import UnavailableError
from towpath.models import Matrix, load_file
from towpath.models.manifest import Artefact, Manifest, StoredFile
from towpath.project.declarations import ServingDeclaration
from towpath.serving.guard import Call, Lane

COLUMNS = 20


def trained(folder: Path) -> Path:
    """LightGBM of 200 trees on 20 floats."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(5_000, COLUMNS))
    data = lightgbm.Dataset(rows, rows[:, 0] * rows[:, 1] + rng.normal(size=5_000))
    booster = lightgbm.train({"objective": "l2", "verbose": -1, "num_leaves": 31, "num_threads": 1}, data, 200)
    booster.save_model(str(folder / "model.txt"))
    return folder / "model.txt"


def a_version(path: Path, signature: Any) -> Manifest:
    """It, as a version that asks for a process of its own."""
    file = StoredFile(path=path.name, digest="sha256:" + "0" * 64, size_bytes=1)
    return Manifest(
        project="shop",
        team="area",
        model="demand",
        version=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        created_by="ana",
        owner="ana",
        artefact=Artefact(file=file, format="lightgbm", framework="lightgbm"),
        signature=signature,
        serving=ServingDeclaration(isolation="process", timeout_ms=5_000),
    )


def cpu_ns(pid: int) -> int:
    """Time on a core of all threads of a process, in nanoseconds."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += int((task / "schedstat").read_text().split()[0])
    return found


def timed(call: Callable[[], object], seconds: float, other: int | None = None) -> tuple[float, float]:
    """Median wall and mean CPU of a call in µs; the CPU of another process counts, too."""
    for _ in range(20):
        call()
    taken: list[float] = []
    pids = [os.getpid(), *([other] if other else [])]
    before = sum(map(cpu_ns, pids))
    until = time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        call()
        taken.append(time.perf_counter() - start)
    used = sum(map(cpu_ns, pids)) - before
    return round(median(taken) * 1e6, 1), round(used / len(taken) / 1e3, 1)


def calls(path: Path, folder: Path, seconds: float) -> None:
    """One call at a time: where the event loop is, in a thread, in a process, in a process behind a thread as serving asks it."""
    here = load_file(path, name="demand")
    apart = open_version(a_version(path, here.signature), path.parent, environments=folder, own_s=5.0, spare=True)
    assert isinstance(apart, Apart)
    names = tuple(field.name for field in here.signature.inputs)
    rng = np.random.default_rng(3)
    lane = Lane("demand", queue_rows=10_000)

    def through_a_thread(predict: Callable[[Any], Any], columns: Matrix, rows: int) -> Callable[[], object]:
        return lambda: Call(lane, lambda: predict(columns), rows, time.perf_counter() + 5).wait()

    for rows in (1, 64, 1_000):
        columns = Matrix(names, rng.normal(size=(rows, COLUMNS)))
        assert np.array_equal(here.predict(columns)["prediction"], apart.predict(columns)["prediction"])
        ways: dict[str, tuple[Callable[[], object], int | None]] = {
            "inline": (lambda columns=columns: here.predict(columns), None),
            "thread": (through_a_thread(here.predict, columns, rows), None),
            "process": (lambda columns=columns: apart.predict(columns), apart.says["pid"]),
            "thread_and_process": (through_a_thread(apart.predict, columns, rows), apart.says["pid"]),
        }
        for way, (call, other) in ways.items():
            wall_us, cpu_us = timed(call, seconds, other)
            emit(benchmark="isolation", what="call", way=way, rows=rows, wall_us=wall_us, cpu_us=cpu_us)
    apart.close()


def starts(path: Path, folder: Path) -> None:
    """Load, and the time without a model after its process was killed, with one that waits and without."""
    signature = load_file(path, name="demand").signature
    for spare in (True, False):
        loads: list[float] = []
        away: list[float] = []
        for _ in range(5):
            start = time.perf_counter()
            apart = open_version(a_version(path, signature), path.parent, environments=folder, own_s=10.0, spare=spare)
            loads.append(time.perf_counter() - start)
            assert isinstance(apart, Apart)
            row = Matrix(tuple(field.name for field in signature.inputs), np.zeros((1, COLUMNS)))
            apart.predict(row)
            while spare and apart.says["spare"] != "waiting":
                time.sleep(0.01)
            before = apart.says["restarts"]
            os.kill(apart.says["pid"], signal.SIGKILL)
            start = time.perf_counter()
            while apart.says["restarts"] == before:
                time.sleep(0.0002)
            while not _answers(apart, row):
                time.sleep(0.0002)
            away.append(time.perf_counter() - start)
            apart.close()
        emit(
            benchmark="isolation",
            what="start",
            spare=spare,
            load_ms=round(median(loads) * 1e3),
            without_a_model_ms=round(median(away) * 1e3, 1),
        )


def _answers(apart: Apart, row: Matrix) -> bool:
    try:
        apart.predict(row)
    except UnavailableError:
        return False
    return True


def threads(path: Path, seconds: float) -> None:
    """Whether calls at once in one process would answer more of them: what 1 and 4 threads do with the same model."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(2_000, COLUMNS))
    forest = GradientBoostingRegressor(n_estimators=100).fit(rows, rows[:, 0])
    here = load_file(path, name="demand")
    names = tuple(field.name for field in here.signature.inputs)
    for name, predict in (
        ("lightgbm", lambda array: here.predict(Matrix(names, array))),
        ("sklearn", forest.predict),
    ):
        for count in (1, 64, 1_000):
            array = rows[:count].copy()
            rates = [_rate(lambda predict=predict, array=array: predict(array), many, seconds) for many in (1, 4)]
            emit(
                benchmark="isolation",
                what="threads",
                model=name,
                rows=count,
                calls_s_1=round(rates[0]),
                calls_s_4=round(rates[1]),
                ratio=round(rates[1] / rates[0], 2),
            )


def _rate(call: Callable[[], object], many: int, seconds: float) -> float:
    counts = [0] * many
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < until:
            call()
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(many)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / seconds


def ways_to_cross(seconds: float) -> None:
    """Write and read the same rows as our frames, as Arrow IPC, and as pickles, which nobody may use."""
    import pickle

    rng = np.random.default_rng(3)
    for rows in (1, 1_000):
        numbers = {f"c{n}": rng.normal(size=rows) for n in range(COLUMNS)}
        texts = {"text": np.array([f"item {n}" for n in range(rows)], dtype=object)}
        matrix = np.stack(list(numbers.values()), axis=1)
        given = {"matrix": {"": matrix}, "columns": numbers, "text": texts}
        for what, columns in given.items():
            here, there = map(Channel, socket.socketpair())
            for end in (here, there):
                end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

            def frames(columns: Any = columns, here: Channel = here, there: Channel = there) -> object:
                parts, raw = parts_of(columns)
                sending = threading.Thread(target=here.send, args=(Message("predict", 1, parts=parts), raw))
                if sum(array.nbytes for array in raw) > 100_000:
                    sending.start()
                    message, body = there.receive()
                    sending.join()
                else:
                    here.send(Message("predict", 1, parts=parts), raw)
                    message, body = there.receive()
                return arrays_of(message.parts, body)

            def arrow(columns: Any = columns, matrix: Any = matrix) -> object:
                flat = columns if "" not in columns else {f"c{n}": matrix[:, n] for n in range(COLUMNS)}
                batch = pa.record_batch({name: pa.array(values) for name, values in flat.items()})
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, batch.schema) as writer:
                    writer.write_batch(batch)
                read = pa.ipc.open_stream(sink.getvalue()).read_next_batch()
                return {name: read.column(name).to_numpy(zero_copy_only=False) for name in read.schema.names}

            def pickled(columns: Any = columns) -> object:
                return pickle.load(io.BytesIO(pickle.dumps(columns, protocol=5)))

            emit(
                benchmark="isolation",
                what="crossing",
                rows=rows,
                of=what,
                frames_and_socket_us=timed(frames, seconds / 4)[0],
                arrow_ipc_us=timed(arrow, seconds / 4)[0],
                pickle_us=timed(pickled, seconds / 4)[0],
            )
            for end in (here, there):
                end.close()


def main() -> None:
    """Print each measurement as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # as workers have it, and read when the framework is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_NUM_THREADS": "1"})
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = trained(folder)
        calls(path, folder, given.seconds)
        starts(path, folder)
        threads(path, given.seconds)
        ways_to_cross(given.seconds)


if __name__ == "__main__":
    main()

"""Two trees of this repository beside each other: the CPU time of a request without a network, in batches that take turns.

    git worktree add /tmp/before v0.3 && uv run --group bench python benchmarks/pairs.py /tmp/before . [--joined] [--rounds 300]

A machine that changes its speed by the second changes it for both, and the median of the ratios of neighbouring batches stands still to
one per cent where the two medians differ by thirty from run to run. The requests are real bytes through the real protocol, application,
model and journal of one worker; only the sockets are none. `--joined` asks a gradient boosting of scikit-learn over 64 connections, whose
requests are answered together; else it is the one-row LightGBM of `serving.py`, 8 requests in each turn of the event loop.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np

from inside import Inside
from measure import emit, median, post
from serving import FEATURES, model_file

TURNS = 25
BREATH_S = 0.0002


class Sink:
    """What stands where a socket would: counts answers and throws them away."""

    answers = 0

    def write(self, data: bytes) -> None:
        """Take one."""
        Sink.answers += bool(data)

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Where it would be connected to."""
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def set_write_buffer_limits(self, *_: object, **__: object) -> None:
        """There is no buffer."""

    pause_reading = resume_reading = close = abort = set_write_buffer_limits


def boosting_file(folder: Path) -> Path:
    """The gradient boosting of `serving_peers.py`."""
    from sklearn.ensemble import GradientBoostingRegressor
    from skops.io import dump

    table = np.random.default_rng(7).normal(size=(3_000, FEATURES))
    trained = GradientBoostingRegressor(random_state=7).fit(table, table[:, 0] * 3 + np.sin(table[:, 1] * 2))
    dump(trained, folder / "boosting.skops")
    return folder / "boosting.skops"


def serve_batches(*, joined: bool) -> None:
    """A worker of this process's own tree: for each line of standard input one batch, and the microseconds of a request of it."""
    from towpath.serving.shortway import ShortWayProtocol

    made: list[tuple[Any, Any]] = []
    begin = ShortWayProtocol.__init__

    def noted(self: ShortWayProtocol, *given: Any, **named: Any) -> None:
        made.append((given, named))
        begin(self, *given, **named)

    ShortWayProtocol.__init__ = noted
    folder = Path(tempfile.mkdtemp())
    inside = Inside(boosting_file(folder) if joined else model_file(folder), folder)
    inside.start()
    post(inside.url, inside.body)  # whose connection shows how a protocol is made
    head = f"POST /predict/model HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(inside.body)}\r\n\r\n"
    request = head.encode() + inside.body

    async def connected() -> list[ShortWayProtocol]:
        protocols = [ShortWayProtocol(*made[0][0], **made[0][1]) for _ in range(64 if joined else 8)]
        for one in protocols:
            one.connection_made(Sink())  # pyright: ignore[reportArgumentType] - as much of a transport as it takes
        return protocols

    async def batch(protocols: list[ShortWayProtocol]) -> float:
        began = time.process_time_ns()
        for _ in range(TURNS):
            due = Sink.answers + len(protocols)
            for one in protocols:
                one.data_received(request)
            await asyncio.sleep(0)
            while Sink.answers < due:  # noqa: ASYNC110 - the answers of a stand-in, which sets no event
                await asyncio.sleep(BREATH_S)
        return (time.process_time_ns() - began) / 1e3 / TURNS / len(protocols)

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, inside.loop).result(60)

    protocols = run(connected())
    for _ in range(20):
        run(batch(protocols))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(run(batch(protocols)), flush=True)
    os._exit(0)


def main() -> None:
    """Print one line: medians of both trees, and of the ratios of their pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, help="Two folders with a checkout each: before and after.")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--joined", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        serve_batches(joined=given.joined)
    if len(given.trees) != 2:
        parser.error("two folders are needed")
    argv = [sys.executable, __file__, "--worker", *(["--joined"] if given.joined else [])]
    workers = [
        subprocess.Popen(
            argv, env=os.environ | {"PYTHONPATH": str(tree.resolve() / "src")}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for tree in given.trees
    ]  # fmt: skip

    def took(worker: "subprocess.Popen[str]") -> float:
        if worker.stdin is None or worker.stdout is None:
            raise SystemExit("no pipe")
        worker.stdin.write("batch\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    for worker, tree in zip(workers, given.trees, strict=True):
        if worker.stdout is None or worker.stdout.readline() != "ready\n":
            raise SystemExit(f"the worker of {tree} did not start; run it with --worker to see why")
    pairs: list[tuple[float, float]] = []
    for number in range(given.rounds):
        first, second = workers if number % 2 else workers[::-1]
        one, other = took(first), took(second)
        pairs.append((one, other) if number % 2 else (other, one))
    for worker in workers:
        worker.kill()
    emit(
        benchmark="pairs",
        joined=given.joined,
        before_us=round(median([one for one, _ in pairs]), 1),
        after_us=round(median([other for _, other in pairs]), 1),
        ratio_of_pairs=round(median([other / one for one, other in pairs]), 3),
    )


if __name__ == "__main__":
    main()

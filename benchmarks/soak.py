"""Mixed load on two workers while versions are swapped, workers are killed with -9 and callers send nonsense.

    uv run python benchmarks/soak.py [--seconds 1800] [--swaps 1000] [--kills 30]

Every answer is checked: its number must be that of the version that it names, or the fallback's with a reason. A request
may stay unanswered only on a connection of a worker that was killed. At the end memory must be flat, no child may live,
and what was acknowledged must stand in the journal. Prints one JSON line, and exits with 1 where a promise was broken.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow.parquet as pq

from fleet import Fleet
from measure import emit
from towpath.project.declarations import FallbackDeclaration, ServingDeclaration
from towpath.serving.call import infer_over_grpc
from towpath.serving.server import store_server
from towpath.settings import ServingSettings

CONNECTIONS = 12
PAUSE_S = 0.004
EXCUSED_S = 3.0
"""After a kill: how long a connection whose worker is not known yet may be one of the killed worker's."""
PATIENCE_S = 15.0
GROWTH_MIB, GROWTH_SHARE = 24.0, 0.1
MOODY = """import time
import numpy as np
def predict(model, rows):
    rows = np.asarray(rows)
    if (rows[:, 0] < 0).any():
        raise ValueError("below zero")
    if (rows[:, 0] > 100).any():
        time.sleep(0.15)
    return model.predict(rows)
"""


class Models(Fleet):
    """Two models: `steady`, whose version n answers n, and `moody`, which answers 7 unless provoked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "soak")
        for number in (1, 2, 3):
            self._constant("steady", float(number), "", timeout_ms=2_000)
        self._constant("moody", 7.0, MOODY, timeout_ms=100)
        self.promote("steady", 1)
        self.promote("moody", 1)

    def _constant(self, model: str, answer: float, code: str, *, timeout_ms: int) -> None:
        rows = np.random.default_rng(7).normal(size=(50, 2))
        parameters = {"objective": "l2", "verbose": -1, "num_leaves": 2, "min_data_in_leaf": 1}
        path = self.folder / f"{model}-{answer}.txt"
        lightgbm.train(parameters, lightgbm.Dataset(rows, np.full(50, answer)), num_boost_round=1).save_model(path)
        serving = ServingDeclaration(timeout_ms=timeout_ms)
        self.publish(
            model, path, code=code, serving=serving, fallback=(FallbackDeclaration(name="zero", constant=0.0),)
        )


class Tally:
    """What was sent and what came back."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.unanswered: list[str] = []
        self.acknowledged: list[str] = []
        self.killed: dict[int, float] = {}
        """Process → when it was killed, monotonic."""
        self.replaced_s: list[float] = []

    def excuses(self, pid: int | None) -> bool:
        """Whether a connection may break: its worker was killed, or it never said which one it is and one was killed now."""
        if pid is not None:
            return pid in self.killed
        return any(time.monotonic() - at < EXCUSED_S for at in self.killed.values())

    def broke(self, pid: int | None, why: str) -> None:
        """Note a request without an answer."""
        if self.excuses(pid):
            self.counts["cut_off"] += 1
        else:
            self.unanswered.append(f"pid {pid}: {why}")

    def check(self, kind: str, status: int, body: bytes, *, first: float = 0.0) -> None:
        """Hold an answer against what may be answered."""
        self.counts[kind] += 1
        if status != {"nonsense": 400, "misspelt": 400, "unknown": 404}.get(kind, 200):
            self.wrong.append(f"{kind}: {status} {body[:200]!r}")
            return
        if status != 200:
            return
        said = json.loads(body)
        if kind == "tensor":
            told, value = said["parameters"]["towpath"], said["outputs"][0]["data"][0]
            rows = [{**told, "prediction": value}]
        else:
            rows = said["predictions"]
        for row in rows:
            good = _moody(row, first) if kind == "moody" else _steady(row)
            if not good:
                self.wrong.append(f"{kind}: {row}")
            self.counts[row["source"].partition(":")[0]] += 1
        if len(self.acknowledged) < 2_000_000:
            self.acknowledged.append(rows[0]["prediction_id"])


def _steady(row: dict[str, Any]) -> bool:
    return row["source"] == "champion" and row["reason"] == "ok" and row["prediction"] == float(row["version"])


def _moody(row: dict[str, Any], first: float) -> bool:
    if row["source"] == "champion":
        return row["prediction"] == 7.0 and first >= 0
    reasons = {"slow", "overloaded", "down", *(("wrong",) if first < 0 else ())}
    return row["source"] == "fallback:zero" and row["prediction"] == 0.0 and row["reason"] in reasons


class Connection:
    """One keep-alive connection over which a caller sends one kind after the other."""

    def __init__(self, host: str, port: int, tally: Tally, chance: random.Random) -> None:
        self._host, self._port, self._tally, self._chance = host, port, tally, chance
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._pid: int | None = None

    async def run(self, until: float) -> None:
        """Send until the time is over."""
        while time.monotonic() < until:
            kind = self._chance.choices(
                ("one", "many", "tensor", "moody", "nonsense", "misspelt", "unknown"), (8, 2, 4, 3, 1, 1, 1)
            )[0]
            first = self._chance.choices((1.0, -1.0, 200.0), (12, 2, 1))[0] if kind == "moody" else 1.0
            try:
                await asyncio.wait_for(self._send(kind, first), PATIENCE_S)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self._tally.broke(self._pid, f"{kind}: {type(error).__name__} {error}")
                self._close()
            await asyncio.sleep(PAUSE_S)
        self._close()

    async def _send(self, kind: str, first: float) -> None:
        if self._streams is None:
            self._pid = None
            self._streams = await asyncio.open_connection(self._host, self._port)
            self._pid = json.loads((await self._ask("GET", "/health", b""))[1])["pid"]
        row = {"Column_0": first, "Column_1": 0.0}
        path, body = {
            "one": ("/predict/steady", {"rows": [row]}),
            "many": ("/predict/steady", {"rows": [row] * 20}),
            "moody": ("/predict/moody", {"rows": [row]}),
            "tensor": (
                "/v2/models/steady/infer",
                {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 0.0]}]},
            ),
            "nonsense": ("/predict/steady", None),
            "misspelt": ("/predict/steady", {"rows": [{"Column_O": 1.0, "Column_1": 0.0}]}),
            "unknown": ("/predict/stedy", {"rows": [row]}),
        }[kind]
        data = b'{"rows": [' if body is None else json.dumps(body).encode()
        status, answer = await self._ask("POST", path, data)
        self._tally.check(kind, status, answer, first=first)

    async def _ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: soak\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        answer = await reader.readexactly(length)
        if "connection: close" in head:
            self._close()
        return int(head.split()[1]), answer

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams, self._pid = None, None


def grpc_callers(address: str, tally: Tally, until: float) -> None:
    """Ask over gRPC, a new channel each time."""
    while time.monotonic() < until:
        try:
            found = infer_over_grpc(address, "steady", {"Column_0": [1.0], "Column_1": [0.0]}, timeout_s=PATIENCE_S)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is no answer
            tally.broke(None, f"grpc: {error}")
        else:
            tally.counts["grpc"] += 1
            row = {**found["towpath"], "prediction": found["predictions"][0]}
            if not _steady(row):
                tally.wrong.append(f"grpc: {row}")
        time.sleep(PAUSE_S * 10)


def swap(fleet: Fleet, swaps: int, until: float, tally: Tally) -> None:
    """Promote one version after the other, evenly over the time."""
    pause_s = (until - time.monotonic()) / (swaps + 1)
    for turn in range(swaps):
        time.sleep(pause_s)
        fleet.promote("steady", (turn + 1) % 3 + 1)
        tally.counts["swaps"] += 1


def kill(server: Any, kills: int, until: float, tally: Tally, chance: random.Random) -> None:
    """Kill one worker after the other, and see how soon another answers in its place."""
    pause_s = (until - time.monotonic()) / (kills + 1)
    for _ in range(kills):
        time.sleep(pause_s)
        before = server.pids
        victim, started = chance.choice(before), time.monotonic()
        tally.killed[victim] = started
        os.kill(victim, signal.SIGKILL)
        tally.counts["kills"] += 1
        while victim in server.ready_pids or len(server.ready_pids) < len(before):
            time.sleep(0.01)
        tally.replaced_s.append(time.monotonic() - started)


def memory_mib(pid: int) -> float:
    """Resident memory, 0 where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def growth_mib(samples: dict[int, list[float]]) -> tuple[float, bool]:
    """The most that a worker grew from the second quarter of its life to the last, and whether that is flat."""
    worst, flat = 0.0, True
    for taken in samples.values():
        if len(taken) < 8:
            continue
        quarter = len(taken) // 4
        early, late = np.median(taken[quarter : 2 * quarter]), np.median(taken[-quarter:])
        worst = max(worst, float(late - early))
        flat = flat and bool(late - early <= max(GROWTH_MIB, early * GROWTH_SHARE))
    return worst, flat


def flushed(fleet: Fleet) -> set[str]:
    """The predictions that reached the object store."""
    folder = Path(fleet.url) / "journal" / "predictions"
    return {one for path in folder.rglob("*.parquet") for one in pq.read_table(path)["prediction_id"].to_pylist()}


def main() -> None:
    """Soak, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1_800)
    parser.add_argument("--swaps", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    chance, tally = random.Random(given.seed), Tally()
    samples: dict[int, list[float]] = {}
    settings = ServingSettings(
        port=0, grpc_port=0, workers=2, poll_ms=100, drain_ms=100, flush_s=2.0, prove_s=5, standby=True
    )
    with tempfile.TemporaryDirectory() as made:
        fleet = Models(Path(made))
        online = f"lmdb://{made}/online"
        server = store_server(settings, objects_url=fleet.url, keys=fleet.keys, folder=Path(made), online_url=online)
        with server:
            until = time.monotonic() + given.seconds
            host, ports = "127.0.0.1", server.ports
            threads = [
                threading.Thread(target=swap, args=(fleet, given.swaps, until, tally)),
                threading.Thread(target=kill, args=(server, given.kills, until, tally, chance)),
                threading.Thread(target=grpc_callers, args=(f"{host}:{ports.grpc}", tally, until)),
            ]
            for thread in threads:
                thread.start()

            async def load() -> None:
                connections = [Connection(host, ports.http, tally, chance) for _ in range(CONNECTIONS)]
                running = [asyncio.create_task(one.run(until)) for one in connections]
                while not all(task.done() for task in running):
                    for pid in server.ready_pids:
                        samples.setdefault(pid, []).append(memory_mib(pid))
                    await asyncio.sleep(min(1.0, given.seconds / 40))
                await asyncio.gather(*running)

            asyncio.run(load())
            for thread in threads:
                thread.join()
            pids = server.pids
        lost = set(tally.acknowledged) - flushed(fleet)
    growth, flat = growth_mib(samples)
    alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    slowest = max(tally.replaced_s, default=0.0)
    good = flat and not (tally.wrong or tally.unanswered or lost or alive)
    emit(
        benchmark="soak",
        good=good,
        seconds=given.seconds,
        wrong=len(tally.wrong),
        unanswered=len(tally.unanswered),
        lost_of_the_journal=len(lost),
        living_children=len(alive),
        memory_growth_mib=round(growth, 1),
        replaced_s=round(slowest, 2),
        **dict(sorted(tally.counts.items())),
    )
    for said in (*tally.wrong[:5], *tally.unanswered[:5], *sorted(lost)[:5]):
        sys.stderr.write(f"{said}\n")
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()

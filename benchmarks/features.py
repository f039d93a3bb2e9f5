"""Point-in-time training sets, materialising and online reads: seconds, memory and microseconds, as JSON lines.

uv run python benchmarks/features.py            # 1M rows x 3 views of 26M rows, as in the issue; needs 2 GB of disk
uv run python benchmarks/features.py --share 0.1
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from towpath import features
from towpath.clock import FixedClock
from towpath.project.declarations import FeatureHeader
from towpath.project.folder import ViewFile
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.stores.online import open_online
from towpath.types import micros
from towpath.warehouse import Engine, Warehouse, open_warehouse

START = datetime(2011, 1, 1, tzinfo=UTC)
END = START + timedelta(days=365)
ENTITIES = 200_000
VIEW_ROWS = {"a": 10_000_000, "b": 10_000_000, "c": 6_000_000}
SPINE_ROWS = 1_000_000
FEATURES = 10


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def make(folder: Path, share: float) -> None:
    """Views with ten features each; rows land up to ten days late, in no order."""
    (folder / "warehouse").mkdir()
    engine = Engine(memory_mib=1_024)
    numbers = ", ".join(f"(hash(i * 13 + {n}) % 1000000) / 1e4 as f{n}" for n in range(FEATURES))
    moment = f"epoch_us(timestamptz '{START:%Y-%m-%d}') + (hash(i * 3 + 2) % 31536000) * 1000000"
    for seed, (name, rows) in enumerate(VIEW_ROWS.items()):
        sql = f"""
            select (hash(i * 7 + {seed}) % {ENTITIES})::bigint as id, make_timestamptz(({moment})::bigint) as at,
                make_timestamptz(({moment} + (hash(i) % 864000) * 1000000)::bigint) as landed, {numbers}
            from range({int(rows * share)}) as t(i)
        """
        engine.write_parquet(sql, folder / "warehouse" / f"{name}.parquet")
    sql = f"""
        select (hash(i * 7 + 1) % {ENTITIES})::bigint as id, make_timestamptz(({moment})::bigint) as t, i as label
        from range({int(SPINE_ROWS * share)}) as t(i)
    """
    engine.write_parquet(sql, folder / "warehouse" / "spine.parquet")
    engine.close()


def views(warehouse: Warehouse, ttl: str | None) -> dict[str, features.View]:
    header = FeatureHeader(entity="id", event_time="at", created_time="landed", ttl=ttl)
    return {
        name: features.describe(
            ViewFile(name=name, query=Query.parse(f"select * from {name}", name), header=header),
            warehouse,
            project="bench",
        )
        for name in VIEW_ROWS
    }


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1_024


def training_set(folder: Path, memory_mib: int) -> None:
    """In a process of its own, so that its peak is its own."""
    warehouse = open_warehouse(WarehouseSettings(memory_mib=memory_mib), folder, {})
    described = views(warehouse, "30d")
    for as_of in ("known", "event"):
        started = time.perf_counter()
        spine = Query.parse("select id, t, label from spine", "spine")
        wanted = [f"{view}.f{n}" for view in described for n in range(4)]
        joined = features.training_set(
            warehouse, spine, keys=["id"], time="t", features=wanted, views=described, as_of=as_of
        )
        seconds = time.perf_counter() - started
        say(
            measure="training set",
            as_of=as_of,
            rows=joined.num_rows,
            views=len(described),
            features=len(wanted),
            seconds=round(seconds, 2),
            rows_per_s=round(joined.num_rows / seconds),
            peak_mib=peak_mib(),
            memory_limit_mib=memory_mib,
        )
    warehouse.close()


def online(folder: Path) -> None:
    warehouse = open_warehouse(WarehouseSettings(memory_mib=512), folder, {})
    store = open_online("lmdb://online", folder)
    described = views(warehouse, "400d")
    for view in described.values():
        built = features.build(view, warehouse, store, as_of=END, clock=FixedClock(END))
        say(
            measure="materialise",
            rows=built.rows,
            features=FEATURES,
            seconds=round(built.seconds, 2),
            rows_per_s=round(built.rows / built.seconds),
            peak_mib=peak_mib(),
        )
    reader = features.OnlineReader(store, features.lock(described, [f"{view}.*" for view in described]))
    now_us = micros(END)
    for keys in (1, 10, 100):
        timings = sorted(read_us(reader, keys, now_us))
        say(
            measure="online read",
            features=FEATURES * len(described),
            views=len(described),
            keys=keys,
            p50_us=round(statistics.median(timings), 1),
            p99_us=round(timings[int(len(timings) * 0.99)], 1),
        )
    store.close()
    warehouse.close()


def read_us(reader: features.OnlineReader, keys: int, now_us: int) -> Iterator[float]:
    chance = np.random.default_rng(7)
    for _ in range(2_000):
        ids: list[object] = chance.integers(0, ENTITIES, keys).tolist()
        started = time.perf_counter()
        reader.read({"id": ids}, keys, now_us)
        yield (time.perf_counter() - started) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the rows; 1 for the issue's numbers")
    parser.add_argument("--memory-mib", type=int, default=1_536)
    parser.add_argument("--part", choices=["training", "online"])
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.part == "training":
        training_set(chosen.folder, chosen.memory_mib)
    elif chosen.part == "online":
        online(chosen.folder)
    else:
        with tempfile.TemporaryDirectory(prefix="towpath-bench-") as folder:
            say(machine="2 cores", pyarrow=pa.__version__, share=chosen.share)
            make(Path(folder), chosen.share)
            for part in ("training", "online"):
                more = ["--part", part, "--folder", folder, "--memory-mib", str(chosen.memory_mib)]
                subprocess.run([sys.executable, __file__, *more], check=True)


if __name__ == "__main__":
    main()

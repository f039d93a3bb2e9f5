"""A journal record in the path of an answer: at most 5 µs; the reference is the bare ``write()`` of the same bytes."""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from towpath.clock import SystemClock
from towpath.journal import Journal
from towpath.journal.record import Record, Rows

RECORDS = 20_000
TURNS = 15
ROWS = Rows(
    source=["champion"],
    reason=["ok"],
    version=[17],
    prediction=[12.5],
    entity_key=['["10002","UK"]'],
    unit_id=["10002"],
    target_at=[1_700_000_000_000_000],
    segment=[{"price_band": "low"}],
    features=[{f"sales_windows.units_{n}d": float(n) for n in range(10)}],
    fallback_prediction=[11.0],
)
RECORD = Record(
    prediction_id="0190a1b2c3d4e5f60718293a4b5c6d7e",
    request_id="0190a1b2c3d4e5f60718293a4b5c6d7e",
    project="shop",
    team="food",
    model="demand",
    environment="local",
    server="host-1-0",
    consumer="ordering",
    predicted_at=1_700_000_000_000_000,
    recorded_at=1_700_000_000_000_000,
    latency_ms=1.25,
    rows=ROWS,
)


def main() -> None:
    """Time both in turns and print the best turn of each as one line of JSON; neighbours can only make a turn slower."""
    payload = msgspec.msgpack.encode(RECORD)
    appended: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal", server="bench", clock=SystemClock(), budget_bytes=8 << 30)
        descriptor = os.open(Path(folder) / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for _ in range(TURNS):
            appended.append(timed(lambda: journal.append(RECORD)))
            bare.append(timed(lambda: os.write(descriptor, payload)))
        os.close(descriptor)
        journal.close()
    (ours_us, ours_cpu_us), (bare_us, bare_cpu_us) = min(appended), min(bare)
    print(
        json.dumps(
            {
                "benchmark": "journal",
                "record_us": round(ours_us, 2),
                "record_cpu_us": round(ours_cpu_us, 2),
                "bare_write_us": round(bare_us, 2),
                "bare_write_cpu_us": round(bare_cpu_us, 2),
                "ratio": round(ours_us / bare_us, 2),
                "record_bytes": len(payload),
                "dropped": journal.dropped,
                "limit_us": 5.0,
            }
        )
    )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Microseconds a call, of the wall and of this thread."""
    wall, cpu = time.perf_counter(), time.thread_time()
    for _ in range(RECORDS):
        work()
    return (time.perf_counter() - wall) / RECORDS * 1e6, (time.thread_time() - cpu) / RECORDS * 1e6


if __name__ == "__main__":
    main()

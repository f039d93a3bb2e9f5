"""A journal record in the path of an answer: at most 5 µs; the reference is the bare ``write()`` of the same bytes."""

import json
import os
import tempfile
import time
from pathlib import Path

import msgspec

from towpath.clock import SystemClock
from towpath.journal import Journal
from towpath.journal.record import Record, Rows

RECORDS = 50_000
TURNS = 5
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
    """Time both in turns and print the medians as one line of JSON."""
    payload = msgspec.msgpack.encode(RECORD)
    appended, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal", server="bench", clock=SystemClock(), budget_bytes=8 << 30)
        descriptor = os.open(Path(folder) / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for _ in range(TURNS):
            start = time.perf_counter()
            for _ in range(RECORDS):
                journal.append(RECORD)
            appended.append((time.perf_counter() - start) / RECORDS * 1e6)
            start = time.perf_counter()
            for _ in range(RECORDS):
                os.write(descriptor, payload)
            bare.append((time.perf_counter() - start) / RECORDS * 1e6)
        os.close(descriptor)
        journal.close()
    ours, reference = sorted(appended)[TURNS // 2], sorted(bare)[TURNS // 2]
    print(
        json.dumps(
            {
                "benchmark": "journal",
                "record_us": round(ours, 2),
                "bare_write_us": round(reference, 2),
                "ratio": round(ours / reference, 2),
                "record_bytes": len(payload),
                "dropped": journal.dropped,
                "limit_us": 5.0,
            }
        )
    )


if __name__ == "__main__":
    main()

"""Eight weeks of the real retail file, replayed: seconds, CPU and memory of the whole process tree, as one JSON line.

uv run python benchmarks/retail.py [--data ../shared/data] [--weeks 8]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from measure import emit, memory_mib

BAR_S = 120
BAR_MIB = 2_048

REPLAY = """
import json, sys
from pathlib import Path
from towpath.demo.replay import replay

found = replay(Path(sys.argv[1]), data=Path(sys.argv[2]), weeks=int(sys.argv[3]))
whole = found.parts[0]
print(json.dumps({
    "trading_days": found.trading_days, "rows": found.rows, "matured": found.matured,
    "wape": round(whole.wape.estimate, 4), "heuristic_wape": round(whole.heuristic_wape.estimate, 4),
    "versions": len(found.versions), "incidents": found.incidents_opened,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    beside = Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TOWPATH_DATA", beside)))
    parser.add_argument("--weeks", type=int, default=8)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="towpath-bench-") as folder:
        argv = [sys.executable, "-c", REPLAY, f"{folder}/shop", str(chosen.data), str(chosen.weeks)]
        started = time.perf_counter()
        running = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        peaks = [0.0]
        watcher = threading.Thread(target=watch, args=(running.pid, peaks), daemon=True)
        watcher.start()
        said = running.stdout.read()
        _, status, used = os.wait4(running.pid, 0)
        seconds = time.perf_counter() - started
    if status:
        raise SystemExit("the replay failed")
    emit(
        measure="retail replay",
        machine="2 cores",
        load=round(os.getloadavg()[1], 1),
        weeks=chosen.weeks,
        seconds=round(seconds, 1),
        bar_seconds=BAR_S,
        cpu_seconds=round(used.ru_utime + used.ru_stime, 1),
        peak_mib=round(max(peaks)),
        bar_mib=BAR_MIB,
        met=seconds < BAR_S and max(peaks) < BAR_MIB,
        **json.loads(said),
    )


def watch(pid: int, peaks: list[float]) -> None:
    """Memory of the process and all below it, ten times a second, until it is gone."""
    while True:
        try:
            peaks.append(memory_mib(pid))
        except (OSError, TypeError):  # one of them ended between two reads
            if not Path(f"/proc/{pid}/smaps_rollup").exists():
                return
        time.sleep(0.1)


if __name__ == "__main__":
    main()

"""One side of a feature benchmark as a process: reads requests as JSON lines, answers as JSON lines; needs nothing but Python."""

import json
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any


def serve(work: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer until the other side closes; what the libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    own = _Own()
    own.start()
    for line in sys.stdin:
        request = json.loads(line)
        answer = work[request.pop("do")](**request)
        answer["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1_024
        answer["peak_own_mib"] = own.most_kib // 1_024
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class _Own(threading.Thread):
    """Watches the memory that is the process's own: without mapped files, which the kernel takes back when it likes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most_kib = 0

    def run(self) -> None:
        """Look twenty times a second."""
        while True:
            with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - runs where Feast does
                fields = dict(line.split(":", 1) for line in status)
            self.most_kib = max(self.most_kib, int(fields["RssAnon"].split()[0]))
            time.sleep(0.05)


def timed_us(call: Callable[[Any], object], asked: Sequence[Any]) -> dict[str, float]:
    """Microseconds of each call: the middle one and the 99th percentile."""
    taken: list[float] = []
    for one in asked:
        started = time.perf_counter()
        call(one)
        taken.append((time.perf_counter() - started) * 1e6)
    taken.sort()
    return {"p50_us": round(statistics.median(taken), 1), "p99_us": round(taken[int(len(taken) * 0.99)], 1)}

"""One side of a feature benchmark as a process: reads requests as JSON lines, answers as JSON lines; needs nothing but Python."""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


def serve(work: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer until the other side closes; what the libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        answer = work[request.pop("do")](**request)
        answer["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1_024
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def timed_us(call: Callable[[Any], object], asked: Sequence[Any]) -> dict[str, float]:
    """Microseconds of each call: the middle one and the 99th percentile."""
    taken: list[float] = []
    for one in asked:
        started = time.perf_counter()
        call(one)
        taken.append((time.perf_counter() - started) * 1e6)
    taken.sort()
    return {"p50_us": round(statistics.median(taken), 1), "p99_us": round(taken[int(len(taken) * 0.99)], 1)}

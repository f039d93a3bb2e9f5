"""Watches one job from a process of its own, so that nothing of it outlives its limits or the one who started it.

It is started by its path and knows the standard library alone, so that it is there in 20 ms and weighs 10 MiB. Its stdin
gives one line of JSON, what to start with which limits; the end of stdin says that nobody waits any more. Its stdout is
the job's. Its stderr says how the job ended, in one line of JSON.

Memory is held in two ways. All of the job's processes are summed every 50 ms, and a job above its limit is killed.
Between two looks a process cannot grow without bound, because its private data has a hard limit 4 GiB higher: one huge
allocation fails as a `MemoryError` in the user's own line. Hard limits alone were tried and lost. A process that loads
numpy, pyarrow, polars, lightgbm and sklearn and uses 0.3 GiB reserves 1.9 GiB of addresses; and of private data 0.5 GiB,
or 1.2 GiB once it has read a Parquet file, for pyarrow's allocator reserves a GiB at a time. Control groups would do
better, and need rights that a laptop or a pod does not give.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

_LOOK_EVERY_S = 0.05
SLACK_BYTES = 4 * 2**30
_END_S = 10  # a process that sleeps in the kernel, or that runs as root where we do not, may not die at all
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LINUX = sys.platform == "linux"
_MAXRSS_BYTES = 1_024 if _LINUX else 1


class Order(NamedTuple):
    """What the job is; the line of JSON on stdin."""

    argv: list[str]
    folder: str
    variables: dict[str, str]
    memory_bytes: int | None
    time_s: float | None
    cpus: list[int]
    hard_limit: bool


class Warden:
    """One job: its processes, and what they have used so far."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._parent = os.getppid()
        self._exit_code: int | None = None
        self._cpu_s = 0.0
        self._peak_bytes = 0

    def watch(self) -> dict[str, Any]:
        """Start the job, and return when nothing of it is left; says how it ended and what it used."""
        started = time.monotonic()
        ended = "exit"
        if _LINUX:  # what a process of the job leaves behind becomes a child of ours, and can be found and ended
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        wake, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.signal(signal.SIGCHLD, _noted)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        try:
            job = subprocess.Popen(  # noqa: S603 - the argv is the job
                self._order.argv,
                cwd=self._order.folder,
                env=self._order.variables,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=self._bind,  # noqa: PLW1509 - one thread, so no lock can be held
            )
        except OSError as error:
            return {"ended": "start", "exit_code": 127, "said": f"{error.strerror}: {error.filename}"}
        while self._exit_code is None:
            ready = select.select([0, wake], [], [], _LOOK_EVERY_S)[0]
            if wake in ready:
                os.read(wake, 512)
            self._reap(job.pid)
            if self._exit_code is not None:
                break
            if 0 in ready or os.getppid() != self._parent:
                ended = "left"
            elif self._order.time_s is not None and time.monotonic() - started > self._order.time_s:
                ended = "time"
            elif self._too_large():
                ended = "memory"
            else:
                continue
            break
        self._end(job.pid)
        return {
            "ended": ended,
            "exit_code": self._exit_code,
            "duration_s": time.monotonic() - started,
            "cpu_s": self._cpu_s,
            "peak_bytes": self._peak_bytes,
        }

    def _bind(self) -> None:
        """In the job, before its program begins."""
        if self._order.cpus and _LINUX:
            os.sched_setaffinity(0, self._order.cpus)
        if self._order.memory_bytes is not None and self._order.hard_limit and _LINUX:
            most = self._order.memory_bytes + SLACK_BYTES
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        if _LINUX:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def _reap(self, job: int) -> bool:
        """Collect whoever has ended; false when no child is left."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._cpu_s += used.ru_utime + used.ru_stime
            if pid == job:
                self._exit_code = os.waitstatus_to_exitcode(status)
                self._peak_bytes = max(self._peak_bytes, used.ru_maxrss * _MAXRSS_BYTES)

    def _end(self, job: int) -> None:
        """Kill all that is left, again until nothing is: a process may be born while we look."""
        give_up = time.monotonic() + _END_S
        while time.monotonic() < give_up:
            for pid in _descendants():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not _LINUX:  # nothing comes back to us there; the job's own group is what can be found
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(job, signal.SIGKILL)
            if not self._reap(job):
                return
            time.sleep(0.002)

    def _too_large(self) -> bool:
        """Look at the job's memory. The cheap sum counts shared and file-backed pages too; the exact one decides."""
        pids = _descendants()
        used = sum(map(_resident_bytes, pids))
        if used <= self._peak_bytes:
            return False
        limit = self._order.memory_bytes
        if len(pids) > 1 or (limit is not None and used > limit):
            used = sum(map(_own_bytes, pids))
        self._peak_bytes = max(self._peak_bytes, used)
        return limit is not None and used > limit


def _noted(_number: int, _frame: FrameType | None) -> None:
    """The byte in the wake-up pipe is all that is wanted of a signal."""


def _descendants() -> list[int]:
    """Every process below this one."""
    if not Path("/proc/self/task").exists():
        return _descendants_by_ps()
    found: list[int] = []
    left = [os.getpid()]
    while left:
        parent = left.pop()
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for task in os.listdir(f"/proc/{parent}/task"):  # noqa: PTH208 - 50 ms apart, no objects wanted
                left += _numbers(f"/proc/{parent}/task/{task}/children")
        if parent != os.getpid():
            found.append(parent)
    return found


def _descendants_by_ps() -> list[int]:
    said = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout  # noqa: S607
    parents = {int(pid): int(ppid) for pid, ppid in (line.split() for line in said.splitlines())}
    found = [os.getpid()]
    for parent in found:
        found += [pid for pid, ppid in parents.items() if ppid == parent]
    return found[1:]


def _numbers(path: str) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(path).read_text("ascii").split()]
    return []


def _resident_bytes(pid: int) -> int:
    pages = _numbers(f"/proc/{pid}/statm")
    if pages:
        return pages[1] * _PAGE_BYTES
    if _LINUX:
        return 0
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout  # noqa: S603, S607
    return int(said.strip() or 0) * 1_024


def _own_bytes(pid: int) -> int:
    """Private pages and this process's part of the shared ones; pages that a file backs can be dropped, and do not count."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return _resident_bytes(pid)
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    whole = kib.get("Pss", 0)
    return (kib.get("Pss_Anon", whole) + kib.get("Pss_Shmem", 0)) * 1_024


def main() -> None:
    """Read the order, watch, say how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    report = Warden(Order(**json.loads(sys.stdin.readline()))).watch()
    sys.stderr.write(json.dumps(report))


if __name__ == "__main__":
    main()

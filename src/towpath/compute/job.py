"""One job: a program with its limits, its variables and its output, run to its end whatever happens."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from towpath.compute import warden
from towpath.compute.machine import Limits, limits, this_machine
from towpath.errors import ResourceError
from towpath.project.declarations import Resources

__all__ = ["Finished", "kept_variables", "run", "thread_variables"]

Ended = Literal["exit", "time", "memory", "start", "left"]
"""By itself, by a limit, before it began, or because nobody waited any more."""

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",
)
_LINE_CHARACTERS = 16_384
_TAIL_LINES = 200


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended and what it used."""

    ended: Ended
    exit_code: int
    """0 is fine; below 0 the number of the signal that killed it."""
    duration_s: float = 0.0
    """Wall clock."""
    peak_memory_mib: float = 0.0
    """The most that its processes used together."""
    cpu_s: float = 0.0
    """Of all its processes and cores."""
    stdout_tail: tuple[str, ...] = ()
    """The last 200 lines of stdout and stderr, in the order written."""
    problem: str = ""
    """Why it failed, in one sentence; empty where it did not."""


def run(
    argv: Sequence[str],
    *,
    resources: Resources | None = None,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Finished:
    """Run a program to its end, held to its resources; nothing that it started is left when this returns or raises.

    The cores that it may use are fixed (and the usual thread pools told their number), its memory and its time are
    limits beyond which it is killed, and GPUs that it did not ask for are hidden.

    Args:
        argv: The program and its arguments.
        resources: What it may use; as much as there is unless given.
        folder: Where it runs.
        variables: The environment that it sees, beside ``PATH``, ``HOME``, ``LANG``, ``LC_ALL`` and ``TZ``.
        on_line: Called with each line of its output as it is written; lines over 16,384 characters arrive in parts.

    Returns:
        How it ended. A program that fails, or is killed at a limit, is an answer and no error.

    Raises:
        ResourceError: The machine has less than was asked for, or is no POSIX system.

    Example:
        >>> finished = run([sys.executable, "-c", "print('hello')"], folder=Path())
        >>> finished.ended, finished.exit_code, finished.stdout_tail
        ('exit', 0, ('hello',))
    """
    if os.name != "posix":
        raise ResourceError("A job needs process groups.", sys.platform, "run it on Linux, macOS or WSL")
    held = limits(resources or Resources())
    cpus = _cores(held)
    order = warden.Order(
        argv=list(argv),
        folder=str(folder),
        variables=_environment(held, variables or {}),
        memory_bytes=None if held.memory_mib is None else held.memory_mib * 2**20,
        time_s=held.time_s,
        cpus=cpus,
        hard_limit=held.gpus == 0,  # a GPU's driver reserves far more private data than it uses
    )
    with subprocess.Popen(  # noqa: S603 - the argv is our own file
        [sys.executable, "-I", "-S", warden.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches us alone, and we end the job
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        try:
            with contextlib.suppress(BrokenPipeError):  # it is gone already; its report will be empty
                process.stdin.write(json.dumps(order._asdict()) + "\n")
                process.stdin.flush()
            while line := process.stdout.readline(_LINE_CHARACTERS):
                tail.append(line.rstrip("\n"))
                if on_line is not None:
                    on_line(tail[-1])
            report = process.stderr.read()
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # the warden now ends whatever is left
            process.wait()
    return _finished(report, held, tuple(tail))


def _cores(held: Limits) -> list[int]:
    """Which cores: the first is picked by our process number, so that two jobs side by side rarely share one."""
    if held.cpus is None:
        return []
    there = this_machine().cpus
    return [there[(os.getpid() + n) % len(there)] for n in range(held.cpus)]


def kept_variables() -> dict[str, str]:
    """What a process that gets none of our variables sees all the same: where programs and homes are, language and zone."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ}


def thread_variables(threads: int) -> dict[str, str]:
    """What tells the usual thread pools their number.

    Example:
        >>> thread_variables(2)["OMP_NUM_THREADS"]
        '2'
    """
    return dict.fromkeys(_THREADS, str(threads))


def _environment(held: Limits, variables: Mapping[str, str]) -> dict[str, str]:
    seen = kept_variables()
    seen |= {"PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(held.gpus)))}
    if held.cpus is not None:
        seen |= thread_variables(held.cpus)
    return seen | dict(variables)


def _finished(report: str, held: Limits, tail: tuple[str, ...]) -> Finished:
    try:
        said = json.loads(report)
    except ValueError:
        raise ResourceError(
            f"The job's warden was killed or failed: {report.strip()[-500:] or 'it said nothing'}.",
            mend="look at the machine's log for the out-of-memory killer, then run it again",
        ) from None
    exit_code = -signal.SIGKILL if said["exit_code"] is None else said["exit_code"]
    peak_memory_mib = said.get("peak_bytes", 0) / 2**20
    duration_s = said.get("duration_s", 0.0)
    problem = {
        "time": f"It took longer than {held.time_s:g} s and was ended." if held.time_s else "",
        "memory": f"It used {peak_memory_mib:.0f} MiB of memory, more than its {held.memory_mib} MiB, and was ended"
        f" after {duration_s:.1f} s.",
        "start": f"It could not be started: {said.get('said')}.",
        "left": "Nobody waited for it any more.",
        "exit": _exit_problem(exit_code),
    }[said["ended"]]
    return Finished(
        ended=said["ended"],
        exit_code=exit_code,
        duration_s=duration_s,
        peak_memory_mib=peak_memory_mib,
        cpu_s=said.get("cpu_s", 0.0),
        stdout_tail=tail,
        problem=problem,
    )


def _exit_problem(exit_code: int) -> str:
    if exit_code == 0:
        return ""
    if exit_code > 0:
        return f"It ended with exit code {exit_code}."
    name = signal.Signals(-exit_code).name
    hint = ", perhaps by the machine's out-of-memory killer" if name == "SIGKILL" else ""
    return f"It was killed by signal {-exit_code} ({name}){hint}."

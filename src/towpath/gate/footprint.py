"""What a version costs where it serves: load time, memory and one-row latency, measured in a clean process."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from towpath.errors import ModelError, TowpathError
from towpath.gate.verdict import Footprint
from towpath.project.declarations import GateDeclaration

__all__ = ["arguments", "measure", "prepare", "quietest", "read", "within"]

_CALLS = 200
_ROUNDS = 3
"""The quietest round counts: a neighbour on the machine makes a model look slower, and nothing makes it look faster."""
_PROCESSES = 3
"""So many are measured at most, where the first ones are too slow."""
_FEWEST_CALLS = 20
_BUDGET_S = 10.0
"""A slow model is called less often, so that the gate does not wait for it."""
_MANIFEST, _ROW = "manifest.json", "row.json"
_MARK = "towpath-footprint:"


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    version_folder: str
    row: dict[str, Any]
    environments: str


def prepare(
    folder: Path,
    manifest: bytes,
    version_folder: Path,
    row: Mapping[str, object],
    *,
    environments: Path | None = None,
) -> list[str]:
    """Write down what a clean process shall measure.

    Args:
        folder: An empty folder of the caller.
        manifest: The manifest's stored bytes.
        version_folder: The version's files, checked by digest.
        row: One row of the model's inputs by name, as JSON has them; looked-up features included.
        environments: Folder of the environments that locks describe; one in `folder` unless given.

    Returns:
        The arguments to run through ``compute``; its output goes to `read`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MANIFEST).write_bytes(manifest)
    kept = (environments or folder / "environments").resolve()
    task = _Task(version_folder=str(version_folder.resolve()), row=dict(row), environments=str(kept))
    (folder / _ROW).write_bytes(msgspec.json.encode(task))
    return arguments(folder)


def arguments(folder: Path) -> list[str]:
    """The command that measures what `prepare` wrote into a folder."""
    return [sys.executable, "-m", "towpath.gate.footprint", str(folder.resolve())]


def read(lines: Sequence[str]) -> Footprint:
    """Read what the measuring process printed.

    Args:
        lines: Its output, or the tail of it; the user's own code may have printed too.

    Raises:
        ModelError: It ended without a measurement; the text says what it printed last.
    """
    for line in reversed(lines):
        if line.startswith(_MARK):
            return msgspec.json.decode(line.removeprefix(_MARK), type=Footprint)
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    raise ModelError(f"The footprint could not be measured; the process printed last: {last[:300]}")


def within(footprint: Footprint, gate: GateDeclaration) -> bool:
    """Whether a version keeps the limits of its gate."""
    return (
        footprint.load_s <= gate.load_s
        and footprint.memory_mib <= gate.memory_mib
        and footprint.p99_ms <= gate.latency_p99_ms
    )


def quietest(measured: Iterable[Footprint], gate: GateDeclaration) -> Footprint:
    """What a version costs where nobody disturbs it: measured again while it is too slow, three times at most.

    A busy machine makes a version look slow, and nothing makes it look fast; so each time is the least of those that were
    measured. Memory is the most, because no neighbour adds to it; where it is too much, nothing is measured again.

    Args:
        measured: Measurements in processes of their own, made as they are taken.
        gate: The limits.

    Examples:
        >>> busy, quiet = (Footprint(load_s=s, memory_mib=200, p50_ms=1, p99_ms=s) for s in (40.0, 2.0))
        >>> quietest([busy, quiet], GateDeclaration(load_s=30, latency_p99_ms=50)).load_s
        2.0
    """
    best: Footprint | None = None
    for one in islice(measured, _PROCESSES):
        if best is None:
            best = one
        else:
            best = Footprint(
                load_s=min(best.load_s, one.load_s),
                memory_mib=max(best.memory_mib, one.memory_mib),
                p50_ms=min(best.p50_ms, one.p50_ms),
                p99_ms=min(best.p99_ms, one.p99_ms),
            )
        if within(best, gate) or best.memory_mib > gate.memory_mib:
            break
    if best is None:
        raise ModelError("The footprint could not be measured.")
    return best


def measure(folder: Path) -> Footprint:
    """Load the version and call it with one row; everything before the first import of a framework counts as load."""
    started = time.perf_counter()
    from towpath.apart import Apart, open_version
    from towpath.models import columns_from_rows
    from towpath.models.manifest import Manifest

    manifest = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=Manifest)
    task = msgspec.json.decode((folder / _ROW).read_bytes(), type=_Task)
    model = open_version(manifest, Path(task.version_folder), environments=Path(task.environments))
    load_s = time.perf_counter() - started
    columns = columns_from_rows(manifest.signature, [task.row])
    model.predict(columns)  # the first call warms up; a server's readiness does the same
    begun = time.perf_counter()

    def timed_round() -> list[float]:
        taken_ms: list[float] = []
        while len(taken_ms) < _CALLS and (len(taken_ms) < _FEWEST_CALLS or time.perf_counter() - begun < _BUDGET_S):
            before = time.perf_counter()
            model.predict(columns)
            taken_ms.append((time.perf_counter() - before) * 1e3)
        return sorted(taken_ms)

    taken_ms = min((timed_round() for _ in range(_ROUNDS)), key=_p99)
    memory_mib = _peak_mib() + (model.peak_mib if isinstance(model, Apart) else 0.0)
    model.close()
    return Footprint(
        load_s=round(load_s, 4),
        memory_mib=round(memory_mib, 1),
        p50_ms=round(taken_ms[len(taken_ms) // 2], 4),
        p99_ms=round(_p99(taken_ms), 4),
    )


def _p99(taken_ms: Sequence[float]) -> float:
    return taken_ms[min(len(taken_ms) - 1, int(len(taken_ms) * 0.99))]


def _peak_mib() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / (1 << 10)


if __name__ == "__main__":
    try:
        _found = measure(Path(sys.argv[1]))
    except TowpathError as error:  # its last line would be the mend, and the fault is what the reader needs
        sys.exit(f"{error.what} ({error.where})" if error.where else error.what)
    sys.stdout.write(f"{_MARK}{msgspec.json.encode(_found).decode()}\n")

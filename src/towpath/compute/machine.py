"""What this machine has, and whether it can give what a job asks for."""

import math
import os
import re
from pathlib import Path

import msgspec

from towpath.errors import ResourceError
from towpath.project.declarations import Resources
from towpath.types import duration

__all__ = ["Limits", "Machine", "limits", "mebibytes", "this_machine"]

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_BYTES = {"MiB": 2**20, "GiB": 2**30, "MB": 10**6, "GB": 10**9}


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a job can be given here."""

    cpus: tuple[int, ...]
    """Numbers of the cores that this process may use."""
    memory_mib: int
    """Physical memory, or the container's share of it."""
    gpus: int
    """Whole NVIDIA devices."""

    def __str__(self) -> str:
        gpus = f"{self.gpus} GPUs" if self.gpus else "no GPU"
        return f"{len(self.cpus)} cores, {self.memory_mib / 1_024:.1f} GiB of memory, {gpus}"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a job is held to, in numbers; none for as much as there is."""

    cpus: int | None = None
    """Whole cores: a part of one is rounded up, because whole ones can be enforced without root."""
    memory_mib: int | None = None
    """Of all its processes together, pages that they share counted once."""
    gpus: int = 0
    """Devices that it can see."""
    time_s: float | None = None
    """Wall clock."""


def this_machine() -> Machine:
    """Look at the machine; a container's limits count where they are smaller.

    Example:
        >>> this_machine().memory_mib > 0
        True
    """
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in map(Path, _CGROUP_LIMITS):
        text = path.read_text("ascii").strip() if path.exists() else "max"
        memory_bytes = min(memory_bytes, int(text)) if text.isdigit() else memory_bytes
    gpus = sum(bool(re.fullmatch(r"nvidia\d+", device.name)) for device in Path("/dev").iterdir())
    return Machine(cpus=tuple(cpus), memory_mib=memory_bytes // 2**20, gpus=gpus)


def limits(resources: Resources, machine: Machine | None = None) -> Limits:
    """Turn what is declared into numbers, or refuse what the machine cannot give.

    Args:
        resources: The ``[resources]`` of a ``model.toml``.
        machine: What there is; this machine unless given.

    Raises:
        ResourceError: More cores, memory or GPUs are asked for than there are; the text says what there is.

    Example:
        >>> limits(Resources(cpu=0.5, memory="1GiB", time="2h"), Machine(cpus=(0, 1), memory_mib=4_096, gpus=0))
        Limits(cpus=1, memory_mib=1024, gpus=0, time_s=7200.0)
    """
    machine = machine or this_machine()
    memory_mib = None if resources.memory is None else mebibytes(resources.memory)
    asked = [
        ("cpu", resources.cpu or 0, len(machine.cpus), "cores"),
        ("memory", memory_mib or 0, machine.memory_mib, "MiB of memory"),
        ("gpu", resources.gpu, machine.gpus, "GPUs"),
    ]
    for name, wanted, there_is, unit in asked:
        if wanted > there_is:
            raise ResourceError(
                f"The job asks for {wanted:g} {unit} and this machine has {there_is or 'none'}.",
                f"model.toml, resources.{name}",
                f"ask for less, or run it on a machine that has it; here: {machine}",
            )
    return Limits(
        cpus=None if resources.cpu is None else math.ceil(resources.cpu),
        memory_mib=memory_mib,
        gpus=resources.gpu,
        time_s=None if resources.time is None else duration(resources.time).total_seconds(),
    )


def mebibytes(text: str) -> int:
    """Read a size such as ``4GiB``, ``512 MiB`` or ``2GB``, rounded down.

    Example:
        >>> mebibytes("1.5GiB"), mebibytes("100MB")
        (1536, 95)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MiB|GiB|MB|GB)", text)
    if match is None:
        raise ResourceError(f"'{text}' is no size.", "model.toml, resources.memory", "such as 4GiB or 512MiB")
    return int(float(match[1]) * _BYTES[match[2]]) // 2**20

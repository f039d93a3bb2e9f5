"""Where the time comes from: nobody asks the system, everybody is passed a clock."""

import os
import struct
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from towpath.errors import InputError
from towpath.types import micros, utc

__all__ = ["Clock", "FixedClock", "ScaledClock", "SteppedClock", "SystemClock", "now_us"]


class Clock(Protocol):
    """Tells the time, UTC and aware. Latency is measured with `time.perf_counter`, never with a clock."""

    def now(self) -> datetime:
        """The present moment, to the microsecond."""
        ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        """The present moment, to the microsecond."""
        return datetime.fromtimestamp(time.time(), tz=UTC)


def now_us(clock: Clock) -> int:
    """Microseconds since 1970; of the machine's own time without a date in between, which is most of what asking costs.

    Example:
        >>> now_us(FixedClock("1970-01-02"))
        86400000000
    """
    return time.time_ns() // 1_000 if type(clock) is SystemClock else micros(clock.now())


class FixedClock:
    """Stands still, so that history can be replayed.

    Args:
        at: The moment that it shows; a naive time is UTC.

    Example:
        >>> FixedClock("2011-09-01").now().isoformat()
        '2011-09-01T00:00:00+00:00'
    """

    def __init__(self, at: datetime | str) -> None:
        self._at = utc(at)

    def now(self) -> datetime:
        """The moment it was set to."""
        return self._at


class ScaledClock:
    """Runs `speed` times as fast as the machine's own time; a pure function of it, so that all processes agree.

    Args:
        start: What the clock shows at `real_start`.
        real_start: The machine's time at which it starts; before that it stands still.
        speed: Simulated seconds per real second, above 0.
        until: From this simulated moment on it runs as fast as the machine's own time; never unless given.
    """

    def __init__(self, start: datetime, real_start: datetime, speed: float, until: datetime | None = None) -> None:
        self._start = utc(start)
        self._real_start = utc(real_start)
        self._speed = speed
        self._until = None if until is None else utc(until)

    def now(self) -> datetime:
        """The simulated moment."""
        passed = max(datetime.fromtimestamp(time.time(), tz=UTC) - self._real_start, timedelta())
        shown = self._start + passed * self._speed
        if self._until is None or shown <= self._until:
            return shown
        return self._until + (shown - self._until) / self._speed


class SteppedClock:
    """Shows the moment that was last written to a file, and runs at the machine's speed from there.

    All processes of a demo read the same file, so they agree, however slow the machine is: simulated days pass when their
    work is done. Reading costs about 2 µs, which a rehearsal can spare and a server with `SystemClock` never pays.

    Args:
        path: 16 bytes: the moment shown and the machine's time when it was written, microseconds since 1970.

    Example:
        >>> import tempfile
        >>> clock = SteppedClock(Path(tempfile.mkdtemp()) / "clock")
        >>> clock.step("2026-04-13T06:00")
        >>> clock.now() >= utc("2026-04-13T06:00")
        True
    """

    _FORM = struct.Struct("<qq")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __reduce__(self) -> tuple[type["SteppedClock"], tuple[Path]]:
        return SteppedClock, (self._path,)

    def step(self, to: datetime | str) -> None:
        """Show another moment from now on."""
        record = self._FORM.pack(micros(utc(to)), micros(datetime.fromtimestamp(time.time(), tz=UTC)))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, record, 0)  # one write of 16 bytes: a reader sees the old ones or the new ones
        finally:
            os.close(descriptor)

    def now(self) -> datetime:
        """The moment shown; the machine's own time where nobody has written yet.

        Raises:
            InputError: The file was written by something else.
        """
        real = datetime.fromtimestamp(time.time(), tz=UTC)
        record = self._read()
        if len(record) < self._FORM.size:
            return real
        shown_us, written_us = self._FORM.unpack(record)
        passed_us = max(0, micros(real) - written_us)
        try:
            return datetime.fromtimestamp(0, tz=UTC) + timedelta(microseconds=shown_us + passed_us)
        except OverflowError:  # a text that somebody wrote by hand
            raise InputError(
                f"'{self._path}' says no time.",
                "towpath.toml, clock.file",
                "towpath.clock.SteppedClock(path).step('2026-04-13T06:00') writes it",
            ) from None

    def _read(self) -> bytes:
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY)
            except FileNotFoundError:
                return b""
        return os.pread(self._descriptor, self._FORM.size, 0)

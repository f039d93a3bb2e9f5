"""Where the time comes from: nobody asks the system, everybody is passed a clock."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from towpath.types import utc

__all__ = ["Clock", "FixedClock", "ScaledClock", "SystemClock"]


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

"""Quotas: token buckets that all workers of a server share, in memory that is mapped by each of them."""

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

__all__ = ["Bucket", "Quotas"]

_PLACES = 4_096
_WORDS = 3
"""Of a consumer: its mark, and until when its requests and its rows are paid for."""
_WORD_BYTES = 8
_BURST_S = 1.0
_TRIES = 50
"""To get a lock that is held for a microsecond, before it is done without."""


class Bucket:
    """One rate of one consumer; a number in shared memory says until when everything taken is paid for.

    The number is read and written under a lock of the kernel's, which ends with its holder. Whoever finds it held for long, as
    its holder was put to sleep, takes without it: a quota may let through a little more, never less.

    Args:
        cells: The shared numbers.
        place: Which one is ours.
        per_s: The rate.
        now: Seconds on a clock that all workers share and that never goes back.
        descriptor: Of the file behind the numbers; below 0 where no other process has it.
    """

    __slots__ = ("_cells", "_descriptor", "_interval_s", "_now", "_place", "per_s")

    def __init__(
        self,
        cells: "memoryview[float]",
        place: int,
        per_s: float,
        now: Callable[[], float] = time.monotonic,
        descriptor: int = -1,
    ) -> None:
        self._cells = cells
        self._place = place
        self._now = now
        self._descriptor = descriptor
        self._interval_s = 1.0 / per_s
        self.per_s = per_s

    def take(self, count: float = 1.0) -> float:
        """Take from the bucket, if it is there.

        One second's worth may come at once. More than that is taken when nothing is owed, and paid for afterwards.

        Returns:
            0.0 where it was taken, else the seconds after which it would be.
        """
        if self._descriptor < 0 or not self._locked():
            return self._taken(count)
        try:
            return self._taken(count)
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, _WORD_BYTES, self._place * _WORD_BYTES)

    def _taken(self, count: float) -> float:
        now = self._now()
        paid_until = max(self._cells[self._place], now)
        after = paid_until + count * self._interval_s
        if after > now + _BURST_S and paid_until > now:
            return min(after - _BURST_S, paid_until) - now
        self._cells[self._place] = after
        return 0.0

    def _locked(self) -> bool:
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _WORD_BYTES, self._place * _WORD_BYTES)
            except OSError:
                continue
            return True
        return False


class Quotas:
    """The buckets of one server.

    Args:
        file: Shared by the workers; none for a single process, whose memory is its own.
        now: See `Bucket`.

    Example:
        >>> bucket = Quotas().requests("brand-a", 2.0)
        >>> [bucket.take() > 0 for _ in range(3)]
        [False, False, True]
    """

    def __init__(self, file: Path | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._descriptor = -1
        size = _PLACES * _WORDS * _WORD_BYTES
        if file is None:
            memory = memoryview(bytearray(size))
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(self._descriptor, size)
            memory = memoryview(mmap.mmap(self._descriptor, size))
        self._marks = memory.cast("Q")
        self._cells = memory.cast("d")
        self._known: dict[str, int] = {}

    def requests(self, consumer: str, per_s: float) -> Bucket:
        """The bucket of a consumer's requests."""
        return self._bucket(consumer, 1, per_s)

    def rows(self, consumer: str, per_s: float) -> Bucket:
        """The bucket of a consumer's rows."""
        return self._bucket(consumer, 2, per_s)

    def _bucket(self, consumer: str, word: int, per_s: float) -> Bucket:
        place = self._known.get(consumer)
        if place is None:
            place = self._claimed(consumer)
        if place is None:  # all places are taken: a bucket of this worker alone
            return Bucket(memoryview(bytearray(8)).cast("d"), 0, per_s, self._now)
        self._known[consumer] = place
        return Bucket(self._cells, place * _WORDS + word, per_s, self._now, self._descriptor)

    def _claimed(self, consumer: str) -> int | None:
        """The consumer's place: the first one from where its hash points that is its own or free; one worker at a time."""
        mark = int.from_bytes(blake2b(consumer.encode(), digest_size=8).digest(), "little") or 1
        if self._descriptor >= 0:
            os.lockf(self._descriptor, os.F_LOCK, 0)
        try:
            for step in range(_PLACES):
                place = (mark + step) % _PLACES
                if self._marks[place * _WORDS] in {0, mark}:
                    self._marks[place * _WORDS] = mark
                    return place
            return None
        finally:
            if self._descriptor >= 0:
                os.lockf(self._descriptor, os.F_ULOCK, 0)

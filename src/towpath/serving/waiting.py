"""Calls that wait for a thread: bounded by rows, taken in turn by consumer, so that nobody waits behind another's flood."""

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["Line", "Waits"]

_TURN_ROWS = 256
"""Rows that a consumer may have taken before it is the next one's turn; a larger call saves up for its turn."""


class Waits(Protocol):
    """What stands in line; `towpath.serving.guard.Call` does."""

    @property
    def rows(self) -> int:
        """How many rows it is about."""
        ...

    @property
    def consumer(self) -> str:
        """Who asked."""
        ...


Item = TypeVar("Item", bound=Waits)


class Line(Generic[Item]):
    """Each consumer has a queue of its own, and the queues are served in turn, by rows (deficit round robin).

    With one consumer it is a plain queue. Calls come from many threads; whoever has the line has its lock.

    Args:
        limit_rows: Rows that may wait, all consumers together.
    """

    def __init__(self, limit_rows: int) -> None:
        self.rows = 0
        """Rows that wait."""
        self._limit_rows = limit_rows
        self._count = 0
        self._queues: dict[str, deque[Item]] = {}
        """Consumer → its calls; the first key is whose turn it is."""
        self._rows_of: dict[str, int] = {}
        self._credit: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    def room_for(self, item: Item) -> list[Item] | None:
        """Make room: an empty list where there is some, the calls that were sent away for it, None where there is none.

        A full line is shared evenly: a consumer below its share takes the place of the newest calls of the one that holds
        the most.
        """
        if not self.rows or self.rows + item.rows <= self._limit_rows:
            return []
        own = self._rows_of.get(item.consumer, 0)
        share = self._limit_rows / (len(self._queues) + (item.consumer not in self._queues))
        if own + item.rows > share:
            return None
        sent_away: list[Item] = []
        while self.rows + item.rows > self._limit_rows:
            largest = max(self._rows_of, key=self._rows_of.__getitem__)
            if largest == item.consumer:
                break
            sent_away.append(self._leave(largest, newest=True))
        return sent_away

    def ahead_of(self, consumer: str) -> int:
        """Rows that will be taken before a new call of a consumer, when all that wait go on waiting."""
        if len(self._queues) <= 1 and consumer in self._queues:
            return self.rows
        own = self._rows_of.get(consumer, 0)
        return own + sum(min(rows, own + _TURN_ROWS) for name, rows in self._rows_of.items() if name != consumer)

    def put(self, item: Item) -> None:
        """Stand in line."""
        queue = self._queues.get(item.consumer)
        if queue is None:
            queue = self._queues[item.consumer] = deque()
            self._rows_of[item.consumer] = 0
            self._credit[item.consumer] = _TURN_ROWS
        queue.append(item)
        self.rows += item.rows
        self._rows_of[item.consumer] += item.rows
        self._count += 1

    def take(self, wanted: Callable[[Item], bool] | None = None) -> Item | None:
        """The next one; there must be one.

        Args:
            wanted: Whether that one is taken now; none where it is not, and it stays the next.
        """
        while True:
            consumer, queue = next(iter(self._queues.items()))
            if len(self._queues) == 1 or queue[0].rows <= self._credit[consumer]:
                if wanted is not None and not wanted(queue[0]):
                    return None
                self._credit[consumer] -= queue[0].rows
                return self._leave(consumer, newest=False)
            self._credit[consumer] += _TURN_ROWS
            self._queues[consumer] = self._queues.pop(consumer)  # to the end: the next one's turn

    def give_up(self, item: Item) -> None:
        """Let one go that does not want to wait any longer; nothing where it does not stand here."""
        queue = self._queues.get(item.consumer)
        if queue is not None and item in queue:  # mostly the first: who came first gives up first
            queue.remove(item)
            self._left(item.consumer, item)

    def _leave(self, consumer: str, *, newest: bool) -> Item:
        queue = self._queues[consumer]
        item = queue.pop() if newest else queue.popleft()
        self._left(consumer, item)
        return item

    def _left(self, consumer: str, item: Item) -> None:
        self.rows -= item.rows
        self._rows_of[consumer] -= item.rows
        self._count -= 1
        if not self._queues[consumer]:  # who leaves the line takes no credit along
            del self._queues[consumer], self._rows_of[consumer], self._credit[consumer]

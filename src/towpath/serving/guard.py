"""The guard: calls that may block, each with a deadline, in threads that are left behind when they miss it."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from towpath.errors import OverloadedError, UnavailableError
from towpath.serving.waiting import Line
from towpath.types import Reason

__all__ = ["Call", "Lane", "Outcome"]

_THREADS = 4
_STUCK_LIMIT = 8
"""After so many threads were left behind the worker says so, and is replaced."""
_KEPT_SHARE = 0.9
"""Of what is known of the time that rows take, at each call that ends: the last ten or so decide."""


class Outcome(NamedTuple):
    """What became of a call."""

    value: Any
    reason: Reason
    """``ok``, or why there is no value: ``slow``, ``wrong``, ``overloaded``, ``down``."""
    error: BaseException | None = None


class Call:
    """One call on a lane. Only the first of *finished* and *given up* counts.

    Args:
        lane: The lane that runs it.
        function: What to call, without arguments.
        rows: How many rows it is about; what the lane's queue is measured in.
        deadline: Of `time.perf_counter`, in seconds; infinity for none.
        consumer: Who asked; consumers take turns.
    """

    __slots__ = (
        "_future",
        "_loop",
        "_settled",
        "_waiter",
        "consumer",
        "deadline",
        "ended",
        "function",
        "lane",
        "outcome",
        "rows",
        "started_s",
    )

    def __init__(
        self, lane: "Lane", function: Callable[[], Any], rows: int, deadline: float, consumer: str = ""
    ) -> None:
        self.lane = lane
        self.function = function
        self.rows = rows
        self.deadline = deadline
        self.consumer = consumer
        self.started_s = 0.0
        """When a thread took it, of `time.perf_counter`; 0 while it waits."""
        self.ended = False
        self.outcome: Outcome | None = None
        self._settled = threading.Lock()
        self._waiter: threading.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._future: asyncio.Future[None] | None = None

    def wait(self) -> Outcome:
        """Run it and wait for it in this thread."""
        self._waiter = threading.Event()
        refused = self.lane.put(self)
        if refused is not None:
            return refused
        left = self.deadline - time.perf_counter()
        self._waiter.wait(None if left == float("inf") else max(0.0, left))
        return self.give_up()

    async def waited(self) -> Outcome:
        """Run it and wait for it in the event loop, which goes on meanwhile."""
        loop = asyncio.get_running_loop()
        self._loop, self._future = loop, loop.create_future()
        refused = self.lane.put(self)
        if refused is not None:
            return refused
        left = self.deadline - time.perf_counter()
        timer = None if left == float("inf") else loop.call_later(max(0.0, left), self._wake)
        try:
            await self._future
        finally:
            if timer is not None:
                timer.cancel()
            self.give_up()
        return self.give_up()

    def finish(self, outcome: Outcome) -> bool:
        """Say how it ended; false where nobody waits for it any more."""
        with self._settled:
            if self.outcome is not None:
                return False
            self.outcome = outcome
        if self._waiter is not None:
            self._waiter.set()
        elif self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop was closed while the model was still at work
                return False
        return True

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def give_up(self) -> Outcome:
        """How it ended; ``slow`` where it did not yet, and its thread is left behind."""
        with self._settled:
            if self.outcome is not None:
                return self.outcome
            self.outcome = Outcome(None, "slow")
        self.lane.leave_behind(self)
        return self.outcome


class Lane:
    """The threads of one model, so that a model that hangs stops neither its neighbours nor its own fallback.

    Threads are made when they are needed. One whose call misses its deadline is left behind: it ends
    when its call returns, is counted until then, and another takes its place. The work that waited past its deadline
    is dropped before it starts, and what cannot be done by then, judging by the calls before, is refused at once.

    Args:
        name: In thread names and messages.
        queue_rows: Rows that may wait; beyond it a call is refused as ``overloaded``.
        threads: At the most.

    Example:
        >>> lane = Lane("demand", queue_rows=10)
        >>> Call(lane, lambda: 6 * 7, rows=1, deadline=time.perf_counter() + 1).wait().value
        42
    """

    def __init__(self, name: str, *, queue_rows: int, threads: int = _THREADS) -> None:
        self.name = name
        self.abandoned = 0
        """Threads that were left behind and have not come back."""
        self._queue_rows = queue_rows
        self._most_threads = threads
        self._waiting: Line[Call] = Line(queue_rows)
        self._threads = 0
        self._idle = 0
        self._running_rows = 0
        self._took_s = 0.0
        self._took_rows = 0.0
        self._left: set[int] = set()
        self._closed = False
        self._ready = threading.Condition()

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for a thread."""
        return self._waiting.rows

    @property
    def row_s(self) -> float:
        """How long a row took in a thread lately; 0 before the first call."""
        return self._took_s / self._took_rows if self._took_rows else 0.0

    @property
    def wait_s(self) -> float:
        """How long what waits now will take, judging by the last calls."""
        return (self._waiting.rows + self._running_rows) * self.row_s / self._most_threads

    @property
    def stuck(self) -> bool:
        """Whether so many threads hang that this worker should be replaced."""
        return self.abandoned >= _STUCK_LIMIT

    def put(self, call: Call) -> Outcome | None:
        """Take a call; an outcome where it is refused at once."""
        with self._ready:
            if self._closed:
                return Outcome(None, "down", UnavailableError(f"'{self.name}' is closed."))
            if self.stuck:
                return Outcome(None, "down", UnavailableError(f"{self.abandoned} calls of '{self.name}' hang."))
            late_s = self._late_s(call)
            if late_s > 0:
                return self._overloaded(f"{call.rows} rows for '{self.name}' would be {late_s:.3f} s late")
            sent_away = self._waiting.room_for(call)
            if sent_away is None:
                return self._overloaded(f"{self._waiting.rows} rows wait for '{self.name}' (limit {self._queue_rows})")
            self._waiting.put(call)
            if self._idle >= len(self._waiting):
                self._ready.notify()
            elif self._threads < self._most_threads:
                self._threads += 1
                name = f"towpath-{self.name}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        for other in sent_away:
            other.finish(self._overloaded(f"'{self.name}' was full, and '{other.consumer}' had most of it"))
        return None

    def leave_behind(self, call: Call) -> None:
        """Count the thread of a call that missed its deadline as lost, unless the call never began."""
        with self._ready:
            if not call.started_s or call.ended:  # a thread that came back just now is as good as new
                return
            self._left.add(id(call))
            self._running_rows -= call.rows
            self._learn(call)
            self.abandoned += 1
            self._threads -= 1

    def close(self) -> None:
        """Let idle threads end; nothing more is taken."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _late_s(self, call: Call) -> float:
        """By how much it will miss its deadline if it is let in; a lane with a free thread lets everything try."""
        if not len(self._waiting) and (self._idle or self._threads < self._most_threads):
            return 0.0
        row_s = self.row_s
        ahead = self._waiting.ahead_of(call.consumer) + self._running_rows / 2
        return time.perf_counter() + row_s * (ahead / self._most_threads + call.rows) - call.deadline

    def _learn(self, call: Call) -> None:
        """Rows weigh, so that a large call says more than a small one; a call about no rows says nothing."""
        if not call.rows:
            return
        self._took_s = self._took_s * _KEPT_SHARE + time.perf_counter() - call.started_s
        self._took_rows = self._took_rows * _KEPT_SHARE + call.rows

    def _overloaded(self, what: str) -> Outcome:
        return Outcome(None, "overloaded", OverloadedError(f"{what}."))

    def _work(self) -> None:
        while True:
            with self._ready:
                while not len(self._waiting):
                    if self._closed:
                        self._threads -= 1
                        return
                    self._idle += 1
                    self._ready.wait()
                    self._idle -= 1
                call = self._waiting.take()
                now = time.perf_counter()
                if call.outcome is not None or now >= call.deadline:
                    continue
                call.started_s = now
                self._running_rows += call.rows
            try:
                outcome = Outcome(call.function(), "ok")
            except BaseException as error:  # noqa: BLE001 - the edge to somebody else's code; even SystemExit stays here
                outcome = Outcome(None, "wrong", error)
            call.finish(outcome)
            with self._ready:
                call.ended = True
                if id(call) in self._left:
                    self._left.discard(id(call))
                    self.abandoned -= 1
                    return
                self._running_rows -= call.rows
                self._learn(call)
            del call, outcome

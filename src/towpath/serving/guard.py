"""The guard: calls that may block, each with a deadline, in threads that are left behind when they miss it."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from towpath.errors import OverloadedError, UnavailableError
from towpath.types import Reason

__all__ = ["Call", "Lane", "Outcome"]

_THREADS = 4
_STUCK_LIMIT = 8
"""After so many threads were left behind the worker says so, and is replaced."""


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
    """

    __slots__ = (
        "_future",
        "_loop",
        "_settled",
        "_waiter",
        "deadline",
        "function",
        "lane",
        "outcome",
        "rows",
        "started",
    )

    def __init__(self, lane: "Lane", function: Callable[[], Any], rows: int, deadline: float) -> None:
        self.lane = lane
        self.function = function
        self.rows = rows
        self.deadline = deadline
        self.started = False
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
        return self._result()

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
            if self.outcome is None:
                self._result()
        return self._result()

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

    def _result(self) -> Outcome:
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
    is dropped before it starts.

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
        self._waiting: deque[Call] = deque()
        self._waiting_rows = 0
        self._threads = 0
        self._idle = 0
        self._left: set[int] = set()
        self._closed = False
        self._ready = threading.Condition()

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for a thread."""
        return self._waiting_rows

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
            if self._waiting_rows and self._waiting_rows + call.rows > self._queue_rows:
                return Outcome(
                    None,
                    "overloaded",
                    OverloadedError(f"{self._waiting_rows} rows wait for '{self.name}' (limit {self._queue_rows})."),
                )
            self._waiting.append(call)
            self._waiting_rows += call.rows
            if self._idle >= len(self._waiting):
                self._ready.notify()
            elif self._threads < self._most_threads:
                self._threads += 1
                name = f"towpath-{self.name}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        return None

    def leave_behind(self, call: Call) -> None:
        """Count the thread of a call that missed its deadline as lost, unless the call never began."""
        with self._ready:
            if not call.started:
                return
            self._left.add(id(call))
            self.abandoned += 1
            self._threads -= 1

    def close(self) -> None:
        """Let idle threads end; nothing more is taken."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._waiting:
                    if self._closed:
                        self._threads -= 1
                        return
                    self._idle += 1
                    self._ready.wait()
                    self._idle -= 1
                call = self._waiting.popleft()
                self._waiting_rows -= call.rows
                if call.outcome is not None or time.perf_counter() >= call.deadline:
                    continue
                call.started = True
            try:
                outcome = Outcome(call.function(), "ok")
            except BaseException as error:  # noqa: BLE001 - the edge to somebody else's code; even SystemExit stays here
                outcome = Outcome(None, "wrong", error)
            call.finish(outcome)
            with self._ready:
                if id(call) in self._left:
                    self._left.discard(id(call))
                    self.abandoned -= 1
                    return
            del call, outcome

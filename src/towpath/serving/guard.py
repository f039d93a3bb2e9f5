"""The guard: calls that may block, each with a deadline, in threads that are left behind when they miss it."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from towpath.apart import LateError, due
from towpath.errors import OverloadedError, UnavailableError
from towpath.serving.joint import Joint, answered_apart, fit
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

    @classmethod
    def raised(cls, reason: Reason, error: BaseException) -> "Outcome":
        """Of a call that raised, without the frames that the error came through.

        Whoever wanted to say where it happened has done so. The frames know the request, which knows the error: kept, they
        would leave each failed request with all its rows to the collector.
        """
        one: BaseException | None = error
        while one is not None and one.__traceback__ is not None:
            one.__traceback__ = None
            one = one.__cause__ or one.__context__
        return cls(None, reason, error)


class Call:
    """One call on a lane. Only the first of *finished* and *given up* counts.

    Args:
        lane: The lane that runs it.
        function: What to call, without arguments.
        rows: How many rows it is about; what the lane's queue is measured in.
        deadline: Of `time.perf_counter`, in seconds; infinity for none.
        consumer: Who asked; consumers take turns.
        joint: What it takes to be answered together with other calls; none to be called alone.
        trace: W3C trace context, as headers, that goes along where it leaves this server; of calls that are answered together the first one's.
    """

    __slots__ = (
        "_future", "_settled", "_waiter", "consumer", "deadline", "ended", "function", "joined_rows", "joint", "lane",
        "leads", "loop", "outcome", "rows", "run", "started_s", "trace",
    )  # fmt: skip

    def __init__(
        self,
        lane: "Lane",
        function: Callable[[], Any],
        rows: int,
        deadline: float,
        consumer: str = "",
        joint: Joint | None = None,
        trace: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.lane = lane
        self.function = function
        self.rows = rows
        self.deadline = deadline
        self.consumer = consumer
        self.joint = joint
        self.trace = trace
        self.joined_rows = rows
        """Rows of the call that answered it, those of others among them."""
        self.leads = True
        """Whether it is the first of the calls that were answered together."""
        self.started_s = 0.0
        """When a thread took it, of `time.perf_counter`; 0 while it waits."""
        self.run: _Run | None = None
        """What its thread does; none while it waits."""
        self.ended = False
        self.outcome: Outcome | None = None
        self._settled = threading.Lock()
        self._waiter: threading.Event | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where somebody waits for it; none where a thread does."""
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
        self.loop, self._future = loop, loop.create_future()
        if self.joint is not None:
            self.lane.put_with_turn(self, loop)
        else:
            refused = self.lane.put(self)
            if refused is not None:
                return refused
        left = self.deadline - time.perf_counter()
        timer = None if left == float("inf") else loop.call_later(max(0.0, left), self.wake)
        try:
            await self._future
        except BaseException:
            # the caller left, which says nothing about the model: its thread hangs only if it misses the deadline
            if self.settle(Outcome(None, "slow")) and timer is not None:
                loop.call_later(max(0.0, self.deadline - time.perf_counter()), self.lane.leave_behind, self)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return self.give_up()

    def finish(self, outcome: Outcome) -> bool:
        """Say how it ended; false where nobody waits for it any more."""
        if not self.settle(outcome):
            return False
        if self.loop is not None:
            try:
                self.loop.call_soon_threadsafe(self.wake)
            except RuntimeError:  # the loop was closed while the model was still at work
                return False
        return True

    @staticmethod
    def finish_all(calls: "Sequence[Call]", outcomes: Sequence[Outcome]) -> None:
        """Say how calls of one run ended; the event loop is woken once for all of them, not once for each."""
        settled = [call for call, outcome in zip(calls, outcomes, strict=True) if call.settle(outcome)]
        by_loop: dict[asyncio.AbstractEventLoop, list[Call]] = {}
        for call in settled:
            if call.loop is not None:
                by_loop.setdefault(call.loop, []).append(call)
        for loop, its in by_loop.items():
            with suppress(RuntimeError):  # the loop was closed while the model was still at work
                loop.call_soon_threadsafe(_wake_all, its)

    def settle(self, outcome: Outcome) -> bool:
        """Note how it ended without waking the event loop; false where that was known already."""
        with self._settled:
            if self.outcome is not None:
                return False
            self.outcome = outcome
        if self._waiter is not None:
            self._waiter.set()
        return True

    def wake(self) -> None:
        """Let the coroutine that waits go on; in the event loop's thread."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def first_to_blame(self) -> bool:
        """Whether nobody yet held it against the model that this run of calls took too long."""
        run = self.run
        if run is None or run.blamed:
            return False
        run.blamed = True
        return True

    def give_up(self) -> Outcome:
        """How it ended; ``slow`` where it did not yet, and its thread is left behind."""
        with self._settled:
            if self.outcome is not None:
                return self.outcome
            self.outcome = Outcome(None, "slow")
        self.lane.leave_behind(self)
        return self.outcome


def _wake_all(calls: list[Call]) -> None:
    for call in calls:
        call.wake()


class _Run:
    """What a thread does at one time: a call, or several that are answered together."""

    __slots__ = ("blamed", "calls", "left", "rows", "started_s")

    def __init__(self, calls: list[Call], started_s: float) -> None:
        self.calls = calls
        self.rows = sum(call.rows for call in calls)
        self.started_s = started_s
        self.left = False
        """Whether a call of it missed its deadline, so that its thread counts as lost until it comes back."""
        self.blamed = False
        """Whether that was held against the model: once, however many calls hung together."""
        for call in calls:
            call.run, call.started_s, call.joined_rows, call.leads = self, started_s, self.rows, call is calls[0]


class Lane:
    """The threads of one model, so that a model that hangs stops neither its neighbours nor its own fallback.

    Threads are made when they are needed. One whose call misses its deadline is left behind: it ends
    when its call returns, is counted until then, and another takes its place. The work that waited past its deadline
    is dropped before it starts, and what cannot be done by then, judging by the calls before, is refused at once.

    With `batch_rows` above one, what waits is answered together: all requests that the event loop parsed in one turn, and what
    else came while the thread was busy, become one call. Nobody waits for a timer. When that call raises, each is called
    alone, so that a row which the model cannot take costs its neighbours nothing.

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
        self.batch_rows = 1
        """Rows of several calls that may be answered in one."""
        self._turn: list[Call] = []
        """Calls of the present turn of the event loop."""
        self._queue_rows = queue_rows
        self._most_threads = threads
        self._waiting: Line[Call] = Line(queue_rows)
        self._threads = 0
        self._idle = 0
        self._running_rows = 0
        self._took_s = 0.0
        self._took_rows = 0.0
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

    def join(self, rows: int) -> None:
        """Answer so many rows of several calls in one; one thread does, as two would only share what waits."""
        self.batch_rows, self._most_threads = rows, 1

    def put(self, call: Call) -> Outcome | None:
        """Take a call; an outcome where it is refused at once."""
        with self._ready:
            refused, sent_away = self._let_in(call)
            if refused is None:
                self._find_a_thread()
        self._send_away(sent_away)
        return refused

    def put_with_turn(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        """Take a call at the end of this turn of the event loop, together with those that come until then."""
        self._turn.append(call)
        if len(self._turn) == 1:
            loop.call_soon(self._turn_over)

    def leave_behind(self, call: Call) -> None:
        """Count the thread of a call that missed its deadline as lost; one that never began leaves the line, and nobody waits behind it."""
        with self._ready:
            run = call.run
            if run is None:
                self._waiting.give_up(call)
                return
            if call.ended or run.left:  # a thread that came back just now is as good as new
                return
            run.left = True
            self._running_rows -= run.rows
            self._learn(run)
            self.abandoned += 1
            self._threads -= 1
            if len(self._waiting) and not self._closed and not self.stuck:
                self._find_a_thread()

    def close(self) -> None:
        """Let idle threads end; nothing more is taken."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _turn_over(self) -> None:
        calls, self._turn = self._turn, []
        refused: list[tuple[Call, Outcome]] = []
        gone: list[Call] = []
        with self._ready:
            for call in calls:
                outcome, sent_away = self._let_in(call)
                if outcome is not None:
                    refused.append((call, outcome))
                gone += sent_away
            if len(self._waiting):
                self._find_a_thread()
        for call, outcome in refused:
            call.finish(outcome)
        self._send_away(gone)

    def _let_in(self, call: Call) -> tuple[Outcome | None, list[Call]]:
        """Stand in line, or be refused; and who was sent away for it. Whoever calls it has the lock."""
        if self._closed:
            return Outcome(None, "down", UnavailableError(f"'{self.name}' is closed.")), []
        if self.stuck:
            return Outcome(None, "down", UnavailableError(f"{self.abandoned} calls of '{self.name}' hang.")), []
        late_s = self._late_s(call)
        if late_s > 0:
            return self._overloaded(f"{call.rows} rows for '{self.name}' would be {late_s:.3f} s late"), []
        sent_away = self._waiting.room_for(call)
        if sent_away is None:
            return self._overloaded(f"{self._waiting.rows} rows wait for '{self.name}' (limit {self._queue_rows})"), []
        self._waiting.put(call)
        return None, sent_away

    def _send_away(self, calls: list[Call]) -> None:
        for other in calls:
            other.finish(self._overloaded(f"'{self.name}' was full, and '{other.consumer}' had most of it"))

    def _find_a_thread(self) -> None:
        """Wake or make one for what waits. Whoever calls it has the lock."""
        if self._idle and (self._idle >= len(self._waiting) or self.batch_rows > 1):
            self._ready.notify()
        elif self._threads < self._most_threads:
            self._threads += 1
            threading.Thread(target=self._work, name=f"towpath-{self.name}", daemon=True).start()

    def _late_s(self, call: Call) -> float:
        """By how much it will miss its deadline if it is let in; a lane with a free thread lets everything try."""
        if not len(self._waiting) and (self._idle or self._threads < self._most_threads):
            return 0.0
        row_s = self.row_s
        ahead = self._waiting.ahead_of(call.consumer) + self._running_rows / 2
        return time.perf_counter() + row_s * (ahead / self._most_threads + call.rows) - call.deadline

    def _learn(self, run: _Run) -> None:
        """Rows weigh, so that a large call says more than a small one; a call about no rows says nothing."""
        if not run.rows:
            return
        self._took_s = self._took_s * _KEPT_SHARE + time.perf_counter() - run.started_s
        self._took_rows = self._took_rows * _KEPT_SHARE + run.rows

    def _overloaded(self, what: str) -> Outcome:
        return Outcome(None, "overloaded", OverloadedError(f"{what}.", retry_after_s=self.wait_s))

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
                run = self._taken()
                if run is None:
                    continue
                self._running_rows += run.rows
            _do(run)
            with self._ready:
                if run.left:
                    self.abandoned -= 1
                    return
                self._running_rows -= run.rows
                self._learn(run)
            del run

    def _taken(self) -> _Run | None:
        """What is done next: the call whose turn it is, and those behind it that can be answered with it."""
        call = self._waiting.take()
        now = time.perf_counter()
        if call is None or call.outcome is not None or now >= call.deadline:
            return None
        calls, rows, until = [call], call.rows, call.deadline
        joint, row_s = call.joint, self.row_s

        def goes_along(other: Call) -> bool:
            both = rows + other.rows
            return (
                other.joint is not None
                and joint is not None
                and both <= self.batch_rows
                and now + both * row_s < min(until, other.deadline)
                and fit(joint, other.joint)
            )

        while joint is not None and len(self._waiting):
            other = self._waiting.take(goes_along)
            if other is None:
                break
            if other.outcome is None:
                calls.append(other)
                rows, until = rows + other.rows, min(until, other.deadline)
        return _Run(calls, now)


def _do(run: _Run) -> None:
    """Call, and tell everybody who waits for it."""
    calls, run.calls = run.calls, []  # a call knows its run: without this all of them would be left to the collector
    if len(calls) > 1:
        together: list[Outcome] = []
        with suppress(
            Exception
        ):  # the edge to somebody else's code: each is called alone then, and hears what becomes of it
            due.until, due.trace = min(call.deadline for call in calls), calls[0].trace
            found = answered_apart([call.joint for call in calls if call.joint is not None])
            together = [Outcome(value, "ok") for value in found or ()]
        if together:
            for call in calls:
                call.ended = True
            Call.finish_all(calls, together)
            return
    for call in calls:
        if len(calls) > 1:
            if call.outcome is not None:
                continue
            call.started_s, call.leads, call.joined_rows = time.perf_counter(), True, call.rows
        due.until, due.trace = call.deadline, call.trace
        try:
            outcome = Outcome(call.function(), "ok")
        except UnavailableError as error:
            outcome = Outcome.raised("slow" if isinstance(error, LateError) else "down", error)
        except BaseException as error:  # noqa: BLE001 - the same edge; even SystemExit stays here
            outcome = Outcome.raised("wrong", error)
        call.ended = True
        call.finish(outcome)

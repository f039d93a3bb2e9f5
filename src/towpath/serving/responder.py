"""From rows to answers: route, look up, call, check, fall back, write down; the same whoever asks.

The work is a generator that yields the calls which may block and is sent what became of them. So the one path below runs
both in the event loop, which awaits the calls, and in a plain thread, which waits for them; a model that is called inline
never yields, and then the whole answer is one plain function call.
"""

import secrets
import time
from collections.abc import Generator, Mapping, Sequence
from itertools import count
from typing import Any, Protocol

from towpath.clock import Clock, now_us
from towpath.errors import UnknownError, nearest
from towpath.journal.record import Record
from towpath.serving.answer import Answer
from towpath.serving.answered import Answered, Ask
from towpath.serving.beside import BesideWriter, ask_later
from towpath.serving.deployment import Deployment, Deployments
from towpath.serving.guard import Call, Outcome
from towpath.serving.metrics import Meter
from towpath.serving.work import Work
from towpath.serving.written import record
from towpath.types import Reason, Tier

__all__ = ["JournalWriter", "Responder"]

_WAITED_S = 0.001
"""A request that waited longer for its turn in the event loop is timed from when its turn of the loop began."""


class JournalWriter(Protocol):
    """Where records go; `towpath.journal.Journal` is one."""

    @property
    def holds(self) -> bool:
        """Whether records wait for `write_held`."""
        ...

    def append(self, record: Record, *, tier: Tier | None = None, held: bool = False) -> bool:
        """Write one record, or hold it until `write_held`; False where it was dropped."""
        ...

    def write_held(self) -> None:
        """Write what is held; before the answers that it is about go out."""
        ...


class Responder:
    """Answers rows in this process.

    Args:
        deployments: Where the models stand.
        clock: Dates answers.
        journal: Takes one record per request; none to write nothing.
        beside: Takes what the fallback would have said to a sample of rows; none to ask nobody.
        meter: Counts.
        server: Name of this worker, in the journal.
        environment: Which environment of the fleet this is, in the journal.
    """

    def __init__(
        self,
        deployments: Deployments,
        *,
        clock: Clock,
        journal: JournalWriter | None = None,
        beside: BesideWriter | None = None,
        meter: Meter | None = None,
        server: str = "local",
        environment: str = "local",
    ) -> None:
        self.deployments = deployments
        self.meter = meter
        self.clock = clock
        self._journal = journal
        self._beside = beside
        self._server = server
        self._environment = environment
        # Unique for ever by the process's own part; the rest is a counter, which costs a tenth of new random bytes
        self._mark = secrets.token_hex(6)
        self._numbers = count(1)

    @property
    def holds(self) -> bool:
        """Whether answers of an `Ask` that is `held` wait for `write_held`."""
        return self._journal is not None and self._journal.holds

    def write_held(self) -> None:
        """Write down what was answered; whoever asked with `held` calls it before an answer goes out."""
        if self._journal is not None:
            self._journal.write_held()

    def deployment(self, model: str) -> Deployment:
        """The model's deployment.

        Raises:
            UnknownError: No such model is served; the text offers the nearest.
        """
        live = self.deployments.live
        found = live.get(model)
        if found is None:
            raise UnknownError(f"There is no model '{model}'{nearest(model, live)}", mend="GET /v2 lists the models")
        return found

    def answer(self, model: str, rows: Sequence[Mapping[str, Any]], **asked: Any) -> Answer:
        """Answer JSON rows and wait for it.

        Args:
            model: Its name.
            rows: One mapping per row: entity keys, features, or both.
            **asked: Further fields of `Ask`.

        Raises:
            InputError: A row cannot be read.
            UnknownError: There is no such model.
        """
        return self.run(model, Ask(rows=rows, **asked)).answer()

    def run(self, model: str, ask: Ask) -> Answered:
        """Answer and wait for it in this thread."""
        steps = self.steps(self.deployment(model), ask)
        try:
            call = next(steps)
            while True:
                call = steps.send(call.wait())
        except StopIteration as done:
            return done.value

    async def waited(self, steps: "Generator[Call, Outcome, Answered]", call: Call) -> Answered:
        """Go on with steps whose first call may block, without blocking the event loop."""
        try:
            while True:
                call = steps.send(await call.waited())
        except StopIteration as done:
            return done.value

    def steps(self, deployment: Deployment, ask: Ask) -> "Generator[Call, Outcome, Answered]":
        """The answer as a generator of the calls that may block."""
        start = time.perf_counter()
        if ask.since_s is not None and start - ask.since_s > _WAITED_S:
            start = ask.since_s
        at_us = now_us(self.clock)
        live = self.deployments.live
        work = Work(deployment, ask, prediction_id=self.next_id(), start=start, now_us=at_us, live=live)
        yield from work.read()
        for served, route_rows in work.groups:
            yield from work.ask_model(served, route_rows)
        if work.open_rows:
            yield from work.fall_back()
        if ask.with_fallback:
            yield from work.ask_beside()
        answered = work.answered
        if deployment.memory is not None and work.keys is not None:
            deployment.memory.keep(answered, work.keys, at_us)
        answered.latency_ms = (time.perf_counter() - start) * 1e3
        if self._journal is not None:
            kept = self._journal.append(
                record(work, server=self._server, environment=self._environment),
                tier=deployment.tier,
                held=ask.held,
            )
            if kept and self._beside is not None and not ask.with_fallback:
                ask_later(work, self._beside)
        if self.meter is not None:
            _measure(self.meter, answered, ask)
        return answered

    def next_id(self) -> str:
        """An id that no other prediction has."""
        return f"{self._mark}{next(self._numbers):x}"


def _measure(meter: Meter, answered: Answered, ask: Ask) -> None:
    meter.answered(answered.model, ask.protocol, answered.latency_ms / 1e3, ask.consumer)
    if answered.joined_rows:
        meter.joined(answered.model, answered.versions[0], answered.joined_rows)
    for fault in answered.faults:
        meter.on_demand_missing(answered.model, fault.view, fault.why, fault.rows)
    if answered.count == 1:
        meter.rows(answered.model, answered.versions[0], answered.sources[0], answered.reasons[0], ask.consumer, 1)
        return
    counts: dict[tuple[int | None, str, Reason], int] = {}
    for origin in zip(answered.versions, answered.sources, answered.reasons, strict=True):
        counts[origin] = counts.get(origin, 0) + 1
    for (version, source, reason), rows in counts.items():
        meter.rows(answered.model, version, source, reason, ask.consumer, rows)

"""The links of a fallback chain: each is a name, a budget, and something that gives one value a row or leaves the row."""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from towpath.errors import CallerError
from towpath.serving.answered import NOTHING, OK
from towpath.serving.guard import Call, Outcome
from towpath.serving.last import LEFT
from towpath.serving.logs import often
from towpath.serving.served import Columns, Served, subset
from towpath.types import duration

if TYPE_CHECKING:
    from towpath.project.declarations import FallbackDeclaration
    from towpath.serving.work import Work

__all__ = ["Found", "ask_link", "asked_here", "taken", "takes_time"]

_log = logging.getLogger("towpath.serving")
_INFINITY = float("inf")
_SPARE_CALLS = 16
"""How often a call of a link that raised is split in two, to find the row that it cannot take."""


class Found(NamedTuple):
    """What a link gave."""

    values: list[Any]
    """One a row, `LEFT` where the next link is asked."""
    version: int | None = None
    """Of this model, where another version of it answered."""


Steps = Generator[Call, Outcome, Found | None]
"""The calls that may block; ends with what was found, None where the link has nothing for any row."""


def takes_time(link: "FallbackDeclaration") -> bool:
    """Whether part of the deadline must be kept for it."""
    return link.constant is None and link.last is None


def ask_link(link: "FallbackDeclaration", work: "Work", rows: list[int], *, patient: bool = False) -> Steps:
    """Ask one link of the chain: it has its budget, the last one all that is left, for nobody could answer in its stead.

    Args:
        link: As it was declared.
        work: The request.
        rows: Those that have no answer yet.
        patient: Whether neither its budget nor the request's deadline counts.
    """
    deadline = _INFINITY
    if not patient and work.deadline != _INFINITY:
        deadline = work.deadline
        if link is not work.deployment.chain[-1]:
            deadline = min(deadline, time.perf_counter() + link.budget_ms / 1e3)
    return (yield from _KINDS[link.kinds[0]](link, work, rows, deadline))


def asked_here(steps: Steps) -> Found | None:
    """The same in this thread, for as long as it takes."""
    try:
        call = next(steps)
        while True:
            call = steps.send(Outcome(call.function(), OK))
    except StopIteration as done:
        return done.value


def _constant(link: "FallbackDeclaration", _work: "Work", rows: list[int], _deadline: float) -> Steps:
    yield from ()
    return Found([link.constant] * len(rows))


def _last(link: "FallbackDeclaration", work: "Work", rows: list[int], _deadline: float) -> Steps:
    yield from ()
    kept, keys = work.deployment.memory, work.keys
    if kept is None or keys is None:
        return None
    age_us = round(duration(link.last or "0s").total_seconds() * 1e6)
    return Found([kept.get(keys[row], now_us=work.now_us, age_us=age_us) for row in rows])


def _function(link: "FallbackDeclaration", work: "Work", rows: list[int], deadline: float) -> Steps:
    served = work.base
    if served is None:
        return None
    columns = yield from _columns(work, served)
    return (yield from _called(link, work, served, columns, rows, deadline, [_SPARE_CALLS]))


def _version(link: "FallbackDeclaration", work: "Work", rows: list[int], deadline: float) -> Steps:
    """Another version of the model; one whose own circuit is open is left alone here, too."""
    deployment = work.deployment
    number = deployment.policy.state.previous if link.version == "previous" else link.version
    served = None if number is None else deployment.versions.get(number)
    if served is None or served.breaker.state != "closed" or deployment.policy.killed(served.version):
        return None
    columns = yield from _columns(work, served)
    found = yield from _called(link, work, served, columns, rows, deadline, [_SPARE_CALLS])
    return None if found is None else found._replace(version=served.version)


def _columns(work: "Work", served: Served) -> Generator[Call, Outcome, Columns]:
    """Its input; on-demand features are computed where nobody did so before."""
    yield from work.prepare(served)
    yield from work.complete(served)
    return work.prepared[served.version].columns


def _called(
    link: "FallbackDeclaration",
    work: "Work",
    served: Served,
    columns: Columns,
    rows: list[int],
    deadline: float,
    spare: list[int],
) -> Steps:
    """One call for all rows; where it raises, one for each half, so that a row that it cannot take falls alone."""
    mine = subset(columns, rows)
    function: Callable[[], Any] = (
        partial(served.model.predict, mine)
        if link.function is None
        else partial(served.model.fallback, link.function, mine)
    )
    ask = work.ask
    outcome = yield Call(served.fallback_lane, function, len(rows), deadline, ask.consumer, trace=ask.trace)
    if outcome.value is None:
        _failed(link, work, outcome)
        if outcome.reason != "wrong" or len(rows) == 1 or spare[0] <= 0 or time.perf_counter() >= deadline:
            return None
        spare[0] -= 2
        half = len(rows) // 2
        values: list[Any] = []
        for part in (rows[:half], rows[half:]):
            found = yield from _called(link, work, served, columns, part, deadline, spare)
            values += [LEFT] * len(part) if found is None else found.values
        return Found(values)
    value: Any = outcome.value
    array = np.asarray(value if link.function is not None else next(iter(value.values()), ()))
    return Found(array.tolist()) if array.ndim and len(array) == len(rows) else None


def _sql(link: "FallbackDeclaration", work: "Work", rows: list[int], deadline: float) -> Steps:
    """A column of a feature view, by key, from the online store; missing and null are left to the next link."""
    served = work.base
    if served is None or served.heuristics is None:
        return None
    asked = {key: [work.asked(key)[row] for row in rows] for key in served.heuristic_keys}
    name = (link.sql or "").removeprefix(f"{served.manifest.project}/")
    read = partial(served.heuristics.read, asked, len(rows), work.now_us)
    outcome = yield Call(served.fallback_lane, read, len(rows), deadline, work.ask.consumer)
    if outcome.value is None:
        _failed(link, work, outcome)
        return None
    column = outcome.value.columns.get(name)
    if column is None:
        return None
    return Found([LEFT if _is_null(value) else value for value in column.tolist()])


def _model(link: "FallbackDeclaration", work: "Work", rows: list[int], deadline: float) -> Steps:
    """Another model, as anybody asks it, with the rows that are still open and what it knows of their columns."""
    inner = work.to_another_model(link.model or "", rows, deadline)
    if inner is None:
        return None
    try:
        yield from inner.read()
    except CallerError as error:  # what was sent is not what it reads: so it has no answer for this chain
        _failed(link, work, Outcome(None, "wrong", error))
        return None
    yield from inner.finish()
    answered = inner.answered
    return Found([LEFT if answered.sources[i] == NOTHING else answered.predictions[i] for i in range(len(rows))])


_KINDS: "dict[str, Callable[[FallbackDeclaration, Work, list[int], float], Steps]]" = {
    "constant": _constant,
    "last": _last,
    "function": _function,
    "version": _version,
    "sql": _sql,
    "model": _model,
}


def _failed(link: "FallbackDeclaration", work: "Work", outcome: Outcome) -> None:
    error = outcome.error
    if error is not None:
        work.answered.problem = error
    said = outcome.reason if error is None else work.told(error)
    model = work.answered.model
    often(_log, (model, link.name, "link"), f"{model}: fallback '{link.name}' has no answer: {said}")


def _is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and not isfinite(value))


def taken(work: "Work", link: "FallbackDeclaration", rows: Sequence[int], found: Found | None) -> list[int]:
    """Write what a link gave into the answer, checked as a model's own is; the rows that stay open."""
    if found is None:
        return list(rows)
    served, values = work.base, found.values
    left = {place for place, value in enumerate(values) if value is LEFT}
    if link.constant is None and served is not None:
        left |= set(served.bad_rows([None if value is LEFT else value for value in values]))
    answered, source = work.answered, f"fallback:{link.name}"
    for place, row in enumerate(rows):
        if place not in left:
            answered.predictions[row] = values[place]
            answered.sources[row] = source
            answered.versions[row] = found.version
    return [row for place, row in enumerate(rows) if place in left]

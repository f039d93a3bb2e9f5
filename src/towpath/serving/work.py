"""One request on its way: read, routed, asked, checked, fallen back."""

import logging
import time
from collections.abc import Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from towpath.apart import DiedError
from towpath.errors import InputError, ModelError, UnavailableError
from towpath.features import entity_key
from towpath.features.on_demand import Computed
from towpath.serving.answered import NOTHING, OK, Answered, Ask
from towpath.serving.chain import ask_link, asked_here, taken
from towpath.serving.deployment import Deployment, own_seconds
from towpath.serving.guard import Call, Outcome
from towpath.serving.joint import Joint
from towpath.serving.last import LEFT
from towpath.serving.logs import often
from towpath.serving.served import Columns, Prepared, Served, subset
from towpath.serving.targets import horizons, targets
from towpath.traffic import CHAMPION, Route
from towpath.types import Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Work", "number_or_none"]

_log = logging.getLogger("towpath.serving")
_INFINITY = float("inf")
_FEATURES_SHARE = 0.5
"""Of what is left of the model's time that on-demand features may take at most."""
_UNSERVED_TIMEOUT_S = 0.2
_TO_BLAME_SHARE = 0.9
"""Of the time that a model has by its own declaration: who was given up sooner was given up by an impatient caller."""
_SPARE_CALLS = 32
"""How often a call that raised is split in two: enough to find one row among 20,000, too few for a broken model to eat the deadline."""


class Work:
    """One request on its way."""

    __slots__ = (
        "answered", "ask", "asked_by", "base", "deadline", "deployment", "groups", "horizons", "keys", "live", "model_deadline", "now_us",
        "open_rows", "own_s", "prepared", "routes", "segments", "spare_calls", "targets", "units",
    )  # fmt: skip

    def __init__(
        self,
        deployment: Deployment,
        ask: Ask,
        *,
        prediction_id: str,
        start: float,
        now_us: int,
        live: Mapping[str, Deployment] | None = None,
        asked_by: tuple[str, ...] = (),
    ) -> None:
        rows_count = len(ask.rows) if ask.rows is not None else ask.rows_count
        self.ask = ask
        self.deployment = deployment
        self.now_us = now_us
        self.answered = Answered(deployment.model, ask.request_id or prediction_id, prediction_id, rows_count)
        self.live = live
        """Other models, for chains that ask them."""
        self.asked_by = asked_by
        """Models whose chains led here; none of them is asked again."""
        self.base = deployment.base
        """Whose signature the input is read by where no model may answer."""
        self.groups: list[tuple[Served, list[int]]] = []
        self.open_rows: list[int] = []
        """Rows that still need a fallback."""
        self.spare_calls = _SPARE_CALLS
        self.prepared: dict[int, Prepared] = {}
        self.routes: Route | list[Route] = Route(None, CHAMPION, None, "down")
        self.keys: list[str | None] | None = None
        self.units: list[str | None] | None = None
        self.segments: list[dict[str, str] | None] | None = None
        timeout_s = self.base.timeout_s if self.base is not None else _UNSERVED_TIMEOUT_S
        kept_s = deployment.kept_s
        self.targets: list[int | None] | None = None
        """The end of what each row is predicted about, in microseconds since 1970."""
        self.horizons: list[str | None] | None = None
        """What rows say of their own; None where none does."""
        self.own_s = own_seconds(timeout_s, kept_s)
        """What the model has by its own declaration; a caller may give it less."""
        if ask.timeout_s is not None:
            timeout_s = ask.timeout_s if ask.timeout_s == _INFINITY else min(timeout_s, ask.timeout_s)
        self.deadline = start + timeout_s
        self.model_deadline = start + own_seconds(timeout_s, kept_s)

    def read(self) -> "Generator[Call, Outcome, None]":
        """Read the input, name keys, units and segments, and route each row."""
        base, ask = self.base, self.ask
        every = list(range(self.answered.count))
        if not every:
            raise InputError("There are no rows.", mend="send at least one")
        if base is None:
            self._nobody(every, "down")
            return
        if not self._read_here(base):
            yield from self.prepare(base)
        if not base.plain:
            self._name_rows(base)
        self.horizons = horizons(self, base)
        self.targets = targets(self, base, self.horizons)
        route = self._one_route()
        if route is not None:
            self.routes = route
            served = self._sent(route, every)
            if served is not None and not self._read_here(served):
                yield from self.prepare(served)
            return
        keys, units, segments = self.keys, self.units, self.segments
        routes: list[Route] = []
        by_route: dict[Route, list[int]] = {}
        for row in every:
            unit = units[row] if units is not None else None
            if unit is None:
                unit = keys[row] if keys is not None else None
            one = self.deployment.policy.route(
                unit or self.answered.row_id(row), ask.consumer, segments[row] if segments is not None else None
            )
            routes.append(one)
            by_route.setdefault(one, []).append(row)
        self.routes = routes
        for one, rows in by_route.items():
            served = self._sent(one, rows)
            if served is not None:
                yield from self.prepare(served)

    def ask_model(self, served: Served, rows: list[int]) -> "Generator[Call, Outcome, None]":
        """Call one version for its rows; those without a good answer stay open."""
        if served.breaker.state != "closed" and not served.breaker.lets_in():
            self.answered.problem = UnavailableError("Its circuit is open.", retry_after_s=served.breaker.left_s)
            self._open(rows, "down")
            return
        if self.prepared[served.version].pending is not None:
            yield from self.complete(served)
        prepared = self.prepared[served.version]
        if prepared.refused:
            refused = set(prepared.refused)
            self._open([row for row in rows if row in refused], "features")
            rows = [row for row in rows if row not in refused]
            if not rows:
                return
        yield from self._call(served, rows)

    def finish(self) -> "Generator[Call, Outcome, None]":
        """Ask whoever shall answer, and the chain for what is open then."""
        for served, rows in self.groups:
            yield from self.ask_model(served, rows)
        if self.open_rows:
            yield from self.fall_back()

    def complete(self, served: Served) -> "Generator[Call, Outcome, None]":
        """Compute on-demand features, once for all rows; those that are not there in time are missing."""
        prepared = self.prepared[served.version]
        pending = prepared.pending
        if pending is None:
            return
        now = time.perf_counter()
        deadline = _INFINITY
        if self.model_deadline != _INFINITY:
            deadline = now + min(pending.budget_s, max(0.0, self.model_deadline - now) * _FEATURES_SHARE)
        made = Computed({}, [])
        run = partial(pending.run, made)
        outcome = yield Call(served.features_lane, run, self.answered.count, deadline, self.ask.consumer)
        # A thread that was left behind may still add to what it made.
        found = Computed(dict(made.columns), list(made.faults))
        if outcome.value is None:
            found.faults.extend(pending.not_in(found, outcome.reason))
            _log.warning("%s: on-demand features are missing, %s", self.answered.model, outcome.reason)
        self.answered.faults = [*self.answered.faults, *found.faults]
        self.prepared[served.version] = done = served.completed(prepared, found)
        if done.missing is not None and any(done.missing) and (self.answered.missing is None or served is self.base):
            self.answered.missing = done.missing

    def _call(self, served: Served, rows: list[int]) -> "Generator[Call, Outcome, None]":
        prepared = self.prepared[served.version]
        whole = len(rows) == self.answered.count
        columns = prepared.columns if whole else subset(prepared.columns, rows)
        call: Call | None = None
        if served.inline:
            outcome = self._called_here(served, columns)
        else:
            predict = partial(served.model.predict, columns)
            joint = Joint(columns, served.model.predict) if served.lane.batch_rows > 1 else None
            ask = self.ask
            call = Call(served.lane, predict, len(rows), self.model_deadline, ask.consumer, joint, ask.trace)
            outcome = yield call
            if joint is not None and call.leads:
                self.answered.joined_rows = call.joined_rows
        if outcome.value is None:
            raised = outcome.reason == "wrong" and len(rows) > 1
            if raised and self.spare_calls > 0 and time.perf_counter() < self.model_deadline:
                # one row that the model cannot take does not cost its neighbours the model
                self.spare_calls -= 2
                half = len(rows) // 2
                yield from self._call(served, rows[:half])
                yield from self._call(served, rows[half:])
                return
            self._blame(served, outcome, call)
            self._open(rows, outcome.reason if outcome.reason != OK else "wrong", outcome.error)
            return
        self._take(served, rows, columns, outcome.value, whole=whole)

    def _called_here(self, served: Served, columns: Columns) -> Outcome:
        """Inside the event loop, which cannot be interrupted; what waited for its turn until it was too late is not begun."""
        if time.perf_counter() >= self.model_deadline:
            return Outcome(None, "slow")
        try:
            outcome = Outcome(served.model.predict(columns), OK)
        except Exception as error:  # noqa: BLE001 - the edge to a model: whatever it raises, the fallback answers
            return Outcome.raised("wrong", error)
        return outcome

    def _blame(self, served: Served, outcome: Outcome, call: Call | None) -> None:
        """Note a failure that is the version's own: not that it had to wait, nor that its caller was in a hurry."""
        if outcome.reason == "wrong":
            served.breaker.failed(f"wrong: {self.told(outcome.error)}" if outcome.error is not None else "wrong")
        elif outcome.reason == "down" and isinstance(outcome.error, DiedError):
            served.breaker.failed(f"down: {outcome.error.what}")
        elif outcome.reason == "slow" and call is not None and call.started_s:
            took_s = time.perf_counter() - call.started_s
            if took_s >= self.own_s * _TO_BLAME_SHARE and call.first_to_blame():
                served.breaker.failed(f"slow: {took_s * 1e3:.0f} ms")

    def fall_back(self) -> "Generator[Call, Outcome, None]":
        """Ask the chain, link by link, for the rows that are still open; the last link cannot fail."""
        for link in self.deployment.chain:
            rows = self.open_rows
            if not rows:
                return
            self.open_rows = []
            found = yield from ask_link(link, self, rows)
            self.open_rows = taken(self, link, rows, found)

    def ask_beside(self) -> "Generator[Call, Outcome, None]":
        """What the first fallback would have said to each row."""
        link = self.deployment.beside_link
        if link is not None:
            found = yield from ask_link(link, self, list(range(self.answered.count)))
            if found is not None:
                self.answered.beside = self._given(found.values)

    def beside(self, rows: list[int]) -> list[Any] | None:
        """The same for some rows, in this thread and for as long as it takes; null where it has no answer.

        Called when the answer is on its way: nothing that the answer is made of is touched.
        """
        link = self.deployment.beside_link
        if link is None:
            return None
        found = asked_here(ask_link(link, self, rows, patient=True))
        return None if found is None else self._given(found.values)

    def to_another_model(self, model: str, rows: list[int], deadline: float) -> "Work | None":
        """The same request for some rows, to another model; None where it is not served, or its chain led here."""
        other = (self.live or {}).get(model)
        own = self.deployment.model
        if other is None or model == own or model in self.asked_by:
            _log.warning(
                "%s: the chain asks '%s', which %s", own, model, "is not here" if other is None else "asks back"
            )
            return None
        ask, now = self.ask, time.perf_counter()
        known = other.base.known if other.base is not None else None
        changes: dict[str, Any] = {
            "version": None,
            "with_fallback": False,
            "timeout_s": _INFINITY if deadline == _INFINITY else max(0.0, deadline - now),
        }
        if ask.rows is not None:
            asked = [ask.rows[row] for row in rows]
            changes["rows"] = asked if known is None else [{k: v for k, v in r.items() if k in known} for r in asked]
        else:
            columns = {k: v[rows] for k, v in (ask.columns or {}).items() if known is None or k in known}
            changes |= {"columns": columns, "rows_count": len(rows)}
        return Work(
            other,
            ask._replace(**changes),
            prediction_id=self.answered.prediction_id,
            start=now,
            now_us=self.now_us,
            live=self.live,
            asked_by=(*self.asked_by, own),
        )

    def _given(self, values: list[Any]) -> list[Any]:
        """What the fallback said; an answer that may not be given is none."""
        values = [None if value is LEFT else value for value in values]
        bad = set(self.base.bad_rows(values)) if self.base is not None else set[int]()
        return [None if row in bad else value for row, value in enumerate(values)]

    def _one_route(self) -> Route | None:
        version = self.ask.version
        if version is not None:
            source = CHAMPION if version == self.deployment.policy.state.champion else "challenger"
            return Route(version, source, None, "ok")
        return self.deployment.policy.same_for_all

    def _sent(self, route: Route, rows: list[int]) -> Served | None:
        """Give rows to the version that shall answer them, or to the fallback; that version, for which they must be read."""
        answered = self.answered
        if route.arm is not None:
            for row in rows:
                answered.arms[row] = route.arm
        if route.version is None:
            self._open(rows, route.reason)
            return None
        served = self.deployment.versions.get(route.version)
        if served is None:
            self._open(rows, "down")
            return None
        for row in rows:
            answered.sources[row] = route.source
        self.groups.append((served, rows))
        return served

    def _nobody(self, rows: list[int], reason: Reason) -> None:
        same = self.deployment.policy.same_for_all
        self._open(rows, same.reason if same is not None and same.reason != OK else reason)

    def prepare(self, served: Served) -> "Generator[Call, Outcome, None]":
        """Read the input for one version, if nobody did so before."""
        if not self._read_here(served):
            self._keep(served, (yield from self._looked_up(served)))

    def _read_here(self, served: Served) -> bool:
        """The same in this thread and without a generator; False where the look-up may wait."""
        if served.version in self.prepared:
            return True
        if served.waits(self.ask.rows, self.ask.columns):
            return False
        self._keep(served, self._prepared(served))
        return True

    def _keep(self, served: Served, prepared: Prepared) -> None:
        self.prepared[served.version] = prepared
        if prepared.missing is not None and self.answered.missing is None and any(prepared.missing):
            self.answered.missing = prepared.missing

    def _prepared(self, served: Served, away: UnavailableError | None = None) -> Prepared:
        ask = self.ask
        now_us = self.now_us if ask.at_us is None else ask.at_us
        if ask.rows is not None:
            return served.from_rows(ask.rows, now_us, away=away)
        return served.from_columns(ask.columns or {}, ask.rows_count, now_us, away=away)

    def _looked_up(self, served: Served) -> "Generator[Call, Outcome, Prepared]":
        """The same in a thread, where a server is asked: one that hangs holds up this request and no other."""
        outcome = yield Call(
            served.look_up_lane, partial(self._prepared, served), self.answered.count, self.model_deadline
        )
        if outcome.value is not None:
            return outcome.value
        if outcome.reason == "wrong" and outcome.error is not None:
            raise outcome.error
        return self._prepared(served, UnavailableError(f"The look-up of features was {outcome.reason}."))

    def _name_rows(self, base: Served) -> None:
        if base.entity:
            self.keys = [
                None if None in parts else entity_key(parts)
                for parts in zip(*map(self.values, base.entity), strict=True)
            ]
        unit = base.manifest.unit
        if unit is not None:
            self.units = [None if value is None else str(value) for value in self.values(unit)]
        elif self.keys is not None:
            self.units = self.keys
        if base.segments:
            given = [self.values(name) for name in base.segments]
            self.segments = [
                {n: str(v) for n, v in zip(base.segments, values, strict=True) if v is not None} or None
                for values in zip(*given, strict=True)
            ]

    def asked(self, name: str) -> list[Any]:
        """One value per row from the request itself; None where it has none."""
        ask = self.ask
        if ask.rows is not None:
            return [row.get(name) for row in ask.rows]
        if ask.columns is not None and name in ask.columns:
            column = ask.columns[name].reshape(self.answered.count, -1)[:, 0]
            return (column.astype("datetime64[us]") if column.dtype.kind == "M" else column).tolist()
        return [None] * self.answered.count

    def values(self, name: str) -> list[Any]:
        """One value per row, from the request itself, else from what was looked up."""
        base = cast("Served", self.base)
        if self.ask.rows is None and self.ask.columns is not None and name in self.ask.columns:
            return self.asked(name)
        given = self.asked(name)
        if any(value is not None for value in given):
            return given
        looked = self.prepared[base.version].columns
        return looked[name].tolist() if name in looked else [None] * self.answered.count

    def told(self, error: BaseException) -> str:
        """An error as logs and health may have it: of a model without a journal its kind alone, for its text may quote the input."""
        kind = type(error).__name__
        return kind if self.base is not None and self.base.manifest.journal == "none" else f"{kind}: {error}"

    def _open(self, rows: list[int], reason: Reason, error: BaseException | None = None) -> None:
        answered = self.answered
        for row in rows:
            answered.reasons[row] = reason
            answered.sources[row] = NOTHING
        self.open_rows.extend(rows)
        if error is not None:
            answered.problem = error
            said = f"{answered.model}: {len(rows)} rows fall back, {reason}: {self.told(error)}"
            often(_log, (answered.model, reason), said)

    def _take(
        self, served: Served, rows: list[int], columns: Columns, outputs: "Mapping[str, NDArray[Any]]", *, whole: bool
    ) -> None:
        """Check what the model gave, row by row, and keep what is good."""
        answered = self.answered
        problem = _shape_problem(served, outputs, len(rows))
        if problem is not None:
            served.breaker.failed(f"wrong: {self.told(problem)}")
            self._open(rows, "wrong", problem)
            return
        first, *others = outputs
        values = outputs[first].tolist()
        bad = served.bad_rows(values)
        served.worked(columns, len(rows))
        if not bad and whole:
            answered.predictions = values
            answered.versions = [served.version] * len(rows)
            answered.outputs = dict(outputs)
        else:
            wrong = set(bad)
            self._open([rows[place] for place in bad], "wrong")
            for place, row in enumerate(rows):
                if place not in wrong:
                    answered.predictions[row] = values[place]
                    answered.versions[row] = served.version
        if others:
            self._take_others(rows, {name: outputs[name] for name in others}, set(bad))

    def _take_others(self, rows: list[int], others: "Mapping[str, NDArray[Any]]", wrong: set[int]) -> None:
        answered = self.answered
        extras: list[dict[str, Any] | None] = answered.extras or [None] * answered.count
        answered.extras = extras
        lists = {name: values.tolist() for name, values in others.items()}
        for place, row in enumerate(rows):
            if place not in wrong:
                extras[row] = {name: values[place] for name, values in lists.items()}


def _shape_problem(served: Served, outputs: "Mapping[str, NDArray[Any]]", rows: int) -> ModelError | None:
    if not outputs:
        return ModelError(f"'{served.manifest.model}' gave no output.")
    for name, values in outputs.items():
        if values.ndim == 0 or values.shape[0] != rows:
            return ModelError(
                f"Output '{name}' of '{served.manifest.model}' has the shape {list(values.shape)} for {rows} rows."
            )
    return None


def number_or_none(value: Any) -> float | None:
    """The number that a prediction is, where it is one."""
    return float(value) if isinstance(value, int | float) else None

"""What happened: SQL over the journal, monitors and their incidents, the fleet, and what the console shows."""

import contextlib
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from towpath import fleet, journal, monitors
from towpath.errors import UnavailableError, UnknownError, nearest
from towpath.fleet import CallerRow, FleetRow, Member
from towpath.journal import Suspect
from towpath.journal.record import LeftOut
from towpath.monitors import Incident, Monitor, Watched
from towpath.platform import shown
from towpath.platform import skew as skewed
from towpath.settings import masked, secret
from towpath.sql import Query
from towpath.types import duration

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.platform.opened import Platform
    from towpath.warehouse import Engine

__all__ = ["CheckRow", "Watch"]

_REACH = timedelta(days=120)
"""How far back monitors and the fleet page look."""
_WEEK = timedelta(days=7)


class CheckRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``tow monitor run``."""

    monitor: str
    model: str
    status: Literal["ok", "failing", "error"]
    failing_rows: int
    segments: tuple[str, ...]
    severity: str
    mend: str
    error: str
    duration_ms: float


class Watch:
    """What ``platform.watch`` is: everything after serving."""

    def __init__(self, platform: "Platform") -> None:
        self._platform = platform

    def __repr__(self) -> str:
        return shown.or_the_fault(lambda: shown.as_text(self._title(), self._shown()))

    def _repr_html_(self) -> str:
        return shown.or_the_fault(lambda: shown.as_html(self._title(), self._shown(), empty="No incidents."), html=True)

    def _title(self) -> str:
        count = len(self.incidents(only_open=True))
        return f"{count or 'no'} open incident{'' if count == 1 else 's'} in {masked(self._platform.settings.stores.objects)}"

    def _shown(self) -> list[dict[str, object]]:
        """The last ten incidents."""
        return [
            {
                "status": one.status,
                "model": one.model,
                "monitor": one.monitor,
                "segment": one.segment,
                "opened": one.opened_at,
                "closed": one.closed_at,
                "failing rows": one.failing_rows,
            }
            for one in self.incidents()[:10]
        ]

    def flush(self) -> int:
        """Bring what the workers of this machine wrote into the store; gives the number of rows."""
        platform = self._platform
        return journal.flush(
            platform.folder / platform.settings.serving.journal, platform.objects, clock=platform.clock
        ).rows

    def examine(self) -> list[Suspect]:
        """Read every file of the journal whole; gives those that are damaged, left out, or named by no day."""
        return journal.examine(self._platform.objects)

    def leave_out(self, path: str, *, because: str) -> LeftOut:
        """Let the day of a damaged file be read without it; see `towpath.journal.leave_out`."""
        platform = self._platform
        return journal.leave_out(platform.objects, path, because=because, by=platform.who, clock=platform.clock)

    def take_back(self, path: str) -> int:
        """Name a file in its day again, now that it is whole; gives its rows."""
        return journal.take_back(self._platform.objects, path, clock=self._platform.clock)

    def sql(self, text: str, *, since: datetime | None = None, until: datetime | None = None) -> "pa.Table":
        """One SELECT over the journal's views; see `Platform.sql`."""
        now = self._platform.now()
        return self.ask(
            text, {"as_of": now, "since": since or now - _REACH, "until": until or now}, since=since, until=until
        )

    def ask(
        self,
        text: str,
        parameters: Mapping[str, object],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> "pa.Table":
        """One SELECT over the journal's views with parameters of its own."""
        query = Query.parse(text, "tow sql")
        query.check_parameters(parameters)
        engine = self._engine(since=since, until=until)
        try:
            return engine.read(query, parameters)
        finally:
            engine.close()

    def fleet(self) -> tuple[FleetRow, ...]:
        """One row for each model of the store."""
        platform = self._platform
        engine = self._engine(since=platform.now() - _REACH)
        try:
            return fleet.rows(engine, self.members(), monitors.incidents(platform.catalog), as_of=platform.now())
        finally:
            engine.close()

    def callers(self, *, window: timedelta = _WEEK) -> tuple[CallerRow, ...]:
        """How each consumer was answered lately: time, and the share that the models answered themselves."""
        engine = self._engine(since=self._platform.now() - window)
        try:
            return fleet.callers(engine, as_of=self._platform.now(), window=window)
        finally:
            engine.close()

    def check(self, model: str | None = None) -> tuple[CheckRow, ...]:
        """Ask every monitor of the project once, write down what was found, and send what is due.

        The tables that ``sources.toml`` names are asked too, where it is not one model that is asked about.

        Args:
            model: Only this one's monitors.

        Raises:
            UnknownError: There is no such model.
        """
        platform = self._platform
        project = platform.project
        if model is not None and model not in project.models:
            raise UnknownError(
                f"There is no model '{model}'{nearest(model, project.models)}", "tow monitor run --model"
            )
        watched = [member.watched for member in self.members() if member.watched.project == project.name]
        asked = self._monitors([one for one in watched if model is None or one.model == model], model)
        engine = self._engine(since=platform.now() - _REACH)
        try:
            reach = max((duration(one.header.window) for one in asked), default=timedelta())
            monitors.register(engine, watched, since=platform.now() - reach)
            checked = monitors.check(engine, asked, as_of=platform.now(), ask=self._asking(engine))
            checked += platform.sources.checked() if model is None else ()
        finally:
            engine.close()
        addresses = [secret(url, platform.folder, platform.variables) for url in platform.settings.alerts.urls]
        monitors.record(platform.catalog, checked, addresses=addresses)
        if addresses:
            monitors.deliver(platform.catalog, addresses, now=platform.now())
        return tuple(
            CheckRow(
                monitor=one.monitor.name,
                model=one.monitor.model,
                status=one.status,
                failing_rows=one.failing_rows,
                segments=tuple(name for name in one.segments if name),
                severity=one.monitor.header.severity,
                mend=one.monitor.header.mend if one.status != "ok" else "",
                error=one.error,
                duration_ms=round(one.duration_ms, 1),
            )
            for one in checked
        )

    def _asking(self, engine: "Engine") -> monitors.Ask:
        """Runs a monitor's input in the warehouse; one that reads `towpath.skew` is answered by a replay."""

        def ask(query: Query, parameters: Mapping[str, object]) -> "pa.Table":
            if query.tables != (skewed.INPUT,):
                return self._platform.warehouse.read(query, parameters)
            since, until = cast("datetime", parameters["since"]), cast("datetime", parameters["until"])
            replay = skewed.skew(
                self._platform,
                lambda text, given: engine.read(Query.parse(text), given),
                cast("str", parameters["model"]),
                since=since,
                until=until,
                share=1.0,
            )
            return skewed.skew_table(replay)

        return ask

    def incidents(self, model: str | None = None, *, only_open: bool = False) -> tuple[Incident, ...]:
        """What the monitors found, newest first."""
        return monitors.incidents(self._platform.catalog, model=model, status="open" if only_open else None)

    def members(self) -> list[Member]:
        """The models of the store, as their logs and manifests say."""
        from towpath.registry import claims

        return [member for name in claims.models(self._platform.objects) if (member := self._member(name)) is not None]

    def page(self, model: str) -> dict[str, Any]:
        """Everything that the console shows of one model.

        Raises:
            UnknownError: No such model in the store, with the nearest name.
        """
        from towpath.platform.lifecycle import history_rows, version_rows
        from towpath.registry import claims, versions

        platform = self._platform
        names = claims.models(platform.objects)
        member = self._member(model) if model in names else None
        if member is None:
            raise UnknownError(f"There is no model '{model}'{nearest(model, names)}", mend="the fleet is at /")
        now = platform.now()
        watched, history = member.watched, history_rows(platform, model, until=now)
        rows = version_rows(platform, model, until=now)
        described: list[dict[str, Any]] = []
        for row in rows:
            every = versions.verdicts(platform.objects, model, row.version, None).values()
            verdicts = [verdict for verdict in every if verdict.at <= now]
            described.append(msgspec.structs.asdict(row) | {"rules": verdicts[-1].rules if verdicts else ()})
        newest = versions.manifest(platform.objects, model, rows[0].version, None) if rows else None
        charter = newest.charter if newest else None
        entry = self._state(model)
        facts = {"owner": watched.owner, "team": f"{watched.project} · {watched.team}", "tier": watched.tier}
        if charter is not None:
            told = msgspec.structs.asdict(charter)
            facts |= {name.replace("_", " "): value for name, value in told.items() if value}
        if newest is not None:
            facts["fallback"] = ", ".join(link.name for link in newest.fallback) or "none"
        return {
            "model": model,
            "description": newest.description if newest else "",
            "facts": facts,
            "metric": watched.metric or "metric",
            **self._happened(member),
            "kills": entry.kills if entry else (),
            "incidents": self._as_they_stood(model)[:50],
            "versions": described,
            "history": list(reversed(history)),
        }

    def _engine(self, *, since: datetime | None = None, until: datetime | None = None) -> "Engine":
        platform = self._platform
        with contextlib.suppress(
            UnavailableError
        ):  # a store that is read only, or a full disk: what is there is still read
            self.flush()
        engine = platform.engine()
        journal.views(engine, platform.objects, as_of=platform.now(), since=since, until=until)
        return engine

    def _state(self, model: str) -> Any:
        """The state of the model's log at this platform's moment."""
        from towpath.registry import history

        now = self._platform.now()
        log = [entry for entry in history.entries(self._platform.objects, model) if entry.event.at <= now]
        return log[-1].state if log else None

    def _member(self, model: str) -> Member | None:
        from towpath.registry import claims, history, versions

        objects = self._platform.objects
        numbers = versions.versions(objects, model)
        if not numbers:
            return None
        claim = claims.owner(objects, model)
        log = [entry for entry in history.entries(objects, model) if entry.event.at <= self._platform.now()]
        state = log[-1].state if log else None
        champion = state.champion if state else None
        manifest = versions.manifest(objects, model, champion or numbers[-1], None)
        metrics = self._platform.project.metrics
        metric = metrics.get(manifest.gate.metric)
        verdicts = [v for number in numbers for v in versions.verdicts(objects, model, number, None).values()]
        crowned = next((entry.event.at for entry in log if entry.state.champion is not None), None)
        watched = Watched(
            project=claim.project,
            team=claim.team,
            model=model,
            owner=manifest.owner,
            tier=manifest.tier,
            champion=champion,
            metric=manifest.gate.metric,
            query=metric.query if metric else None,
            better=metric.header.better if metric else "lower",
            kind=manifest.output.kind,
            positive=manifest.output.classes[-1] if manifest.output.classes else None,
            promised=monitors.promises(verdicts),
        )
        return Member(
            watched=watched,
            retired=bool(state and state.retired),
            waiting_since=crowned,
            integrator=manifest.charter.integrator if manifest.charter else "",
        )

    def _monitors(self, watched: list[Watched], model: str | None) -> list[Monitor]:
        project = self._platform.project
        # A file of the same name stands in for the built-in one: copied, changed, and nothing cries twice.
        own = {(file.header.model, name.rpartition("/")[2]) for name, file in project.monitors.items()}
        built_in = [monitor for one in watched for monitor in monitors.built_in(one)]
        found = [monitor for monitor in built_in if (monitor.model, monitor.name) not in own]
        for name, file in project.monitors.items():
            about = file.header.model or ""
            if model is not None and about != model:
                continue
            owner = project.models[about].declaration.owner if about in project.models else ""
            found.append(
                Monitor(
                    name=name,
                    query=file.query,
                    header=file.header,
                    project=project.name,
                    model=about,
                    owner=file.header.owner or owner,
                )
            )
        return found

    def _happened(self, member: Member) -> dict[str, Any]:
        """What the journal says of one model: its row of the fleet, the metric by day, who answered."""
        now, watched = self._platform.now(), member.watched
        engine = self._engine(since=now - _REACH)
        try:
            row = fleet.rows(engine, [member], self.incidents(watched.model), as_of=now)[0]
            return {"row": row, **_by_day(engine, watched), "answers": _who_answered(engine, watched.model, now)}
        finally:
            engine.close()

    def _as_they_stood(self, model: str) -> list[Incident]:
        """The incidents of this moment: one that closed later is still open."""
        now = self._platform.now()
        return [
            one
            if one.closed_at is None or one.closed_at <= now
            else msgspec.structs.replace(one, status="open", closed_at=None)
            for one in self.incidents(model)
            if one.opened_at <= now
        ]


def _by_day(engine: "Engine", watched: Watched) -> dict[str, Any]:
    """The metric by day of prediction, of the model's own answers and of the fallback beside them."""
    monitors.register(engine, [watched])
    text = (
        "select cast(predicted_at as date) as day, count(*) as rows, "
        "sum(numerator) / nullif(sum(denominator), 0) as model, "
        "sum(fallback_numerator) / nullif(sum(fallback_denominator), 0) as fallback "
        "from measured where source in ('champion', 'challenger') group by day order by day"
    )
    rows = engine.read(Query.parse(text)).to_pylist()
    faults = engine.read(Query.parse("select error from unmeasured")).to_pylist()
    days: list[date] = [row["day"] for row in rows]
    return {
        "chart_days": days,
        "rows_a_day": [row["rows"] for row in rows],
        "series": {name: [row[name] for row in rows] for name in ("model", "fallback")},
        "unmeasured": "; ".join(fault["error"] for fault in faults),
    }


def _who_answered(engine: "Engine", model: str, now: datetime) -> list[dict[str, Any]]:
    """Rows of the last week by source, reason and version, most first."""
    text = (
        "select source, reason, version, count(distinct prediction_id) as rows, "
        "count(distinct prediction_id) / sum(count(distinct prediction_id)) over () as share "
        "from predictions where model = :model and predicted_at >= :since group by all order by rows desc"
    )
    return engine.read(Query.parse(text), {"model": model, "since": now - _WEEK}).to_pylist()

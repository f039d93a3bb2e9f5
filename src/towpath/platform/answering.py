"""Answers without a server: the batch path, one row in this process, and the outcomes that the warehouse knows."""

import json
import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from towpath import features as views
from towpath import journal
from towpath.errors import InputError, RefusedError, UnavailableError
from towpath.features.due import BEGINNING
from towpath.journal.record import Record, Run
from towpath.platform.as_trained import AsTrained, up_to
from towpath.types import Tier, duration, micros

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from towpath.models.manifest import FeatureLock, Manifest
    from towpath.platform.lifecycle import ModelHandle
    from towpath.platform.opened import Platform
    from towpath.serving.answered import Answered
    from towpath.serving.deployment import Deployment
    from towpath.serving.served import Reader

__all__ = ["Collected", "Predicted", "Tried", "age_text", "collect", "predict", "try_row"]

_TODAY = timedelta(days=1)
_CHUNK_ROWS = 20_000
"""Rows of one call in the batch path; bounds memory."""
_TO = (".parquet", ".csv", ".jsonl")


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch run answered."""

    run_id: str
    model: str
    version: int | None
    moment: datetime
    """The moment of prediction of its rows."""
    rows: int
    by_source: dict[str, int]
    """Who answered how many; ``fallback:recent_mean (features)``."""
    seconds: float
    to: str | None


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One row, and what it rested on."""

    prediction: Any
    output: Any
    source: str
    reason: str
    version: int | None
    features: dict[str, Any]
    age: dict[str, str]
    """View → how old its values are; ``never`` where there are none."""
    missing: tuple[str, ...]
    features_ms: float
    answer_ms: float
    """The whole answer, features included."""


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """Labels that became outcomes."""

    model: str
    since: datetime | None
    until: datetime
    rows: int


def predict(handle: "ModelHandle", *, to: Path | str | None = None) -> Predicted:
    """Answer every row of the newest moment of the spine; see `ModelHandle.predict`."""
    if isinstance(to, Path) and to.suffix not in _TO:
        raise InputError(f"'{to}' ends in none of {', '.join(_TO)}.", mend="--to answers.parquet")
    platform, now = handle.platform, handle.platform.now()
    started = time.perf_counter()
    spine = _newest_rows(handle)
    moment = spine.column(handle.folder.training.header.time)[0].as_py()
    live = _live(handle)
    deployment = live[handle.name]
    run = Run(
        run_id=f"{handle.name}-{now:%Y%m%dT%H%M%S}-{time.time_ns() % 10**9:09d}",
        project=platform.settings.project.name,
        model=handle.name,
        version=deployment.policy.state.champion,
        as_of=moment,  # not now: a retry a minute later is about the same rows, and replaces them
        started_at=now,
        expected_rows=spine.num_rows,
    )
    journal.write_run(platform.objects, run, clock=platform.clock)
    try:
        with _closing(live):
            answered = _answer_rows(handle, deployment, spine, run.run_id)
    except BaseException as error:
        failed = msgspec.structs.replace(run, status="failed", finished_at=platform.now(), error=str(error)[:2_000])
        journal.write_run(platform.objects, failed, clock=platform.clock)
        raise
    done = msgspec.structs.replace(run, status="done", finished_at=platform.now(), written_rows=spine.num_rows)
    journal.write_run(platform.objects, done, clock=platform.clock)
    if isinstance(to, Path):
        _write(_answers(handle, spine, answered), to)
    elif to is not None:
        from towpath.warehouse import TakesTables

        assert isinstance(platform.warehouse, TakesTables)
        platform.warehouse.write_table(to, _answers(handle, spine, answered))
    counts: dict[str, int] = {}
    for part in answered:
        for source, reason in zip(part.sources, part.reasons, strict=True):
            who = source if reason == "ok" else f"{source} ({reason})"
            counts[who] = counts.get(who, 0) + 1
    return Predicted(
        run_id=run.run_id,
        model=handle.name,
        version=run.version,
        moment=moment,
        rows=spine.num_rows,
        by_source=counts,
        seconds=round(time.perf_counter() - started, 3),
        to=None if to is None else str(to),
    )


def try_row(handle: "ModelHandle", row: Mapping[str, object], *, version: int | None = None) -> Tried:
    """Answer one row here; see `ModelHandle.try_row`."""
    live = _live(handle) if version is None else {handle.name: _with_version(handle, version)}
    with _closing(live):
        return _tried(handle, row, live, version)


def _tried(
    handle: "ModelHandle", row: Mapping[str, object], live: "Mapping[str, Deployment]", version: int | None
) -> Tried:
    from towpath.serving.responder import Responder

    deployment = live[handle.name]
    number = version or deployment.policy.state.champion
    served = deployment.versions.get(number) if number is not None else None
    now_us = micros(handle.platform.now())
    values: dict[str, Any] = {}
    age: dict[str, str] = {}
    started = time.perf_counter()
    if served is not None:
        prepared = served.whole(served.from_rows([row], now_us))
        values = {name: _plain(prepared.columns[name][0]) for name in served.names}
        if prepared.online is not None:
            age = {view: age_text(now_us, int(event[0])) for view, event in prepared.online.event_us.items()}
    features_ms = (time.perf_counter() - started) * 1e3
    responder = Responder(_Live(live), clock=handle.platform.clock)
    started = time.perf_counter()
    answer = responder.answer(handle.name, [row], version=version, timeout_s=math.inf).predictions[0]
    return Tried(
        prediction=answer.prediction,
        output=answer.output,
        source=answer.source,
        reason=answer.reason,
        version=answer.version,
        features=values,
        age=age,
        missing=answer.missing,
        features_ms=round(features_ms, 3),
        answer_ms=round((time.perf_counter() - started) * 1e3, 3),
    )


def collect(handle: "ModelHandle", *, since: datetime | None = None) -> Collected:
    """Take the spine's labels that became known in ``(since, now]`` as outcomes; see `ModelHandle.collect`."""
    import pyarrow as pa

    from towpath.training import scored

    platform, now = handle.platform, handle.platform.now()
    header, output = handle.folder.training.header, handle.folder.declaration.output
    since = since or _collected_until(platform, handle.name)
    if since is None:
        return Collected(model=handle.name, since=None, until=now, rows=0)
    reach = duration(header.lookback) + duration(output.horizon or "0s")
    parameters = up_to(now) | {"since": max(BEGINNING, since - reach)}
    table = platform.warehouse.read(handle.folder.training.query, parameters)
    known = header.label_time or header.time
    times = table.column(known)
    label_there = table.column(header.label).is_valid()
    fresh = table.filter(_all(label_there, _later(times, since), _not_later(times, now)))
    targets = fresh.column(header.time)
    if output.horizon:
        targets = _arrow("add", targets, pa.scalar(duration(output.horizon), pa.duration("us")))
    fresh = fresh.append_column("target at", targets)
    number = output.kind in {"number", "quantiles"}
    if (
        output.kind == "probability"
    ):  # the 0 or 1 that the gate's metrics compare it with; what people call it stays beside it
        fresh = fresh.append_column("came true", scored(fresh, header, output, header.label).column("actual"))
    rows = journal.outcomes_from_table(
        fresh,
        project=platform.settings.project.name,
        model=handle.name,
        arrived_at=now,
        target_at="target at",
        keys=header.keys,
        value="came true" if output.kind == "probability" else header.label if number else None,
        label=None if number else header.label,
        happened_at=known,
        weight=header.weight,
    )
    name = f"{handle.name}-{micros(since)}-{micros(now)}"
    written = (
        journal.write_rows(platform.objects, "outcomes", rows, name=name, clock=platform.clock) if rows.num_rows else 0
    )
    return Collected(model=handle.name, since=since, until=now, rows=written)


class _Live:
    """Deployments that stand still for the length of one call."""

    def __init__(self, live: "Mapping[str, Deployment]") -> None:
        self.live = live


class _Kept:
    """A journal that keeps the records, because the batch path writes Parquet itself."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    holds = False

    def append(self, record: Record, *, tier: Tier | None = None, held: bool = False) -> bool:  # noqa: ARG002 - the port's arguments
        self.records.append(record)
        return True

    def write_held(self) -> None: ...


class _AsKnown:
    """Looks features up as they were known at each row's moment, by the SQL that the version was trained on."""

    waits = False

    def __init__(self, platform: "Platform", locks: "Sequence[FeatureLock]", header: Any) -> None:
        self._trained = AsTrained(platform, locks, platform.settings.project.name)
        self._header = header
        self.rows: pa.Table | None = None
        """The rows that are asked about now."""

    def read(self, key_columns: Mapping[str, Sequence[object]], n: int, now_us: int) -> "views.OnlineRows":  # noqa: ARG002 - the port's arguments
        from towpath.models import columns_of

        assert self.rows is not None
        rows = self.rows
        if n < rows.num_rows:  # a link of the chain asks about what is still open
            asked = list(zip(*(key_columns[name] for name in self._header.keys), strict=True))
            keys = zip(*(rows.column(name).to_pylist() for name in self._header.keys), strict=True)
            place = {key: row for row, key in enumerate(keys)}
            rows = rows.take([place[key] for key in asked])
        names = self._trained.names
        table = self._trained.joined(rows, keys=self._header.keys, time=self._header.time)
        bare = columns_of(table.select(names))
        columns = columns_of(self._trained.filled(table).select(names))
        refusing = self._trained.refusing
        gaps = {name: _gaps(values) for name, values in bare.items()}
        refused = np.zeros(n, dtype=bool)
        for name in refusing:
            refused |= gaps[name]
        open_rows = np.logical_or.reduce(list(gaps.values())) if gaps else refused
        missing: list[tuple[str, ...]] = [()] * n
        for row in np.flatnonzero(open_rows).tolist():
            missing[row] = tuple(name for name, gap in gaps.items() if gap[row])
        return views.OnlineRows(columns=columns, missing=missing, event_us={}, refused=refused)

    def nothing(self, n: int, error: UnavailableError) -> "views.OnlineRows":  # noqa: ARG002 - the port's arguments
        raise error


def _gaps(values: "NDArray[Any]") -> "NDArray[np.bool_]":
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "O":
        return np.array([value is None for value in values], dtype=bool)
    return np.isnat(values) if values.dtype.kind == "M" else np.zeros(len(values), dtype=bool)


def _newest_rows(handle: "ModelHandle") -> "pa.Table":
    """Rows of the spine at its newest moment within the header's lookback before now."""
    platform, header = handle.platform, handle.folder.training.header
    now, query = platform.now(), handle.folder.training.query
    lookback = duration(header.lookback)
    # Most days the newest moment is of today, and SQL that names :since then reads less.
    reaches = (min(_TODAY, lookback), lookback) if "since" in query.parameters else (lookback,)
    for reach in reaches:
        table = platform.warehouse.read(query, {"as_of": now, "since": now - reach, "until": now})
        times = table.column(header.time)
        table = table.filter(_all(_not_later(times, now), _later(times, now - reach)))
        if table.num_rows:
            newest = _arrow("max", table.column(header.time))
            return table.filter(_arrow("equal", table.column(header.time), newest))
    raise RefusedError(
        f"The spine of '{handle.name}' has no row in the {header.lookback} before {now:%Y-%m-%d %H:%M}.",
        f"models/{handle.name}/training.sql",
        "land newer rows, a longer lookback in the header, or another --as-of",
    )


def _arrow(function: str, *given: Any) -> Any:
    """One of Arrow's compute functions, by name: they are made at run time, so no type checker knows them."""
    import pyarrow.compute as pc

    return pc.call_function(function, list(given))


def _later(times: Any, moment: datetime) -> Any:
    import pyarrow as pa

    return _arrow("greater", times, pa.scalar(moment, pa.timestamp("us", "UTC")))


def _not_later(times: Any, moment: datetime) -> Any:
    import pyarrow as pa

    return _arrow("less_equal", times, pa.scalar(moment, pa.timestamp("us", "UTC")))


def _all(*conditions: Any) -> Any:
    found = conditions[0]
    for condition in conditions[1:]:
        found = _arrow("and", found, condition)
    return found


@contextmanager
def _closing(live: "Mapping[str, Deployment]") -> Generator[None]:
    """Let go of the models afterwards: those in processes of their own would stay."""
    try:
        yield
    finally:
        for deployment in live.values():
            deployment.close()


def _live(handle: "ModelHandle") -> "Mapping[str, Deployment]":
    """The model, and those that its chain asks, as a server would have them at this moment."""
    from towpath.serving.deployments import StoreDeployments

    handle.champion()
    platform = handle.platform

    def reader(manifest: "Manifest") -> "Reader":
        return views.OnlineReader(platform.online, manifest.features, manifest.project)

    deployments = StoreDeployments(
        platform.objects,
        cache=platform.folder / ".towpath" / "cache" / "versions",
        trusted=platform.trusted,
        open_reader=reader,
        clock=platform.clock,
        only=(handle.name,),
        spare=False,
    )
    deployments.poll()
    if handle.name not in deployments.live:
        raise UnavailableError(f"'{handle.name}' could not be loaded.", mend=f"tow show {handle.name}")
    return deployments.live


def _with_version(handle: "ModelHandle", number: int) -> "Deployment":
    """The model with one version by number, whether it was ever promoted or not."""
    from towpath.apart import open_version
    from towpath.models import load_on_demand
    from towpath.registry import versions
    from towpath.registry.log import TrafficState
    from towpath.serving.deployment import Deployment
    from towpath.serving.served import Served
    from towpath.traffic import Policy

    platform, manifest, entry = handle.platform, handle.manifest(number), handle.current()
    folder = versions.fetch(platform.objects, manifest, platform.folder / ".towpath" / "cache" / "versions")
    reader, heuristics = (
        views.OnlineReader(platform.online, locks, manifest.project) if locks else None
        for locks in (manifest.features, manifest.fallback_features)
    )
    return Deployment(
        model=handle.name,
        project=manifest.project,
        team=manifest.team,
        tier=manifest.tier,
        policy=Policy(TrafficState(champion=entry.state.champion if entry else None), handle.name),
        versions={
            number: Served(
                manifest,
                open_version(manifest, folder, environments=platform.environments),
                reader=reader,
                functions=load_on_demand(manifest, folder),
                heuristics=heuristics,
            )
        },
        chain=manifest.fallback,
    )


def _answer_rows(handle: "ModelHandle", deployment: "Deployment", spine: "pa.Table", run_id: str) -> "list[Answered]":
    from towpath.journal.unfold import prediction_table
    from towpath.models import columns_of
    from towpath.serving.answered import Ask
    from towpath.serving.responder import Responder

    platform, header = handle.platform, handle.folder.training.header
    readers: list[_AsKnown] = []
    for served in deployment.versions.values():
        if served.reader is not None:
            served.reader = reader = _AsKnown(platform, served.manifest.features, header)
            readers.append(reader)
        if served.heuristics is not None:
            served.heuristics = reader = _AsKnown(platform, served.manifest.fallback_features, header)
            readers.append(reader)
    kept = _Kept()
    responder = Responder(
        _Live({handle.name: deployment}),
        clock=platform.clock,
        journal=kept,
        server="batch",
        environment=platform.settings.environment,
    )
    read = [name for s in deployment.versions.values() if s.functions is not None for name in s.functions.reads]
    unit = handle.folder.declaration.unit
    wanted = dict.fromkeys([*header.keys, *header.segments, header.time, *([unit] if unit else []), *read])
    answered: list[Answered] = []
    for start in range(0, spine.num_rows, _CHUNK_ROWS):
        part = spine.slice(start, _CHUNK_ROWS)
        for reader in readers:
            reader.rows = part
        ask = Ask(
            columns=columns_of(part.select([name for name in wanted if name in part.column_names])),
            rows_count=part.num_rows,
            consumer="batch",
            request_id=run_id,
            protocol="batch",
            timeout_s=math.inf,
            run_id=run_id,
            with_fallback=True,
        )
        answered.append(responder.run(handle.name, ask))
    for served in deployment.versions.values():
        served.close_lanes()
    table = prediction_table(kept.records)
    journal.write_rows(platform.objects, "predictions", table, name=run_id, clock=platform.clock)
    return answered


def _answers(handle: "ModelHandle", spine: "pa.Table", answered: "Sequence[Answered]") -> "pa.Table":
    import pyarrow as pa

    header = handle.folder.training.header
    table = spine.select([*header.keys, header.time])
    predictions = pa.array([value for part in answered for value in part.predictions])
    if pa.types.is_null(predictions.type):  # not one number among them, and the column has one type from run to run
        predictions = predictions.cast(pa.float64())
    return (
        table.append_column("prediction", predictions)
        .append_column("version", pa.array([value for part in answered for value in part.versions], pa.int64()))
        .append_column("source", pa.array([value for part in answered for value in part.sources], pa.string()))
        .append_column("reason", pa.array([value for part in answered for value in part.reasons], pa.string()))
    )


def _write(table: "pa.Table", to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    draft = to.with_name(f".{to.name}.draft")
    if to.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, draft)
    elif to.suffix == ".csv":
        from pyarrow import csv

        csv.write_csv(table, draft)
    else:
        lines = (json.dumps(row, default=str, ensure_ascii=False) for row in table.to_pylist())
        draft.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    draft.replace(to)


def _collected_until(platform: "Platform", model: str) -> datetime | None:
    """The newest label that was collected, else the first prediction; None where there is neither."""
    newest = "select max(happened_at) as since from outcomes where model = :model and consumer = 'batch'"
    first = "select min(predicted_at) as since from predictions where model = :model"
    found = (platform.watch.ask(text, {"model": model}).column("since")[0].as_py() for text in (newest, first))
    return next((since for since in found if since is not None), None)


def age_text(now_us: int, event_us: int) -> str:
    """How old a value is, in the unit that a person would take; ``never`` where there is none.

    Example:
        >>> age_text(7_200_000_000, 0), age_text(0, -1)
        ('2.0h', 'never')
    """
    if event_us < 0:
        return "never"
    seconds = (now_us - event_us) / 1e6
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if abs(seconds) >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.1f}s"


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value

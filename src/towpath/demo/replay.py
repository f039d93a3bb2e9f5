"""Eight weeks of a real shop, lived through again: predict each trading day, take what came, watch, retrain once, measure."""

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from towpath.demo.files import retail_project, write_project
from towpath.errors import ProjectError, RefusedError, UndefinedError
from towpath.stats.difference import Estimate, ratio_difference, ratio_interval
from towpath.types import duration, micros, utc

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from towpath.platform import Platform
    from towpath.platform.lifecycle import ModelHandle

__all__ = ["Part", "Replayed", "VersionOutcome", "as_facts", "as_rows", "replay"]

MODEL = "demand"
_FILE = "online-retail/transactions.parquet"
_MARK = ".towpath/replay.json"
_NIGHTLY = timedelta(minutes=30)
"""After midnight UTC, as the schedule of ``model.toml`` says: the trading day is over in London, also in summer."""
_WATCHED = timedelta(minutes=15)
"""After the nightly run: windows are half-open, so monitors that ask at its very moment would not see it."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Matured answers of a week, a segment or all: how far they and the heuristic were off. Intervals are by item."""

    part: str
    """``all``, ``week of 2011-09-01``, ``price_band=under 1``."""
    rows: int
    units: float
    """What really sold."""
    wape: Estimate | None
    """Of what was answered; none where nothing sold, and then no ratio exists."""
    heuristic_wape: Estimate | None
    difference: Estimate | None
    """WAPE of the answers minus that of the heuristic, on the same rows; below 0 the model is better."""
    bias: Estimate | None
    heuristic_bias: Estimate | None


class VersionOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A version, and what the gate said of it."""

    version: int
    as_of: datetime | None
    rows: int | None
    passed: bool | None
    against: int | None
    """The champion of then; none for the first one, which is judged against the heuristic alone."""
    wape: float | None
    against_wape: float | None
    """On the same held-out rows, of the champion, else of the heuristic."""
    refused_because: tuple[str, ...]
    champion: bool


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay did, read back from journal, registry and catalog; seconds and memory are of this call."""

    folder: str
    model: str
    since: datetime
    until: datetime
    matured_at: datetime
    """When the last of these answers had come true; the moment to look at them."""
    trading_days: int
    """Days with a finished run."""
    rows: int
    """Predictions of these."""
    zero_rows: int
    """Of matured ones, those of items that sold nothing."""
    matured: int
    by_source: dict[str, int]
    """``champion``, or ``fallback:recent_mean (features)``."""
    parts: tuple[Part, ...]
    """All rows first, then weeks, then segments."""
    versions: tuple[VersionOutcome, ...]
    """Oldest first."""
    days_watched: int
    """Days on which every monitor was asked."""
    incidents_opened: int
    incidents_closed: int
    incidents_by_monitor: dict[str, int]
    seconds: float
    cpu_seconds: float
    """Of this process and its jobs."""
    peak_memory_mib: float
    """The most that this process ever held, plus the most that one of its jobs did: they need not coincide."""


class _Mark(msgspec.Struct, frozen=True, kw_only=True):
    """``.towpath/replay.json``: whose folder this is."""

    made_by: str = "tow demo --data"


def replay(
    folder: Path,
    *,
    data: Path | None = None,
    since: datetime | str = "2011-09-01",
    weeks: int = 8,
    retrain_on: datetime | str | None = "2011-10-01",
    progress: Callable[[str], None] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Replayed:
    """Write the retail example into a folder and live through some weeks of it, as if each day were today.

    Everything is asked as of its day: training, the nightly run, the outcomes that had become known, the monitors. Nothing
    is remembered between days but what the stores hold, so that a replay which was stopped goes on where it was.

    Args:
        folder: Made if it is missing; one that a replay made is continued.
        data: The file, or a folder that holds it; ``TOWPATH_DATA`` names one unless given.
        since: When the first version is trained; a naive time is UTC.
        weeks: How many weeks of trading days are predicted.
        retrain_on: From the first trading day at or after it a second version is trained, judged, and promoted if it
            passes; never unless given.
        progress: Told each step in one line.
        variables: The environment; that of the process unless given.

    Returns:
        What happened, also where the gate refused the first version: then no day was predicted.

    Raises:
        RefusedError: The folder holds something that no replay made.
        ProjectError: The file is missing.
    """
    from towpath.platform import Platform

    started, cpu_before = time.perf_counter(), _cpu_s()
    say = progress or (lambda _: None)
    begin = utc(since)
    end = begin + timedelta(weeks=weeks)
    _prepare(folder, data)
    with Platform.open(folder, variables=variables) as platform:
        _crown(platform.at(begin), say)
        if platform.models[MODEL].current() is not None:
            again = utc(retrain_on) if retrain_on is not None else end
            for night in _nights(platform, begin, end):
                if night >= again and not _trained_since(platform, again):
                    _crown(platform.at(night), say)
                _live(platform, night, say)
            _finish(platform, end, say)
        found = _summary(platform, begin, end)
    return msgspec.structs.replace(
        found,
        seconds=round(time.perf_counter() - started, 1),
        cpu_seconds=round(_cpu_s() - cpu_before, 1),
        peak_memory_mib=_peak_mib(),
    )


def as_rows(replayed: Replayed) -> list[dict[str, str]]:
    """The measured parts as a table for people, one row each."""

    def shown(found: Estimate | None, form: str) -> str:
        return "-" if found is None else f"{found.estimate:{form}} [{found.low:{form}}, {found.high:{form}}]"

    return [
        {
            "part": part.part,
            "rows": f"{part.rows:,}",
            "units": f"{part.units:,.0f}",
            "WAPE model": shown(part.wape, ".3f"),
            "WAPE heuristic": shown(part.heuristic_wape, ".3f"),
            "difference": shown(part.difference, "+.3f"),
            "bias model": shown(part.bias, "+.2f"),
            "bias heuristic": shown(part.heuristic_bias, "+.2f"),
        }
        for part in replayed.parts
    ]


def as_facts(replayed: Replayed) -> dict[str, str]:
    """Everything else of a replay, as name and text."""
    facts = {
        "folder": replayed.folder,
        "weeks": f"{replayed.since:%Y-%m-%d} to {replayed.until:%Y-%m-%d}, {replayed.trading_days} trading days",
        "predicted": f"{replayed.rows:,} rows, {replayed.matured:,} matured, {replayed.zero_rows:,} of them sold nothing",
        "answered by": ", ".join(f"{who} {n:,}" for who, n in replayed.by_source.items()) or "nobody",
    }
    for version in replayed.versions:
        against = "the heuristic" if version.against is None else f"@{version.against}"
        numbers = f"{version.wape or 0:.3f} against {version.against_wape or 0:.3f} of {against}"
        verdict = "passed" if version.passed else f"refused: {'; '.join(version.refused_because)}"
        stands = ", champion" if version.champion else ""
        facts[f"{replayed.model}@{version.version}"] = (
            f"as of {version.as_of:%Y-%m-%d}, {version.rows:,} rows, WAPE {numbers}, {verdict}{stands}"
        )
    by_monitor = ", ".join(f"{name} {n}" for name, n in replayed.incidents_by_monitor.items())
    facts["monitors"] = f"asked on {replayed.days_watched} days"
    facts["incidents"] = (
        f"{replayed.incidents_opened} opened, {replayed.incidents_closed} closed ({by_monitor or 'none'})"
    )
    facts["took"] = (
        f"{replayed.seconds:.0f} s, {replayed.cpu_seconds:.0f} s of CPU, {replayed.peak_memory_mib:,.0f} MiB at most"
    )
    return facts


def _prepare(folder: Path, data: Path | None) -> None:
    mark = folder / _MARK
    if folder.exists() and any(folder.iterdir()) and not mark.is_file():
        raise RefusedError(
            f"'{folder}' holds something that no replay made.", str(folder), "tow demo ANOTHER-FOLDER --data PATH"
        )
    file = None if data is None else _file(data)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_bytes(msgspec.json.encode(_Mark()))
    write_project(folder, retail_project())
    if file is not None:  # so that each later command in the folder finds it without a variable
        settings = folder / "towpath.toml"
        path = file.resolve().as_posix().replace('"', '\\"')
        settings.write_text(settings.read_text("utf-8").replace(f"{{TOWPATH_DATA}}/{_FILE}", path), "utf-8")


def _file(data: Path) -> Path:
    for found in (data, data / _FILE, data / Path(_FILE).name):
        if found.is_file():
            return found
    raise ProjectError(
        f"The retail file is not there: '{data / _FILE}'.",
        str(data),
        "examples/retail/README.md says how to get it; name its folder with --data",
    )


def _nights(platform: "Platform", begin: datetime, end: datetime) -> Iterator[datetime]:
    """The nightly run after each trading day in ``[begin, end)``, oldest first, without those that are done."""
    header = platform.models[MODEL].folder.training.header
    spine = platform.warehouse.read(
        platform.models[MODEL].folder.training.query,
        {"as_of": end, "since": begin - duration(header.lookback), "until": end},
    )
    asked = platform.catalog.read("select distinct at_us from checks where model = :model", model=MODEL)
    watched = {row["at_us"] for row in asked}  # the monitors are the last step of a night
    nights = {_night(moment.as_py()) for moment in spine.column(header.time).unique()}
    yield from sorted(night for night in nights if begin <= night < end and micros(night + _WATCHED) not in watched)


def _night(moment: datetime) -> datetime:
    """The first half past midnight, UTC, after a trading day's end, which is 23:00 in summer and 00:00 in winter."""
    night = moment.replace(hour=0, minute=0) + _NIGHTLY
    return night if night > moment else night + timedelta(days=1)


def _live(platform: "Platform", night: datetime, say: Callable[[str], None]) -> None:
    today = platform.at(night)
    collected = today.models[MODEL].collect()
    predicted = today.models[MODEL].predict()
    checked = platform.at(night + _WATCHED).watch.check()
    failing = [check for check in checked if check.status != "ok"]
    found = "".join(f", {check.monitor} fails ({check.failing_rows})" for check in failing)
    say(
        f"{night:%Y-%m-%d}: {predicted.rows:,} rows by {MODEL}@{predicted.version}, {collected.rows:,} outcomes arrived{found}"
    )


def _finish(platform: "Platform", end: datetime, say: Callable[[str], None]) -> None:
    """Wait for the labels of the last day, and leave an online table that ``tow try`` and ``tow serve`` can read."""
    last = platform.at(_closing(platform, end))
    collected = last.models[MODEL].collect()
    last.features.build()
    say(f"{last.now():%Y-%m-%d}: {collected.rows:,} outcomes of the last days arrived")


def _closing(platform: "Platform", end: datetime) -> datetime:
    """When every answer that was given before `end` has come true."""
    return end + duration(platform.models[MODEL].folder.declaration.output.horizon or "0s")


def _crown(platform: "Platform", say: Callable[[str], None]) -> None:
    """Train and judge a version as of the platform's moment, and promote it if the gate lets it pass."""
    handle = platform.models[MODEL]
    if handle.current() is not None and _trained_since(platform, platform.now()):
        return
    versions = handle.versions()
    if versions and versions[0].as_of == platform.now():  # an earlier attempt got this far
        number = versions[0].version
    else:
        say(f"{platform.now():%Y-%m-%d}: training {MODEL} on what was known")
        number = handle.train().version
    verdict = handle.gate(number)
    if verdict.passed:
        handle.promote(number, because="it passed the gate in a replay")
    said = "passed, and is champion" if verdict.passed else "refused"
    reasons = "".join(f"; {rule.reason}" for rule in verdict.rules if not rule.passed)
    say(f"{platform.now():%Y-%m-%d}: {MODEL}@{number} {said}{reasons}")


def _trained_since(platform: "Platform", moment: datetime) -> bool:
    """Whether a version of then or later was trained and judged."""
    versions = platform.models[MODEL].versions()
    return any(row.as_of is not None and row.as_of >= moment and row.passed is not None for row in versions)


def _summary(platform: "Platform", begin: datetime, end: datetime) -> Replayed:
    last = platform.at(_closing(platform, end))
    matured = last.sql(
        "select prediction_id, entity_key, predicted_at, segment, prediction, fallback_prediction, actual"
        f" from matured where model = '{MODEL}' and metric = 'outcome' order by predicted_at, prediction_id"
    )
    sources = last.sql(
        "select source || case when reason = 'ok' then '' else ' (' || reason || ')' end as who, count(*) as n"
        f" from predictions where model = '{MODEL}' group by who order by n desc, who"
    ).to_pylist()
    days = last.sql(f"select count(distinct as_of) as n from runs where counts and model = '{MODEL}'").to_pylist()
    incidents = last.watch.incidents(MODEL)
    by_monitor: dict[str, int] = {}
    for incident in reversed(incidents):
        by_monitor[incident.monitor] = by_monitor.get(incident.monitor, 0) + 1
    return Replayed(
        folder=str(platform.folder),
        model=MODEL,
        since=begin,
        until=end,
        matured_at=last.now(),
        trading_days=days[0]["n"],
        rows=sum(row["n"] for row in sources),
        zero_rows=int((_floats(matured, "actual") == 0).sum()),
        matured=matured.num_rows,
        by_source={row["who"]: row["n"] for row in sources},
        parts=_parts(matured, begin),
        versions=_versions(last.models[MODEL]),
        days_watched=_days_watched(platform),
        incidents_opened=len(incidents),
        incidents_closed=sum(incident.status == "closed" for incident in incidents),
        incidents_by_monitor=by_monitor,
        seconds=0.0,
        cpu_seconds=0.0,
        peak_memory_mib=0.0,
    )


def _days_watched(platform: "Platform") -> int:
    """Days on which no monitor of the model was left out."""
    asked = platform.catalog.read(
        "select at_us, count(distinct monitor) as monitors from checks where model = :model group by at_us",
        model=MODEL,
    )
    most = max((row["monitors"] for row in asked), default=0)
    return sum(row["monitors"] == most for row in asked)


def _versions(handle: "ModelHandle") -> tuple[VersionOutcome, ...]:
    found: list[VersionOutcome] = []
    for row in reversed(handle.versions()):
        verdicts: list[dict[str, Any]] = handle.version(row.version)["verdicts"]
        verdict: dict[str, Any] = verdicts[-1] if verdicts else {}
        against = verdict.get("against")
        found.append(
            VersionOutcome(
                version=row.version,
                as_of=row.as_of,
                rows=row.rows,
                passed=row.passed,
                against=against,
                wape=verdict.get("candidate"),
                against_wape=verdict.get("fallback" if against is None else "champion"),
                refused_because=tuple(rule["reason"] for rule in verdict.get("rules", ()) if not rule["passed"]),
                champion=row.champion,
            )
        )
    return tuple(found)


def _parts(matured: "pa.Table", begin: datetime) -> tuple[Part, ...]:
    """All rows, each week, each segment."""
    if not matured.num_rows:
        return ()
    items = matured.column("entity_key").combine_chunks().dictionary_encode().indices.to_numpy()
    passed_us = matured.column("predicted_at").combine_chunks().view("int64").to_numpy() - micros(begin)
    weeks = passed_us // int(timedelta(weeks=1) / timedelta(microseconds=1))
    columns = {name: _floats(matured, name) for name in ("prediction", "fallback_prediction", "actual")}
    parts = [_part("all", columns, items, np.ones(len(items), dtype=bool))]
    for week in np.unique(weeks).tolist():
        name = f"week of {begin + timedelta(weeks=week):%Y-%m-%d}"
        parts.append(_part(name, columns, items, weeks == week))
    encoded = matured.column("segment").combine_chunks().dictionary_encode()
    segments = [msgspec.json.decode(text) if text else {} for text in encoded.dictionary.to_pylist()]
    codes = encoded.indices.to_numpy()
    for name in sorted({name for segment in segments for name in segment}):
        for value in sorted({str(segment[name]) for segment in segments if name in segment}):
            there = np.array([str(segment.get(name)) == value for segment in segments])
            parts.append(_part(f"{name}={value}", columns, items, there[codes]))
    return tuple(parts)


def _part(
    name: str, columns: "Mapping[str, NDArray[np.float64]]", items: "NDArray[Any]", rows: "NDArray[np.bool_]"
) -> Part:
    answered, heuristic, actual = (columns[one][rows] for one in ("prediction", "fallback_prediction", "actual"))
    groups = items[rows]
    missed, missed_by_heuristic = np.abs(answered - actual), np.abs(heuristic - actual)

    def ratio(numerator: "NDArray[np.float64]") -> Estimate | None:
        try:
            return ratio_interval(numerator, actual, groups, rng=np.random.default_rng(7))
        except UndefinedError:
            return None

    try:
        difference = ratio_difference(missed, actual, missed_by_heuristic, actual, groups, rng=np.random.default_rng(7))
    except UndefinedError:
        difference = None
    return Part(
        part=name,
        rows=int(rows.sum()),
        units=float(actual.sum()),
        wape=ratio(missed),
        heuristic_wape=ratio(missed_by_heuristic),
        difference=difference,
        bias=ratio(answered - actual),
        heuristic_bias=ratio(heuristic - actual),
    )


def _floats(table: "pa.Table", name: str) -> "NDArray[np.float64]":
    return table.column(name).to_numpy().astype(np.float64)


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak_mib() -> float:
    most = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(sum(most) / 1_024, 1)

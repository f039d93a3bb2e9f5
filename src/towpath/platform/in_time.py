"""In time: whether the rows of a view are there at the hour at which a model predicts; reads what builds remembered."""

import statistics
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from towpath.errors import TowpathError
from towpath.platform.remembered import LandingDay, SeenView, recall
from towpath.project.cron import cron_times
from towpath.project.lines import Lines
from towpath.project.problem import Problem

if TYPE_CHECKING:
    from towpath.platform.opened import Platform
    from towpath.project import ModelFolder

__all__ = ["Batch", "late_views", "observed"]

_MONDAY, _DAYS = datetime(2024, 1, 1, tzinfo=UTC), 14
_BATCH_MINUTES = 360
"""Rows that land over a longer part of the day are a stream and no batch: no hour is theirs."""
_PATIENCE_S = 2.0


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """When the rows of a view land, day by day."""

    closed: timedelta
    """From midnight UTC: what became true later waits for the next batch; may be below zero."""
    landed: timedelta
    """From midnight UTC: all but stragglers are there."""
    said: str
    """How that is known."""


def late_views(platform: "Platform") -> list[Problem]:
    """A warning for each view whose rows land, or are built, only after a model that reads it predicts.

    A batch is late for a prediction where it was closed before and is there only afterwards: the prediction then reads the
    batch before. Nothing is run; a store that does not answer within two seconds is not waited for.

    Args:
        platform: Of a project without faults.
    """
    found: list[Problem] = []
    own = platform.settings.project.name
    for model in platform.project.models.values():
        if model.declaration.schedule.predict is None:
            continue
        asked = [feature.removeprefix(f"{own}/").partition(".")[0] for feature in model.declaration.features]
        for view in dict.fromkeys(asked):
            if view in platform.project.views:
                found += _late(platform, model, view, model.declaration.schedule.predict)
    return found


def observed(days: Sequence[LandingDay]) -> Batch | None:
    """The batch that landing days show; None where rows land all day long, or nothing was seen.

    Args:
        days: What builds remembered; of ten days the latest is left out.

    Example:
        >>> day = LandingDay(day="2026-03-01", first_minute=352, last_minute=370, delay_minutes=365, rows=1000)
        >>> str(observed([day]).landed)
        '6:10:00'
    """
    batches = [day for day in days if day.last_minute - day.first_minute <= _BATCH_MINUTES]
    if not batches or len(batches) * 2 < len(days):
        return None
    landed = sorted(day.last_minute for day in batches)[int(0.9 * (len(batches) - 1))]
    delay = int(statistics.median(day.delay_minutes for day in batches))
    said = f"as builds saw on {len(batches)} day{'s' if len(batches) > 1 else ''}"
    return Batch(closed=timedelta(minutes=landed - delay), landed=timedelta(minutes=landed), said=said)


def _late(platform: "Platform", model: "ModelFolder", view: str, predict: str) -> list[Problem]:
    schedule = platform.project.views[view].header.schedule
    before, after = _MONDAY - timedelta(days=7), _MONDAY + timedelta(days=_DAYS + 7)
    builds = cron_times(schedule, before, after) if schedule else []
    for batch in _batches(platform, view, before, after, builds):
        closed, landed, said = batch
        ready = next((at for at in builds if at >= landed), None) if schedule else landed
        if ready is None:
            continue
        missed = [at for at in cron_times(predict, _MONDAY, _MONDAY + timedelta(days=_DAYS)) if closed <= at < ready]
        if not missed:
            continue
        how = f"land only by {landed:%H:%M} ({said})" if said else ""
        how += f"{' and ' if how else ''}are built at {ready:%H:%M} (its schedule)" if schedule else ""
        what = (
            f"'{model.name}' predicts at {missed[0]:%H:%M} UTC, and rows of view '{view}' up to {closed:%H:%M} {how}: "
            "it reads those of the time before"
        )
        later = ready + timedelta(minutes=10)
        path = model.folder / "model.toml"
        line = Lines(path.read_text("utf-8-sig").replace("\r\n", "\n")).of(("schedule", "predict"))
        file = path.relative_to(platform.project.folder).as_posix()
        return [
            Problem(file, line, what, f'predict after {ready:%H:%M}, such as "{later.minute} {later.hour} * * *"', True)
        ]
    return []


def _batches(
    platform: "Platform", view: str, since: datetime, until: datetime, builds: Sequence[datetime]
) -> list[tuple[datetime, datetime, str]]:
    """Each batch of some weeks: when it is closed, when it has landed, and how that is known."""
    days = [since + timedelta(days=i) for i in range((until - since).days)]
    header, sources = platform.project.views[view].header, platform.project.sources
    seen = _seen(platform, view) if header.created_time else None
    if batch := observed(seen.landed if seen else ()):
        return [(day + batch.closed, day + batch.landed, batch.said) for day in days]
    lands = [(table, sources[table].lands) for table in platform.project.views[view].query.tables if table in sources]
    declared = [
        (_midnight(at), at, f"sources.toml, '{table}'")
        for table, line in lands
        if line
        for at in cron_times(line, since, until)
    ]
    if declared:
        return sorted(declared)
    # All that is known is when it is built: once a day, of what the day before closed at midnight.
    once = len({at.date() for at in builds}) == len(builds)
    return [(_midnight(at), at, "") for at in builds] if once else []


def _midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def _seen(platform: "Platform", view: str) -> SeenView | None:
    """What the last build remembered; None where the store does not answer soon."""
    found: list[SeenView | None] = []

    def ask() -> None:
        try:
            found.append(recall(platform.objects, platform.settings.project.name, view, SeenView))
        except TowpathError:
            found.append(None)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE_S)
    return found[0] if found else None

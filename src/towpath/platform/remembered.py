"""What a build saw and the next one wants to know: the columns of its sources, and when the rows of a view landed."""

import contextlib
import copy
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec

from towpath.errors import FormatError, UnavailableError, UnknownError
from towpath.registry.stored import decode, encode

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from towpath.features import Built, View
    from towpath.platform.opened import Platform
    from towpath.stores.objects import Objects
    from towpath.warehouse import Facts, Warehouse

__all__ = [
    "LandingDay",
    "LandingSeen",
    "SeenColumn",
    "SeenSource",
    "SeenView",
    "build_seen",
    "overheard",
    "recall",
    "remember",
]

SCHEMA = 1
_DAY_US, _MINUTE_US = 86_400_000_000, 60_000_000
_MOST_DAYS = 28
SeenT = TypeVar("SeenT", "SeenSource", "SeenView")


class SeenColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A column of a source."""

    name: str
    type: str
    """Arrow's name."""


class SeenSource(msgspec.Struct, frozen=True, kw_only=True):
    """``sources/<project>/<table>.json``: what a source table looked like when it was last built from."""

    schema: int = SCHEMA
    project: str
    table: str
    columns: tuple[SeenColumn, ...]
    seen_at: datetime
    """Of the first build that saw these columns."""


class LandingDay(msgspec.Struct, frozen=True, kw_only=True):
    """When the rows of a view landed on one day, in minutes since midnight UTC."""

    day: str
    first_minute: int
    """5 % of the day's rows had landed."""
    last_minute: int
    """95 % of them had."""
    delay_minutes: int
    """From the event of the newest rows (5 %) to their landing: the batch was closed that long before it landed."""
    rows: int


class SeenView(msgspec.Struct, frozen=True, kw_only=True):
    """``features/<project>/<view>/seen.json``: the last build of a view, and when its rows landed."""

    schema: int = SCHEMA
    project: str
    view: str
    fingerprint: str
    """Of the form that was built."""
    built_at: datetime
    as_of: datetime
    """What was known then is online."""
    rows: int
    """Handed to the online store by that build."""
    entities: int
    """In the online table afterwards."""
    newest_event_time: datetime | None = None
    """Of all rows that were ever handed over."""
    landed: tuple[LandingDay, ...] = ()
    """The last four weeks, oldest first; empty where the view declares no ``created_time``."""


class LandingSeen:
    """Listens to the rows of a build and sums up when they landed, day by day.

    Example:
        >>> import pyarrow as pa
        >>> seen = LandingSeen()
        >>> event = 20_000 * 86_400_000_000
        >>> seen.add(pa.record_batch({"event": [event], "landed": [event + 370 * 60_000_000]}))
        >>> [(day.day, day.last_minute, day.delay_minutes) for day in seen.days()]
        [('2024-10-04', 370, 370)]
    """

    def __init__(self) -> None:
        self._event: list[NDArray[np.int64]] = []
        self._landed: list[NDArray[np.int64]] = []

    def add(self, batch: "pa.RecordBatch") -> None:
        """Take note of a batch with ``event`` and ``landed`` in microseconds; those that landed lately count."""
        import numpy as np

        if batch.num_rows == 0:
            return
        landed = batch.column("landed").to_numpy(zero_copy_only=False).astype(np.int64)
        event = batch.column("event").to_numpy(zero_copy_only=False).astype(np.int64)
        newest = max([int(landed.max()), *(int(each.max()) for each in self._landed if len(each))])
        late = landed > newest - _MOST_DAYS * _DAY_US
        self._event.append(event[late])
        self._landed.append(landed[late])

    def days(self) -> tuple[LandingDay, ...]:
        """One summary for each day on which rows landed."""
        import numpy as np

        if not self._landed:
            return ()
        landed, event = np.concatenate(self._landed), np.concatenate(self._event)
        found: list[LandingDay] = []
        for day in np.unique(landed // _DAY_US)[-_MOST_DAYS:].tolist():
            of_day = landed // _DAY_US == day
            minutes = (landed[of_day] % _DAY_US) // _MINUTE_US
            delays = (landed[of_day] - event[of_day]) // _MINUTE_US
            found.append(
                LandingDay(
                    day=str(np.datetime64(day, "D")),
                    first_minute=int(np.quantile(minutes, 0.05)),
                    last_minute=int(np.quantile(minutes, 0.95)),
                    delay_minutes=int(np.quantile(delays, 0.05)),
                    rows=int(of_day.sum()),
                )
            )
        return tuple(found)


def overheard(warehouse: "Warehouse", seen: LandingSeen) -> "Warehouse":
    """The same warehouse, whose newest rows `seen` hears of on their way into a build."""
    import pyarrow as pa

    @contextlib.contextmanager
    def newest(facts: "Facts", parameters: Mapping[str, object]) -> "Generator[pa.RecordBatchReader]":
        with warehouse.newest(facts, parameters) as reader:
            yield pa.RecordBatchReader.from_batches(reader.schema, _heard(reader, seen))

    # A copy and no wrapper: what else an engine can do, and is asked for by its type, it can still do.
    copied = copy.copy(warehouse)
    copied.newest = newest  # pyright: ignore[reportAttributeAccessIssue] - of this one object
    return copied


def _heard(reader: "pa.RecordBatchReader", seen: LandingSeen) -> "Generator[pa.RecordBatch]":
    for batch in reader:
        seen.add(batch)
        yield batch


def _merged(before: Sequence[LandingDay], now: Sequence[LandingDay]) -> tuple[LandingDay, ...]:
    """The last four weeks of both; of one day what was seen of more rows."""
    days = {day.day: day for day in before}
    for day in now:
        if day.day not in days or days[day.day].rows <= day.rows:
            days[day.day] = day
    return tuple(days[name] for name in sorted(days)[-_MOST_DAYS:])


def build_seen(platform: "Platform", view: "View", built: "Built", landing: LandingSeen | None = None) -> None:
    """Keep what a build saw of a view and of its sources; a store that cannot be written is no reason to fail after it."""
    project = platform.settings.project.name
    if view.project != project or view.name not in platform.project.views:
        return
    with contextlib.suppress(UnavailableError):
        before = recall(platform.objects, project, view.name, SeenView)
        newest = [time for time in (before and before.newest_event_time, built.newest_event_time) if time]
        remember(
            platform.objects,
            SeenView(
                project=project,
                view=view.name,
                fingerprint=view.fingerprint,
                built_at=built.at,
                as_of=platform.now(),
                rows=built.rows,
                entities=built.entities,
                newest_event_time=max(newest, default=None),
                landed=_merged(
                    before.landed if before else (), landing.days() if landing and view.header.created_time else ()
                ),
            ),
        )
        platform.sources.remember(view.name)


def remember(objects: "Objects", value: SeenSource | SeenView) -> None:
    """Write it down; nothing is written where it stands there already."""
    path = _path(value.project, value.table if isinstance(value, SeenSource) else value.view, type(value))
    objects.put(path, encode(value))


def recall(objects: "Objects", project: str, name: str, kind: type[SeenT]) -> SeenT | None:
    """What was last seen of a source or a view; None where nothing was, or where it cannot be read any more.

    Raises:
        UnavailableError: The store does not answer.
    """
    path = _path(project, name, kind)
    try:
        return decode(objects.get(path), kind, path)
    except (UnknownError, FormatError):
        return None


def _path(project: str, name: str, kind: type[SeenSource] | type[SeenView]) -> str:
    return f"sources/{project}/{name}.json" if kind is SeenSource else f"features/{project}/{name}/seen.json"

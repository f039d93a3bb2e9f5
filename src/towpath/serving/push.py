"""Feature rows that are pushed: on disk first, then online, then acknowledged."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from towpath.clock import Clock, now_us
from towpath.errors import InputError, TowpathError, UnavailableError, UnknownError, nearest
from towpath.features import PushedRow, RefusedRow, RowForm, View, rows_table, view_of_lock, write_rows
from towpath.features.build import SCHEMAS, schema_key
from towpath.features.builds import build_state
from towpath.features.encoding import RowSchema
from towpath.journal.record import LandedRow
from towpath.serving.deployment import Deployment
from towpath.serving.metrics import Meter
from towpath.stores.online import OnlineStore

__all__ = ["PushAnswer", "Pusher", "RowWriter", "pushed_views", "view_called"]

_log = logging.getLogger("towpath.serving")
_TIMES = slice(0, 8)
_VALUES = slice(16, None)
_SHOWN = 100


class PushAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``POST /features/<view>``; what was accepted is on disk and online."""

    view: str
    """``project/view``."""
    accepted: int
    """Rows that are new: each is a row of ``landing.<view>``, and online unless its key has a newer one."""
    unchanged: int = 0
    """Rows that say what stands online already, such as those of a call that is sent again; nothing was written."""
    refused: int = 0
    """Rows that do not fit the view; each was left out whole."""
    problems: tuple[RefusedRow, ...] = ()
    """The first hundred of them, by their number in the call."""
    without: tuple[str, ...] = ()
    """Columns of older forms of the view that are still kept up for live models, and that rows do not have any more: missing there."""


class RowWriter(Protocol):
    """Where pushed rows are kept first; `towpath.journal.Journal` is one."""

    def landed(self, rows: "list[LandedRow]") -> None:
        """Keep all rows, or raise."""
        ...


class Pusher:
    """Takes pushed rows. Calls may come from many threads at once.

    Args:
        online: Opens the online store; called once for each push.
        journal: Keeps the rows before they are online.
        clock: Says when they arrived.
        meter: Counts them by what became of them; none where nobody scrapes.
    """

    def __init__(
        self, online: Callable[[], OnlineStore], journal: RowWriter, clock: Clock, meter: Meter | None = None
    ) -> None:
        self._online = online
        self._meter = meter
        self._journal = journal
        self._clock = clock
        self._forms: dict[tuple[str, bytes], RowForm] = {}

    def push(self, views: Sequence[View], rows: Sequence[object], *, consumer: str, strict: bool = True) -> PushAnswer:
        """Take the rows that fit: append them to the journal, write them online, and only then come back.

        Who sends a call again, because no answer came, does no harm: a row that stands online as it is said is counted and
        left as it is; one that had reached the disk but not the online store is a second row of the landing table, which
        its reader folds into the first.

        Args:
            views: The forms of one view that are read, newest first: the newest says what fits, the others take of it what fits
                them too, see `RowForm.again`.
            rows: Column → value.
            consumer: Who sends them.
            strict: Whether a call of which not one row fits is an error; else it is an answer like any other.

        Raises:
            InputError: Not one row fits; the text names the first fault and its row. Or the view is not kept online.
            UnavailableError: The disk is full or the online store is away; nothing was acknowledged, send the rows again.
        """
        newest, online = views[0], self._online()
        called = f"{newest.project}/{newest.name}"
        if not newest.header.online:
            raise InputError(f"The view '{called}' is not kept online.", mend="online = true in its header")
        arrived_us = now_us(self._clock)
        form = self._form(newest, online)
        fit, refused = form.check(rows, arrived_us)
        if refused and len(views) > 1:
            refused = self._told(views, rows, refused, online, arrived_us)
        if strict and not fit and refused:
            self._count(called, consumer, refused=len(refused))
            first = refused[0]
            more = f", and {len(refused) - 1} more do not fit" if len(refused) > 1 else ""
            raise InputError(f"Row {first.row}: {first.error.rstrip('.')}{more}.", mend=f"columns are {form.described}")
        values = form.to_bytes(fit, arrived_us)
        fresh = _changed(online.read(rows_table(online, newest.table), [row.key for row in fit]), fit, values)
        self._journal.landed(
            [_landed(newest, fit[at], place, arrived_us, consumer) for place, at in enumerate(fresh, time.time_ns())]
        )
        write_rows(online, newest.table, [(fit[at].key, values[at]) for at in fresh])
        for older in views[1:]:
            self._write_older(older, [fit[at] for at in fresh], online, arrived_us)
        unchanged = len(fit) - len(fresh)
        self._count(called, consumer, accepted=len(fresh), unchanged=unchanged, refused=len(refused))
        return PushAnswer(
            view=called,
            accepted=len(fresh),
            unchanged=unchanged,
            refused=len(refused),
            problems=tuple(refused[:_SHOWN]),
            without=_without(views),
        )

    def _count(self, view: str, consumer: str, *, accepted: int = 0, unchanged: int = 0, refused: int = 0) -> None:
        if self._meter is not None:
            self._meter.pushed(view, consumer, accepted=accepted, unchanged=unchanged, refused=refused)

    def _told(
        self,
        views: Sequence[View],
        rows: Sequence[object],
        refused: Sequence[RefusedRow],
        online: OnlineStore,
        arrived_us: int,
    ) -> list[RefusedRow]:
        """The refusals that are shown, where a row fits a form from before: it tells whoever still sends that one."""
        older, told = [self._form(view, online) for view in views[1:]], list(refused)
        for place, one in enumerate(refused[:_SHOWN]):
            before = next((form for form in older if form.check([rows[one.row]], arrived_us)[0]), None)
            if before is not None:
                now = self._form(views[0], online).described
                said = (
                    f"{one.error.rstrip('.')}. It is in the form from before, which takes no rows any more: send {now}"
                )
                told[place] = RefusedRow(row=one.row, error=said)
        return told

    def _write_older(self, view: View, rows: Sequence[PushedRow], online: OnlineStore, arrived_us: int) -> None:
        form = self._form(view, online)
        fit = form.again(rows)
        write_rows(online, view.table, list(zip([row.key for row in fit], form.to_bytes(fit, arrived_us), strict=True)))

    def _form(self, view: View, online: OnlineStore) -> RowForm:
        """What the online rows of a view look like; where nobody has built it yet, that is written first."""
        state = build_state(online, view.table)
        number = state.number if state is not None else 1
        (stored,) = online.read(SCHEMAS, [schema_key(view.table, number)])
        if stored is None:
            if not view.key_types:
                raise UnavailableError(
                    f"The view '{view.project}/{view.name}' was never built, and its types are not known here.",
                    mend=f"tow features build {view.name}",
                )
            stored = RowSchema(number=number, keys=view.key_types, columns=view.columns).to_bytes()
            online.write(SCHEMAS, [(schema_key(view.table, number), stored)])
        known = self._forms.get((view.table, stored))
        if known is None:
            known = self._forms[view.table, stored] = RowForm(view, RowSchema.from_bytes(stored))
        return known


def pushed_views(live: Mapping[str, Deployment]) -> dict[str, tuple[View, ...]]:
    """The views that the served versions read, newest form first: by ``project/view``, and by ``view`` where one project has it.

    Args:
        live: Model → deployment.
    """
    locks = sorted(
        (
            (served.manifest.created_at, lock)
            for deployment in live.values()
            for served in deployment.versions.values()
            for lock in (*served.manifest.features, *served.manifest.fallback_features)
        ),
        key=lambda pair: pair[0],
        reverse=True,
    )
    found: dict[str, dict[str, View]] = {}
    for _, lock in locks:
        try:
            view = view_of_lock(lock)
        except (TowpathError, msgspec.ValidationError) as error:
            _log.warning("rows of '%s/%s' cannot be pushed here: %s", lock.project, lock.view, error)
            continue
        whole = msgspec.structs.replace(view, columns=lock.row, key_types=lock.key_types)
        found.setdefault(f"{lock.project}/{lock.view}", {}).setdefault(lock.fingerprint, whole)
    views = {called: tuple(forms.values()) for called, forms in found.items()}
    bare = [called.partition("/")[2] for called in views]
    return views | {name: forms for called, forms in views.items() if bare.count(name := called.partition("/")[2]) == 1}


def view_called(views: Mapping[str, tuple[View, ...]], name: str) -> tuple[View, ...]:
    """The forms of a view by the name that a caller used.

    Raises:
        UnknownError: No served version reads such a view; the nearest name is offered, or the projects that have one.
    """
    if name in views:
        return views[name]
    owners = [called for called in views if "/" in called and called.partition("/")[2] == name]
    if owners:
        raise UnknownError(f"Several projects have a view '{name}'.", mend=f"say {' or '.join(sorted(owners))}")
    raise UnknownError(
        f"No model that is served here reads a view '{name}'{nearest(name, views)}", mend="POST /features/<view>"
    )


def _without(views: Sequence[View]) -> tuple[str, ...]:
    """What older forms with the same keys have and the newest has not."""
    if len(views) == 1:
        return ()
    newest = views[0]
    alike = [view for view in views[1:] if view.header.keys == newest.header.keys]
    return tuple(sorted({name for view in alike for name in view.features} - set(newest.features)))


def _changed(standing: Sequence[bytes | None], rows: Sequence[PushedRow], values: Sequence[bytes]) -> list[int]:
    """Which rows say something else than what stands, or than an earlier row of the same call."""
    now: dict[bytes, bytes | None] = dict(zip((row.key for row in rows), standing, strict=True))
    fresh: list[int] = []
    for at, (row, value) in enumerate(zip(rows, values, strict=True)):
        before = now[row.key]
        if before is not None and before[_TIMES] == value[_TIMES] and before[_VALUES] == value[_VALUES]:
            continue
        fresh.append(at)
        if before is None or before[_TIMES] <= value[_TIMES]:
            now[row.key] = value
    return fresh


def _landed(view: View, row: PushedRow, place: int, arrived_us: int, consumer: str) -> LandedRow:
    return LandedRow(
        project=view.project,
        view=view.name,
        entity_key=row.key.decode(),
        event_time=row.event_us,
        arrived_at=arrived_us,
        place=place,
        row=row.text,
        row_digest=row.digest,
        consumer=consumer,
    )

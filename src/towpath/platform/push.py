"""Pushed rows on the side of a project: the same path as a server's, and the landing tables of its warehouse."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from towpath.errors import UnavailableError
from towpath.serving.push import PushAnswer, Pusher
from towpath.types import duration

if TYPE_CHECKING:
    from towpath.features import RefusedRow, View
    from towpath.features.views import ViewSource
    from towpath.journal.landing import LandingTables
    from towpath.platform.opened import Platform

__all__ = ["expire", "landing_tables", "push"]

_CHUNK_ROWS = 10_000


def push(platform: "Platform", view: "View", rows: Any) -> PushAnswer:
    """Take rows of one view; see `Features.push`."""
    from towpath.journal import Journal

    listed = _listed(rows)
    forms = [view, *_older(platform, view)]
    journal = Journal(
        platform.folder / platform.settings.serving.journal,
        server="push",
        clock=platform.clock,
        budget_bytes=platform.settings.serving.journal_budget_mib << 20,
    )
    accepted = unchanged = refused = 0
    problems: list[RefusedRow] = []
    without: tuple[str, ...] = ()
    try:
        pusher = Pusher(lambda: platform.online, journal, platform.clock)
        for start in range(0, len(listed), _CHUNK_ROWS):
            part = pusher.push(forms, listed[start : start + _CHUNK_ROWS], consumer=platform.who, strict=False)
            accepted, unchanged, refused = accepted + part.accepted, unchanged + part.unchanged, refused + part.refused
            without = part.without
            problems += [replace(one, row=one.row + start) for one in part.problems]
    finally:
        journal.close()
    return PushAnswer(
        view=f"{view.project}/{view.name}",
        accepted=accepted,
        unchanged=unchanged,
        refused=refused,
        problems=tuple(problems[:100]),
        without=without,
    )


def landing_tables(platform: "Platform") -> "LandingTables":
    """The landing tables of the project's views, for its warehouse."""
    from towpath.journal.landing import FORM, LandingTables
    from towpath.platform import own_landing

    def flush() -> None:
        with contextlib.suppress(UnavailableError):  # a store that is read only: what is there is still read
            platform.watch.flush()

    forms: dict[str, ViewSource] = {}  # a form that is recorded stays as it is

    def view(name: str) -> "ViewSource | None":
        found = forms.get(name) or own_landing.source(platform, name)
        if found is not None and FORM in name:
            forms[name] = found
        return found

    return LandingTables(
        platform.objects, platform.settings.project.name, view, flush, platform.folder / own_landing.FOLDER
    )


def expire(platform: "Platform", view: "View") -> int:
    """Take rows out of a view's landing table that are older than its ``landing_keep``; gives how many went.

    What the last build counted is corrected by them, so that they do not look like rows that somebody removed.
    """
    from towpath.features import builds, counted
    from towpath.journal.days import expire as expire_days
    from towpath.journal.days import landing

    if view.header.landing_keep is None:
        return 0
    state = builds.build_state(platform.online, view.table)
    until = state.counted_until if state is not None else None
    before = counted(view, platform.warehouse, until) if until else 0
    gone = expire_days(
        platform.objects,
        landing(view.project, view.name),
        before=platform.now() - duration(view.header.landing_keep),
        clock=platform.clock,
    )
    if gone and until and state is not None and state.counted_rows is not None:
        left = state.counted_rows - (before - counted(view, platform.warehouse, until))
        builds.put_state(platform.online, view.table, replace(state, step=state.step + 1, counted_rows=left))
    return gone


def _older(platform: "Platform", view: "View") -> "list[View]":
    """The older versions of a view that stand online, newest first: a live model may still read them."""
    from towpath.features import recorded, view_of_form

    siblings = view.table.rpartition(".")[0] + "."
    standing = {table.split("~")[0] for table in platform.online.tables() if table.startswith(siblings)}
    if standing <= {view.table}:
        return []
    fullest = {form.base: form for form in recorded(platform.objects, view.project, view.name)}
    older = (view_of_form(form) for form in reversed(fullest.values()))
    return [one for one in older if one.table in standing - {view.table}]


def _listed(rows: Any) -> Sequence[object]:
    """Dicts as they are, one dict as one row, an Arrow table or a frame row by row."""
    if isinstance(rows, Mapping):
        return [cast("Mapping[str, object]", rows)]
    if isinstance(rows, Sequence):
        return cast("Sequence[object]", rows)
    import pyarrow as pa

    from towpath.features.frames import as_table

    table = as_table(
        rows, "What is pushed", wanted="a dict, a list of dicts, an Arrow table, or a frame of pandas or polars"
    )
    for at, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):  # of nanoseconds Arrow makes objects of pandas
            column = table.column(at).cast(pa.timestamp("us", field.type.tz), safe=False)
            table = table.set_column(at, field.name, column)
    return table.to_pylist()

"""How views change under models that are live: which forms are still needed, what a build would do, what it would break."""

import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from towpath import features as room
from towpath.errors import ProjectError
from towpath.features import builds
from towpath.features.due import beginning
from towpath.journal.landing import FORM, SCHEMA_NAME
from towpath.platform.own_landing import laid_out, on_own_landing, table_of
from towpath.types import type_names

if TYPE_CHECKING:
    from pathlib import Path

    from towpath.features import FeatureLock, Form, View
    from towpath.platform.opened import Platform

__all__ = ["Needed", "PlanRow", "Pruned", "lost", "names", "needed", "needs", "plan", "prune", "stale_tables"]


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """A form of a view that a build has to keep up, and for whom."""

    view: "View"
    by: tuple[str, ...]
    """Live versions that read it, such as ``demand@3 (champion)``."""
    current: bool
    """Whether it is what the file says now."""


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``tow features plan``."""

    view: str
    version: int
    change: str
    """What the file's form is beside the one that was built last."""
    work: Literal["nothing", "since", "everything", "refused", "prune"]
    since: datetime | None
    because: str
    rows: int | None
    """About how many rows would be written; none where counting is no cheaper than building."""
    needed_by: tuple[str, ...]
    breaks: tuple[str, ...]
    """What live models lose, and why."""
    warns: tuple[str, ...] = ()
    """What the next training of a model meets; what a build of this kind would not see."""
    prunes: tuple[str, ...] = ()
    """Tables online, or laid out on this machine, that nothing needs any more; ``tow features prune`` drops them."""
    ill_sources: tuple[str, ...] = ()
    """Tables of the view that are gone or have other columns, and what hangs on them; rows are not looked at."""


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """An online table that was dropped, or a landing table that is laid out on this machine no more."""

    table: str
    rows: int | None
    """None of a landing table: its rows are in the journal, and are laid out again where somebody asks."""


def needs(platform: "Platform") -> "dict[str, list[FeatureLock]]":
    """What the live versions of all models of the fleet read: champions, those before them, challengers, shadows.

    Returns:
        Such as ``demand@3 (champion)`` → the views that it was trained on.

    Raises:
        FormatError: A manifest is damaged, so that nobody can say what is needed.
    """
    from towpath.registry import claims, history, versions

    found: dict[str, list[FeatureLock]] = {}
    for model in claims.models(platform.objects):
        entry = history.current(platform.objects, model)
        if entry is None or entry.state.retired:
            continue
        state = entry.state
        roles = dict.fromkeys(state.shadows, "shadow")
        roles |= {challenger.version: "challenger" for challenger in state.challengers}
        roles |= {
            number: role for number, role in ((state.previous, "previous"), (state.champion, "champion")) if number
        }
        for number, role in sorted(roles.items()):
            manifest = versions.manifest(platform.objects, model, number, None)
            found[f"{model}@{number} ({role})"] = [*manifest.features, *manifest.fallback_features]
    return found


def needed(platform: "Platform", name: str, live: "Mapping[str, Sequence[FeatureLock]]") -> list[Needed]:
    """The forms of a view of this project that a build keeps up: what the file says, and older versions that models read.

    Where the file went back to fewer columns, the form that a live model needs is built in its place: it holds them all.

    Args:
        platform: The project.
        name: Of the view; it need not have a file any more.
        live: What `needs` gave.

    Raises:
        ProjectError: The view's SQL is refused.
    """
    project = platform.settings.project.name
    forms = room.recorded(platform.objects, project, name)
    number_of = {form.fingerprint: form.number for form in forms}
    readers: dict[str, list[str]] = {}
    numbers: dict[str, int] = {}
    locks: dict[str, FeatureLock] = {}
    for who, kept in live.items():
        for lock in kept:
            if (lock.project, lock.view) == (project, name) and _reads_online(platform, lock):
                base = lock.base or lock.fingerprint
                readers.setdefault(base, []).append(who)
                numbers[base] = max(numbers.get(base, 1), number_of.get(lock.fingerprint, 1))
                locks[base] = lock
    found: list[Needed] = []
    if name in platform.project.views:
        view = platform.features.view(name)
        base = view.base or view.fingerprint
        if numbers.get(base, 1) > view.number:
            view = on_own_landing(platform, _widest(view, forms, numbers[base]))
        by = readers.pop(base, [])
        if by or platform.project.views[name].header.online:
            found.append(Needed(view=view, by=tuple(by), current=True))
    for base, by in readers.items():
        of_base = [form for form in forms if form.base == base]
        view = room.view_of_form(of_base[-1]) if of_base else room.view_of_lock(locks[base])
        found.append(Needed(view=on_own_landing(platform, view), by=tuple(by), current=False))
    return found


def plan(platform: "Platform", name: str | None = None) -> list[PlanRow]:
    """What a build would do, for each view and each older version that is needed; nothing is built or written.

    Args:
        platform: The project at the moment of the build.
        name: One view; all unless given, with those that have no file any more and are still read. Of ``project/view`` the row
            says who builds it, and how fresh it is.

    Raises:
        UnknownError: There is no such view, with the nearest name.
    """
    live = needs(platform)
    if name and "/" in name:
        return [_of_another(platform, name, live)]
    rows: list[PlanRow] = []
    for each in [name] if name else names(platform, live):
        found: list[PlanRow] = []
        try:
            for form in needed(platform, each, live):
                found.append(_planned(platform, each, form, live))  # noqa: PERF401 - those before the one that fails stay
        except ProjectError as error:
            found.append(_refused(platform, each, live, error))
        if not found:
            found.append(_never_online(platform.features.view(each)))  # or it says what is near
        if each in platform.project.views:  # its row is the first
            ill = tuple(str(one) for one in platform.sources.ill([each], count=False))
            found[0] = msgspec.structs.replace(found[0], ill_sources=ill)
        rows += found
    return rows if name else [*rows, *_unneeded(platform, live)]


def stale_tables(platform: "Platform", live: "Mapping[str, Sequence[FeatureLock]]") -> dict[str, str]:
    """Online tables of this project that no file and no live version needs: table → the name it was built under."""
    project, online = platform.settings.project.name, platform.online_glance
    wanted = set[str]()
    for kept in live.values():
        own = [lock for lock in kept if lock.project == project]
        wanted |= {room.view_of_lock(lock).table for lock in own if _reads_online(platform, lock)}
    for each, file in platform.project.views.items():
        if not file.header.online:
            continue
        try:
            wanted.add(platform.features.view(each).table)
        except ProjectError:  # what cannot be described today may be mended tomorrow: nothing of it goes
            wanted |= {table.split("~")[0] for table in online.tables() if table.startswith(f"{project}.{each}.")}
    found: dict[str, str] = {}
    for table in online.tables():
        logical = table.split("~")[0]
        if not logical.startswith(f"{project}.") or logical.count(".") < 2:  # noqa: PLR2004 - project, view, fingerprint
            continue
        if logical not in wanted:
            found[table] = logical
    return found


def prune(platform: "Platform") -> list[Pruned]:
    """Drop the online tables that nothing needs any more, and pushed rows that are laid out for such forms; their record stays.

    Raises:
        FormatError: A manifest is damaged, so that nobody can say what is needed.
    """
    dropped: list[Pruned] = []
    live = needs(platform)
    stale = stale_tables(platform, live)
    for logical in sorted(set(stale.values())):
        builds.forget(platform.online, logical)  # first: a build of a form that comes back begins anew
    for table in stale:
        dropped.append(Pruned(table=table, rows=platform.online.count(table)))
        platform.online.drop(table)
    for name, folder in _stale_landing(platform, live).items():
        dropped.append(Pruned(table=f"{SCHEMA_NAME}.{name}", rows=None))
        shutil.rmtree(folder, ignore_errors=True)  # another process may be laying it out anew
    return dropped


def _stale_landing(platform: "Platform", live: "Mapping[str, Sequence[FeatureLock]]") -> "dict[str, Path]":
    """Forms that are laid out on this machine and that no file and no live version reads: name of the landing table → folder."""
    standing, project = laid_out(platform), platform.settings.project.name
    keep = set(platform.project.views)
    keep |= {
        table_of(lock.view, lock.fingerprint) for kept in live.values() for lock in kept if lock.project == project
    }
    for each in names(platform, live) if standing else ():
        try:
            read = [table for form in needed(platform, each, live) for table in form.view.query.tables]
            keep |= {table.removeprefix(f"{SCHEMA_NAME}.") for table in read}
        except ProjectError:  # what cannot be described today may be mended tomorrow
            keep |= {name for name in standing if name.partition(FORM)[0] == each}
    return {name: folder for name, folder in standing.items() if name not in keep}


def names(platform: "Platform", live: "Mapping[str, Sequence[FeatureLock]]") -> list[str]:
    """Views that builds bring online: those of the folder, and those without a file that live models still read."""
    project = platform.settings.project.name
    locks = [lock for kept in live.values() for lock in kept if lock.project == project]
    read = {lock.view for lock in locks if _reads_online(platform, lock)}
    own = [name for name, view in platform.project.views.items() if view.header.online or name in read]
    return [*own, *sorted(read - set(platform.project.views))]


def _reads_online(platform: "Platform", lock: "FeatureLock") -> bool:
    """Whether a live version needs the rows online: of a view that is for training only now, one that was trained before it was."""
    file = platform.project.views.get(lock.view)
    return file is None or file.header.online or room.view_of_lock(lock).header.online


def _never_online(view: "View") -> PlanRow:
    return PlanRow(
        view=view.name,
        version=view.version,
        change="",
        work="nothing",
        since=None,
        because="online = false: it is for training only",
        rows=0,
        needed_by=(),
        breaks=(),
    )


def _widest(view: "View", forms: "Sequence[Form]", number: int) -> "View":
    """The form of the view's version that holds all columns which a live model reads."""
    return next(room.view_of_form(form) for form in forms if (form.base, form.number) == (view.base, number))


def _planned(platform: "Platform", name: str, form: Needed, live: "Mapping[str, Sequence[FeatureLock]]") -> PlanRow:
    view, warehouse = form.view, platform.warehouse
    state = builds.build_state(platform.online_glance, view.table)
    row = PlanRow(
        view=name,
        version=view.version,
        change=_told(platform, form) if form.current else "an older version that is still read",
        work="refused",
        since=None,
        because="",
        rows=None,
        needed_by=form.by,
        breaks=(),
    )
    broken = () if form.current else _broken(platform, form)
    if broken:
        return msgspec.structs.replace(row, because="its SQL does not give what it gave", breaks=broken)
    if platform.now() < beginning(view):
        return msgspec.structs.replace(row, work="nothing", because=f"it starts at {view.header.start}")
    due = room.due(view, state, warehouse, as_of=platform.now(), snapshot=room.snapshot_digest(view, warehouse))
    written = state is not None and state.table and due.work == "everything"
    glance = platform.online_glance
    rows = glance.count(builds.rows_table(glance, view.table)) if written else None
    return msgspec.structs.replace(
        row,
        work=due.work,
        since=due.since,
        because=due.because,
        rows=0 if due.work == "nothing" else rows,
        breaks=() if form.current else _pushed_without(platform, form, live),
        warns=(
            *(_warned(platform, name, view) if form.current else ()),
            *([due.unseen] if due.unseen else []),
        ),
    )


def _of_another(platform: "Platform", name: str, live: "Mapping[str, Sequence[FeatureLock]]") -> PlanRow:
    """A view that its own project builds: its forms, how fresh it is, and who would miss it."""
    from towpath.platform.remembered import SeenView, recall
    from towpath.registry import claims

    project, _, bare = name.partition("/")
    published = claims.published_view(platform.objects, project, bare)
    seen = recall(platform.objects, project, bare, SeenView)
    forms = room.recorded(platform.objects, project, bare)
    newest = f", newest row of {seen.newest_event_time:%Y-%m-%d %H:%M}" if seen and seen.newest_event_time else ""
    built = f"last built {seen.built_at:%Y-%m-%d %H:%M}{newest}" if seen else "not built yet"
    return PlanRow(
        view=name,
        version=next((form.version for form in forms if form.fingerprint == published.lock.fingerprint), 1),
        change="",
        work="nothing",
        since=None,
        because=f"'{project}' builds it: {built}; {len(forms)} form{'' if len(forms) == 1 else 's'}, "
        f"the newest published {published.published_at:%Y-%m-%d %H:%M} by {published.by}",
        rows=0,
        needed_by=tuple(who for who, kept in live.items() if any((k.project, k.view) == (project, bare) for k in kept)),
        breaks=(),
    )


def _unneeded(platform: "Platform", live: "Mapping[str, Sequence[FeatureLock]]") -> list[PlanRow]:
    tables: dict[str, list[str]] = {}
    for table, logical in stale_tables(platform, live).items():
        tables.setdefault(logical, []).append(table)
    return [
        PlanRow(
            view=logical.split(".")[1],
            version=0,
            change="",
            work="prune",
            since=None,
            because=_unneeded_because(platform, logical.split(".")[1]),
            rows=sum(platform.online_glance.count(table) for table in found),
            needed_by=(),
            breaks=(),
            prunes=tuple(found),
        )
        for logical, found in tables.items()
    ] + [
        PlanRow(
            view=name.partition(FORM)[0],
            version=0,
            change="",
            work="prune",
            since=None,
            because="pushed rows are laid out here for a form that nothing needs; tow features prune removes them",
            rows=None,
            needed_by=(),
            breaks=(),
            prunes=(f"{SCHEMA_NAME}.{name}",),
        )
        for name in _stale_landing(platform, live)
    ]


def _unneeded_because(platform: "Platform", view: str) -> str:
    file = platform.project.views.get(view)
    why = "no file" if file is None or file.header.online else "its file says online = false"
    return f"{why} and no live version needs this form; tow features prune drops it"


def _told(platform: "Platform", form: Needed) -> str:
    said = _changed(platform, form)
    if platform.project.views[form.view.name].header.online:
        return said
    return "; ".join([*([said] if said else []), "online = false; kept up until nobody reads it"])


def _changed(platform: "Platform", form: Needed) -> str:
    forms = room.recorded(platform.objects, form.view.project, form.view.name)
    if not forms:
        return "new"
    if any(each.fingerprint == form.view.fingerprint for each in forms):
        return ""
    said = room.change(room.view_of_form(forms[-1]), form.view)
    if said.kind == "same":
        return ""
    return f"version {form.view.version}: {said.told()}" if said.kind == "version" else said.told()


def lost(platform: "Platform", view: "View") -> tuple[str, ...]:
    """What an older form of a view does not give any more as it gave it, when its SQL is asked today; empty where it does.

    Args:
        platform: Whose warehouse is asked.
        view: The form, as it was recorded.

    Raises:
        ProjectError: The warehouse refuses its SQL.
    """
    schema = platform.warehouse.describe(view.query)
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    gave = [*zip(view.header.keys, view.key_types, strict=False), *view.columns]
    return tuple(
        "'{}' is {} and was {}".format(name, *type_names(kinds[name], kind)) if name in kinds else f"'{name}' is gone"
        for name, kind in gave
        if kinds.get(name) != kind
    )


def _broken(platform: "Platform", form: Needed) -> tuple[str, ...]:
    """What models lose whose older form does not give what it gave."""
    view, readers = form.view, ", ".join(form.by)
    try:
        wrong = lost(platform, view)
    except ProjectError as error:
        return (f"{readers}: version {view.version} of '{view.name}' cannot be built any more: {error.what}",)
    return tuple(f"{readers}: in version {view.version} of '{view.name}' {what}" for what in wrong)


def _pushed_without(platform: "Platform", form: Needed, live: "Mapping[str, Sequence[FeatureLock]]") -> tuple[str, ...]:
    """What models lose of an older form because it has rows that are pushed, and those of today lack a column."""
    view = form.view
    if view.name not in platform.project.views or not any(
        table.startswith(f"{SCHEMA_NAME}.") for table in view.query.tables
    ):
        return ()
    now, base, found = platform.features.view(view.name).features, view.base or view.fingerprint, list[str]()
    for who in form.by:
        locks = [lock for lock in live[who] if lock.view == view.name and (lock.base or lock.fingerprint) == base]
        read = {column.name for lock in locks for column in lock.columns}
        if gone := [f"'{name}'" for name in view.features if name in read and name not in now]:
            said = f"rows that are pushed to '{view.name}' now have no {', '.join(gone)}"
            found.append(f"{who}: {said}, which is missing in version {view.version} from then on")
    return tuple(found)


def _warned(platform: "Platform", name: str, view: "View") -> tuple[str, ...]:
    """Features that a model of the project asks for and the view does not give any more."""
    asked = [
        (model, feature.rpartition(".")[2])
        for model, folder in platform.project.models.items()
        for feature in folder.declaration.features
        if feature.rpartition(".")[0] in {name, f"{view.project}/{name}"}
    ]
    return tuple(
        f"the next training of {model} asks for '{name}.{feature}', which is gone"
        for model, feature in asked
        if feature not in {"*", *view.features}
    )


def _refused(
    platform: "Platform", name: str, live: "Mapping[str, Sequence[FeatureLock]]", error: ProjectError
) -> PlanRow:
    project = platform.settings.project.name
    readers = [who for who, kept in live.items() if any((k.project, k.view) == (project, name) for k in kept)]
    said = "; ".join(error.problems) or error.what
    return PlanRow(
        view=name,
        version=0,
        change="",
        work="refused",
        since=None,
        because=said,
        rows=None,
        needed_by=tuple(readers),
        breaks=tuple(f"{who}: '{name}' cannot be built: {said}" for who in readers),
    )

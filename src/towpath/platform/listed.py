"""The views of a project one line each: what they give, who reads them, how they stand."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from towpath.errors import ProjectError
from towpath.features import recorded, split, view_of_form
from towpath.platform import viewed

if TYPE_CHECKING:
    from towpath.platform.opened import Platform
    from towpath.project import Project

__all__ = ["ViewRow", "as_files_say", "rows", "users"]


class ViewRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``tow features``."""

    view: str
    entity: tuple[str, ...]
    features: tuple[str, ...]
    ttl: str | None
    known_at: bool
    """Whether it declares when rows land."""
    online_rows: int | None
    """None where the online store does not say; `rows_unknown` has why."""
    used_by: tuple[str, ...]
    published: bool
    newest_event_time: datetime | None = None
    """Of the rows that builds brought online."""
    built_at: datetime | None = None
    """When the last build was done."""
    state: str = ""
    """``built``; ``not built``; ``changed since its build``; ``expired``: its newest row is older than the ttl; ``never online``, or
    ``no longer``: its file says ``online = false``;
    ``broken``: the engine refuses its SQL, and what was built of it is read on."""
    error: str = ""
    """What the engine says of a broken one."""
    rows_unknown: str = ""
    """Why nobody knows how many rows are online."""


def rows(platform: "Platform") -> list[ViewRow]:
    """One row for each view of the project, with the models that read it."""
    project = platform.project
    online = viewed.RowCounts(platform)
    found: list[ViewRow] = []
    for name in project.views:
        try:
            view = platform.features.view(name)
        except ProjectError as error:
            found.append(_broken(platform, name, error, online))
            continue
        count, unknown = online.of(view)
        found.append(
            ViewRow(
                view=name,
                entity=view.header.keys,
                features=tuple(view.features),
                ttl=view.header.ttl,
                known_at=view.header.created_time is not None,
                online_rows=count,
                rows_unknown=unknown,
                used_by=users(project, name),
                published=view.header.publish,
                **viewed.standing(platform, view),
            )
        )
    return [*found, *(_on_demand_row(project, name) for name in project.on_demand)]


def as_files_say(project: "Project") -> list[dict[str, object]]:
    """The views of a project, and its on-demand files; the engine is not asked."""
    found: list[dict[str, object]] = [
        {
            "view": name,
            "entity": view.header.keys,
            "event time": view.header.event_time,
            "known at": view.header.created_time,
            "ttl": view.header.ttl,
            "used by": users(project, name),
        }
        for name, view in project.views.items()
    ]
    nothing = dict.fromkeys(("entity", "event time", "known at", "ttl"))
    return [
        *found,
        *({"view": name, **nothing, "used by": users(project, name)} for name in project.on_demand),
    ]


def users(project: "Project", view: str) -> tuple[str, ...]:
    """The models of the project that read a view, themselves or through on-demand features."""

    def read(features: Sequence[str]) -> set[str]:
        asked = split(features, project.on_demand)
        return {name.split(".")[0] for name in asked.features} | {file.name for file in asked.files}

    return tuple(name for name, model in project.models.items() if view in read(model.declaration.features))


def _broken(platform: "Platform", name: str, error: ProjectError, online: "viewed.RowCounts") -> ViewRow:
    """A view whose SQL the engine refuses, with what its last form left online."""
    project = platform.project
    header = project.views[name].header
    forms = recorded(platform.objects, platform.settings.project.name, name)
    before = view_of_form(forms[-1]) if forms else None
    standing = viewed.standing(platform, before) if before else {}
    count, unknown = online.of(before) if before else (0, "")
    standing |= {"state": "broken", "error": "; ".join(error.problems) or error.what}
    return ViewRow(
        view=name,
        entity=header.keys,
        features=(),
        ttl=header.ttl,
        known_at=header.created_time is not None,
        online_rows=count,
        rows_unknown=unknown,
        used_by=users(project, name),
        published=header.publish,
        **standing,
    )


def _on_demand_row(project: "Project", name: str) -> ViewRow:
    """An on-demand file, which has neither keys nor rows of its own."""
    return ViewRow(
        view=name,
        entity=(),
        features=tuple(project.on_demand[name].header.outputs),
        ttl=None,
        known_at=False,
        online_rows=0,
        used_by=users(project, name),
        published=project.on_demand[name].header.publish,
    )

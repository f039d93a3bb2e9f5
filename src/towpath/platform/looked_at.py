"""What ``tow features show`` says of what has no rows of its own here: on-demand features, and views of other projects."""

from typing import TYPE_CHECKING, Any

from towpath.platform.consumers import readers
from towpath.platform.viewed import FeatureShown, RowCounts, missing_as, reader_names
from towpath.project.on_demand import is_feature
from towpath.types import type_name

if TYPE_CHECKING:
    from towpath.platform.opened import Platform

__all__ = ["on_demand_shown", "published_shown"]


def on_demand_shown(platform: "Platform", name: str) -> dict[str, Any]:
    """An on-demand file: what it reads, what it gives, and the models that use it.

    Args:
        platform: Whose project has it.
        name: Of the file.

    Raises:
        ProjectError: A view that it reads is refused by the engine.
    """
    file = platform.features.on_demand(name)
    assert file is not None
    header = file.header
    asked = platform.features.split([f"{name}.*"])
    views = platform.features.views_of(asked.features).values()
    used: dict[str, set[str]] = {one: set() for one in header.outputs}
    for model, folder in platform.project.models.items():
        for feature in folder.declaration.features:
            view, _, called = feature.rpartition(".")
            if view == name:
                for one in header.outputs if called == "*" else [called]:
                    used.setdefault(one, set()).add(model)
    reads = {argument: header.inputs[argument].type for argument in file.arguments}
    return {
        "view": name,
        "description": header.description,
        "owner": header.owner,
        "state": "computed when it is asked for",
        "file": f"{file.path}:{file.line}",
        "entity": tuple(dict.fromkeys(key for view in views for key in view.header.keys)),
        "reads": reads,
        "budget_ms": header.budget_ms,
        "used_by": tuple(sorted(set[str]().union(*used.values()))),
        "features": tuple(
            FeatureShown(
                feature=one,
                type=said.type,
                missing=missing_as(said),
                made_of=tuple(kind if is_feature(kind) else argument for argument, kind in reads.items()),
                used_by=tuple(sorted(used[one])),
                description=said.description,
            )
            for one, said in header.outputs.items()
        ),
    }


def published_shown(platform: "Platform", name: str) -> dict[str, Any]:
    """A view that another project published: whose it is, its keys and features, and who in the fleet reads it.

    Args:
        platform: Who reads it.
        name: ``project/view``.

    Raises:
        UnknownError: It was not published.
        UnavailableError: The store does not answer.
    """
    from towpath.features import recorded
    from towpath.registry import claims

    project, _, bare = name.partition("/")
    published = claims.published_view(platform.objects, project, bare)
    view, kept = platform.features.view(name), published.lock
    header, who = view.header, readers(platform, name, view.features)
    rows, unknown = RowCounts(platform).of(view)
    return {
        "view": name,
        "description": header.description,
        "owner": header.owner,
        "team": published.team,
        "state": f"published {published.published_at:%Y-%m-%d %H:%M} by {published.by}; '{project}' builds it",
        "forms": len(recorded(platform.objects, project, bare)),
        "entity": dict(zip(kept.entity, map(type_name, kept.key_types), strict=True))
        if kept.key_types
        else kept.entity,
        "event_time": header.event_time,
        "created_time": header.created_time,
        "ttl": header.ttl,
        "rows_online": rows,
        "rows_unknown": unknown,
        "tables": tuple(view.query.tables),
        "used_by": reader_names([one for one in who if one.features], platform.settings.project.name),
        "features": tuple(
            FeatureShown(
                feature=column.name,
                type=type_name(column.type),
                missing=missing_as(column),
                made_of=None,
                used_by=reader_names(
                    [one for one in who if column.name in one.features], platform.settings.project.name
                ),
                description=said.description if (said := header.features.get(column.name)) else "",
            )
            for column in kept.columns
        ),
    }

"""A feature view as people look at it: its columns and what they are made of, who reads it, how fresh it is."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.errors import TowpathError, UnavailableError
from towpath.platform import shown
from towpath.platform.consumers import readers
from towpath.platform.remembered import SeenView, recall
from towpath.types import duration, type_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.features import FeatureColumn, View
    from towpath.platform.consumers import Reader
    from towpath.platform.opened import Platform
    from towpath.project.declarations import FeatureDeclaration

__all__ = ["FeatureShown", "RowCounts", "Viewed", "missing_as", "reader_names", "standing", "state_of"]


class FeatureShown(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of ``tow features show``."""

    feature: str
    type: str
    """As headers say it."""
    missing: str
    """What a missing value becomes: null, a default, or a refusal."""
    made_of: tuple[str, ...] | None
    """Source columns; None where SQLGlot cannot tell, empty for a constant or a count of rows."""
    used_by: tuple[str, ...]
    """Models, with versions."""
    description: str = ""


class Viewed:
    """What ``platform.features["view"]`` is; shows itself in a notebook.

    Args:
        platform: Whose project has the view.
        name: Of the view.
    """

    def __init__(self, platform: "Platform", name: str) -> None:
        self._platform = platform
        self.name = name

    def __repr__(self) -> str:
        return shown.or_the_fault(lambda: shown.as_text(self._title(), self._rows()))

    def _repr_html_(self) -> str:
        return shown.or_the_fault(lambda: shown.as_html(self._title(), self._rows()), html=True)

    @property
    def view(self) -> "View":
        """As the engine describes it."""
        return self._platform.features.view(self.name)

    @property
    def features(self) -> tuple[FeatureShown, ...]:
        """One row for each feature, with what it is made of and who reads it.

        Raises:
            UnavailableError: The object store does not answer.
        """
        view, lineage = self.view, self._platform.sources.lineage(self.name)
        readers_ = readers(self._platform, self.name, view.features)
        found: list[FeatureShown] = []
        for name, kind in view.columns:
            said = view.header.features.get(name)
            parts = lineage.columns.get(name)
            found.append(
                FeatureShown(
                    feature=name,
                    type=type_name(kind),
                    missing=missing_as(said),
                    made_of=None if parts is None else tuple(map(str, parts)),
                    used_by=reader_names([one for one in readers_ if name in one.features], view.project),
                    description=said.description if said else "",
                )
            )
        return tuple(found)

    def show(self) -> dict[str, Any]:
        """Everything about the view, as ``tow features show`` prints it.

        Raises:
            ProjectError: The engine refuses the view.
            UnavailableError: A store does not answer.
        """
        platform, view, header = self._platform, self.view, self.view.header
        seen = recall(platform.objects, view.project, self.name, SeenView)
        features, lineage = self.features, platform.sources.lineage(self.name)
        ill = platform.sources.ill([self.name])
        rows, unknown = RowCounts(platform).of(view)
        return {
            "view": self.name,
            "description": header.description,
            "owner": header.owner,
            "state": state_of(view, seen, platform.now()),
            "entity": dict(zip(header.keys, map(type_name, view.key_types), strict=True)),
            "event_time": header.event_time,
            "created_time": header.created_time,
            "ttl": header.ttl,
            "schedule": header.schedule,
            "published": header.publish,
            "rows_online": rows,
            "rows_unknown": unknown,
            "newest_event_time": seen.newest_event_time if seen else None,
            "last_build": seen.built_at if seen else None,
            "tables": lineage.tables,
            "rows_decided_by": None if lineage.rows is None else tuple(map(str, lineage.rows)),
            "ill_sources": tuple(str(one) for one in ill),
            "used_by": tuple(dict.fromkeys(name for one in features for name in one.used_by)),
            "features": features,
        }

    def _title(self) -> str:
        header = self._platform.project.views[self.name].header
        said = f": {header.description}" if header.description else ""
        return f"View {self.name} by {', '.join(header.keys)}{said}"

    def _rows(self) -> list[dict[str, object]]:
        return [
            {
                "feature": one.feature,
                "type": one.type,
                "missing": one.missing,
                "made of": "unknown" if one.made_of is None else one.made_of,
                "used by": one.used_by,
            }
            for one in self.features
        ]


def standing(platform: "Platform", view: "View") -> dict[str, Any]:
    """What the last build of a view left behind: how fresh it is, and how it stands."""
    seen = recall(platform.objects, view.project, view.name, SeenView)
    return {
        "newest_event_time": seen.newest_event_time if seen else None,
        "built_at": seen.built_at if seen else None,
        "state": state_of(view, seen, platform.now()),
    }


def state_of(view: "View", seen: SeenView | None, now: datetime) -> str:
    """How a view stands, in a word or two."""
    if not view.header.online:
        return "never online" if seen is None else "no longer online"
    if seen is None:
        return "not built"
    newest, ttl = seen.newest_event_time, view.header.ttl
    if newest is not None and ttl and now - newest > duration(ttl):
        return "expired"
    return "built" if seen.fingerprint == view.fingerprint else "changed since its build"


class RowCounts:
    """How many rows of views are online; of a store that did not answer once nothing is asked again.

    Args:
        platform: Whose store.
    """

    def __init__(self, platform: "Platform") -> None:
        self._platform = platform
        self._away: UnavailableError | None = None

    def of(self, view: "View") -> tuple[int | None, str]:
        """Rows in the table that readers are sent to; or None, and why nobody knows.

        Args:
            view: Of this project, or one that another published.
        """
        from towpath.features import rows_table

        try:
            if self._away is None:
                online = self._platform.online_glance
                return online.count(rows_table(online, view.table)), ""
        except UnavailableError as error:
            self._away = error
        except TowpathError as error:
            return None, error.what
        assert self._away is not None
        return None, f"{self._away.what.rstrip('.')}: {self._away.where}"


def missing_as(said: "FeatureDeclaration | FeatureColumn | None") -> str:
    """What a missing value becomes, in a word or two."""
    if said is None:
        return "null"
    return f"default {said.default}" if said.missing == "default" else said.missing


def reader_names(read: "Sequence[Reader]", own: str) -> tuple[str, ...]:
    """``demand@3 (champion), 2, 1``: one text for each model, its versions newest first.

    Args:
        read: Who reads a view or a feature.
        own: The project whose models are named without it.
    """
    found: dict[str, list[str]] = {}
    for one in read:
        called = one.model if one.project == own else f"{one.project}/{one.model}"
        said = "not trained" if one.version is None else f"{one.version}{' (champion)' if one.champion else ''}"
        found.setdefault(called, []).append(said)
    return tuple(
        f"{model} (not trained)" if versions == ["not trained"] else f"{model}@{', '.join(versions)}"
        for model, versions in found.items()
    )

"""Who reads a view: the models of the whole fleet, version by version, as their manifests say."""

from typing import TYPE_CHECKING

import msgspec

from towpath.errors import TowpathError

if TYPE_CHECKING:
    from towpath.platform.opened import Platform

__all__ = ["Reader", "readers"]


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model, or a model that is declared and not trained yet, and what it reads of a view."""

    model: str
    project: str
    version: int | None
    """None where it stands in ``model.toml`` and was never trained."""
    champion: bool = False
    features: tuple[str, ...]
    """Of the view, by their own name."""
    fingerprint: str = ""
    """Which form of the view it reads."""

    @property
    def said(self) -> str:
        """``demand@3 (champion)``; with the project before it where that is another one, which the caller knows."""
        if self.version is None:
            return f"{self.model} (not trained)"
        return f"{self.model}@{self.version}{' (champion)' if self.champion else ''}"


def readers(platform: "Platform", view: str, features: tuple[str, ...]) -> tuple[Reader, ...]:
    """Every version in the fleet that was trained on a view, the newest first in each model.

    Args:
        platform: Whose project has the view, or reads it from another project.
        view: Its name; ``project/view`` for another project's.
        features: Of the view, for ``view.*`` in the declaration of a model that has no version.

    Raises:
        UnavailableError: The store does not answer.
    """
    from towpath.registry import claims, history, versions

    own = platform.settings.project.name
    project, _, bare = view.rpartition("/")
    owner = (project or own, bare)
    found: list[Reader] = []
    for model in claims.models(platform.objects):
        entry = history.current(platform.objects, model)
        champion = entry.state.champion if entry else None
        for number in sorted(versions.versions(platform.objects, model), reverse=True):
            try:
                manifest = versions.manifest(platform.objects, model, number, None)
            except TowpathError:  # a version that cannot be read is the matter of those who serve it
                continue
            found += [
                Reader(
                    model=model,
                    project=manifest.project,
                    version=number,
                    champion=number == champion,
                    features=tuple(column.name for column in kept.columns),
                    fingerprint=kept.fingerprint,
                )
                for kept in manifest.features
                if (kept.project, kept.view) == owner
            ]
    trained = {reader.model for reader in found}
    for name, model in platform.project.models.items():
        asked = [feature.partition(".") for feature in model.declaration.features]
        wanted = {f for v, _, f in asked if v.removeprefix(f"{own}/") == view}
        if wanted and name not in trained:
            read = tuple(f for f in features if f in wanted or "*" in wanted)
            found.append(Reader(model=name, project=own, version=None, features=read))
    return tuple(found)

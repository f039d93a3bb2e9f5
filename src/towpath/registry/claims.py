"""Who owns a name: models and published feature views belong to the project that claimed them first."""

from datetime import datetime, timedelta

import msgspec

from towpath.clock import Clock
from towpath.errors import ConflictError, RefusedError, UnknownError, nearest
from towpath.models.manifest import FeatureLock
from towpath.registry.stored import decode, encode
from towpath.stores.objects import Objects

__all__ = [
    "Claim",
    "PublishedView",
    "claim_model",
    "claim_view",
    "models",
    "owner",
    "publish_view",
    "published_view",
    "published_views",
    "refuse_taken",
]

SCHEMA = 1


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """``models/<name>/claim.json`` and ``features/<project>/<view>/claim.json``, create-only."""

    schema: int = SCHEMA
    project: str
    """Whose name it is."""
    team: str
    """That project's team on the day of the claim."""
    claimed_at: datetime
    by: str


class PublishedView(msgspec.Struct, frozen=True, kw_only=True):
    """``features/<project>/<view>/published/<fingerprint>.json``: what another project needs to read the view."""

    schema: int = SCHEMA
    project: str
    team: str
    view: str
    published_at: datetime
    """When this fingerprint became current, last."""
    by: str
    lock: FeatureLock
    """Keys, ttl and every column of the view; ``lock.sql`` is its file, whole."""


def claim_model(objects: Objects, model: str, *, project: str, team: str, by: str, clock: Clock) -> Claim:
    """Take a model's name for a project, or find that the project has it already.

    Args:
        objects: The fleet's store.
        model: The name.
        project: Who wants it.
        team: Who answers for the project.
        by: The person or job that asks.
        clock: Says when.

    Raises:
        RefusedError: Another project has it; the text names that project and its team.
    """
    claim = Claim(project=project, team=team, claimed_at=clock.now(), by=by)
    return _claimed(objects, f"models/{model}/claim.json", claim, f"The model name '{model}'")


def refuse_taken(objects: Objects, model: str, *, project: str) -> None:
    """Refuse early what `claim_model` would refuse, and claim nothing: a training that fails takes no name.

    Raises:
        RefusedError: Another project has it; the text names that project and its team.
    """
    path = f"models/{model}/claim.json"
    if objects.exists(path):
        _refuse_foreign(decode(objects.get(path), Claim, path), f"The model name '{model}'", project, objects, path)


def owner(objects: Objects, model: str) -> Claim:
    """Who owns a model's name.

    Raises:
        UnknownError: Nobody claimed it; the nearest name is offered.
    """
    path = f"models/{model}/claim.json"
    try:
        return decode(objects.get(path), Claim, path)
    except UnknownError:
        raise UnknownError(
            f"There is no model '{model}'{nearest(model, models(objects))}", objects.url, "tow models"
        ) from None


def models(objects: Objects) -> list[str]:
    """Names of all models of the fleet, sorted."""
    return objects.folders("models/")


def claim_view(objects: Objects, project: str, view: str, *, team: str, by: str, clock: Clock) -> Claim:
    """Take the name of a view or an on-demand feature that a project publishes, or find that it has it already.

    Args:
        objects: The fleet's store.
        project: Who wants it.
        view: The name.
        team: Who answers for the project.
        by: The person or job that asks.
        clock: Says when.

    Raises:
        RefusedError: Another project has it.
    """
    claim = Claim(project=project, team=team, claimed_at=clock.now(), by=by)
    return _claimed(objects, f"features/{project}/{view}/claim.json", claim, f"The view name '{project}/{view}'")


def publish_view(objects: Objects, lock: FeatureLock, *, team: str, by: str, clock: Clock) -> PublishedView:
    """Let other projects read a view; the same view again is no new publication.

    Args:
        objects: The fleet's store.
        lock: The view as it stands, with all its columns and its SQL.
        team: Who answers for the project.
        by: The person or job that publishes.
        clock: Says when.

    Raises:
        RefusedError: The view's name belongs to another project.
    """
    folder, now = f"features/{lock.project}/{lock.view}", clock.now()
    claim_view(objects, lock.project, lock.view, team=team, by=by, clock=clock)
    standing = _newest(objects, folder)
    if standing is not None and standing.lock == lock:
        return standing
    if standing is not None:  # clocks that stand still, or disagree, never hide the newer form
        now = max(now, standing.published_at + timedelta(microseconds=1))
    published = PublishedView(project=lock.project, team=team, view=lock.view, published_at=now, by=by, lock=lock)
    # A view that returns to an earlier form becomes current again, so this one object may be replaced.
    objects.put(f"{folder}/published/{lock.fingerprint}.json", encode(published))
    return published


def published_view(objects: Objects, project: str, view: str, *, fingerprint: str | None = None) -> PublishedView:
    """Read another project's view.

    Args:
        objects: The fleet's store.
        project: Whose view.
        view: Its name.
        fingerprint: The form that a version was trained on; the current form unless given.

    Raises:
        UnknownError: It was not published, or not in that form; the nearest name is offered.
    """
    folder = f"features/{project}/{view}"
    if fingerprint is not None:
        path = f"{folder}/published/{fingerprint}.json"
        return decode(objects.get(path), PublishedView, path)
    found = _newest(objects, folder)
    if found is None:
        parts = [path.split("/") for path in objects.paths("features/")]
        known = {f"{part[1]}/{part[2]}" for part in parts if part[3:4] in (["published"], ["functions"])}
        raise UnknownError(
            f"There is no published view '{project}/{view}'{nearest(f'{project}/{view}', known)}",
            objects.url,
            f"its owner sets publish = true in features/{view}.sql or .py and runs tow features build",
        )
    return found


def published_views(objects: Objects) -> list[tuple[str, str]]:
    """``(project, view)`` of all published views of the fleet, sorted."""
    parts = [path.split("/") for path in objects.paths("features/")]
    return sorted({(part[1], part[2]) for part in parts if len(part) == 5 and part[3] == "published"})  # noqa: PLR2004 - features/project/view/published/file


def _newest(objects: Objects, folder: str) -> PublishedView | None:
    found = [decode(objects.get(path), PublishedView, path) for path in objects.paths(f"{folder}/published/")]
    return max(found, key=lambda view: view.published_at, default=None)


def _claimed(objects: Objects, path: str, claim: Claim, name: str) -> Claim:
    try:
        objects.put_new(path, encode(claim))
    except ConflictError:
        standing = decode(objects.get(path), Claim, path)
        _refuse_foreign(standing, name, claim.project, objects, path)
        return standing
    return claim


def _refuse_foreign(standing: Claim, name: str, project: str, objects: Objects, path: str) -> None:
    if standing.project != project:
        raise RefusedError(
            f"{name} belongs to project '{standing.project}' of team '{standing.team}', "
            f"claimed by {standing.by} on {standing.claimed_at:%Y-%m-%d}; '{project}' cannot have it.",
            f"{objects.url}, {path}",
            "choose another name, or ask that team",
        )

"""On-demand features across projects: published with their code, used as ``project/name`` where the key is trusted."""

from typing import TYPE_CHECKING

from towpath import features as room
from towpath.errors import RefusedError
from towpath.project.on_demand import TIME, OnDemandFile, OnDemandHeader, OnDemandInput, OnDemandOutput, unpublished

if TYPE_CHECKING:
    from towpath.features import Built, OnDemandInputLock
    from towpath.platform.opened import Platform
    from towpath.registry.functions import PublishedFunction

__all__ = ["borrowed", "publish"]

HOME = "_published"
"""Folder of a version's code.zip that holds the code of other projects, each in a folder of its own."""


def borrowed(platform: "Platform", name: str) -> OnDemandFile | None:
    """Another project's on-demand feature as a file of this one; none where nothing of that name was published.

    Args:
        platform: Whose keys are trusted.
        name: ``project/name``.

    Raises:
        RefusedError: It is signed by nobody whom this project trusts, or is not what was signed.
    """
    from pathlib import Path

    from towpath.models import unpack_code
    from towpath.registry import functions

    project, _, bare = name.partition("/")
    if not functions.is_function(platform.objects, project, bare):
        return None
    published, code = functions.published_function(platform.objects, project, bare, platform.trusted)
    home = f"{HOME}/{project}"
    path = f"{home}/{published.lock.path}"
    return OnDemandFile(
        name=name,
        path=path,
        file=Path(path),
        header=_header(published, platform.settings.project.name),
        arguments=tuple(one.name for one in published.lock.inputs),
        line=1,
        files={f"{home}/{inner}": data for inner, data in unpack_code(code).items()},
    )


def publish(platform: "Platform", name: str) -> "Built":
    """Let other projects use an on-demand feature of this one as its file stands.

    Args:
        platform: Whose it is.
        name: Of the file, which says ``publish = true``.

    Raises:
        RefusedError: It reads a view or a function of the project that is not published, so that nobody else could ask for it.
    """
    from towpath.models import pack_code
    from towpath.registry import functions

    project, settings = platform.project, platform.settings.project
    file = project.on_demand[name]
    known = {name: one.header.publish for name, one in (*project.views.items(), *project.on_demand.items())}
    for argument, view in unpublished(file.header, settings.name, known).items():
        raise RefusedError(
            f"'{name}' is published and reads '{file.header.inputs[argument].type}', which is not.",
            file.path,
            f"publish = true in features/{view}{'.sql' if view in project.views else '.py'}, or another '{argument}'",
        )
    asked = platform.features.split([f"{name}.*"])
    locks = room.lock_on_demand(asked.files, platform.features.locks(asked.features), settings.name)
    published = functions.publish_function(
        platform.objects,
        next(lock for lock in locks if lock.view == name),
        pack_code(platform.folder, None, [file.file]),
        team=settings.team,
        by=platform.who,
        clock=platform.clock,
        signer=platform.signer,
    )
    platform.trust_again()  # the first signature may have made the key
    return room.Built(
        rows=0,
        entities=0,
        seconds=0.0,
        newest_event_time=None,
        at=platform.clock.now(),
        work="nothing",
        because=f"published as {published.number}; it is computed when it is asked for",
    )


def _header(published: "PublishedFunction", own: str) -> OnDemandHeader:
    """As if it stood here: what it reads of its own project is called as others call it."""
    lock = published.lock
    return OnDemandHeader(
        inputs={
            one.name: OnDemandInput(type=_read(one, published.project, own), required=one.required)
            for one in lock.inputs
        },
        outputs={
            one.name: OnDemandOutput(type=_declared(one.type), default=one.default, missing=one.missing)  # pyright: ignore[reportArgumentType] - as it was declared
            for one in lock.columns
        },
        budget_ms=lock.budget_ms,
        owner=published.team,
        description=f"Published by {published.by} for {published.project}",
        publish=True,
    )


def _read(one: "OnDemandInputLock", project: str, own: str) -> str:
    if one.reads in ("request", TIME):
        return _declared(one.type) if one.reads == "request" else TIME
    whole = one.reads if "/" in one.reads else f"{project}/{one.reads}"
    return whole.removeprefix(f"{own}/")


def _declared(kind: str) -> str:
    """Arrow's name of a type as headers say it."""
    return "timestamp" if kind.startswith("timestamp") else kind

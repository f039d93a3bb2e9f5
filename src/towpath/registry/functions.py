"""On-demand features that a project lets others use: code in the store, signed, numbered, whole."""

from datetime import datetime

import msgspec

from towpath.clock import Clock
from towpath.errors import RefusedError, UnknownError, nearest
from towpath.models.manifest import OnDemandLock, StoredFile
from towpath.registry.claims import claim_view
from towpath.registry.signing import Signer, Trusted
from towpath.registry.stored import decode, digest_of, encode, put_once
from towpath.stores.objects import Objects

__all__ = ["PublishedFunction", "is_function", "publish_function", "published_function", "published_functions"]

SCHEMA = 1
_SEAL = ".sig"


class PublishedFunction(msgspec.Struct, frozen=True, kw_only=True):
    """``features/<project>/<name>/functions/000001.json``, signed; the code is beside it, by digest."""

    schema: int = SCHEMA
    project: str
    team: str
    view: str
    """Its name, which is the function's too."""
    number: int
    """Counts from 1; the highest is the current one."""
    published_at: datetime
    by: str
    lock: OnDemandLock
    """What it reads and gives, in the words of its own project."""
    code: StoredFile
    """A zip of the file and the modules that it imports."""


def publish_function(
    objects: Objects, lock: OnDemandLock, code: bytes, *, team: str, by: str, clock: Clock, signer: Signer
) -> PublishedFunction:
    """Let other projects use an on-demand feature; the same code and header again are no new publication.

    Args:
        objects: The fleet's store.
        lock: As it stands.
        code: Its file and what that imports, packed.
        team: Who answers for the project.
        by: The person or job that publishes.
        clock: Says when.
        signer: Whose signature others check before the code runs.

    Raises:
        RefusedError: The name belongs to another project.
        ConflictError: Somebody published another form in the same moment.
    """
    claim_view(objects, lock.project, lock.view, team=team, by=by, clock=clock)
    numbers = _numbers(objects, lock.project, lock.view)
    folder, digest = _folder(lock.project, lock.view), digest_of(code)
    if numbers:
        path = _path(lock.project, lock.view, numbers[-1])
        standing = decode(objects.get(path), PublishedFunction, path)
        if (standing.lock, standing.code.digest) == (lock, digest):
            return standing
    number = numbers[-1] + 1 if numbers else 1
    stored = StoredFile(path=f"{digest.removeprefix('sha256:')}.zip", digest=digest, size_bytes=len(code))
    put_once(objects, f"{folder}/{stored.path}", code)
    published = PublishedFunction(
        project=lock.project,
        team=team,
        view=lock.view,
        number=number,
        published_at=clock.now(),
        by=by,
        lock=lock,
        code=stored,
    )
    data, path = encode(published), _path(lock.project, lock.view, number)
    put_once(objects, path + _SEAL, signer.seal(data))
    put_once(objects, path, data)
    return published


def published_function(objects: Objects, project: str, name: str, trusted: Trusted) -> tuple[PublishedFunction, bytes]:
    """The current form of another project's on-demand feature, and its code, both checked before anything of it runs.

    Args:
        objects: The fleet's store.
        project: Whose it is.
        name: Of the function.
        trusted: Whose signatures count.

    Raises:
        UnknownError: It was not published; the nearest name is offered.
        RefusedError: The signature is missing, not trusted or does not fit, or the code is not what was signed.
    """
    numbers = _numbers(objects, project, name)
    if not numbers:
        known = [f"{owner}/{one}" for owner, one in published_functions(objects)]
        raise UnknownError(
            f"There is no published function '{project}/{name}'{nearest(f'{project}/{name}', known)}",
            objects.url,
            f"its owner sets publish = true in features/{name}.py and runs tow features build",
        )
    path = _path(project, name, numbers[-1])
    data = objects.get(path)
    try:
        seal = objects.get(path + _SEAL)
    except UnknownError:
        raise RefusedError(f"'{path}' is not signed.", objects.url, "its owner publishes it again") from None
    trusted.verify(data, seal, path)
    published = decode(data, PublishedFunction, path)
    code = objects.get(f"{_folder(project, name)}/{published.code.path}")
    if (published.project, published.view) != (project, name) or digest_of(code) != published.code.digest:
        raise RefusedError(
            f"The code of '{project}/{name}' is not what was signed.", path, "find out who wrote to the store"
        )
    return published, code


def is_function(objects: Objects, project: str, name: str) -> bool:
    """Whether a project published an on-demand feature of that name."""
    return bool(_numbers(objects, project, name))


def published_functions(objects: Objects) -> list[tuple[str, str]]:
    """``(project, name)`` of all published on-demand features of the fleet, sorted."""
    parts = [path.split("/") for path in objects.paths("features/") if path.endswith(".json")]
    return sorted({(part[1], part[2]) for part in parts if len(part) == 5 and part[3] == "functions"})  # noqa: PLR2004 - features/project/name/functions/file


def _folder(project: str, name: str) -> str:
    return f"features/{project}/{name}/functions"


def _path(project: str, name: str, number: int) -> str:
    return f"{_folder(project, name)}/{number:06d}.json"


def _numbers(objects: Objects, project: str, name: str) -> list[int]:
    files = (path.rpartition("/")[2] for path in objects.paths(f"{_folder(project, name)}/"))
    return sorted(int(file.removesuffix(".json")) for file in files if file.endswith(".json"))

"""Last seen: which key called when, gathered in each worker and written now and then, never for a request."""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from towpath.errors import TowpathError
from towpath.stores.objects import Objects

__all__ = ["Seen", "SeenKey", "SeenWriter", "last_seen"]

_log = logging.getLogger("towpath.traffic")
_FOLDER = "seen/"
_EVERY = timedelta(minutes=1)
_STALE = timedelta(days=1)


class SeenKey(msgspec.Struct, frozen=True, kw_only=True):
    """When one key was last used."""

    consumer: str
    key: str
    at: datetime


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """``seen/<server>.json``: what one worker saw; of several the newest time counts, so that files may be folded together."""

    schema: int = 1
    server: str
    written_at: datetime
    keys: tuple[SeenKey, ...]


class SeenWriter:
    """Writes what this worker saw, at most once a minute.

    Args:
        objects: The fleet's store.
        server: Name of this worker.
    """

    def __init__(self, objects: Objects, server: str) -> None:
        self._objects = objects
        self._server = server
        self._at: dict[tuple[str, str], datetime] = {}
        self._written_at: datetime | None = None
        self._changed = False
        self._complained = False

    def note(self, consumer: str, key: str, at: datetime) -> None:
        """This key was used."""
        self._at[consumer, key] = at
        self._changed = True

    def write(self, now: datetime, *, last: bool = False) -> None:
        """Write, if there is something new and the last time is long enough ago.

        Args:
            now: The present moment.
            last: Whether the worker ends, and a minute is not waited for.
        """
        if not self._changed or (not last and self._written_at is not None and now - self._written_at < _EVERY):
            return
        folded: list[str] = []
        try:
            if self._written_at is None:
                folded = self._fold(now)
            keys = tuple(SeenKey(consumer=c, key=k, at=at) for (c, k), at in sorted(self._at.items()))
            seen = Seen(server=self._server, written_at=now, keys=keys)
            self._objects.put(_path(self._server), msgspec.json.encode(seen))
            for path in folded:
                self._objects.delete(path)
        except (TowpathError, OSError) as error:
            if not self._complained:
                _log.warning("when keys were last used is not written: %s", error)
            self._complained = True
        self._changed, self._written_at = False, now

    def _fold(self, now: datetime) -> list[str]:
        """Take over what servers left behind that are gone, and what this one wrote before it was started again."""
        gone: list[str] = []
        for path, seen in _all(self._objects).items():
            own = path == _path(self._server)
            if not own and now - seen.written_at < _STALE:
                continue
            for one in seen.keys:
                before = self._at.get((one.consumer, one.key))
                self._at[one.consumer, one.key] = one.at if before is None else max(before, one.at)
            if not own:
                gone.append(path)
        return gone


def last_seen(objects: Objects) -> Mapping[tuple[str, str], datetime]:
    """(Consumer, id of its key) → when it was last used, about a minute late.

    Raises:
        UnavailableError: The store cannot be read.
    """
    found: dict[tuple[str, str], datetime] = {}
    for seen in _all(objects).values():
        for one in seen.keys:
            name = (one.consumer, one.key)
            found[name] = max(one.at, found.get(name, one.at))
    return found


def _path(server: str) -> str:
    return f"{_FOLDER}{server}.json"


def _all(objects: Objects) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    for path in objects.paths(_FOLDER):
        try:
            found[path] = msgspec.json.decode(objects.get(path), type=Seen)
        except (msgspec.DecodeError, TowpathError):
            continue
    return found

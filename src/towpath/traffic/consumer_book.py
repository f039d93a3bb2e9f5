"""The book of consumers: added, changed, rotated and revoked, each as one more create-only entry in the store."""

import logging
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from towpath.errors import ConflictError, InputError, RefusedError, UnknownError, nearest
from towpath.stores.objects import Objects
from towpath.traffic.consumer import (
    LOCAL,
    Consumer,
    ConsumerKey,
    ConsumerV1,
    Quota,
    Sla,
    key_digest,
    new_key,
    pepper_id,
)

__all__ = ["ConsumerBook"]

_log = logging.getLogger("towpath.traffic")
_FOLDER = "consumers/"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_TAKEN = {LOCAL, "other", "unknown"}
"""Names that metrics and the journal use for somebody else."""
_OVERLAP = timedelta(days=7)
_LIVE = 2
_KEPT = timedelta(days=90)
"""How long a key that opens nothing any more is still shown."""
_ATTEMPTS = 20


class ConsumerBook:
    """The consumers of one fleet as they are stored.

    Args:
        objects: The fleet's object store.
        pepper: What keys are hashed with; whoever only reads needs none.

    Example:
        >>> from datetime import UTC
        >>> book = ConsumerBook(Objects("memory://"), b"a secret beside the store")
        >>> key = book.add("brand-a", team="brand", at=datetime(2026, 1, 1, tzinfo=UTC))
        >>> key[:4], book.get("brand-a").scopes
        ('tow_', ('predict', 'outcomes'))
    """

    def __init__(self, objects: Objects, pepper: bytes = b"") -> None:
        self._objects = objects
        self._pepper = pepper
        self._read: dict[str, Consumer | None] = {}

    def all(self) -> Mapping[str, Consumer]:
        """Name → the consumer as its newest entry says; entries never change, so each is read once.

        Raises:
            UnavailableError: The store cannot be read.
        """
        newest: dict[str, str] = {}
        for path in self._objects.paths(_FOLDER):  # sorted, so that the highest number comes last
            name = path.removeprefix(_FOLDER).partition("/")[0].removesuffix(".json")
            if "/" in path.removeprefix(_FOLDER) or name not in newest:
                newest[name] = path
        self._read = {path: self._read[path] for path in newest.values() if path in self._read}
        for path in newest.values():
            if path not in self._read:
                self._read[path] = self._decoded(path)
        found = {name: self._read[path] for name, path in sorted(newest.items())}
        return {name: consumer for name, consumer in found.items() if consumer is not None}

    def get(self, name: str) -> Consumer:
        """One consumer.

        Raises:
            UnknownError: There is none of that name; the text offers the nearest.
        """
        known = self.all()
        if name not in known:
            raise UnknownError(f"There is no consumer '{name}'{nearest(name, known)}", mend="tow consumers lists them")
        return known[name]

    def add(
        self,
        name: str,
        *,
        team: str,
        at: datetime,
        by: str = "",
        models: tuple[str, ...] = (),
        scopes: tuple[str, ...] = ("predict", "outcomes"),
        quota: Quota | None = None,
        sla: Sla | None = None,
        lifetime: timedelta | None = None,
    ) -> str:
        """Make a consumer and its first key.

        Args:
            name: Lower case, digits, underscores and hyphens; stands in the journal and in metrics.
            team: Who answers for it.
            at: Now.
            by: Who adds it.
            models: Which ones it may call; all unless given.
            scopes: What it may do.
            quota: How much; without limit unless given.
            sla: What is promised.
            lifetime: After which the key expires; never unless given.

        Returns:
            The key; it is shown this once.

        Raises:
            InputError: The name is none.
            RefusedError: There is a consumer of that name, or the fleet's keys were made with another pepper.
        """
        if _NAME.fullmatch(name) is None or name in _TAKEN:
            raise InputError(
                f"'{name}' is no name of a consumer.",
                mend=f"lower case letters, digits, '-' and '_', a letter first; not {', '.join(sorted(_TAKEN))}",
            )
        known = self.all()
        self._check_pepper(known)
        if name in known:
            raise RefusedError(f"There is a consumer '{name}' already.", mend=f"tow consumers rotate {name}")
        key, made = self._made(at, lifetime)
        consumer = Consumer(
            name=name,
            team=team,
            keys=(made,),
            models=models,
            scopes=scopes,
            quota=quota or Quota(),
            sla=sla or Sla(),
            created_at=at,
            created_by=by,
            changed_at=at,
            changed_by=by,
        )
        try:
            self._objects.put_new(_path(consumer), msgspec.json.encode(consumer))
        except ConflictError:
            raise RefusedError(f"There is a consumer '{name}' already.", mend="choose another name") from None
        return key

    def change(self, name: str, *, at: datetime, by: str = "", **fields: object) -> Consumer:
        """Change team, models, scopes, quota or SLA; the keys stay.

        Raises:
            UnknownError: There is no such consumer.
            RefusedError: Somebody else changed it at the same time.
        """
        return self._next(name, lambda before: replace(before, change="changed", **fields), at=at, by=by)

    def rotate(
        self,
        name: str,
        *,
        at: datetime,
        by: str = "",
        overlap: timedelta = _OVERLAP,
        lifetime: timedelta | None = None,
    ) -> tuple[str, Consumer]:
        """Make a new key; the old one goes on for the overlap, so that nobody's calls fail while it is replaced.

        Args:
            name: Of the consumer.
            at: Now.
            by: Who rotates.
            overlap: How long the old key still opens the door.
            lifetime: Of the new key; that of the old one unless given.

        Returns:
            The new key, shown this once, and the consumer.

        Raises:
            UnknownError: There is no such consumer.
            RefusedError: Two keys are live already, or somebody else changed it at the same time.
        """
        self._check_pepper(self.all())
        live = [key for key in self.get(name).keys if key.live(at)]
        if overlap and len(live) >= _LIVE:
            until = min((key.expires_at for key in live if key.expires_at is not None), default=None)
            raise RefusedError(
                f"'{name}' has two live keys already, one of them until {until:%Y-%m-%d %H:%M}."
                if until
                else f"'{name}' has two live keys already.",
                mend=f"tow consumers rotate {name} --overlap 0s ends both at once",
            )
        newest = live[-1] if live else None
        if lifetime is None and newest is not None and newest.expires_at is not None:
            lifetime = newest.expires_at - newest.created_at
        key, made = self._made(at, lifetime)

        def turned(before: Consumer) -> Consumer:
            ends = at + overlap
            old = tuple(
                replace(k, expires_at=ends if k.expires_at is None else min(k.expires_at, ends)) if k.live(at) else k
                for k in before.keys
            )
            return replace(before, keys=(*old, made), change="rotated")

        return key, self._next(name, turned, at=at, by=by)

    def revoke(self, name: str, *, at: datetime, by: str = "", key: str | None = None) -> Consumer:
        """End one key, or all of them; servers follow with their next poll.

        Raises:
            UnknownError: There is no such consumer, or it has no such key.
        """
        ids = [one.id for one in self.get(name).keys]
        if key is not None and key not in ids:
            raise UnknownError(f"'{name}' has no key '{key}'{nearest(key, ids)}", mend=f"tow consumers show {name}")

        def revoked(before: Consumer) -> Consumer:
            keys = tuple(
                replace(k, revoked_at=at) if k.revoked_at is None and key in {None, k.id} else k for k in before.keys
            )
            return replace(before, keys=keys, change="revoked")

        return self._next(name, revoked, at=at, by=by, commutes=True)

    def _next(
        self,
        name: str,
        change: Callable[[Consumer], Consumer],
        *,
        at: datetime,
        by: str,
        commutes: bool = False,
    ) -> Consumer:
        for _ in range(_ATTEMPTS):
            before = self.get(name)
            after = change(before)
            kept = tuple(key for key in after.keys if _ended(key) is None or at - (_ended(key) or at) < _KEPT)
            after = replace(
                after,
                schema=2,
                revision=before.revision + 1,
                changed_at=at,
                changed_by=by,
                keys=kept or after.keys[-1:],
            )
            try:
                self._objects.put_new(_path(after), msgspec.json.encode(after))
            except ConflictError:
                if commutes:
                    continue
                raise RefusedError(
                    f"Somebody else changed '{name}' at the same time.", mend=f"tow consumers show {name}, then again"
                ) from None
            return after
        raise ConflictError(f"'{name}' was changed by others at each of {_ATTEMPTS} attempts.", mend="try again")

    def _made(self, at: datetime, lifetime: timedelta | None) -> tuple[str, ConsumerKey]:
        key, made = new_key()
        expires_at = at + lifetime if lifetime is not None else None
        digest, pepper = key_digest(key, self._pepper), pepper_id(self._pepper)
        return key, ConsumerKey(id=made, hmac_sha256=digest, pepper=pepper, created_at=at, expires_at=expires_at)

    def _check_pepper(self, known: Mapping[str, Consumer]) -> None:
        """One fleet has one pepper: a key made with another would open no server's door."""
        if not self._pepper:
            raise RefusedError("There is no pepper to make a key with.", "stores.pepper", "tow consumers add makes one")
        ours = pepper_id(self._pepper)
        theirs = {key.pepper for consumer in known.values() for key in consumer.keys if key.pepper}
        if theirs and ours not in theirs:
            raise RefusedError(
                f"The keys of this fleet are made with pepper {', '.join(sorted(theirs))}; this machine has {ours}.",
                "stores.pepper",
                "copy the file 'pepper' of the folder of keys from where the consumers were added, or from a server",
            )

    def _decoded(self, path: str) -> Consumer | None:
        data = self._objects.get(path)
        try:
            if path.count("/") == 1:
                return msgspec.json.decode(data, type=ConsumerV1).whole
            return msgspec.json.decode(data, type=Consumer)
        except msgspec.DecodeError as error:  # one that cannot be read opens no door, and locks nobody else out
            _log.error("'%s' cannot be read, and its keys open nothing: %s", path, error)
            return None


def _ended(key: ConsumerKey) -> datetime | None:
    ends = [at for at in (key.revoked_at, key.expires_at) if at is not None]
    return min(ends) if ends else None


def _path(consumer: Consumer) -> str:
    return f"{_FOLDER}{consumer.name}/{consumer.revision:06d}.json"

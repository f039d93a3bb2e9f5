"""Who calls: consumers of the fleet, known by the digest of their key."""

import secrets
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest

import msgspec

from towpath.errors import ConflictError, DeniedError, RefusedError
from towpath.stores.objects import Objects

__all__ = ["LOCAL", "Consumer", "Consumers"]

LOCAL = "local"
"""The consumer of a server without keys, which therefore binds to loopback only."""
_ADDRESS = "Authorization: Bearer <key>"


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """``consumers/<name>.json``, create-only; the key itself is stored nowhere."""

    schema: int = 1
    name: str
    team: str
    key_sha256: str
    created_at: datetime
    created_by: str = ""


class Consumers:
    """The consumers of one fleet, held in memory and read again when asked to.

    Args:
        objects: The fleet's object store; none for a server that has no store.
    """

    def __init__(self, objects: Objects | None = None) -> None:
        self._objects = objects
        self._by_digest: dict[str, str] = {}
        self._by_header: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._by_digest)

    def refresh(self) -> None:
        """Read the store again.

        Raises:
            UnavailableError: The store cannot be read; what was known stays.
        """
        if self._objects is None:
            return
        found: dict[str, str] = {}
        for path in self._objects.paths("consumers/"):
            consumer = msgspec.json.decode(self._objects.get(path), type=Consumer)
            found[consumer.key_sha256] = consumer.name
        if found != self._by_digest:
            self._by_digest = found
            self._by_header = {}

    def add(self, name: str, *, team: str, at: datetime, by: str = "") -> str:
        """Make a consumer and its key.

        Returns:
            The key; it is shown this once.

        Raises:
            RefusedError: There is a consumer of that name.
        """
        if self._objects is None:
            raise RefusedError(
                "A server without a store has no consumers.", mend="serve a store: tow serve --store URL"
            )
        key = f"tow_{secrets.token_urlsafe(32)}"
        consumer = Consumer(name=name, team=team, key_sha256=_digest(key), created_at=at, created_by=by)
        try:
            self._objects.put_new(f"consumers/{name}.json", msgspec.json.encode(consumer))
        except ConflictError:
            raise RefusedError(f"There is a consumer '{name}' already.", mend="choose another name") from None
        self._by_digest[consumer.key_sha256] = name
        return key

    def name_of(self, authorization: bytes | None) -> str:
        """Name the one who calls.

        Args:
            authorization: The header's value, or none where there was no such header.

        Returns:
            The consumer's name; ``local`` where no consumers exist.

        Raises:
            DeniedError: Consumers exist and the header names none of them.

        Example:
            >>> Consumers().name_of(None)
            'local'
        """
        if not self._by_digest:
            return LOCAL
        if authorization is None:
            raise DeniedError("The request has no key.", mend=f"send {_ADDRESS}")
        # a header seen before costs one look-up; only headers that were right are kept, so nobody can fill the memory
        known = self._by_header.get(authorization)
        if known is not None:
            return known
        scheme, _, key = authorization.partition(b" ")
        digest = _digest(key.decode("latin-1").strip())
        for stored, name in self._by_digest.items():
            if compare_digest(stored, digest) and scheme.lower() == b"bearer":
                self._by_header[authorization] = name
                return name
        raise DeniedError("The key is unknown.", mend=f"send {_ADDRESS} with a key of this fleet")


def _digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()

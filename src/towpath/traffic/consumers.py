"""Who calls: the keys that open a server's door, what each may do, and how much."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from hmac import compare_digest

from towpath.errors import CallerError, DeniedError, ForbiddenError, QuotaError, RefusedError, TowpathError
from towpath.stores.objects import Objects
from towpath.traffic.consumer import LOCAL, SCOPES, Consumer, ConsumerKey, key_digest, pepper_id
from towpath.traffic.consumer_book import ConsumerBook
from towpath.traffic.quotas import Bucket, Quotas
from towpath.traffic.seen import SeenWriter

__all__ = ["Caller", "Consumers"]

_log = logging.getLogger("towpath.traffic")
_ADDRESS = "Authorization: Bearer <key>"
_WORD = {
    "predict": "ask for predictions",
    "outcomes": "hand in outcomes",
    "features": "push features",
    "manage": "manage models",
}


class Caller:
    """One key as a request meets it.

    Args:
        name: Of the consumer.
        key: Id of the key; empty for ``local``.
        scopes: What it may do.
        models: Which ones it may call; none named, all.
        requests: Its bucket of requests, where there is a quota.
        rows: Its bucket of rows, where there is a quota.
    """

    __slots__ = ("calls", "key", "models", "name", "noted", "requests", "rows", "scopes")

    def __init__(
        self,
        name: str,
        *,
        key: str = "",
        scopes: frozenset[str] = frozenset(SCOPES),
        models: frozenset[str] | None = None,
        requests: Bucket | None = None,
        rows: Bucket | None = None,
    ) -> None:
        self.name = name
        self.key = key
        self.scopes = scopes
        self.models = models
        self.requests = requests
        self.rows = rows
        self.calls = 0
        self.noted = 0

    def check(self, scope: str, model: str) -> None:
        """Refuse what this key may not do.

        Raises:
            ForbiddenError: It has not the scope, or may not call that model.
        """
        if scope not in self.scopes:
            raise ForbiddenError(
                f"The key of '{self.name}' may not {_WORD[scope]}: it has no scope '{scope}'.",
                mend=f"tow consumers change {self.name} --scope {','.join(s for s in SCOPES if s in self.scopes or s == scope)}",
            )
        if self.models is not None and model and model not in self.models:
            raise ForbiddenError(
                f"'{self.name}' may not call '{model}'.",
                mend=f"tow consumers change {self.name} --models {','.join(sorted(self.models | {model}))}",
            )

    def take_rows(self, count: int) -> None:
        """Count rows against the quota.

        Raises:
            QuotaError: They are more than is left.
        """
        if self.rows is not None:
            wait_s = self.rows.take(count)
            if wait_s:
                raise self.over(self.rows, "rows", wait_s)

    def over(self, bucket: Bucket, what: str, wait_s: float) -> QuotaError:
        """What is said to one who asked for too much."""
        return QuotaError(
            f"'{self.name}' used up its quota of {bucket.per_s:g} {what} a second.",
            mend=f"wait {wait_s:.2g} s, or ask for a larger one: tow consumers change {self.name} --quota",
            retry_after_s=wait_s,
        )


class Consumers:
    """The consumers of one fleet, held in memory and read again when asked to.

    Args:
        objects: The fleet's object store; none for a server that has no store.
        pepper: What the keys are hashed with, or a function that reads it: again, where keys need another one than was read.
        quotas: Where the buckets stand; in this process unless given.
        quota_share: Part of each quota that this server grants.
        seen: Takes when keys were used.
    """

    def __init__(
        self,
        objects: Objects | None = None,
        *,
        pepper: bytes | Callable[[], bytes] = b"",
        quotas: Quotas | None = None,
        quota_share: float = 1.0,
        seen: SeenWriter | None = None,
    ) -> None:
        self._book = ConsumerBook(objects) if objects is not None else None
        self._read_pepper = pepper if callable(pepper) else None
        self._pepper = pepper() if callable(pepper) else pepper
        self._without_pepper = ""
        self._quotas = quotas or Quotas()
        self._quota_share = quota_share
        self._seen = seen
        self._known: Mapping[str, Consumer] = {}
        self._local = Caller(LOCAL)
        self._live: frozenset[str] = frozenset()
        self._by_id: dict[str, tuple[ConsumerKey, Caller]] = {}
        self._by_header: dict[bytes | None, Caller] = {}

    @property
    def keyed(self) -> bool:
        """Whether keys are asked for: a consumer was ever added, even if its keys are revoked by now."""
        return bool(self._known)

    def refresh(self, now: datetime) -> None:
        """Let expired keys go, note which keys were used, read the store again.

        Args:
            now: The present moment.

        Raises:
            UnavailableError: The store cannot be read; what was known stays, and still expires.
        """
        if self._book is None:
            return
        self._note(now)
        self._keep_live(now)
        known = self._book.all()
        self._follow_pepper(known)
        if known != self._known:
            self._known = known
            self._keep_live(now, anew=True)

    def check_pepper(self) -> None:
        """Refuse to begin where no key could be recognised.

        Raises:
            RefusedError: There are keys that were made with a pepper that this server has not.
        """
        if fault := self._pepper_fault(self._known):
            raise fault

    def admit(self, authorization: bytes | None, scope: str, model: str = "") -> Caller:
        """Let in whoever calls, if it may do this, and count it against its quota.

        Args:
            authorization: The header's value, or none where there was no such header.
            scope: ``predict``, ``outcomes``, ``features`` or ``manage``.
            model: Which one is called; none for what belongs to no model.

        Returns:
            Who it is; ``local`` where no consumers exist.

        Raises:
            DeniedError: Consumers exist and the header names none of them.
            ForbiddenError: The key may not do this.
            QuotaError: The consumer asked too often.

        Example:
            >>> Consumers().admit(None, "predict", "demand").name
            'local'
        """
        # a header seen before costs one look-up; only headers that were right are kept, so nobody can fill the memory
        caller = self._by_header.get(authorization)
        if caller is None:
            caller = self._recognised(authorization)
        if scope not in caller.scopes or caller.models is not None:
            caller.check(scope, model)
        requests = caller.requests
        if requests is not None:
            wait_s = requests.take()
            if wait_s:
                raise caller.over(requests, "requests", wait_s)
        caller.calls += 1
        return caller

    def may(self, authorization: bytes | None, scope: str, model: str = "") -> bool:
        """Whether a header opens a door; asked beside the door, and so neither counted nor noted as seen.

        Args:
            authorization: The header's value, or none.
            scope: As for `admit`.
            model: Which one; none for all of them.
        """
        try:
            caller = self._by_header.get(authorization) or self._recognised(authorization)
            caller.check(scope, model)
        except CallerError:
            return False
        return bool(model) or caller.models is None

    def name_of(self, authorization: bytes | None) -> str:
        """Who that header belongs to, for counts and logs: empty where it was not recognised yet, or is none's."""
        if not self._known:
            return LOCAL
        caller = self._by_header.get(authorization)
        return "" if caller is None else caller.name

    def close(self, now: datetime) -> None:
        """Write down which keys were used since the last time."""
        self._note(now, last=True)

    def _recognised(self, authorization: bytes | None) -> Caller:
        # taken before the keys are looked at, and put in place after them: a key that ends meanwhile is not kept
        headers = self._by_header
        if not self._known:
            return self._local
        if authorization is None:
            raise DeniedError("The request has no key.", mend=f"send {_ADDRESS}")
        scheme, _, given = authorization.partition(b" ")
        key = given.decode("latin-1").strip()
        parts = key.split("_", 2)
        found = self._by_id.get(parts[1]) if len(parts) == 3 else None  # noqa: PLR2004 - tow_<id>_<secret>
        candidates = [found] if found is not None else [one for one in self._by_id.values() if one[0].sha256]
        if scheme.lower() == b"bearer":
            for stored, caller in candidates:
                plain = not stored.hmac_sha256
                digest = key_digest(key, b"" if plain else self._pepper)
                if compare_digest(stored.sha256 if plain else stored.hmac_sha256, digest):
                    headers[authorization] = caller
                    return caller
        raise DeniedError(
            "The key is unknown, expired or revoked.", mend=f"send {_ADDRESS} with a live key of this fleet"
        )

    def _pepper_fault(self, known: Mapping[str, Consumer]) -> RefusedError | None:
        ours = pepper_id(self._pepper) if self._pepper else "none"
        theirs = {key.pepper for consumer in known.values() for key in consumer.keys if key.pepper}
        if not theirs or ours in theirs:
            return None
        return RefusedError(
            f"The keys of the consumers are made with pepper {', '.join(sorted(theirs))}; this server has {ours}.",
            where="stores.pepper",
            mend="copy the file 'pepper' from the folder of keys where the consumers were added, or set stores.pepper",
        )

    def _follow_pepper(self, known: Mapping[str, Consumer]) -> None:
        """Read the pepper again where it opens no key: the first consumer may come, and the pepper with it, while this server runs."""
        fault: TowpathError | None = self._pepper_fault(known)
        if fault is not None and self._read_pepper is not None:
            try:
                self._pepper = self._read_pepper()
                fault = self._pepper_fault(known)
            except TowpathError as error:
                fault = error
        told = "" if fault is None else fault.what
        if told and told != self._without_pepper and self._read_pepper is not None:
            _log.error("nobody is let in: %s", fault)
        self._without_pepper = told

    def _keep_live(self, now: datetime, *, anew: bool = False) -> None:
        """Make callers of the live keys, if these are others than before; requests meet either all old or all new ones."""
        # keys from before there were ids all have the same one, and go by their digest
        named = {
            key.sha256 or key.id: (key, consumer)
            for consumer in self._known.values()
            for key in consumer.keys
            if key.live(now)
        }
        if not anew and self._live == frozenset(named):
            return
        self._live = frozenset(named)
        self._by_id = {name: (key, self._caller(key, consumer)) for name, (key, consumer) in named.items()}
        self._by_header = {}

    def _caller(self, key: ConsumerKey, consumer: Consumer) -> Caller:
        quota, part = consumer.quota, self._quota_share
        return Caller(
            consumer.name,
            key=key.id,
            scopes=frozenset(consumer.scopes),
            models=frozenset(consumer.models) if consumer.models else None,
            requests=self._quotas.requests(consumer.name, quota.requests_per_s * part)
            if quota.requests_per_s
            else None,
            rows=self._quotas.rows(consumer.name, quota.rows_per_s * part) if quota.rows_per_s else None,
        )

    def _note(self, now: datetime, *, last: bool = False) -> None:
        if self._seen is None:
            return
        for _, caller in self._by_id.values():
            if caller.calls != caller.noted:
                caller.noted = caller.calls
                self._seen.note(caller.name, caller.key, now)
        self._seen.write(now, last=last)

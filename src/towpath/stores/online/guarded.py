"""An online store that is away costs the first reader its timeout and the others nothing; it comes back by itself."""

import logging
import threading
import time
from collections.abc import Iterable, Sequence

from towpath.errors import UnavailableError
from towpath.stores.online import OnlineStore

__all__ = ["GuardedOnlineStore"]

_log = logging.getLogger("towpath.stores")
_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 1.0
_STEADY_S = 5.0
"""A store that fails again sooner than this has not healed: the next look comes twice as late as the last."""


class GuardedOnlineStore:
    """Any online store, for serving: after a read that failed, reads fail at once until the store answers again.

    Whether it does is looked at by a thread of its own, first after 20 ms, then at most a second apart, so that no request
    waits for a store that is known to be away. A single slow answer costs its neighbours those 20 ms.

    Args:
        store: What is guarded; closing this closes it.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._fault: UnavailableError | None = None
        self._since = 0.0
        self._wait_s = _FIRST_WAIT_S
        self._healed_at = 0.0
        self._changing = threading.Lock()
        self._closed = threading.Event()
        self._looking: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"GuardedOnlineStore({self._store!r})"

    @property
    def waits(self) -> bool:
        """As the store's own; not while it is away, for then nobody waits."""
        return self._store.waits and self._fault is None

    @property
    def away(self) -> bool:
        """Whether reads fail at once."""
        return self._fault is not None

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As the store's own.

        Raises:
            UnavailableError: It is away, or was when it was last looked at.
        """
        return self.read_many([(table, keys)])[0]

    def read_many(self, asked: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """As the store's own.

        Raises:
            UnavailableError: It is away, or was when it was last looked at.
        """
        fault = self._fault
        if fault is not None:
            if self._looking is None or not self._looking.is_alive():  # a fork leaves threads behind
                self._look()
            raise UnavailableError(
                f"The online store has been away for {time.monotonic() - self._since:.1f} s. {fault.what}",
                fault.where,
                fault.mend,
            )
        try:
            return self._store.read_many(asked)
        except UnavailableError as error:
            self._lost(error)
            raise

    def write(self, table: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """As the store's own: a writer would rather wait than be told that there was a fault."""
        self._store.write(table, rows)

    def tables(self) -> list[str]:
        """As the store's own."""
        return self._store.tables()

    def count(self, table: str) -> int:
        """As the store's own."""
        return self._store.count(table)

    def drop(self, table: str) -> None:
        """As the store's own."""
        self._store.drop(table)

    def close(self) -> None:
        """Look no more, and close the store."""
        self._closed.set()
        if self._looking is not None:
            self._looking.join()
        self._store.close()

    def _lost(self, error: UnavailableError) -> None:
        with self._changing:
            if self._fault is not None or self._closed.is_set():
                return
            now = time.monotonic()
            steady = now - self._healed_at > _STEADY_S
            self._wait_s = _FIRST_WAIT_S if steady else min(2 * self._wait_s, _LONGEST_WAIT_S)
            self._fault, self._since = error, now
        _log.warning("features are missing until the online store answers: %s", error.what)
        self._look()

    def _look(self) -> None:
        with self._changing:
            if self._closed.is_set() or (self._looking is not None and self._looking.is_alive()):
                return
            self._looking = threading.Thread(target=self._until_it_answers, name="towpath-online", daemon=True)
            self._looking.start()

    def _until_it_answers(self) -> None:
        while not self._closed.wait(self._wait_s):
            try:
                self._store.read("schemas", [b""])
            except UnavailableError as error:
                self._fault = error
                self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
            else:
                now = time.monotonic()
                with self._changing:
                    self._fault, self._healed_at, self._looking = None, now, None
                _log.warning("the online store answers again after %.1f s", now - self._since)
                return

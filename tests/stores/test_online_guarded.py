"""The guard around an online store: one failed read opens it, a look closes it, and nobody waits in between."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from towpath.errors import UnavailableError
from towpath.stores.online import OnlineStore, open_online
from towpath.stores.online.guarded import GuardedOnlineStore
from towpath.testing.online_store import OnlineStoreContract, value

if TYPE_CHECKING:
    from tests.conftest import RedisServer


class TestGuardedLmdb(OnlineStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[OnlineStore]:
        store = GuardedOnlineStore(open_online("lmdb://online", tmp_path))
        yield store
        store.close()


class Failing:
    """A real LMDB store whose disk fails when told to."""

    def __init__(self, folder: Path) -> None:
        self.store = open_online("lmdb://online", folder)
        self.ill = False
        self.asked = 0
        self.write, self.tables, self.count, self.drop = (
            self.store.write,
            self.store.tables,
            self.store.count,
            self.store.drop,
        )
        self.close = self.store.close

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.read_many([(table, keys)])[0]

    def read_many(self, asked: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        self.asked += 1
        if self.ill:
            raise UnavailableError("the disk fails")
        return self.store.read_many(asked)


def eventually(true: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_while_a_store_is_away_readers_do_not_ask_it_and_it_comes_back_by_itself(tmp_path: Path) -> None:
    inner = Failing(tmp_path)
    store = GuardedOnlineStore(inner)
    store.write("prices", [(b"[1]", value(1, 1, b"a"))])
    inner.ill = True
    with pytest.raises(UnavailableError, match="the disk fails"):
        store.read("prices", [b"[1]"])
    asked = inner.asked
    for _ in range(10_000):
        with pytest.raises(UnavailableError, match="has been away for"):
            store.read("prices", [b"[1]"])
    assert inner.asked - asked < 100  # looks, not reads
    inner.ill = False
    eventually(lambda: not store.away)
    assert store.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    store.close()


def test_a_store_that_fails_again_and_again_is_looked_at_less_and_less(tmp_path: Path) -> None:
    inner = Failing(tmp_path)
    store = GuardedOnlineStore(inner)
    away: list[float] = []
    for _ in range(4):
        inner.ill = True
        with pytest.raises(UnavailableError):
            store.read("prices", [b"[1]"])
        inner.ill = False
        started = time.monotonic()
        eventually(lambda: not store.away)
        away.append(time.monotonic() - started)
    assert away[3] > 0.15  # 20, 40, 80, 160 ms
    store.close()


def test_closing_ends_the_thread_that_looks(tmp_path: Path) -> None:
    inner = Failing(tmp_path)
    store = GuardedOnlineStore(inner)
    inner.ill = True
    with pytest.raises(UnavailableError):
        store.read("prices", [b"[1]"])
    assert "towpath-online" in {thread.name for thread in threading.enumerate()}
    store.close()
    assert "towpath-online" not in {thread.name for thread in threading.enumerate()}


def test_a_paused_server_costs_one_timeout_and_not_one_a_request(own_redis: "RedisServer") -> None:
    store = GuardedOnlineStore(open_online(own_redis.url(), Path(), timeout_ms=50))
    store.write("prices", [(b"[1]", value(1, 1, b"a"))])
    own_redis.pause()
    started = time.monotonic()
    for _ in range(200):
        with pytest.raises(UnavailableError):
            store.read("prices", [b"[1]"])
    assert time.monotonic() - started < 2  # 200 timeouts would be ten seconds
    own_redis.go_on()
    eventually(lambda: not store.away)
    assert store.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    store.close()

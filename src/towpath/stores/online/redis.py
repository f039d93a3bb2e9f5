"""The online store of several machines: Redis or Valkey, one hash per table, a write decided by the server."""

import os
import statistics
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
from redis.connection import Connection, parse_url
from redis.exceptions import AuthenticationError, NoPermissionError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as LateError

from towpath.errors import ProjectError, UnavailableError
from towpath.settings import masked
from towpath.stores.online import PATIENT_MS, WHOLE_BYTES, WHOLE_ROWS, Health

__all__ = ["RedisOnlineStore"]

_WRITE_S = 30.0
"""How long one part of a write may take: a server that saves or loads its data may pause."""
_FLYING = 8
"""Parts of a write that are under way at once; client and server work side by side, and memory stays bounded."""
_TAKE_S = 0.001
_KEYS = 1_000
"""Keys of one command, so that a large read does not hold up the small ones of others."""
_LOW_MEMORY_SHARE = 0.9
_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}
_OTHERS = {
    **dict.fromkeys(
        ("MOVED", "CROSSSLOT", "CLUSTERDOWN", "Hash slot not served", "hash to the same slot"), "a Redis Cluster"
    ),
    **dict.fromkeys(("unknown command 'HMGET'", "unknown command 'EVAL'"), "a Redis Sentinel"),
}
"""What a server says that is no primary standing alone → what it is."""
_OURS = ("connection_class", "prefix")
_PINGS = 20

# Redis compares strings by the locale of its machine, so the sixteen bytes are compared as four numbers. One HMGET and one
# HSET for all rows took about 1.7 µs a row of the server's time, two calls for each row 2.1 to 2.5, bytes one by one 1.8 to
# 2.6, on a busy machine; a key for each row instead of a hash a tenth more memory. EVAL, not EVALSHA: no difference beyond the
# noise, and a server that was started anew knows it.
_WRITE = b"""\
local function counts(new, old)
  local a, b, c, d = struct.unpack('>I4I4I4I4', new)
  local e, f, g, h = struct.unpack('>I4I4I4I4', old)
  if a ~= e then return a > e end
  if b ~= f then return b > f end
  if c ~= g then return c > g end
  return d >= h
end
redis.call('SADD', KEYS[2], ARGV[1])
local n = (#ARGV - 1) / 2
if n == 0 then return 0 end
local standing = redis.call('HMGET', KEYS[1], unpack(ARGV, 2, n + 1))
local put = {}
for i = 1, n do
  local new = ARGV[n + 1 + i]
  if not standing[i] or counts(new, standing[i]) then
    put[#put + 1] = ARGV[1 + i]
    put[#put + 1] = new
  end
end
if #put > 0 then redis.call('HSET', KEYS[1], unpack(put)) end
return #put / 2
"""
_DROP = b"redis.call('SREM', KEYS[2], ARGV[1]) return redis.call('UNLINK', KEYS[1])"


class RedisOnlineStore:
    """Newest feature row per entity in Redis 6 or later, or Valkey; connections are made when they are first needed.

    A read is one trip to the server, however many tables and keys it asks for. A write is decided in the server, row by row,
    so that writers of many machines may race.

    Args:
        url: ``redis://user:password@host:port/number``, with TLS ``rediss://``; ``valkey`` and ``valkeys`` are the same.
            ``?prefix=NAME`` keeps several environments apart in one database.
        folder: Of no use here; files of TLS options are as the process sees them.
        timeout_ms: When a read is given up, connecting included.

    Raises:
        ProjectError: The URL is none of Redis.
    """

    waits = True

    def __init__(self, url: str, folder: Path, *, timeout_ms: int = PATIENT_MS) -> None:  # noqa: ARG002 - the plug's arguments
        self._url = masked(url)
        options = _options(url)
        self._prefix = options.get("prefix", "towpath")
        self._timeout_s = timeout_ms / 1e3
        self._quick = _Connections(options, self._timeout_s)
        self._patient = _Connections(options, _WRITE_S)
        self._tables = f"{self._prefix}:tables".encode()

    def __repr__(self) -> str:
        return f"RedisOnlineStore({self._url!r})"

    def write(self, table: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Put rows: per key the newer stays, of equals the later; in parts of `WHOLE_ROWS`, each seen whole or not at all.

        Raises:
            UnavailableError: The server is away, full or refuses. Parts before may have landed; write again.
        """
        name, key = table.encode(), self._key(table)
        with self._errors(_WRITE_S), self._patient.borrowed() as connection:
            flying = 0
            for part in _parts(rows):
                command = (b"EVAL", _WRITE, 2, key, self._tables, name, *part.keys(), *part.values())
                connection.send_packed_command([_packed(*command)], check_health=False)
                flying += 1
                if flying == _FLYING:
                    connection.read_response()
                    flying -= 1
            for _ in range(flying):
                connection.read_response()

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """One value per key, in the order asked; None where there is none.

        Raises:
            UnavailableError: The server is away, or does not answer in time.
        """
        return self.read_many([(table, keys)])[0]

    def read_many(self, asked: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """What `read` gives for each table and its keys, in one trip.

        Raises:
            UnavailableError: The server is away, or does not answer in time.
        """
        deadline = time.monotonic() + self._timeout_s
        commands: list[bytes] = []
        places: list[int] = []
        for place, (table, keys) in enumerate(asked):
            name = self._key(table)
            for start in range(0, len(keys), _KEYS):
                commands.append(_packed(b"HMGET", name, *keys[start : start + _KEYS]))
                places.append(place)
        found: list[list[bytes | None]] = [[] for _ in asked]
        if not commands:
            return found
        with self._errors(), self._quick.borrowed() as connection:
            connection.send_packed_command([b"".join(commands)], check_health=False)
            for place in places:
                # an answer that came while this process had no core is there, and is taken
                left = max(deadline - time.monotonic(), _TAKE_S)
                found[place] += connection.read_response(disable_decoding=True, timeout=left)
        return found

    def tables(self) -> list[str]:
        """Names of all tables, sorted."""
        return sorted(name.decode() for name in self._ask(b"SMEMBERS", self._tables))

    def count(self, table: str) -> int:
        """Number of rows; 0 where there is no such table."""
        return self._ask(b"HLEN", self._key(table))

    def drop(self, table: str) -> None:
        """Remove a table and its rows; no error where there is none."""
        command = (b"EVAL", _DROP, 2, self._key(table), self._tables, table.encode())
        with self._errors(_WRITE_S), self._patient.borrowed() as connection:
            connection.send_packed_command([_packed(*command)], check_health=False)
            connection.read_response()

    def close(self) -> None:
        """Let go of the connections."""
        self._quick.close()
        self._patient.close()

    def health(self) -> Health:
        """What the server says of itself, and whether it may lose rows.

        Raises:
            UnavailableError: The server is away.
        """
        said = _information(self._ask(b"INFO"))
        with self._errors(), self._quick.borrowed() as connection:
            pings = [_ping_ms(connection) for _ in range(_PINGS)]
        limit, used = int(said.get("maxmemory", 0)), int(said.get("used_memory", 0))
        policy = said.get("maxmemory_policy", "noeviction")
        faults: list[tuple[str, str]] = []
        if limit and policy.startswith("allkeys"):
            faults.append(
                (f"'{policy}' throws features away when memory is short", "set maxmemory-policy to noeviction")
            )
        if limit and used > _LOW_MEMORY_SHARE * limit:
            faults.append((f"{used >> 20} of {limit >> 20} MiB are used", "raise maxmemory, or drop old tables"))
        if said.get("role") == "slave":
            faults.append(("this is a replica: builds cannot write", "name the primary in stores.online"))
        name, version = (
            ("Valkey", said["valkey_version"]) if "valkey_version" in said else ("Redis", said["redis_version"])
        )
        kept = "kept on disk" if said.get("aof_enabled") == "1" else "memory only between snapshots"
        return Health(
            detail=f"{self._url}: {name} {version}, {used >> 20} MiB used, {kept}",
            round_trip_ms=statistics.median(pings),
            faults=tuple(faults),
        )

    def _key(self, table: str) -> bytes:
        return f"{self._prefix}:table:{table}".encode()

    def _ask(self, *command: bytes | int) -> Any:
        with self._errors(), self._quick.borrowed() as connection:
            connection.send_packed_command([_packed(*command)], check_health=False)
            return connection.read_response(disable_decoding=True)

    @contextmanager
    def _errors(self, timeout_s: float | None = None) -> Generator[None]:
        try:
            yield
        except LateError as error:
            raise UnavailableError(
                f"The online store does not answer in time ({timeout_s or self._timeout_s:g} s).",
                self._url,
                "tow doctor; is the server busy or paused?",
            ) from error
        except (AuthenticationError, NoPermissionError) as error:
            raise UnavailableError(
                f"The online store refuses: {error}.", self._url, "check user and password of stores.online"
            ) from error
        except ReadOnlyError as error:
            raise UnavailableError(
                "The online store is a replica.", self._url, "name the primary in stores.online"
            ) from error
        except (RedisError, OSError) as error:
            other = next((name for said, name in _OTHERS.items() if said in str(error)), None)
            if other is not None:
                raise UnavailableError(
                    f"This is {other}, which Towpath does not speak to.",
                    self._url,
                    "name a primary that stands alone, or the proxy or service address in front of one, in stores.online",
                ) from error
            raise UnavailableError(
                f"The online store cannot be used: {str(error).rstrip('.')}.", self._url, "is the server up? tow doctor"
            ) from error


class _Connections:
    """Idle connections of this process, the last used first. A list's ``pop`` and ``append`` are atomic, so threads need no lock."""

    def __init__(self, options: dict[str, Any], timeout_s: float) -> None:
        self._kind: type[Connection] = options.get("connection_class", Connection)
        self._options: dict[str, Any] = {name: value for name, value in options.items() if name not in _OURS} | {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "socket_keepalive": True,
            "decode_responses": False,
            "protocol": 2,
        }
        self._idle: list[Connection] = []
        self._process = os.getpid()

    @contextmanager
    def borrowed(self) -> Generator[Connection]:
        """A connection that stands; whatever goes wrong with it, nobody gets it again."""
        connection = self._taken()
        try:
            yield connection
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()

    def _taken(self) -> Connection:
        if self._process != os.getpid():  # a fork must not speak on its parent's connections
            self._idle, self._process = [], os.getpid()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._kind(**self._options)
                connection.connect()
                return connection
            try:
                if not connection.can_read(0):
                    return connection
            except RedisError:
                pass  # the server hung up meanwhile
            connection.disconnect()


def _packed(*command: bytes | int) -> bytes:
    return hiredis.pack_command(command)  # pyright: ignore[reportArgumentType] - typed for one part, takes any number


def _parts(rows: Iterable[tuple[bytes, bytes]]) -> Generator[dict[bytes, bytes]]:
    """Rows in parts that the server takes as one; at least one part. Of a key that comes twice the winner, as the server would."""
    part: dict[bytes, bytes] = {}
    size, some = 0, False
    for key, value in rows:
        standing = part.get(key)
        if standing is None or standing[:16] <= value[:16]:
            part[key] = value
        size += len(key) + len(value)
        if size > WHOLE_BYTES or len(part) == WHOLE_ROWS:
            yield part
            part, size, some = {}, 0, True
    if part or not some:
        yield part


def _options(url: str) -> dict[str, Any]:
    scheme, _, rest = url.partition("://")
    try:
        options: dict[str, Any] = parse_url(f"{_SCHEMES.get(scheme, scheme)}://{rest}")
        options.get("connection_class", Connection)(**{n: v for n, v in options.items() if n not in _OURS})
    except (ValueError, TypeError) as error:
        raise ProjectError(f"This is no address of Redis: {error}.", f"stores.online = '{masked(url)}'") from error
    return options


def _information(text: bytes) -> dict[str, str]:
    """The answer to INFO."""
    lines = (line.partition(":") for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in lines}


def _ping_ms(connection: Connection) -> float:
    started = time.perf_counter()
    connection.send_command("PING", check_health=False)
    connection.read_response()
    return (time.perf_counter() - started) * 1e3

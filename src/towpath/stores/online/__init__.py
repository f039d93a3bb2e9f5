"""The newest feature row per entity: what serving reads. The scheme of the URL picks the engine."""

from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from towpath.errors import ExtraError, ProjectError, nearest
from towpath.settings import masked

__all__ = ["GLANCE_MS", "PATIENT_MS", "WHOLE_BYTES", "WHOLE_ROWS", "Health", "Inspected", "OnlineStore", "open_online"]

WHOLE_ROWS = 500
"""A write of up to so many rows and `WHOLE_BYTES` is seen as a whole or not at all, in every engine."""
WHOLE_BYTES = 1 << 20
"""Keys and values of a write that is seen as a whole."""
PATIENT_MS = 5_000
"""How long a build or a large read waits for the store; serving waits ``stores.online_timeout_ms``."""
GLANCE_MS = 1_000
"""How long somebody at a prompt waits who looks at a row, or at how many there are."""


_EXTRAS = {"rediss": "redis", "valkey": "redis", "valkeys": "redis"}
"""Scheme → the extra that brings its driver, where it has another name."""


class OnlineStore(Protocol):
    """Rows by table and key, as bytes. Calls may come from many threads and processes at once.

    The first 16 bytes of a value say when it became true and when it landed; as bytes they sort as the times do.
    """

    @property
    def waits(self) -> bool:
        """Whether a read may wait for somebody else, as for a server; serving then reads in a thread of its own."""
        ...

    def write(self, table: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Put rows: per key the greater first 16 bytes stay, of equals the later row.

        A call of up to `WHOLE_ROWS` and `WHOLE_BYTES` is seen as a whole or not at all. A longer one may land in parts,
        each a whole, in order; where it fails half-way, the same call again makes it right.
        """
        ...

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """One value per key, in the order asked; None where nothing was written or there is no such table."""
        ...

    def read_many(self, asked: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """What `read` gives for each table and its keys, in one trip to the store."""
        ...

    def tables(self) -> list[str]:
        """Names of all tables, sorted."""
        ...

    def count(self, table: str) -> int:
        """Number of rows; 0 where there is no such table."""
        ...

    def drop(self, table: str) -> None:
        """Remove a table and its rows; no error where there is none."""
        ...

    def close(self) -> None:
        """Let go of connections and files; a second call does nothing."""
        ...


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine says of itself."""

    detail: str
    """Where it is, how large, how quick."""
    round_trip_ms: float | None = None
    """To a server and back, the median of some; none where there is no server."""
    faults: tuple[tuple[str, str], ...] = ()
    """What is wrong, each with its mend."""
    one_machine: bool = False
    """Whether only the processes of one machine can read it."""


@runtime_checkable
class Inspected(Protocol):
    """An engine that `tow doctor` can ask how it is; not every one need be."""

    def health(self) -> Health:
        """Look, and change nothing."""
        ...


def open_online(url: str, folder: Path, *, timeout_ms: int = PATIENT_MS) -> OnlineStore:
    """Open the online store that a URL names.

    Args:
        url: Such as ``lmdb://.towpath/online`` or ``redis://host:6379/0``; a path of lmdb is relative to `folder` unless it
            begins with ``/``.
        folder: The project folder.
        timeout_ms: When a read of a store over the network is given up.

    Raises:
        ProjectError: No installed engine has the scheme.
        ExtraError: The engine's driver is not installed; says what to install.
        UnavailableError: The store cannot be opened.
    """
    scheme = url.partition("://")[0]
    engines = {point.name: point for point in entry_points(group="towpath.online_store")}
    if scheme not in engines:
        raise ProjectError(
            f"No online store is called '{scheme}'{nearest(scheme, engines)}", f"stores.online = '{masked(url)}'"
        )
    try:
        engine = engines[scheme].load()
    except ImportError as error:
        raise ExtraError(
            f"The driver of '{scheme}' is not installed: {error}.",
            masked(url),
            f"uv add 'towpath[{_EXTRAS.get(scheme, scheme)}]'",
        ) from error
    return engine(url, folder, timeout_ms=timeout_ms)

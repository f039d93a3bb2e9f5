"""What a query's tables look like at a moment, where an engine can tell: unchanged tables give the same rows."""

import hashlib
from typing import Protocol, runtime_checkable

import msgspec

from towpath.sql import Query

__all__ = ["Snapshots", "TableState", "state_digest"]


class TableState(msgspec.Struct, frozen=True, kw_only=True):
    """One table at a moment."""

    table: str
    files: tuple[tuple[str, int, int], ...] = ()
    """Path, bytes, and when it was last written (nanoseconds since 1970), for a table of files."""
    state: str = ""
    """Another engine's own word for it, such as a snapshot's number."""


def state_digest(state: tuple[object, ...]) -> str:
    """One word for the state of a table of pushed rows, which is the SQL of its view and all of its files.

    Args:
        state: What `Landing.prepare` said.
    """
    return hashlib.sha256(repr(state).encode()).hexdigest()


@runtime_checkable
class Snapshots(Protocol):
    """A warehouse that can tell. Others leave it out, and builds then go by landing times or read everything."""

    def snapshot(self, query: Query) -> tuple[TableState, ...] | None:
        """The tables that a query reads; None where the engine cannot tell of one of them."""
        ...

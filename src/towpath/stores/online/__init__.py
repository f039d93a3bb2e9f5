"""The newest feature row per entity: what serving reads. The scheme of the URL picks the engine."""

from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from towpath.errors import ExtraError, ProjectError, nearest
from towpath.settings import masked

__all__ = ["OnlineStore", "open_online"]


class OnlineStore(Protocol):
    """Rows by table and key, as bytes. Calls may come from many threads and processes at once.

    The first 16 bytes of a value say when it became true and when it landed; as bytes they sort as the times do.
    """

    def write(self, table: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Put rows: per key the greater first 16 bytes stay, of equals the later row. All of a call, or nothing."""
        ...

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """One value per key, in the order asked; None where nothing was written or there is no such table."""
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


def open_online(url: str, folder: Path) -> OnlineStore:
    """Open the online store that a URL names.

    Args:
        url: Such as ``lmdb://.towpath/online``; a path is relative to `folder` unless it begins with ``/``.
        folder: The project folder.

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
            f"The driver of '{scheme}' is not installed: {error}.", masked(url), f"uv add 'towpath[{scheme}]'"
        ) from error
    return engine(url, folder)

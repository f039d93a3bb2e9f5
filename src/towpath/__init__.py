"""Towpath: from a SQL query and a train function, or a bare model file, to a live, guarded, measured service.

``towpath.open(folder)`` is the platform that the command line uses, in a notebook or a script; ``towpath.Client`` calls a server.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from towpath.errors import TowpathError

if TYPE_CHECKING:
    from towpath.client import AsyncClient, Client
    from towpath.clock import Clock
    from towpath.platform import Platform

__all__ = ["AsyncClient", "Client", "TowpathError", "__version__", "open"]

__version__ = "0.1.0"


def open(folder: str | Path = ".", *, clock: "Clock | None" = None) -> "Platform":  # noqa: A001 - reads as towpath.open
    """Open the project in a folder; nothing is read or started before it is asked for.

    Args:
        folder: Holds ``towpath.toml``.
        clock: Where the time comes from; the machine's own unless given.

    Returns:
        The platform: ``.features``, ``.models``, ``.train``, ``.predict``, ``.sql`` …

    Raises:
        ProjectError: There is no project, or its settings are wrong.
    """
    from towpath.platform import Platform

    return Platform.open(Path(folder), clock=clock)


def __getattr__(name: str) -> Any:
    """The clients, imported when they are first named."""
    if name in {"AsyncClient", "Client"}:
        from towpath import client

        return getattr(client, name)
    raise AttributeError(f"module 'towpath' has no attribute '{name}'")

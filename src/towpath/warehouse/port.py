"""The port: what any warehouse does, and the one door by which an engine is opened; the scheme of the URL picks it."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from towpath.errors import ExtraError, ProjectError, nearest
from towpath.settings import WarehouseSettings, masked, secret
from towpath.sql import Query
from towpath.warehouse.point_in_time import AsOf, Facts

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pyarrow as pa

__all__ = ["Warehouse", "open_warehouse"]

_NO_PARAMETERS: Mapping[str, object] = {}
_EXTRAS = {"postgresql": "postgres"}
"""Scheme → the extra that brings its driver, where the names differ."""


class Warehouse(Protocol):
    """Tables that feature and training SQL reads. Calls may come from many threads at once."""

    def tables(self) -> list[str]:
        """Names of all tables, sorted; ``schema.table`` or ``table``."""
        ...

    def describe(self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> "pa.Schema":
        """Names and types of what a query gives, without running it; a ProjectError where it cannot run."""
        ...

    def read(self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> "pa.Table":
        """All rows; times are ``timestamp[us, tz=UTC]``."""
        ...

    def stream(
        self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> "AbstractContextManager[pa.RecordBatchReader]":
        """Rows in batches as they come; memory does not grow with them."""
        ...

    def point_in_time(
        self, facts: Facts, spine: "pa.Table", as_of: AsOf, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> "pa.Table":
        """What a view said at each moment of a spine, by the eight rules: one row per spine row, in its order.

        The spine has ``rn`` (0 to n-1), ``t`` (microseconds since 1970, may be null) and the key parts ``k0``, ``k1`` …
        """
        ...

    def newest(
        self, facts: Facts, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> "AbstractContextManager[pa.RecordBatchReader]":
        """The newest row per key that is known at ``as_of``: ``k0``, ``k1`` …, ``event`` and ``landed`` (microseconds), ``f0``, ``f1`` …."""
        ...

    def close(self) -> None:
        """Let go of the engine."""
        ...


def open_warehouse(settings: WarehouseSettings, folder: Path, variables: Mapping[str, str]) -> Warehouse:
    """Open the warehouse of a project; no table is read, and no server asked, before it is needed.

    Args:
        settings: ``[warehouse]`` of ``towpath.toml``; the URL may be ``env:NAME`` or ``file:PATH``.
        folder: The project folder, which relative paths start from.
        variables: The environment.

    Raises:
        ProjectError: No installed engine has the URL's scheme, or the secret that holds the URL is not there.
        ExtraError: The engine's driver is not installed; says what to install.

    Example:
        >>> open_warehouse(WarehouseSettings(), Path("."), {}).tables()
        []
    """
    url = secret(settings.url, folder, variables)
    scheme = url.partition("://")[0]
    engines = {point.name: point for point in entry_points(group="towpath.warehouse")}
    if scheme not in engines:
        raise ProjectError(
            f"No warehouse engine reads '{scheme}'{nearest(scheme, engines)}",
            "towpath.toml, warehouse.url",
            "duckdb://FOLDER or postgresql://USER@HOST/DATABASE",
        )
    try:
        engine = engines[scheme].load()
    except ImportError as error:
        raise ExtraError(
            f"The driver of '{scheme}' is not installed: {error}.",
            masked(url),
            f"uv add 'towpath[{_EXTRAS.get(scheme, scheme)}]'",
        ) from error
    return engine(url, settings, folder, variables)

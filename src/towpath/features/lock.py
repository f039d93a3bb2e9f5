"""What a version remembers of the feature views it was trained on."""

from typing import Literal

import msgspec

__all__ = ["FeatureColumn", "FeatureLock"]


class FeatureColumn(msgspec.Struct, frozen=True, kw_only=True):
    """One feature as the version was trained on it."""

    name: str
    """Column of the view."""
    type: str
    """Arrow's name."""
    default: float | int | str | bool | None = None
    """Stands for a missing value where `missing` says so."""
    missing: Literal["null", "default", "refuse"] = "null"
    """What a missing value does."""


class FeatureLock(msgspec.Struct, frozen=True, kw_only=True):
    """One feature view as it stood when the version was trained; enough to read it online."""

    project: str
    """Whose view it is."""
    view: str
    """Its name."""
    fingerprint: str
    """Of SQL and header; also names the online table."""
    entity: tuple[str, ...]
    """Key columns in order."""
    ttl_us: int | None = None
    """Microseconds; none for no limit."""
    columns: tuple[FeatureColumn, ...]
    """The features that the model reads, in the order of the online row."""
    sql: str = ""
    """The view's file, whole."""
    key_types: tuple[str, ...] = ()
    """Arrow types of `entity`; empty in what was locked before rows could be pushed."""
    row: tuple[tuple[str, str], ...] = ()
    """All features of the view and their Arrow types, in the order of the online row, which a pushed row fills whole."""

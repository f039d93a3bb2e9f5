"""What a version remembers of the feature views and functions it was trained on."""

from typing import Literal

import msgspec

__all__ = ["FeatureColumn", "FeatureLock", "OnDemandInputLock", "OnDemandLock", "called", "names_of"]


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
    """Of SQL and header."""
    base: str = ""
    """Fingerprint of the first form of this version of the view, which names the online table; its own unless given."""
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


class OnDemandInputLock(msgspec.Struct, frozen=True, kw_only=True):
    """One argument of an on-demand feature."""

    name: str
    """As the function calls it."""
    reads: str
    """``request``, ``time``, or the feature of another view as the model calls it."""
    type: str
    """Arrow's name."""
    required: bool = False
    """Of the request: whether a row without it is refused."""


class OnDemandLock(msgspec.Struct, frozen=True, kw_only=True):
    """One on-demand feature file as it stood when the version was trained; its code is in the version's ``code.zip``."""

    project: str
    """Whose it is."""
    view: str
    """Its name, which is the function's too."""
    path: str
    """Within ``code.zip``."""
    digest: str
    """Of the file's bytes."""
    inputs: tuple[OnDemandInputLock, ...]
    """In the function's own order."""
    columns: tuple[FeatureColumn, ...]
    """Everything that it gives; what the model reads of it stands in the signature."""
    budget_ms: int = 50
    """How long one call may take in serving."""


def called(lock: FeatureLock | OnDemandLock, own: str | None = None) -> str:
    """What a model of the project `own` calls a view or a function: by the bare name what is its own, else ``project/view``.

    Args:
        lock: Of the view or function.
        own: The model's project; none calls everything by the bare name.

    Examples:
        >>> prices = FeatureLock(project="shop", view="prices", fingerprint="", entity=("item_id",), columns=())
        >>> called(prices, "shop"), called(prices, "hotel")
        ('prices', 'shop/prices')
    """
    return lock.view if own is None or lock.project == own else f"{lock.project}/{lock.view}"


def names_of(lock: FeatureLock | OnDemandLock, own: str | None = None) -> list[str]:
    """The features of a view or a function, as a model of the project `own` names them."""
    view = called(lock, own)
    return [f"{view}.{column.name}" for column in lock.columns]

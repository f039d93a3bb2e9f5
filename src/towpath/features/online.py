"""The online read: features of many entities and views at once, as columns, with what is missing and how old it is."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from towpath.features.build import SCHEMAS, schema_key
from towpath.features.encoding import Decoded, RowSchema, decode
from towpath.features.keys import key_bytes, key_part
from towpath.features.lock import FeatureColumn, FeatureLock
from towpath.features.views import online_table
from towpath.stores.online import OnlineStore

__all__ = ["OnlineReader", "OnlineRows"]

_NOTHING: tuple[str, ...] = ()


class OnlineRows(msgspec.Struct, frozen=True, kw_only=True):
    """What a read gave for n rows."""

    columns: dict[str, NDArray[Any]]
    """``view.feature`` → shape ``(n,)``: numbers float64 with NaN for null, times ``datetime64`` with NaT, else objects with None."""
    missing: list[tuple[str, ...]]
    """Per row the features that have no value: no row, expired, or null; a default stands in `columns` all the same."""
    event_us: dict[str, NDArray[np.int64]]
    """View → when each row's values became true, microseconds since 1970; `NEVER_US` (below zero) where there is no row."""
    refused: NDArray[np.bool_]
    """Rows that lack a feature which is declared ``missing = "refuse"``."""


class OnlineReader:
    """Reads the features that a version was trained on. Calls may come from many threads at once.

    Args:
        online: Where the rows are.
        locks: The views as the version knows them.
        project: Whose model reads; views of another project are called ``project/view``. None calls all by their own name.
    """

    def __init__(self, online: OnlineStore, locks: Sequence[FeatureLock], project: str | None = None) -> None:
        self._online = online
        self._views = [_View(kept, project) for kept in locks]

    def read(self, key_columns: Mapping[str, Sequence[object]], n: int, now_us: int) -> OnlineRows:
        """Read the newest row of each view for each of `n` rows, as of now.

        Args:
            key_columns: Key column → one part a row. A view with a key column that is not given has no rows.
            n: Number of rows.
            now_us: Microseconds since 1970; what ttl is counted from.

        Raises:
            UnavailableError: The store cannot be read.
            FormatError: A row is damaged.
        """
        columns: dict[str, NDArray[Any]] = {}
        event_us: dict[str, NDArray[np.int64]] = {}
        names: list[str] = []
        gaps: list[NDArray[np.bool_]] = []
        refused = np.zeros(n, dtype=bool)
        for view in self._views:
            found = view.read(self._online, key_columns, n, now_us)
            event_us[view.called] = found.event_us
            for feature, name in zip(view.columns, view.names, strict=True):
                column, gap = found.columns[feature.name], found.gaps.get(feature.name)
                if gap is not None:
                    names.append(name)
                    gaps.append(gap)
                    if feature.missing == "refuse":
                        refused |= gap
                    elif feature.missing == "default" and feature.default is not None:
                        column = _filled(column, gap, feature.default)
                columns[name] = column
        return OnlineRows(columns=columns, missing=_by_row(names, gaps, n), event_us=event_us, refused=refused)


class _View:
    """One view of a reader: where its rows are and what they look like, once they have been seen."""

    def __init__(self, kept: FeatureLock, project: str | None) -> None:
        own = project is None or kept.project == project
        self.called = kept.view if own else f"{kept.project}/{kept.view}"
        self.columns: Sequence[FeatureColumn] = kept.columns
        self.names = [f"{self.called}.{column.name}" for column in kept.columns]
        self._own_names = [column.name for column in kept.columns]
        self._entity = kept.entity
        self._ttl_us = kept.ttl_us
        self._table = online_table(kept.project, kept.view, kept.fingerprint)
        self._schema: RowSchema | None = None

    def read(self, online: OnlineStore, key_columns: Mapping[str, Sequence[object]], n: int, now_us: int) -> Decoded:
        schema = self._schema or self._find_schema(online)
        if schema is None or any(key not in key_columns for key in self._entity):
            # Nothing was built yet, or nobody asked: types are as in the lock, all values null.
            schema = schema or RowSchema(keys=(), columns=tuple((c.name, c.type) for c in self.columns))
            values: list[bytes | None] = [None] * n
        else:
            values = self._values(online, schema, key_columns, n)
        return decode(values, schema, self._own_names, now_us=now_us, ttl_us=self._ttl_us)

    def _values(
        self, online: OnlineStore, schema: RowSchema, key_columns: Mapping[str, Sequence[object]], n: int
    ) -> list[bytes | None]:
        parts = [
            [key_part(value, kind) for value in key_columns[key]]
            for key, kind in zip(self._entity, schema.keys, strict=True)
        ]
        keys = [None if None in row else key_bytes(row) for row in zip(*parts, strict=True)]
        asked = [key for key in keys if key is not None]
        found = online.read(self._table, asked)
        if len(asked) == n:
            return found
        rows = iter(found)
        return [None if key is None else next(rows) for key in keys]

    def _find_schema(self, online: OnlineStore) -> RowSchema | None:
        (stored,) = online.read(SCHEMAS, [schema_key(self._table, 1)])
        if stored is not None:
            self._schema = RowSchema.from_bytes(stored)
        return self._schema


def _filled(column: NDArray[Any], gap: NDArray[np.bool_], default: object) -> NDArray[Any]:
    full = column.copy()
    full[gap] = default
    return full


def _by_row(names: Sequence[str], gaps: Sequence[NDArray[np.bool_]], n: int) -> list[tuple[str, ...]]:
    if not gaps:
        return [_NOTHING] * n
    return [tuple(name for name, gap in zip(names, row, strict=True) if gap) for row in np.array(gaps).T.tolist()]

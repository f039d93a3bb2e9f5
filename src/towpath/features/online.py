"""The online read: features of many entities and views at once, as columns, with what is missing and how old it is."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from towpath.errors import UnavailableError
from towpath.features.build import SCHEMAS, schema_key
from towpath.features.builds import BUILDS, table_said
from towpath.features.encoding import NEVER_US, Decoded, OtherSchemaError, RowSchema, decode, decode_mixed, plain_row
from towpath.features.keys import key_bytes, key_part
from towpath.features.lock import FeatureColumn, FeatureLock
from towpath.features.views import online_table
from towpath.stores.online import OnlineStore

__all__ = ["OnlineReader", "OnlineRows"]

_NOTHING: tuple[str, ...] = ()
_LOOK_AGAIN_S = 1.0
"""A table that was swapped out stays for a minute, so no read between finds a gap."""


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
        away: Told when the store cannot be read, and then everything is missing; unless given, the error is the caller's.
    """

    def __init__(
        self,
        online: OnlineStore,
        locks: Sequence[FeatureLock],
        project: str | None = None,
        *,
        away: Callable[[UnavailableError], None] | None = None,
    ) -> None:
        self._online = online
        self._views = [_View(kept, project) for kept in locks]
        self._called = [view.called for view in self._views]
        self._names = [name for view in self._views for name in view.names]
        self._away = away
        self._look_again_at = -math.inf

    def read(self, key_columns: Mapping[str, Sequence[object]], n: int, now_us: int) -> OnlineRows:
        """Read the newest row of each view for each of `n` rows, as of now, in one trip to the store.

        Args:
            key_columns: Key column → one part a row. A view with a key column that is not given has no rows.
            n: Number of rows.
            now_us: Microseconds since 1970; what ttl is counted from.

        Raises:
            UnavailableError: The store cannot be read, and nobody was named to be told.
            FormatError: A row is damaged.
        """
        stored = self._values(key_columns, n)
        if n == 1 and (alone := self._one_plain(stored, now_us)) is not None:
            return alone
        columns: dict[str, NDArray[Any]] = {}
        event_us: dict[str, NDArray[np.int64]] = {}
        names: list[str] = []
        gaps: list[NDArray[np.bool_]] = []
        refused = np.zeros(n, dtype=bool)
        for view, values in zip(self._views, stored, strict=True):
            found = view.decoded(self._online, values, now_us)
            event_us[view.called] = found.event_us
            if not found.gaps:
                columns.update(zip(view.names, found.columns.values(), strict=True))
                continue
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

    def _one_plain(self, stored: Sequence[Sequence[bytes | None]], now_us: int) -> OnlineRows | None:
        """One row of numbers without a gap, all views in one array; none where it is otherwise."""
        events: list[int] = []
        parts: list[bytes] = []
        for view, (value,) in zip(self._views, stored, strict=True):
            found = view.plain(value, now_us)
            if found is None:
                return None
            events.append(found[0])
            parts.append(found[1])
        numbers = np.frombuffer(bytearray().join(parts), "<f8")
        if not parts or np.isnan(numbers).any():
            return None
        return OnlineRows(
            columns=dict(zip(self._names, numbers.reshape(-1, 1), strict=True)),
            missing=[_NOTHING],
            event_us=dict(zip(self._called, np.array(events).reshape(-1, 1), strict=True)),
            refused=np.zeros(1, dtype=bool),
        )

    def _values(self, key_columns: Mapping[str, Sequence[object]], n: int) -> list[Sequence[bytes | None]]:
        """Per view one stored value a row; None where there is none, and everywhere while the store is away."""
        nothing: list[bytes | None] = [None] * n
        values: list[Sequence[bytes | None]] = [nothing for _ in self._views]
        try:
            self._look_again()
            keys: dict[tuple[tuple[str, ...], ...], list[bytes | None]] = {}
            asked: dict[int, list[bytes | None]] = {}
            for place, view in enumerate(self._views):
                if view.schema is None or any(key not in key_columns for key in view.entity):
                    continue  # nothing was built yet, or nobody asked
                alike = (view.entity, view.schema.keys)  # views of one entity share their keys
                if alike not in keys:
                    keys[alike] = _keys(view.entity, view.schema.keys, key_columns)
                asked[place] = keys[alike]
            whole = [[key for key in rows if key is not None] for rows in asked.values()]
            tables = [self._views[place].rows_table for place in asked]
            found = self._online.read_many(list(zip(tables, whole, strict=True))) if asked else []
        except UnavailableError as error:
            if self._away is None:
                raise
            self._away(error)
            return values
        for (place, rows), given in zip(asked.items(), found, strict=True):
            if len(given) == n:
                values[place] = given
            else:
                row = iter(given)
                values[place] = [None if key is None else next(row) for key in rows]
        return values

    def _look_again(self) -> None:
        """What rows look like, until it is known; and each second which table holds them, for a build may have swapped it."""
        moment = time.monotonic()
        if moment < self._look_again_at:
            return
        asked = [(SCHEMAS, [schema_key(view.table, 1) for view in self._views])]
        asked.append((BUILDS, [view.table.encode() for view in self._views]))
        schemas, states = self._online.read_many(asked)
        for view, schema, state in zip(self._views, schemas, states, strict=True):
            if view.schema is None and schema is not None:
                view.schema = view.schemas[1] = RowSchema.from_bytes(schema)
            view.rows_table = table_said(state, view.table)
        if all(view.schema is not None for view in self._views):
            self._look_again_at = moment + _LOOK_AGAIN_S


class _View:
    """One view of a reader: where its rows are and what they look like, once they have been seen."""

    def __init__(self, kept: FeatureLock, project: str | None) -> None:
        own = project is None or kept.project == project
        self.called = kept.view if own else f"{kept.project}/{kept.view}"
        self.columns: Sequence[FeatureColumn] = kept.columns
        self.names = [f"{self.called}.{column.name}" for column in kept.columns]
        self.entity = kept.entity
        self.table = online_table(kept.project, kept.view, kept.base or kept.fingerprint)
        self.rows_table = self.table
        """Which table holds the rows now."""
        self.schemas: dict[int, RowSchema] = {}
        self.schema: RowSchema | None = None
        """Of most rows: the newest that was seen."""
        self._types = {column.name: column.type for column in kept.columns}
        self._own_names = [column.name for column in kept.columns]
        self._ttl_us = kept.ttl_us
        # While nothing was built types are as in the lock, all values null.
        self._as_locked = RowSchema(keys=(), columns=tuple((c.name, c.type) for c in kept.columns))

    def plain(self, value: bytes | None, now_us: int) -> tuple[int, bytes] | None:
        """One row, where it is numbers alone and all of them are wanted."""
        schema = self.schema
        if schema is None or schema.plain != self._own_names:
            return None
        oldest_us = NEVER_US if self._ttl_us is None else now_us - self._ttl_us
        return plain_row(value, schema, now_us=now_us, oldest_us=oldest_us)

    def decoded(self, online: OnlineStore, values: Sequence[bytes | None], now_us: int) -> Decoded:
        schema, names, types = self.schema or self._as_locked, self._own_names, self._types
        try:
            return decode(values, schema, names, now_us=now_us, ttl_us=self._ttl_us, types=types)
        except OtherSchemaError:  # a column was added, and not every row has it yet
            numbers = {value[16] | value[17] << 8 for value in values if value is not None} - self.schemas.keys()
            stored = online.read(SCHEMAS, [schema_key(self.table, number) for number in numbers])
            found = zip(numbers, stored, strict=True)
            self.schemas |= {number: RowSchema.from_bytes(row) for number, row in found if row is not None}
            if self.schemas:
                self.schema = self.schemas[max(self.schemas)]
            return decode_mixed(values, self.schemas.get, names, now_us=now_us, ttl_us=self._ttl_us, types=types)


def _keys(
    entity: Sequence[str], kinds: Sequence[str], key_columns: Mapping[str, Sequence[object]]
) -> list[bytes | None]:
    """One key a row; None where a part is null or cannot be of the view's type."""
    parts = [[key_part(value, kind) for value in key_columns[key]] for key, kind in zip(entity, kinds, strict=True)]
    return [None if None in row else key_bytes(row) for row in zip(*parts, strict=True)]


def _filled(column: NDArray[Any], gap: NDArray[np.bool_], default: object) -> NDArray[Any]:
    full = column.copy()
    full[gap] = default
    return full


def _by_row(names: Sequence[str], gaps: Sequence[NDArray[np.bool_]], n: int) -> list[tuple[str, ...]]:
    if not gaps:
        return [_NOTHING] * n
    return [tuple(name for name, gap in zip(names, row, strict=True) if gap) for row in np.array(gaps).T.tolist()]

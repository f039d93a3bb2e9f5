"""The online read: features of many entities and views at once, as columns, with what is missing and how old it is."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from towpath.errors import UnavailableError
from towpath.features.build import SCHEMAS, schema_key
from towpath.features.builds import BUILDS, table_said
from towpath.features.encoding import Decoded, OtherSchemaError, RowSchema, decode, decode_mixed
from towpath.features.keys import keys_bytes
from towpath.features.lock import FeatureColumn, FeatureLock, called, names_of
from towpath.features.online_columns import Columns
from towpath.features.online_numbers import Events, Numbers, NumberView, number_view
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
    event_us: Mapping[str, NDArray[np.int64]]
    """View → when each row's values became true, microseconds since 1970; `NEVER_US` (below zero) where there is no row."""
    refused: NDArray[np.bool_]
    """Rows that lack a feature which is declared ``missing = "refuse"``."""
    matrix: NDArray[np.float64] | None = None
    """`columns` side by side, shape ``(n, columns)``, where the read went the quick way: numbers alone."""


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
        self._features = [column for view in self._views for column in view.columns]
        self._called = [view.called for view in self._views]
        self.keys = frozenset(key for kept in locks for key in kept.entity)
        """The key columns of all views."""
        self._names = [name for view in self._views for name in view.names]
        self._away = away
        self._look_again_at = -math.inf
        self._plan = _Plan((), None, None)

    @property
    def waits(self) -> bool:
        """Whether a read may wait for a server."""
        return self._online.waits

    def nothing(self, n: int, error: UnavailableError) -> OnlineRows:
        """What `read` gives while the store is away, for a caller that waits no longer: defaults, and everything missing.

        Args:
            n: Number of rows.
            error: Why; told to `away`, or raised.
        """
        return self._decoded(self._lost(n, error), n, 0)

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
        numbers = self._plan.numbers
        matrix = numbers.matrix(stored, n, now_us) if numbers is not None and n else None
        if numbers is None or matrix is None:
            return self._decoded(stored, n, now_us)
        gaps = self._filled(matrix, n)
        return OnlineRows(
            columns=Columns(self._names, matrix),
            missing=[_NOTHING] * n if gaps is None else gaps.by_row(),
            event_us=Events(self._called, numbers.views, stored, now_us),
            refused=np.zeros(n, dtype=bool) if gaps is None else gaps.refused,
            matrix=matrix,
        )

    def columns(self, key_columns: Mapping[str, Sequence[object]], n: int, now_us: int) -> dict[str, NDArray[Any]]:
        """The same without what is said of the values, which is an eighth of the time of one key.

        Args:
            key_columns: As in `read`.
            n: Number of rows.
            now_us: As in `read`.
        """
        stored = self._values(key_columns, n)
        numbers = self._plan.numbers
        matrix = numbers.matrix(stored, n, now_us) if numbers is not None and n else None
        if matrix is None:
            return self._decoded(stored, n, now_us).columns
        self._filled(matrix, n)
        return Columns(self._names, matrix)

    def _decoded(self, stored: Sequence[Sequence[bytes | None]], n: int, now_us: int) -> OnlineRows:
        """View by view, column by column: whatever rows hold."""
        columns: dict[str, NDArray[Any]] = {}
        event_us: dict[str, NDArray[np.int64]] = {}
        gaps = _Gaps(n)
        for view, values in zip(self._views, stored, strict=True):
            found = view.decoded(self._online, values, now_us)
            event_us[view.called] = found.event_us
            for feature, name in zip(view.columns, view.names, strict=True):
                column, gap = found.columns[feature.name], found.gaps.get(feature.name)
                if gap is not None:
                    gaps.add(feature, name, gap)
                    if feature.missing == "default" and feature.default is not None:
                        column = _filled(column, gap, feature.default)
                columns[name] = column
        return OnlineRows(columns=columns, missing=gaps.by_row(), event_us=event_us, refused=gaps.refused)

    def _filled(self, matrix: NDArray[np.float64], n: int) -> "_Gaps | None":
        """Put defaults where values are missing; what was missing, if anything was."""
        flat = matrix.reshape(-1)
        if not math.isnan(flat.dot(flat)):  # where one is NaN the sum of squares is: a third of the time of asking each
            return None
        gone, gaps = np.isnan(matrix), _Gaps(n)
        for place in np.flatnonzero(gone.any(axis=0)).tolist():
            feature, gap = self._features[place], gone[:, place]
            gaps.add(feature, self._names[place], gap)
            if feature.missing == "default" and feature.default is not None:
                matrix[gap, place] = feature.default
        return gaps

    def _values(self, key_columns: Mapping[str, Sequence[object]], n: int) -> Sequence[Sequence[bytes | None]]:
        """Per view one stored value a row; None where there is none, and everywhere while the store is away."""
        try:
            if time.monotonic() >= self._look_again_at:
                self._look_again()
            plan = self._plan
            if plan.alone is not None:
                entity, kinds, _, tables = plan.alone
                if len(entity) == 1 and (only := key_columns.get(entity[0])) is not None:
                    _, there = keys_bytes((only,), kinds)
                    if len(there) == n:
                        return self._online.read_many([(table, there) for table in tables])
            return self._one_by_one(plan.groups, key_columns, n)
        except UnavailableError as error:
            return self._lost(n, error)

    def _lost(self, n: int, error: UnavailableError) -> Sequence[Sequence[bytes | None]]:
        if self._away is None:
            raise error
        self._away(error)
        return [[None] * n for _ in self._views]

    def _one_by_one(
        self, groups: Sequence["_Group"], key_columns: Mapping[str, Sequence[object]], n: int
    ) -> list[Sequence[bytes | None]]:
        """The same where views have different keys, or where a key is null or nobody gave it."""
        asked: list[tuple[str, Sequence[bytes]]] = []
        spread: list[tuple[int, list[bytes | None]]] = []
        for group in groups:
            if any(key not in key_columns for key in group.entity):
                continue  # nobody asked
            keys, there = keys_bytes([key_columns[key] for key in group.entity], group.kinds)
            asked += [(table, there) for table in group.tables]
            spread += [(place, keys) for place in group.places]
        found = self._online.read_many(asked) if asked else []
        nothing: list[bytes | None] = [None] * n
        values: list[Sequence[bytes | None]] = [nothing for _ in self._views]
        for (place, keys), given in zip(spread, found, strict=True):
            if len(given) == n:
                values[place] = given
            else:
                row = iter(given)
                values[place] = [None if key is None else next(row) for key in keys]
        return values

    def _look_again(self) -> None:
        """What rows look like, until it is known; and each second which table holds them, for a build may have swapped it."""
        moment = time.monotonic()
        asked = [(SCHEMAS, [schema_key(view.table, 1) for view in self._views])]
        asked.append((BUILDS, [view.table.encode() for view in self._views]))
        schemas, states = self._online.read_many(asked)
        for view, schema, state in zip(self._views, schemas, states, strict=True):
            if view.schema is None and schema is not None:
                view.schema = view.schemas[1] = RowSchema.from_bytes(schema)
            view.rows_table = table_said(state, view.table)
        self._plan = _planned(self._views)
        if all(view.schema is not None for view in self._views):
            self._look_again_at = moment + _LOOK_AGAIN_S


class _Group(NamedTuple):
    """Views that share their keys, which are so written once."""

    entity: tuple[str, ...]
    kinds: tuple[str, ...]
    places: list[int]
    tables: list[str]


class _Plan(NamedTuple):
    """What a reader does for each read, worked out each second: nothing of it depends on the keys."""

    groups: Sequence[_Group]
    """Of the views of which something was built."""
    alone: _Group | None
    """The one group, where all views are in it."""
    numbers: Numbers | None
    """All views, where all can go the quick way."""


def _planned(views: Sequence["_View"]) -> _Plan:
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], _Group] = {}
    for place, view in enumerate(views):
        if view.schema is not None:
            alike = (view.entity, view.schema.keys)
            group = groups.setdefault(alike, _Group(*alike, [], []))
            group.places.append(place)
            group.tables.append(view.rows_table)
    forms = [form for view in views if (form := view.form()) is not None]
    whole = bool(forms) and len(forms) == len(views)
    first = next(iter(groups.values()), None)
    alone = first if first is not None and len(first.places) == len(views) else None
    return _Plan(tuple(groups.values()), alone, Numbers(forms) if whole else None)


class _View:
    """One view of a reader: where its rows are and what they look like, once they have been seen."""

    def __init__(self, kept: FeatureLock, project: str | None) -> None:
        self.called = called(kept, project)
        self.columns: Sequence[FeatureColumn] = kept.columns
        self.names = names_of(kept, project)
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

    def form(self) -> NumberView | None:
        """How its rows are read the quick way, where they can be."""
        return None if self.schema is None else number_view(self.schema, self._own_names, self._ttl_us)

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


class _Gaps:
    """Values that are missing, feature by feature."""

    def __init__(self, n: int) -> None:
        self.refused = np.zeros(n, dtype=bool)
        self._n = n
        self._names: list[str] = []
        self._gaps: list[NDArray[np.bool_]] = []

    def add(self, feature: FeatureColumn, name: str, gap: NDArray[np.bool_]) -> None:
        self._names.append(name)
        self._gaps.append(gap)
        if feature.missing == "refuse":
            self.refused |= gap

    def by_row(self) -> list[tuple[str, ...]]:
        if not self._gaps:
            return [_NOTHING] * self._n
        rows = np.array(self._gaps).T.tolist()
        return [tuple(name for name, gap in zip(self._names, row, strict=True) if gap) for row in rows]


def _filled(column: NDArray[Any], gap: NDArray[np.bool_], default: object) -> NDArray[Any]:
    full = column.copy()
    full[gap] = default
    return full

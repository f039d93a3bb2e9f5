"""A feature view: a SELECT, what its header says, and what the engine says of its columns."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import msgspec

from towpath.errors import ProjectError, UnknownError, nearest
from towpath.features.lock import FeatureColumn, FeatureLock
from towpath.project.declarations import FeatureDeclaration, FeatureHeader
from towpath.sql import Query
from towpath.types import duration, micros, type_name, utc
from towpath.warehouse.point_in_time import Facts

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse import Warehouse

__all__ = ["View", "ViewSource", "describe", "features_by_view", "lock", "online_table", "view_of_lock"]

_PARAMETERS = ("as_of", "since", "until")


class ViewSource(Protocol):
    """A view's file as a project read it; `towpath.project` has one for each ``features/*.sql``."""

    @property
    def name(self) -> str:
        """The file's stem."""
        ...

    @property
    def query(self) -> Query:
        """Its SELECT."""
        ...

    @property
    def header(self) -> FeatureHeader:
        """Its header, checked."""
        ...


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A view that the engine has described."""

    project: str
    """Whose it is."""
    name: str
    """Of the file."""
    query: Query
    """Its SELECT."""
    header: FeatureHeader
    """Entity, times, ttl, defaults."""
    columns: tuple[tuple[str, str], ...]
    """Features and their Arrow types, in the order of the SELECT."""
    key_types: tuple[str, ...] = ()
    """Arrow types of the key columns; empty where the view is known from a lock only."""
    fingerprint: str
    """Of the SELECT, keys, times and types: what decides which rows there are."""
    base: str = ""
    """Fingerprint of the first form of this version of the view, which names the online table; its own unless given."""
    number: int = 1
    """Of the form within its version; stands in every online row."""
    version: int = 1
    """Of the view: the next begins where a form is more than the one before it with columns added."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(name for name, _ in self.columns)

    @property
    def table(self) -> str:
        """Name of the online table."""
        return online_table(self.project, self.name, self.base or self.fingerprint)

    def place(self, name: str) -> str:
        """``file:line`` of the header's line that names something."""
        return _at(self.query, name)

    def facts(self, columns: Sequence[str] | None = None) -> Facts:
        """What the warehouse needs to join the view or to find its newest rows."""
        return Facts(
            query=self.query,
            keys=self.header.keys,
            event_time=self.header.event_time,
            created_time=self.header.created_time,
            ttl=duration(self.header.ttl) if self.header.ttl else None,
            start_us=micros(utc(self.header.start)) if self.header.start else None,
            columns=tuple(self.features if columns is None else columns),
        )


def online_table(project: str, view: str, fingerprint: str) -> str:
    """Name of the online table of one form of a view."""
    return f"{project}.{view}.{fingerprint[:16]}"


def describe(source: ViewSource, warehouse: "Warehouse", *, project: str = "") -> View:
    """Ask the engine for the columns of a view and check them against its header; nothing runs.

    Args:
        source: The view's file.
        warehouse: Where its tables are.
        project: Whose it is.

    Raises:
        ProjectError: The SQL is refused; a key or time column is missing, or a time column is no time; a feature is declared
            that the SELECT does not give; there is no feature; two columns have one name. Carries every problem as ``file:line``.
    """
    query, header = source.query, source.header
    query.check_parameters(_PARAMETERS)
    named = [name for name in query.tree.named_selects if name != "*"]
    if twice := sorted({name for name in named if name and named.count(name) > 1}):
        raise ProjectError(
            f"Two columns are named '{twice[0]}'.",
            f"{query.path}:{query.select_line}",
            "give one of them another name with 'as'",
        )
    schema = _schema(query, warehouse)
    times = [header.event_time, *([header.created_time] if header.created_time else [])]
    features = [name for name in schema.names if name not in {*header.keys, *times}]
    problems = [*_missing(source, schema.names, times), *_no_times(source, schema, times)]
    problems += [
        f"{_at(query, name)}: the SELECT gives no feature '{name}'{nearest(name, features)}"
        for name in header.features
        if name not in features
    ]
    problems += _wrong_defaults(source, schema)
    if not features:
        problems.append(
            f"{query.path}:{query.body_line}: the SELECT gives keys and times only; name at least one feature"
        )
    if problems:
        raise ProjectError(f"The view '{source.name}' is wrong.", query.path, "mend the header or the SELECT", problems)
    columns = tuple((name, str(schema.field(name).type)) for name in features)
    key_types = tuple(str(schema.field(name).type) for name in header.keys)
    return View(
        project=project,
        name=source.name,
        query=query,
        header=header,
        columns=columns,
        key_types=key_types,
        fingerprint=_fingerprint(query, header, columns, key_types),
    )


def lock(
    views: Mapping[str, View],
    features: Sequence[str],
    defaults: Mapping[str, FeatureDeclaration] | None = None,
) -> tuple[FeatureLock, ...]:
    """Keep the views as they stand, with the features that are read, for a version trained on them.

    Args:
        views: By the name before the dot of a feature.
        features: ``view.feature`` or ``view.*``.
        defaults: Overrides of what the headers declare, by ``view.feature``.

    Raises:
        UnknownError: A view or a feature does not exist; the nearest name is offered.
    """
    overrides = defaults or {}
    locks: list[FeatureLock] = []
    for called, names in features_by_view(views, features).items():
        view, types = views[called], dict(views[called].columns)
        columns: list[FeatureColumn] = []
        for name in names:
            said = overrides.get(f"{called}.{name}", view.header.features.get(name, FeatureDeclaration()))
            columns.append(FeatureColumn(name=name, type=types[name], default=said.default, missing=said.missing))
        ttl = duration(view.header.ttl) if view.header.ttl else None
        locks.append(
            FeatureLock(
                project=view.project,
                view=view.name,
                fingerprint=view.fingerprint,
                base=view.base or view.fingerprint,
                entity=view.header.keys,
                ttl_us=None if ttl is None else (ttl.days * 86_400 + ttl.seconds) * 1_000_000 + ttl.microseconds,
                columns=tuple(columns),
                sql=view.query.text,
                key_types=view.key_types,
                row=view.columns,
            )
        )
    return tuple(locks)


@lru_cache(256)
def view_of_lock(kept: FeatureLock) -> View:
    """The view again, from what a version or a publication kept of it.

    Raises:
        ProjectError: The kept SQL cannot be read.
    """
    query = Query.parse(kept.sql, f"{kept.project}/{kept.view}.sql")
    return View(
        project=kept.project,
        name=kept.view,
        query=query,
        header=msgspec.convert(query.header, FeatureHeader),
        columns=tuple((column.name, column.type) for column in kept.columns),
        fingerprint=kept.fingerprint,
        base=kept.base,
    )


def features_by_view(views: Mapping[str, View], features: Sequence[str]) -> dict[str, list[str]]:
    """Sort features by view, in the order asked; ``view.*`` stands for all of them, a second mention for nothing.

    Args:
        views: By name; ``project/name`` for those of another project.
        features: ``view.feature`` or ``view.*``.

    Raises:
        UnknownError: A view or a feature does not exist; the nearest name is offered.
    """
    found: dict[str, list[str]] = {}
    for feature in features:
        called, _, name = feature.rpartition(".")
        if called not in views:
            raise UnknownError(f"There is no view '{called}'{nearest(called, views)}", f"feature '{feature}'")
        known = views[called].features
        if name != "*" and name not in known:
            raise UnknownError(
                f"The view '{called}' has no feature '{name}'{nearest(name, known)}", views[called].query.path
            )
        wanted = found.setdefault(called, [])
        wanted += [each for each in (known if name == "*" else [name]) if each not in wanted]
    return found


def _missing(source: ViewSource, names: Sequence[str], times: Sequence[str]) -> list[str]:
    return [
        f"{_at(source.query, name)}: the SELECT gives no column '{name}'{nearest(name, names)}"
        for name in [*source.header.keys, *times]
        if name not in names
    ]


def _no_times(source: ViewSource, schema: "pa.Schema", times: Sequence[str]) -> list[str]:
    import pyarrow as pa

    return [
        f"{_at(source.query, name)}: '{name}' is {type_name(str(schema.field(name).type))} and no time; cast it to timestamp in the SELECT"
        for name in times
        if name in schema.names
        and not (pa.types.is_timestamp(kind := schema.field(name).type) or pa.types.is_date(kind))
    ]


def _wrong_defaults(source: ViewSource, schema: "pa.Schema") -> list[str]:
    """Defaults that no training set could be filled with."""
    import pyarrow as pa

    problems: list[str] = []
    for name, said in source.header.features.items():
        if said.default is None or name not in schema.names:
            continue
        kind = schema.field(name).type
        try:
            pa.nulls(1, kind).fill_null(said.default)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            said_of = f"the default {said.default!r} of '{name}' is no {type_name(str(kind))}"
            problems.append(f"{_at(source.query, name)}: {said_of}; write a default of the feature's type")
    return problems


def _schema(query: Query, warehouse: "Warehouse") -> "pa.Schema":
    """What the engine says of the SELECT; a fault that it gives no line has that of the table named, or of the SELECT."""
    try:
        return warehouse.describe(query)
    except ProjectError as error:
        if error.where != query.path:
            raise
        table = next((table for table in query.tables if f"'{table}'" in error.what), None)
        line = query.line_of(table.rpartition(".")[2]) if table else None
        raise ProjectError(
            error.what, f"{query.path}:{line or query.select_line}", error.mend, error.problems
        ) from error


def _at(query: Query, name: str) -> str:
    """``file:line`` of the header's line that names a column."""
    found = re.search(rf"\b{re.escape(name)}\b", query.header_text)
    line = query.header_line + (query.header_text.count("\n", 0, found.start()) if found else 0)
    return f"{query.path}:{line}"


def _fingerprint(query: Query, header: FeatureHeader, columns: object, key_types: object) -> str:
    """Without ttl, defaults and descriptions: they change how a row is read, not which rows there are."""
    decisive = (query.body.strip(), header.keys, header.event_time, header.created_time, columns, key_types)
    foreign = () if query.dialect == "duckdb" else (query.dialect,)  # the same words may mean something else there
    begun = () if header.start is None else (("start", header.start),)
    return hashlib.sha256(msgspec.json.encode((*decisive, *foreign, *begun))).hexdigest()

"""``landing.<view>``: the pushed rows of a view as a table that its SQL can put beside history."""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from towpath.errors import ProjectError, nearest
from towpath.features.push import WRITTEN_DAY, WRITTEN_TIME
from towpath.features.views import ViewSource
from towpath.journal.days import day_files, landing
from towpath.journal.laid import LaidOut
from towpath.sql import Query, quoted
from towpath.stores.objects import Objects

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse import Engine, LaysOut

__all__ = ["FORM", "SCHEMA_NAME", "LandingTables", "laid_out_in", "landing_sql"]

SCHEMA_NAME = "landing"
FORM = "~"
"""Stands between the name of a view and that of one of its forms."""
_WHOLE, _REAL = "'BIGINT', 'UBIGINT', 'HUGEINT', 'UHUGEINT'", "'DOUBLE'"
_FLOAT_MAX = "3.4028234663852886e38"

_WHOLE_WIDTHS = {
    "int8": "tinyint",
    "int16": "smallint",
    "int32": "integer",
    "int64": "bigint",
    "uint8": "utinyint",
    "uint16": "usmallint",
    "uint32": "uinteger",
    "uint64": "ubigint",
}


class LandingTables:
    """Gives a warehouse the landing tables of a project's views, with the columns and types of the view itself.

    A view that reads its own landing table is described with that table's columns left open, so that the other leg of the
    union, or a cast, says what they are; a column that neither says is refused. What landed is read through the journal's
    day manifests and laid out as Parquet by the day of the event; when more landed, the days that it touches are. Another
    form of the view has a table of its own, ``landing.<view>~<form>``: each has the rows that fit its columns.

    Args:
        objects: Where flushed rows lie.
        project: Whose views.
        view: A view's file by its name, a form of it by ``<view>~<form>``, none where there is none; asked each time.
        flush: Brings what workers of this machine wrote into the store; called before looking.
        folder: Where rows are laid out, for the next process too; removed, it is made again. Where it cannot be written they
            are laid out beside what the warehouse spills.
    """

    def __init__(
        self,
        objects: Objects,
        project: str,
        view: Callable[[str], ViewSource | None],
        flush: Callable[[], object],
        folder: Path,
    ) -> None:
        self._objects = objects
        self._project = project
        self._view = view
        self._flush = flush
        self._lock = threading.RLock()
        self._opening: set[str] = set()
        self._states: dict[str, tuple[object, ...]] = {}
        self._folder = laid_out_in(folder, objects, project)

    def has(self, table: str) -> bool:
        """Whether this is the landing table of a view of the project, or of a form of one."""
        schema, _, name = table.partition(".")
        return schema == SCHEMA_NAME and self._view(name) is not None

    def prepare(self, warehouse: "LaysOut", table: str) -> tuple[object, ...]:
        """Make the table known to the warehouse's engine as it stands now.

        Returns:
            What it looks like: another state, other rows.

        Raises:
            ProjectError: The view cannot be described, or a column's type is said nowhere.
            UnavailableError: The store cannot be read.
        """
        name = table.partition(".")[2]
        with self._lock:
            if name in self._opening:
                return ("opening",)
            self._flush()
            view = self._view(name)
            assert view is not None
            files = day_files(self._objects, self._rows_of(view))
            state = (view.query.text, *files)
            if self._states.get(name) != state:
                self._lay_out(warehouse, view, files)
                self._states[name] = state
            return state

    def _lay_out(self, warehouse: "LaysOut", view: ViewSource, files: Sequence[str]) -> None:
        schema, engine, table = self._schema(warehouse, view), warehouse.engine, f"{SCHEMA_NAME}.{view.name}"
        if not files:
            engine.register(table, schema.empty_table())
            return
        laid = LaidOut(self._room_for(view, engine), engine, self._objects, self._rows_of(view))
        found = laid.brought_up(files, lambda raw: landing_sql(view, schema, raw=raw))
        engine.register(table, [str(path) for path in found])

    def _rows_of(self, view: ViewSource) -> str:
        """The table of the journal; all forms of a view share it."""
        return landing(self._project, view.name.partition(FORM)[0])

    def _room_for(self, view: ViewSource, engine: "Engine") -> Path:
        """The folder for the laid out rows of a view."""
        try:
            (folder := self._folder / view.name).mkdir(parents=True, exist_ok=True)
        except OSError:
            return engine.folder / f"landing {view.name}"
        return folder

    def _schema(self, warehouse: "LaysOut", view: ViewSource) -> "pa.Schema":
        """Columns and types: those that the view itself gives."""
        import pyarrow as pa

        table, header, instant = f"{SCHEMA_NAME}.{view.name}", view.header, pa.timestamp("us", "UTC")
        times = [header.event_time, *([header.created_time] if header.created_time else [])]
        if table not in view.query.tables:
            described = warehouse.describe(view.query)
        else:
            asked = list(dict.fromkeys([*_asked(view.query, table), *header.keys, *times]))
            described = self._described(warehouse, view, dict.fromkeys(asked, pa.null()))
            for name in asked:
                if name not in described.names:
                    raise ProjectError(
                        f"'{table}' has no column '{name}'{nearest(name, described.names)}: it has those of the view.",
                        view.query.path,
                        "select a column that the view gives",
                    )
            self._refuse_untyped(warehouse, view, described, asked)
        return pa.schema([(f.name, instant if f.name in times else f.type) for f in described])

    def _described(self, warehouse: "LaysOut", view: ViewSource, columns: "Mapping[str, pa.DataType]") -> "pa.Schema":
        import pyarrow as pa

        warehouse.engine.register(f"{SCHEMA_NAME}.{view.name}", pa.schema(list(columns.items())).empty_table())
        self._opening.add(view.name)
        try:
            return warehouse.describe(view.query)
        finally:
            self._opening.discard(view.name)

    def _refuse_untyped(
        self, warehouse: "LaysOut", view: ViewSource, described: "pa.Schema", asked: Sequence[str]
    ) -> None:
        """A column whose type nobody says comes out as the engine's guess, ``integer``; given a truth value it follows."""
        import pyarrow as pa

        times = {view.header.event_time, view.header.created_time}
        guessed = [name for name in asked if name not in times and described.field(name).type == pa.int32()]
        if not guessed:
            return
        kinds = {name: pa.bool_() if name in guessed else pa.null() for name in asked}
        try:
            again = self._described(warehouse, view, kinds)
        except ProjectError:  # it is computed with, so something says what it is
            return
        for name in guessed:
            if again.field(name).type == pa.bool_():
                raise ProjectError(
                    f"The type of '{name}' is said nowhere: '{view.name}' reads it from its landing table alone.",
                    view.query.path,
                    f"cast({name} as double) as {name}, or union with a table of history",
                )


def laid_out_in(folder: Path, objects: Objects, project: str) -> Path:
    """Where the rows of a project's views are laid out, a folder for each view and each form of one.

    Args:
        folder: As `LandingTables` has it.
        objects: Where flushed rows lie; another store has other rows.
        project: Whose views.
    """
    return folder / hashlib.sha256(objects.url.encode()).hexdigest()[:12] / project


def landing_sql(view: ViewSource, schema: "pa.Schema", *, raw: str) -> str:
    """Compile the landing table of one view from the journal's rows.

    A row that was pushed under another form of the view is in it where `RowForm.again` says that it fits this one.
    A row that only repeats what its key and event time said before is folded into the earlier one: it was sent twice.
    Without a created time nothing tells corrections of one event time apart, so the last that arrived is kept.

    Args:
        view: Names of keys and times.
        schema: Columns and types of the result.
        raw: The journal's rows, quoted.
    """
    header = view.header
    values = [f for f in schema if f.name not in {header.event_time, header.created_time}]
    shape = json.dumps({f.name: _sql_type(f.type) for f in values}, ensure_ascii=False).replace("'", "''")
    chosen = {header.event_time: "event_time", header.created_time: "arrived_at"}
    columns = ", ".join(f"{chosen.get(f.name) or f'typed.{quoted(f.name)}'} as {quoted(f.name)}" for f in schema)
    if header.created_time is None:
        kept = (
            "qualify row_number() over (partition by entity_key, event_time order by arrived_at desc, place desc) = 1"
        )
    else:
        kept = (
            "qualify row_digest is distinct from lag(row_digest) "
            "over (partition by entity_key, event_time order by arrived_at, place)"
        )
    open_shape = json.dumps({f.name: "JSON" for f in values}, ensure_ascii=False).replace("'", "''")
    return f"""
with said as (
    select *, json_transform("row", '{open_shape}') as said from {raw}
),
settled as (
    select entity_key, event_time, arrived_at, place, "row", row_digest from said
    where {_fits(header.keys, schema, values)}
    qualify row_number() over (partition by entity_key, event_time, arrived_at order by place desc) = 1
),
kept as (
    select * from settled
    {kept}
)
select {columns}
from (select event_time, arrived_at, json_transform("row", '{shape}') as typed from kept)
""".strip()


def _fits(keys: Sequence[str], schema: "pa.Schema", values: Sequence["pa.Field"]) -> str:
    """A condition: the row has this form's key, and each value that it has is of this form's type."""
    parts = [
        f"json_extract(entity_key, '$[{place}]') = said.{quoted(key)} and {_is_of(schema.field(key).type, f'said.{quoted(key)}')}"
        for place, key in enumerate(keys)
    ]
    features = [_is_of_or_null(f.type, f"said.{quoted(f.name)}") for f in values if f.name not in keys]
    return "\n    and ".join([f"json_array_length(entity_key) = {len(keys)}", *parts, *features])


def _is_of_or_null(kind: "pa.DataType", value: str) -> str:
    return f"(coalesce(json_type({value}), 'NULL') = 'NULL' or {_is_of(kind, value)})"


def _is_of(kind: "pa.DataType", value: str) -> str:
    """A condition: a JSON value that is not null is of a type, as `RowForm` would take it."""
    import pyarrow as pa

    said, text = f"json_type({value})", f"({value} ->> '$')"
    number = f"try_cast({text} as double)"
    if pa.types.is_integer(kind):
        kept = _sql_type(kind)
        whole = f"{said} in ({_WHOLE}) and try_cast({text} as {kept}) is not null"
        real = f"{said} in ({_REAL}) and {number} = trunc({number}) and try_cast({number} as {kept}) is not null"
        return f"({whole} or {real})"
    if pa.types.is_floating(kind):
        most = "" if pa.types.is_float64(kind) else f" and abs({number}) <= {_FLOAT_MAX}"
        return f"({said} in ({_WHOLE}, {_REAL}){most})"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        written, moment = (WRITTEN_TIME, "timestamptz") if pa.types.is_timestamp(kind) else (WRITTEN_DAY, "date")
        year_1 = f"try_cast({text} as {moment}) >= {moment} '0001-01-01'"
        return f"({said} = 'VARCHAR' and regexp_full_match({text}, '{written}') and {year_1})"
    if pa.types.is_boolean(kind):
        return f"{said} = 'BOOLEAN'"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        timed = pa.types.is_timestamp(kind.value_type) or pa.types.is_date(kind.value_type)
        each = _is_of_or_null(pa.string() if timed else kind.value_type, "each")  # times in it stay as they were sent
        all_of = f"list_bool_and(list_transform(json_extract({value}, '$[*]'), lambda each: {each}))"
        return f"({said} = 'ARRAY' and coalesce({all_of}, true))"
    return f"{said} = '{'OBJECT' if pa.types.is_struct(kind) else 'VARCHAR'}'"


def _asked(query: Query, table: str) -> list[str]:
    """Columns that a query reads from a table, where it says so by name."""
    from sqlglot import exp
    from sqlglot.optimizer.scope import traverse_scope

    found: dict[str, None] = {}
    for scope in traverse_scope(query.tree):
        chosen = (
            scope.selected_sources
        )  # what stands in its FROM; a union's leg also knows the names of the WITH before it
        for alias, (_, origin) in chosen.items():
            if not isinstance(origin, exp.Table) or ".".join(part.name for part in origin.parts) != table:
                continue
            alone = len(chosen) == 1
            for column in scope.columns:
                if (column.table == alias or (alone and not column.table)) and column.name != "*":
                    found[column.name] = None
    return list(found)


def _sql_type(kind: "pa.DataType") -> str:
    import pyarrow as pa

    if str(kind) in _WHOLE_WIDTHS:
        return _WHOLE_WIDTHS[str(kind)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return f"struct({', '.join(f'{quoted(f.name)} {_sql_type(f.type)}' for f in kind)})"
    if pa.types.is_timestamp(kind):
        return "timestamptz"
    if pa.types.is_floating(kind):
        return "double" if pa.types.is_float64(kind) else "float"
    return {"bool": "boolean", "date32[day]": "date"}.get(str(kind), "varchar")

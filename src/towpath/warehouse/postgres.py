"""PostgreSQL as warehouse, through ADBC: SQL goes in, Arrow comes out; the SQL runs there, nothing is kept there."""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from adbc_driver_postgresql import StatementOptions, dbapi

from towpath.errors import ProjectError, ResourceError, UnavailableError
from towpath.settings import WarehouseSettings, masked
from towpath.sql import Query, quoted
from towpath.types import utc
from towpath.warehouse.adbc import AdbcWarehouse, compiled, refuse_twins, without_notes
from towpath.warehouse.lateral import SPINE, newest_select, training_set_steps
from towpath.warehouse.point_in_time import AsOf, Facts
from towpath.warehouse.row_marks import table_state
from towpath.warehouse.snapshots import TableState

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PostgresWarehouse"]

_NO_PARAMETERS: Mapping[str, object] = {}
_CONNECT_S = 10
_FETCHED_ROWS = 50_000
"""Of one batch that comes through a cursor."""
_COPIED_BYTES = 4 * 2**20
"""Of one that comes by COPY, about."""
_FINITE_US = 9_200_000_000_000_000_000
"""Microseconds beyond which a time is ``infinity`` or its negative, as the driver counts them."""
_PLAIN = {"bool", "int2", "int4", "int8", "float4", "float8", "text", "varchar", "date", "timestamptz", "bytea", "time", "interval"}  # fmt: skip
"""Types that leave as they are; any other is cast on the server, to one that Arrow and a model can take."""
_AWAY = re.compile(
    r"could not connect|Failed to connect|server closed the connection|no connection to the server|"
    r"terminating connection|connection to server|starting up|shutting down|timeout expired",
    re.IGNORECASE,
)
_STATES = {
    "57014": re.compile(r"canceling statement"),
    "53000": re.compile(r"out of memory|no space left|temporary file size exceeds", re.IGNORECASE),
    "42501": re.compile(r"permission denied"),
    "25006": re.compile(r"read-only transaction|during recovery"),
}
"""What the driver leaves out of errors in the midst of rows and of its own statements, told from the text."""
_REFUSED_AT_THE_DOOR = re.compile(r"authentication failed|no password supplied|does not exist|no pg_hba\.conf entry")


class PostgresWarehouse(AdbcWarehouse["_Session"]):
    """A PostgreSQL of version 14 or newer. Calls may come from many threads at once; each has a connection of its own.

    Each call is one transaction that sees one moment of the database and is rolled back in the end, with the temporary
    tables that a point-in-time join needs. Times leave as ``timestamp[us, tz=UTC]`` (a naive one *is* UTC), ``numeric`` as
    ``double`` (of scale 0 as ``int64``), enumerations, UUIDs, JSON and whatever Arrow has no type for as ``string``.

    Args:
        url: ``postgresql://USER@HOST/DATABASE``, as libpq reads it.
        settings: Memory and threads of one query, as far as a client may ask for them.
        folder: The project folder; unused.
        variables: The environment; unused, libpq reads ``PGPASSFILE`` and its like itself.
    """

    def __init__(
        self,
        url: str,
        settings: WarehouseSettings,
        folder: Path,  # noqa: ARG002 - every engine is opened alike
        variables: Mapping[str, str],  # noqa: ARG002 - as above
    ) -> None:
        super().__init__(masked(url), settings.memory_mib)
        timeout = "" if "connect_timeout" in url else f"{'&' if '?' in url else '?'}connect_timeout={_CONNECT_S}"
        self._address = url + timeout
        # One query sorts and hashes at several places, each of which may take work_mem.
        self._settings = (
            "set timezone = 'UTC'",
            "set client_encoding = 'UTF8'",
            "set application_name = 'towpath'",
            f"set work_mem = '{max(4, settings.memory_mib // 8)}MB'",
            f"set temp_buffers = '{max(8, settings.memory_mib // 16)}MB'",
            f"set max_parallel_workers_per_gather = {settings.threads - 1}",
        )
        self._version = ""

    def __str__(self) -> str:
        return f"PostgreSQL {self._version} at {self.url}".replace("  ", " ")

    def tables(self) -> list[str]:
        """Tables and views that the user may read, sorted; those on the search path without their schema.

        Raises:
            UnavailableError: The server is away.
            ProjectError: It does not let us in.
        """
        with self._session(_TABLES) as session:
            version = session.all("select split_part(current_setting('server_version'), ' ', 1) as version")
            self._version = str(version.column(0)[0].as_py())
            return sorted(session.all(_TABLES).column(0).to_pylist())

    def point_in_time(
        self, facts: Facts, spine: "pa.Table", as_of: AsOf, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> "pa.Table":
        """What a view said at each moment of a spine, by the eight rules: one row per spine row, in its order.

        Raises:
            ProjectError: As in `read`; or the user may make no temporary tables, as on a read replica.
            ResourceError: As in `read`.
            UnavailableError: As in `read`.
        """
        with self._session(facts.query) as session:
            text, bound = _compiled(self._with_landed(session, facts.query), parameters)
            steps = training_set_steps(facts, session.plain(text, bound), as_of=as_of)
            session.ingest(SPINE, _with_instants(spine))
            for statement in steps.entities:
                session.run(statement)
            session.run(steps.records, bound)
            for statement in steps.indexed:
                session.run(statement)
            return session.rows(steps.select).read_all()

    @contextmanager
    def newest(
        self, facts: Facts, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> Generator["pa.RecordBatchReader"]:
        """The newest row per key that is known at ``:as_of``: keys, then ``event`` and ``landed``, then features.

        Raises:
            ProjectError: As in `read`.
            ResourceError: As in `read`.
            UnavailableError: As in `read`.
        """
        with self._session(facts.query) as session:
            text, bound = _compiled(self._with_landed(session, facts.query), parameters)
            view, last = session.plain(text, bound), len(bound)
            sql = newest_select(facts, view, as_of=f"${last + 1}", since=f"${last + 2}")
            moments = [parameters[name] for name in ("as_of", "since")]
            yield session.rows(sql, [*bound, *(utc(moment) for moment in moments if isinstance(moment, datetime))])

    def snapshot(self, query: Query) -> tuple[TableState, ...] | None:
        """What the tables of a query look like now; None where of one of them nothing sure can be said.

        Raises:
            ProjectError: The user may not read one of them.
            UnavailableError: The server is away.
        """
        from sqlglot import exp

        named = {
            ".".join(part.name for part in table.parts): ".".join(part.sql("postgres") for part in table.parts)
            for table in query.tree.find_all(exp.Table)
            if table.name
        }
        landed = self.landed.among(query) if self.landed is not None else ()
        states: list[TableState] = []
        with self._session(query) as session:
            for table in query.tables:
                if self.landed is not None and table in landed:
                    state: str | None = self.landed.state(table)
                else:
                    state = table_state(named[table], query, session.all)
                if state is None:
                    return None
                states.append(TableState(table=table, state=state))
        return tuple(states)

    def write_table(self, name: str, rows: "pa.Table") -> None:
        """Put rows in the place of all that a table holds, in one transaction; made where there is none.

        The table stays the same one, with its rights, its indexes and the views upon it; writers wait for each other.

        Raises:
            ProjectError: There is no such schema, the user may not write there, or the table is another one: its columns differ.
            ResourceError: As in `read`.
            UnavailableError: As in `read`.
        """
        schema, _, table = name.partition(".")
        target, columns = f"{quoted(schema)}.{quoted(table)}", ", ".join(map(quoted, rows.column_names))
        with self._session(name) as session:
            session.run(
                "set transaction isolation level read committed"
            )  # who waited for the lock sees what came before
            session.all(f"select pg_advisory_xact_lock(hashtext({_literal(f'towpath {name}')}))::text as held")
            standing = (
                session.all(_COLUMNS.format(schema=_literal(schema), table=_literal(table))).column(0).to_pylist()
            )
            if standing and set(standing) != set(rows.column_names):
                raise ProjectError(
                    f"The table '{name}' has the columns {', '.join(standing)}, and not {', '.join(rows.column_names)}.",
                    self.url,
                    "it is another table: name one that is not there, or drop it",
                )
            if not standing:
                session.ingest(table, rows, schema=schema)
            else:
                session.ingest(_WRITTEN, rows)
                session.run(f"delete from {target}")
                session.run(f"insert into {target} ({columns}) select {columns} from {quoted(_WRITTEN)}")
                session.run(f"drop table {quoted(_WRITTEN)}")  # the connection is used again
            session.commit()

    def _opened(self) -> Any:
        connection = dbapi.connect(self._address, autocommit=True)
        with closing(connection.cursor()) as cursor:
            for setting in self._settings:
                cursor.execute(setting)
        return connection

    def _begun(self, connection: Any) -> None:
        connection.adbc_connection.set_autocommit(False)
        with closing(connection.cursor()) as cursor:
            cursor.execute("set transaction isolation level repeatable read")

    def _ended(self, connection: Any) -> None:
        connection.adbc_connection.rollback()
        connection.adbc_connection.set_autocommit(True)

    @contextmanager
    def _on(self, connection: Any) -> Generator["_Session"]:
        hint = {StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(_COPIED_BYTES)}
        with closing(connection.cursor(adbc_stmt_kwargs=hint)) as cursor:
            yield _Session(cursor)

    def _raise_ours(self, error: Exception, asked: Query | str, sent: str) -> NoReturn:
        _raise_ours(error, asked, self.url, sent)


class _Session:
    """Statements within one transaction."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self.last = ""
        """The statement that ran last, for the place of an error."""

    def run(self, sql: str, bound: Sequence[object] = ()) -> None:
        """Run a statement that gives no rows."""
        self.last = sql
        if bound:
            self._cursor.execute(sql, parameters=tuple(bound))
            self._cursor.fetch_arrow_table()  # with parameters it runs when its result is asked for
        else:
            self._cursor.execute(sql)

    def described(self, query: Query, parameters: Mapping[str, object]) -> "pa.Schema":
        """Names and types of what a query gives, as they will leave."""
        text, bound = _compiled(query, parameters)
        return without_notes(self.schema(self.plain(text, bound), bound))

    def selected(self, query: Query, parameters: Mapping[str, object]) -> "pa.RecordBatchReader":
        """Rows of a query in batches: without parameters by COPY; with them, which COPY does not take, at half the pace."""
        text, bound = _compiled(query, parameters)
        return self.rows(self.plain(text, bound), bound)

    def schema(self, sql: str, bound: Sequence[object]) -> "pa.Schema":
        """What a SELECT gives, as the driver says it."""
        self.last = sql
        return self._cursor.adbc_execute_schema(sql, parameters=tuple(bound) or None)

    def plain(self, sql: str, bound: Sequence[object]) -> str:
        """The SELECT with each column as a type that leaves as it should, see `PostgresWarehouse`."""
        schema = self.schema(sql, bound)
        refuse_twins(schema.names)
        columns = [f"{quoted(field.name)}{_cast(field)}" for field in schema]
        if all(_cast(field) == "" for field in schema):
            return sql
        return f"select {', '.join(columns)} from ({sql}) as towpath_plain"

    def all(self, sql: str) -> "pa.Table":
        """All rows of a SELECT."""
        return self.rows(sql).read_all()

    def rows(self, sql: str, bound: Sequence[object] = ()) -> "pa.RecordBatchReader":
        """Rows in batches as they come."""
        import pyarrow as pa

        if bound:
            self._cursor.execute("set local cursor_tuple_fraction = 1.0")  # all rows will be asked for
            self.run(f"declare towpath_rows no scroll cursor for {sql}", bound)
            self._cursor.adbc_statement.set_options(**{StatementOptions.USE_COPY.value: "false"})
            reader = self._reader(f"fetch forward {_FETCHED_ROWS} from towpath_rows")
        else:
            reader = self._reader(sql)
        schema = without_notes(reader.schema)

        def whole() -> Generator[pa.RecordBatch]:
            part = reader
            while True:
                rows = 0
                for batch in part:
                    rows += batch.num_rows
                    yield _whole(batch, schema)
                if not bound or rows < _FETCHED_ROWS:
                    return
                part = self._reader(f"fetch forward {_FETCHED_ROWS} from towpath_rows")

        return pa.RecordBatchReader.from_batches(schema, whole())

    def _reader(self, sql: str) -> "pa.RecordBatchReader":
        self.last = sql
        self._cursor.execute(sql)
        return self._cursor.fetch_record_batch()

    def ingest(self, name: str, table: "pa.Table", *, schema: str | None = None) -> None:
        """Put a table into a temporary one, which goes with the transaction; with a schema into a new one there, which stays."""
        self.last = ""
        place: dict[str, Any] = {"temporary": True} if schema is None else {"db_schema_name": schema}
        self._cursor.adbc_ingest(name.strip('"'), table, mode="create", **place)

    def commit(self) -> None:
        """Keep what was written."""
        self._cursor.connection.adbc_connection.commit()


_WRITTEN = "towpath written"
_COLUMNS = """
select a.attname::text as name
from pg_attribute as a join pg_class as c on c.oid = a.attrelid join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = {schema} and c.relname = {table} and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""
_TABLES = """
select case when pg_table_is_visible(c.oid) then c.relname::text else n.nspname || '.' || c.relname end as name
from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f')
    and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\\_%'
    and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')
"""


def _compiled(query: Query, parameters: Mapping[str, object]) -> tuple[str, Sequence[object]]:
    """The SELECT with the engine's own placeholders, and their values; null, which has no type, stands in the SELECT."""
    names, bound = compiled(query, parameters)
    return query.numbered("postgres", names), bound


def _cast(field: "pa.Field") -> str:
    """How a column is made to leave as it should; empty where it does by itself."""
    metadata = field.metadata or {}
    kind = metadata.get(b"POSTGRESQL:type", b"").decode()
    if kind in _PLAIN:
        return ""
    whole = _scale(int(metadata.get(b"POSTGRESQL:typmod", b"-1"))) == 0
    target = {"timestamp": "timestamptz", "numeric": "bigint" if whole else "double precision", "oid": "bigint"}.get(
        kind.removeprefix("_"), "text"
    )
    if kind.startswith("_"):  # a list
        return "" if kind[1:] in _PLAIN else f"::{target}[] as {quoted(field.name)}"
    return f"::{target} as {quoted(field.name)}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _scale(modifier: int) -> int | None:
    """Digits after the point of a declared ``numeric(p, s)``; None where it is not declared."""
    if modifier < 0:
        return None
    scale = (modifier - 4) & 0x7FF
    return scale - 0x800 if scale & 0x400 else scale


def _whole(batch: "pa.RecordBatch", schema: "pa.Schema") -> "pa.RecordBatch":
    """The batch without the driver's notes; refused where a time is no instant."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for column, field in zip(batch.columns, schema, strict=True):
        if pa.types.is_timestamp(field.type):
            bounds = pc.call_function("min_max", [column.cast(pa.int64())]).as_py()
            if max(abs(bound or 0) for bound in bounds.values()) > _FINITE_US:
                raise ProjectError(
                    f"Column '{field.name}' holds an infinite time, which Arrow has no value for.",
                    mend=f"nullif({field.name}, 'infinity') in the SELECT",
                )
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def _with_instants(spine: "pa.Table") -> "pa.Table":
    """The spine with its moments as the engine's own instants; finer or dictionary-encoded keys as the view has them."""
    import pyarrow as pa

    at = spine.schema.get_field_index("t")
    return spine.set_column(at, "t", spine.column(at).cast(pa.int64()).cast(pa.timestamp("us", "UTC")))


def _raise_ours(error: Exception, asked: Query | str, url: str, sent: str) -> NoReturn:
    """Turn what the driver raised into ours: who acts next, what was said, and on which line of the file."""
    details = {key: value.decode("utf-8", "replace") for key, value in getattr(error, "details", None) or ()}
    said = _said(error, details)
    told = (state for state, words in _STATES.items() if words.search(said))
    state = getattr(error, "sqlstate", None) or next(told, "")
    if not state and _REFUSED_AT_THE_DOOR.search(said):
        raise ProjectError(f"The warehouse does not let us in: {said}", url, "mend warehouse.url") from error
    if state[:2] == "08" or state in {"57P01", "57P02", "57P03", "53300"} or (not state and _AWAY.search(said)):
        raise UnavailableError(
            f"The warehouse does not answer: {said}", url, "check the address and the server"
        ) from error
    where, line = (asked.path, _line(asked, said, sent, details)) if isinstance(asked, Query) else (url, None)
    where = f"{where}:{line}" if line else where
    if state[:2] in {"53", "54"} or state == "57014":
        raise ResourceError(
            f"The warehouse gave up: {said}", where, "ask for less, or give the server more memory, disk or time"
        ) from error
    mend = {
        "42501": "grant the user what it needs: usage on the schema, select on the table, temporary on the database",
        "25006": "name a server that takes temporary tables, which a read replica does not",
        "42P01": "tow doctor lists the warehouse; name one of its tables",
    }.get(state, "mend the SQL or the table")
    raise ProjectError(f"The warehouse refuses: {said}", where, mend) from error


def _said(error: Exception, details: Mapping[str, str]) -> str:
    """The engine's own words, without its copy of the statement."""
    if primary := details.get("PG_DIAG_MESSAGE_PRIMARY"):
        hint = details.get("PG_DIAG_MESSAGE_HINT")
        return f"{primary}. {hint}" if hint else primary
    text = str(error).split("\nQuery was:", maxsplit=1)[0].split("\nLINE ", maxsplit=1)[0]
    text = re.sub(r"^\w+: ", "", text.split("ERROR:", maxsplit=1)[-1].replace("[libpq] ", ""))
    return " ".join(text.split()) or type(error).__name__


def _line(query: Query, said: str, sent: str, details: Mapping[str, str]) -> int | None:
    """The line of the file with the word at which the engine stopped, in the statement or in what it says."""
    words = re.findall(r'(?<=")[^"]+(?=")|(?<=function )\w+', said)
    if position := details.get("PG_DIAG_STATEMENT_POSITION"):
        found = re.match(r'"?(\w+)', sent[int(position) - 1 :])
        words += [found[1]] if found else []
    lines = [line for word in words if (line := query.line_of(word.rpartition(".")[2])) is not None]
    return lines[0] if lines else None

"""Snowflake as warehouse, through ADBC: SQL goes in, Arrow comes out; temporary tables go with the call."""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from adbc_driver_snowflake import DatabaseOptions, dbapi

from towpath.errors import ProjectError
from towpath.settings import WarehouseSettings
from towpath.sql import Query, quoted
from towpath.types import micros, utc
from towpath.warehouse.adbc import AdbcWarehouse, compiled, refuse_twins
from towpath.warehouse.faults import Faults, address, raise_ours
from towpath.warehouse.leaving import converted, outgoing
from towpath.warehouse.merged import Form, generated_newest_sql, generated_training_set_sql
from towpath.warehouse.point_in_time import AsOf, Facts

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlglot import exp

__all__ = ["SnowflakeWarehouse"]

_NO_PARAMETERS: Mapping[str, object] = {}
_SPINE = "towpath spine"
_LOGIN_S = 20
_WRITTEN_ROWS = 1_000
"""Up to here rows travel within the statement; more go through a stage, whose set-up alone takes seconds."""
_BARE = re.compile(r"[A-Z_][A-Z0-9_$]*")
_TYPES = {"bool": "boolean", "double": "double", "float": "double", "date32[day]": "date", "binary": "binary"}
_FAULTS = Faults(
    door=re.compile(r"^3901\d\d|incorrect username or password|JWT token is invalid|account.*(empty|not found)|HTTP: 40[34]", re.IGNORECASE),
    away=re.compile(r"dial tcp|connection re(fused|set)|no such host|\bEOF\b|timeout after|i/o timeout|deadline exceeded|HTTP Status: 5|^IO:", re.IGNORECASE),
    spent=re.compile(r"statement reached its statement|canceled|cancelled|resource limit|quota|memory", re.IGNORECASE),
    mends=(
        (re.compile(r"No active warehouse", re.IGNORECASE), "name a virtual warehouse in the URL: ?warehouse=NAME"),
        (re.compile(r"does not have a current (database|schema)", re.IGNORECASE), "name both in the URL: snowflake://USER@ACCOUNT/DATABASE/SCHEMA"),
        (re.compile(r"insufficient privileges", re.IGNORECASE), "grant the role usage, select, and in the URL's schema create table and create stage (temporary ones)"),
        (re.compile(r"does not exist", re.IGNORECASE), "tow doctor lists the warehouse; a name in quotes is told apart by case"),
    ),
)  # fmt: skip


class SnowflakeWarehouse(AdbcWarehouse["_Session"]):
    """A Snowflake account. Calls may come from many threads at once; each has a session of its own.

    Names that are written without quotes are upper case there and lower case here, on the way in and out. The spine of a
    point-in-time join and rows that were pushed go into temporary tables of the URL's schema, which are dropped in the end.

    Args:
        url: ``snowflake://USER@ACCOUNT/DATABASE/SCHEMA?warehouse=W&role=R``, else as the Go driver of Snowflake reads it:
            ``authenticator``, ``privateKey``, ``token``, ``host`` and session parameters such as ``statement_timeout_in_seconds``.
        settings: Memory for pushed rows, which are laid out on this machine.
        folder: The project folder; unused.
        variables: The environment; unused.
    """

    form: ClassVar[Form] = "asof"
    """Of the point-in-time join; the other one is for an emulator that has no ASOF join."""

    def __init__(
        self,
        url: str,
        settings: WarehouseSettings,
        folder: Path,  # noqa: ARG002 - every engine is opened alike
        variables: Mapping[str, str],  # noqa: ARG002 - as above
    ) -> None:
        super().__init__(address(url), settings.memory_mib)
        self._secret_url = url
        given = url.partition("://")[2]
        fixed = {"timezone": "UTC", "loginTimeout": str(_LOGIN_S), "application": "towpath"}
        more = "&".join(f"{name}={value}" for name, value in fixed.items() if f"{name}=".lower() not in given.lower())
        self._address = f"{given}{'&' if '?' in given else '?'}{more}"

    def __str__(self) -> str:
        return f"Snowflake at {self.url}"

    def tables(self) -> list[str]:
        """Tables and views that the role may read, sorted; those of the URL's schema without it.

        Raises:
            UnavailableError: The account is away.
            ProjectError: It does not let us in.
        """
        with self._session(_TABLES) as session:
            found = session.rows(_TABLES).read_all().to_pylist()
        return sorted(
            _lowered(row["name"]) if row["near"] else f"{_lowered(row['schema_name'])}.{_lowered(row['name'])}"
            for row in found
        )

    def point_in_time(
        self, facts: Facts, spine: "pa.Table", as_of: AsOf, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> "pa.Table":
        """What a view said at each moment of a spine, by the eight rules: one row per spine row, in its order.

        Raises:
            ProjectError: As in `read`; or the role may make no temporary table in the URL's schema.
            ResourceError: As in `read`.
            UnavailableError: As in `read`.
        """
        with self._session(facts.query) as session:
            view, bound = _written(self._with_landed(session, facts.query), parameters)
            session.ingest(_SPINE, spine)
            sql = generated_training_set_sql(
                facts, "snowflake", spine=quoted(_SPINE), as_of=as_of, form=self.form, view=view
            )
            return session.rows(sql, bound).read_all()

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
            view, bound = _written(self._with_landed(session, facts.query), parameters)
            as_of, since = (
                micros(utc(m)) for m in (parameters["as_of"], parameters["since"]) if isinstance(m, datetime)
            )
            yield session.rows(generated_newest_sql(facts, "snowflake", view=view, moments=(as_of, since)), bound)

    def _opened(self) -> Any:
        options = {
            DatabaseOptions.USE_HIGH_PRECISION.value: "false",
            # nanoseconds end in 2262, and a table may say 9999
            "adbc.snowflake.sql.client_option.max_timestamp_precision": "microseconds",
            DatabaseOptions.DISABLE_TELEMETRY.value: "true",
        }
        return dbapi.connect(self._address, options, autocommit=True)

    def _begun(self, connection: Any) -> None:
        """A session that ended meanwhile is noticed by the first statement; one that lives is asked nothing."""
        with closing(connection.cursor()) as cursor:
            cursor.execute("select 1")
            cursor.fetch_arrow_table()

    def _ended(self, connection: Any) -> None:
        """The session's temporary tables are dropped by `_on`."""

    @contextmanager
    def _on(self, connection: Any) -> Generator["_Session"]:
        session = _Session(connection)
        try:
            yield session
        finally:
            session.close()

    def _raise_ours(self, error: Exception, asked: Query | str, sent: str) -> NoReturn:  # noqa: ARG002 - it tells no place
        raise_ours(error, asked, self.url, _FAULTS, secret_url=self._secret_url)


class _Session:
    """Statements on one connection, and the temporary tables that go with it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cursors: list[Any] = []
        self._made: list[str] = []
        self.last = ""
        """The statement that ran last."""

    def described(self, query: Query, parameters: Mapping[str, object]) -> "pa.Schema":
        """Names and types of what a query gives; the engine plans it and reads no row."""
        sql, bound = _written(query, parameters)
        _refuse_twins(query, sql)
        return self.rows(f"select * from (\n{sql}\n) as towpath_described where false limit 0", bound).schema

    def selected(self, query: Query, parameters: Mapping[str, object]) -> "pa.RecordBatchReader":
        """Rows of a query in batches as they come."""
        return self.rows(*_written(query, parameters))

    def rows(self, sql: str, bound: Sequence[object] = ()) -> "pa.RecordBatchReader":
        """Rows of a statement in batches, named and typed as they leave."""
        import pyarrow as pa

        self.last = sql
        cursor = self._connection.cursor()
        self._cursors.append(cursor)
        cursor.execute(sql, tuple(bound) or None)
        reader = cursor.fetch_record_batch()
        plain = outgoing(reader.schema)
        schema = pa.schema([(_lowered(field.name), field.type) for field in plain])
        refuse_twins(schema.names)
        return pa.RecordBatchReader.from_batches(schema, (converted(batch, schema) for batch in reader))

    def ingest(self, name: str, table: "pa.Table") -> None:
        """Put a table into a temporary one; the driver makes none itself, but fills what is there."""
        self._made.append(name)
        self.fill(quoted(name), table, kind="temporary table")

    def fill(self, target: str, table: "pa.Table", *, kind: str) -> None:
        """Make a table, or make it anew, and fill it.

        Args:
            target: Its name, in quotes.
            table: What goes in.
            kind: ``table`` or ``temporary table``.
        """
        columns = ", ".join(f"{quoted(_raised(field.name))} {_type(field.type)}" for field in table.schema)
        self._run(f"create or replace {kind} {target} ({columns})")
        if kind == "temporary table" and table.num_rows > _WRITTEN_ROWS:
            raised = table.rename_columns([_raised(name) for name in table.column_names])
            with closing(self._connection.cursor()) as cursor:
                cursor.adbc_ingest(self._made[-1], raised, mode="append")
            return
        for start in range(0, table.num_rows, _WRITTEN_ROWS):
            lists = [column.to_pylist() for column in table.slice(start, _WRITTEN_ROWS).columns]
            self._run(f"insert into {target} values\n" + ",\n".join(map(_literals, zip(*lists, strict=True))))

    def close(self) -> None:
        """Let go of readers and drop what was made."""
        for cursor in self._cursors:
            cursor.close()
        for name in self._made:
            self._run(f"drop table if exists {quoted(name)}")

    def _run(self, sql: str) -> None:
        self.last = sql
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(sql)
            cursor.fetch_arrow_table()


_TABLES = """
select table_schema as "schema_name", table_name as "name", table_schema = current_schema() as "near"
from information_schema.tables
where table_schema <> 'INFORMATION_SCHEMA'
"""


def _written(query: Query, parameters: Mapping[str, object]) -> tuple[str, Sequence[object]]:
    """The SELECT in the engine's words with ``:1``, ``:2`` … for parameters, and their values.

    Each name stands in quotes, so that a word that is free in one engine and kept in the other (``at``, ``rows``) is a name in
    both. A moment or a day travels as text and is cast there, because the driver takes no such parameter. A ratio of whole numbers would be cut to six digits, and is not.
    """
    from sqlglot import exp

    query.check_runs_on("snowflake")
    names, values = compiled(query, parameters)

    def write(node: "exp.Expr") -> "exp.Expr":
        if isinstance(node, exp.Placeholder) and node.name:
            if node.name not in names:
                return exp.Null()
            at = names.index(node.name)
            place = exp.Placeholder(this=str(at + 1))
            kind = "timestamptz" if isinstance(values[at], datetime) else "date"
            return exp.cast(place, kind) if isinstance(values[at], date) else place
        if isinstance(node, exp.Identifier) and not node.args.get("quoted"):
            return exp.to_identifier(node.name.upper(), quoted=True)
        if type(node) is exp.Div:
            node.set("this", exp.cast(node.this, "double"))  # in place: what is below is still to be written
        return node

    bound = [value.isoformat() if isinstance(value, date) else value for value in values]
    return query.tree.copy().transform(write).sql(dialect="snowflake", comments=False), bound


def _refuse_twins(query: Query, sql: str) -> None:
    """Two columns of one name are told before the engine is asked, which would speak of an ambiguous one in SQL of ours."""
    names = [name for name in query.tree.named_selects if name and name != "*"]
    refuse_twins([name.lower() for name in names] if sql else [])


def _lowered(name: str) -> str:
    """``CUSTOMER_ID`` → ``customer_id``; a name that needs quotes stays as it is."""
    return name.lower() if _BARE.fullmatch(name) else name


def _raised(name: str) -> str:
    return name.upper() if _BARE.fullmatch(name.upper()) and name.islower() else name


def _type(kind: "pa.DataType") -> str:
    import pyarrow as pa

    if pa.types.is_integer(kind):
        return "bigint"
    if pa.types.is_timestamp(kind):
        return "timestamp_tz(6)" if kind.tz else "timestamp_ntz(6)"
    return _TYPES.get(str(kind), "text")


def _literals(row: Sequence[object]) -> str:
    """One row of a VALUES list; texts are escaped by SQLGlot."""
    from sqlglot import exp

    def literal(value: object) -> str:
        if isinstance(value, bytes):
            raise ProjectError("Binary values cannot be sent to Snowflake.", mend="encode them as text")
        if isinstance(value, datetime):
            value = value.isoformat()
        return exp.convert(value).sql(dialect="snowflake")

    return f"({', '.join(literal(value) for value in row)})"

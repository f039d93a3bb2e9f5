"""BigQuery as warehouse, through ADBC: each question is one job; what travels along stands in a parameter, as JSON."""

import re
import socket
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

import msgspec
from adbc_driver_bigquery import DatabaseOptions, dbapi

from towpath.errors import ProjectError, ResourceError, UnavailableError
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.types import micros, utc
from towpath.warehouse.adbc import AdbcWarehouse, compiled, refuse_twins
from towpath.warehouse.faults import Faults, address, raise_ours
from towpath.warehouse.leaving import converted, outgoing
from towpath.warehouse.merged import generated_newest_sql, generated_training_set_sql
from towpath.warehouse.point_in_time import AsOf, Facts

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlglot import exp

__all__ = ["BigQueryWarehouse"]

_NO_PARAMETERS: Mapping[str, object] = {}
_SPINE = "towpath_spine"
_HOST = "bigquery.googleapis.com"
_CONNECT_S = 10
_SENT_BYTES = 7 * 2**20
"""Of JSON in one job; a request may have 10 MiB, and BigQuery reads a job's whole text and parameters as one."""
_NAMED = "adbc.bigquery.sql.query.parameter_mode_named"
_KNOWN = {"location", "credentials"}
_FAULTS = Faults(
    door=re.compile(r"could not find default credentials|invalid_grant|unauthorized|Error 401|credentials:|private key", re.IGNORECASE),
    away=re.compile(r"dial tcp|connection re(fused|set)|no such host|\bEOF\b|i/o timeout|deadline exceeded|Error 50[0-9]|backendError", re.IGNORECASE),
    spent=re.compile(r"resourcesExceeded|quotaExceeded|rateLimitExceeded|bytesBilledLimitExceeded|job timed out|stopped|cancel", re.IGNORECASE),
    mends=(
        (re.compile(r"Access Denied|accessDenied|Error 403", re.IGNORECASE), "grant bigquery.jobUser on the project, dataViewer on the dataset, readSessionUser for Arrow"),
        (re.compile(r"Not found: (Table|Dataset)|was not found", re.IGNORECASE), "tow doctor lists the warehouse; is ?location= that of the dataset?"),
        (re.compile(r"must be qualified with a dataset", re.IGNORECASE), "name a dataset in the URL: bigquery://PROJECT/DATASET"),
    ),
)  # fmt: skip


class BigQueryWarehouse(AdbcWarehouse["_Session"]):
    """A dataset of BigQuery. Calls may come from many threads at once.

    The driver loads no tables, so the spine of a point-in-time join and rows that were pushed travel as a JSON parameter:
    a spine of more than 7 MiB of it goes in several jobs, each of which reads the view, and is billed for it, once.

    Args:
        url: ``bigquery://PROJECT/DATASET?location=EU&credentials=PATH``: a service account's key; without it, what Google's
            libraries find (``GOOGLE_APPLICATION_CREDENTIALS``, the machine's own account).
        settings: Memory for pushed rows, which are laid out on this machine.
        folder: What a relative path of credentials starts from.
        variables: The environment; Google's libraries read it themselves, we only look for a proxy.

    Raises:
        ProjectError: The URL names no project and dataset, or something that is not known.
    """

    def __init__(
        self,
        url: str,
        settings: WarehouseSettings,
        folder: Path,
        variables: Mapping[str, str],
    ) -> None:
        super().__init__(address(url), settings.memory_mib)
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query))
        self._dataset = parts.path.strip("/")
        unknown = sorted(set(given) - _KNOWN)
        if unknown or not parts.netloc or not self._dataset or "/" in self._dataset:
            what = f"'{unknown[0]}' is not known there" if unknown else "it names no project and dataset"
            raise ProjectError(
                f"The URL of BigQuery cannot be read: {what}.",
                self.url,
                "bigquery://PROJECT/DATASET?location=EU&credentials=PATH",
            )
        self._by_proxy = any(name.lower() in {"https_proxy", "all_proxy"} for name in variables)
        self._location = given.get("location", "")
        self._options = {
            DatabaseOptions.PROJECT_ID.value: parts.netloc,
            DatabaseOptions.DATASET_ID.value: self._dataset,
        }
        if self._location:
            self._options[DatabaseOptions.LOCATION.value] = self._location
        if credentials := given.get("credentials"):
            self._options[DatabaseOptions.AUTH_TYPE.value] = DatabaseOptions.AUTH_VALUE_JSON_CREDENTIAL_FILE.value
            self._options[DatabaseOptions.AUTH_CREDENTIALS.value] = str(folder / credentials)
        self._unqualified = {
            "adbc.bigquery.sql.query.default_project_id": parts.netloc,
            "adbc.bigquery.sql.query.default_dataset_id": self._dataset,
        }

    def __str__(self) -> str:
        return f"BigQuery at {self.url}"

    def tables(self) -> list[str]:
        """Tables and views that the account may read, sorted; those of the URL's dataset without it, others where a location is named.

        Raises:
            UnavailableError: BigQuery is away.
            ProjectError: It does not let us in.
        """
        schema = f"region-{self._location.lower()}" if self._location else self._dataset
        sql = f"select table_schema, table_name from {_tick(schema)}.INFORMATION_SCHEMA.TABLES"
        with self._session(sql) as session:
            found = session.rows(sql, {}).read_all().to_pylist()
        return sorted(
            row["table_name"] if row["table_schema"] == self._dataset else f"{row['table_schema']}.{row['table_name']}"
            for row in found
        )

    def point_in_time(
        self, facts: Facts, spine: "pa.Table", as_of: AsOf, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> "pa.Table":
        """What a view said at each moment of a spine, by the eight rules: one row per spine row, in its order.

        Raises:
            ProjectError: As in `read`.
            ResourceError: As in `read`.
            UnavailableError: As in `read`.
        """
        import pyarrow as pa

        found: list[pa.Table] = []
        with self._session(facts.query) as session:
            view = self._with_landed(session, facts.query)
            for sql, given in session.joins(facts, view, spine, as_of, parameters):
                rows = session.rows(sql, given).read_all()
                # the driver reads several streams, and says nothing of their order
                found.append(rows.sort_by("towpath_rn").drop_columns("towpath_rn"))
        return pa.concat_tables(found)

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
            view, given = session.written(self._with_landed(session, facts.query), parameters)
            as_of, since = (
                micros(utc(m)) for m in (parameters["as_of"], parameters["since"]) if isinstance(m, datetime)
            )
            yield session.rows(generated_newest_sql(facts, "bigquery", view=view, moments=(as_of, since)), given)

    def _opened(self) -> Any:
        """The driver asks an address that does not answer again and again, without end; so it is tried before."""
        if not self._by_proxy:
            try:
                socket.create_connection((_HOST, 443), timeout=_CONNECT_S).close()
            except OSError as error:
                raise UnavailableError(
                    f"The warehouse does not answer: {_HOST}: {error}.",
                    self.url,
                    "check the network, or set HTTPS_PROXY",
                ) from error
        return dbapi.connect(self._options, autocommit=True)

    def _begun(self, connection: Any) -> None:
        """A connection is an address and an account; nothing is asked before the first job."""

    def _ended(self, connection: Any) -> None:
        """A job leaves nothing behind."""

    @contextmanager
    def _on(self, connection: Any) -> Generator["_Session"]:
        session = _Session(connection, self._unqualified)
        try:
            yield session
        finally:
            session.close()

    def _raise_ours(self, error: Exception, asked: Query | str, sent: str) -> NoReturn:  # noqa: ARG002 - it tells no place
        raise_ours(error, asked, self.url, _FAULTS)


class _Session:
    """Jobs of one call, and the rows that travel with them."""

    def __init__(self, connection: Any, options: Mapping[str, str]) -> None:
        self._connection = connection
        self._options = options
        self._cursors: list[Any] = []
        self._sent: dict[str, pa.Table] = {}
        self.last = ""
        """The statement that ran last."""

    def described(self, query: Query, parameters: Mapping[str, object]) -> "pa.Schema":
        """Names and types of what a query gives; ``false`` reads no column, and so nothing is billed."""
        refuse_twins([name.lower() for name in query.tree.named_selects if name and name != "*"])
        sql, given = self.written(query, parameters)
        return self.rows(f"select * from (\n{sql}\n) as towpath_described where false limit 0", given).schema

    def selected(self, query: Query, parameters: Mapping[str, object]) -> "pa.RecordBatchReader":
        """Rows of a query in batches as they come."""
        return self.rows(*self.written(query, parameters))

    def ingest(self, name: str, table: "pa.Table") -> None:
        """Keep a table for the statements that name it."""
        self._sent[name] = table

    def joins(
        self, facts: Facts, view: Query, spine: "pa.Table", as_of: AsOf, parameters: Mapping[str, object]
    ) -> Generator[tuple[str, Mapping[str, object]]]:
        """The point-in-time join as statements and their parameters: one for each piece of the spine."""
        inner, given = self.written(view, parameters)
        sql = generated_training_set_sql(
            facts,
            "bigquery",
            spine=_SPINE,
            as_of=as_of,
            view=inner,
            with_rows=f"{_SPINE} as (\n    {_unfolded(spine.schema, _SPINE)}\n)",
            numbered=True,
        )
        start = 0
        while start < max(1, spine.num_rows):
            piece, sent = _piece(spine, start)
            yield sql, {**given, _SPINE: sent}
            start += max(1, piece)

    def rows(self, sql: str, given: Mapping[str, object]) -> "pa.RecordBatchReader":
        """Rows of a statement in batches, typed as they leave."""
        import pyarrow as pa

        self.last = sql
        cursor = self._connection.cursor(adbc_stmt_kwargs=dict(self._options))
        self._cursors.append(cursor)
        if given:
            cursor.adbc_statement.set_options(**{"adbc.bigquery.sql.query.parameter_mode": _NAMED})
            cursor.execute(sql, pa.RecordBatch.from_pylist([dict(given)]))
        else:
            cursor.execute(sql)
        reader = cursor.fetch_record_batch()
        schema = outgoing(reader.schema)
        refuse_twins(schema.names)
        return pa.RecordBatchReader.from_batches(schema, (converted(batch, schema) for batch in reader))

    def written(self, query: Query, parameters: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
        """The SELECT in the engine's words with ``@name`` for parameters, and their values.

        A moment or a day travels as text and is cast there, so that it does not matter which type the driver gives it.

        Raises:
            ProjectError: A parameter has no value.
        """
        from sqlglot import exp, parse_one

        query.check_runs_on("bigquery")
        names, values = compiled(query, parameters)
        given = dict(zip(names, values, strict=True))

        def write(node: "exp.Expr") -> "exp.Expr":
            if isinstance(node, exp.Placeholder) and node.name:
                if node.name not in given:
                    return exp.Null()
                if isinstance(given[node.name], date):
                    return exp.cast(node.copy(), "timestamptz" if isinstance(given[node.name], datetime) else "date")
            if isinstance(node, exp.Table) and node.name in self._sent:
                named = _parameter(node.name)
                rows = parse_one(_unfolded(self._sent[node.name].schema, named), read="bigquery")
                return exp.Subquery(this=rows, alias=exp.TableAlias(this=exp.to_identifier(node.alias_or_name)))
            return node

        tree = query.tree.copy().transform(write)
        sent = {_parameter(name): _json(name, table) for name, table in self._sent.items()}
        bound = {name: value.isoformat() if isinstance(value, date) else value for name, value in given.items()}
        return tree.sql(dialect="bigquery", comments=False), {**bound, **sent}

    def close(self) -> None:
        """Let go of readers."""
        for cursor in self._cursors:
            with closing(cursor):
                pass


def _unfolded(schema: "pa.Schema", parameter: str) -> str:
    """A SELECT that makes rows of a JSON parameter; the name of a key is its place, so that any column name will do."""
    columns = [
        f"cast(json_value(towpath_row, '$.c{i}') as {_type(field.type)}) as {_tick(field.name)}"
        for i, field in enumerate(schema)
    ]
    return f"select {', '.join(columns)} from unnest(json_query_array(@{parameter})) as towpath_row"


def _piece(spine: "pa.Table", start: int) -> tuple[int, str]:
    """How many rows from `start` fit into one job, and what is sent for them."""
    rows = spine.num_rows - start
    while True:
        sent = _rows_json(spine.slice(start, rows))
        if len(sent) <= _SENT_BYTES or rows <= 1:
            return rows, sent
        rows = max(1, min(rows - 1, int(rows * 0.9 * _SENT_BYTES / len(sent))))


def _json(name: str, table: "pa.Table") -> str:
    sent = _rows_json(table)
    if len(sent) > _SENT_BYTES:
        raise ResourceError(
            f"{table.num_rows} pushed rows of '{name.removeprefix('towpath landing.')}' are {len(sent) >> 20} MiB; a job of BigQuery takes {_SENT_BYTES >> 20}.",
            mend="load what landed into a table of the warehouse, and read that one",
        )
    return sent


def _rows_json(table: "pa.Table") -> str:
    named = table.rename_columns([f"c{i}" for i in range(table.num_columns)])
    return msgspec.json.encode(named.to_pylist()).decode()


def _type(kind: "pa.DataType") -> str:
    import pyarrow as pa

    if pa.types.is_integer(kind):
        return "int64"
    if pa.types.is_timestamp(kind):
        return "timestamp"
    return {"bool": "bool", "double": "float64", "float": "float64", "date32[day]": "date"}.get(str(kind), "string")


def _parameter(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _tick(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"

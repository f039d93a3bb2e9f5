"""DuckDB, and the only place that imports it: SQL goes in, Arrow comes out, times are UTC microseconds."""

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from towpath.errors import ProjectError, ResourceError, TowpathError
from towpath.sql import Query, quoted
from towpath.types import utc
from towpath.warehouse.faults import line_in
from towpath.warehouse.leaving import converted, outgoing

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

__all__ = ["Engine"]

_NO_PARAMETERS: Mapping[str, object] = {}
_MOMENTS = dict.fromkeys(("as_of", "since", "until"), datetime(1970, 1, 1, tzinfo=UTC))
_NANOSECONDS_AND_OTHERS = ("TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S")
_BATCH_ROWS = 65_536
_TICK_S = 0.05


class Engine:
    """One DuckDB in memory that may spill to a folder of its own. Calls may come from many threads at once.

    Columns leave it as a model can take them: times as ``timestamp[us, tz=UTC]`` (a naive one *is* UTC), whole numbers
    too wide for 64 bits (DuckDB's ``sum`` of integers) as ``int64``, decimals as ``double``, enumerations as ``string``.

    Args:
        memory_mib: The most that queries may use before they spill to disk.
        threads: Threads of one query.

    Example:
        >>> import pyarrow as pa
        >>> engine = Engine(memory_mib=256, threads=1)
        >>> engine.register("shop.items", pa.table({"id": [1, 2], "price": [0.5, 2.5]}))
        >>> engine.read("select sum(price) as total from shop.items where id >= $low", {"low": 2}).to_pylist()
        [{'total': 2.5}]
        >>> engine.close()
    """

    def __init__(self, memory_mib: int = 2_048, threads: int = 2) -> None:
        self.memory_bytes = memory_mib << 20
        import duckdb

        self._spill = Path(tempfile.mkdtemp(prefix="towpath-spill-"))
        self._finalizer = weakref.finalize(self, shutil.rmtree, self._spill, ignore_errors=True)
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{memory_mib}MiB",
                "threads": threads,
                "temp_directory": str(self._spill),
                "autoinstall_known_extensions": False,
                # An Arrow table is estimated at one row, and a nested loop chosen for it: 1M x 10M rows did not end in 10 minutes.
                "asof_loop_join_threshold": 0,
            },
        )
        with _foreign_errors("", lambda _: None):
            self._connection.execute("set global TimeZone = 'UTC'")
        self._tables: dict[str, pa.Table] = {}
        self._explanations: list[Callable[[str], TowpathError | None]] = []
        self._lock = threading.RLock()

    @property
    def folder(self) -> Path:
        """A folder of its own, on disk, that goes when it is closed."""
        return self._spill

    def register(
        self,
        name: str,
        data: "pa.Table | pa.RecordBatchReader | Sequence[str]",
        *,
        at_least: "pa.Schema | None" = None,
    ) -> None:
        """Give a table a name; what had the name before is forgotten.

        Times of a nanosecond, millisecond or second clock become microseconds. A naive time stays naive inside SQL, so
        that ``at time zone 'Europe/London'`` reads a local one; compared with an instant, or on the way out, it is UTC.

        Args:
            name: ``table`` or ``schema.table``.
            data: An Arrow table (read in place), a reader (read once, now), or the paths of Parquet files (read when asked).
            at_least: Columns that the table has in any case; one that no file has is null.

        Raises:
            ProjectError: A file is missing or is no Parquet; the name has more than two parts.
        """
        import pyarrow as pa

        parts = name.split(".")
        if not 1 <= len(parts) <= 2 or not all(parts):  # noqa: PLR2004 - schema and table
            raise ProjectError(f"'{name}' is no table name.", name, "table, or schema.table")
        target = ".".join(quoted(part) for part in parts)
        with self._lock, self._errors(name):
            if len(parts) > 1:
                self._connection.execute(f"create schema if not exists {quoted(parts[0])}")
            if isinstance(data, pa.RecordBatchReader):
                data = pa.RecordBatchReader.read_all(data)
            if isinstance(data, pa.Table):
                inner = f"arrow of {name}"
                source = quoted(inner)
                self._connection.register(inner, data)
                self._tables[inner] = data
            else:
                self._tables.pop(f"arrow of {name}", None)
                files = ", ".join(_text(path) for path in data)
                source = f"read_parquet([{files}], union_by_name = true)"
            described = self._connection.execute(f"describe select * from {source}").fetchall()
            casts = [
                f"{quoted(c)}::timestamp as {quoted(c)}" for c, kind, *_ in described if kind in _NANOSECONDS_AND_OTHERS
            ]
            if isinstance(data, pa.Table):
                # Else a join on times hands its bounds to Arrow's scan as Python objects, which takes pytz and fails without.
                instants = [c for c, kind, *_ in described if kind == "TIMESTAMP WITH TIME ZONE"]
                casts += [f"make_timestamptz(epoch_us({quoted(c)})) as {quoted(c)}" for c in instants]
            replaced = f" replace ({', '.join(casts)})" if casts else ""
            added = "" if at_least is None else self._added(at_least, {column for column, *_ in described})
            self._connection.execute(f"create or replace view {target} as select *{replaced}{added} from {source}")

    def _added(self, schema: "pa.Schema", there: set[str]) -> str:
        """Columns of nulls for those that a table has not."""
        lacking = [field.name for field in schema if field.name not in there]
        if not lacking:
            return ""
        self._connection.register("nothing of it", schema.empty_table())
        types = self._connection.execute('describe select * from "nothing of it"').fetchall()
        self._connection.unregister("nothing of it")
        return "".join(f", null::{kind} as {quoted(name)}" for name, kind, *_ in types if name in lacking)

    def view(self, name: str, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> None:
        """Give a SELECT a name; it runs each time that it is read, with the parameters as they are now.

        Args:
            name: Of one part; what had the name before is forgotten.
            query: A parsed file; it may read what was registered, and other views.
            parameters: A value for each of its parameters; None is null.

        Raises:
            ProjectError: The engine refuses the SQL, or a parameter has no value.
        """
        with self._lock, self._errors(query):
            self._connection.execute(f"create or replace view {quoted(name)} as\n{_inlined(query, parameters)}")

    def when_refused(self, explain: Callable[[str], TowpathError | None]) -> None:
        """Ask somebody who knows the files better, when they cannot be read.

        Args:
            explain: Takes the engine's own words; gives the error to raise in place of the engine's, or None.
        """
        self._explanations.append(explain)

    def forget(self, name: str) -> None:
        """Take a name away again; no error where there is none."""
        target = ".".join(quoted(part) for part in name.split("."))
        with self._lock, self._errors(name):
            self._connection.execute(f"drop view if exists {target}")
            if self._tables.pop(f"arrow of {name}", None) is not None:
                self._connection.unregister(f"arrow of {name}")

    def read(self, sql: str | Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> "pa.Table":
        """Run a SELECT and give all of its rows.

        Args:
            sql: A parsed file, or text in DuckDB's own words with ``$name`` parameters.
            parameters: Values by name; those that the SQL does not name are left out, a naive time is UTC.

        Raises:
            ProjectError: The engine refuses the SQL, or a parameter has no value; says what the engine said.
            ResourceError: It needs more memory than the engine may use, and spilling does not help.
        """
        with self.stream(sql, parameters) as reader:
            return reader.read_all()

    @contextmanager
    def stream(
        self, sql: str | Query, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> Generator["pa.RecordBatchReader"]:
        """Run a SELECT and hand out its rows as they come, in batches; the memory used does not grow with them.

        Raises:
            ProjectError: As in `read`.
            ResourceError: As in `read`.

        Example:
            >>> engine = Engine(memory_mib=256, threads=1)
            >>> with engine.stream("select range as i from range(100000)") as reader:
            ...     sum(batch.num_rows for batch in reader)
            100000
        """
        import pyarrow as pa

        with self._session(sql) as (cursor, text), _stoppable(cursor) as run:
            bound = _bound(cursor, text, parameters)
            raw = run(lambda: cursor.execute(text, bound).to_arrow_reader(_BATCH_ROWS))
            schema = outgoing(raw.schema)
            batches = iter(lambda: run(lambda: next(raw, None)), None)
            yield pa.RecordBatchReader.from_batches(schema, (converted(batch, schema) for batch in batches))

    def describe(self, sql: str | Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> "pa.Schema":
        """Names and types of what a SELECT gives, without running it.

        Args:
            sql: As in `read`.
            parameters: ``as_of``, ``since`` and ``until`` may be left out; others must be given.

        Raises:
            ProjectError: As in `read`; or two columns have one name (the engine does not tell upper from lower case).
        """
        with self._session(sql) as (cursor, text):
            bound = _bound(cursor, text, {**_MOMENTS, **parameters})
            names = [name.lower() for name, *_ in cursor.execute(f"describe {text}", bound).fetchall()]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ProjectError(
                    f"Two columns are named '{twice[0]}'.", mend="give one of them another name with 'as'"
                )
            inner = f"select * from (\n{text}\n) limit 0"
            return outgoing(cursor.execute(inner, bound).to_arrow_table().schema)

    def write_parquet(
        self, sql: str | Query, path: Path | str, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> int:
        """Run a SELECT straight into one Parquet file and give the number of rows; a failure leaves no file.

        Raises:
            ProjectError: As in `read`.
            ResourceError: As in `read`.
        """
        import pyarrow.parquet as pq

        path = Path(path)
        unfinished = path.with_name(f".{path.name}.unfinished")
        rows = 0
        try:
            with (
                self.stream(sql, parameters) as reader,
                pq.ParquetWriter(unfinished, reader.schema, compression="zstd") as writer,
            ):
                for batch in reader:
                    rows += batch.num_rows
                    writer.write_batch(batch)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return rows

    def close(self) -> None:
        """Forget everything and remove what was spilled."""
        with self._lock:
            self._connection.close()
            self._tables.clear()
            self._finalizer()

    def _explained(self, said: str) -> TowpathError | None:
        return next((error for explain in self._explanations if (error := explain(said)) is not None), None)

    def _errors(self, asked: str | Query) -> AbstractContextManager[None]:
        return _foreign_errors(asked, self._explained)

    @contextmanager
    def _session(self, sql: str | Query) -> Generator["tuple[duckdb.DuckDBPyConnection, str]"]:
        """A cursor of its own, so that a reader that is still open survives the next query; and the SQL as text."""
        asked, text = (sql, sql.in_dialect("duckdb")) if isinstance(sql, Query) else ("", sql.strip().rstrip(";"))
        with self._errors(asked):
            with self._lock:
                cursor = self._connection.cursor()
                # What is registered on one cursor is unknown to the next.
                for inner, table in self._tables.items():
                    cursor.register(inner, table)
            try:
                yield cursor, text
            finally:
                cursor.close()


@contextmanager
def _stoppable(cursor: "duckdb.DuckDBPyConnection") -> Generator[Callable[[Callable[[], Any]], Any]]:
    """Makes calls in a thread of their own where this is the main one, which alone hears Ctrl-C and then stops the query.

    The engine looks for a signal between two tasks of a query, and one task may be most of it: 40 s for a join of two ranges.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda call: call()
        return
    with ThreadPoolExecutor(1, thread_name_prefix="towpath-query") as pool:

        def run(call: Callable[[], Any]) -> Any:
            running = pool.submit(call)
            try:
                return running.result()
            except KeyboardInterrupt:
                while not running.done():  # again and again: what has not begun yet does not hear it
                    cursor.interrupt()
                    wait((running,), _TICK_S)
                raise

        yield run


def _bound(cursor: "duckdb.DuckDBPyConnection", text: str, parameters: Mapping[str, object]) -> dict[str, object]:
    named = {name for statement in cursor.extract_statements(text) for name in statement.named_parameters}
    values = {name: parameters[name] for name in named if name in parameters}
    if missing := sorted(named - set(values)):
        raise ProjectError(f"The parameter ':{missing[0]}' has no value.", mend=f"give {missing[0]}=…")
    return {name: utc(value) if isinstance(value, datetime) else value for name, value in values.items()}


def _inlined(query: Query, parameters: Mapping[str, object]) -> str:
    """The SELECT with literals in place of parameters, put into the parse tree; a view cannot keep parameters."""
    from sqlglot import exp

    def literal(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Placeholder):
            return node
        if node.name not in parameters:
            raise ProjectError(f"The parameter ':{node.name}' has no value.", query.path, f"give {node.name}=…")
        value = parameters[node.name]
        if isinstance(value, datetime):
            return exp.cast(exp.Literal.string(utc(value).isoformat()), "timestamptz")
        return exp.convert(value)

    return query.tree.transform(literal).sql(dialect="duckdb", comments=False)


@contextmanager
def _foreign_errors(asked: str | Query, explained: Callable[[str], TowpathError | None]) -> Generator[None]:
    """Turn what DuckDB raises into ours; of a file with the line on which the word stands that it speaks of."""
    import duckdb

    where = asked.path if isinstance(asked, Query) else asked

    of_the_text = (duckdb.BinderException, duckdb.CatalogException, duckdb.ConversionException, duckdb.ParserException)

    try:
        yield
    except TowpathError as error:
        if where and not error.where:
            raise type(error)(error.what, where, error.mend) from error
        raise
    except RuntimeError as error:
        if str(error) == "Query interrupted":  # how the engine says that somebody pressed Ctrl-C
            raise KeyboardInterrupt from error
        raise
    except (duckdb.Error, OSError, MemoryError) as error:
        # a reader that is already open says it as an OSError of Arrow's, whose text alone tells
        if isinstance(error, (duckdb.OutOfMemoryException, MemoryError)) or _OUT_OF_MEMORY in str(error):
            raise ResourceError(
                f"The query needs more memory than it may use: {_said(error)}", where, "raise warehouse.memory_mib"
            ) from error
        better = None if isinstance(error, of_the_text) else explained(str(error))
        if better is not None:
            raise better from error
        said = _said(error)
        line = line_in(asked, said) if isinstance(asked, Query) and isinstance(error, of_the_text) else None
        place = f"{where}:{line}" if line else where
        raise ProjectError(f"The warehouse refuses: {said}", place, "mend the SQL or the table") from error


_OUT_OF_MEMORY = "Out of Memory Error"


def _said(error: BaseException) -> str:
    """The engine's own words, without its copy of the statement, and without the forty functions that take other types."""
    text = str(error).split("\n\nLINE ", maxsplit=1)[0].split("Candidate functions:", maxsplit=1)[0]
    return " ".join(text.split()) or type(error).__name__


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

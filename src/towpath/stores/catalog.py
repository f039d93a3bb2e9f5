"""What people look at: runs, incidents and checks, in SQLite or PostgreSQL, written by many processes at once."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from towpath.errors import ConflictError, ExtraError, FormatError, InputError, UnavailableError
from towpath.settings import masked

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy import URL, Connection, Engine

__all__ = ["Catalog", "Transaction"]

_BUSY_S = 30
_MIGRATIONS_LOCK = 7_302_918_441  # any number that no other program takes as its advisory lock
_READS = "towpath_reads"


class Transaction:
    """Statements that happen together or not at all; made by `Catalog.writing`."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def read(self, sql: str, /, **parameters: object) -> list[dict[str, Any]]:
        """Rows of a SELECT; see `Catalog.read`."""
        from sqlalchemy import text

        return [dict(row) for row in self._connection.execute(text(sql), parameters).mappings()]

    def write(self, sql: str, /, **parameters: object) -> int:
        """Run one statement and give the number of rows that it touched."""
        from sqlalchemy import text

        return self._connection.execute(text(sql), parameters).rowcount


class Catalog:
    """One database. Calls may come from many threads and processes at once; none waits for a reader.

    Times in it are microseconds since 1970 UTC (``_us``), structures are JSON text. The schema is brought up to date when
    the catalog is first used, once, whoever comes first.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://USER@HOST/DATABASE``.
        folder: What a relative path is relative to.

    Raises:
        InputError: The URL is of another kind.
        ExtraError: It is PostgreSQL and the driver is not installed.

    Example:
        >>> import tempfile
        >>> catalog = Catalog("sqlite:///catalog.db", Path(tempfile.mkdtemp()))
        >>> catalog.write(
        ...     "insert into checks (project, monitor, at_us, status) values (:project, 'did_it_run', 7, 'ok')",
        ...     project="shop",
        ... )
        1
        >>> catalog.read("select project, at_us from checks where status = :status", status="ok")
        [{'project': 'shop', 'at_us': 7}]
        >>> catalog.close()
    """

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self.url = masked(url)
        self._engine = _engine(url, folder or Path())
        self._ready = False

    def read(self, sql: str, /, **parameters: object) -> list[dict[str, Any]]:
        """Rows of a SELECT, as of one moment.

        Args:
            sql: SQL that both engines run, parameters written ``:name``.
            parameters: Their values.

        Raises:
            FormatError: The file is damaged, or is no database.
            UnavailableError: The database is away, busy for longer than 30 s, or cannot be opened.
        """
        self._migrate()
        with self._faults(), self._engine.connect() as connection:
            return Transaction(connection.execution_options(**{_READS: True})).read(sql, **parameters)

    def write(self, sql: str, /, **parameters: object) -> int:
        """Run one statement in a transaction of its own and give the number of rows that it touched.

        Raises:
            ConflictError: A row with that key exists.
            FormatError: The file is damaged, or is no database.
            UnavailableError: The database is away, busy for longer than 30 s, full, or cannot be written.
        """
        with self.writing() as transaction:
            return transaction.write(sql, **parameters)

    @contextmanager
    def writing(self) -> Generator[Transaction, None, None]:
        """Several statements in one transaction, undone when the block raises; keep it short, others wait for it.

        Raises:
            ConflictError: A row with that key exists.
            FormatError: The file is damaged, or is no database.
            UnavailableError: The database is away, busy for longer than 30 s, full, or cannot be written.
        """
        self._migrate()
        with self._faults(), self._engine.begin() as connection:
            yield Transaction(connection)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _migrate(self) -> None:
        """Apply the files of ``migrations/`` that this database has not seen, in order, each once."""
        if self._ready:
            return
        with self._faults():
            with self._engine.connect() as connection:
                missing = _files()[_applied(connection.execution_options(**{_READS: True})) :]
            if missing:
                self._apply()
        self._ready = True

    def _apply(self) -> None:
        with self._engine.begin() as connection:  # SQLite: `begin immediate`, so this is the lock already
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"select pg_advisory_xact_lock({_MIGRATIONS_LOCK})")
            connection.exec_driver_sql(
                "create table if not exists migrations (number bigint not null primary key, name text not null)"
            )
            for number, (name, script) in list(enumerate(_files(), 1))[_applied(connection) :]:
                for statement in _statements(script):
                    connection.exec_driver_sql(statement)
                connection.exec_driver_sql(f"insert into migrations (number, name) values ({number}, '{name}')")

    @contextmanager
    def _faults(self) -> Generator[None, None, None]:
        """SQLAlchemy's errors end here; a wrong statement is our own fault and passes as it is."""
        from sqlalchemy.exc import DatabaseError, IntegrityError, InterfaceError, OperationalError

        try:
            yield
        except IntegrityError as error:
            raise ConflictError(f"A row of that key exists: {error.orig}", self.url, "read it again") from error
        except (OperationalError, InterfaceError, DatabaseError) as error:
            said = str(error.orig).splitlines()[0]
            if "not a database" in said or "malformed" in said:
                raise FormatError(
                    f"The catalog is damaged: {said}.",
                    self.url,
                    "move the file away: versions, champions and the journal do not live in it, runs and incidents start anew",
                ) from error
            if "readonly" in said:
                raise UnavailableError(
                    "The catalog can only be read here.", self.url, "check the rights of its file and folder"
                ) from error
            if isinstance(error, OperationalError | InterfaceError) and "syntax error" not in said:
                mend = (
                    "another process holds it; wait"
                    if "locked" in said
                    else "check the address, the disk and its rights"
                )
                raise UnavailableError(f"The catalog does not answer: {said}.", self.url, mend) from error
            raise


def _engine(url: str, folder: Path) -> "Engine":
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import ArgumentError

    kinds = "sqlite:///PATH or postgresql://USER@HOST/DATABASE"
    try:
        parsed: URL = make_url(url)
    except ArgumentError:
        raise InputError(f"'{masked(url)}' is no database URL.", "stores.catalog", kinds) from None
    kind = parsed.get_backend_name()
    if kind == "postgresql":
        try:
            return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
        except ImportError as error:
            raise ExtraError(
                "PostgreSQL needs the library 'psycopg'.", masked(url), "uv add 'towpath[postgres]'"
            ) from error
    if kind != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise InputError(f"The catalog cannot be '{masked(url)}'.", "stores.catalog", kinds)
    path = (folder / parsed.database).resolve()
    if path.is_file() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return _read_only(path)
    with suppress(PermissionError, NotADirectoryError):  # the connection says it with the catalog's name
        path.parent.mkdir(parents=True, exist_ok=True)
    return _sqlite(parsed.set(database=str(path)))


def _read_only(path: Path) -> "Engine":
    """A database that this process may read and not write, such as that of a mounted copy."""
    from sqlalchemy import create_engine

    # SQLite wants to write beside a database in WAL mode even where it only reads, unless it is told that nobody writes
    log = path.with_name(f"{path.name}-wal")
    still = "" if log.is_file() and log.stat().st_size else "&immutable=1"
    return create_engine(
        f"sqlite:///file:{quote(str(path))}?mode=ro{still}&uri=true", connect_args={"timeout": _BUSY_S}
    )


def _sqlite(url: "URL") -> "Engine":
    from sqlalchemy import create_engine, event

    engine = create_engine(url, connect_args={"timeout": _BUSY_S})

    def opened(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # else the driver begins by itself, deferred, and a late write may fail
        _use_wal(connection)
        connection.execute("pragma synchronous = normal")

    def begun(connection: "Connection") -> None:
        connection.exec_driver_sql("begin" if _READS in connection.get_execution_options() else "begin immediate")

    event.listen(engine, "connect", opened)
    event.listen(engine, "begin", begun)
    return engine


def _use_wal(connection: "sqlite3.Connection") -> None:
    """Readers beside one writer. The file keeps the mode; the switch itself ignores the busy timeout, so we wait."""
    import sqlite3

    give_up = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _applied(connection: "Connection") -> int:
    """How many migrations the database has seen; a newer Towpath may have applied more than we know."""
    from sqlalchemy import inspect

    if not inspect(connection).has_table("migrations"):
        return 0
    return int(connection.exec_driver_sql("select count(*) from migrations").scalar_one())


def _files() -> list[tuple[str, str]]:
    folder = resources.files("towpath.stores") / "migrations"
    return sorted((file.name, file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".sql"))


def _statements(script: str) -> list[str]:
    code = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    return [statement for part in code.split(";\n") if (statement := part.strip().rstrip(";"))]

"""What the engines behind ADBC have in common: connections that are kept, parameters, and pushed rows that travel along."""

import threading
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from adbc_driver_manager import Error as DriverError

from towpath.errors import ProjectError, TowpathError
from towpath.sql import Query
from towpath.types import utc
from towpath.warehouse.files import Landing
from towpath.warehouse.landed import Landed, renamed

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pyarrow as pa

__all__ = ["AdbcWarehouse", "Session", "compiled", "refuse_twins", "without_notes"]

_NO_PARAMETERS: Mapping[str, object] = {}
_MOMENTS = dict.fromkeys(("as_of", "since", "until"), utc("1970-01-01"))
_IDLE_CONNECTIONS = 4


class Session(Protocol):
    """One connection that nobody else uses meanwhile; what it made goes when it ends."""

    last: str
    """The statement that ran last, for the place of an error."""

    def described(self, query: Query, parameters: Mapping[str, object]) -> "pa.Schema":
        """Names and types of what a query gives, as they will leave."""
        ...

    def selected(self, query: Query, parameters: Mapping[str, object]) -> "pa.RecordBatchReader":
        """Rows of a query in batches as they come."""
        ...

    def ingest(self, name: str, table: "pa.Table") -> None:
        """Put a table where only this session sees it."""
        ...


S = TypeVar("S", bound=Session)


class AdbcWarehouse(Generic[S]):
    """Tables behind a driver of ADBC. Calls may come from many threads at once; each has a connection of its own.

    An engine says how a connection is opened, begun and ended, what a session does, and what its errors mean.
    """

    def __init__(self, url: str, memory_mib: int) -> None:
        self.url = url
        """For people: without a password."""
        self._memory_mib = memory_mib
        self.landed: Landed | None = None
        """Knows the tables ``landing.<view>``; none where nobody said where pushed rows lie."""
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._closed = False

    def take_landed(self, landing: Landing) -> None:
        """From now on its queries may read ``landing.<view>``."""
        self.landed = Landed(landing, self, self._memory_mib)

    def describe(self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> "pa.Schema":
        """Names and types of what a query gives, without running it.

        Raises:
            ProjectError: A table is missing, two columns have one name, or the engine refuses the SQL.
            UnavailableError: The engine is away.
        """
        with self._session(query) as session:
            return session.described(self._with_landed(session, query, rows=False), {**_MOMENTS, **parameters})

    def read(self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> "pa.Table":
        """All rows of a query.

        Raises:
            ProjectError: As in `describe`, or a parameter has no value.
            ResourceError: The engine has not enough memory, disk or time for it, or cancelled it.
            UnavailableError: The engine is away.
        """
        with self.stream(query, parameters) as reader:
            return reader.read_all()

    @contextmanager
    def stream(
        self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> Generator["pa.RecordBatchReader"]:
        """Rows of a query in batches as they come; neither side keeps them all.

        Raises:
            ProjectError: As in `read`.
            ResourceError: As in `read`.
            UnavailableError: As in `read`.
        """
        with self._session(query) as session:
            yield session.selected(self._with_landed(session, query), parameters)

    def close(self) -> None:
        """Let go of the connections; one that is still read from goes when its reader is done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        if self.landed is not None:
            self.landed.close()

    @abstractmethod
    def tables(self) -> list[str]:
        """Names of all tables, sorted."""
        ...

    @abstractmethod
    def _opened(self) -> Any:
        """A new connection, set up."""
        ...

    @abstractmethod
    def _begun(self, connection: Any) -> None:
        """Make an idle connection ready; fails where it is gone."""
        ...

    @abstractmethod
    def _ended(self, connection: Any) -> None:
        """Leave nothing behind."""
        ...

    @abstractmethod
    def _on(self, connection: Any) -> "AbstractContextManager[S]":
        """A session on a connection."""
        ...

    @abstractmethod
    def _raise_ours(self, error: Exception, asked: Query | str, sent: str) -> NoReturn:
        """Turn what the driver raised into ours."""
        ...

    @contextmanager
    def _session(self, asked: Query | str) -> Generator[S]:
        """A session that is taken back in the end; what the driver raises inside becomes ours."""
        session = None
        connection = self._taken()
        sound = False
        try:
            with self._on(connection) as session:
                yield session
            sound = True
        except (DriverError, OSError) as error:
            self._raise_ours(error, asked, session.last if session else "")
        except TowpathError as error:
            if isinstance(asked, Query) and not error.where:
                raise type(error)(error.what, asked.path, error.mend) from error
            raise
        finally:
            self._given_back(connection, sound=sound)

    def _taken(self) -> Any:
        """An idle connection that still answers, else a new one."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            fresh = connection is None
            try:
                connection = connection or self._opened()
                self._begun(connection)
            except DriverError as error:
                if connection is not None:
                    connection.close()
                if fresh:
                    self._raise_ours(error, "", "")
            else:
                return connection

    def _given_back(self, connection: Any, *, sound: bool) -> None:
        """Kept for the next call; closed where anything went wrong, or enough of them are idle."""
        if sound:
            try:
                self._ended(connection)
                with self._lock:
                    if not self._closed and len(self._idle) < _IDLE_CONNECTIONS:
                        self._idle.append(connection)
                        return
            except DriverError:
                pass  # it went away after the last row was read; the next call takes another
        connection.close()

    def _with_landed(self, session: S, query: Query, *, rows: bool = True) -> Query:
        """The query with each table of pushed rows as one that the session holds."""
        tables = self.landed.among(query) if self.landed is not None else ()
        names = {table: f"towpath {table}" for table in tables}
        for table, name in names.items():
            assert self.landed is not None
            landed = self.landed.rows(table)
            session.ingest(name, landed if rows else landed.slice(0, 0))
        return renamed(query, names) if names else query


def compiled(query: Query, parameters: Mapping[str, object]) -> tuple[Sequence[str], Sequence[object]]:
    """Names and values of the parameters that a query takes and that are not null; a null stands in the SELECT.

    Raises:
        ProjectError: A parameter has no value.
    """
    if missing := [name for name in query.parameters if name not in parameters]:
        raise ProjectError(f"The parameter ':{missing[0]}' has no value.", query.path, f"give {missing[0]}=…")
    names = [name for name in query.parameters if parameters[name] is not None]
    values = [parameters[name] for name in names]
    return names, [utc(value) if isinstance(value, datetime) else value for value in values]


def refuse_twins(names: Sequence[str]) -> None:
    """Refuse two columns of one name.

    Raises:
        ProjectError: There are.
    """
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ProjectError(f"Two columns are named '{twice[0]}'.", mend="give one of them another name with 'as'")


def without_notes(schema: "pa.Schema") -> "pa.Schema":
    """Names and types, without what the driver wrote beside them."""
    import pyarrow as pa

    return pa.schema([(field.name, field.type) for field in schema])

"""Pushed rows for a warehouse that is a server: laid out on this machine, and sent along with the query that reads them."""

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from towpath.errors import ProjectError
from towpath.sql import Query, quoted
from towpath.warehouse.engine import Engine
from towpath.warehouse.files import Landing
from towpath.warehouse.snapshots import state_digest

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlglot import exp

__all__ = ["Landed", "TakesLanded", "history", "renamed"]

_NO_PARAMETERS: Mapping[str, object] = {}


class _Server(Protocol):
    def tables(self) -> list[str]: ...

    def describe(self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> "pa.Schema": ...


@runtime_checkable
class TakesLanded(Protocol):
    """A warehouse whose queries can read pushed rows. An engine of your own may leave it out."""

    def take_landed(self, landing: Landing) -> None:
        """From now on its queries may read ``landing.<view>``."""
        ...


class Landed:
    """What `towpath.journal.landing.LandingTables` asks of a warehouse, where the warehouse is a server.

    Args:
        landing: Knows the tables ``landing.<view>`` and fills them.
        server: Says what types the history has.
        memory_mib: The most that laying rows out may use before it spills.
    """

    def __init__(self, landing: Landing, server: _Server, memory_mib: int) -> None:
        self._landing = landing
        self._server = server
        self._memory_mib = memory_mib
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    @property
    def engine(self) -> Engine:
        """Lays the rows out; of this process, and made when the first table is asked for."""
        with self._lock:
            self._engine = self._engine or Engine(self._memory_mib, threads=1)
            return self._engine

    def among(self, query: Query) -> Sequence[str]:
        """The tables of pushed rows that a query reads; one of the server's own that has the name goes before it."""
        found = [table for table in query.tables if self._landing.has(table)]
        own = set(self._server.tables()) if found else set[str]()
        return [table for table in found if table not in own]

    def state(self, table: str) -> str:
        """What a table looks like now: another state, other rows.

        Raises:
            ProjectError: A column's type is said nowhere.
        """
        return state_digest(self._landing.prepare(self, table))

    def rows(self, table: str) -> "pa.Table":
        """All rows of a table as it stands now.

        Raises:
            ProjectError: A column's type is said nowhere.
        """
        self._landing.prepare(self, table)
        return self.engine.read(f"select * from {'.'.join(quoted(part) for part in table.split('.'))}")

    def describe(self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> "pa.Schema":
        """What a view gives, as its history says; where it has none, as its own casts say.

        Raises:
            ProjectError: The engine refuses the SQL, or pushed rows do not stand in a union with history.
        """
        landed = [table for table in query.tables if self._landing.has(table)]
        if landed and len(landed) == len(query.tables):
            return self.engine.describe(query, parameters)
        return self._server.describe(history(query, landed), parameters)

    def close(self) -> None:
        """Forget what was laid out."""
        if self._engine is not None:
            self._engine.close()


def history(query: Query, landed: Sequence[str]) -> Query:
    """The query without its legs of pushed rows; the types of the other legs are those of the view.

    Args:
        query: It reads them in a union.
        landed: Names of the tables of pushed rows.

    Raises:
        ProjectError: It reads them elsewhere too.

    Example:
        >>> view = Query.parse("select id, at from marts.visits union all select id, at from landing.visits")
        >>> history(view, ["landing.visits"]).in_dialect("postgres")
        'SELECT id, at FROM marts.visits'
    """
    from sqlglot import exp

    def reads(node: "exp.Expr | None") -> bool:
        return node is not None and any(_name(table) in landed for table in node.find_all(exp.Table))

    def without(node: "exp.Expr") -> "exp.Expr":
        while isinstance(node, exp.SetOperation) and reads(node):
            left, right, rest = node.this, node.expression, node.args.get("with_")
            if reads(left) == reads(right):
                return node
            node = right if reads(left) else left
            if rest is not None and node.args.get("with_") is None:
                node.set("with_", rest)
        return node

    tree = query.tree.copy().transform(without)
    if reads(tree):
        raise ProjectError(
            f"'{query.path}' reads '{landed[0]}' other than as one leg of a union, so nothing says what types its columns have.",
            query.path,
            f"select … from history union all select … from {landed[0]}",
        )
    return query.with_tree(tree) if isinstance(tree, exp.Query) else query


def renamed(query: Query, names: Mapping[str, str], schema: str = "") -> Query:
    """The query with other names for some of its tables; columns are still read by the names that the tables had.

    Args:
        query: It reads them.
        names: Table, with its schema where it has one → its other name.
        schema: Of the other names.

    Example:
        >>> renamed(Query.parse("select id from landing.visits"), {"landing.visits": "towpath landed"}).in_dialect("postgres")
        'SELECT id FROM "towpath landed" AS visits'
    """
    from sqlglot import exp

    def rename(node: "exp.Expr") -> "exp.Expr":
        if not isinstance(node, exp.Table) or (name := names.get(_name(node))) is None:
            return node
        alias = node.args.get("alias") or exp.TableAlias(this=exp.to_identifier(node.name))
        db = exp.to_identifier(schema) if schema else None
        return exp.Table(this=exp.to_identifier(name, quoted=True), db=db, alias=alias)

    tree = query.tree.copy().transform(rename)
    return query.with_tree(tree) if isinstance(tree, exp.Query) else query


def _name(table: "exp.Table") -> str:
    return ".".join(part.name for part in table.parts)

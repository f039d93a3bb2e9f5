"""Which source columns a feature is made of, read from the parse tree; where that cannot be said, it says so."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import msgspec

from towpath.sql import Query

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

__all__ = ["Lineage", "SourceColumn", "lineage"]

_NOT_ROWS = {"expressions", "kind", "hint", "with", "with_", "operation_modifiers", "windows"}
Schemas = Mapping[str, Sequence[str]]
"""Table → its columns."""


class SourceColumn(msgspec.Struct, frozen=True, order=True):
    """One column of one source table.

    Example:
        >>> str(SourceColumn("shop.sales", "units"))
        'shop.sales.units'
    """

    table: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """What a SELECT is made of."""

    tables: tuple[str, ...]
    """Source tables that it reads, sorted."""
    columns: dict[str, tuple[SourceColumn, ...] | None]
    """Column of the SELECT → source columns that its value is made of; None where that is not known, empty for a constant."""
    rows: tuple[SourceColumn, ...] | None
    """Columns that decide which rows there are: of joins, filters, groups, orders and limits. None where one is not known."""

    whole: bool
    """Whether all columns are known by name; not so where a star, or what stands for one, hides them."""

    def made_of(self, table: str, column: str) -> tuple[str, ...]:
        """Columns of the SELECT whose value is known to be made of a source column."""
        wanted = SourceColumn(table, column)
        return tuple(name for name, parts in self.columns.items() if parts is not None and wanted in parts)

    def reads(self, table: str, column: str) -> bool | None:
        """Whether a source column is read at all; None where that is not known."""
        if table not in self.tables:
            return False
        wanted, parts = SourceColumn(table, column), [*self.columns.values(), self.rows]
        if any(part is not None and wanted in part for part in parts):
            return True
        return None if None in parts or not self.whole else False


def lineage(query: Query, schemas: Schemas | None = None) -> Lineage:
    """Follow each column of a SELECT back to the tables, through joins, unions, subqueries and stars.

    Takes some 20 ms for a view of a hundred lines, so it is worked out when it is asked for, and kept.

    Args:
        query: A parsed file.
        schemas: Columns of the tables, as the warehouse has them; without them a star, and a bare name that two tables might
            give, is not known.

    Raises:
        ProjectError: The SQL does not parse.

    Example:
        >>> found = lineage(Query.parse("with p as (select id, a + b as c from s.t where d > 0) select id, c * 2 as e from p"))
        >>> [str(column) for column in found.columns["e"]], [str(column) for column in found.rows]
        (['s.t.a', 's.t.b'], ['s.t.d'])
    """
    kept = tuple(sorted((table, tuple(columns)) for table, columns in (schemas or {}).items()))
    return _lineage(query.path, query.text, kept)


@lru_cache(256)
def _lineage(path: str, text: str, schemas: tuple[tuple[str, tuple[str, ...]], ...]) -> Lineage:
    from sqlglot import exp
    from sqlglot.errors import SqlglotError
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.optimizer.scope import build_scope

    query = Query.parse(text, path)
    tables = query.tables
    known = {table: columns for table, columns in schemas if table in tables}
    names = {table.lower(): table for table in tables}
    tree = _with_plain_tables(query.tree.copy())
    try:
        scope = build_scope(
            qualify(
                tree,
                dialect="duckdb",
                schema={
                    table.lower(): {column.lower(): "unknown" for column in columns} for table, columns in known.items()
                },
                validate_qualify_columns=False,
                identify=False,
            )
        )
    except (SqlglotError, RecursionError, KeyError, ValueError, TypeError, AttributeError, IndexError):
        scope = None  # it parses, and its optimizer stumbles: that is "unknown" and no fault of the view
    if scope is None or _reads_itself(query.tree) or query.tree.find(exp.Pivot):
        unknown: dict[str, tuple[SourceColumn, ...] | None] = {
            name: None for name in query.tree.named_selects if name != "*"
        }
        return Lineage(tables=tables, columns=unknown, rows=None, whole=False)
    walk = _Walk(names, {table.lower(): {c.lower(): c for c in columns} for table, columns in known.items()})
    written = {name.lower(): name for name in query.tree.named_selects}
    columns = {written.get(name, name): _sorted(walk.output(scope, i)) for i, name in enumerate(_outputs(scope))}
    hidden = [name for name, select in zip(columns, _selects(scope), strict=False) if _hides_columns(select)]
    whole = not hidden and len(columns) == len(_selects(scope))
    for name in hidden:
        columns.pop(name)
    return Lineage(tables=tables, columns=columns, rows=_sorted(walk.rows(scope)), whole=whole)


Found = frozenset[SourceColumn] | None


class _Walk:
    """From a column of a scope to those of the tables below it; None, once met, stays."""

    def __init__(self, names: Mapping[str, str], columns: Mapping[str, Mapping[str, str]]) -> None:
        self._names = names
        self._columns = columns
        self._seen: dict[tuple[int, str], Found] = {}
        self._rows: dict[int, Found] = {}

    def output(self, scope: "Scope", position: int) -> Found:
        """What the column at a position of a SELECT, or of each side of a union, is made of."""
        from sqlglot import exp

        if isinstance(scope.expression, exp.SetOperation):
            if scope.expression.args.get("by_name"):
                return None
            return _all(self.output(side, position) for side in scope.set_operation_scopes)
        selects = _selects(scope)
        if position >= len(selects) or any(select.is_star for select in selects):
            return None
        return self.expression(scope, selects[position])

    def rows(self, scope: "Scope") -> Found:
        """What decides which rows a scope gives: its own filters, joins and groups, and those of what it reads."""
        from sqlglot import exp
        from sqlglot.optimizer.scope import Scope

        if id(scope) in self._rows:
            return self._rows[id(scope)]
        self._rows[id(scope)] = None  # a query that reads itself is not followed
        read = [source for _, source in scope.selected_sources.values() if isinstance(source, Scope)]
        found = [self.rows(inner) for inner in [*scope.set_operation_scopes, *read]]
        for part, node in scope.expression.args.items() if isinstance(scope.expression, exp.Select) else ():
            if part == "distinct" and node:  # which rows are the same is a question to all of them
                found += [self.expression(scope, select) for select in _selects(scope)]
            elif part not in _NOT_ROWS:
                pieces = node if isinstance(node, list) else [node]
                found += [self.expression(scope, piece) for piece in pieces if isinstance(piece, exp.Expr)]
        self._rows[id(scope)] = _all(found)
        return self._rows[id(scope)]

    def expression(self, scope: "Scope", node: "exp.Expr") -> Found:
        """What a piece of a SELECT is made of; the queries within it, which it does not name by columns, included."""
        from sqlglot import exp

        found: list[Found] = []
        for part in _own_nodes(node):
            if isinstance(part, exp.Columns | exp.TableColumn) or (isinstance(part, exp.Star) and not _counted(part)):
                return None  # more columns than are named: a pattern, a whole row
            if isinstance(part, exp.Window) and part.alias:  # over w: the window's own columns stand at the end
                windows = scope.expression.args.get("windows") or []
                named = next((one for one in windows if one.name.lower() == part.alias.lower()), None)
                found.append(None if named is None or named is node else self.expression(scope, named))
            if isinstance(part, exp.Column):
                found.append(self._column(scope, part))
            elif isinstance(part, exp.Query) and part is not node and not isinstance(part.parent, exp.From | exp.Join):
                inner = next((one for one in scope.subquery_scopes if one.expression is part.unnest()), None)
                if inner is None:
                    if isinstance(part.parent, exp.Subquery) and isinstance(part.parent.parent, exp.From | exp.Join):
                        continue  # a derived table: its columns are asked for by name
                    return None
                found += [self.rows(inner), *(self.output(inner, i) for i in range(len(_selects(inner))))]
        return _all(found)

    def _column(self, scope: "Scope", column: "exp.Column") -> Found:
        if not column.table:
            return self._bare(scope, column)
        around: Scope | None = scope
        while around is not None:
            if column.table in around.sources:
                return self._of_source(around.sources[column.table], column.name.lower())
            around = around.parent  # a correlated subquery reads from the one around it
        return None

    def _bare(self, scope: "Scope", column: "exp.Column") -> Found:
        """A name that nobody could give to a table: an alias of the SELECT, or of the only table where its columns are not known."""
        from sqlglot import exp

        own = [one for one in _selects(scope) if one.alias.lower() == column.name.lower()]
        if own and not column.find_ancestor(exp.Alias):
            return self.expression(scope, own[0].this) if column.find_ancestor(exp.Order) and len(own) == 1 else None
        sources = [source for _, source in scope.selected_sources.values()]
        row = column.name.lower() in {name.lower() for name in scope.selected_sources}
        if len(sources) != 1 or row or scope.is_subquery or column.find_ancestor(exp.Lambda):
            return None
        return self._of_source(sources[0], column.name.lower())

    def _of_source(self, source: Any, name: str) -> Found:
        key = (id(source), name)
        if key not in self._seen:
            self._seen[key] = None  # a query that reads itself is not followed
            self._seen[key] = self._found(source, name)
        return self._seen[key]

    def _found(self, source: Any, name: str) -> Found:
        from sqlglot import exp
        from sqlglot.optimizer.scope import Scope

        if isinstance(source, exp.Table):
            table = self._names.get(source.name.lower())
            if table is None or source.args.get("pivots"):
                return None
            columns = self._columns.get(source.name.lower())
            if columns is None:
                return frozenset([SourceColumn(table, name)])
            return frozenset([SourceColumn(table, columns[name])]) if name in columns else None
        if not isinstance(source, Scope) or source.is_udtf or not isinstance(source.expression, exp.Query):
            return None
        if source.expression.args.get("pivots"):
            return None
        outputs = _outputs(source)
        return self.output(source, outputs.index(name)) if outputs.count(name) == 1 else None


def _with_plain_tables(tree: "exp.Query") -> "exp.Query":
    """Each source table under one name of one part, because a schema of tables with and without dots cannot be looked up."""
    from sqlglot import exp
    from sqlglot.optimizer.scope import traverse_scope

    tables = [
        source for scope in traverse_scope(tree) for source in scope.sources.values() if isinstance(source, exp.Table)
    ]
    for table in {id(table): table for table in tables if table.args.get("db")}.values():
        dotted = ".".join(part.name for part in table.parts)
        if not table.alias:
            table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
        table.set("this", exp.to_identifier(dotted, quoted=True))
        table.set("db", None)
        table.set("catalog", None)
    for column in tree.find_all(exp.Column):
        if column.args.get("db"):  # shop.sales.units; of a struct's field the parser makes a dot instead
            column.set("db", None)
            column.set("catalog", None)
    return tree


def _reads_itself(tree: "exp.Query") -> bool:
    """Whether a table expression is recursive: its columns may change places from round to round."""
    from sqlglot import exp

    return any(
        table.name.lower() == cte.alias.lower()
        for found in tree.find_all(exp.With)
        if found.recursive
        for cte in found.expressions
        for table in cte.this.find_all(exp.Table)
    )


def _hides_columns(select: "exp.Expr") -> bool:
    from sqlglot import exp

    return select.is_star or select.find(exp.Columns) is not None


def _counted(star: "exp.Expr") -> bool:
    from sqlglot import exp

    return isinstance(star.parent, exp.Count)


def _own_nodes(node: "exp.Expr") -> Iterator["exp.Expr"]:
    """The nodes of a piece, without going into the queries within it."""
    from sqlglot import exp

    return node.walk(prune=lambda part: isinstance(part, exp.Query) and part is not node)


def _selects(scope: "Scope") -> "list[exp.Expr]":
    return cast("exp.Query", scope.expression).selects


def _outputs(scope: "Scope") -> list[str]:
    """Names of what a scope gives; those of a table expression may be given beside its alias: ``cte(a, b)``."""
    return [name.lower() for name in cast("exp.Query", scope.expression).named_selects]


def _all(parts: Iterator[Found] | Sequence[Found]) -> Found:
    whole: frozenset[SourceColumn] = frozenset()
    for part in parts:
        if part is None:
            return None
        whole |= part
    return whole


def _sorted(found: Found) -> tuple[SourceColumn, ...] | None:
    return None if found is None else tuple(sorted(found))

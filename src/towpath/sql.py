"""A .sql file: its header, its parameters, its tables, and its text in an engine's own dialect."""

import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast, get_args

import msgspec

from towpath.errors import ProjectError, nearest
from towpath.types import Dialect

if TYPE_CHECKING:
    from sqlglot import exp

__all__ = ["Query", "quoted"]

_HIDDEN = re.compile(r"""--[^\n]*|/\*.*?\*/|'(?:''|[^'])*'|"(?:""|[^"])*"|\$\$.*?\$\$""", re.DOTALL)
"""Comments, texts and quoted names: words in them are no code."""
_FOREIGN_PARAMETER = re.compile(r"(?<![\w$])\$(\w+)|\?")
_BARE_PARAMETER = re.compile(r"\bselect\s+\(?\s*:\w|,\s*\(\s*:\w", re.IGNORECASE)
_OPEN, _CLOSE = "/* ---", "--- */"
_IMPURE = {
    "CurrentDate": "current_date",
    "CurrentTime": "current_time",
    "CurrentTimestamp": "current_timestamp|now|getdate|sysdate",
    "CurrentDatetime": "current_datetime",
    "Localtime": "localtime",
    "Localtimestamp": "localtimestamp",
    "Rand": "random|rand",
    "Randn": "randn",
    "Shuffle": "shuffle",
    "TableSample": "sample",
    "Uuid": "uuid|gen_random_uuid|generate_uuid|uuid_string",
}
"""What the parser makes of it, and the words that it may be written with."""
_IMPURE_NAMES = {
    "now",
    "get_current_time",
    "get_current_timestamp",
    "transaction_timestamp",
    "clock_timestamp",
    "statement_timestamp",
    "timeofday",
    "sysdate",
    "systimestamp",
    "getdate",
    "generate_uuid",
    "uuid_string",
    "randstr",
    "current_localtimestamp",
    "current_localtime",
    "today",
    "random",
    "setseed",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "nextval",
    "txid_current",
}
_POSTGRES_PARTS = {
    **{
        name: name for name in ("century", "decade", "dow", "doy", "isodow", "isoyear", "millennium", "quarter", "week")
    },
    **{name: name for name in ("day", "hour", "minute", "month", "second", "year")},
    **dict.fromkeys(("dayofweek", "weekday", "day_of_week"), "dow"),
    **dict.fromkeys(("dayofweekiso", "dayofweek_iso"), "isodow"),
    **dict.fromkeys(("dayofmonth", "day_of_month"), "day"),
    **dict.fromkeys(("dayofyear", "day_of_year"), "doy"),
    **dict.fromkeys(("weekofyear", "week_of_year"), "week"),
}
"""Parts of a time that are whole numbers in DuckDB, by every name of theirs, and what PostgreSQL calls them."""
_IMPURE_MOMENTS = {"now", "today", "tomorrow", "yesterday"}
"""Texts that become a time of their own when they are cast to one."""


def quoted(name: str) -> str:
    """Quote an identifier for SQL; a dotted name is one identifier, not two.

    Example:
        >>> quoted('a"b')
        '"a""b"'
    """
    return '"' + name.replace('"', '""') + '"'


class Query(msgspec.Struct, frozen=True, dict=True, kw_only=True):
    r"""One SELECT with a TOML header in its leading comment and ``:name`` parameters.

    Example:
        >>> query = Query.parse("/* ---\nentity = 'id'\n--- */\nselect id from shop.items where d <= :as_of")
        >>> query.header, query.parameters, query.tables
        ({'entity': 'id'}, ('as_of',), ('shop.items',))
        >>> query.in_dialect("duckdb")
        'SELECT id FROM shop.items WHERE d <= $as_of'
    """

    path: str
    """Where it was read from, for messages."""
    text: str
    """The whole file."""
    body: str
    """What follows the header."""
    header_text: str
    """The TOML between the marks; empty where there is none."""
    header: dict[str, object]
    """The TOML, not yet checked."""
    header_line: int
    """Line of the file on which the header's first line stands, counted from 1."""
    body_line: int
    """Line of the file on which the body begins, counted from 1."""

    @classmethod
    def parse(cls, text: str, path: str = "<sql>", *, dialect: Dialect = "duckdb") -> "Query":
        """Split a file into header and body and read the header; the SELECT is parsed when it is first asked for.

        Args:
            text: The whole file.
            path: Where it was read from, for messages.
            dialect: Whose SQL it is where its header does not say. The query then says it in a header of its own, so that it
                travels with the text, and no line moves.

        Raises:
            ProjectError: The header is not closed or is no TOML; ``problems`` says ``path:line``.
        """
        lead = len(text) - len(text.lstrip())
        header_text, body, header_line, body_line = "", text, 1, 1
        if text.startswith(_OPEN, lead):
            end = text.find(_CLOSE, lead)
            line = text.count("\n", 0, lead) + 1
            if end < 0:
                raise _problem(
                    path, line, "the header is opened with '/* ---' and never closed", "close it with '--- */'"
                )
            header_text = text[lead + len(_OPEN) : end].lstrip("\n")
            header_line = line + text.count("\n", lead, end - len(header_text))
            body = text[end + len(_CLOSE) :]
            body_line = text.count("\n", 0, end + len(_CLOSE)) + 1
        try:
            header = tomllib.loads(header_text)
        except tomllib.TOMLDecodeError as error:
            at = (
                header_line + getattr(error, "lineno", 1) - 1
                if hasattr(error, "lineno")
                else _toml_line(str(error), header_line)
            )
            raise _problem(
                path, at, f"the header is no TOML: {str(error).split(' (at ')[0]}", "key = value, one a line"
            ) from error
        if dialect != "duckdb" and "dialect" not in header:
            said = f'{_OPEN} dialect = "{dialect}"'
            whole = text[:lead] + said + text[lead + len(_OPEN) :] if body is not text else f"{said} {_CLOSE} {text}"
            return cls.parse(whole, path)
        return cls(
            path=path,
            text=text,
            body=body,
            header_text=header_text,
            header=header,
            header_line=header_line,
            body_line=body_line,
        )

    @property
    def dialect(self) -> Dialect:
        """Whose SQL it is written in: what the header says, DuckDB's unless given. So it travels wherever the file is kept."""
        said = self.header.get("dialect")
        return cast("Dialect", said) if said in get_args(Dialect) else "duckdb"

    @property
    def select_line(self) -> int:
        """Line of the file on which the SELECT begins, counted from 1."""
        return self._line_at(len(self.body) - len(_visible(self.body).lstrip()))

    @cached_property
    def tree(self) -> "exp.Query":
        """The parsed SELECT.

        Raises:
            ProjectError: It does not parse, is more than one statement, writes, or asks for the time or for chance.
        """
        import sqlglot
        from sqlglot import exp
        from sqlglot.errors import SqlglotError

        try:
            parsed = [tree for tree in sqlglot.parse(self.body, read=self.dialect) if tree is not None]
        except SqlglotError as error:
            detail = cast("list[dict[str, str]]", getattr(error, "errors", None) or [{}])[0]
            line = self.body_line + int(detail.get("line") or _token_line(error)) - 1
            near = f" near '{detail['highlight']}'" if detail.get("highlight") else ""
            said = str(detail.get("description") or str(error).splitlines()[0]).split(" but got <Token")[0].rstrip(".")
            # Right after `select`, DuckDB's parser takes a colon for the end of a name, as in `select total: a + b`.
            bare = _BARE_PARAMETER.search(_visible(self.body))
            mend = "write cast(:name as …) as the first thing of a column" if bare else "mend the statement"
            raise _problem(self.path, line, f"the SQL does not parse{near}: {said}", mend) from error
        statements = [tree for tree in parsed if not isinstance(tree, exp.Semicolon)]
        if len(statements) != 1:
            raise _problem(
                self.path,
                self.select_line,
                f"{len(statements)} statements where one SELECT is needed",
                "keep one SELECT",
            )
        tree = statements[0]
        if not isinstance(tree, exp.Query) or tree.find(
            exp.DML,  # pyright: ignore[reportPrivateImportUsage] - it is in no __all__ there
            exp.DDL,
            exp.Command,
            exp.Into,
        ):
            raise _problem(
                self.path, self.select_line, f"a {tree.key.upper()} where one SELECT is needed", "read only: select …"
            )
        problems = [
            f"{self.path}:{self._line_at(at)}: '{name}' is not replayable; use :as_of, :since or :until"
            for at, name in _impure(tree, self.body)
        ]
        if problems:
            raise ProjectError(
                f"'{self.path}' asks for the time or for chance.", self.path, "use :as_of, :since or :until", problems
            )
        places = _FOREIGN_PARAMETER.finditer(_visible(self.body))
        if self.dialect != "duckdb" and all(node.name for node in tree.find_all(exp.Placeholder)):
            places = (
                place for place in places if place[0] != "?"
            )  # there it is an operator: does the JSON have a key?
        if foreign := next(iter(places), None):
            line = self._line_at(foreign.start())
            raise _problem(self.path, line, f"'{foreign[0]}' is no parameter here", f"write :{foreign[1] or 'name'}")
        return tree

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the ``:name`` parameters, sorted."""
        from sqlglot import exp

        return tuple(sorted({node.name for node in self.tree.find_all(exp.Placeholder) if node.name}))

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """Tables that are read, without the query's own common table expressions, sorted; ``schema.table`` or ``table``."""
        from sqlglot import exp
        from sqlglot.optimizer.scope import traverse_scope

        found = {
            ".".join(part.name for part in source.parts)
            for scope in traverse_scope(self.tree)
            for source in scope.sources.values()
            if isinstance(source, exp.Table) and source.name
        }
        return tuple(sorted(found))

    def with_tree(self, tree: "exp.Query") -> "Query":
        """A query that was built around this one's parse tree; messages still name the file."""
        made = msgspec.structs.replace(self)
        vars(made)["tree"] = tree
        return made

    def in_dialect(self, dialect: str) -> str:
        """The SELECT in an engine's own words, parameters in its own spelling; built from the parse tree.

        Args:
            dialect: A dialect of SQLGlot, such as ``duckdb`` or ``postgres``.

        Raises:
            ProjectError: As in `check_runs_on`.
        """
        self.check_runs_on(dialect)
        if dialect not in self._written:  # 2 ms each time, and a view is asked for day after day
            self._written[dialect] = _with_parts(self.tree, self.dialect, dialect).sql(dialect=dialect, comments=False)
        return self._written[dialect]

    def numbered(self, dialect: str, names: Sequence[str]) -> str:
        """The SELECT in an engine's own words, with ``$1``, ``$2`` … for parameters; those not named are null.

        Example:
            >>> query = Query.parse("select a from v where t <= :until and t >= :since and x = :x")
            >>> query.numbered("postgres", ["since", "until"])
            'SELECT a FROM v WHERE t <= $2 AND t >= $1 AND x = NULL'
        """
        from sqlglot import exp

        self.check_runs_on(dialect)

        def number(node: exp.Expr) -> exp.Expr:
            if not isinstance(node, exp.Placeholder) or not node.name:
                return node
            if node.name not in names:
                return exp.Null()
            return exp.Parameter(this=exp.Literal.number(names.index(node.name) + 1))

        kept = f"{dialect} {' '.join(names)}"
        if kept not in self._written:
            tree = _with_parts(self.tree.transform(number), self.dialect, dialect)
            self._written[kept] = tree.sql(dialect=dialect, comments=False)
        return self._written[kept]

    def line_of(self, word: str) -> int | None:
        r"""Line of the file on which a word of the SELECT first stands, counted from 1; None where it does not."""
        found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", _visible(self.body), re.IGNORECASE)
        return self._line_at(found.start()) if found else None

    @cached_property
    def _written(self) -> dict[str, str]:
        return {}

    def check_runs_on(self, engine: str) -> None:
        """Refuse another engine than the one whose SQL the file is written in; DuckDB's is translated to each.

        The other way would be a guess: whether PostgreSQL's ``a / b`` cuts the fraction off hangs on types that no parser knows.

        Raises:
            ProjectError: With the line of the header.
        """
        if self.dialect in {"duckdb", engine}:
            return
        at = next((i for i, line in enumerate(self.header_text.split("\n")) if line.startswith("dialect")), 0)
        raise ProjectError(
            f"'{self.path}' is written for '{self.dialect}', and '{engine}' is asked to run it.",
            f"{self.path}:{self.header_line + at}",
            f"take dialect = '{self.dialect}' out and write DuckDB's SQL, which is translated to each engine; or mend warehouse.url",
        )

    def check_parameters(self, allowed: Iterable[str]) -> None:
        """Refuse a parameter that nobody will bind.

        Raises:
            ProjectError: With the nearest allowed name.
        """
        known = sorted(allowed)
        unknown = [name for name in self.parameters if name not in known]
        if unknown:
            problems = [
                f"{self.path}:{self._line_of(':' + name)}: unknown parameter ':{name}'{nearest(name, known)}"
                for name in unknown
            ]
            raise ProjectError(f"'{self.path}' takes a parameter that nobody gives.", self.path, problems=problems)

    def _line_of(self, parameter: str) -> int:
        found = re.search(rf"(?<![:\w]){re.escape(parameter)}\b", _visible(self.body))
        return self._line_at(found.start() if found else 0)

    def _line_at(self, offset: int) -> int:
        return self.body_line + self.body.count("\n", 0, offset)


def _with_parts(tree: "exp.Expr", own: str, dialect: str) -> "exp.Expr":
    """``dayofweek(t)``, ``extract(month from t)`` and the like as PostgreSQL says them: whole numbers, as in DuckDB.

    SQLGlot writes half of them as functions that PostgreSQL does not have, and the others as its ``extract``, a numeric.
    """
    from sqlglot import exp

    if (own, dialect) != ("duckdb", "postgres"):
        return tree
    tree = tree.copy()
    for node in reversed(list(tree.walk())):  # the inner ones first, for what is put in their place is a copy
        part, time = _part_of(node)
        if time is not None and (name := _POSTGRES_PARTS.get(part.lower())):
            found: exp.Expr = exp.Extract(this=exp.var(name), expression=time)
            node.replace(exp.cast(exp.func("floor", found) if name == "second" else found, "bigint"))
    return tree


def _part_of(node: "exp.Expr") -> "tuple[str, exp.Expr | None]":
    """Which part of which time a node asks for; of none where it is none of those functions."""
    from sqlglot import exp

    if isinstance(node, exp.Extract):
        return node.name, node.expression
    if isinstance(node, exp.Anonymous) and node.name.lower() in {"date_part", "datepart"}:
        part, *time = node.expressions
        return part.name, time[0] if time else None
    if isinstance(node, exp.Func):
        return type(node).__name__, node.args.get("this")
    return "", None


def _impure(tree: "exp.Query", body: str) -> Sequence[tuple[int, str]]:
    """Where in the body something is asked for that differs from run to run, and what, as it is written there."""
    from sqlglot import exp

    found: set[tuple[int, str]] = set()
    for node in tree.find_all(exp.Func, exp.TableSample):
        kind = type(node).__name__
        # age(x) with one argument counts from today.
        anonymous = node.name.lower() if isinstance(node, exp.Anonymous) else ""
        aged = anonymous == "age" and len(node.expressions) == 1
        if kind not in _IMPURE and anonymous not in _IMPURE_NAMES and not aged:
            continue
        if "start" in node.meta:
            start = int(node.meta["start"])
            found.add((start, body[start : int(node.meta["end"]) + 1].lower() + "()"))
        else:  # a keyword without brackets: the parser keeps no place
            words = _IMPURE[kind]
            matches = list(re.finditer(rf"\b({words})\b", _visible(body), re.IGNORECASE))
            found.update((match.start(), match[0].lower()) for match in matches)
            if not matches:
                found.add((0, words.partition("|")[0]))
    for node in tree.find_all(exp.Cast):
        text = node.this.name.strip().lower() if isinstance(node.this, exp.Literal) else ""
        if text in _IMPURE_MOMENTS and node.to.is_type(*exp.DataType.TEMPORAL_TYPES):
            place = re.search(rf"'\s*{text}\s*'", body, re.IGNORECASE)
            found.add((place.start() if place else 0, text))
    return sorted(found)


def _visible(body: str) -> str:
    """The body with comments and texts blanked, letter for letter."""
    return _HIDDEN.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), body)


def _token_line(error: BaseException) -> int:
    found = re.search(r"from (\d+):\d+", f"{error} {error.__cause__}")
    return int(found[1]) if found else 1


def _toml_line(message: str, header_line: int) -> int:
    marker = "(at line "
    if marker not in message:
        return header_line
    return header_line + int(message.split(marker)[1].split(",", maxsplit=1)[0]) - 1


def _problem(path: str, line: int, what: str, mend: str) -> ProjectError:
    return ProjectError(f"'{path}' cannot be read.", f"{path}:{line}", mend, [f"{path}:{line}: {what}; {mend}"])

"""Sources of a project: whether the tables that it reads are well, and what hangs on one that is not."""

import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import msgspec

from towpath.errors import ConflictError, TowpathError
from towpath.platform import shown
from towpath.platform.remembered import SeenColumn, SeenSource, recall, remember
from towpath.project.sources import KINDS, SourceDeclaration, kind_of
from towpath.sql import Query, quoted
from towpath.types import duration, duration_text, type_name, type_names
from towpath.warehouse import FileWarehouse

if TYPE_CHECKING:
    from towpath.features.lineage import Lineage
    from towpath.monitors import Checked
    from towpath.platform.opened import Platform

__all__ = ["Illness", "SourceRow", "Sources"]

_DAY = timedelta(days=1)


class Illness(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a source table, and what hangs on it."""

    source: str
    kind: Literal["missing", "late", "few", "many", "columns"]
    what: str
    """In words, with values and limits."""
    owner: str = ""
    features: tuple[str, ...] = ()
    """``view.feature`` whose values are made of what is ill; ``view.*`` where all are, or where lineage cannot tell."""
    models: tuple[str, ...] = ()
    """Models of the project that read one of these features, or the table itself in ``training.sql``."""

    def __str__(self) -> str:
        owner = f" ({self.owner})" if self.owner else ""
        hangs = [_named("feature", self.features)] if self.features else []
        hangs += [_named("model", self.models)] if self.models else []
        return f"source '{self.source}'{owner}: {self.what}" + (f"; on it hang {' and '.join(hangs)}" if hangs else "")


class SourceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``tow sources``."""

    source: str
    state: Literal["ok", "ill", "not declared"]
    """``not declared``: it stands in no ``sources.toml``, and only its columns are looked at."""
    landed: datetime | None
    """When the newest row landed, as far as that can be told."""
    rows_a_day: int | None
    """Rows of the newest whole day on which any landed; None where nothing is expected."""
    owner: str
    views: tuple[str, ...]
    models: tuple[str, ...]
    """Models that read one of these views, or the table itself in ``training.sql``."""
    ill: tuple[Illness, ...] = ()
    """What is wrong with it."""


class Sources:
    """What ``platform.sources`` is: the tables that views and spines read."""

    def __init__(self, platform: "Platform") -> None:
        self._platform = platform

    def __repr__(self) -> str:
        return shown.or_the_fault(lambda: shown.as_text(self._title(), self._shown()))

    def _repr_html_(self) -> str:
        return shown.or_the_fault(lambda: shown.as_html(self._title(), self._shown()), html=True)

    def _title(self) -> str:
        return f"Source tables of {self._platform.settings.project.name}"

    def _shown(self) -> list[dict[str, object]]:
        """As the files say; the warehouse is not asked."""
        declared = self._platform.project.sources
        return [
            {
                "source": table,
                "owner": declared[table].owner if table in declared else None,
                "freshness": declared[table].freshness if table in declared else None,
                "views": self.views_of(table),
                "models": self._models(table, self.views_of(table)),
            }
            for table in self.tables()
        ]

    def tables(self) -> tuple[str, ...]:
        """Every table that a view or a ``training.sql`` reads, or that is declared, sorted; not the views' own landing tables."""
        project = self._platform.project
        read = [table for view in project.views.values() for table in view.query.tables]
        read += [table for model in project.models.values() for table in model.training.query.tables]
        return tuple(sorted({*self._foreign(read), *project.sources}))

    def views_of(self, table: str) -> tuple[str, ...]:
        """The views of the project that read a table."""
        return tuple(name for name, view in self._platform.project.views.items() if table in view.query.tables)

    def list(self) -> "list[SourceRow]":
        """One row for each table, and whether it is well.

        Raises:
            UnavailableError: The warehouse or the object store does not answer.
        """
        rows: list[SourceRow] = []
        declared = self._platform.project.sources
        for table in self.tables():
            ill, landed, count = self._look(table)
            views = self.views_of(table)
            rows.append(
                SourceRow(
                    source=table,
                    state="ill" if ill else "ok" if table in declared else "not declared",
                    landed=landed,
                    rows_a_day=count,
                    owner=declared[table].owner if table in declared else "",
                    views=views,
                    models=self._models(table, views),
                    ill=ill,
                )
            )
        return rows

    def ill(self, views: Sequence[str] | None = None, *, count: bool = True) -> tuple[Illness, ...]:
        """What is wrong with the sources now, and what hangs on it.

        Args:
            views: Only sources that these views read; all unless given.
            count: Whether rows are looked at for freshness and volume; without it only that the table is there, and its
                columns, which reads no row.

        Raises:
            UnavailableError: The object store does not answer.
        """
        project = self._platform.project
        read = {table for view in views or () for table in project.views[view].query.tables}
        wanted = self.tables() if views is None else sorted(self._foreign(read))
        return tuple(illness for table in wanted for illness in self._look(table, count=count)[0])

    def checked(self) -> "tuple[Checked, ...]":
        """The declared sources as monitors: one for each table, with a segment for each kind of illness.

        Raises:
            UnavailableError: The object store does not answer.
        """
        from towpath.monitors import Checked, Monitor
        from towpath.project.declarations import MonitorHeader

        found: list[Checked] = []
        for table, declared in self._platform.project.sources.items():
            begun = time.perf_counter()
            ill = self._look(table)[0]
            header = MonitorHeader(
                description=f"Is the table {table} fresh, whole and as expected?",
                mend=f"tow sources; ask {declared.owner or 'who fills the table'}",
                owner=declared.owner,
            )
            monitor = Monitor(
                name=f"sources/{table}",
                query=_select("*", table),
                header=header,
                project=self._platform.settings.project.name,
                owner=declared.owner,
            )
            found.append(
                Checked(
                    monitor=monitor,
                    at=self._platform.now(),
                    status="failing" if ill else "ok",
                    failing_rows=len(ill),
                    segments=dict(Counter(one.kind for one in ill)),
                    rows=tuple({"segment": one.kind, **msgspec.to_builtins(one)} for one in ill),
                    duration_ms=(time.perf_counter() - begun) * 1_000,
                )
            )
        return tuple(found)

    def remember(self, view: str) -> None:
        """Keep what the sources of a view look like, after it was built from them."""
        platform, project = self._platform, self._platform.settings.project.name
        for table in self._foreign(platform.project.views[view].query.tables):
            columns = self._columns(table)
            standing = recall(platform.objects, project, table, SeenSource)
            if standing is not None:
                columns = self._as_built(view, table, standing.columns, columns)
            if standing is None or standing.columns != columns:
                now = platform.now()
                remember(platform.objects, SeenSource(project=project, table=table, columns=columns, seen_at=now))

    def _as_built(
        self, view: str, table: str, before: Sequence[SeenColumn], now: Sequence[SeenColumn]
    ) -> tuple[SeenColumn, ...]:
        """The columns as they are now; what changed and only other views read stays as it was, until one of them is built."""
        known, types = {column.name: column for column in before}, {column.name: column for column in now}
        changed = [name for name in known if types.get(name) != known[name]]
        if changed:
            built = self.lineage(view)
            others = [name for name in changed if built.reads(table, name) is False and self._matters(table, name)]
            types |= {name: known[name] for name in others}
        kept = [name for name in known if name in types]
        return tuple(types[name] for name in [*kept, *(name for name in types if name not in known)])

    @contextmanager
    def named(self, view: str) -> Generator[None]:
        """Where the block fails, say in the error which source of a view is ill and what hangs on it."""
        try:
            yield
        except ConflictError:
            raise
        except TowpathError as error:
            try:
                ill = self.ill([view], count=False)
            except TowpathError:  # the one who asks wants to know what failed first
                ill = ()
            if not ill:
                raise
            said = "".join(f"\n  ill:   {one}" for one in ill)
            raise type(error)(error.what + said, *error.args[1:]) from error

    def lineage(self, view: str, *, before: bool = False) -> "Lineage":
        """What the columns of a view are made of, with the columns of its tables as the warehouse has them.

        Args:
            view: Of the project.
            before: With the columns that the last build saw.
        """
        from towpath.features.lineage import lineage

        query = self._platform.project.views[view].query
        schemas: dict[str, tuple[str, ...]] = {}
        for table in query.tables:
            seen = self._seen(table) if before else None
            try:
                columns = seen.columns if seen else self._columns(table)
            except TowpathError:
                continue  # without it less is known, and nothing wrong
            schemas[table] = tuple(column.name for column in columns)
        return lineage(query, schemas)

    def _foreign(self, tables: Iterable[str]) -> "list[str]":
        """Those that somebody else fills: what is pushed has the columns of its view, whatever these are."""
        project = self._platform.project
        own = {f"landing.{view}" for view in project.views} - set(project.sources)
        return [table for table in tables if table not in own]

    def _seen(self, table: str) -> SeenSource | None:
        return recall(self._platform.objects, self._platform.settings.project.name, table, SeenSource)

    def _columns(self, table: str) -> tuple[SeenColumn, ...]:
        schema = self._platform.warehouse.describe(_select("*", table))
        return tuple(SeenColumn(name=field.name, type=str(field.type)) for field in schema)

    def _look(self, table: str, *, count: bool = True) -> tuple[tuple[Illness, ...], datetime | None, int | None]:
        """What is wrong with a table, when its newest row landed, and how many landed a day."""
        declared = self._platform.project.sources.get(table, SourceDeclaration())
        try:
            columns = self._columns(table)
        except TowpathError as error:
            there = table in self._platform.warehouse.tables()
            said = error.what.rstrip(".") if there else "the warehouse does not have it"
            return (self._illness(table, "missing", said),), None, None
        found = list(self._columns_ill(table, declared, columns))
        if not count or (declared.landed_at and declared.landed_at not in {column.name for column in columns}):
            return tuple(found), None, None
        landed, rows = None, None
        try:
            landed, whole = self._landed(table, declared)
            found += self._late(table, declared, landed)
            if declared.asks_for_volume:
                rows = 0 if whole is None else self._rows_on(table, declared, whole)
                found += self._volume(table, declared, rows, whole)
        except TowpathError as error:
            found.append(self._illness(table, "missing", error.what.rstrip(".")))
        return tuple(found), landed, rows

    def _columns_ill(self, table: str, declared: SourceDeclaration, columns: Sequence[SeenColumn]) -> Iterator[Illness]:
        types = {column.name: column.type for column in columns}
        for name, kind in declared.columns.items():
            if name not in types:
                yield self._column(table, name, f"column '{name}' is expected ({kind}) and is not there")
            elif not _fits(types[name], kind):
                yield self._column(
                    table, name, f"column '{name}' is {type_names(types[name], kind)[0]}, and {kind} is expected"
                )
        seen = self._seen(table)
        for column in seen.columns if seen else ():
            since = f"the build of {seen.seen_at:%Y-%m-%d}" if seen else ""
            if column.name in declared.columns:
                continue  # said already, or meant so
            if column.name not in types and self._matters(table, column.name):
                yield self._column(
                    table, column.name, f"column '{column.name}' ({type_name(column.type)}) is gone since {since}"
                )
            elif column.name in types and types[column.name] != column.type and self._matters(table, column.name):
                was, now = type_names(column.type, types[column.name])
                said = f"column '{column.name}' was {was} and is {now} since {since}"
                yield self._column(table, column.name, said)

    def _matters(self, table: str, column: str) -> bool:
        """Whether a view may read the column; one that nobody reads may come and go."""
        return any(self.lineage(view, before=True).reads(table, column) is not False for view in self.views_of(table))

    def _column(self, table: str, column: str, what: str) -> Illness:
        hit: list[str] = []
        for view in self.views_of(table):
            found = self.lineage(view, before=True)
            header = self._platform.project.views[view].header
            whole = {*header.keys, header.event_time, header.created_time}
            made = found.made_of(table, column)
            reads = found.reads(table, column)
            in_rows = found.rows is not None and any(
                (part.table, part.column) == (table, column) for part in found.rows
            )
            if reads is None or in_rows or whole & set(made):
                hit.append(f"{view}.*")
            else:
                hit += [f"{view}.{name}" for name in made]
        return self._illness(table, "columns", what, tuple(hit))

    def _illness(
        self, table: str, kind: Literal["missing", "late", "few", "many", "columns"], what: str,
        features: tuple[str, ...] | None = None,
    ) -> Illness:  # fmt: skip
        declared = self._platform.project.sources.get(table, SourceDeclaration())
        if features is None:
            features = tuple(f"{view}.*" for view in self.views_of(table))
        models = self._models(table, features)
        return Illness(source=table, kind=kind, what=what, owner=declared.owner, features=features, models=models)

    def _models(self, table: str, features: Sequence[str]) -> tuple[str, ...]:
        """Models that read one of some ``view.feature``, or the table itself in their spine."""
        own = self._platform.settings.project.name
        found: list[str] = []
        for name, model in self._platform.project.models.items():
            asked = [feature.removeprefix(f"{own}/") for feature in model.declaration.features]
            if table in model.training.query.tables or any(_meet(one, other) for one in asked for other in features):
                found.append(name)
        return tuple(found)

    def _late(self, table: str, declared: SourceDeclaration, landed: datetime | None) -> Iterator[Illness]:
        if declared.freshness is None:
            return
        now, limit = self._platform.now(), duration(declared.freshness)
        if landed is None:
            yield self._illness(table, "late", f"no row has landed by {now:%Y-%m-%d %H:%M}")
        elif now - landed > limit:
            age = duration_text(timedelta(minutes=(now - landed) // timedelta(minutes=1)))
            said = f"its newest row landed {age} ago, at {landed:%Y-%m-%d %H:%M} (limit {declared.freshness})"
            yield self._illness(table, "late", said)

    def _volume(self, table: str, declared: SourceDeclaration, rows: int, whole: datetime | None) -> Iterator[Illness]:
        low, high = declared.volume.at_least, declared.volume.at_most
        day = f"on {whole:%Y-%m-%d}" if whole else "on any day"
        if low is not None and rows < low:
            yield self._illness(table, "few", f"{rows:,} rows landed {day} (at least {low:,})")
        if high is not None and rows > high:
            yield self._illness(table, "many", f"{rows:,} rows landed {day} (at most {high:,})")

    def _landed(self, table: str, declared: SourceDeclaration) -> tuple[datetime | None, datetime | None]:
        """When the newest row landed, and the newest one before today; of files, when they were written."""
        now = self._platform.now()
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if declared.landed_at is None:
            return self._file_time(table), None
        if declared.freshness is None and not declared.asks_for_volume:
            return None, None
        at = f"cast({quoted(declared.landed_at)} as timestamptz)"
        query = _select(
            f"max({at}) as newest, max(case when {at} < :today then {at} end) as whole", table, f"{at} <= :as_of"
        )
        found = self._platform.warehouse.read(query, {"as_of": now, "today": today}).to_pylist()[0]
        return found["newest"], found["whole"]

    def _rows_on(self, table: str, declared: SourceDeclaration, whole: datetime) -> int:
        since = whole.replace(hour=0, minute=0, second=0, microsecond=0)
        at = f"cast({quoted(declared.landed_at or '')} as timestamptz)"
        query = _select("count(*) as n", table, f"{at} >= :since and {at} < :until")
        found = self._platform.warehouse.read(query, {"since": since, "until": since + _DAY})
        return int(found.column("n")[0].as_py())

    def _file_time(self, table: str) -> datetime | None:
        """When the newest file of a table was written; None where the warehouse does not tell."""
        warehouse = self._platform.warehouse
        if not isinstance(warehouse, FileWarehouse):
            return None
        state = warehouse.snapshot(_select("*", table))
        written = [ns for one in state for _, _, ns in one.files]
        return datetime.fromtimestamp(max(written) / 1e9, tz=UTC) if written else None


def _select(columns: str, table: str, where: str = "") -> Query:
    dotted = ".".join(quoted(part) for part in table.split("."))
    return Query.parse(f"select {columns} from {dotted}" + (f" where {where}" if where else ""), "sources.toml")


def _named(what: str, names: Sequence[str]) -> str:
    return f"{what}{'s' if len(names) > 1 or names[0].endswith('*') else ''} {', '.join(names)}"


def _fits(arrow_type: str, expected: str) -> bool:
    kind = kind_of(arrow_type)
    if expected in KINDS:
        return kind == expected or (expected == "number" and kind == "integer")
    return arrow_type == expected


def _meet(asked: str, hit: str) -> bool:
    """Whether two of ``view.feature`` and ``view.*`` have a feature in common; a view alone means all of it."""
    view, _, name = asked.partition(".")
    other, _, hit_name = hit.partition(".")
    return view == other and (name == "*" or hit_name in {"*", "", name})

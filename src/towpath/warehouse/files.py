"""A warehouse of Parquet files: ``warehouse/<schema>/<table>.parquet``, a folder of such, and tables that lie elsewhere."""

import glob
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from towpath.errors import ProjectError, nearest
from towpath.settings import WarehouseSettings
from towpath.sql import Query, quoted
from towpath.warehouse.engine import Engine
from towpath.warehouse.kept import Kept
from towpath.warehouse.point_in_time import AsOf, Facts, bounds_sql, keys_sql, newest_sql, training_set_sql
from towpath.warehouse.snapshots import TableState, state_digest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FileWarehouse", "Landing", "LaysOut"]

_NO_PARAMETERS: Mapping[str, object] = {}
_DATA = "{TOWPATH_DATA}"
_ENTITY_BYTES, _VALUE_BYTES, _MEMORY_SHARE = 160, 24, 0.8
"""What the newest row of a key takes in DuckDB, measured with numbers; texts take more, which the rest of the memory is for."""


class LaysOut(Protocol):
    """Where pushed rows become a table: a warehouse of files, or what stands beside a server."""

    @property
    def engine(self) -> Engine:
        """Keeps them as Parquet."""
        ...

    def describe(self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> "pa.Schema":
        """Names and types of what a view gives."""
        ...


class Landing(Protocol):
    """Tables of rows that were pushed; `towpath.journal.landing.LandingTables` is one."""

    def has(self, table: str) -> bool:
        """Whether it knows a table of that name."""
        ...

    def prepare(self, warehouse: LaysOut, table: str) -> tuple[object, ...]:
        """Make the table known to the warehouse's engine; another value next time means other rows."""
        ...


class FileWarehouse:
    """DuckDB over Parquet files. A file that changes is seen by the next query.

    Args:
        url: ``duckdb://FOLDER``, with ``<schema>/<table>.parquet`` in it; the folder need not exist.
        settings: Memory, threads and tables that lie elsewhere.
        folder: What relative paths start from, of the URL and of ``[warehouse.tables]``.
        variables: The environment; ``TOWPATH_DATA`` stands in for ``{TOWPATH_DATA}`` in paths.
    """

    def __init__(self, url: str, settings: WarehouseSettings, folder: Path, variables: Mapping[str, str]) -> None:
        self.engine = Engine(settings.memory_mib, settings.threads)
        self._elsewhere = settings.tables
        self._folder = folder
        self._root = folder / (url.partition("://")[2] or "warehouse")
        self._variables = variables
        self.landing: Landing | None = None
        """Knows the tables ``landing.<view>``; none where nobody said where pushed rows lie."""
        self._seen: dict[str, tuple[object, ...]] = {}
        self._lock = threading.Lock()
        self._counter = count()
        self._kept = Kept(self.engine)

    def take_landed(self, landing: Landing) -> None:
        """From now on its queries may read ``landing.<view>``."""
        self.landing = landing

    def __str__(self) -> str:
        import duckdb

        return f"DuckDB {duckdb.__version__} over '{self._root}'"

    def tables(self) -> list[str]:
        """Names of all tables, sorted; files are not opened."""
        return sorted({*self._elsewhere, *self._in_root()})

    def describe(self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> "pa.Schema":
        """Names and types of what a query gives, without running it.

        Raises:
            ProjectError: A table or its file is missing, or the engine refuses the SQL.
        """
        self.prepare(query)
        return self.engine.describe(query, parameters)

    def read(self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS) -> "pa.Table":
        """All rows of a query.

        Raises:
            ProjectError: As in `describe`, or a parameter has no value.
        """
        self.prepare(query)
        return self.engine.read(query, parameters)

    @contextmanager
    def stream(
        self, query: Query, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> Generator["pa.RecordBatchReader"]:
        """Rows of a query in batches.

        Raises:
            ProjectError: As in `read`.
        """
        self.prepare(query)
        with self.engine.stream(query, parameters) as reader:
            yield reader

    def point_in_time(
        self, facts: Facts, spine: "pa.Table", as_of: AsOf, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> "pa.Table":
        """What a view said at each moment of a spine, by the eight rules: one row per spine row, in its order.

        Raises:
            ProjectError: As in `read`.
            ResourceError: It needs more memory than the engine may use.
        """
        name = f"towpath spine {next(self._counter)}"
        self.engine.register(name, spine)
        try:
            with self._kept_facts(facts) as kept:
                return self.engine.read(training_set_sql(kept, spine=quoted(name), as_of=as_of), parameters)
        finally:
            self.engine.forget(name)

    @contextmanager
    def newest(
        self, facts: Facts, parameters: Mapping[str, object] = _NO_PARAMETERS
    ) -> Generator["pa.RecordBatchReader"]:
        """The newest row per key that is known at ``:as_of``; about in the order of the keys where `facts` asks for it.

        Where the keys are too many for the engine's memory, they are cut into parts that fit, one after another in that
        order, and the view is read once for each.

        Raises:
            ProjectError: As in `read`.
            ResourceError: A part of the keys needs more memory than the engine may use.
        """
        import pyarrow as pa

        with self._kept_facts(facts) as kept:
            bounds = self._bounds(kept, parameters)
            schema = self.engine.describe(newest_sql(kept), parameters)
            yield pa.RecordBatchReader.from_batches(schema, self._newest(kept, parameters, bounds))

    def snapshot(self, query: Query) -> tuple[TableState, ...]:
        """What the files of a query's tables look like now: another state, other rows.

        Raises:
            ProjectError: There is no such table, or its file is missing.
        """
        states: list[TableState] = []
        for table in query.tables:
            if self.landing is not None and self._has_landed(table):
                states.append(TableState(table=table, state=state_digest(self.landing.prepare(self, table))))
                continue
            files = [(str(file), file.stat()) for file in self._files(table, query)]
            states.append(TableState(table=table, files=tuple((path, s.st_size, s.st_mtime_ns) for path, s in files)))
        return tuple(states)

    def close(self) -> None:
        """Let go of the engine."""
        self.engine.close()

    def prepare(self, query: Query) -> None:
        """Make the tables that a query names known to the engine.

        Raises:
            ProjectError: There is no such table, or its file is missing; says how to get it.
        """
        landed = [table for table in query.tables if self._has_landed(table)]
        for table in landed:
            self._seen[table] = self.landing.prepare(self, table) if self.landing is not None else ()
        with self._lock:
            for table in query.tables:
                if table in landed:
                    continue
                files = self._files(table, query)
                state = tuple((str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files)
                if self._seen.get(table) != state:
                    self.engine.register(table, [str(file) for file in files])
                    self._seen[table] = state

    def _has_landed(self, table: str) -> bool:
        """Whether a table is one of pushed rows; a table of the company's own that has its name goes before it."""
        if self.landing is None or not self.landing.has(table):
            return False
        return table not in self._elsewhere and table not in self._in_root()

    @contextmanager
    def _kept_facts(self, facts: Facts) -> Generator[Facts]:
        """The view, read from what was kept of it where that pays and its tables are unchanged."""

        def state() -> tuple[object, ...]:
            self.prepare(facts.query)
            return tuple(self._seen[table] for table in facts.query.tables)

        self.prepare(facts.query)
        with self._kept.reading(facts.query, state) as query:
            yield msgspec.structs.replace(facts, query=query)

    def _bounds(self, facts: Facts, parameters: Mapping[str, object]) -> Sequence[str]:
        """Where keys are cut so that the newest rows of a part fit into memory: the engine holds them all, and cannot spill them."""
        entities = self.engine.read(keys_sql(facts), parameters).column(0)[0].as_py()
        bytes_needed = entities * (_ENTITY_BYTES + _VALUE_BYTES * len(facts.columns))
        parts = 1 + int(bytes_needed / (self.engine.memory_bytes * _MEMORY_SHARE))
        if parts == 1:
            return []
        return sorted(set(self.engine.read(bounds_sql(facts, parts), parameters).column(0).to_pylist()))

    def _newest(
        self, facts: Facts, parameters: Mapping[str, object], bounds: Sequence[str]
    ) -> Generator["pa.RecordBatch"]:
        for between in pairwise([None, *bounds, None]):
            with self.engine.stream(newest_sql(facts, between=between), parameters) as reader:
                yield from reader

    def _files(self, table: str, query: Query) -> Sequence[Path]:
        if table in self._elsewhere:
            return self._files_elsewhere(table)
        inside = self._in_root()
        if table not in inside:
            known = sorted({*self._elsewhere, *inside})
            raise ProjectError(
                f"'{query.path}' reads the table '{table}', which the warehouse does not have{nearest(table, known)}.",
                query.path,
                f"put a file at {self._root / Path(*table.split('.'))}.parquet, or name one in towpath.toml, [warehouse.tables]",
            )
        return _parquet_files(inside[table])

    def _files_elsewhere(self, table: str) -> Sequence[Path]:
        pattern, where = self._elsewhere[table], f'towpath.toml, [warehouse.tables] "{table}"'
        if _DATA in pattern:
            pattern = pattern.replace(_DATA, str(self._data_folder(where)))
        path = self._folder / pattern
        if glob.has_magic(pattern):
            files = [Path(found) for found in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - Path.glob takes no absolute pattern
        else:
            files = _parquet_files(path) if path.exists() else []
        if not files:
            mend = (
                f"fetch the data set into {path}, or set TOWPATH_DATA to the folder that holds it"
                if _DATA in self._elsewhere[table]
                else f"put the file at {path}, or mend the path"
            )
            raise ProjectError(f"The file of the table '{table}' is missing: '{path}'.", where, mend)
        return files

    def _data_folder(self, where: str) -> Path:
        """``TOWPATH_DATA``, else ``../shared/data`` beside the checkout that the project lies in."""
        if given := self._variables.get("TOWPATH_DATA"):
            return Path(given)
        for ancestor in (resolved := self._folder.resolve(), *resolved.parents):
            beside = ancestor.parent / "shared" / "data"
            if (ancestor / ".git").exists() and beside.is_dir():
                return beside
        raise ProjectError(
            "The variable 'TOWPATH_DATA' is not set.",
            where,
            "export TOWPATH_DATA=… to the folder that holds the data sets",
        )

    def _in_root(self) -> dict[str, Path]:
        """Table → its file, or its folder of files."""
        if not self._root.is_dir():
            return {}
        found: dict[str, Path] = {}
        for entry in sorted(self._root.iterdir()):
            if entry.suffix == ".parquet" and entry.is_file():
                found[entry.stem] = entry
            elif entry.is_dir():
                for inner in sorted(entry.iterdir()):
                    if inner.suffix == ".parquet" or (inner.is_dir() and _parquet_files(inner)):
                        found[f"{entry.name}.{inner.stem if inner.suffix == '.parquet' else inner.name}"] = inner
        return found


def _parquet_files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.parquet")) if path.is_dir() else [path]

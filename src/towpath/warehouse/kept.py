"""What a view gave, kept for as long as its files stay as they are, for a replay that asks every day."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from towpath.sql import Query, quoted
from towpath.warehouse.engine import Engine

__all__ = ["Kept", "worth_keeping"]

State = tuple[object, ...]
"""What the files of a query's tables look like: another state, other rows."""


class _Entry:
    def __init__(self, state: State, path: Path, query: Query | None, size_bytes: int) -> None:
        self.state = state
        self.path = path
        self.query = query
        """Reads the kept rows; none where they were too many."""
        self.size_bytes = size_bytes
        self.readers = 0
        self.dropped = False


class Kept:
    """Rows of views in Parquet files beside what the engine spills; they go when the engine is closed.

    A view without parameters gives the same rows as long as its files are the same, whatever the moment that is asked
    about: the point-in-time join filters them afterwards. A training set reads each view twice, and a replay of eight
    weeks reads it every day: worked out each time, the retail example's views took 8 s of CPU a day, kept 0.4 s.

    Args:
        engine: Runs the views and reads what was kept.
        most_bytes: On disk, of all views together; the longest kept go first, and a view larger than that is not kept.

    Example:
        >>> engine = Engine(memory_mib=256, threads=1)
        >>> query = Query.parse("select i % 10 as id, sum(i) as total from range(100) as r(i) group by all")
        >>> with Kept(engine).reading(query, lambda: ()) as kept:
        ...     kept.tables, engine.read(kept).num_rows
        (('towpath kept 1',), 10)
        >>> engine.close()
    """

    def __init__(self, engine: Engine, most_bytes: int = 4 * 2**30) -> None:
        self._engine = engine
        self._most_bytes = most_bytes
        self._entries: dict[str, _Entry] = {}
        self._made = 0
        self._lock = threading.Lock()

    @contextmanager
    def reading(self, query: Query, state: Callable[[], State]) -> Generator[Query]:
        """A query that gives the same rows from what was kept; the query itself where keeping does not pay.

        Args:
            query: A SELECT whose tables are known to the engine.
            state: What their files look like, asked before and after the rows are worked out.

        Raises:
            ProjectError: The engine refuses the SQL.
            ResourceError: It needs more memory than the engine may use.
        """
        entry = self._entry(query, state) if worth_keeping(query) else None
        try:
            yield entry.query if entry is not None and entry.query is not None else query
        finally:
            if entry is not None:
                with self._lock:
                    entry.readers -= 1
                    self._remove_if_done(entry)

    def _entry(self, query: Query, state: Callable[[], State]) -> _Entry | None:
        """What is kept of a query, with one more reader; none where a file changed meanwhile, so that nobody knows which was read."""
        text = query.in_dialect("duckdb")
        with self._lock:
            found, now = self._entries.get(text), state()
            if found is None or found.state != now:
                made = self._worked_out(query, now)
                if found is not None:
                    self._drop(text)
                self._entries[text] = found = made
                if state() != now:
                    self._drop(text)
                    return None
                self._make_room(text)
            found.readers += 1
            return found

    def _worked_out(self, query: Query, state: State) -> _Entry:
        import pyarrow.parquet as pq

        self._made += 1
        name = f"towpath kept {self._made}"
        path = self._engine.folder / f"{name}.parquet"
        try:
            with self._engine.stream(query) as reader, path.open("wb") as file:
                # Snappy: of these files each is read some dozens of times and none is sent anywhere.
                with pq.ParquetWriter(file, reader.schema, compression="snappy") as writer:
                    for batch in reader:
                        writer.write_batch(batch)
                        if file.tell() > self._most_bytes:
                            break
                size_bytes = file.tell()
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if size_bytes > self._most_bytes:
            path.unlink()
            return _Entry(state, path, None, 0)
        self._engine.register(name, [str(path)])
        return _Entry(state, path, Query.parse(f"select * from {quoted(name)}", query.path), size_bytes)

    def _make_room(self, newest: str) -> None:
        for text in [text for text in self._entries if text != newest]:
            if sum(entry.size_bytes for entry in self._entries.values()) <= self._most_bytes:
                return
            self._drop(text)

    def _drop(self, text: str) -> None:
        entry = self._entries.pop(text)
        entry.dropped = True
        self._remove_if_done(entry)

    def _remove_if_done(self, entry: _Entry) -> None:
        if entry.dropped and not entry.readers and entry.query is not None:
            self._engine.forget(entry.path.stem)
            entry.path.unlink(missing_ok=True)


def worth_keeping(query: Query) -> bool:
    """Whether a view takes more work than reading its rows back would.

    One with a parameter may give other rows at each moment. One that only picks columns and rows is read as quickly from
    its own files.

    Example:
        >>> worth_keeping(Query.parse("select id, at, x / 2 as half from v where x > 0"))
        False
        >>> worth_keeping(Query.parse("select id, at, sum(x) over (partition by id order by at) as sums from v"))
        True
        >>> worth_keeping(Query.parse("select id, max(x) as most from v where at < :as_of group by id"))
        False
    """
    from sqlglot import exp

    costly: tuple[type[exp.Expr], ...] = (exp.Window, exp.AggFunc, exp.Join, exp.Group, exp.Distinct, exp.SetOperation)
    return not query.parameters and query.tree.find(*costly) is not None

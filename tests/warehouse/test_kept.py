"""Views are worked out once for files that stay as they are, and nobody can tell but by the clock."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.warehouse import Engine, Facts, FileWarehouse
from towpath.warehouse.kept import Kept, worth_keeping

START = datetime(2011, 3, 26, tzinfo=UTC)
FORMS = {
    "naive": "cast(at as timestamp)",
    "aware": "timezone('Europe/London', cast(at as timestamp))",
    "day": "cast(at as date)",
}
VIEW = """
select id, {event} as at, sum(x) over w as total, cast(avg(x) over w as decimal(12, 3)) as mean, max(word) over w as word
from shop.rows
window w as (partition by id order by at, x rows between 2 preceding and current row)
"""


def facts(event: str = "naive") -> Facts:
    return Facts(
        query=Query.parse(VIEW.format(event=FORMS[event]), "view.sql"),
        keys=("id",),
        event_time="at",
        ttl=timedelta(days=2),
        columns=("total", "mean", "word"),
    )


def write(folder: Path, rows: list[tuple[str | None, int, int | None]]) -> None:
    (folder / "warehouse" / "shop").mkdir(parents=True, exist_ok=True)
    columns = {
        "id": pa.array([key for key, _, _ in rows], pa.string()),
        "at": pa.array([START.replace(tzinfo=None) + timedelta(hours=hour) for _, hour, _ in rows], pa.timestamp("us")),
        "x": pa.array([x for _, _, x in rows], pa.int64()),
        "word": pa.array([None if x is None else f"w{x % 3}" for _, _, x in rows], pa.string()),
    }
    pq.write_table(pa.table(columns), folder / "warehouse" / "shop" / "rows.parquet")


def spine(hours: list[int]) -> pa.Table:
    moments = [int((START + timedelta(hours=hour)).timestamp() * 1e6) for hour in hours]
    return pa.table({"rn": range(len(hours)), "t": moments, "k0": ["ab"[hour % 2] for hour in hours]})


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[FileWarehouse]:
    write(tmp_path, [("a", 0, 1), ("a", 5, 2), ("b", 1, None)])
    opened = FileWarehouse("duckdb://warehouse", WarehouseSettings(memory_mib=256, threads=1), tmp_path, {})
    yield opened
    opened.close()


rows = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 200), st.none() | st.integers(-9, 9)),
    min_size=1,
    max_size=30,
    unique_by=lambda row: row[:2],
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, hours=st.lists(st.integers(0, 220), min_size=1, max_size=20), event=st.sampled_from(list(FORMS)))
def test_a_kept_view_gives_what_it_gives_when_worked_out_anew(
    rows: list[tuple[str | None, int, int | None]], hours: list[int], event: str, tmp_path: Path
) -> None:
    write(tmp_path, rows)
    keeping = FileWarehouse("duckdb://warehouse", WarehouseSettings(memory_mib=256, threads=1), tmp_path, {})
    never = FileWarehouse("duckdb://warehouse", WarehouseSettings(memory_mib=256, threads=1), tmp_path, {})
    never._kept = Kept(never.engine, most_bytes=0)
    # a day has one time, so that of two rows of it either may win: asked about apart from the others
    view = facts(event) if event != "day" else _one_a_day(facts(event))
    moments = {"as_of": START + timedelta(hours=150), "since": START}
    for _ in range(2):
        assert keeping.point_in_time(view, spine(hours), "known").equals(
            never.point_in_time(view, spine(hours), "known")
        )
        with keeping.newest(view, moments) as one, never.newest(view, moments) as other:
            assert one.read_all().sort_by("k0").equals(other.read_all().sort_by("k0"))
    assert len(list(keeping.engine.folder.iterdir())) == 1
    assert not list(never.engine.folder.iterdir())
    keeping.close()
    never.close()


def _one_a_day(view: Facts) -> Facts:
    from msgspec.structs import replace

    text = f"select * from ({view.query.text}) qualify row_number() over (partition by id, at order by total, mean, word) = 1"
    return replace(view, query=Query.parse(text, "view.sql"))


def test_a_file_that_changes_makes_a_kept_view_forgotten(warehouse: FileWarehouse, tmp_path: Path) -> None:
    # given a view that was kept
    before = warehouse.point_in_time(facts(), spine([6]), "known")
    assert before["total"].to_pylist() == [3]
    # when its file changes
    write(tmp_path, [("a", 0, 1), ("a", 5, 20), ("b", 1, None)])
    # then the next answer knows, and the rows of before are gone from the disk
    assert warehouse.point_in_time(facts(), spine([6]), "known")["total"].to_pylist() == [21]
    assert [path.name for path in warehouse.engine.folder.iterdir()] == ["towpath kept 2.parquet"]


def test_a_view_that_asks_for_a_moment_or_only_picks_rows_is_not_kept(warehouse: FileWarehouse) -> None:
    for text in (
        "select id, at, sum(x) as total, 0 as mean, '' as word from shop.rows where at <= :as_of group by all",
        "select id, at, x as total, x as mean, word from shop.rows where x > 0",
    ):
        query = Query.parse(text, "v.sql")
        assert not worth_keeping(query)
        view = Facts(query=query, keys=("id",), event_time="at", columns=("total",))
        warehouse.point_in_time(view, spine([6]), "known", {"as_of": START + timedelta(days=1)})
    assert not list(warehouse.engine.folder.iterdir())


def test_the_oldest_go_when_the_disk_budget_is_reached_but_not_while_they_are_read() -> None:
    engine = Engine(memory_mib=256, threads=1)
    kept = Kept(engine, most_bytes=3_000)
    queries = [Query.parse(f"select i, sum(i) + {n} as total from range(100) as r(i) group by i") for n in range(4)]
    # given a reader that is still at work on the first view
    with kept.reading(queries[0], lambda: ()) as first:
        for query in queries[1:]:
            with kept.reading(query, lambda: ()) as found:
                assert found is not query
        # then it still finds its rows
        assert engine.read(first).num_rows == 100
    # and afterwards the disk holds no more than the budget
    assert sum(path.stat().st_size for path in engine.folder.iterdir()) <= 3_000
    engine.close()


def test_a_view_of_which_a_file_changes_while_it_is_worked_out_is_not_kept() -> None:
    engine = Engine(memory_mib=256, threads=1)
    states = iter(range(10))
    query = Query.parse("select i, sum(i) as total from range(100) as r(i) group by i")
    with Kept(engine).reading(query, lambda: (next(states),)) as found:
        assert found is query
    assert not list(engine.folder.iterdir())
    engine.close()


def test_a_view_that_the_engine_refuses_leaves_nothing_on_disk() -> None:
    engine = Engine(memory_mib=256, threads=1)
    query = Query.parse("select sum(cast('x' || i as integer)) as total from range(9) as r(i)")
    with pytest.raises(Exception, match="refuses"), Kept(engine).reading(query, lambda: ()):
        pass
    assert not list(engine.folder.iterdir())
    engine.close()


def test_many_threads_get_the_same_rows_and_the_view_is_worked_out_once(warehouse: FileWarehouse) -> None:
    found: list[list[object]] = []

    def ask() -> None:
        found.append(warehouse.point_in_time(facts(), spine([6, 7, 8]), "known")["total"].to_pylist())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[3, None, 3]] * 8
    assert len(list(warehouse.engine.folder.iterdir())) == 1

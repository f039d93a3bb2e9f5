"""The engine: SQL in, Arrow out, times in UTC microseconds, errors in our words."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import hypothesis.strategies as st
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from towpath.errors import ProjectError, ResourceError
from towpath.sql import Query
from towpath.warehouse import Engine

US = pa.timestamp("us", "UTC")
MOMENT = datetime(2011, 7, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    opened = Engine(memory_mib=512, threads=1)
    yield opened
    opened.close()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/London"])
@pytest.mark.parametrize("from_file", [False, True])
def test_times_leave_as_utc_microseconds_whatever_clock_they_came_from(
    engine: Engine, tmp_path: Path, unit: str, zone: str | None, from_file: bool
) -> None:
    naive = MOMENT.replace(tzinfo=None)
    table = pa.table({"t": pa.array([naive if zone is None else MOMENT, None], pa.timestamp(unit, zone))})
    if from_file:
        pq.write_table(table, tmp_path / "times.parquet")
        engine.register("times", [str(tmp_path / "times.parquet")])
    else:
        engine.register("times", table)
    read = engine.read("select t from times where t = $moment or t is null order by t", {"moment": MOMENT})
    assert read.schema.field("t").type == US
    assert read.column("t").to_pylist() == [MOMENT, None]
    assert engine.describe("select t from times").field("t").type == US


def test_nanoseconds_of_pandas_compare_with_other_times(engine: Engine, tmp_path: Path) -> None:
    frame = pd.DataFrame({"t": pd.to_datetime(["2011-07-01T12:00:00.000001999Z"]).as_unit("ns")})
    frame.to_parquet(tmp_path / "pandas.parquet")
    engine.register("pandas", [str(tmp_path / "pandas.parquet")])
    (read,) = engine.read(
        "select t, t < $later as before from pandas", {"later": MOMENT + timedelta(microseconds=2)}
    ).to_pylist()
    assert read == {"t": MOMENT + timedelta(microseconds=1), "before": True}


def test_a_local_time_can_be_converted_in_sql(engine: Engine) -> None:
    engine.register("local", pa.table({"t": [datetime(2011, 7, 1, 12)]}))
    read = engine.read("select t at time zone 'Europe/London' as t from local").column("t").to_pylist()
    assert read == [datetime(2011, 7, 1, 11, tzinfo=UTC)]


def test_numbers_leave_as_a_model_can_take_them(engine: Engine) -> None:
    engine.register("numbers", pa.table({"whole": [2**60, 1], "money": [Decimal("0.10"), Decimal("2.25")]}))
    read = engine.read(
        "select sum(whole) as total, sum(money) as money, 'a'::enum ('a') as letter, count(*) as n from numbers"
    )
    assert [str(field.type) for field in read.schema] == ["int64", "double", "string", "int64"]
    assert read.to_pylist() == [{"total": 2**60 + 1, "money": 2.35, "letter": "a", "n": 2}]
    assert engine.describe("select sum(whole) as total from numbers").field("total").type == pa.int64()
    with pytest.raises(ProjectError, match="'total' holds a whole number beyond int64"):
        engine.read("select sum(whole) * 16 as total from numbers")


def test_only_the_parameters_that_the_sql_names_are_bound(engine: Engine) -> None:
    query = Query.parse("select 1 + :low as answer", "next.sql")
    assert engine.read(query, {"low": 1, "as_of": MOMENT, "rest": None}).to_pylist() == [{"answer": 2}]
    with pytest.raises(ProjectError, match=r"':low' has no value[\s\S]*next.sql"):
        engine.read(query)


def test_a_stream_survives_the_queries_after_it(engine: Engine) -> None:
    engine.register("small", pa.table({"i": range(10)}))
    with engine.stream("select a.range as i from range(200_000) as a") as reader:
        first = reader.read_next_batch().num_rows
        assert engine.read("select sum(i) as s from small").to_pylist() == [{"s": 45}]
        assert first + sum(batch.num_rows for batch in reader) == 200_000


def test_many_threads_may_ask_at_once(engine: Engine) -> None:
    engine.register("shared.small", pa.table({"i": range(1_000)}))
    sums: list[int] = []

    def ask() -> None:
        for _ in range(5):
            sums.append(engine.read("select sum(i) as s from shared.small").column("s")[0].as_py())  # noqa: PERF401 - a query each

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [499_500] * 20


def test_a_name_can_be_given_anew_and_taken_away(engine: Engine, tmp_path: Path) -> None:
    engine.register("given", pa.table({"i": [1]}))
    engine.register("given", pa.table({"j": ["a"]}).to_reader())
    assert engine.read("select * from given").to_pylist() == [{"j": "a"}]
    pq.write_table(pa.table({"k": [1.5]}), tmp_path / "k.parquet")
    engine.register("given", [str(tmp_path / "k.parquet")])
    assert engine.read("select * from given").to_pylist() == [{"k": 1.5}]
    engine.forget("given")
    engine.forget("given")
    with pytest.raises(ProjectError, match="given does not exist"):
        engine.read("select * from given")


def test_the_engines_words_come_with_the_file(engine: Engine) -> None:
    with pytest.raises(ProjectError) as caught:
        engine.read(Query.parse("select nope from range(3)", "monitors/late.sql"))
    assert caught.value.where == "monitors/late.sql:1"
    assert 'Referenced column "nope" not found' in caught.value.what
    assert "LINE" not in caught.value.what


def test_a_failed_file_leaves_none_and_a_whole_one_is_typed(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with pytest.raises(ProjectError):
        engine.write_parquet("select error('no') as x from range(3)", path)
    assert list(tmp_path.iterdir()) == []
    assert engine.write_parquet("select range as i, timestamp '2011-01-01' as t from range(3)", path) == 3
    assert pq.read_schema(path).field("t").type == US


def test_what_does_not_fit_into_memory_spills_or_is_refused() -> None:
    small = Engine(memory_mib=64, threads=1)
    rows = small.read(
        "select count(*) as n from (select distinct range as i, md5(range::varchar) as h from range(1_000_000))"
    )
    assert rows.to_pylist() == [{"n": 1_000_000}]
    with pytest.raises(ResourceError, match="memory"):
        small.read("select list(md5(range::varchar)) as one from range(3_000_000)")
    small.close()


@settings(max_examples=50, deadline=None)
@given(name=st.text(st.characters(exclude_characters=".\0", exclude_categories=("Cs",)), min_size=1, max_size=8))
def test_any_name_can_be_a_table_and_a_column(engine: Engine, name: str) -> None:
    from towpath.sql import quoted

    engine.register(name, pa.table({name: [1]}))
    assert engine.read(f"select {quoted(name)} from {quoted(name)}").to_pylist() == [{name: 1}]
    engine.forget(name)


def test_ctrl_c_in_the_midst_of_a_query_is_what_it_is_anywhere(engine: Engine) -> None:
    # given a query whose one task takes minutes
    pressed = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    started = time.monotonic()
    # a process that was started in the background ignores the signal, and would wait for minutes here
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        pressed.start()
        with pytest.raises(KeyboardInterrupt):
            engine.read(
                "select count(*) from range(100000000) as a, range(100000) as b where hash(a.range, b.range) = 7"
            )
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 10
    pressed.join()
    assert engine.read("select 1 as one").num_rows == 1


def test_ctrl_c_while_an_engine_is_opened_is_what_it_is_anywhere() -> None:
    Engine(64, 1).close()  # what is imported for it is another matter
    opened: list[Engine] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for turn in range(60):
            pressed = threading.Timer(turn / 4_000, lambda: os.kill(os.getpid(), signal.SIGINT))
            until = time.monotonic() + 2
            with suppress(KeyboardInterrupt):  # and nothing else, such as the engine's own words for it
                pressed.start()
                while time.monotonic() < until:
                    opened.append(Engine(64, 1))
            pressed.join()
    finally:
        signal.signal(signal.SIGINT, before)
        for engine in opened:
            engine.close()

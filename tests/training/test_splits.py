"""Splits by time and samples by entity: nothing leaks, nothing depends on chance."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.errors import InputError, ProjectError
from towpath.project.declarations import TrainingHeader
from towpath.training.splits import sample, split

DAY = datetime(2011, 9, 1, tzinfo=UTC)
HEADER = TrainingHeader(entity="item", time="day", label="sold", label_time="known_at")
Row = tuple[int, int, int, float | None]

rows = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 60), st.integers(0, 10), st.none() | st.floats(0, 9)), min_size=8
)


def _table(found: list[Row]) -> pa.Table:
    times = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "n": pa.array(range(len(found))),
            "item": pa.array([f"i{item}" for item, *_ in found]),
            "day": pa.array([DAY + timedelta(days=day) for _, day, *_ in found], times),
            "known_at": pa.array([DAY + timedelta(days=day + lag) for _, day, lag, _ in found], times),
            "sold": pa.array([label for *_, label in found], pa.float64()),
        }
    )


@settings(deadline=None)  # the first call imports Arrow
@given(rows, st.integers(1, 30), st.integers(0, 80))
def test_nothing_trained_on_was_known_after_the_holdout_began_nor_anything_after_as_of(
    found: list[Row], length: int, until: int
) -> None:
    as_of = DAY + timedelta(days=until)
    try:
        parts = split(_table(found), HEADER, holdout=timedelta(days=length), as_of=as_of)
    except ProjectError:
        return
    began = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=parts.since_us)
    train: list[dict[str, Any]] = parts.train.to_pylist()
    holdout: list[dict[str, Any]] = parts.holdout.to_pylist()
    assert all(row["day"] < began and row["known_at"] <= began for row in train)
    assert all(began <= row["day"] and row["known_at"] <= as_of for row in holdout)
    assert all(row["sold"] is not None for row in train + holdout)
    assert holdout
    assert not {row["n"] for row in train} & {row["n"] for row in holdout}
    # and every labelled row that is in neither is one whose label overlaps the holdout
    used = {row["n"] for row in train + holdout}
    for row in _table(found).to_pylist():
        if row["n"] not in used and row["sold"] is not None and row["known_at"] <= as_of:
            assert row["day"] < began < row["known_at"]


def test_a_holdout_of_14_days_of_daily_rows_is_14_days() -> None:
    table = _table([(0, day, 0, 1.0) for day in range(40)])
    parts = split(table, HEADER, holdout=timedelta(days=14), as_of=DAY + timedelta(days=100))
    assert (parts.train.num_rows, parts.holdout.num_rows) == (26, 14)


def test_history_cuts_what_is_too_old() -> None:
    table = _table([(0, day, 0, 1.0) for day in range(40)])
    parts = split(table, HEADER, holdout=timedelta(days=10), as_of=DAY + timedelta(days=100), history=timedelta(days=5))
    assert parts.train.column("n").to_pylist() == [25, 26, 27, 28, 29]


def test_a_time_without_zone_is_utc_and_a_missing_time_or_label_is_no_row() -> None:
    table = pa.table(
        {
            "item": ["a", "a", "b", "b"],
            "day": pa.array(
                [datetime(2011, 8, 1), datetime(2011, 8, 30), None, datetime(2011, 8, 30)], pa.timestamp("ns")
            ),
            "sold": [1.0, 2.0, 3.0, float("nan")],
        }
    )
    header = TrainingHeader(entity="item", time="day", label="sold")
    parts = split(table, header, holdout=timedelta(days=1), as_of=DAY)
    assert parts.train.column("sold").to_pylist() == [1.0]
    assert parts.holdout.column("sold").to_pylist() == [2.0]


def test_an_empty_part_says_how_many_rows_there_are() -> None:
    table = _table([(0, 3, 0, 1.0), (1, 4, 0, 1.0), (2, 5, 9, 1.0)])
    with pytest.raises(ProjectError, match=r"of 2 labelled rows 2 are in the holdout of 2w"):
        split(table, HEADER, holdout=timedelta(days=14), as_of=DAY + timedelta(days=6))
    with pytest.raises(ProjectError, match=r"None of 3 rows has a label that was known at 2011-09-01"):
        split(table, HEADER, holdout=timedelta(days=14), as_of=DAY)


@settings(deadline=None)
@given(rows, st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 2**70))
def test_a_smaller_sample_is_part_of_a_larger_one_and_keeps_whole_entities(
    found: list[Row], one: float, other: float, seed: int
) -> None:
    table = _table(found)
    small, large = (sample(table, ("item",), share, seed) for share in sorted([one, other]))
    assert set(small.column("n").to_pylist()) <= set(large.column("n").to_pylist())
    assert sample(large, ("item",), min(one, other), seed) == small
    kept = set(small.column("item").to_pylist())
    assert small.column("n").to_pylist() == [row["n"] for row in table.to_pylist() if row["item"] in kept]


def test_a_share_of_entities_is_about_that_share_and_the_seed_picks_which() -> None:
    table = pa.table({"shop": [n % 7 for n in range(7_000)], "item": [n // 7 for n in range(7_000)]})
    drawn = [sample(table, ("shop", "item"), 0.1, seed).num_rows for seed in range(5)]
    assert all(600 < rows < 800 for rows in drawn)
    assert len(set(drawn)) > 1
    with pytest.raises(InputError, match=r"1\.5 is no share"):
        sample(table, ("item",), 1.5, seed=1)

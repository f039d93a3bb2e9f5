"""Two forms of a view side by side: what differs is said for each feature, and what does not is not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from towpath import features
from towpath.features import Difference, View
from towpath.project.declarations import FeatureHeader
from towpath.project.folder import ViewFile
from towpath.settings import WarehouseSettings
from towpath.sql import Query
from towpath.warehouse import Warehouse, open_warehouse
from warehouse_stand import Stand

START = datetime(2011, 9, 1, tzinfo=UTC)


class Facts(NamedTuple):
    """A table in a warehouse; both engines."""

    warehouse: Warehouse
    table: str


@pytest.fixture(scope="module")
def facts(stand: Stand) -> Facts:
    table = pa.table(
        {
            "shop": pa.array([1, 1, 2, 2], pa.int32()),
            "item": ["a", "b", "a", None],
            "at": pa.array([START] * 4, pa.timestamp("us", "UTC")),
            "x": [1.0, None, float("nan"), 4.0],
            "n": pa.array([2**60, 5, 6, 7]),
            "word": ["red", "green", None, "blue"],
        }
    )
    return Facts(stand.warehouse, stand.land(table))


def form(
    facts: Facts,
    chosen: str,
    rest: str = "",
    keys: tuple[str, ...] = ("shop", "item"),
    *,
    key: str = "shop",
    at: str = "at",
) -> View:
    select = ", ".join([f"{key} as shop", *keys[1:], f"{at} as at", chosen])
    query = Query.parse(f"select {select} from {facts.table} {rest}", "facts.sql")
    header = FeatureHeader(entity=keys, event_time="at")
    return features.describe(ViewFile(name="facts", query=query, header=header), facts.warehouse)


def compared(facts: Facts, a: View, b: View, *, hours: int = 1) -> Difference:
    at = START + timedelta(hours=hours)
    return features.difference(a, b, facts.warehouse, moments=(at, at), names=("1", "working"))


def test_a_form_equals_itself_with_its_nulls_and_nans(facts: Facts) -> None:
    one = form(facts, "x, n, word")
    found = compared(facts, one, one)
    assert (found.differ, found.rows_a, found.rows_b, found.rows_both) == (False, 3, 3, 3)
    assert [(each.feature, each.differing, each.share) for each in found.features] == [
        ("x", 0, 0.0),
        ("n", 0, 0.0),
        ("word", 0, 0.0),
    ]


def test_another_way_to_write_it_that_gives_the_same_is_no_difference(facts: Facts) -> None:
    found = compared(facts, form(facts, "x"), form(facts, "x / 3 * (3 + 3e-10) as x"))
    assert (found.computation, found.differ) == ("the computation changed", False)
    assert compared(facts, form(facts, "x"), form(facts, "x * (1 + 1e-8) as x")).differ


def test_each_feature_says_how_many_keys_differ_by_how_much_with_examples(facts: Facts) -> None:
    a = form(facts, "x, n, word")
    b = form(facts, "coalesce(x, 0) as x, n + 1 as n, word")
    x, n, word = compared(facts, a, b).features
    # null against a number differs and is no distance; whole numbers above 2^53 are not rounded into equality
    assert (x.differing, x.share, x.mean_absolute) == (1, pytest.approx(1 / 3), 0.0)
    assert (x.changed, x.missing, x.extra) == (0, 0, 1)
    assert (n.changed, n.missing, n.extra) == (3, 0, 0)
    assert [(one.key, one.a, one.b) for one in x.examples] == [({"shop": 1, "item": "b"}, None, 0.0)]
    assert (n.differing, n.share) == (3, 1.0)
    assert [(one.key["item"], one.a, one.b) for one in n.examples][:2] == [("a", 2**60, 2**60 + 1), ("b", 5, 6)]
    assert word.differing == 0


def test_keys_that_only_one_has_are_counted_and_shown(facts: Facts) -> None:
    found = compared(facts, form(facts, "n"), form(facts, "n", "where shop = 1"))
    assert (found.differ, found.rows_both, found.only_a, found.only_b) == (True, 2, 1, 0)
    assert (found.only_a_keys, found.only_b_keys) == (({"shop": 2, "item": "a"},), ())


def test_columns_that_come_go_or_change_their_type_are_told_and_numbers_are_still_compared(
    facts: Facts,
) -> None:
    found = compared(facts, form(facts, "n, x"), form(facts, "cast(n as double) as n, word"))
    assert (found.differ, found.added, found.dropped) == (True, ("word",), ("x",))
    assert found.retyped == ("n: int64 → double",)
    assert [(one.type, one.differing) for one in found.features] == [("int64 → double", 0)]
    (n,) = compared(facts, form(facts, "n"), form(facts, "cast(n as text) as n")).features
    assert (n.differing, n.share) == (None, None)


def test_other_keys_are_a_difference_without_pairs(facts: Facts) -> None:
    found = compared(facts, form(facts, "n"), form(facts, "n", keys=("shop",)))
    assert (found.differ, found.rows_a, found.rows_b, found.rows_both) == (True, 3, 2, None)
    # a key of wider numbers is the same key
    wider = form(facts, "n", key="cast(shop as bigint)")
    assert compared(facts, form(facts, "n"), wider).rows_both == 3


def test_before_the_first_row_nothing_differs(facts: Facts) -> None:
    found = compared(facts, form(facts, "n"), form(facts, "n + 1 as n"), hours=-1)
    assert (found.differ, found.rows_both, found.features[0].share) == (False, 0, None)


def test_another_event_time_is_a_difference(facts: Facts) -> None:
    found = compared(facts, form(facts, "n"), form(facts, "n", at="(at - interval '1' hour)"))
    assert (found.differ, found.other_times, found.features[0].differing) == (True, 3, 0)


def test_what_is_gone_what_is_new_and_how_far_numbers_are_apart(facts: Facts) -> None:
    a, b = form(facts, "x, n, word"), form(facts, "nullif(x, 1) as x, 3 * n as n, coalesce(word, 'grey') as word")
    x, n, word = compared(facts, a, b).features
    assert (x.changed, x.missing, x.extra, x.smape) == (0, 1, 0, None)  # of the rest one is null twice, one NaN twice
    assert (n.changed, n.smape) == (3, pytest.approx(1))  # |3n - n| / ((3n + n) / 2)
    assert (word.changed, word.missing, word.extra, word.smape) == (0, 0, 1, None)


def test_one_form_at_two_moments_says_what_became_known_between(facts: Facts) -> None:
    one = form(facts, "n", at="(at + shop * interval '1' day)")
    days = [START + timedelta(days=day, hours=1) for day in (1, 2)]
    found = features.difference(one, one, facts.warehouse, moments=(days[0], days[1]), names=("then", "now"))
    assert (found.differ, found.rows_a, found.rows_b, found.rows_both) == (True, 2, 3, 2)
    assert (found.only_b, found.only_b_keys) == (1, ({"shop": 2, "item": "a"},))
    assert (found.at_a, found.at_b) == (days[0], days[1])


def test_both_sides_lie_on_disk_and_not_in_memory(tmp_path: Path) -> None:
    """500,000 keys with ten features are 80 MB a side; the comparison has 96 MiB."""
    (tmp_path / "warehouse").mkdir()
    rows = 500_000
    keys = pa.array(range(rows), pa.int64())
    wide = {f"x{i}": pc.multiply(keys, float(i)) for i in range(10)}
    pq.write_table(
        pa.table({"shop": keys, "at": pa.array([START] * rows), **wide}), tmp_path / "warehouse/wide.parquet"
    )
    warehouse = open_warehouse(WarehouseSettings(), tmp_path, {})
    on_disk = Facts(warehouse, "wide")
    a = form(on_disk, ", ".join(wide), keys=("shop",))
    b = form(on_disk, ", ".join(["x0", *(f"{name} + 1 as {name}" for name in list(wide)[1:])]), keys=("shop",))
    at = START + timedelta(hours=1)
    found = features.difference(a, b, warehouse, moments=(at, at), names=("1", "2"), memory_mib=96, threads=1)
    assert [one.differing for one in found.features] == [0, *[rows] * 9]
    warehouse.close()

"""What a form of a view is beside an earlier one: more of the same keeps its table, anything else is a new version."""

import hashlib

import pytest

from towpath.clock import FixedClock
from towpath.features import View, change, placed, record, recorded
from towpath.project.declarations import FeatureHeader
from towpath.sql import Query
from towpath.stores.objects import Objects

CLOCK = FixedClock("2026-03-09")
HEAD = "/* ---\nentity = 'id'\nevent_time = 'at'\n--- */\n"


def form(
    sql: str,
    columns: str = "a",
    *,
    kinds: dict[str, str] | None = None,
    keys: tuple[str, ...] = ("string",),
    entity: str | tuple[str, ...] = "id",
    created: str | None = None,
    event: str = "at",
) -> View:
    types = tuple((name, (kinds or {}).get(name, "double")) for name in columns.split())
    return View(
        project="shop",
        name="v",
        query=Query.parse(HEAD + sql, "v.sql"),
        header=FeatureHeader(entity=entity, event_time=event, created_time=created),
        columns=types,
        key_types=keys,
        fingerprint=hashlib.sha256(repr((sql, types, keys, entity, created, event)).encode()).hexdigest(),
    )


@pytest.mark.parametrize(
    ("old", "new", "columns"),
    [
        ("select id, at, a from t", "select id, at, a, b from t", "a b"),
        ("select id, at, a from t", "select id, b, at, a from t -- and why", "b a"),
        ("select * from t", "select *, a + 1 as b from t", "a b"),
        (
            "with c as (select id, at, x from t) select id, at, x as a from c",
            "with c as (select id, at, x, y from t) select id, at, x as a, y as b from c",
            "a b",
        ),
        (
            "with c as (select id, at, x from t) select id, at, x as a from c union all select id, at, a from landing.v",
            "with c as (select id, at, x, y from t) select id, at, x as a, y as b from c union all select id, at, a, b from landing.v",
            "a b",
        ),
        ("select id, at, sum(x) as a from t group by id, at", "select id, at, sum(x) as a, max(x) as b from t group by id, at", "a b"),
    ],
)  # fmt: skip
def test_columns_that_come_beside_keep_the_version(old: str, new: str, columns: str) -> None:
    found = change(form(old), form(new, columns))
    assert (found.kind, found.added, found.computation) == ("added", ("b",), "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("select distinct id, at, a from t", "select distinct id, at, a, b from t"),
        ("select id, at, sum(x) as a from t group by all", "select id, at, y as b, sum(x) as a from t group by all"),
        ("select id, at, sum(x) as a from t group by 1, 2", "select id, b, at, sum(x) as a from t group by 1, 2"),
        (
            "with c as (select distinct id, at, x from t) select id, at, x as a from c",
            "with c as (select distinct id, at, x, y from t) select id, at, x as a, y as b from c",
        ),
        ("select id, at, a from t", "select id, at, a, b from t where a > 0"),
        ("select id, at, a from t", "select id, at, a, b from t limit 10"),
        ("select id, at, a from t", "select id, at, a, b from other"),
        ("select id, at, a from t", "select id, at, 2 * a as a, b from t"),
        ("select * from t", "select *, a + 1 as b from t where a > 0"),
        ("select * from t", "select * replace (a + 1 as a), 1 as b from t"),
        (
            "select id, at, a from t union all select id, at, a from u",
            "select id, at, a, b from t union all select id, at, 2 * a, b from u",
        ),
        (
            "select id, at, a from t union all select id, at, a from u",
            "select id, at, a, b from t union all select id, a, at, b from u",
        ),
        (
            "select id, at, a from t union select id, at, a from u",
            "select id, at, a, b from t union select id, at, a, b from u",
        ),
        (
            "select id, at, a from t union all select id, at, a from u",
            "select id, at, a, b from t union select id, at, a, b from u",
        ),
        (
            "select * from t union all by name select * from u",
            "select * from t union all by name select * from u where a > 0",
        ),
        ("select distinct * from t", "select distinct * from u"),
    ],
)
def test_a_column_that_comes_with_other_rows_or_values_is_another_version(old: str, new: str) -> None:
    assert change(form(old), form(new, "a b")).kind == "version"


SAME = "select id, at, a from t"


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (form(SAME, kinds={"a": "int64"}), "retyped a: double → int64"),
        (form(SAME, keys=("int64",)), "keys are int64 and no longer string"),
        (form(SAME, entity=("id", "shop"), keys=("string", "string")), "keyed by id, shop and no longer by id"),
        (form(SAME, event="day"), "event_time is day and no longer at"),
        (form(SAME, created="landed"), "created_time is landed and no longer None"),
        (form("select id, at, b from t", "b"), "dropped 'a'; added 'b'"),
    ],
)
def test_other_types_keys_times_or_names_are_another_version_and_said(new: View, said: str) -> None:
    found = change(form(SAME), new)
    assert (found.kind, found.told()) == ("version", said)


def test_forms_are_numbered_and_a_form_that_comes_back_is_the_one_it_was() -> None:
    objects = Objects("memory://")
    first, wider, other = (
        form(SAME),
        form("select id, at, a, b from t", "a b"),
        form("select id, at, 2 * a as a from t"),
    )
    made = [record(objects, one, by="ana", clock=CLOCK) for one in (first, wider, other, first, wider)]
    assert [(one.version, one.number) for one in made] == [(1, 1), (1, 2), (2, 1), (1, 1), (1, 2)]
    assert [one.table for one in made] == [first.table, first.table, other.table, first.table, first.table]
    forms = recorded(objects, "shop", "v")
    assert len(forms) == 3
    # a column beside the second version's is the second version's, and one of neither a third
    beside = placed(form("select id, at, 2 * a as a, c from t", "a c"), forms)
    assert (beside.version, beside.number, beside.table) == (2, 2, other.table)
    new = form("select id, at, 3 * a as a from t")
    assert (placed(new, forms).version, placed(new, forms).table) == (3, new.table)

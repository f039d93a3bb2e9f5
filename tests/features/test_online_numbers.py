"""The quick way of an online read: whatever rows hold, it gives what decoding column by column gives."""

import copy
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from online_stand import STORES, online_address
from towpath import features
from towpath.features import online
from towpath.features.build import SCHEMAS, schema_key
from towpath.features.encoding import RowSchema, encode
from towpath.features.online_columns import Columns
from towpath.features.views import online_table
from towpath.stores.online import OnlineStore, open_online

NOW_US = 1_000
NAMES = ("a", "b", "c", "d")
KINDS = (("double", "double", "double", "double"), ("int64", "double", "int32", "float"), ("double", "string", "double", "int64"))  # fmt: skip


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnlineStore]:
    address = online_address(request.param, request)
    opened = open_online(address, tmp_path_factory.mktemp("numbers"), timeout_ms=5_000)
    yield opened
    opened.close()


_numbers = itertools.count()


def lock(view: str, kinds: tuple[str, ...], wanted: list[int], ttl_us: int | None) -> features.FeatureLock:
    rules: list[dict[str, Any]] = [{}, {"missing": "default", "default": 7.0}, {"missing": "refuse"}, {}]
    columns = tuple(
        features.FeatureColumn(name=NAMES[i], type=kinds[i], **({} if kinds[i] == "string" else rules[i]))
        for i in wanted
    )
    return features.FeatureLock(project="p", view=view, fingerprint="0", entity=("id",), ttl_us=ttl_us, columns=columns)


def put(store: OnlineStore, view: str, schema: RowSchema, key: int, times: tuple[int, int], values: list[Any]) -> None:
    table = online_table("p", view, "0")
    columns: dict[str, Any] = {"event": pa.array([times[0]], pa.int64()), "landed": pa.array([times[1]], pa.int64())}
    for (name, kind), value in zip(schema.columns, values, strict=True):
        given = value if value is None else str(value) if kind == "string" else int(value) if "int" in kind else value
        columns[name] = pa.array([given], pa.type_for_alias(kind))
    (row,) = encode(pa.RecordBatch.from_pydict(columns), schema)
    store.write(table, [(b"[%d]" % key, row)])
    store.write(SCHEMAS, [(schema_key(table, schema.number), schema.to_bytes())])


values = st.one_of(st.none(), st.integers(-5, 5).map(float))
moments = st.integers(NOW_US - 20, NOW_US + 2)
rows = st.lists(st.tuples(st.integers(0, 5), moments, moments, st.lists(values, min_size=4, max_size=4), st.sampled_from([1, 1, 1, 2])), max_size=12)  # fmt: skip
views = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.lists(st.integers(0, 3), unique=True, min_size=1),
        st.one_of(st.none(), st.integers(0, 15)),
        rows,
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(views=views, keys=st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=1, max_size=25))
def test_the_quick_way_gives_what_decoding_gives(
    store: OnlineStore,
    monkeypatch: pytest.MonkeyPatch,
    views: list[tuple[tuple[str, ...], list[int], int | None, list[Any]]],
    keys: list[int | None],
) -> None:
    # given views of any kinds, with nulls, rows that are too old, too new, landed too late, or of an older form
    locks: list[features.FeatureLock] = []
    for kinds, wanted, ttl_us, landed in views:
        view = f"v{next(_numbers)}"
        locks.append(lock(view, kinds, sorted(wanted), ttl_us))
        for number in (2, 1):
            schema = RowSchema(
                number=number, keys=("int64",), columns=tuple(zip(NAMES, kinds, strict=True))[: 5 - number]
            )
            store.write(SCHEMAS, [(schema_key(online_table("p", view, "0"), number), schema.to_bytes())])
            for key, event, created, held, form in landed:
                if form == number:
                    put(store, view, schema, key, (event, created), held[: 5 - number])
    # when they are read both ways
    quick = features.OnlineReader(store, locks).read({"id": keys}, len(keys), NOW_US)
    with monkeypatch.context() as patched:
        patched.setattr(online._View, "form", lambda _: None)
        plain = features.OnlineReader(store, locks).read({"id": keys}, len(keys), NOW_US)
    # then both say the same
    assert plain.matrix is None
    assert list(quick.columns) == list(plain.columns)
    for name, column in plain.columns.items():
        np.testing.assert_array_equal(quick.columns[name], column)
        assert quick.columns[name].dtype == column.dtype
    assert quick.missing == plain.missing
    assert quick.refused.tolist() == plain.refused.tolist()
    assert {view: times.tolist() for view, times in quick.event_us.items()} == {
        view: times.tolist() for view, times in plain.event_us.items()
    }
    if quick.matrix is not None:
        np.testing.assert_array_equal(quick.matrix, np.array(list(plain.columns.values())).T)


@pytest.mark.parametrize("keys", [[1], [1, 2, 3], list(range(40))])
def test_numbers_that_are_all_there_go_the_quick_way(store: OnlineStore, keys: list[int]) -> None:
    schema = RowSchema(keys=("int64",), columns=tuple(zip(NAMES, KINDS[1], strict=True)))
    for key in keys:
        put(store, "whole", schema, key, (5, 5), [1.0, 2.5, 3.0, 4.0])
    read = features.OnlineReader(store, [lock("whole", KINDS[1], [0, 1, 2, 3], 10**6)])
    found = read.read({"id": keys}, len(keys), NOW_US)
    assert found.matrix is not None
    assert found.matrix.tolist() == [[1.0, 2.5, 3.0, 4.0]] * len(keys)
    assert all(column.flags.writeable and column.flags.c_contiguous for column in found.columns.values())


@pytest.mark.parametrize("rows", [1, 3])
def test_columns_that_are_made_late_are_a_dict_to_everybody(rows: int) -> None:
    import pandas as pd
    import polars as pl

    matrix = np.arange(rows * 3.0).reshape(rows, 3)
    expected = {name: matrix[:, place].tolist() for place, name in enumerate("abc")}

    def made() -> Columns:
        return Columns(tuple("abc"), matrix.copy())

    def plain(columns: dict[str, Any]) -> dict[str, list[float]]:
        return {name: column.tolist() for name, column in columns.items()}

    assert isinstance(made(), dict)
    assert plain(dict(made())) == plain({**made()}) == plain(dict(**made())) == plain(made() | {}) == expected
    assert plain(made().copy()) == plain(copy.copy(made())) == plain(copy.deepcopy(made())) == expected
    assert plain(pickle.loads(pickle.dumps(made()))) == expected
    assert (len(made()), list(made()), "b" in made(), "x" in made(), bool(made())) == (3, ["a", "b", "c"], True, False, True)  # fmt: skip
    assert made().get("x") is None
    assert made()["b"].tolist() == expected["b"]
    assert list(reversed(made())) == ["c", "b", "a"]
    assert pd.DataFrame(made()).to_dict("list") == pl.DataFrame(made()).to_dict(as_series=False) == expected
    assert pa.table(made()).to_pydict() == expected
    with pytest.raises(KeyError, match="x"):
        made()["x"]
    changed = made()
    changed["a"] = matrix[:, 0]
    del changed["b"]
    assert list(changed) == ["a", "c"]
    with pytest.raises(KeyError):
        changed["b"]
    assert "'a'" in repr(made())

"""Rows become columns; what is wrong with one is said with row and field."""

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.errors import InputError
from towpath.models import Matrix, columns_from_rows, columns_from_tensor
from towpath.models.manifest import Field, Signature

numbers = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53))


def signature(*fields: Field) -> Signature:
    return Signature(container="numpy", inputs=fields, outputs=())


PRICES = signature(Field(name="price", type="double"), Field(name="units", type="int64"))
MIXED = signature(
    Field(name="price", type="double", nullable=False),
    Field(name="shop", type="string"),
    Field(name="open", type="bool"),
    Field(name="day", type="timestamp[us, tz=UTC]"),
)
ROW = {"price": 1.5, "shop": "a", "open": True, "day": "2011-09-01T12:00:00+01:00"}


@given(rows=st.lists(st.fixed_dictionaries({"a": numbers, "b": numbers}), max_size=5))
def test_every_number_arrives_in_its_row_and_column(rows: list[dict[str, float | None]]) -> None:
    columns = columns_from_rows(signature(Field(name="b", type="double"), Field(name="a", type="double")), rows)
    assert isinstance(columns, Matrix)
    for name in ("a", "b"):
        values = [None if math.isnan(value) else value for value in columns[name].tolist()]
        assert values == [None if row[name] is None else float(row[name] or 0) for row in rows]


@given(values=st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), min_size=1, max_size=4))
def test_a_tensor_is_taken_as_it_is(values: list[list[float]]) -> None:
    columns = columns_from_tensor(PRICES, np.array(values, dtype=np.float32))
    assert np.array_equal(np.stack([columns["price"], columns["units"]], axis=1), np.array(values), equal_nan=True)


def test_types_that_are_no_numbers_come_as_their_own() -> None:
    columns = columns_from_rows(MIXED, [ROW, {**ROW, "shop": None}])
    assert columns["shop"].tolist() == ["a", None]
    assert columns["open"].dtype == bool
    assert columns["day"][0] == np.datetime64("2011-09-01T11:00:00", "us")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"price": "1.5"}, r"row 1, 'price': '1.5' is no number"),
        ({"price": "NaN"}, r"row 1, 'price': 'NaN' is no number"),
        ({"price": math.nan}, r"row 1, 'price': nan is no number"),
        ({"price": math.inf}, r"row 1, 'price': inf is no number"),
        ({"price": True}, r"row 1, 'price': True is no number"),
        ({"price": [1.0]}, r"row 1, 'price': \[1.0\] is no number"),
        ({"price": 10**400}, r"row 1, 'price': 1000"),
        ({"price": None}, r"row 1, 'price': null"),
        ({"shop": 3}, r"row 1, 'shop': 3 is no text"),
        ({"open": 1}, r"row 1, 'open': 1 is no truth value"),
        ({"day": "soon"}, r"row 1, 'day': 'soon' is no timestamp"),
        ({"day": 3}, r"row 1, 'day': 3 is no timestamp"),
        ({"pirce": 1}, r"row 1 has the unknown column 'pirce'; did you mean 'price'\?"),
    ],
)
def test_a_fault_is_named_with_row_and_field(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        columns_from_rows(MIXED, [ROW, {**ROW, **change}])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"price": 1.0}], r"row 0 has no column 'units'"),
        ([{"price": 1.0, "units": 2}, {"price": 1.0}], r"row 1 has no column 'units'"),
        ([{"price": 1.0, "units": 2.5}], r"row 0, 'units': 2.5 is no whole number"),
        ([{"price": math.nan, "units": 2}], r"row 0, 'price': nan"),
        ([{"price": 1e308, "units": 10**400}], r"row 0, 'units': 1000"),
        ([[1.0, 2.0]], r"row 0 is \[1.0, 2.0\], not an object"),
        ([3], r"row 0 is 3, not an object"),
        ([{"price": 1.0, "units": 2, "x": 1}], r"unknown column 'x'"),
        ([{}], r"row 0 has no column 'price'"),
    ],
)
def test_a_fault_in_plain_numbers_is_named_too(rows: list[Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        columns_from_rows(PRICES, rows)


def test_keys_may_stand_beside_the_columns_and_are_left_out() -> None:
    columns = columns_from_rows(PRICES, [{"price": 1.0, "units": 2, "item": "a"}], extra={"item"})
    assert list(columns) == ["price", "units"]


def test_a_value_of_the_row_wins_over_what_was_looked_up() -> None:
    looked_up = {"price": np.array([1.0, math.nan]), "units": np.array([5.0, 6.0])}
    columns = columns_from_rows(PRICES, [{}, {"price": 9.0}], looked_up=looked_up)
    assert columns["price"].tolist() == [1.0, 9.0]
    assert columns["units"].tolist() == [5.0, 6.0]
    with pytest.raises(InputError, match=r"row 1, 'price'"):
        columns_from_rows(PRICES, [{}, {"price": "x"}], looked_up=looked_up)
    with pytest.raises(InputError, match=r"row 0 has no column 'units'"):
        columns_from_rows(PRICES, [{}], looked_up={"price": np.array([1.0])})


@pytest.mark.parametrize("shape", [(2,), (1, 3), (1, 2, 1), ()])
def test_a_tensor_of_another_shape_is_refused_with_both(shape: tuple[int, ...]) -> None:
    if shape == (2,):
        assert columns_from_tensor(PRICES, np.zeros(shape))["price"].tolist() == [0.0]
        return
    with pytest.raises(InputError, match=r"the model reads \[-1, 2\]"):
        columns_from_tensor(PRICES, np.zeros(shape))


def test_text_in_a_tensor_of_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="reads numbers"):
        columns_from_tensor(PRICES, np.array([["a", "b"]], dtype=object))


def test_a_tensor_column_reads_nested_lists_and_names_a_ragged_one() -> None:
    want = Signature(container="tensors", inputs=(Field(name="x", type="FP32", shape=(-1, 2, 2)),), outputs=())
    columns = columns_from_rows(want, [{"x": [[1, 2], [3, 4.5]]}])
    assert columns["x"].dtype == np.float32
    assert columns["x"].shape == (1, 2, 2)
    for wrong in ([[1, 2], [3]], [1, 2], [["a", "b"], ["c", "d"]]):
        with pytest.raises(InputError, match="row 0, 'x'"):
            columns_from_rows(want, [{"x": wrong}])


@pytest.mark.parametrize(
    ("kind", "value"), [("FP32", [1e300, 0]), ("FP16", [70_000, 0]), ("INT8", [300, 0]), ("UINT8", [-1, 0]), ("FP32", None)]
)  # fmt: skip
def test_a_tensor_cell_beyond_its_type_or_null_is_named(kind: str, value: object) -> None:
    field = Field(name="x", type=kind, shape=(-1, 2))
    want = Signature(container="tensors", inputs=(field,), outputs=())
    with pytest.raises(InputError, match="row 0, 'x'"):
        columns_from_rows(want, [{"x": value}])


@pytest.mark.parametrize("beside", [(), ("string",)], ids=["numbers alone", "beside text"])
@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("int64", [-(2**63), 2**62], 2**63),
        ("INT32", [-1, 7], 2**64 - 1),
        ("int64", [-(2**63), 5], -float(2**63)),
        ("uint64", [0, 2**63], -1),
        ("UINT8", [0, 3], 2**64),
    ],
)
def test_a_whole_number_beyond_its_kind_is_refused_beside_any_other(
    kind: str, good: list[int], bad: float, beside: tuple[str, ...]
) -> None:
    fields = tuple(Field(name=f"c{place}", type=one) for place, one in enumerate((kind, *beside)))
    signature = Signature(container="numpy", inputs=fields, outputs=())
    rows = [{"c0": value} | ({"c1": "a"} if beside else {}) for value in good]
    assert columns_from_rows(signature, rows)["c0"].tolist() == good
    with pytest.raises(InputError, match=re.escape(f"row 2, 'c0': {bad} is no whole number")) as refused:
        columns_from_rows(signature, [*rows, {**rows[0], "c0": bad}])
    assert refused.value.mend.startswith("from ") or isinstance(bad, float)


def test_the_least_whole_number_is_read_as_json_and_numpy_have_it() -> None:
    signature = Signature(container="numpy", inputs=(Field(name="c0", type="int64"),), outputs=())
    for least in (-(2**63), np.int64(-(2**63))):
        assert columns_from_rows(signature, [{"c0": least}])["c0"].tolist() == [-(2**63)]

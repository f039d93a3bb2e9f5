"""The Open Inference Protocol codec."""

import contextlib

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from towpath.errors import InputError
from towpath.serving import oip

NUMBERS = [name for name in oip.DTYPES if name != "BYTES"]
shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


def body(datatype: str, shape: object, data: object, **more: object) -> bytes:
    return orjson.dumps({"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}], **more})


@given(data=st.data(), datatype=st.sampled_from(NUMBERS), shape=shapes)
def test_any_numbers_survive_json_and_binary(data: st.DataObject, datatype: str, shape: tuple[int, ...]) -> None:
    # given an array of any datatype
    elements = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else None
    array = data.draw(hnp.arrays(oip.DTYPES[datatype], shape, elements=elements))
    # when it goes out as JSON and as binary, and comes back in
    for binary in (False, True):
        sent, head = oip.encode({}, [oip.Tensor("x", datatype, array)], [], binary_output=binary)
        document = orjson.loads(sent[:head])
        again = orjson.dumps({"inputs": document["outputs"]})
        request = oip.decode(again + sent[head:] if head else again, len(again) if head else None)
        # then it is what it was
        np.testing.assert_array_equal(request.tensors[0].array, array)
        assert request.tensors[0].array.dtype == array.dtype


@given(words=st.lists(st.text(max_size=5) | st.binary(min_size=1, max_size=5).map(lambda b: b"\xff" + b), max_size=6))
def test_any_bytes_survive_binary(words: list[str | bytes]) -> None:
    array = np.empty(len(words), dtype=object)
    array[:] = words
    raw = oip.bytes_of(oip.Tensor("x", "BYTES", array))
    assert list(oip.from_bytes("x", "BYTES", [len(words)], raw).array) == words


@given(st.binary(max_size=60), st.integers(-5, 80) | st.none())
def test_no_body_does_anything_but_decode_or_be_refused(raw: bytes, head: int | None) -> None:
    with contextlib.suppress(InputError):
        oip.decode(raw, head)


def test_whole_numbers_beyond_two_to_the_53_stay_exact() -> None:
    big = [2**63 + 1, 1, 2**53 + 1]
    assert oip.decode(body("UINT64", [3], big), None).tensors[0].array.tolist() == big
    assert oip.decode(body("INT64", [1], [-(2**63)]), None).tensors[0].array.tolist() == [-(2**63)]


def test_null_is_a_missing_number_and_nested_lists_are_taken() -> None:
    array = oip.decode(body("FP64", [2, 2], [[1, None], [2.5, 3]]), None).tensors[0].array
    np.testing.assert_array_equal(array, [[1, np.nan], [2.5, 3]])


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (b"{", "JSON"),
        (b'{"inputs": [{"name": "x", "price": NaN}]}', "'price'"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "object"),
        (b"{}", "'inputs'"),
        (b'{"inputs": [3]}', "Input 0"),
        (b'{"inputs": [{"name": "x"}]}', "'datatype' of input 'x'"),
        (body("FP32", [2], [1]), "'x' has 1 values"),
        (body("FP32", [-1], [1]), "'x' has the shape"),
        (body("FP32", [2**40], [1]), "'x' has the shape"),
        (body("FP32", [2**31] * 20, [1]), "'x' has 1 values"),
        (body("FP32", "big", [1]), "'shape' of input 'x'"),
        (body("FP32", [2, 2], [[1], [2, 3]]), "'x' is ragged"),
        (body("FP32", [1], ["1.5"]), "'x' holds values that are no FP32"),
        (body("FP32", [2], [1.0, 1e300]), "'x' holds a number beyond FP32"),
        (body("FP16", [1], [70000]), "'x' holds a number beyond FP16"),
        (body("INT8", [1], [300]), "'x' holds a number beyond INT8"),
        (body("INT32", [1], [1.5]), "'x' holds values that are no INT32"),
        (body("UINT64", [1], [-1]), "beyond UINT64"),
        (body("FP32", [2], [True, 2.5]), "'x' holds values that are no FP32"),
        (body("INT64", [2, 2], [[1, 2], [True, 4]]), "'x' holds values that are no INT64"),
        (body("BOOL", [1], [1]), "'x' holds values that are no BOOL"),
        (body("BF16", [1], [1]), "send FP32"),
        (body("FP23", [1], [1]), "FP32"),
        (body("BYTES", [1], [1]), "'x' holds values that are no text"),
        (body("FP32", [1], [1], outputs=[{}]), "'name'"),
        (body("FP32", [1], [1], parameters=3), "'parameters'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(raw: bytes, names: str) -> None:
    with pytest.raises(InputError, match=names.replace("[", r"\[")):
        oip.decode(raw, None)


def test_binary_that_is_short_long_or_unannounced_is_refused() -> None:
    head = orjson.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]}
    )
    assert oip.decode(head + bytes(8), len(head)).tensors[0].array.tolist() == [0, 0]
    for raw, size in ((head + bytes(7), len(head)), (head + bytes(9), len(head)), (head, None), (head, 10**9)):
        with pytest.raises(InputError):
            oip.decode(raw, size)


def test_an_output_that_does_not_exist_is_refused_with_the_nearest() -> None:
    one = oip.tensor("prediction", np.array([1.0]))
    with pytest.raises(InputError, match="did you mean 'prediction'"):
        oip.encode({}, [one], [oip.Wanted("predicton", binary=False)], binary_output=False)

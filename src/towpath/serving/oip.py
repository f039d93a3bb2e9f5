"""The Open Inference Protocol on the wire: JSON, and the binary tensor extension in both directions.

A request is a JSON head, then, if ``Inference-Header-Content-Length`` says so, the bytes of the inputs that carry
``binary_data_size``, in order. The answer is built alike. `towpath.serving.grpc` shares the tensors.

Source:
    KServe, "Open Inference Protocol (V2)", and Triton's "binary tensor data extension".
"""

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import orjson

from towpath.errors import InputError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DTYPES",
    "InferRequest",
    "Tensor",
    "Wanted",
    "bytes_of",
    "checked_shape",
    "chosen",
    "decode",
    "decode_json",
    "decode_object",
    "encode",
    "from_bytes",
    "from_values",
    "parameters_of",
    "refuse_parameters",
    "timeout_s_of",
    "tensor",
]

DTYPES: dict[str, "np.dtype[Any]"] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
}
"""Datatype → numpy; BF16 has none and is refused."""
_NAMES = {(dtype.kind, dtype.itemsize): name for name, dtype in DTYPES.items()}
_MAX_DIMENSIONS = 32
_MAX_DIMENSION = 1 << 31
_LENGTH = struct.Struct("<I")
_NOT_DONE = {
    "shared_memory_region": "send the values themselves",
    "classification": "take the output whole and sort it",
}
"""Parameter → what to do instead."""


class Tensor(NamedTuple):
    """A named array; BYTES are objects: text where it is UTF-8, else bytes."""

    name: str
    datatype: str
    array: "NDArray[Any]"


class Wanted(NamedTuple):
    """An output that the caller asked for."""

    name: str
    binary: bool


class InferRequest(NamedTuple):
    """What a caller asks, whatever the transport."""

    id: str
    tensors: list[Tensor]
    wanted: list[Wanted]
    """Empty for all outputs."""
    binary_output: bool
    parameters: Mapping[str, Any]


def decode_json(body: "bytes | bytearray | memoryview") -> Any:
    """Read JSON strictly: no NaN, no Infinity, no nested bombs.

    Raises:
        InputError: It is no JSON; the text names the nearest field before the fault, and the column.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        field = _field_before(error.doc, error.pos)
        at = f"in field '{field}', " if field else ""
        raise InputError(
            f"The body is no JSON: {error.msg.split(':')[0]} ({at}line {error.lineno} column {error.colno}).",
            mend="send UTF-8 JSON; a missing number is null, JSON has no NaN",
        ) from None


def decode_object(body: bytes) -> dict[str, Any]:
    """A body that is a JSON object, or nothing at all.

    Raises:
        InputError: It is something else.
    """
    found = decode_json(body) if body else {}
    if not isinstance(found, dict):
        raise InputError("The body is no JSON object.", mend="send {}")
    return cast("dict[str, Any]", found)


def parameters_of(head: Mapping[str, Any]) -> Mapping[str, Any]:
    """Field ``parameters``, empty where there is none.

    Raises:
        InputError: It is no object.
    """
    return _object(head.get("parameters"), "parameters")


def decode(body: bytes, head_bytes: int | None) -> InferRequest:
    """Read an infer request.

    Args:
        body: The whole body.
        head_bytes: Value of ``Inference-Header-Content-Length``; none where all of it is JSON.

    Raises:
        InputError: Something does not fit; the text names the input.
    """
    view = memoryview(body)
    if head_bytes is not None and not 0 <= head_bytes <= len(body):
        raise InputError(f"Inference-Header-Content-Length is {head_bytes}, the body has {len(body)} bytes.")
    head = decode_json(body if head_bytes is None else view[:head_bytes])
    if not isinstance(head, dict):
        raise InputError("The body is no JSON object.", mend='send {"inputs": [...]}')
    head = cast("dict[str, Any]", head)
    inputs: Any = head.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise InputError("Field 'inputs' is missing or empty.", mend='send {"inputs": [{"name", "shape", "datatype"}]}')
    place, tensors = head_bytes or 0, list[Tensor]()
    for number, item in enumerate(cast("list[Any]", inputs)):
        tensor_read, place = _input(item, number, view, place)
        tensors.append(tensor_read)
    if head_bytes is not None and place != len(body):
        raise InputError(f"{len(body) - place} bytes follow the last input's binary data.")
    parameters = _object(head.get("parameters"), "parameters")
    identity: Any = head.get("id", "")
    if not isinstance(identity, str):
        raise InputError("Field 'id' is no text.")
    binary = bool(parameters.get("binary_data_output", False))
    return InferRequest(identity, tensors, _wanted(head.get("outputs"), binary=binary), binary, parameters)


def timeout_s_of(parameters: Mapping[str, Any]) -> float | None:
    """The request's own deadline: the parameter ``timeout``, in microseconds, as Triton's clients send it.

    Raises:
        InputError: It is no whole number.
    """
    timeout_us: Any = parameters.get("timeout")
    if timeout_us is None or timeout_us == 0:
        return None
    if type(timeout_us) is not int or timeout_us < 0:
        raise InputError("The parameter 'timeout' is no whole number of microseconds.")
    return timeout_us / 1e6


def encode(
    head: Mapping[str, Any], tensors: Sequence[Tensor], wanted: Sequence[Wanted], *, binary_output: bool
) -> tuple[bytes, int | None]:
    """Write an infer response.

    Args:
        head: ``model_name model_version id parameters``.
        tensors: All outputs of the model.
        wanted: Those that were asked for, in that order; empty for all.
        binary_output: Whether outputs are binary that do not say otherwise.

    Returns:
        The body, and the length of its JSON head where binary data follows it.

    Raises:
        InputError: An output was asked for that the model does not have.
    """
    asked = chosen(tensors, wanted, binary_output=binary_output)
    outputs: list[dict[str, Any]] = []
    tail: list[bytes | memoryview] = []
    for one, binary in asked:
        described: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": list(one.array.shape)}
        if binary:
            raw = bytes_of(one)
            described["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            flat = np.ascontiguousarray(one.array).reshape(-1)
            described["data"] = [_text(v) for v in flat] if one.datatype == "BYTES" else flat
        outputs.append(described)
    text = orjson.dumps({**head, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (text, None) if not tail else (b"".join([text, *tail]), len(text))


def tensor(name: str, array: "NDArray[Any]") -> Tensor:
    """Name the datatype of an array; text and mixed arrays become BYTES.

    Example:
        >>> tensor("prediction", np.array([1.5])).datatype
        'FP64'
    """
    if array.dtype.kind in "US":
        array = array.astype(object)
    known = _NAMES.get((array.dtype.kind, array.dtype.itemsize))
    if known is None:
        array, known = np.array([str(v) for v in array.reshape(-1)], dtype=object).reshape(array.shape), "BYTES"
    return Tensor(name, known, array)


def from_values(name: str, datatype: str, shape: Sequence[int], values: Any) -> Tensor:
    """Make a tensor from JSON or typed values, flat or nested.

    Raises:
        InputError: Wrong datatype, ragged, out of range, or not as many as the shape says.
    """
    dtype = _dtype(name, datatype)
    array = _words(name, values) if datatype == "BYTES" else _numbers(name, datatype, dtype, values)
    if array.size != prod(shape):
        raise InputError(f"Input '{name}' has {array.size} values, its shape {list(shape)} holds {prod(shape)}.")
    return Tensor(name, datatype, array.reshape(shape))


def from_bytes(name: str, datatype: str, shape: Sequence[int], raw: "bytes | memoryview") -> Tensor:
    """Make a tensor from its binary form, without a copy where it has fixed width.

    Raises:
        InputError: There are too few or too many bytes for the shape.
    """
    dtype = _dtype(name, datatype)
    count = prod(shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, _split_words(name, raw, count).reshape(shape))
    if len(raw) != count * dtype.itemsize:
        raise InputError(
            f"Input '{name}' has {len(raw)} bytes, {datatype} of shape {list(shape)} needs {count * dtype.itemsize}."
        )
    return Tensor(name, datatype, np.frombuffer(raw, dtype=dtype).reshape(shape))


def bytes_of(one: Tensor) -> bytes:
    """The binary form of a tensor: little endian, row-major; each of BYTES with its length before it."""
    if one.datatype != "BYTES":
        return one.array.astype(DTYPES[one.datatype], copy=False).tobytes()
    parts: list[bytes] = []
    for value in one.array.reshape(-1):
        word = value if isinstance(value, bytes) else ("" if value is None else str(value)).encode()
        parts += [_LENGTH.pack(len(word)), word]
    return b"".join(parts)


def checked_shape(name: str, shape: Any) -> list[int]:
    """Refuse a shape that is no list of small whole numbers.

    Raises:
        InputError: Negative, huge, too many dimensions, or no list at all.
    """
    dimensions = cast("list[int]", shape) if isinstance(shape, list) else [None]
    if not all(type(d) is int for d in dimensions):
        raise InputError(f"Field 'shape' of input '{name}' is no list of whole numbers.")
    dimensions = cast("list[int]", dimensions)
    wild = len(dimensions) > _MAX_DIMENSIONS or any(not 0 <= d <= _MAX_DIMENSION for d in dimensions)
    if wild or (
        0 in dimensions and prod(d or 1 for d in dimensions) > _MAX_DIMENSION
    ):  # numpy multiplies all but the zeros
        raise InputError(
            f"Input '{name}' has the shape {dimensions[:_MAX_DIMENSIONS]}: "
            f"up to {_MAX_DIMENSIONS} dimensions from 0 to {_MAX_DIMENSION} are taken."
        )
    return dimensions


def refuse_parameters(parameters: Mapping[str, Any], what: str, name: str) -> None:
    """Refuse what would change the answer and is not done here; a parameter that nobody knows is passed over.

    Raises:
        InputError: Shared memory, or the top classes of an output.
    """
    for asked, mend in _NOT_DONE.items():
        if asked in parameters:
            raise InputError(f"The parameter '{asked}' of {what} '{name}' is not taken.", mend=mend)


def _input(item: Any, number: int, view: memoryview, place: int) -> tuple[Tensor, int]:
    if not isinstance(item, dict):
        raise InputError(f"Input {number} is no JSON object.")
    item = cast("dict[str, Any]", item)
    name: Any = item.get("name")
    if not isinstance(name, str):
        raise InputError(f"Field 'name' of input {number} is missing.")
    datatype: Any = item.get("datatype")
    if not isinstance(datatype, str):
        raise InputError(f"Field 'datatype' of input '{name}' is missing.")
    shape = checked_shape(name, item.get("shape"))
    parameters = _object(item.get("parameters"), f"parameters of input '{name}'")
    size = parameters.get("binary_data_size")
    if size is None:
        refuse_parameters(parameters, "input", name)
        if "data" not in item:
            raise InputError(f"Field 'data' of input '{name}' is missing.")
        return from_values(name, datatype, shape, item["data"]), place
    if type(size) is not int or size < 0:
        raise InputError(f"Field 'binary_data_size' of input '{name}' is no size.")
    if place + size > len(view) or place == 0:
        raise InputError(
            f"Input '{name}' promises {size} bytes, {len(view) - place if place else 0} are left.",
            mend="send Inference-Header-Content-Length and the bytes after the JSON",
        )
    return from_bytes(name, datatype, shape, view[place : place + size]), place + size


def _wanted(outputs: Any, *, binary: bool) -> list[Wanted]:
    if outputs is None:
        return []
    if not isinstance(outputs, list):
        raise InputError("Field 'outputs' is no list.")
    wanted: list[Wanted] = []
    for item in cast("list[Any]", outputs):
        if not isinstance(item, dict) or not isinstance(cast("dict[str, Any]", item).get("name"), str):
            raise InputError("Each of 'outputs' needs a 'name'.")
        item = cast("dict[str, Any]", item)
        parameters = _object(item.get("parameters"), f"parameters of output '{item['name']}'")
        if parameters:
            refuse_parameters(parameters, "output", item["name"])
        wanted.append(Wanted(item["name"], bool(parameters.get("binary_data", binary))))
    return wanted


def chosen(tensors: Sequence[Tensor], wanted: Sequence[Wanted], *, binary_output: bool) -> list[tuple[Tensor, bool]]:
    """The outputs that were asked for, in that order, each with whether it goes out as binary; all where none was named.

    Raises:
        InputError: One was asked for that the model does not have.
    """
    if not wanted:
        return [(one, binary_output) for one in tensors]
    by_name = {one.name: one for one in tensors}
    for want in wanted:
        if want.name not in by_name:
            raise InputError(f"There is no output '{want.name}'{nearest(want.name, by_name)}.")
    return [(by_name[want.name], want.binary) for want in wanted]


def _dtype(name: str, datatype: str) -> "np.dtype[Any]":
    dtype = DTYPES.get(datatype)
    if dtype is None:
        hint = "; send FP32" if datatype == "BF16" else nearest(datatype, DTYPES)
        raise InputError(f"Input '{name}' has the datatype '{datatype}', which is not taken{hint}.")
    return dtype


def _numbers(name: str, datatype: str, dtype: "np.dtype[Any]", values: Any) -> "NDArray[Any]":
    try:
        array = np.array(values)
        if array.dtype.kind == "f" and dtype.kind in "iu" and _whole(values):
            array = np.array(values, dtype=dtype)  # numpy makes floats of whole numbers around 2**63
        if array.dtype.kind == "O" and dtype.kind == "f" and _numbers_or_null(array):
            array = array.astype(np.float64)  # a JSON null is a missing number
    except (ValueError, OverflowError):
        raise InputError(f"Input '{name}' is ragged or holds a number beyond {datatype}.") from None
    if not array.size:
        return array.astype(dtype)
    of_kind = array.dtype.kind in {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if not of_kind or (dtype.kind != "b" and _holds_truth(values)):  # numpy makes 1 of a true beside numbers
        raise InputError(f"Input '{name}' holds values that are no {datatype}.")
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise InputError(f"Input '{name}' holds a number beyond {datatype} ({bounds.min} to {bounds.max}).")
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype, copy=False)
    except FloatingPointError:
        largest = float(np.finfo(dtype).max)
        raise InputError(
            f"Input '{name}' holds a number beyond {datatype} ({-largest:.6g} to {largest:.6g})."
        ) from None


def _whole(values: Any) -> bool:
    if isinstance(values, list):
        return all(_whole(v) for v in cast("list[Any]", values))
    return type(values) is int


def _holds_truth(values: Any) -> bool:
    if not isinstance(values, list):
        return False
    kinds = set(map(type, cast("list[Any]", values)))
    return bool in kinds or (list in kinds and any(map(_holds_truth, cast("list[Any]", values))))


def _numbers_or_null(array: "NDArray[Any]") -> bool:
    return all(v is None or type(v) in {int, float} for v in array.reshape(-1))


def _words(name: str, values: Any) -> "NDArray[Any]":
    flat: list[Any] = []
    waiting: list[Any] = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(cast("list[Any]", value)))
        elif isinstance(value, bytes):
            flat.append(_text_or_bytes(value))
        elif value is None or isinstance(value, str):
            flat.append(value)
        else:
            raise InputError(f"Input '{name}' holds values that are no text.", mend="BYTES takes JSON strings")
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array


def _split_words(name: str, raw: "bytes | memoryview", count: int) -> "NDArray[Any]":
    if count * _LENGTH.size > len(raw):
        raise InputError(f"Input '{name}' has {len(raw)} bytes, too few for {count} values of BYTES.")
    array, place = np.empty(count, dtype=object), 0
    for index in range(count):
        if place + _LENGTH.size > len(raw):
            raise InputError(f"Input '{name}' ends within value {index}.")
        (length,) = _LENGTH.unpack_from(raw, place)
        place += _LENGTH.size
        if place + length > len(raw):
            raise InputError(f"Value {index} of input '{name}' promises {length} bytes, {len(raw) - place} are left.")
        array[index] = _text_or_bytes(bytes(raw[place : place + length]))
        place += length
    if place != len(raw):
        raise InputError(f"{len(raw) - place} bytes follow the last value of input '{name}'.")
    return array


def _text_or_bytes(word: bytes) -> "str | bytes":
    try:
        return word.decode()
    except UnicodeDecodeError:
        return word


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _object(value: Any, field: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"Field '{field}' is no JSON object.")
    return cast("dict[str, Any]", value)


def _field_before(text: str, place: int) -> str:
    """The name of the last ``"field":`` before a place in JSON text; empty where there is none near."""
    colon = text.rfind('":', max(0, place - 10_000), place)
    opening = text.rfind('"', max(0, colon - 200), colon) if colon > 0 else -1
    return text[opening + 1 : colon] if opening >= 0 else ""

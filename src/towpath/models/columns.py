"""Rows and tensors become columns, and columns the matrix that a model reads.

One row of 20 floats is the case that counts: it takes 4 to 5 µs from dict to `Matrix`, because all numbers are turned into one
array at once and looked at one by one only when something is wrong. A dict of 20 arrays took 9 µs more to build and to stack again.
"""

import base64
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import itemgetter
from threading import Lock
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from towpath.errors import InputError, TowpathError, nearest
from towpath.models.manifest import Field, Signature
from towpath.types import utc

__all__ = [
    "Columns",
    "Encoder",
    "Matrix",
    "array_of",
    "columns_from_rows",
    "columns_from_tensor",
    "in_type",
    "is_number",
    "rows_in",
    "shown",
    "tensor_dtype",
]

Columns = Mapping[str, NDArray[Any]]
"""One array per column, all of one length; strings are object arrays with None, floats have NaN for null."""

_FLOATS = frozenset({"double", "float", "halffloat", "float64", "float32", "float16", "FP64", "FP32", "FP16"})
_INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_TENSOR_INTEGERS = frozenset(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
_TENSOR_TYPES = {"FP64": "f8", "FP32": "f4", "FP16": "f2", "BOOL": "?", "BYTES": "O"}
_TEXT = frozenset({"string", "large_string", "BYTES"})
_BINARY = frozenset({"binary", "large_binary"})
_PLAIN = frozenset({int, float})
_PLAIN_OR_NULL = frozenset({int, float, type(None)})


def is_number(field: Field) -> bool:
    """Whether the field is a plain number per row, so that it fits into a `Matrix`.

    Example:
        >>> is_number(Field(name="price", type="double")), is_number(Field(name="shop", type="string"))
        (True, False)
    """
    plain = field.type in _FLOATS or field.type in _INTEGERS or field.type in _TENSOR_INTEGERS
    return plain and field.levels is None and len(field.shape) == 1


class Matrix(Mapping[str, NDArray[Any]]):
    """Columns that are all numbers, kept as one C-ordered float64 array; a column is a view into it.

    Args:
        names: Column names in the order of the signature.
        array: Shape ``(n, len(names))``; NaN is null.

    Example:
        >>> table = Matrix(("a", "b"), np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> table["b"].tolist(), len(table)
        ([2.0, 4.0], 2)
    """

    __slots__ = ("array", "names")

    def __init__(self, names: tuple[str, ...], array: NDArray[np.float64]) -> None:
        self.names = names
        self.array = array

    @property
    def values(self) -> NDArray[np.float64]:  # pyright: ignore[reportIncompatibleMethodOverride] - see below
        """The old name of `array`, which hides the method of mappings; it goes when serving no longer reads it."""
        return self.array

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        try:
            return self.array[:, self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Matrix({self.array.shape[0]} rows of {list(self.names)})"


def rows_in(columns: Columns) -> int:
    """How many rows the columns hold.

    Example:
        >>> rows_in({"a": np.zeros(3)})
        3
    """
    if isinstance(columns, Matrix):
        return int(columns.array.shape[0])
    return len(next(iter(columns.values()))) if columns else 0


class Encoder:
    """Turns columns into the float64 matrix that tree engines read; category levels become their codes.

    Args:
        inputs: Fields in the order of the model.

    `unseen` counts values that training never saw, by column; they are handed to the model as null.
    """

    def __init__(self, inputs: Sequence[Field]) -> None:
        self.names = tuple(field.name for field in inputs)
        self.unseen: Counter[str] = Counter()
        self._codes = [
            None if field.levels is None else {level: float(code) for code, level in enumerate(field.levels)}
            for field in inputs
        ]
        self._lock = Lock()

    def matrix(self, columns: Columns) -> NDArray[np.float64]:
        """Give the matrix of shape ``(n, len(names))``; no copy where the columns are one already."""
        if isinstance(columns, Matrix) and (columns.names is self.names or columns.names == self.names):
            return columns.array
        values = np.empty((rows_in(columns), len(self.names)), dtype=np.float64)
        for position, (name, codes) in enumerate(zip(self.names, self._codes, strict=True)):
            column = columns[name]
            values[:, position] = column if codes is None else self._encode(name, column, codes)
        return values

    def known(self, field: Field, column: NDArray[Any]) -> NDArray[Any]:
        """Give the level codes of one column, shape ``(n,)``, int64, -1 for null and for unseen, which are counted."""
        codes = self._codes[self.names.index(field.name)] or {}
        encoded = self._encode(field.name, column, codes)
        return np.where(np.isnan(encoded), -1, encoded).astype(np.int64)

    def _encode(self, name: str, column: NDArray[Any], codes: Mapping[str, float]) -> NDArray[np.float64]:
        encoded = np.empty(len(column), dtype=np.float64)
        unseen = 0
        for row, value in enumerate(column.tolist()):
            code = None if _is_null(value) else codes.get(_level(value))
            unseen += code is None and not _is_null(value)
            encoded[row] = math.nan if code is None else code
        if unseen:
            with self._lock:
                self.unseen[name] += unseen
        return encoded


def columns_from_rows(
    signature: Signature,
    rows: Sequence[Mapping[str, object]],
    *,
    extra: Collection[str] = (),
    looked_up: Columns | None = None,
) -> Columns:
    """Read JSON rows into the columns of a signature.

    Args:
        signature: What the model wants.
        rows: One mapping per row, as JSON gave them; null is None.
        extra: Further keys that a row may have, such as entity keys; they are left out of the columns.
        looked_up: Columns that are known already, one value per row (features of the online store). A row need not
            name them; where it does, its value wins.

    Returns:
        Columns in the order of the signature; a `Matrix` where all are plain numbers.

    Raises:
        InputError: Names row and field: a missing or unknown column, a wrong type, NaN, a null where none may stand.

    Example:
        >>> want = Signature(container="numpy", inputs=(Field(name="a", type="double"),), outputs=())
        >>> columns_from_rows(want, [{"a": 1}, {"a": None}])["a"].tolist()
        [1.0, nan]
    """
    reader = _READERS.get(id(signature))
    if reader is None or reader.signature is not signature:
        reader = _Reader(signature)
        if len(_READERS) >= _READERS_KEPT:
            _READERS.clear()
        _READERS[id(signature)] = reader
    if looked_up:
        return reader.over(rows, extra, looked_up)
    return reader.read(rows, extra)


def columns_from_tensor(signature: Signature, tensor: NDArray[Any], *, name: str = "") -> Columns:
    """Read one 2-D tensor as the columns of a tabular model.

    Args:
        signature: What the model wants, k inputs.
        tensor: Shape ``(n, k)`` (or ``(k,)`` for one row), columns in the order of the signature; NaN is null.
        name: What the caller calls it, for messages.

    Raises:
        InputError: The shape or the type does not fit, or a column that may not be null holds NaN.

    Example:
        >>> want = Signature(container="numpy", inputs=(Field(name="a", type="double"),), outputs=())
        >>> columns_from_tensor(want, np.array([[1.5]]))["a"].tolist()
        [1.5]
    """
    names = tuple(field.name for field in signature.inputs)
    called = f"Input '{name}'" if name else "the tensor"
    if tensor.ndim == 1 and len(tensor) == len(names) and len(names) > 1:
        tensor = tensor.reshape(1, -1)
    if tensor.ndim != 2 or tensor.shape[1] != len(names):  # noqa: PLR2004 - rows and columns
        raise InputError(
            f"{called} has shape {list(tensor.shape)}; the model reads [-1, {len(names)}].",
            mend=f"one row per line with the columns {', '.join(names[:8])}{', …' if len(names) > 8 else ''}",  # noqa: PLR2004
        )
    if not all(is_number(field) for field in signature.inputs):
        return {
            field.name: array_of(field, tensor[:, position].tolist()) for position, field in enumerate(signature.inputs)
        }
    if tensor.dtype.kind not in "fiub":
        held = "text" if tensor.dtype.kind in "OSU" else str(tensor.dtype)
        raise InputError(f"{called} holds {held}; the model reads numbers.", mend="send FP64 or FP32")
    table = Matrix(names, np.ascontiguousarray(tensor, dtype=np.float64))
    for position, field in enumerate(signature.inputs):
        if not field.nullable and np.isnan(table.array[:, position]).any():
            row = int(np.flatnonzero(np.isnan(table.array[:, position]))[0])
            raise InputError(f"row {row}, '{field.name}': NaN, which the model cannot read.", mend="send a number")
    return table


def array_of(field: Field, values: Sequence[object], *, numbers: Sequence[int] | None = None) -> NDArray[Any]:
    """Read the values of one column, each checked against the field's type.

    Args:
        field: What they should be.
        values: As JSON gave them.
        numbers: The row number of each value, for the error; counted from 0 unless given.

    Raises:
        InputError: Names the row and the field.

    Example:
        >>> array_of(Field(name="shop", type="string"), ["a", None]).tolist()
        ['a', None]
    """
    read = _cell_reader(field)
    cells: list[Any] = []
    for position, value in enumerate(values):
        row = position if numbers is None else numbers[position]
        if value is None:
            if not field.nullable or len(field.shape) > 1:
                raise InputError(f"row {row}, '{field.name}': null, which the model cannot read.", mend="send a value")
            cells.append(None)
            continue
        try:
            cells.append(read(value))
        except (TypeError, ValueError, OverflowError, AttributeError, TowpathError):
            raise InputError(
                f"row {row}, '{field.name}': {shown(value)} is no {_said(field)}.", mend=_mend(field, value)
            ) from None
    return _packed(field, cells)


_READERS_KEPT = 256


class _Reader:
    """The rules of one signature, worked out once."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.names = tuple(field.name for field in signature.inputs)
        self.known = frozenset(self.names)
        self.numbers = bool(self.names) and all(is_number(field) for field in signature.inputs)
        self.whole = [i for i, field in enumerate(signature.inputs) if field.type not in _FLOATS]
        ends = [_ends(signature.inputs[i]) for i in self.whole]
        # the ends themselves are left to the values one by one: a float there may be a whole number beyond, rounded
        self.least = [math.nextafter(float(least), 0.0) for least, _ in ends]
        self.most = [float(most) for _, most in ends]
        self.needed = [i for i, field in enumerate(signature.inputs) if not field.nullable]
        first = itemgetter(*self.names) if self.names else None
        self.cells: Callable[[Mapping[str, object]], tuple[Any, ...]]
        if first is None:
            self.cells = lambda _row: ()
        elif len(self.names) == 1:
            self.cells = lambda row: (first(row),)
        else:
            self.cells = first

    def read(self, rows: Sequence[Mapping[str, object]], extra: Collection[str]) -> Columns:
        width = len(self.names)
        try:
            if len(rows) == 1 and self.numbers and not self.whole and len(rows[0]) == width:
                cells = self.cells(rows[0])
                # A sum is finite only where all of its parts are, and it is one call
                if _PLAIN.issuperset(map(type, cells)) and math.isfinite(sum(cells)):
                    return Matrix(self.names, np.array((cells,), dtype=np.float64))
            table = [self.cells(row) for row in rows]
        except (KeyError, TypeError, OverflowError, IndexError, AttributeError):
            self._name_the_fault(rows, extra)
            table = [self.cells(row) for row in rows]
        if any(len(row) != width for row in rows):
            self._name_the_fault(rows, extra)
        if self.numbers and _PLAIN_OR_NULL.issuperset(map(type, chain.from_iterable(table))):
            matrix = self._matrix(table)
            if matrix is not None:
                return matrix
        by_column = list(zip(*table, strict=True)) if table else [()] * width
        columns = {
            field.name: array_of(field, values) for field, values in zip(self.signature.inputs, by_column, strict=True)
        }
        return _as_matrix(self.names, columns) if self.numbers else columns

    def over(self, rows: Sequence[Mapping[str, object]], extra: Collection[str], looked_up: Columns) -> Columns:
        """Read what the rows name and take the rest from what was looked up."""
        self._no_strangers(rows, extra)
        named = set[str]().union(*rows)
        columns: dict[str, NDArray[Any]] = {}
        for field in self.signature.inputs:
            known = looked_up.get(field.name)
            if known is None:
                self._no_gap(rows, field)
                columns[field.name] = array_of(field, [row[field.name] for row in rows])
            elif field.name in named:
                at = [number for number, row in enumerate(rows) if field.name in row]
                given = array_of(field, [rows[number][field.name] for number in at], numbers=at)
                laid = known.astype(np.result_type(known, given))
                laid[at] = given
                columns[field.name] = laid
            else:
                columns[field.name] = known
        return _as_matrix(self.names, columns) if self.numbers else columns

    def _matrix(self, table: list[tuple[Any, ...]]) -> Matrix | None:
        """All numbers at once; none where one of them is at fault, so that the slow path names it."""
        try:
            values = np.array(table, dtype=np.float64).reshape(len(table), len(self.names))
        except OverflowError:
            return None
        nulls = np.isnan(values)
        if nulls.any():
            if nulls[:, self.needed].any():
                return None
            if any(table[row][column] is not None for row, column in np.argwhere(nulls).tolist()):
                return None
        if np.isinf(values).any():
            return None
        if self.whole:
            whole = values[:, self.whole]
            fits = (whole == np.rint(whole)) & (whole >= self.least) & (whole < self.most)
            if not (np.isnan(whole) | fits).all():
                return None
        return Matrix(self.names, values)

    def _name_the_fault(self, rows: Sequence[Mapping[str, object]], extra: Collection[str]) -> None:
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise InputError(
                    f"row {number} is {shown(row)}, not an object of columns.", mend='such as {"price": 1.5}'
                )
        self._no_strangers(rows, extra)
        for field in self.signature.inputs:
            self._no_gap(rows, field)

    def _no_strangers(self, rows: Sequence[Mapping[str, object]], extra: Collection[str]) -> None:
        for number, row in enumerate(rows):
            strangers = [name for name in row if name not in self.known and name not in extra]
            if strangers:
                known = [*self.names, *extra]
                raise InputError(
                    f"row {number} has the unknown column '{strangers[0]}'{nearest(str(strangers[0]), known)}.",
                    mend="leave it out, or write its name as the model knows it",
                )

    def _no_gap(self, rows: Sequence[Mapping[str, object]], field: Field) -> None:
        for number, row in enumerate(rows):
            if field.name not in row:
                close = nearest(field.name, row) if row else ""
                raise InputError(
                    f"row {number} has no column '{field.name}'{close}.",
                    mend="send null where it is not known" if field.nullable else "send a value",
                )


def _as_matrix(names: tuple[str, ...], columns: Mapping[str, NDArray[Any]]) -> Matrix:
    if not columns:
        return Matrix(names, np.empty((0, 0)))
    return Matrix(names, np.stack([columns[name].astype(np.float64) for name in names], axis=1))


def _cell_reader(field: Field) -> Callable[[Any], Any]:
    """How one value that is not null is read; a ValueError or TypeError means that it does not fit."""
    if len(field.shape) > 1:
        return lambda value: _tensor(field, value)
    if field.type in _FLOATS:
        return _float
    if field.type in _INTEGERS or field.type in _TENSOR_INTEGERS:
        return partial(_integer, *_ends(field))
    if field.type in _TEXT or field.type.startswith("dictionary"):
        return _text
    if field.type in _BINARY:
        return _bytes
    if field.type in {"bool", "BOOL"}:
        return _truth
    if field.type.startswith(("timestamp", "date")):
        return _time
    return lambda value: value


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        _wrong()
    number = float(value)
    return number if math.isfinite(number) else _wrong()


def _integer(least: int, most: int, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        _wrong()
    whole = int(value)
    if whole == least < 0 and isinstance(
        value, float
    ):  # JSON's numbers beyond 64 bits are read as floats, rounded to here
        _wrong()
    return whole if whole == value and least <= whole <= most else _wrong()


def _ends(field: Field) -> tuple[int, int]:
    """The least and the greatest whole number that is read: of 64 bits, whatever the size of the type that the model was trained on."""
    return (0, 2**64 - 1) if field.type.lower().startswith("u") else (-(2**63), 2**63 - 1)


def _text(value: object) -> str:
    return value if isinstance(value, str) else _wrong()


def _bytes(value: object) -> bytes:
    """Bytes as they are; JSON has none, so text is base64."""
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    return value if isinstance(value, bytes) else _wrong()


def _truth(value: object) -> bool:
    return bool(value) if isinstance(value, bool | np.bool_) else _wrong()


def _time(value: Any) -> np.datetime64:
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[us]")
    return np.datetime64(utc(value).replace(tzinfo=None), "us")  # an AttributeError where it is neither text nor time


def _tensor(field: Field, value: object) -> NDArray[Any]:
    """One row of a tensor; numpy refuses ragged lists by itself."""
    cell = np.asarray(value)
    fits = cell.ndim == len(field.shape) - 1 and all(
        want in (-1, have) for want, have in zip(field.shape[1:], cell.shape, strict=False)
    )
    kinds = {"BOOL": "b", "BYTES": "USO"}.get(field.type, "iuf" if field.type in _FLOATS else "iu")
    if not fits or cell.dtype.kind not in kinds:
        _wrong()
    return cell if field.type in {"BOOL", "BYTES"} else in_type(cell, tensor_dtype(field))


def in_type(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The same numbers in another type.

    Raises:
        ValueError: One of them is beyond the type: 70,000 in FP16 would be infinite, 300 in INT8 another number.

    Example:
        >>> in_type(np.array([1.5]), np.dtype("f4")).dtype
        dtype('float32')
    """
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
    kept = np.isinf(cast) == np.isinf(array) if dtype.kind == "f" else cast == array
    return cast if bool(np.all(kept)) else _wrong()


def _wrong() -> NoReturn:
    raise ValueError


def _packed(field: Field, cells: list[Any]) -> NDArray[Any]:
    """One array of the values that were read."""
    if len(field.shape) > 1:
        if len({cell.shape for cell in cells}) > 1:
            shapes = sorted({str(list(cell.shape)) for cell in cells})
            raise InputError(f"'{field.name}' is ragged: rows of shape {' and '.join(shapes[:3])}.", mend="one shape")
        return np.stack(cells).astype(tensor_dtype(field)) if cells else np.empty((0, *map(abs, field.shape[1:])))
    nulls = any(cell is None for cell in cells)
    if field.type in _TEXT or field.type in _BINARY or field.type.startswith("dictionary"):
        packed = np.empty(len(cells), dtype=object)
        packed[:] = cells
        return packed
    if field.type.startswith(("timestamp", "date")):
        return np.array(
            [np.datetime64("NaT", "us") if cell is None else cell for cell in cells], dtype="datetime64[us]"
        )
    if field.type in _FLOATS or nulls:
        return np.array(cells, dtype=np.float64)
    if field.type in {"bool", "BOOL"}:
        return np.array(cells, dtype=bool)
    return np.array(cells, dtype=np.int64 if max(cells, default=0) < 2**63 else np.uint64)


def tensor_dtype(field: Field) -> np.dtype[Any]:
    """Numpy's type of a tensor field, such as float32 for ``FP32``.

    Example:
        >>> tensor_dtype(Field(name="x", type="FP32", shape=(-1, 3)))
        dtype('float32')
    """
    name = _TENSOR_TYPES.get(field.type)
    return np.dtype(name or field.type.lower())


def _level(value: object) -> str:
    """The text of a category level; a whole float is written as the integer that JSON meant."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _is_null(value: object) -> bool:
    return value is None or value != value  # noqa: PLR0124 - NaN and NaT differ from themselves


def shown(value: object) -> str:
    """A value as an error quotes it, shortened.

    Example:
        >>> shown("soon"), shown(None)
        ("'soon'", 'null')
    """
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


_SHOWN = 60


def _said(field: Field) -> str:
    if len(field.shape) > 1:
        shape = ", ".join("any" if size < 0 else str(size) for size in field.shape[1:])
        return f"{field.type} of shape [{shape}]"
    if field.type in _FLOATS:
        return "number"
    if field.type in _INTEGERS or field.type in _TENSOR_INTEGERS:
        return "whole number from 0" if _ends(field)[0] == 0 else "whole number"
    return {
        "string": "text",
        "BYTES": "text",
        "binary": "base64 text",
        "large_binary": "base64 text",
        "bool": "truth value",
        "BOOL": "truth value",
    }.get(field.type, field.type)


def _mend(field: Field, value: object) -> str:
    if isinstance(value, str) and value.strip().lower() in {"nan", "null", "none", "na", ""} and field.nullable:
        return "null stands for a value that is not known"
    if isinstance(value, float) and not math.isfinite(value):
        return "null stands for a value that is not known" if field.nullable else "a finite number"
    if field.type.startswith(("timestamp", "date")):
        return "ISO 8601 text, such as 2011-09-01T12:00Z"
    if type(value) is int and (field.type in _INTEGERS or field.type in _TENSOR_INTEGERS):
        return "from {} to {}".format(*_ends(field))
    return "true or false" if field.type in {"bool", "BOOL"} else f"a JSON {_said(field)}"


_READERS: dict[int, _Reader] = {}

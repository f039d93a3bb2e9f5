r"""The bytes of an online row, the same in every online store.

====================  =========================================================================================
16 bytes              event time, then landing time: microseconds since 1970, big-endian with the sign bit turned,
                      so that bytes compare as times do
2 bytes               number of the row's schema, little-endian
⌈columns / 8⌉ bytes   null bitmap, one bit per column, lowest first; 1 is null
8 bytes per column    ``double``; whole numbers, truth values, times (microseconds) and dates (days) as ``int64``;
                      text as start and length (``uint32`` each) within the tail; all little-endian; NaN or 0 where null
tail                  UTF-8 text; of lists and structs their JSON
====================  =========================================================================================

A schema is a row too: table ``schemas``, key ``<table>#<number>``, 16 zero bytes and JSON.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from towpath.errors import FormatError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "HEAD_BYTES",
    "NEVER_US",
    "Decoded",
    "OtherSchemaError",
    "RowSchema",
    "decode",
    "decode_mixed",
    "encode",
]

NEVER_US = int(np.iinfo(np.int64).min)
"""Event time of a row that is not there."""
HEAD_BYTES = 18
"""Times and the number of the schema, which every row begins with."""

_SIGN = np.uint64(1 << 63)
_EMPTY = np.empty(0)
_JSON = msgspec.json.Encoder()
_KINDS = {"double": "f", "float": "f", "halffloat": "f", "bool": "b", "string": "s", "large_string": "s"}


class RowSchema(msgspec.Struct, frozen=True, dict=True, kw_only=True):
    """Columns and key parts of one form of a view's online rows."""

    number: int = 1
    """Stands in every row."""
    keys: tuple[str, ...]
    """Arrow types of the key parts."""
    columns: tuple[tuple[str, str], ...]
    """Feature → Arrow type, in the order of the row."""

    @cached_property
    def kinds(self) -> str:
        """One letter per column: ``f`` float, ``i`` whole, ``b`` truth, ``t`` time, ``d`` date, ``s`` text, ``j`` JSON."""
        return "".join(_kind(kind) for _, kind in self.columns)

    @cached_property
    def kind_of(self) -> dict[str, str]:
        """Column → its letter of `kinds`."""
        return {name: _kind(kind) for name, kind in self.columns}

    @cached_property
    def place(self) -> dict[str, int]:
        """Column → its number in the row."""
        return {name: i for i, (name, _) in enumerate(self.columns)}

    @cached_property
    def bitmap_bytes(self) -> int:
        """Length of the null bitmap."""
        return (len(self.columns) + 7) // 8

    @cached_property
    def fixed_bytes(self) -> int:
        """Where the tail begins."""
        return HEAD_BYTES + self.bitmap_bytes + 8 * len(self.columns)

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return bytes(16) + _JSON.encode(self)

    @classmethod
    def from_bytes(cls, stored: bytes) -> "RowSchema":
        """As it was stored.

        Raises:
            FormatError: These are other bytes.
        """
        try:
            return msgspec.json.decode(stored[16:], type=cls)
        except msgspec.DecodeError as error:
            raise FormatError(
                f"The schema of an online table cannot be read: {error}.", mend="tow features build"
            ) from error


class OtherSchemaError(FormatError):
    """Some rows are of another schema than the one they were decoded with; `decode_mixed` takes each by its own."""


class Decoded(msgspec.Struct, frozen=True):
    """Rows as columns; shape ``(n,)`` each."""

    columns: Mapping[str, NDArray[Any]]
    """Numbers as float64 with NaN for null, times as ``datetime64`` with NaT, text and truth values as objects with None."""
    event_us: NDArray[np.int64]
    """Microseconds since 1970; `NEVER_US` where there is no row."""
    gaps: Mapping[str, NDArray[np.bool_]]
    """Which rows have no value; only of the columns that have such rows."""


def encode(columns: "Sequence[pa.Array]", schema: RowSchema) -> list[bytes]:
    """Encode rows of a warehouse.

    Args:
        columns: Event time and landing time (microseconds since 1970, ``int64``, no nulls), then the schema's own in its
            order. They have no names here, so that a feature may have any.
        schema: What a row looks like.

    Returns:
        One value per row, in order.
    """
    event, landed, *values = columns
    n, width = len(event), len(schema.columns)
    slots = np.zeros((n, width), dtype="<i8")
    nulls = np.zeros((n, width), dtype=bool)
    texts: list[list[bytes]] = []
    ends = np.zeros(n, dtype=np.int64)
    for i, (column, kind) in enumerate(zip(values, schema.kinds, strict=True)):
        nulls[:, i] = column.is_null().to_numpy(zero_copy_only=False)
        if kind in "sj":
            texts.append(_texts(column, kind))
            lengths = np.fromiter(map(len, texts[-1]), dtype=np.int64, count=n)
            slots[:, i] = ends | (lengths << 32)
            ends += lengths
        else:
            slots[:, i] = _slots(column, kind)
    head = np.zeros((n, schema.fixed_bytes), dtype=np.uint8)
    head[:, :8] = _sortable(event)
    head[:, 8:16] = _sortable(landed)
    head[:, 16], head[:, 17] = schema.number & 0xFF, schema.number >> 8
    start = HEAD_BYTES + schema.bitmap_bytes
    head[:, HEAD_BYTES:start] = np.packbits(nulls, axis=1, bitorder="little")
    head[:, start:] = slots.view(np.uint8).reshape(n, 8 * width)
    data, size = head.tobytes(), schema.fixed_bytes
    rows = [data[at : at + size] for at in range(0, n * size, size)]
    if not texts:
        return rows
    return [b"".join(parts) for parts in zip(rows, *texts, strict=True)]


def decode(
    values: Sequence[bytes | None],
    schema: RowSchema,
    names: Sequence[str],
    *,
    now_us: int,
    ttl_us: int | None,
    types: Mapping[str, str] | None = None,
) -> Decoded:
    """Decode the wanted columns of many rows at once.

    Args:
        values: One per row asked; None where there is none.
        schema: What the rows look like.
        names: Columns that are wanted; one that the schema does not have is null.
        now_us: Rows of a later event or landing do not count yet.
        ttl_us: Rows of an event before ``now_us - ttl_us`` do not count any more; none for no limit.
        types: Arrow types of the wanted columns, for those that the schema does not have; a number unless given.

    Raises:
        FormatError: A row is shorter than the schema says; or of another schema, which is an `OtherSchemaError`.
    """
    n, size = len(values), schema.fixed_bytes
    there = [value for value in values if value is not None]
    block = np.frombuffer(b"".join([value[:size] for value in there]), dtype=np.uint8)
    if block.size != len(there) * size:
        if any(number != schema.number for number in _numbers(there)):
            raise OtherSchemaError(f"An online row is not of schema {schema.number}.", mend="tow features build")
        raise FormatError("An online row is shorter than its schema says.", mend="tow features build")
    block = block.reshape(len(there), size)
    if there and not (block[:, 16:HEAD_BYTES] == (schema.number & 0xFF, schema.number >> 8)).all():
        raise OtherSchemaError(f"An online row is not of schema {schema.number}.", mend="tow features build")
    times = (block[:, :16].copy().view(">u8").astype(np.uint64) ^ _SIGN).view(np.int64)
    counts = (times <= now_us).all(axis=1)
    if ttl_us is not None:
        counts &= times[:, 0] >= now_us - ttl_us
    at = np.flatnonzero(counts) if len(there) == n else _positions(values)[counts]
    if len(at) != len(there):
        block, times = block[counts], times[counts]
        there = [there[i] for i in np.flatnonzero(counts).tolist()]
    event_us = np.full(n, NEVER_US)
    event_us[at] = times[:, 0]
    lacking = [name for name in names if name not in schema.place] if types else []
    columns, gaps = _columns(block, there, schema, names, at=at, n=n)
    for name in lacking:
        columns[name] = _blank((types or {}).get(name, "double"), n)
        gaps[name] = np.ones(n, dtype=bool)
    return Decoded(columns, event_us, gaps)


def decode_mixed(
    values: Sequence[bytes | None],
    schema_of: Callable[[int], RowSchema | None],
    names: Sequence[str],
    *,
    now_us: int,
    ttl_us: int | None,
    types: Mapping[str, str],
) -> Decoded:
    """Decode rows of several schemas of one table, each by its own, as they stand while a new column fills.

    Args:
        values: One per row asked; None where there is none.
        schema_of: The schema of a number; none where it is not known, and its rows then do not count.
        names: Columns that are wanted; a schema that does not have one gives null.
        now_us: As in `decode`.
        ttl_us: As in `decode`.
        types: Arrow types of the wanted columns.

    Raises:
        FormatError: A row is shorter than its schema says.
    """
    n = len(values)
    columns = {name: _blank(types[name], n) for name in names}
    missing = {name: np.ones(n, dtype=bool) for name in names}
    event_us = np.full(n, NEVER_US)
    numbers = np.fromiter((0 if v is None else v[16] | v[17] << 8 for v in values), dtype=np.int64, count=n)
    for number in np.unique(numbers[numbers > 0]).tolist():
        schema = schema_of(number)
        if schema is None:
            continue
        at = np.flatnonzero(numbers == number)
        part = decode([values[i] for i in at.tolist()], schema, names, now_us=now_us, ttl_us=ttl_us, types=types)
        event_us[at] = part.event_us
        for name in names:
            columns[name][at] = part.columns[name]
            gap = part.gaps.get(name)
            missing[name][at] = False if gap is None else gap
    return Decoded(columns, event_us, {name: gap for name, gap in missing.items() if gap.any()})


def _columns(
    block: NDArray[np.uint8],
    values: Sequence[bytes],
    schema: RowSchema,
    names: Sequence[str],
    *,
    at: NDArray[np.int64],
    n: int,
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.bool_]]]:
    slots = block[:, HEAD_BYTES + schema.bitmap_bytes :].copy().view("<i8")
    floats = [name for name in names if schema.kind_of.get(name, "f") == "f"]
    result: dict[str, NDArray[Any]] = dict.fromkeys(names, _EMPTY)  # keeps the order asked
    gaps: dict[str, NDArray[np.bool_]] = {}
    if floats:
        # All floats at once: 30 columns one by one took three times as long for a single key.
        numbers = np.full((len(floats), n), np.nan)
        places = [schema.place.get(name, 0) for name in floats]
        numbers[:, at] = slots.view("<f8")[:, places].T
        if len(floats) > len(schema.place.keys() & floats):
            numbers[[name not in schema.place for name in floats]] = np.nan
        result.update(zip(floats, numbers, strict=True))
        nan = np.isnan(numbers)
        if nan.any():
            gaps = {floats[i]: nan[i] for i in np.flatnonzero(nan.any(axis=1)).tolist()}
    if len(floats) == len(names):
        return result, gaps
    for name in names:
        kind = schema.kind_of.get(name, "f")
        if kind == "f":
            continue
        i = schema.place[name]
        null = (block[:, HEAD_BYTES + i // 8] >> (i % 8) & 1).astype(bool)
        result[name] = _scattered(_values(slots[:, i], null, values, kind, schema.fixed_bytes), at, n)
        gap = np.ones(n, dtype=bool)
        gap[at] = null
        if gap.any():
            gaps[name] = gap
    return result, gaps


def _values(
    slots: NDArray[np.int64], null: NDArray[np.bool_], rows: Sequence[bytes], kind: str, tail: int
) -> NDArray[Any]:
    if kind == "i":
        return np.where(null, np.nan, slots)
    if kind in "td":
        return np.where(null, np.iinfo(np.int64).min, slots).view("M8[us]" if kind == "t" else "M8[D]")
    found = np.empty(len(slots), dtype=object)
    for i, (slot, gone, row) in enumerate(zip(slots.tolist(), null.tolist(), rows, strict=True)):
        if gone:
            continue
        if kind == "b":
            found[i] = bool(slot)
        else:
            begin = tail + (slot & 0xFFFF_FFFF)
            text = row[begin : begin + (slot >> 32)].decode()
            found[i] = text if kind == "s" else msgspec.json.decode(text)
    return found


def _scattered(values: NDArray[Any], at: NDArray[np.int64], n: int) -> NDArray[Any]:
    if len(at) == n:
        return values
    blank: Any = None if values.dtype == object else np.nan if values.dtype.kind == "f" else np.datetime64("NaT", "us")
    full = np.full(n, blank, dtype=values.dtype)
    full[at] = values
    return full


def _blank(kind: str, n: int) -> NDArray[Any]:
    """Nothing, ``n`` times, as a column of that type holds it."""
    letter = _kind(kind)
    if letter in "fi":
        return np.full(n, np.nan)
    if letter in "td":
        return np.full(n, np.datetime64("NaT", "us" if letter == "t" else "D"))
    return np.full(n, None, dtype=object)


def _numbers(rows: Sequence[bytes]) -> list[int]:
    return [row[16] | row[17] << 8 for row in rows]


def _positions(values: Sequence[bytes | None]) -> NDArray[np.int64]:
    return np.array([i for i, value in enumerate(values) if value is not None], dtype=np.int64)


def _sortable(column: "pa.Array") -> NDArray[np.uint8]:
    numbers = column.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64) ^ _SIGN
    return numbers.astype(">u8").view(np.uint8).reshape(len(numbers), 8)


def _slots(column: "pa.Array", kind: str) -> NDArray[np.int64]:
    import pyarrow as pa

    if kind == "f":
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype("<f8").view("<i8")
    if kind == "d":
        column = column.cast(pa.date32()).cast(pa.int32())
    elif kind == "t":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)


def _texts(column: "pa.Array", kind: str) -> list[bytes]:
    values = column.to_pylist()
    if kind == "s":
        return [b"" if value is None else value.encode() for value in values]
    return [b"" if value is None else _JSON.encode(value) for value in values]


def _kind(arrow: str) -> str:
    if arrow in _KINDS:
        return _KINDS[arrow]
    for start, kind in (("int", "i"), ("uint", "i"), ("timestamp", "t"), ("date", "d")):
        if arrow.startswith(start):
            return kind
    return "j"

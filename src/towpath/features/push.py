"""Pushed rows: held against the view's types one by one, then written as the bytes that a build would write."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
import numpy as np

from towpath.errors import InputError, nearest
from towpath.features.encoding import RowSchema, encode
from towpath.features.keys import key_bytes, key_part
from towpath.features.views import View
from towpath.types import micros, type_name, utc

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["AHEAD", "WRITTEN_DAY", "WRITTEN_TIME", "PushedRow", "RefusedRow", "RowForm"]

AHEAD = timedelta(minutes=1)
"""How far an event may lie after its arrival, for clocks that disagree; a row of next year would hide its key's rows until then."""
WRITTEN_TIME = r"\d{4}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{6})?Z"
"""A time as the journal writes it down."""
WRITTEN_DAY = r"\d{4}-\d{2}-\d{2}"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_US = micros(datetime(1900, 1, 1, tzinfo=UTC))
_ENCODE = msgspec.json.Encoder().encode
_DECODE = msgspec.json.Decoder(dict[str, Any]).decode
_DECODE_KEY = msgspec.json.Decoder(list[Any]).decode
_FLOAT_32_MAX = float(np.finfo(np.float32).max)
_WRITTEN = {"timestamp": re.compile(WRITTEN_TIME, re.ASCII), "date": re.compile(WRITTEN_DAY, re.ASCII)}


class RefusedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row that was not taken."""

    row: int
    """Its number in the call, from 0."""
    error: str
    """What is wrong, with the column and the value."""


class PushedRow(NamedTuple):
    """One row that fits."""

    row: int
    """Its number in the call."""
    key: bytes
    """The entity key."""
    event_us: int
    values: tuple[Any, ...]
    """One for each feature of the view, in order."""
    text: str
    """Key parts and features as JSON."""

    @property
    def digest(self) -> str:
        """Of key, event time and values: the same for the same row sent again."""
        return hashlib.sha256(f"{self.event_us} {self.text}".encode()).hexdigest()[:32]


class RowForm:
    """What a row of one view must look like.

    A feature that a row does not name is null, so that those who push need not change on the day on which a view gains
    one. Numbers, texts and truth values are not mistaken for each other; only a key part may come as text, as on the other
    doors. Times are ISO 8601, a naive one is UTC.

    Args:
        view: Names of keys and times.
        schema: Types of key parts and features.

    Example:
        >>> from towpath.project.declarations import FeatureHeader
        >>> from towpath.sql import Query
        >>> header = FeatureHeader(entity="id", event_time="ts")
        >>> view = View(project="shop", name="clicks", query=Query.parse(""), header=header, columns=(), fingerprint="")
        >>> form = RowForm(view, RowSchema(keys=("int64",), columns=(("n", "int64"),)))
        >>> fit, refused = form.check([{"id": "7", "ts": "2026-01-05", "n": 3}, {"id": 7, "ts": "2026-01-05", "n": "3"}], 10**16)
        >>> fit[0].text, refused[0].error
        ('{"id":7,"n":3}', "'n' is '3', which is no int64.")
    """

    def __init__(self, view: View, schema: RowSchema) -> None:
        header = view.header
        self.schema = schema
        self._keys = tuple(zip(header.keys, schema.keys, strict=True))
        self._event = header.event_time
        self._created = header.created_time
        self._start = f"the view's start, {header.start}" if header.start else "1900"
        self._start_us = micros(utc(header.start)) if header.start else _EARLIEST_US
        self._features = tuple((name, kind, _reader(kind)) for name, kind in schema.columns)
        self._own_keys = tuple((name, kind, _reader(kind)) for name, kind in self._keys)
        kinds = (*self._keys, *schema.columns)
        self._written = tuple(
            (name, _WRITTEN[start]) for name, kind in kinds for start in _WRITTEN if kind.startswith(start)
        )
        self._known = (*header.keys, header.event_time, *(name for name, _ in schema.columns))
        self._known_set = frozenset(self._known)

    @property
    def described(self) -> str:
        """Columns and their types, for messages."""
        pairs = (*self._keys, (self._event, "time"), *self.schema.columns)
        return ", ".join(f"{name} {type_name(kind)}" for name, kind in pairs)

    def check(self, rows: Sequence[object], now_us: int) -> tuple[list[PushedRow], list[RefusedRow]]:
        """Tell the rows that fit from those that do not; each is taken whole or refused whole.

        Args:
            rows: As they were sent: column → value.
            now_us: When they arrived, microseconds since 1970.
        """
        fit: list[PushedRow] = []
        refused: list[RefusedRow] = []
        latest_us = now_us + AHEAD // timedelta(microseconds=1)
        for place, row in enumerate(rows):
            try:
                fit.append(self._checked(place, row, latest_us))
            except InputError as error:
                refused.append(RefusedRow(row=place, error=error.what))
        return fit, refused

    def again(self, rows: Sequence[PushedRow]) -> list[PushedRow]:
        """Of rows that fit one form of a view those that fit this one, without the columns that it does not have.

        A row of another key does not, nor one with a value of another type: a number that is whole is whole in each, a text that
        is written as times are is a time, and nothing else changes its type. The landing table of a form has the same rows.

        Args:
            rows: As another form checked them.
        """
        fit: list[PushedRow] = []
        for row in rows:
            said = {name: value for name, value in _DECODE(row.text).items() if name in self._known_set}
            if any(
                said.get(name) is not None and not written.fullmatch(str(said[name])) for name, written in self._written
            ):
                continue
            said[self._event] = _EPOCH + timedelta(microseconds=row.event_us)
            keyed = [said.get(name) for name, _, _ in self._own_keys]
            if keyed != _DECODE_KEY(row.key):
                continue
            try:
                own = {name: _value(name, said[name], kind, read) for name, kind, read in self._own_keys}
                fit.append(self._checked(row.row, said | own, row.event_us))
            except InputError:
                continue
        return fit

    def to_bytes(self, rows: Sequence[PushedRow], landed_us: int) -> list[bytes]:
        """The online rows, as `towpath.features.build` writes them.

        Args:
            rows: That fit this form.
            landed_us: When they arrived; counts where the view says when rows land.
        """
        import pyarrow as pa

        event = [row.event_us for row in rows]
        landed = event if self._created is None else [landed_us] * len(rows)
        values = [
            pa.array([row.values[i] for row in rows], _arrow_type(kind))
            for i, (_, kind) in enumerate(self.schema.columns)
        ]
        return encode([pa.array(event, pa.int64()), pa.array(landed, pa.int64()), *values], self.schema)

    def _checked(self, place: int, row: object, latest_us: int) -> PushedRow:
        if not isinstance(row, Mapping):
            raise InputError("It is no JSON object.")
        row = cast("Mapping[str, Any]", row)
        for name in row:
            if name in self._known_set:
                continue
            if name == self._created:
                raise InputError(f"'{name}' is set here, to the moment at which the row arrives: leave it out.")
            raise InputError(f"The view has no column '{name}'{nearest(name, self._known)}")
        parts = tuple(_key(name, row.get(name), kind) for name, kind in self._keys)
        event_us = self._moment(row.get(self._event), latest_us)
        values = tuple(_value(name, row.get(name), kind, read) for name, kind, read in self._features)
        text: dict[str, Any] = dict(zip((name for name, _ in self._keys), parts, strict=True))
        text.update((name, value) for (name, _, _), value in zip(self._features, values, strict=True))
        try:
            return PushedRow(place, key_bytes(parts), event_us, values, _ENCODE(text).decode())
        except (UnicodeEncodeError, ValueError, TypeError, OverflowError) as error:
            raise InputError(f"It cannot be written down: {error}.") from error

    def _moment(self, given: Any, latest_us: int) -> int:
        if given is None:
            raise InputError(f"'{self._event}', the event time, is missing.")
        try:
            event_us = micros(_moment(given))
        except (ValueError, InputError, OverflowError) as error:
            raise InputError(f"'{self._event}' is {_shown(given)}, which is no ISO 8601 time.") from error
        if event_us > latest_us:
            raise InputError(f"'{self._event}' is {_shown(given)}, more than a minute after it arrived.")
        if event_us < self._start_us:
            raise InputError(f"'{self._event}' is {_shown(given)}, before {self._start}.")
        return event_us


def _key(name: str, given: Any, kind: str) -> object:
    if given is None:
        raise InputError(f"The key '{name}' is missing.")
    part = None if isinstance(given, list | dict) else key_part(given, kind)
    if part is None or (isinstance(part, float) and not isfinite(part)) or not _in_range(part, kind):
        raise InputError(f"The key '{name}' is {_shown(given)}, which is no {type_name(kind)}.")
    return part


def _value(name: str, given: Any, kind: str, read: Callable[[Any], Any]) -> Any:
    if given is None:
        return None
    try:
        return read(given.item() if isinstance(given, np.generic) else given)
    except (ValueError, InputError, OverflowError) as error:
        raise InputError(f"'{name}' is {_shown(given)}, which is no {type_name(kind)}.") from error


def _reader(kind: str) -> Callable[[Any], Any]:
    """A function from what was sent to the value; a ValueError where it is of another type."""
    if kind.startswith(("int", "uint")):
        return lambda given: _whole(given, kind)
    if kind in {"double", "float", "halffloat"}:
        return _number if kind == "double" else _single
    if kind.startswith("timestamp"):
        return _moment
    if kind.startswith("date"):
        return _day
    if kind.endswith("string"):
        return lambda given: _of(given, str)
    if kind == "bool":
        return lambda given: _of(given, bool)
    if "list<" in kind.partition(":")[0]:
        return _list_reader(kind[kind.index(": ") + 2 : kind.rindex(">")].removesuffix(" not null"))
    return lambda given: _of(given, dict if kind.startswith("struct") else list | dict)


def _list_reader(kind: str) -> Callable[[Any], Any]:
    """The same for a list of a type; times in it stay as they are written, because its bytes are its JSON."""
    read = _reader(kind)

    def read_all(given: Any) -> list[Any]:
        values = [None if each is None else read(each) for each in _of(given, list)]
        return given if kind.startswith(("timestamp", "date")) else values

    return read_all


def _of(given: Any, kind: Any) -> Any:
    if not isinstance(given, kind):
        raise ValueError  # noqa: TRY004 - one fault for every value that does not fit
    return given


def _whole(given: Any, kind: str) -> int:
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or not _in_range(given, kind):
        raise ValueError
    return given


def _in_range(value: object, kind: str) -> bool:
    if kind == "float":
        return abs(cast("float", value)) <= _FLOAT_32_MAX
    if not kind.startswith(("int", "uint")):
        return True
    bits = int(kind.lstrip("uint"))
    low, high = (0, 2**bits) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return low <= cast("int", value) < high


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not isfinite(given):
        raise ValueError
    return float(given)


def _single(given: Any) -> float:
    found = _number(given)
    if abs(found) > _FLOAT_32_MAX:
        raise ValueError
    return float(np.float32(found))


def _moment(given: Any) -> datetime:
    if isinstance(given, datetime | str):
        return utc(given)
    if isinstance(given, date):
        return utc(given.isoformat())
    raise ValueError


def _day(given: Any) -> date:
    if isinstance(given, str):
        return date.fromisoformat(given)
    if isinstance(given, date) and not isinstance(given, datetime):
        return given
    raise ValueError


def _arrow_type(kind: str) -> "pa.DataType | None":
    """None where Arrow may find out itself: lists and structs, whose bytes are their JSON."""
    import pyarrow as pa

    if kind.startswith("timestamp"):
        return pa.timestamp("us", "UTC")
    if kind.startswith("date"):
        return pa.date32()
    if kind.startswith("list<") and kind.endswith(": double>"):
        return pa.list_(pa.float64())
    try:
        return pa.type_for_alias(kind)
    except ValueError:
        return None


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:57]}…"  # noqa: PLR2004 - what fits a line

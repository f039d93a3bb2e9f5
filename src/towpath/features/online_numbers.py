"""The quick way of an online read: views of numbers, all their rows in one matrix."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from towpath.features.encoding import HEAD_BYTES, NEVER_US, RowSchema

__all__ = ["Events", "NumberView", "Numbers", "number_view"]

_FEW = 16
"""Up to so many rows Python looks at each; beyond it numpy at all of them, whose calls cost as much as 20 rows do."""
_TURNED = 1 << 63
_FLOAT = np.dtype("<f8")
_WHOLE = np.dtype("<i8")
_FIRST = bytes(8)


class NumberView(NamedTuple):
    """What the rows of one view must look like to be read the quick way."""

    size: int
    """Bytes up to the tail."""
    start: int
    """Where the columns begin."""
    marked: int
    """Where that ends which all rows must have alike: the schema's number and, where whole numbers are wanted, no nulls."""
    mark: bytes
    nothing: bytes | None
    """The columns of a row that is not there; none where whole numbers are wanted, which have no NaN."""
    width: int
    """Columns of a row."""
    wanted: tuple[int, ...]
    """Places of the columns that are wanted."""
    whole: tuple[bool, ...]
    """Which of those are whole numbers."""
    ttl_us: int | None


def number_view(schema: RowSchema, names: Sequence[str], ttl_us: int | None) -> NumberView | None:
    """How rows of a schema are read the quick way; none where a wanted column is no number, or is none of the schema's.

    Args:
        schema: What the rows look like.
        names: Columns that are wanted.
        ttl_us: Rows of an event longer ago do not count; none for no limit.
    """
    if any(schema.kind_of.get(name, "") not in {"f", "i"} for name in names):
        return None
    whole = tuple(schema.kind_of[name] == "i" for name in names)
    number, start = schema.number.to_bytes(2, "little"), HEAD_BYTES + schema.bitmap_bytes
    width = len(schema.columns)
    return NumberView(
        size=schema.fixed_bytes,
        start=start,
        marked=start if any(whole) else HEAD_BYTES,
        mark=number + bytes(schema.bitmap_bytes) if any(whole) else number,
        nothing=None if any(whole) else np.full(width, np.nan).tobytes(),
        width=width,
        wanted=tuple(schema.place[name] for name in names),
        whole=whole,
        ttl_us=ttl_us,
    )


class Numbers:
    """Some views as a plan that is made once: which bytes of their rows become which column of one matrix.

    A read of one key costs what its calls of Python and numpy cost, and hardly what its bytes do; so it has few calls, and
    those that depend on the views alone were made before.

    Args:
        views: At least one.
    """

    def __init__(self, views: Sequence[NumberView]) -> None:
        self.views = tuple(views)
        starts = np.cumsum([0, *(view.width for view in views)]).tolist()
        self._width: int = starts[-1]
        wanted = [start + place for start, view in zip(starts, views, strict=False) for place in view.wanted]
        self._take = None if wanted == list(range(self._width)) else np.array(wanted, dtype=np.intp)
        whole = np.flatnonzero([each for view in views for each in view.whole])
        self._whole = whole if whole.size else None
        self._rows = [
            (place, view.size, view.start, view.marked, view.mark, view.nothing, view.ttl_us)
            for place, view in enumerate(views)
        ]
        self._records = [_record(view) for view in views]

    def matrix(self, stored: Sequence[Sequence[bytes | None]], n: int, now_us: int) -> NDArray[np.float64] | None:
        """The wanted columns of all views side by side, shape ``(n, columns)``; NaN where a row or a value is not there.

        Args:
            stored: One value a row for each view; None where there is none.
            n: Rows; at least one.
            now_us: Rows of a later event or landing do not count yet; what ttl is counted from.

        Returns:
            None where a row is of another form, or lacks a whole number: `towpath.features.encoding.decode` reads it.
        """
        found = self._few(stored, n, now_us) if n <= _FEW else self._many(stored, now_us)
        if found is None:
            return None
        if self._take is not None:
            found = found[:, self._take]
        if self._whole is not None:
            found[:, self._whole] = found.view(_WHOLE)[:, self._whole]
        return found

    def _few(self, stored: Sequence[Sequence[bytes | None]], n: int, now_us: int) -> NDArray[np.float64] | None:
        """Each row with a few comparisons of bytes, which sort as times do; then one array of all."""
        after = (now_us + 1 + _TURNED).to_bytes(8, "big")
        step = len(stored)
        parts = [b""] * (n * step)
        before: int | None = -1
        first = _FIRST
        for place, size, start, marked, mark, nothing, ttl_us in self._rows:
            if ttl_us != before:  # views mostly have one ttl
                before = ttl_us
                first = _FIRST if ttl_us is None else max(now_us - ttl_us + _TURNED, 0).to_bytes(8, "big")
            at = place
            for value in stored[place]:
                if value is not None and len(value) < size:
                    return None
                if value is not None and first <= value < after and value[8:16] < after:
                    if value[16:marked] != mark:
                        return None
                    parts[at] = value[start:size]
                elif nothing is None:
                    return None
                else:
                    parts[at] = nothing
                at += step
        return np.frombuffer(bytearray().join(parts), _FLOAT).reshape(n, self._width)

    def _many(self, stored: Sequence[Sequence[bytes | None]], now_us: int) -> NDArray[np.float64] | None:
        blocks: list[NDArray[np.float64]] = []
        now = now_us + _TURNED
        for view, record, values in zip(self.views, self._records, stored, strict=True):
            size, mark = view.size, view.mark
            never = b"\xff" * 16 + mark + bytes(size - 16 - len(mark))  # a row of the last moment of all does not count
            try:
                block = np.frombuffer(b"".join([never if v is None else v[:size] for v in values]), record)
            except ValueError:
                return None
            if len(block) != len(values) or (block["mark"] != np.frombuffer(mark, np.uint8)).any():
                return None
            times: NDArray[np.uint64] = block["times"]
            numbers: NDArray[np.float64] = block["numbers"]
            fine = times.max() <= now
            if fine and view.ttl_us is not None:
                fine = times[:, 0].min() >= max(now - view.ttl_us, 0)
            if not fine:
                if view.nothing is None:
                    return None
                counts: NDArray[np.bool_] = np.all(times <= now, axis=1)
                if view.ttl_us is not None:
                    counts &= times[:, 0] >= max(now - view.ttl_us, 0)
                numbers = np.where(counts[:, None], numbers, np.nan)
            blocks.append(numbers)
        return np.concatenate(blocks, axis=1)


class Events(Mapping[str, NDArray[np.int64]]):
    """View → event time of each row in microseconds since 1970, `NEVER_US` where no row counts; made when it is asked for.

    Args:
        views: What they are called.
        plan: How their rows are read.
        stored: As in `Numbers.matrix`.
        now_us: As in `Numbers.matrix`.
    """

    __slots__ = ("_now_us", "_plan", "_stored", "_views")

    def __init__(
        self,
        views: Sequence[str],
        plan: Sequence[NumberView],
        stored: Sequence[Sequence[bytes | None]],
        now_us: int,
    ) -> None:
        self._views, self._plan, self._stored, self._now_us = views, plan, stored, now_us

    def __getitem__(self, view: str) -> NDArray[np.int64]:
        try:
            place = self._views.index(view)
        except ValueError:
            raise KeyError(view) from None
        ttl_us, now = self._plan[place].ttl_us, self._now_us + _TURNED
        first = 0 if ttl_us is None else max(now - ttl_us, 0)
        found: list[int] = []
        for value in self._stored[place]:
            event = -1 if value is None else int.from_bytes(value[:8], "big")
            counts = value is not None and first <= event <= now and int.from_bytes(value[8:16], "big") <= now
            found.append(event - _TURNED if counts else NEVER_US)
        return np.array(found, dtype=np.int64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def _record(view: NumberView) -> np.dtype[Any]:
    """A row as numpy sees it, tail left out."""
    return np.dtype(
        {
            "names": ["times", "mark", "numbers"],
            "formats": [(">u8", 2), ("u1", len(view.mark)), (_FLOAT, view.width)],
            "offsets": [0, 16, view.start],
            "itemsize": view.size,
        }
    )

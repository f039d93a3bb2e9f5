"""Two forms of a view at one moment: what their schemas tell apart, and for how many keys the values do."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.features.due import beginning
from towpath.features.forms import change
from towpath.features.views import View

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from towpath.warehouse import Warehouse

__all__ = ["Difference", "FeatureDifference", "Pair", "difference"]

TOLERANCE = 1e-9
"""Two floats that are this share of the larger one apart count as equal: sums in another order end in other digits."""
_EXAMPLES = 3


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One key and what the two forms say of it."""

    key: dict[str, object]
    a: object
    b: object


class FeatureDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One feature that both forms have, over the keys that both have."""

    feature: str
    type: str
    """Arrow's name; ``double → int64`` where it changed."""
    differing: int | None
    """Keys whose values differ; none where values of these two types cannot be compared."""
    share: float | None
    """Of the keys that both have, 0 to 1; none where there is no such key."""
    mean_absolute: float | None
    """Mean of ``abs(b - a)`` over the keys where both are finite numbers, equal ones included; none without such keys."""
    examples: tuple[Pair, ...] = ()
    """The first keys that differ, in their order."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What ``tow features diff`` found."""

    view: str
    a: str
    b: str
    at: datetime
    """Both forms gave the newest rows that were known then."""
    differ: bool
    """Whether schema, rows or values differ. A computation that is written in another way and gives the same does not."""
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    retyped: tuple[str, ...] = ()
    """As ``price: double → int64``."""
    computation: str = ""
    """What else the SQL tells, in words; empty where nothing did, or where columns were dropped or retyped."""
    rows_a: int = 0
    rows_b: int = 0
    rows_both: int | None = None
    """Keys that both have; none where they have other key columns, so that no row has its like."""
    only_a: int | None = None
    only_b: int | None = None
    only_a_keys: tuple[dict[str, object], ...] = ()
    """The first ones."""
    only_b_keys: tuple[dict[str, object], ...] = ()
    other_times: int | None = None
    """Keys whose newest row has another event time or landed at another time."""
    features: tuple[FeatureDifference, ...] = ()


def difference(a: View, b: View, warehouse: "Warehouse", *, as_of: datetime, names: tuple[str, str]) -> Difference:
    """Compare two forms of a view: their schemas, then the newest row of each key that was known at a moment.

    Null equals null and NaN equals NaN; floats are equal within a relative 1e-9. Both sides are held in memory, with the
    features that both have.

    Args:
        a: One form.
        b: The other one.
        warehouse: Runs the SQL of both.
        as_of: The moment.
        names: What the two are called.

    Raises:
        ProjectError: The warehouse refuses the SQL of one of them, as it may for a form whose tables are no more.
    """
    told = change(a, b)
    shared = [name for name in a.features if name in b.features]
    left, right = _newest(a, shared, warehouse, as_of), _newest(b, shared, warehouse, as_of)
    found = Difference(
        view=b.name,
        a=names[0],
        b=names[1],
        at=as_of,
        differ=bool(told.added or told.dropped or told.retyped),
        added=told.added,
        dropped=told.dropped,
        retyped=told.retyped,
        computation=told.computation,
        rows_a=left.num_rows,
        rows_b=right.num_rows,
    )
    keys = a.header.keys
    aligned = _aligned(left, right, len(keys)) if keys == b.header.keys else None
    if aligned is None:
        return msgspec.structs.replace(found, differ=True)
    pairs, only_left, only_right = aligned
    features = tuple(_feature(name, pairs, left, right, keys) for name in shared)
    times = _other_times(pairs, left, right)
    apart = bool(only_left.num_rows or only_right.num_rows or times or any(one.differing != 0 for one in features))
    return msgspec.structs.replace(
        found,
        differ=found.differ or apart,
        rows_both=pairs.num_rows,
        only_a=only_left.num_rows,
        only_b=only_right.num_rows,
        only_a_keys=tuple(_named_keys(only_left, keys)),
        only_b_keys=tuple(_named_keys(only_right, keys)),
        other_times=times,
        features=features,
    )


def _newest(view: View, shared: Sequence[str], warehouse: "Warehouse", as_of: datetime) -> "pa.Table":
    facts = view.facts(shared or view.features[:1])
    with warehouse.newest(facts, {"as_of": as_of, "until": as_of, "since": beginning(view)}) as reader:
        return reader.read_all()


def _aligned(left: "pa.Table", right: "pa.Table", parts: int) -> "tuple[pa.Table, pa.Table, pa.Table] | None":
    """Keys of both, of the left alone and of the right alone, sorted, with the rows ``a`` and ``b``; none where key types differ.

    Only keys and row numbers go through the join.
    """
    import numpy as np
    import pyarrow as pa

    names = [f"k{i}" for i in range(parts)]
    sides = [
        pa.table({name: _plain(side.column(name)) for name in names}).append_column(row, pa.array(np.arange(len(side))))
        for side, row in ((left, "a"), (right, "b"))
    ]
    if any(sides[0].schema.field(name).type != sides[1].schema.field(name).type for name in names):
        return None
    joined = sides[0].join(sides[1], names, join_type="full outer")
    joined = joined.sort_by([(name, "ascending") for name in names])
    in_a, in_b = (joined.column(row).is_valid().to_numpy() for row in ("a", "b"))
    both, only_a, only_b = (joined.filter(pa.array(rows)) for rows in (in_a & in_b, ~in_b, ~in_a))
    return both, only_a, only_b


def _plain(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Whole numbers and texts of any width as one type: they are one key in the online store too."""
    import pyarrow as pa

    if pa.types.is_integer(column.type) and column.type != pa.uint64():
        return column.cast(pa.int64())
    return column.cast(pa.string()) if pa.types.is_large_string(column.type) else column


def _feature(
    name: str, pairs: "pa.Table", left: "pa.Table", right: "pa.Table", keys: Sequence[str]
) -> FeatureDifference:
    a, b = left.column(name).take(pairs.column("a")), right.column(name).take(pairs.column("b"))
    kinds = (str(a.type), str(b.type))
    differs, mean = _compared(a, b)
    found = FeatureDifference(
        feature=name,
        type=kinds[0] if kinds[0] == kinds[1] else " → ".join(kinds),
        differing=None if differs is None else int(differs.sum()),
        share=None if differs is None or not len(differs) else float(differs.mean()),
        mean_absolute=mean,
    )
    if not found.differing or differs is None:
        return found
    first = differs.nonzero()[0][:_EXAMPLES]
    of = zip(_named_keys(pairs.take(first), keys), a.take(first).to_pylist(), b.take(first).to_pylist(), strict=True)
    return msgspec.structs.replace(found, examples=tuple(Pair(key=key, a=one, b=other) for key, one, other in of))


def _compared(a: "pa.ChunkedArray", b: "pa.ChunkedArray") -> "tuple[NDArray[np.bool_] | None, float | None]":
    """Which values differ, and how far numbers are apart on average."""
    import pyarrow as pa

    nulls = a.is_null().to_numpy() != b.is_null().to_numpy()
    if _is_number(a.type) and _is_number(b.type):
        differs, mean = _numbers(a, b)
        return nulls | differs, mean
    try:
        return nulls | _unequal(a, b), None
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return None, None


def _numbers(a: "pa.ChunkedArray", b: "pa.ChunkedArray") -> "tuple[NDArray[np.bool_], float | None]":
    """Of numbers, where both are there; whole ones are compared as they are, for above 2^53 a float rounds."""
    import numpy as np
    import pyarrow as pa

    there = a.is_valid().to_numpy() & b.is_valid().to_numpy()
    x, y = (_floats(side) for side in (a, b))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(y - x)
        near = apart <= TOLERANCE * np.maximum(np.abs(x), np.abs(y))
    differs = there & ~((x == y) | (near & np.isfinite(apart)) | (np.isnan(x) & np.isnan(y)))
    if a.type == b.type and pa.types.is_integer(a.type):
        differs = _unequal(a, b)
    measured = apart[there & np.isfinite(apart)]
    return differs, float(measured.mean()) if len(measured) else None


def _unequal(a: "pa.ChunkedArray", b: "pa.ChunkedArray") -> "NDArray[np.bool_]":
    """Which values are there in both and are others."""
    import pyarrow.compute as pc

    return pc.call_function("not_equal", [a, b]).fill_null(False).to_numpy()


def _floats(column: "pa.ChunkedArray") -> "NDArray[np.float64]":
    import pyarrow as pa

    return column.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy()


def _is_number(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)


def _other_times(pairs: "pa.Table", left: "pa.Table", right: "pa.Table") -> int:
    import numpy as np

    moved = np.zeros(pairs.num_rows, dtype=bool)
    for name in ("event", "landed"):
        a, b = left.column(name).take(pairs.column("a")), right.column(name).take(pairs.column("b"))
        moved |= a.to_numpy() != b.to_numpy()
    return int(moved.sum())


def _named_keys(rows: "pa.Table", keys: Sequence[str]) -> "list[dict[str, Any]]":
    few = rows.slice(0, _EXAMPLES).select([f"k{i}" for i in range(len(keys))])
    return few.rename_columns(list(keys)).to_pylist()

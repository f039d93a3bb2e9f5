"""Two forms of a view, or one at two moments: what their schemas tell apart, and for how many keys the values do."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.features.due import beginning
from towpath.features.forms import Change, change
from towpath.features.keys import family
from towpath.features.views import View
from towpath.types import type_name, type_names
from towpath.warehouse.engine import Engine

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse import Warehouse

__all__ = ["Difference", "FeatureDifference", "Pair", "difference"]

TOLERANCE = 1e-9
"""Two floats that are this share of the larger one apart count as equal: sums in another order end in other digits."""
_EXAMPLES = 3
_NUMBERS = {"number", "whole number"}


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One key and what the two sides say of it."""

    key: dict[str, object]
    a: object
    b: object


class FeatureDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One feature that both sides have, over the keys that both have."""

    feature: str
    type: str
    """Arrow's name; ``double → int64`` where it is another one."""
    differing: int | None
    """Keys whose values differ: changed, missing and extra together; none where values of these two types cannot be compared."""
    changed: int | None = None
    """Both have a value, and not the same."""
    missing: int | None = None
    """``a`` has a value where ``b`` has none."""
    extra: int | None = None
    """``b`` has a value where ``a`` has none."""
    share: float | None
    """Of the keys that both have, those that differ, 0 to 1; none where there is no such key."""
    smape: float | None = None
    """Over the keys where both are finite numbers: 0 is equal, 2 the most; none without such keys."""
    mean_absolute: float | None
    """Mean of ``abs(b - a)`` over the same keys, equal ones included."""
    examples: tuple[Pair, ...] = ()
    """The first keys that differ, in their order."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What ``tow features diff`` found."""

    view: str
    a: str
    b: str
    at_a: datetime
    """``a`` gave the newest rows that were known then."""
    at_b: datetime
    """And ``b`` those that were known then."""
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


def difference(
    a: View,
    b: View,
    warehouse: "Warehouse",
    *,
    moments: tuple[datetime, datetime],
    names: tuple[str, str],
    told: Change | None = None,
    memory_mib: int = 1_024,
    threads: int = 2,
) -> Difference:
    """Compare two forms of a view: their schemas, then the newest row of each key that was known at the moment of each.

    Null equals null and NaN equals NaN; floats are equal within a relative 1e-9. The warehouse hands both sides over as they
    come; they are laid down on disk and joined there, so that memory does not grow with them.

    Args:
        a: One form.
        b: The other one; or the same, at another moment.
        warehouse: Runs the SQL of both.
        moments: When the rows of each were the newest known.
        names: What the two are called.
        told: What their files tell apart, where the SQL that runs is not that of the files; read off `a` and `b` unless given.
        memory_mib: The most that the comparison may use before it spills.
        threads: Of the comparison.

    Raises:
        ProjectError: The warehouse refuses the SQL of one of them, as it may for a form whose tables are no more.
        ResourceError: There is no room on the disk for both sides.
    """
    told = told or change(a, b)
    shared = [name for name in a.features if name in b.features]
    engine = Engine(memory_mib, threads)
    try:
        sides = [
            _laid_down(engine, side, view, shared, warehouse, at)
            for side, view, at in (("a", a, moments[0]), ("b", b, moments[1]))
        ]
        found = Difference(
            view=b.name,
            a=names[0],
            b=names[1],
            at_a=moments[0],
            at_b=moments[1],
            differ=bool(told.added or told.dropped or told.retyped),
            added=told.added,
            dropped=told.dropped,
            retyped=told.retyped,
            computation=told.computation,
            rows_a=_count(engine, "a"),
            rows_b=_count(engine, "b"),
        )
        keys = a.header.keys
        if keys != b.header.keys or not _same_keys(sides[0], sides[1], len(keys)):
            return msgspec.structs.replace(found, differ=True)
        (counts,) = engine.read(_comparison(sides, len(keys), len(shared))).to_pylist()
        return _told(found, counts, keys, _types(shared, sides))
    finally:
        engine.close()


def _laid_down(
    engine: Engine, side: str, view: View, shared: Sequence[str], warehouse: "Warehouse", at: datetime
) -> "pa.Schema":
    """One side as the table ``a`` or ``b`` of the engine, in a file of its own."""
    import pyarrow.parquet as pq

    facts, path = view.facts(shared or view.features[:1]), engine.folder / f"{side}.parquet"
    with (
        warehouse.newest(facts, {"as_of": at, "until": at, "since": beginning(view)}) as reader,
        pq.ParquetWriter(path, reader.schema, compression="lz4") as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)
    engine.register(side, [str(path)])
    return reader.schema


def _count(engine: Engine, table: str) -> int:
    return engine.read(f"select count(*) as n from {table}").column("n")[0].as_py()


def _same_keys(a: "pa.Schema", b: "pa.Schema", parts: int) -> bool:
    """Whether keys are of one family of types: whole numbers of any width are one key in the online store too."""
    return all(family(str(a.field(i).type)) == family(str(b.field(i).type)) for i in range(parts))


def _types(shared: Sequence[str], sides: "Sequence[pa.Schema]") -> list[tuple[str, str]]:
    """Each feature that both have, with its type."""
    kinds = [[str(schema.field(f"f{i}").type) for schema in sides] for i in range(len(shared))]
    return [
        (name, type_name(one) if one == other else " → ".join(type_names(one, other)))
        for name, (one, other) in zip(shared, kinds, strict=True)
    ]


def _comparison(sides: "Sequence[pa.Schema]", parts: int, width: int) -> str:
    """One row with everything that is counted. What differs of the first keys is kept while counting, three at a time."""
    keys = [f"k{i}" for i in range(parts)]
    key = f"struct_pack({', '.join(f'{name} := coalesce(a.{name}, b.{name})' for name in keys)})"
    on = " and ".join(f"a.{name} = b.{name}" for name in keys)
    both, only_a, only_b = "a.event is not null and b.event is not null", "b.event is null", "a.event is null"
    columns = [
        f"count(*) filter (where {both}) as rows_both",
        *(f"count(*) filter (where {only}) as {name}" for only, name in ((only_a, "only_a"), (only_b, "only_b"))),
        f"arg_min({key}, {key}, {_EXAMPLES}) filter (where {only_a}) as only_a_keys",
        f"arg_min({key}, {key}, {_EXAMPLES}) filter (where {only_b}) as only_b_keys",
        f"count(*) filter (where {both} and (a.event <> b.event or a.landed <> b.landed)) as other_times",
    ]
    for i in range(width):
        one, other, differs = f"a.f{i}", f"b.f{i}", _differs(i, *sides)
        if not differs:
            continue
        there = f"{both} and {one} is not null and {other} is not null"
        unequal = f"{both} and (({one} is null) <> ({other} is null) or coalesce({differs}, false))"
        columns += [
            f"count(*) filter (where {there} and {differs}) as changed_{i}",
            f"count(*) filter (where {both} and {one} is not null and {other} is null) as missing_{i}",
            f"count(*) filter (where {both} and {one} is null and {other} is not null) as extra_{i}",
            (
                f"arg_min(struct_pack(k := {key}, a := {one}, b := {other}), {key}, {_EXAMPLES})"
                f" filter (where {unequal}) as examples_{i}"
            ),
        ]
        if _numbers(i, *sides):
            apart, size = f"abs({other}::double - {one}::double)", f"(abs({one}::double) + abs({other}::double))"
            finite = f"{both} and isfinite({one}::double) and isfinite({other}::double) and isfinite({apart})"
            columns += [
                f"avg(case when {size} = 0 then 0 else 2 * {apart} / {size} end) filter (where {finite}) as smape_{i}",
                f"avg({apart}) filter (where {finite}) as mean_absolute_{i}",
            ]
    return f"select {', '.join(columns)} from a full join b on {on}"


def _differs(i: int, a: "pa.Schema", b: "pa.Schema") -> str:
    """When two values that are both there differ; empty where values of their types cannot be compared."""
    one, other = str(a.field(f"f{i}").type), str(b.field(f"f{i}").type)
    if _numbers(i, a, b) and not family(one) == family(other) == "whole number":  # above 2^53 a float rounds
        x, y = f"a.f{i}::double", f"b.f{i}::double"
        near = f"(isfinite({x} - {y}) and abs({x} - {y}) <= {TOLERANCE!r} * greatest(abs({x}), abs({y})))"
        return f"({x} is distinct from {y} and not {near})"
    return f"(a.f{i} is distinct from b.f{i})" if family(one) == family(other) else ""


def _numbers(i: int, a: "pa.Schema", b: "pa.Schema") -> bool:
    return {family(str(side.field(f"f{i}").type)) for side in (a, b)} <= _NUMBERS


def _told(
    found: Difference, counts: dict[str, Any], keys: Sequence[str], types: Sequence[tuple[str, str]]
) -> Difference:
    """The counts as people read them."""
    both: int = counts["rows_both"]
    features: list[FeatureDifference] = []
    for i, (name, kind) in enumerate(types):
        parts: list[Any] = [counts.get(f"{what}_{i}") for what in ("changed", "missing", "extra")]
        differing = None if parts[0] is None else int(sum(parts))
        features.append(
            FeatureDifference(
                feature=name,
                type=kind,
                differing=differing,
                changed=parts[0],
                missing=parts[1],
                extra=parts[2],
                share=None if differing is None or not both else differing / both,
                smape=counts.get(f"smape_{i}"),
                mean_absolute=counts.get(f"mean_absolute_{i}"),
                examples=tuple(
                    Pair(key=_named(one["k"], keys), a=one["a"], b=one["b"])
                    for one in counts.get(f"examples_{i}") or ()
                ),
            )
        )
    apart = counts["only_a"] or counts["only_b"] or counts["other_times"] or any(one.differing != 0 for one in features)
    return msgspec.structs.replace(
        found,
        differ=found.differ or bool(apart),
        **{name: counts[name] for name in ("rows_both", "only_a", "only_b", "other_times")},
        only_a_keys=tuple(_named(key, keys) for key in counts["only_a_keys"] or ()),
        only_b_keys=tuple(_named(key, keys) for key in counts["only_b_keys"] or ()),
        features=tuple(features),
    )


def _named(parts: dict[str, object], keys: Sequence[str]) -> dict[str, object]:
    return dict(zip(keys, parts.values(), strict=True))

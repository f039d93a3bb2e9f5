"""Training sets: what each view said at each moment of a spine, and every spine row kept, in its order."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from towpath.errors import InputError, nearest
from towpath.features.lock import FeatureLock, OnDemandLock
from towpath.features.views import View, features_by_view
from towpath.sql import Query
from towpath.warehouse.point_in_time import AsOf

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse import Warehouse

__all__ = ["training_set", "with_defaults"]

_NO_PARAMETERS: Mapping[str, object] = {}


def training_set(
    warehouse: "Warehouse",
    spine: "Query | pa.Table",
    *,
    keys: Sequence[str],
    time: str,
    features: Sequence[str],
    views: Mapping[str, View],
    as_of: AsOf = "known",
    parameters: Mapping[str, object] = _NO_PARAMETERS,
) -> "pa.Table":
    """Join features to a spine, each as it was known at the row's own moment.

    The eight rules are in `docs/concepts/point-in-time.md`. The spine's columns never pass through the join, so nothing
    can change, lose or double a row of it.

    Args:
        warehouse: Where the views' tables are.
        spine: One row per prediction: keys, a moment, and whatever else is to be kept. A frame of pandas or polars will do.
        keys: Key columns of the spine; a view may use some of them, or further columns of the spine.
        time: Column with the moment; a naive one is UTC, null matches nothing.
        features: ``view.feature`` or ``view.*``.
        views: By the name before the dot.
        as_of: ``known`` asks that a row had landed by then, where the view says when rows land; ``event`` does not ask.
        parameters: For the ``:name`` parameters of the spine's and the views' SQL.

    Returns:
        The spine, then one column ``view.feature`` per feature. The schema's metadata has ``towpath``: JSON with the number
        of rows, and per view the rows whose key has a null part (``null_keys``) and those without a moment (``null_times``).

    Raises:
        InputError: The spine lacks a column, has one twice, or has a key of another type than the view (nothing is cast).
        UnknownError: A view or a feature does not exist.
        ProjectError: The warehouse refuses the SQL.
    """
    wanted = features_by_view(views, features)
    table = _spine(warehouse, spine, parameters)
    _check_columns(table, [*keys, time], [f"{view}.{name}" for view, names in wanted.items() for name in names])
    moments = _micros(table, time)
    counted: dict[str, object] = {"rows": table.num_rows, "null_times": moments.null_count, "null_keys": {}}
    result, null_keys = table, dict[str, int]()
    for called, names in wanted.items():
        view = views[called]
        narrow, null_keys[called] = _narrow(table, moments, called, view)
        joined = warehouse.point_in_time(view.facts(names), narrow, as_of, parameters)
        for name in names:
            result = result.append_column(f"{called}.{name}", joined.column(name))
    metadata = {**(table.schema.metadata or {}), b"towpath": json.dumps({**counted, "null_keys": null_keys}).encode()}
    return result.replace_schema_metadata(metadata)


def with_defaults(
    table: "pa.Table", locks: Sequence[FeatureLock | OnDemandLock], project: str | None = None
) -> "pa.Table":
    """Put declared defaults where a value is missing, as the online read does, so that a model trains on what it will see.

    Args:
        table: A training set.
        locks: The views and functions with their rules; features that the table does not have are left alone.
        project: As in `OnlineReader`: views of another project are called ``project/view``.

    Raises:
        InputError: A default does not fit the feature's type.
    """
    import pyarrow as pa

    for kept in locks:
        called = kept.view if project is None or kept.project == project else f"{kept.project}/{kept.view}"
        for column in kept.columns:
            at = table.schema.get_field_index(f"{called}.{column.name}")
            if at < 0 or column.missing != "default" or column.default is None:
                continue
            try:
                filled = table.column(at).fill_null(column.default)
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
                raise InputError(
                    f"The default {column.default!r} of '{called}.{column.name}' is no {column.type}.",
                    f"features/{kept.view}{'.py' if isinstance(kept, OnDemandLock) else '.sql'}",
                    "write a default of the feature's type",
                ) from error
            table = table.set_column(at, table.schema.field(at).name, filled)
    return table


def _spine(warehouse: "Warehouse", spine: "Query | pa.Table", parameters: Mapping[str, object]) -> "pa.Table":
    import pyarrow as pa

    if isinstance(spine, Query):
        spine.check_parameters({"as_of", "since", "until", *parameters})
        return warehouse.read(spine, parameters)
    return spine if isinstance(spine, pa.Table) else pa.table(spine)


def _check_columns(table: "pa.Table", needed: Sequence[str], added: Sequence[str]) -> None:
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"The spine has two columns named '{twice[0]}'.", mend="rename one of them")
    for name in needed:
        if name not in names:
            raise InputError(f"The spine has no column '{name}'{nearest(name, names)}")
    for name in added:
        if name in names:
            raise InputError(
                f"The spine has a column '{name}' already.", mend="rename it, or do not ask for the feature"
            )


def _narrow(table: "pa.Table", moments: "pa.Array", called: str, view: View) -> "tuple[pa.Table, int]":
    """Row number, moment and the view's key parts, with names of ours; and the number of rows without a key."""
    import numpy as np
    import pyarrow as pa

    columns: dict[str, pa.Array] = {"rn": pa.array(np.arange(table.num_rows)), "t": moments}
    without_key = np.zeros(table.num_rows, dtype=bool)
    for i, key in enumerate(view.header.keys):
        if key not in table.column_names:
            raise InputError(
                f"The view '{called}' is keyed by '{key}', which the spine does not have{nearest(key, table.column_names)}",
                view.query.path,
                f"select {key} in the spine",
            )
        column = table.column(key)
        kind = view.key_types[i] if view.key_types else ""
        if kind and column.null_count < len(column) and _family(str(column.type)) != _family(kind):
            raise InputError(
                f"Key '{key}' is {column.type} in the spine and {kind} in the view '{called}'.",
                view.query.path,
                "cast one of them; nothing is cast silently",
            )
        if pa.types.is_null(column.type):
            column = column.cast(_arrow_type(kind))  # of no type, so that it fits any
        columns[f"k{i}"] = column
        without_key |= column.is_null().to_numpy()
    return pa.table(columns), int(without_key.sum())


def _micros(table: "pa.Table", time: str) -> "pa.ChunkedArray":
    """The moments as microseconds since 1970; what is finer is cut off."""
    import pyarrow as pa

    column = table.column(time)
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        if pa.types.is_null(column.type):
            return column.cast(pa.int64())
        raise InputError(f"The time column '{time}' of the spine is {column.type}.", mend="cast it to timestamp")
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    return column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())


def _arrow_type(kind: str) -> "pa.DataType":
    import pyarrow as pa

    return pa.timestamp("us", "UTC") if kind.startswith("timestamp") else pa.type_for_alias(kind or "string")


def _family(kind: str) -> str:
    """Types that compare without loss: all whole numbers, all text, all moments."""
    if kind.startswith("dictionary"):
        kind = kind.split("values=", 1)[1].split(",", 1)[0]
    for family, starts in {
        "whole number": ("int", "uint"),
        "text": ("string", "large_string"),
        "moment": ("timestamp",),
        "day": ("date",),
        "number": ("double", "float", "halffloat"),
    }.items():
        if kind.startswith(starts):
            return family
    return kind

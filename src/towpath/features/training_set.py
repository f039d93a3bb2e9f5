"""Training sets: what each view said at each moment of a spine, and every spine row kept, in its order."""

import base64
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from towpath.errors import InputError, ResourceError, nearest
from towpath.features.frames import as_table
from towpath.features.keys import family
from towpath.features.lock import FeatureLock, OnDemandLock
from towpath.features.lock import called as called_by
from towpath.features.training_manifest import (
    BLOCK_ROWS,
    SpineDigest,
    TrainingSetManifest,
    ViewRead,
    manifest_of,
    merged,
    tables_read,
    with_manifest,
)
from towpath.features.views import View, features_by_view
from towpath.sql import Query
from towpath.types import type_name
from towpath.warehouse.point_in_time import AsOf

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse import Warehouse

__all__ = ["training_set", "with_defaults", "write_training_set"]

_NO_PARAMETERS: Mapping[str, object] = {}
_PIECE_ROWS = 16 * BLOCK_ROWS
"""Of a spine that is joined piece by piece: each piece reads the views once more, and its result is in memory."""


def training_set(
    warehouse: "Warehouse",
    spine: "Query | pa.Table",
    *,
    keys: Sequence[str] | None = None,
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
        keys: Key columns of the spine, those of the views unless given; a view may use some of them, or further columns.
        time: Column with the moment; a naive one is UTC, null matches nothing.
        features: ``view.feature`` or ``view.*``.
        views: By the name before the dot.
        as_of: ``known`` asks that a row had landed by then, where the view says when rows land; ``event`` does not ask.
        parameters: For the ``:name`` parameters of the spine's and the views' SQL.

    Returns:
        The spine, then one column ``view.feature`` per feature. Its manifest is in the schema's metadata, see `manifest_of`.

    Raises:
        InputError: The spine lacks a column, has one twice, or has a key of another type than the view (nothing is cast).
        UnknownError: A view or a feature does not exist.
        ProjectError: The warehouse refuses the SQL.
    """
    wanted = features_by_view(views, features)
    table, digest = _spine(warehouse, spine, parameters), SpineDigest()
    joined = _joined(warehouse, table, keys, time, wanted, views, as_of, parameters)
    digest.add(table)
    return with_manifest(joined, msgspec.structs.replace(manifest_of(joined), spine_digest=digest.text))


def write_training_set(
    warehouse: "Warehouse",
    spine: "Query | pa.Table",
    path: Path,
    *,
    keys: Sequence[str] | None = None,
    time: str,
    features: Sequence[str],
    views: Mapping[str, View],
    as_of: AsOf = "known",
    parameters: Mapping[str, object] = _NO_PARAMETERS,
    piece_rows: int = _PIECE_ROWS,
    finish: "Callable[[pa.Table], pa.Table] | None" = None,
) -> TrainingSetManifest:
    """Write a training set to a Parquet file, piece by piece of its spine, so that memory does not grow with it.

    Rows and their order are those of `training_set`. The file shows up whole or not at all.

    Args:
        warehouse: As in `training_set`.
        spine: As in `training_set`; SQL is read as it comes.
        path: The file; one that is there is replaced. Its folder must exist.
        keys: As in `training_set`.
        time: As in `training_set`.
        features: As in `training_set`.
        views: As in `training_set`.
        as_of: As in `training_set`.
        parameters: As in `training_set`.
        piece_rows: Rows of one piece, a multiple of 65,536.
        finish: Adds columns to each piece, such as on-demand features; keeps rows, order and manifest.

    Returns:
        The manifest, which also stands in the file's metadata.

    Raises:
        InputError: As in `training_set`; or the folder does not exist.
        UnknownError: As in `training_set`.
        ProjectError: As in `training_set`.
        ResourceError: The file cannot be written.
    """
    import pyarrow.parquet as pq

    if not path.parent.is_dir():
        raise InputError(f"The folder '{path.parent}' does not exist.", str(path), f"mkdir -p {path.parent}")
    if piece_rows <= 0 or piece_rows % BLOCK_ROWS:
        raise InputError(f"piece_rows is {piece_rows:,} and no multiple of {BLOCK_ROWS:,}.")
    wanted = features_by_view(views, features)
    unfinished = path.with_name(f".{path.name}.unfinished")
    digest, manifests = SpineDigest(), list[TrainingSetManifest]()
    writer: pq.ParquetWriter | None = None
    try:
        with _reader(warehouse, spine, parameters) as reader:
            for piece in _pieces(reader, reader.schema, piece_rows):
                joined = _joined(warehouse, piece, keys, time, wanted, views, as_of, parameters)
                joined = finish(joined) if finish else joined
                digest.add(piece)
                manifests.append(manifest_of(joined))
                plain = joined.replace_schema_metadata(piece.schema.metadata)
                writer = writer or pq.ParquetWriter(unfinished, plain.schema, compression="zstd")
                writer.write_table(plain)
        manifest = merged(manifests, digest.text)
        assert writer is not None  # an empty spine is one empty piece
        said = base64.b64encode(with_manifest(writer.schema.empty_table(), manifest).schema.serialize().to_pybytes())
        # a table that is read back has the metadata of Arrow's own schema, and none of the file's
        writer.add_key_value_metadata({"towpath": msgspec.json.encode(manifest).decode(), "ARROW:schema": said})
        writer.close()
        unfinished.replace(path)
    except OSError as error:
        raise ResourceError(
            f"'{path}' cannot be written: {error}.", str(path), "make room, or another place"
        ) from error
    finally:
        if writer is not None and writer.is_open:
            writer.close()
        unfinished.unlink(missing_ok=True)
    return manifest


def _joined(
    warehouse: "Warehouse",
    table: "pa.Table",
    keys: Sequence[str] | None,
    time: str,
    wanted: Mapping[str, Sequence[str]],
    views: Mapping[str, View],
    as_of: AsOf,
    parameters: Mapping[str, object],
) -> "pa.Table":
    """A spine in memory with its features, and a manifest that lacks the spine's digest."""
    entity = dict.fromkeys(key for called in wanted for key in views[called].header.keys)
    added = [f"{view}.{name}" for view, names in wanted.items() for name in names]
    _check_columns(table, [*(keys or ()), time], added)
    moments = _micros(table, time)
    narrow = {called: _narrow(table, moments, called, views[called]) for called in wanted}
    read = [views[called] for called in wanted]
    before, unknown = tables_read(warehouse, read)
    result = table
    for called, names in wanted.items():
        found = warehouse.point_in_time(views[called].facts(names), narrow[called][0], as_of, parameters)
        for name in names:
            result = result.append_column(f"{called}.{name}", found.column(name))
    after, _ = tables_read(warehouse, read)
    changed = {name for name in before if before[name] != after.get(name)}
    named = sorted({name for view in read for name in view.query.parameters if name in parameters})
    manifest = TrainingSetManifest(
        rows=table.num_rows,
        null_times=moments.null_count,
        keys=tuple(entity if keys is None else keys),
        time=time,
        as_of=as_of,
        features=tuple(added),
        spine_digest="",
        views=tuple(
            ViewRead(
                view=called,
                fingerprint=views[called].fingerprint,
                ttl=views[called].header.ttl,
                null_keys=narrow[called][1],
                tables=tuple(views[called].query.tables),
            )
            for called in wanted
        ),
        parameters={name: str(parameters[name]) for name in named},
        tables=tuple(before[name] for name in sorted(before)),
        unproved=tuple(sorted(unknown | changed)),
    )
    return with_manifest(result, manifest)


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
        called = called_by(kept, project)
        for column in kept.columns:
            at = table.schema.get_field_index(f"{called}.{column.name}")
            if at < 0 or column.missing != "default" or column.default is None:
                continue
            try:
                filled = table.column(at).fill_null(column.default)
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
                raise InputError(
                    f"The default {column.default!r} of '{called}.{column.name}' is no {type_name(str(column.type))}.",
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
    table = as_table(spine, "The spine")
    # What polars gives and no engine takes.
    joinable = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    if not any(field.type in joinable for field in table.schema):
        return table
    fields = [field.with_type(joinable.get(field.type, field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, table.schema.metadata))


@contextmanager
def _reader(
    warehouse: "Warehouse", spine: "Query | pa.Table", parameters: Mapping[str, object]
) -> "Generator[pa.RecordBatchReader]":
    """The spine as it comes."""
    if isinstance(spine, Query):
        spine.check_parameters({"as_of", "since", "until", *parameters})
        with warehouse.stream(spine, parameters) as reader:
            yield reader
    else:
        yield _spine(warehouse, spine, parameters).to_reader()


def _pieces(batches: "Iterable[pa.RecordBatch]", schema: "pa.Schema", rows: int) -> "Generator[pa.Table]":
    """The same rows in tables of so many, the last one shorter; at least one."""
    import pyarrow as pa

    kept: list[pa.RecordBatch] = []
    count, given = 0, False
    for batch in batches:
        rest = batch
        while rest.num_rows:
            part = rest.slice(0, rows - count)
            rest = rest.slice(part.num_rows)
            kept.append(part)
            count += part.num_rows
            if count == rows:
                yield pa.Table.from_batches(kept, schema)
                kept, count, given = [], 0, True
    if kept or not given:
        yield pa.Table.from_batches(kept, schema)


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
        if kind and column.null_count < len(column) and family(str(column.type)) != family(kind):
            gaps = pa.types.is_floating(column.type) and family(kind) == family("int64") and column.null_count > 0
            raise InputError(
                f"Key '{key}' is {type_name(str(column.type))} in the spine and {type_name(kind)} in the view '{called}'.",
                view.place(key),
                "cast one of them; nothing is cast silently"
                + (f"; pandas makes whole numbers with gaps fractions: .astype({{'{key}': 'Int64'}})" if gaps else ""),
            )
        if pa.types.is_null(column.type):
            column = column.cast(_arrow_type(kind))  # of no type, so that it fits any
        if pa.types.is_uint64(column.type):
            try:
                column = column.cast(pa.int64())
            except pa.ArrowInvalid as error:
                raise InputError(
                    f"Key '{key}' goes beyond 9223372036854775807 in the spine, the largest int64, which no key can be.",
                    view.place(key),
                    "cast it to text in the view and in the spine",
                ) from error
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
        raise InputError(
            f"The time column '{time}' of the spine is {type_name(str(column.type))}.", mend="cast it to timestamp"
        )
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    return column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())


def _arrow_type(kind: str) -> "pa.DataType":
    import pyarrow as pa

    return pa.timestamp("us", "UTC") if kind.startswith("timestamp") else pa.type_for_alias(kind or "string")

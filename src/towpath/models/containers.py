"""The object that user code is handed, the same at training and at serving: pandas, polars, Arrow or numpy.

Types, column order, category levels and the null rule come from the signature alone, so that a request cannot change them:
a column with levels is categorical (pandas ``Categorical``, polars ``Enum``, Arrow dictionary, in numpy its code), an unseen level is
null; in pandas and numpy a whole-number column with nulls is float64 with NaN.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from towpath.models.columns import Columns, Encoder, is_number, rows_in
from towpath.models.engines.extra import framework
from towpath.models.manifest import Field, Signature

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["columns_of", "container", "fields_of"]

_LEVELS_KEPT = 10_000


def fields_of(table: "pa.Table", *, levels: bool = True) -> tuple[Field, ...]:
    """Describe the features that a model was trained on.

    Args:
        table: The training rows, features alone, in the order of the model.
        levels: Whether text columns become categorical, with their levels in sorted order.

    Returns:
        One field per column; text with more than 10,000 different values stays plain text.
    """
    import pyarrow as pa

    fields: list[Field] = []
    for name in table.column_names:
        column = table.column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        known: tuple[str, ...] | None = None
        if levels and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            plain = column.cast(kind) if pa.types.is_dictionary(column.type) else column
            distinct = [level for level in plain.unique().to_pylist() if level is not None]
            known = tuple(sorted(distinct)) if len(distinct) <= _LEVELS_KEPT else None
        fields.append(Field(name=name, type=_type_name(kind), levels=known))
    return tuple(fields)


def columns_of(table: "pa.Table") -> dict[str, NDArray[Any]]:
    """Turn an Arrow table into columns: floats and nullable whole numbers with NaN, text as objects with None, times as UTC.

    Example:
        >>> import pyarrow as pa
        >>> {name: column.tolist() for name, column in columns_of(pa.table({"a": [1, None], "b": ["x", None]})).items()}
        {'a': [1.0, nan], 'b': ['x', None]}
    """
    import pyarrow as pa

    columns: dict[str, NDArray[Any]] = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        kind = column.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            columns[name] = column.cast(pa.timestamp("us")).to_numpy() if pa.types.is_date(kind) else _naive(column)
        elif pa.types.is_decimal(kind) or (pa.types.is_boolean(kind) and column.null_count):
            columns[name] = column.cast(pa.float64()).to_numpy()
        elif pa.types.is_integer(kind) and column.null_count:
            columns[name] = column.cast(pa.float64(), safe=False).to_numpy()
        else:
            columns[name] = column.to_numpy()
    return columns


def container(columns: Columns, signature: Signature, encoder: Encoder | None = None) -> Any:
    """Hand columns over in the container that ``train`` read.

    Args:
        columns: By name; more than the signature asks for is left out.
        signature: Says which container, order, types and levels.
        encoder: Counts unseen levels; a new one unless given.

    Returns:
        ``pandas.DataFrame``, ``polars.DataFrame``, ``pyarrow.Table``, an array of shape ``(n, k)``, or for ``tensors`` the arrays by name.

    Raises:
        ExtraError: pandas or polars is not installed.

    Example:
        >>> want = Signature(container="numpy", inputs=(Field(name="a", type="double"),), outputs=())
        >>> container({"a": np.array([1.0, 2.0])}, want).tolist()
        [[1.0], [2.0]]
    """
    encoder = encoder or Encoder(signature.inputs)
    match signature.container:
        case "pandas":
            return _pandas(columns, signature.inputs, encoder)
        case "polars":
            return _polars(columns, signature.inputs, encoder)
        case "arrow":
            return _arrow(columns, signature.inputs, encoder)
        case "numpy":
            if all(is_number(field) or field.levels is not None or field.type == "bool" for field in signature.inputs):
                return encoder.matrix(columns)
            table = np.empty((rows_in(columns), len(signature.inputs)), dtype=object)
            for position, field in enumerate(signature.inputs):
                known = field.levels is not None
                table[:, position] = encoder.known(field, columns[field.name]) if known else columns[field.name]
            return table
        case _:
            return {field.name: columns[field.name] for field in signature.inputs}


def _pandas(columns: Columns, inputs: Sequence[Field], encoder: Encoder) -> Any:
    pandas: Any = framework("pandas", "the model was trained on pandas")
    if all(field.type == "double" and field.levels is None for field in inputs):
        return pandas.DataFrame(encoder.matrix(columns), columns=list(encoder.names), copy=False)
    frame: dict[str, Any] = {}
    for field in inputs:
        column = columns[field.name]
        if field.levels is not None:
            codes = encoder.known(field, column)
            frame[field.name] = pandas.Categorical.from_codes(codes, categories=_typed_levels(field))
        elif field.type.startswith("timestamp"):
            frame[field.name] = pandas.Series(column, dtype="datetime64[us]").dt.tz_localize("UTC")
        else:
            frame[field.name] = _native(field, column)
    return pandas.DataFrame(frame, columns=[field.name for field in inputs], copy=False)


def _polars(columns: Columns, inputs: Sequence[Field], encoder: Encoder) -> Any:
    polars: Any = framework("polars", "the model was trained on polars")
    return polars.from_arrow(_arrow(columns, inputs, encoder)).with_columns(
        [polars.col(field.name).cast(polars.Enum(list(field.levels))) for field in inputs if field.levels is not None]
    )


def _arrow(columns: Columns, inputs: Sequence[Field], encoder: Encoder) -> Any:
    import pyarrow as pa

    arrays: list[Any] = []
    for field in inputs:
        column = columns[field.name]
        if field.levels is not None:
            codes = encoder.known(field, column)
            indices = pa.array(codes.astype(np.int32), mask=codes < 0)
            arrays.append(pa.DictionaryArray.from_arrays(indices, pa.array(field.levels, type=pa.string())))
            continue
        kind = pa.type_for_alias(field.type) if field.type in _ALIASES else _parametric(field.type)
        values = np.ascontiguousarray(column)
        array = pa.array(values, from_pandas=True)
        arrays.append(array if kind is None or array.type == kind else _cast(array, kind))
    return pa.Table.from_arrays(arrays, names=[field.name for field in inputs])


def _cast(array: Any, kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_boolean(kind) and pa.types.is_floating(array.type):
        array = array.cast(pa.int8())
    return array.cast(kind, safe=False)


def _native(field: Field, column: NDArray[Any]) -> NDArray[Any]:
    """Numpy's own type of a field where no null prevents it."""
    if column.dtype == np.float64 and field.type in _ALIASES and field.type not in {"double", "string", "large_string"}:
        wanted = np.dtype(
            "bool" if field.type == "bool" else {"float": "f4", "halffloat": "f2"}.get(field.type, field.type)
        )
        if wanted.kind == "f" or not np.isnan(column).any():
            return column.astype(wanted)
    return column


def _typed_levels(field: Field) -> list[Any]:
    if field.type.startswith(("int", "uint")):
        return [int(level) for level in field.levels or ()]
    return list(field.levels or ())


_ALIASES = frozenset(
    {"double", "float", "halffloat", "string", "large_string", "bool", "int8", "int16", "int32", "int64",
     "uint8", "uint16", "uint32", "uint64"}
)  # fmt: skip


def _parametric(name: str) -> Any:
    import pyarrow as pa

    if name.startswith("timestamp"):
        return pa.timestamp("us", tz="UTC")
    return pa.date32() if name.startswith("date") else None


def _naive(column: Any) -> NDArray[Any]:
    import pyarrow as pa

    return column.cast(pa.timestamp("us")).to_numpy()


def _type_name(kind: Any) -> str:
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return "timestamp[us, tz=UTC]"
    if pa.types.is_decimal(kind):
        return "double"
    return "string" if pa.types.is_large_string(kind) else str(kind)

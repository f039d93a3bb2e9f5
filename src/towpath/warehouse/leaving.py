"""How columns leave a warehouse, whatever the engine calls their types: as a model can take them."""

from typing import TYPE_CHECKING

from towpath.errors import ProjectError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["converted", "outgoing"]


def outgoing(schema: "pa.Schema") -> "pa.Schema":
    """Names and types as they leave; what an engine's driver wrote beside them is left out.

    Example:
        >>> import pyarrow as pa
        >>> outgoing(pa.schema([("price", pa.decimal128(9, 2)), ("at", pa.timestamp("ns"))])).types
        [DataType(double), TimestampType(timestamp[us, tz=UTC])]
    """
    import pyarrow as pa

    return pa.schema([(field.name, _plain(field.type)) for field in schema])


def _plain(kind: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC")
    if pa.types.is_decimal(kind):
        return pa.int64() if kind.scale == 0 else pa.float64()
    if pa.types.is_uint64(kind):
        return pa.int64()
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return kind


def converted(batch: "pa.RecordBatch", schema: "pa.Schema") -> "pa.RecordBatch":
    """A batch with the types that it leaves with.

    Args:
        batch: As the engine gave it.
        schema: What `outgoing` made of its schema.

    Raises:
        ProjectError: A whole number does not fit into int64.
    """
    import pyarrow as pa

    columns: list[pa.Array] = []
    for column, field in zip(batch.columns, schema, strict=True):
        if pa.types.is_timestamp(field.type) and column.type.tz is None:
            column = column.cast(pa.timestamp("us"), safe=False)  # noqa: PLW2901 - the same column, finer named
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid as error:
            raise ProjectError(
                f"Column '{field.name}' holds a whole number beyond int64, {2**63 - 1}.",
                mend="cast it to double, or to varchar where each digit counts",
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)

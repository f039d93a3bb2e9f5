"""What people have at hand as one Arrow table: frames of pandas and polars, Arrow itself, columns by name."""

import re
from typing import TYPE_CHECKING

from towpath.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["as_table"]

_WANTED = "an Arrow table, a frame of pandas or polars, or a dict of columns, each of one type"
_NAMELESS = re.compile(r"__index_level_\d+__")


def as_table(given: object, called: str, *, wanted: str = _WANTED) -> "pa.Table":
    """Make an Arrow table; the index of a pandas frame comes along where it has a name.

    Args:
        given: An Arrow table, a frame of pandas or polars, or a dict of columns.
        called: What it is to the one who gave it, for the error.
        wanted: What would have been taken, for the error.

    Raises:
        InputError: It is something else; or a column of it has values of several types.

    Example:
        >>> as_table({"id": [1, 2]}, "The spine").num_rows
        2
    """
    import pyarrow as pa

    if isinstance(given, pa.Table):
        return given
    kind = type(given)
    if kind.__name__ == "LazyFrame":
        raise InputError(f"{called} is a LazyFrame, which has no rows yet.", mend=".collect() it first")
    try:
        table = pa.table(given)  # pyright: ignore[reportArgumentType] - what it does not take it says
    except (TypeError, ValueError, NotImplementedError, pa.ArrowException) as error:
        said = "; ".join(map(str, error.args))
        raise InputError(
            f"{called} is a {kind.__module__.removeprefix('builtins')}.{kind.__qualname__}".replace(" .", " ")
            + f" and makes no table: {said}.",
            mend=wanted,
        ) from error
    return table.drop_columns([name for name in table.schema.names if _NAMELESS.fullmatch(name)])

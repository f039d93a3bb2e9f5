"""The columns of an online read, made when the first is asked for."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Columns"]


class Columns(dict[str, NDArray[Any]]):
    """A dict of the columns of a matrix, which are made when anybody looks into it.

    Thirty arrays of one number each take a quarter of a read of one key, and who serves a model takes the matrix instead.

    Args:
        names: What the columns are called, in order.
        matrix: Shape ``(rows, columns)``; nobody else writes into it.

    Example:
        >>> read = Columns(("a", "b"), np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> read["b"].tolist(), len(read), list(read)
        ([2.0, 4.0], 2, ['a', 'b'])
    """

    __slots__ = ("_matrix", "_names")

    def __init__(self, names: Sequence[str], matrix: NDArray[Any]) -> None:
        self._names = names
        self._matrix: NDArray[Any] | None = matrix

    def __missing__(self, name: str) -> NDArray[Any]:
        """Make all columns, the first time; a dict asks here for what it does not hold."""
        if self._matrix is None:
            raise KeyError(name)
        self._make()
        return self[name]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels as a plain dict."""
        return dict, (dict(self),)

    def _make(self) -> None:
        matrix = self._matrix
        if matrix is not None:
            columns = matrix.T if len(matrix) == 1 else np.ascontiguousarray(matrix.T)
            super().update(zip(self._names, columns, strict=True))
            self._matrix = None


def _of_all(method: Callable[..., Any]) -> Callable[..., Any]:
    def whole(self: Columns, *given: Any, **named: Any) -> Any:
        self._make()  # pyright: ignore[reportPrivateUsage] - methods of the class above
        return method(self, *given, **named)

    whole.__name__, whole.__doc__ = method.__name__, method.__doc__
    return whole


for _name in (
    *("__contains__", "__delitem__", "__eq__", "__ior__", "__iter__", "__len__", "__ne__", "__or__", "__repr__"),
    *("__reversed__", "__ror__", "__setitem__", "clear", "copy", "get", "items", "keys", "pop", "popitem"),
    *("setdefault", "update", "values"),
):
    setattr(Columns, _name, _of_all(getattr(dict, _name)))

"""Circles of models whose fallback chains ask each other; `tow check` and a server that loads them look for the same."""

from collections.abc import Mapping, Sequence

__all__ = ["circle_from"]


def circle_from(own: str, other: str, asks: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The models on the way from one over another back to the first; empty where no way leads back.

    Args:
        own: Whose chain it is.
        other: Whom its chain asks.
        asks: Model → the models that its chain asks.

    Example:
        >>> circle_from("a", "b", {"a": ["b"], "b": ["c"], "c": ["a"]})
        ('a', 'b', 'c')
    """
    waiting: list[tuple[str, ...]] = [(own, other)]
    while waiting:
        way = waiting.pop()
        if way[-1] == own:
            return way[:-1]
        waiting += [(*way, further) for further in asks.get(way[-1], ()) if further not in way[1:]]
    return ()

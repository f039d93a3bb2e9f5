"""Which rows are trained on and which are measured on: by time, never by chance, and nothing known too late."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from towpath.errors import InputError, ProjectError
from towpath.models import columns_of
from towpath.project.declarations import TrainingHeader
from towpath.types import duration_text

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Split", "moments", "sample", "split"]

_MICROSECOND = np.timedelta64(1, "us")


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """Labelled rows on both sides of one moment."""

    train: "pa.Table"
    """Rows predicted, and whose label was known, before the holdout begins."""
    holdout: "pa.Table"
    """The newest rows, ``[since, until)`` by moment of prediction."""
    since_us: int
    """Begin of the holdout, microseconds since 1970."""
    until_us: int
    """Its end, which is one microsecond after the newest labelled row."""


def split(
    table: "pa.Table", header: TrainingHeader, *, holdout: timedelta, as_of: datetime, history: timedelta | None = None
) -> Split:
    """Split the rows that are labelled as of a moment into training rows and holdout.

    A row is labelled when its label is there, its moment of prediction is not after `as_of` and its label became known
    by then (`label_time`, where the header names it). A row whose label became known only within the holdout is in
    neither part: the label of day 1 that covers days 2 to 8 holds the truth of a holdout that begins on day 5.

    Args:
        table: The training set, any order.
        header: Which column is what.
        holdout: Length of the newest stretch of prediction times that is measured on.
        as_of: Nothing that became known later is used.
        history: How far before the holdout rows are trained on; all unless given.

    Raises:
        ProjectError: One part would be empty; says how many rows there are, and until when.
    """
    moment = np.datetime64(as_of.astimezone(UTC).replace(tzinfo=None), "us")
    times, known = moments(table, header.time), moments(table, header.label_time or header.time)
    labelled = _present(table, header.label) & (times <= moment) & (known <= moment)
    if not labelled.any():
        raise ProjectError(
            f"None of {table.num_rows} rows has a label that was known at {as_of.isoformat()}.",
            f"training.sql, {header.label}",
            "a later --as-of, or a spine that reaches further back",
        )
    until = times[labelled].max() + _MICROSECOND
    since = until - np.timedelta64(holdout)
    # A label that was known at the very moment at which the holdout begins was known in time
    older = labelled & (times < since) & (known <= since)
    if history is not None:
        older &= times >= since - np.timedelta64(history)
    parts = Split(
        train=table.filter(older),
        holdout=table.filter(labelled & (times >= since)),
        since_us=int(since.astype(np.int64)),
        until_us=int(until.astype(np.int64)),
    )
    if not parts.train.num_rows:
        raise ProjectError(
            f"No row is left to train on: of {labelled.sum()} labelled rows {parts.holdout.num_rows} are in the"
            f" holdout of {duration_text(holdout)} before {as_of.isoformat()}, and no other label was known when it began.",
            "model.toml, train.holdout",
            "a shorter holdout, a later --as-of, or a spine that reaches further back",
        )
    return parts


def sample(table: "pa.Table", keys: tuple[str, ...], share: float, seed: int) -> "pa.Table":
    """Keep all rows of a share of the entities, the same ones whenever the seed is the same.

    An entity stays or goes by the hash of its key: a smaller share is a part of a larger one, and whoever samples twice
    gets what sampling once gave.

    Args:
        table: Rows with key columns.
        keys: The key columns.
        share: Above 0, up to 1.
        seed: Picks which entities.

    Raises:
        InputError: `share` is out of bounds.

    Example:
        >>> import pyarrow as pa
        >>> rows = pa.table({"item": [n % 1_000 for n in range(5_000)]})
        >>> sample(rows, ("item",), 0.1, seed=7).num_rows
        515
    """
    import pyarrow as pa

    if not 0 < share <= 1:
        raise InputError(f"A sample of {share:g} is no share of the entities.", "--sample", "above 0% and up to 100%")
    if share == 1:
        return table
    positions = pa.array(range(table.num_rows), pa.int64())
    grouped = table.select(list(keys)).append_column("", positions).group_by(list(keys)).aggregate([("", "list")])
    parts = zip(*(grouped.column(name).to_pylist() for name in keys), strict=True)
    stays = [_drawn(json.dumps(key, default=str), share, seed) for key in parts]
    kept = grouped.column("_list").combine_chunks().filter(pa.array(stays, pa.bool_())).flatten()
    return table.take(np.sort(kept.to_numpy()))


def _drawn(key: str, share: float, seed: int) -> bool:
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()[:64]).digest()
    return int.from_bytes(digest, "little") < share * 2**64


def moments(table: "pa.Table", name: str) -> NDArray[np.datetime64]:
    """A column of times as UTC microseconds, shape ``(n,)``; null is NaT, which no comparison holds for."""
    return columns_of(table.select([name]))[name].astype("datetime64[us]")


def _present(table: "pa.Table", name: str) -> NDArray[np.bool_]:
    column = table.column(name)
    valid = np.asarray(column.is_valid())
    values = columns_of(table.select([name]))[name]
    return valid & ~np.isnan(values) if values.dtype.kind == "f" else valid

"""Training sets of a project: the point-in-time join, then on-demand features, in memory or into a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from towpath import features as room
from towpath.platform import on_demand

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.features import Split, TrainingSetManifest
    from towpath.platform.opened import Platform
    from towpath.sql import Query
    from towpath.warehouse import AsOf

__all__ = ["Asked", "read", "write"]


class Asked(NamedTuple):
    """What is wanted of a spine."""

    features: "Split"
    keys: Sequence[str] | None
    time: str
    as_of: "AsOf"
    parameters: Mapping[str, object]


def read(platform: "Platform", spine: "Query | pa.Table", asked: Asked) -> "pa.Table":
    """The training set as one table, with its manifest."""
    table = room.training_set(
        platform.warehouse,
        spine,
        keys=asked.keys,
        time=asked.time,
        features=asked.features.features,
        views=platform.features.views_of(asked.features.features),
        as_of=asked.as_of,
        parameters=asked.parameters,
    )
    return _finished(platform, table, asked)


def write(platform: "Platform", spine: "Query | pa.Table", asked: Asked, path: Path) -> "TrainingSetManifest":
    """The training set as a Parquet file, piece by piece."""
    return room.write_training_set(
        platform.warehouse,
        spine,
        path,
        keys=asked.keys,
        time=asked.time,
        features=asked.features.features,
        views=platform.features.views_of(asked.features.features),
        as_of=asked.as_of,
        parameters=asked.parameters,
        finish=lambda table: _finished(platform, table, asked),
    )


def _finished(platform: "Platform", table: "pa.Table", asked: Asked) -> "pa.Table":
    if not asked.features.files:
        return table
    return on_demand.appended(platform, table, asked.features, time=asked.time)

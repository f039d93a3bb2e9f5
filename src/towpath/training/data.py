"""What ``train(data)`` is handed: features, label, keys and times, in the container that the user works with."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from towpath.errors import ProjectError
from towpath.models.containers import columns_of, container, fields_of
from towpath.models.engines.extra import framework
from towpath.models.manifest import Field, Signature
from towpath.project.declarations import TrainingHeader
from towpath.training.splits import moments

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Rows", "TrainingSet"]

RowContainer = Literal["arrow", "pandas", "polars", "numpy"]
_VALIDATION_SHARE = 0.2


class TrainingSet:
    """The training rows of one run. The holdout is not in it.

    ``data.pandas.features``, ``data.polars.features``, ``data.numpy.features`` and ``data.features`` (Arrow) are the same
    rows; ``predict`` will be handed the one whose features were read last. Text features are categorical there, with
    the levels of these rows.

    Args:
        table: The labelled rows: spine columns, then features.
        header: Which spine column is what.
        features: The feature columns, in the order of the model.
        parameters: ``[train.parameters]`` of ``model.toml``.
        seed: Of ``[train]``; ``rng`` begins with it.
    """

    def __init__(
        self,
        table: "pa.Table",
        header: TrainingHeader,
        features: tuple[str, ...],
        *,
        parameters: Mapping[str, float | int | str | bool],
        seed: int,
        _of: "TrainingSet | None" = None,
    ) -> None:
        self.table = table
        self.header = header
        self.feature_names = features
        self.parameters = dict(parameters)
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self._whole = _of or self
        self._read: RowContainer = "arrow"

    @property
    def container(self) -> RowContainer:
        """The container whose features were read last; also in a part of this set."""
        return self._whole._read  # noqa: SLF001 - parts report to the whole

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Names, types and category levels of the features, as the whole set has them."""
        if self._whole is not self:
            return self._whole.fields
        return fields_of(self.table.select(list(self.feature_names)))

    @property
    def arrow(self) -> "Rows":
        """The rows as Arrow tables and arrays."""
        return Rows(self, "arrow")

    @property
    def pandas(self) -> "Rows":
        """The rows as pandas frames and series."""
        return Rows(self, "pandas")

    @property
    def polars(self) -> "Rows":
        """The rows as polars frames and series."""
        return Rows(self, "polars")

    @property
    def numpy(self) -> "Rows":
        """The rows as arrays; features have shape ``(n, k)``, categories are codes, null is NaN."""
        return Rows(self, "numpy")

    @property
    def features(self) -> Any:
        """The features as an Arrow table; ``data.pandas.features`` and the like give other containers."""
        return self.arrow.features

    @property
    def label(self) -> Any:
        """What is to be predicted, as an Arrow array."""
        return self.arrow.label

    @property
    def keys(self) -> Any:
        """The key columns as an Arrow table."""
        return self.arrow.keys

    @property
    def time(self) -> Any:
        """The moments of prediction as an Arrow array, UTC."""
        return self.arrow.time

    @property
    def segments(self) -> Any:
        """The segment columns as an Arrow table."""
        return self.arrow.segments

    @property
    def weight(self) -> Any:
        """How much each row counts, as an Arrow array; ones unless the header names a column."""
        return self.arrow.weight

    @property
    def train(self) -> "TrainingSet":
        """The older four fifths of time; with `validation` for early stopping."""
        return self.split()[0]

    @property
    def validation(self) -> "TrainingSet":
        """The newest fifth of time."""
        return self.split()[1]

    def split(self, validation_share: float = _VALIDATION_SHARE) -> "tuple[TrainingSet, TrainingSet]":
        """Split by time, never by chance: the newest stretch validates, what became known before it trains.

        Args:
            validation_share: Share of the time that the rows span, above 0 and below 1.

        Returns:
            Older and newer rows. Rows whose label became known only within the newer stretch are in neither.

        Raises:
            ProjectError: One side would be empty, as when all rows are of one moment.
        """
        times = moments(self.table, self.header.time)
        known = moments(self.table, self.header.label_time or self.header.time)
        first, last = times.min(), times.max()
        since = last - ((last - first).astype(np.int64) * validation_share).astype("timedelta64[us]")
        parts = self.table.filter((times < since) & (known <= since)), self.table.filter(times >= since)
        if not all(part.num_rows for part in parts):
            raise ProjectError(
                f"{self.table.num_rows} rows from {first} to {last} leave"
                f" {parts[0].num_rows} to train and {parts[1].num_rows} to validate.",
                "data.split",
                "more history in training.sql, or another validation_share",
            )
        return self._part(parts[0]), self._part(parts[1])

    def __len__(self) -> int:
        return self.table.num_rows

    def __repr__(self) -> str:
        return f"TrainingSet({len(self)} rows, {len(self.feature_names)} features, label '{self.header.label}')"

    def _part(self, table: "pa.Table") -> "TrainingSet":
        return TrainingSet(
            table, self.header, self.feature_names, parameters=self.parameters, seed=self.seed, _of=self._whole
        )

    def noted(self, kind: RowContainer) -> None:
        """Remember that the features were read in this container."""
        self._whole._read = kind  # noqa: SLF001 - parts report to the whole


class Rows:
    """The rows of a training set in one container; made by ``data.pandas`` and the like."""

    def __init__(self, data: TrainingSet, kind: RowContainer) -> None:
        self._data = data
        self._kind: RowContainer = kind

    @property
    def features(self) -> Any:
        """The features, exactly as ``predict`` will be handed them."""
        self._data.noted(self._kind)
        table = self._data.table.select(list(self._data.feature_names))
        signature = Signature(container=self._kind, inputs=self._data.fields, outputs=())
        return container(columns_of(table), signature)

    @property
    def label(self) -> Any:
        """What is to be predicted, one value per row."""
        return self._column(self._data.header.label)

    @property
    def keys(self) -> Any:
        """The key columns; numpy gives arrays by name."""
        return self._columns(self._data.header.keys)

    @property
    def time(self) -> Any:
        """The moments of prediction, UTC."""
        return self._column(self._data.header.time)

    @property
    def segments(self) -> Any:
        """The segment columns."""
        return self._columns(self._data.header.segments)

    @property
    def weight(self) -> Any:
        """How much each row counts; ones unless the header names a column."""
        if self._data.header.weight is not None:
            return self._column(self._data.header.weight)
        import pyarrow as pa

        return self._converted(pa.table({"weight": np.ones(len(self._data))}))["weight"]

    def _column(self, name: str) -> Any:
        return self._columns((name,))[name]

    def _columns(self, names: tuple[str, ...]) -> Any:
        return self._converted(self._data.table.select(list(names)))

    def _converted(self, table: "pa.Table") -> Any:
        match self._kind:
            case "arrow":
                return table.combine_chunks()
            case "pandas":
                framework("pandas", "train() reads data.pandas")
                return table.to_pandas()
            case "polars":
                return framework("polars", "train() reads data.polars").from_arrow(table)
            case "numpy":
                return columns_of(table)

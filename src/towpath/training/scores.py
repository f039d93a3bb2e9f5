"""How good answers were: one table of answers beside the truth, and metrics as sums over its rows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import ProjectError
from towpath.project.declarations import OutputDeclaration, TrainingHeader
from towpath.sql import Query
from towpath.training.runs import Segment
from towpath.warehouse.engine import Engine

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Parts", "measured", "metrics_of", "scored", "segments_of"]

Parts = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Numerator and denominator of a metric, one value per row of ``scored``."""
_OWN = ("prediction", "actual", "label", "predicted_label", "weight")


def scored(
    table: "pa.Table", header: TrainingHeader, output: OutputDeclaration, answers: str = "prediction"
) -> "pa.Table":
    """The table ``scored`` that metrics read: answers beside the truth.

    Args:
        table: Labelled rows with their spine columns and a column of answers.
        header: Which column is what.
        output: What an answer is; the last of its classes is what a probability is of.
        answers: The column of answers: ``prediction``, or ``fallback:<name>``.

    Returns:
        ``prediction`` and ``actual`` (double; null where they are no numbers), ``label`` and ``predicted_label`` (text),
        ``weight`` (double), and every other column as it is, in the same row order. Of a ranking ``predicted_label`` is the
        first item, and ``items`` (list of text) has all of them in order.
    """
    import pyarrow as pa

    truth, answer = table.column(header.label), table.column(answers)
    actual, label = _number(truth), _text(truth)
    if output.kind == "probability" and output.classes:
        actual = pa.array(
            [None if value is None else float(value == output.classes[-1]) for value in label.to_pylist()]
        )
    weight = pa.array(np.ones(table.num_rows)) if header.weight is None else table.column(header.weight)
    own = {
        "prediction": _number(answer),
        "actual": actual,
        "label": label,
        "predicted_label": _text(answer),
        "weight": weight.cast(pa.float64()).fill_null(1.0),
    }
    if output.kind == "ranking":
        rankings = [None if items is None else [str(item) for item in items] for items in answer.to_pylist()]
        own["predicted_label"] = pa.array([items[0] if items else None for items in rankings], pa.string())
        own["items"] = pa.array(rankings, pa.list_(pa.string()))
    others = [name for name in table.column_names if name not in {*_OWN, *own}]
    return pa.table([*own.values(), *(table.column(name) for name in others)], names=[*own, *others])


def measured(engine: Engine, table: "pa.Table", metrics: Mapping[str, Query]) -> dict[str, Parts]:
    """Numerators and denominators of each metric, row by row; whoever wants a metric of some rows adds them up.

    Args:
        engine: Runs the SQL; its table ``scored`` is replaced.
        table: From `scored`.
        metrics: The SELECT of each, by name.

    Raises:
        ProjectError: A metric's SQL is refused, or does not give one row for each row.
    """
    engine.register("scored", table)
    found: dict[str, Parts] = {}
    for name, query in metrics.items():
        rows = engine.read(query)
        if rows.num_rows != table.num_rows or not {"numerator", "denominator"} <= set(rows.column_names):
            raise ProjectError(
                f"The metric '{name}' gives {rows.num_rows} rows of {', '.join(rows.column_names)} for {table.num_rows} rows.",
                query.path,
                "select … as numerator, … as denominator from scored",
            )
        found[name] = (_floats(rows.column("numerator")), _floats(rows.column("denominator")))
    return found


def metrics_of(parts: Mapping[str, Parts], rows: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Each metric over all rows, or over some; one that does not exist there (a ratio over zero) is left out.

    Args:
        parts: From `measured`.
        rows: Which rows, shape ``(n,)``.

    Example:
        >>> metrics_of({"wape": (np.array([2.0, 1.0]), np.array([10.0, 10.0])), "none": (np.ones(2), np.zeros(2))})
        {'wape': 0.15}
    """
    found: dict[str, float] = {}
    for name, (numerator, denominator) in parts.items():
        over = float(np.nansum(denominator if rows is None else denominator[rows]))
        value = float(np.nansum(numerator if rows is None else numerator[rows])) / over if over else np.nan
        if np.isfinite(value):
            found[name] = value
    return found


def segments_of(table: "pa.Table", header: TrainingHeader, parts: Mapping[str, Parts]) -> tuple[Segment, ...]:
    """The metrics of each value of each segment column, in the order of the values.

    Args:
        table: The rows, with the segment columns.
        header: Names them.
        parts: Metric → its numerators and denominators, in the order of the rows.
    """
    found: list[Segment] = []
    for column in header.segments:
        values = np.array(_text(table.column(column)).fill_null("").to_pylist(), dtype=object)
        for value in sorted(set(values.tolist())):
            rows = values == value
            found.append(Segment(column=column, value=value, rows=int(rows.sum()), metrics=metrics_of(parts, rows)))
    return tuple(found)


def _number(column: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return column.cast(pa.float64())
    if pa.types.is_boolean(column.type):
        return column.cast(pa.int8()).cast(pa.float64())
    return pa.nulls(len(column), pa.float64())


def _text(column: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_nested(column.type):
        return pa.nulls(len(column), pa.string())
    return column.cast(pa.string())


def _floats(column: Any) -> NDArray[np.float64]:
    import pyarrow as pa

    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)

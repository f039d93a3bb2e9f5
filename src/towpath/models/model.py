"""What serving, the gate and the batch path call: one loaded model, whatever wrote it."""

from collections import Counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from towpath.models.columns import Columns
from towpath.models.manifest import Field, Signature
from towpath.types import OutputKind

__all__ = ["Model", "Outputs", "classified", "kind_of", "output_fields"]

Outputs = dict[str, NDArray[Any]]
"""By name of the signature's outputs, the first is the prediction; the first dimension is the row."""


class Model(Protocol):
    """A loaded model. Calls may come from many threads at once.

    `inline` says that one row takes less than 1 ms (measured at load) in a data-only runtime of ours, so that it may be
    called in an event loop. `row_by_row` says that it has no code of a project's, which might look at all rows at once: what
    it answers to a row should be the same whatever stands beside it, and a trial may show that. `unseen` counts category values that training never saw, by column; the model gets null.
    """

    signature: Signature
    kind: OutputKind
    inline: bool
    row_by_row: bool
    format: str
    framework: str
    unseen: Counter[str]

    def predict(self, columns: Columns) -> Outputs:
        """Answer n rows.

        Raises:
            ModelError: The user's code failed, or gave what the signature does not promise.
        """
        ...

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """Call the function `name` of the version's ``model.py`` with the rows that ``predict`` would get.

        Raises:
            ModelError: There is none, it failed, or it gave other than one value per row.
        """
        ...

    def close(self) -> None:
        """Give memory back; calls that run still end well."""
        ...


def output_fields(kind: OutputKind, levels: tuple[str, ...] | None = None, width: int = 1) -> tuple[Field, ...]:
    """Name the outputs of a tabular model by what its prediction is.

    Args:
        kind: Of the prediction.
        levels: The labels of a classifier in the order of its probabilities.
        width: Values per row of a vector.

    Example:
        >>> [field.name for field in output_fields("class", ("no", "yes"))]
        ['prediction', 'probabilities']
    """
    if kind == "class" and levels:
        probabilities = Field(
            name="probabilities", type="double", shape=(-1, len(levels)), nullable=False, levels=levels
        )
        return (Field(name="prediction", type="string", nullable=False, levels=levels), probabilities)
    if kind in {"vector", "quantiles"} and width > 1:
        return (Field(name="prediction", type="double", shape=(-1, width), nullable=False),)
    return (Field(name="prediction", type="double", nullable=False),)


def kind_of(signature: Signature) -> OutputKind:
    """What the prediction of a signature is, where nobody declared it.

    Example:
        >>> kind_of(Signature(container="numpy", inputs=(), outputs=output_fields("class", ("no", "yes"))))
        'class'
    """
    first = signature.outputs[0]
    if signature.container == "tensors" and len(first.shape) > 1:
        return "tensors"
    if first.levels is not None or (len(signature.outputs) > 1 and first.type in {"string", "int64", "INT64", "BYTES"}):
        return "class"
    if first.type in {"string", "BYTES"}:
        return "text"
    return "vector" if len(first.shape) > 1 else "number"


def classified(kind: OutputKind, probabilities: NDArray[np.float64], labels: NDArray[Any] | None) -> Outputs:
    """Outputs of a classifier from its probabilities.

    Args:
        kind: ``probability`` gives that of the last class, ``class`` the likeliest label beside all probabilities.
        probabilities: Shape ``(n, classes)``, or ``(n,)`` for the second of two.
        labels: Shape ``(classes,)``; class numbers unless given.

    Example:
        >>> classified("class", np.array([0.9, 0.2]), np.array(["no", "yes"]))["prediction"].tolist()
        ['yes', 'no']
    """
    if probabilities.ndim == 1:
        if kind == "probability":
            return {"prediction": probabilities}
        probabilities = np.stack([1 - probabilities, probabilities], axis=1)
    if kind == "probability":
        return {"prediction": probabilities[:, -1]}
    best = probabilities.argmax(axis=1)
    return {"prediction": best if labels is None else labels[best], "probabilities": probabilities}

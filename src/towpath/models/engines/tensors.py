"""What engines of tensors share: a 2-D input of floats is columns, as are inputs of one value a row."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import FormatError, InputError, ModelError
from towpath.models.columns import Columns, Encoder, rows_in, tensor_dtype
from towpath.models.engines.timing import is_quick
from towpath.models.manifest import Field, Signature
from towpath.models.model import Outputs, kind_of
from towpath.types import OutputKind

__all__ = ["TensorModel"]

_WIDEST = 4_096
_FLOATS = frozenset({"FP32", "FP64"})
_COLUMN_TYPES = {
    "FP32": "double",
    "FP64": "double",
    "FP16": "double",
    "INT64": "int64",
    "INT32": "int64",
    "BYTES": "string",
}


class TensorModel(ABC):
    """A data-only runtime that is fed arrays by name.

    An engine opens the file, then calls `describe` with what the file says of itself, and gives `run`.
    """

    format: str
    framework: str
    called = ""
    """What the format is called in errors."""

    signature: Signature
    kind: OutputKind
    inline: bool
    row_by_row = True
    unseen: Counter[str]

    @abstractmethod
    def run(self, fed: Mapping[str, NDArray[Any]]) -> Sequence[Any]:
        """Answer n rows with the outputs in the order of the file's signature.

        Raises:
            InputError: The model cannot read this.
        """

    def describe(
        self,
        name: str,
        where: str,
        inputs: Sequence[Field],
        outputs: Sequence[Field],
        *,
        signature: Signature | None,
        kind: OutputKind | None,
    ) -> None:
        """Settle how it is called, and call it once with zeros where its shapes are known.

        Args:
            name: For errors.
            where: The file.
            inputs: As the file has them, the first dimension being the row.
            outputs: The same.
            signature: Of the version; a bare file has none.
            kind: What a prediction is, where it is declared.

        Raises:
            FormatError: The file has another number of inputs than the signature.
        """
        self._name = name
        self._fields = tuple(inputs)
        self.tensor = inputs[0].name if len(inputs) == 1 and _is_table(inputs[0]) else ""
        self._columns = not self.tensor and bool(inputs) and all(_is_column(field) for field in inputs)
        tabular = bool(self.tensor or self._columns)
        found = Signature(
            container="numpy" if tabular else "tensors",
            inputs=self._table(),
            outputs=tuple(_output(field) if tabular else field for field in outputs),
        )
        if signature is not None and len(signature.inputs) != len(found.inputs):
            raise FormatError(
                f"'{name}' has {len(found.inputs)} inputs in its file and {len(signature.inputs)} in its signature.",
                where=where,
                mend="publish the version again",
            )
        self.signature = found if signature is None else signature
        self._encoder = Encoder(self.signature.inputs)
        self.unseen = self._encoder.unseen
        self.inline = self._warm()
        self.kind = kind or kind_of(self.signature)

    def predict(self, columns: Columns) -> Outputs:
        """Answer n rows."""
        raw = self.run(self._fed(columns))
        rows = rows_in(columns)
        return {
            field.name: _flat(value, field, rows) for field, value in zip(self.signature.outputs, raw, strict=False)
        }

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """A bare file has no functions."""
        del columns
        raise ModelError(
            f"'{self._name}' is a bare {self.called} model and has no function '{name}'.", where="fallback"
        )

    def close(self) -> None:  # noqa: B027 - an engine has nothing to do here, and may
        """Leave the memory to the garbage collector: a call in another thread may still read it."""

    def _fed(self, columns: Columns) -> dict[str, NDArray[Any]]:
        if self.tensor:
            return {self.tensor: self._encoder.matrix(columns).astype(tensor_dtype(self._fields[0]), copy=False)}
        if self._columns:
            return {
                native.name: columns[field.name]
                .reshape(-1, *([1] * (len(native.shape) - 1)))
                .astype(tensor_dtype(native))
                for native, field in zip(self._fields, self.signature.inputs, strict=True)
            }
        return {field.name: np.asarray(columns[field.name], dtype=tensor_dtype(field)) for field in self._fields}

    def _table(self) -> tuple[Field, ...]:
        if self.tensor:
            return tuple(Field(name=f"f{number}", type="double") for number in range(self._fields[0].shape[1]))
        if self._columns:
            return tuple(
                Field(name=field.name, type=_COLUMN_TYPES[field.type], nullable=field.type in _FLOATS)
                for field in self._fields
            )
        return self._fields

    def _warm(self) -> bool:
        """Call once with zeros where the shape is known; a model of open shapes goes to a thread."""
        if any(size < 0 for field in self.signature.inputs for size in field.shape[1:]):
            return False
        blank: dict[str, NDArray[Any]] = {}
        for field in self.signature.inputs:
            text = field.type in {"string", "BYTES"}
            shape = (1, *field.shape[1:])
            blank[field.name] = np.full(shape, "", dtype=object) if text else np.zeros(shape)
        try:
            return is_quick(lambda: self.predict(blank))
        except InputError:
            return False


def _is_table(field: Field) -> bool:
    return field.type in _FLOATS and len(field.shape) == 2 and 1 <= field.shape[1] <= _WIDEST  # noqa: PLR2004


def _is_column(field: Field) -> bool:
    return field.type in _COLUMN_TYPES and field.shape[1:] in {(), (1,)}


def _output(field: Field) -> Field:
    return Field(name=field.name, type=field.type, nullable=False) if field.shape[1:] == (1,) else field


def _flat(value: Any, field: Field, rows: int) -> NDArray[Any]:
    array = np.asarray(value)
    if len(field.shape) == 1 and array.ndim == 2 and array.shape == (rows, 1):  # noqa: PLR2004 - a column of one
        array = array[:, 0]
    return array.astype(object) if array.dtype.kind in "SU" else array

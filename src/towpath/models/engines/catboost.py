"""CatBoost ``.cbm`` models through their own runtime, one thread a row."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import FormatError, ModelError
from towpath.models.columns import Columns, Encoder, rows_in
from towpath.models.engines.extra import framework
from towpath.models.engines.timing import is_quick
from towpath.models.manifest import Field, Signature
from towpath.models.model import Outputs, classified, kind_of, output_fields
from towpath.types import OutputKind

__all__ = ["CatBoost", "open_model"]

_CLASSIFIED = {"Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll"}


def open_model(path: Path, name: str) -> Any:
    """Load the file as a classifier where its loss is one, so that user code gets what it trained.

    Raises:
        ExtraError: CatBoost is not installed.
        FormatError: CatBoost refuses the file.
    """
    catboost = framework("catboost", f"'{name}' is a CatBoost model")
    try:
        model: Any = catboost.CatBoost().load_model(str(path))
        if _loss(model) in _CLASSIFIED:
            return catboost.CatBoostClassifier().load_model(str(path))
        return catboost.CatBoostRegressor().load_model(str(path))
    except catboost.CatBoostError as fault:
        said = str(fault).strip().splitlines()[-1]
        raise FormatError(f"CatBoost refuses the file: {said}.", where=str(path), mend="write it again") from None


class CatBoost:
    """One CatBoost model."""

    format = "catboost"
    framework = "catboost"

    def __init__(
        self, path: Path, *, name: str, signature: Signature | None = None, kind: OutputKind | None = None
    ) -> None:
        self._model = open_model(path, name)
        self._name = name
        self._classifies = hasattr(self._model, "predict_proba")
        found = _signature(self._model, classifies=self._classifies)
        self.signature = signature or found
        self.kind: OutputKind = kind or kind_of(self.signature)
        if len(found.inputs) != len(self.signature.inputs):
            raise FormatError(
                f"'{name}' has {len(found.inputs)} features in its file and {len(self.signature.inputs)} in its signature.",
                where=str(path),
                mend="publish the version again",
            )
        self._encoder = Encoder(self.signature.inputs)
        self.unseen: Counter[str] = self._encoder.unseen
        self._text = [position for position, field in enumerate(found.inputs) if field.type == "string"]
        labels = getattr(self._model, "classes_", None) if self._classifies else None
        self._labels = None if labels is None else np.asarray(labels)
        if self._labels is not None and self._labels.dtype.kind in "SU":
            self._labels = self._labels.astype(object)
        blank = {field.name: np.array([None if field.type == "string" else 0.0]) for field in self.signature.inputs}
        self.row_by_row = True
        self.inline = is_quick(lambda: self.predict(blank))

    def predict(self, columns: Columns) -> Outputs:
        """Answer n rows."""
        rows = self._rows(columns)
        if self._classifies:
            return classified(self.kind, self._model.predict_proba(rows, thread_count=1), self._labels)
        raw = np.asarray(self._model.predict(rows, thread_count=1), dtype=np.float64)
        return {self.signature.outputs[0].name: raw}

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """A bare file has no functions."""
        del columns
        raise ModelError(f"'{self._name}' is a bare CatBoost file and has no function '{name}'.", where="fallback")

    def close(self) -> None:
        """Leave the memory to the garbage collector: a call in another thread may still read it."""

    def _rows(self, columns: Columns) -> NDArray[Any]:
        """Floats as they are; where there are categories, objects with their text, which CatBoost hashes itself."""
        if not self._text:
            return self._encoder.matrix(columns)
        rows = np.empty((rows_in(columns), len(self.signature.inputs)), dtype=object)
        for position, field in enumerate(self.signature.inputs):
            column = columns[field.name]
            if position in self._text:
                if field.levels is not None:
                    self._encoder.known(field, column)  # counts the unseen; CatBoost has its own way with them
                rows[:, position] = ["" if value is None else str(value) for value in column.tolist()]
            else:
                rows[:, position] = column
        return rows


def _signature(model: Any, *, classifies: bool) -> Signature:
    texts = set(model.get_cat_feature_indices()) | set(model.get_text_feature_indices())
    inputs = tuple(
        Field(name=str(name), type="string" if position in texts else "double")
        for position, name in enumerate(model.feature_names_)
    )
    levels = tuple(str(label) for label in model.classes_) if classifies else None
    return Signature(
        container="numpy", inputs=inputs, outputs=output_fields("class" if classifies else "number", levels)
    )


def _loss(model: Any) -> str:
    return str(model.get_all_params().get("loss_function", "")) or str(model.get_param("loss_function") or "")

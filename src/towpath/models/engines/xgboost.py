"""XGBoost JSON and UBJ models through ``Booster.inplace_predict``, which is safe from many threads."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import FormatError, ModelError
from towpath.models.columns import Columns, Encoder
from towpath.models.engines.extra import check_version, framework
from towpath.models.engines.timing import is_quick
from towpath.models.manifest import Field, Signature
from towpath.models.model import Outputs, classified, kind_of, output_fields
from towpath.types import OutputKind

__all__ = ["XgBoost", "open_booster"]


def open_booster(path: Path, name: str) -> Any:
    """Load the file with one thread, as single rows want it.

    Raises:
        ExtraError: XGBoost is not installed.
        FormatError: XGBoost refuses the file.
    """
    xgboost = framework("xgboost", f"'{name}' is an XGBoost model")
    booster: Any = xgboost.Booster()
    data = path.read_bytes()
    try:
        booster.load_model(bytearray(data))
    except (xgboost.core.XGBoostError, ValueError, UnicodeDecodeError) as fault:
        said = str(fault).strip().splitlines()
        raise FormatError(
            f"XGBoost refuses the file: {said[0] if said else type(fault).__name__}.",
            where=str(path),
            mend="write it again",
        ) from None
    booster.set_param({"nthread": 1})
    return booster


class XgBoost:
    """One XGBoost model."""

    format = "xgboost"
    framework = "xgboost"

    def __init__(
        self, path: Path, *, name: str, signature: Signature | None = None, kind: OutputKind | None = None
    ) -> None:
        self._booster = open_booster(path, name)
        config: Any = json.loads(self._booster.save_config())
        check_version(name, "xgboost", ".".join(str(part) for part in _wrote(path)))
        found, found_kind = _signature(self._booster, config)
        self.signature = signature or found
        self.kind: OutputKind = kind or (kind_of(signature) if signature else found_kind)
        self._name = name
        self._encoder = Encoder(self.signature.inputs)
        self.unseen: Counter[str] = self._encoder.unseen
        self._columns = self._booster.num_features()
        if self._columns != len(self.signature.inputs):
            raise FormatError(
                f"'{name}' has {self._columns} features in its file and {len(self.signature.inputs)} in its signature.",
                where=str(path),
                mend="publish the version again",
            )
        best = self._booster.attr("best_iteration")
        self._rounds = (0, int(best) + 1) if best is not None else (0, 0)
        levels = self.signature.outputs[0].levels
        self._labels = None if levels is None else np.array(levels, dtype=object)
        self._classes = found_kind == "class"
        self.row_by_row = True
        self.inline = is_quick(lambda: self._raw(np.zeros((1, self._columns))))

    def predict(self, columns: Columns) -> Outputs:
        """Answer n rows."""
        raw = self._raw(self._encoder.matrix(columns))
        if self._labels is None and not self._classes:
            return {self.signature.outputs[0].name: raw}
        return classified(self.kind, raw, self._labels)

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """A bare file has no functions."""
        del columns
        raise ModelError(f"'{self._name}' is a bare XGBoost file and has no function '{name}'.", where="fallback")

    def close(self) -> None:
        """Leave the memory to the garbage collector: a call in another thread may still read it."""

    def _raw(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        out = self._booster.inplace_predict(values, iteration_range=self._rounds, validate_features=False)
        return np.asarray(out, dtype=np.float64)


def _signature(booster: Any, config: Any) -> tuple[Signature, OutputKind]:
    count = int(booster.num_features())
    names = booster.feature_names or [f"f{position}" for position in range(count)]
    types = booster.feature_types or ["float"] * count
    inputs = tuple(
        Field(name=name, type="int64" if kind in {"int", "i"} else "double")
        for name, kind in zip(names, types, strict=True)
    )
    objective = str(config["learner"]["objective"]["name"])
    classes = int(config["learner"]["learner_model_param"].get("num_class", "0"))
    if objective == "multi:softprob":
        labels = tuple(str(number) for number in range(classes))
        return Signature(container="numpy", inputs=inputs, outputs=output_fields("class", labels)), "class"
    kind: OutputKind = "probability" if objective in {"binary:logistic", "reg:logistic"} else "number"
    return Signature(container="numpy", inputs=inputs, outputs=output_fields(kind)), kind


def _wrote(path: Path) -> list[int]:
    """The version of XGBoost that wrote the file stands in its last bytes, in JSON and UBJ alike."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 64))
        tail = file.read()
    _, found, after = tail.rpartition(b"version")
    if not found:
        return []
    if after.startswith(b'"'):
        digits = after[after.find(b"[") + 1 : after.find(b"]")].split(b",")
        return [int(digit) for digit in digits if digit.strip().isdigit()]
    # UBJ: [ then a count of three small integers, each behind its marker i
    numbers = [after[at + 1] for at in range(len(after) - 1) if after[at : at + 1] == b"i"]
    return numbers[-3:]

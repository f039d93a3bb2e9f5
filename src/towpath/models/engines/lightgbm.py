"""LightGBM text models through LightGBM's own C interface.

What one row of 20 floats over 200 trees of 31 leaves costs (2 cores, LightGBM 4.7):

=====================================================  ========
``Booster.predict`` (with or without ``num_threads=1``)   21 µs
``LGBM_BoosterPredictForMatSingleRow``                     7.8 µs
``LGBM_BoosterPredictForMatSingleRowFast``                 3.5 µs
the same, with an output array of its own per call         5.8 µs
=====================================================  ========

So single rows go through the last one. The C library is opened directly: the Python package imports scipy, and where they
are installed pandas and scikit-learn, for 0.5 s and more, and none of it is needed to predict.

Threads: since LightGBM 4.2 the configuration of the fast call owns its scratch space and a lock (microsoft/LightGBM#6024),
and each of our calls brings its own output, so that calls from many threads are safe. The calls keep the interpreter's lock
(``PyDLL``): 4 to 10 µs of work are cheaper than handing the lock over and waiting up to 5 ms to get it back.
"""

import ctypes
import importlib.util
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import ExtraError, FormatError, ModelError
from towpath.models.columns import Columns, Encoder
from towpath.models.engines.extra import framework
from towpath.models.engines.lightgbm_text import read_text
from towpath.models.engines.timing import is_quick
from towpath.models.manifest import Field, Signature
from towpath.models.model import Outputs, classified, kind_of, output_fields
from towpath.types import OutputKind

__all__ = ["LightGbm", "inspect", "open_booster", "open_library"]

_FLOAT64, _ROW_MAJOR, _NORMAL, _FROM_FIRST, _ALL = 1, 1, 0, 0, -1
_ROW_BY_ROW = 8
"""Up to here single calls beat one call for all (8 rows: 55 against 71 µs; 16: 145 against 150)."""


def inspect(text: str, where: str, *, proved: bool = False) -> tuple[Signature, OutputKind]:
    """Read the signature of a LightGBM text model from its head.

    Raises:
        FormatError: It is cut off, or a tree is not sound.
    """
    head = read_text(text, where, proved=proved)
    inputs = tuple(
        Field(name=name, type="string" if name in head.levels else "double", levels=head.levels.get(name))
        for name in head.names
    )
    if head.classes > 1:
        outputs = output_fields("class", tuple(str(number) for number in range(head.classes)))
        return Signature(container="numpy", inputs=inputs, outputs=outputs), "class"
    kind: OutputKind = "probability" if head.objective in {"binary", "cross_entropy"} else "number"
    return Signature(container="numpy", inputs=inputs, outputs=output_fields(kind)), kind


class LightGbm:
    """One LightGBM model, loaded from its text."""

    format = "lightgbm"
    framework = "lightgbm"

    def __init__(
        self, path: Path, *, name: str, signature: Signature | None = None, kind: OutputKind | None = None
    ) -> None:
        text = path.read_text("utf-8", "replace")
        found, found_kind = inspect(text, str(path), proved=signature is not None)
        self.signature = signature or found
        self.kind: OutputKind = kind or (kind_of(signature) if signature else found_kind)
        self._name = name
        self._native = open_library(f"'{name}' is a LightGBM model")
        self._handle = self._native.load(text, str(path))
        self._width = self._native.width(self._handle)
        if len(found.inputs) != len(self.signature.inputs):
            self.close()
            raise FormatError(
                f"'{name}' has {len(found.inputs)} features in its file and {len(self.signature.inputs)} in its signature.",
                where=str(path),
                mend="publish the version again",
            )
        self._encoder = Encoder(self.signature.inputs)
        self.unseen: Counter[str] = self._encoder.unseen
        self._labels = _labels(self.signature, self._width)
        self._columns = len(found.inputs)
        self._fast = self._native.fast(self._handle, self._columns)
        self.row_by_row = True
        self.inline = is_quick(lambda: self._raw(np.zeros((1, self._columns))))

    def predict(self, columns: Columns) -> Outputs:
        """Answer n rows."""
        raw = self._raw(self._encoder.matrix(columns))
        if self._labels is None and self._width == 1:
            return {"prediction": raw[:, 0]}
        return classified(self.kind, raw if self._width > 1 else raw[:, 0], self._labels)

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """A bare file has no functions."""
        del columns
        raise ModelError(f"'{self._name}' is a bare LightGBM file and has no function '{name}'.", where="fallback")

    def close(self) -> None:
        """Leave the memory to the garbage collector: a call in another thread may still read it."""

    def _raw(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.ascontiguousarray(values)
        rows = len(values)
        out = np.empty((rows, self._width), dtype=np.float64)
        if rows <= _ROW_BY_ROW:
            self._native.rows(self._fast, values, out)
        else:
            self._native.matrix(self._handle, values, out)
        return out

    def __del__(self) -> None:
        native = getattr(self, "_native", None)
        if native is not None:
            native.free(getattr(self, "_fast", None), getattr(self, "_handle", None))


class _Library:
    """The few calls of ``c_api.h`` that predicting takes."""

    def __init__(self, path: str) -> None:
        self._free_running = ctypes.CDLL(path)  # lets other threads run: long calls
        self._held = ctypes.PyDLL(path)  # keeps the interpreter's lock: single rows
        self._free_running.LGBM_GetLastError.restype = ctypes.c_char_p
        self._single = self._held.LGBM_BoosterPredictForMatSingleRowFast
        self._single.argtypes = [ctypes.c_void_p] * 4
        self._written = ctypes.c_int64()
        self._written_at = ctypes.addressof(self._written)
        """Where single rows write how many values they gave, which nobody reads; they hold the interpreter's lock."""

    def load(self, text: str, where: str) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        rounds = ctypes.c_int()
        code = self._free_running.LGBM_BoosterLoadModelFromString(
            text.encode(), ctypes.byref(rounds), ctypes.byref(handle)
        )
        if code:
            raise FormatError(f"LightGBM refuses the file: {self._said()}.", where=where, mend="write it again")
        return handle

    def width(self, handle: ctypes.c_void_p) -> int:
        classes = ctypes.c_int()
        self._check(self._free_running.LGBM_BoosterGetNumClasses(handle, ctypes.byref(classes)))
        return classes.value

    def fast(self, handle: ctypes.c_void_p, columns: int) -> ctypes.c_void_p:
        fast = ctypes.c_void_p()
        self._check(
            self._free_running.LGBM_BoosterPredictForMatSingleRowFastInit(
                handle,
                _NORMAL,
                _FROM_FIRST,
                _ALL,
                _FLOAT64,
                ctypes.c_int32(columns),
                b"num_threads=1",
                ctypes.byref(fast),
            )
        )
        return fast

    def rows(self, fast: ctypes.c_void_p, values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
        read, write = _address(values), _address(out)
        for row in range(len(values)):
            if self._single(fast, read + row * values.strides[0], self._written_at, write + row * out.strides[0]):
                self._check(1)

    def matrix(self, handle: ctypes.c_void_p, values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
        written = ctypes.c_int64()
        rows, columns = values.shape
        self._check(
            self._free_running.LGBM_BoosterPredictForMat(
                handle, ctypes.c_void_p(values.ctypes.data), _FLOAT64, ctypes.c_int32(rows), ctypes.c_int32(columns),
                _ROW_MAJOR, _NORMAL, _FROM_FIRST, _ALL, b"", ctypes.byref(written), ctypes.c_void_p(out.ctypes.data),
            )
        )  # fmt: skip

    def free(self, fast: ctypes.c_void_p | None, handle: ctypes.c_void_p | None) -> None:
        if fast is not None:
            self._free_running.LGBM_FastConfigFree(fast)
        if handle is not None:
            self._free_running.LGBM_BoosterFree(handle)

    def _check(self, code: int) -> None:
        if code:
            raise ModelError(f"LightGBM failed: {self._said()}.")

    def _said(self) -> str:
        return bytes(self._free_running.LGBM_GetLastError()).decode("utf-8", "replace")


def _address(array: NDArray[np.float64]) -> int:
    """Where the values lie; numpy's own way makes three objects, which takes a tenth of the time of a row."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # pyright: ignore[reportArgumentType] - it is a buffer
    except (TypeError, ValueError):  # it may not be written to, or has no values
        return array.ctypes.data


def open_library(what: str) -> _Library:
    """Open LightGBM's C library, without importing the Python package.

    Raises:
        ExtraError: LightGBM is not installed.
    """
    spec = importlib.util.find_spec("lightgbm")
    if spec is None or not spec.submodule_search_locations:
        raise ExtraError(f"{what}, and lightgbm is not installed.", mend="uv add 'towpath[lightgbm]'")
    folder = Path(next(iter(spec.submodule_search_locations)))
    suffix = {"darwin": "lib_lightgbm.dylib", "win32": "lib_lightgbm.dll"}.get(sys.platform, "lib_lightgbm.so")
    for place in (folder / "lib" / suffix, folder / "bin" / suffix, folder / suffix):
        if place.is_file():
            return _library(str(place))
    raise ExtraError(f"{what}, and '{folder}' has no {suffix}.", mend="uv add 'towpath[lightgbm]' --reinstall")


@cache
def _library(path: str) -> _Library:
    return _Library(path)


def _labels(signature: Signature, width: int) -> NDArray[Any] | None:
    levels = signature.outputs[0].levels
    if levels is None:
        return np.arange(width) if width > 1 else None
    return np.array(levels, dtype=object)


def open_booster(path: Path, name: str) -> Any:
    """The Booster of the Python package, for user code that is called with it.

    Raises:
        ExtraError: LightGBM is not installed.
    """
    return framework("lightgbm", f"'{name}' is a LightGBM model").Booster(model_file=str(path))

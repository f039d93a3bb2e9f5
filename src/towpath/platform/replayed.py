"""A fallback chain on the held-out rows: each link is asked as serving would ask it, so that the gate can judge it."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from towpath.errors import TowpathError
from towpath.features.lock import called
from towpath.gate.fallbacks import FallbackCheck, check_fallback
from towpath.gate.output import wrong_rows
from towpath.platform.as_trained import AsTrained
from towpath.types import duration

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from towpath.models import Model
    from towpath.models.manifest import Manifest
    from towpath.platform.lifecycle import ModelHandle
    from towpath.project.declarations import FallbackDeclaration

__all__ = ["Replay"]


_HEURISTICS = frozenset({"function", "constant", "sql"})


class _Tried(NamedTuple):
    values: "NDArray[Any] | None"
    error: str = ""
    one_row_ms: float | None = None
    nothing: str = ""
    """Why there is nothing to try yet, which is no fault."""


class Replay:
    """Asks the links of one candidate's chain about its held-out rows.

    Args:
        handle: The model.
        model: The candidate, loaded.
        manifest: Of the candidate.
        holdout: The labelled rows, with their features.
        answers: The candidate's own.
        champion: The champion's, where there is one; the version before, once the candidate is promoted.
        others: Model and version (none for its champion) → answers to the same rows, None where there is nobody.
    """

    def __init__(
        self,
        handle: "ModelHandle",
        model: "Model",
        manifest: "Manifest",
        holdout: "pa.Table",
        answers: "NDArray[Any]",
        champion: "NDArray[Any] | None",
        others: "Callable[[str, int | None], NDArray[Any] | None]",
    ) -> None:
        self._handle = handle
        self._model = model
        self._manifest = manifest
        self._holdout = holdout
        self._answers = answers
        self._champion = champion
        self._others = others

    def chain(self, columns: "Mapping[str, NDArray[Any]]") -> "tuple[tuple[FallbackCheck, ...], NDArray[Any] | None]":
        """Each link on its own, and what the heuristics of the chain answer: the first of them that has an allowed answer.

        Other versions and models are tried, and are none: to be better than them is asked elsewhere.
        """
        rows, output = self._holdout.num_rows, self._manifest.output
        chain: NDArray[Any] | None = None
        open_rows = np.ones(rows, dtype=bool)
        checks: list[FallbackCheck] = []
        for link in self._manifest.fallback:
            tried = self._try(link, columns)
            if tried.nothing:
                checks.append(FallbackCheck(name=link.name, passed=True, detail=tried.nothing))
                continue
            values, good = tried.values, np.zeros(0, dtype=bool)
            if values is not None and len(values) == rows:
                values = _one_a_row(values)
                good = ~wrong_rows(values, output)
            # A link may leave rows to the next one; what it must not do is answer all of them wrongly, or too late.
            shown = _filled(values, good) if values is not None and good.any() else values
            check = check_fallback(
                link, output, rows=rows, values=shown, error=tried.error, one_row_ms=tried.one_row_ms
            )
            checks.append(check if good.all() else _said_of(check, int(good.sum()), rows))
            if values is None or not good.size or link.kinds[0] not in _HEURISTICS:
                continue
            if chain is None:
                number = values.dtype.kind in "fiub"
                chain = np.full(values.shape, np.nan if number else None, dtype=np.float64 if number else object)
            if chain.shape == values.shape:
                take = open_rows & good
                chain[take] = values[take]
                open_rows &= ~good
        return tuple(checks), chain

    def _try(self, link: "FallbackDeclaration", columns: "Mapping[str, NDArray[Any]]") -> _Tried:
        if link.constant is not None:
            return _Tried(np.full(self._holdout.num_rows, link.constant))
        try:
            if link.function is not None:
                return self._function(link.function, columns)
            if link.sql is not None:
                values = self._feature(link.sql)
                none = wrong_rows(_one_a_row(values), self._manifest.output).all()
                return _Tried(
                    None if none else values, f"'{link.sql}' has a value for none of the rows" if none else ""
                )
            if link.last is not None:
                values = self._earlier(duration(link.last).total_seconds())
                none = wrong_rows(values, self._manifest.output).all()
                return _Tried(values, nothing=f"no held-out key comes twice within {link.last}" if none else "")
            values = self._other(link)
        except TowpathError as failed:
            return _Tried(None, failed.what)
        who = f"model '{link.model}' has no champion" if link.model is not None else "there is no version before"
        return _Tried(values, nothing="" if values is not None else f"{who} yet; the next link is asked")

    def _function(self, name: str, columns: "Mapping[str, NDArray[Any]]") -> _Tried:
        one_row = {column: values[:1] for column, values in columns.items()}
        values = self._model.fallback(name, columns)
        self._model.fallback(name, one_row)
        started = time.perf_counter()
        self._model.fallback(name, one_row)
        return _Tried(values, one_row_ms=(time.perf_counter() - started) * 1e3)

    def _other(self, link: "FallbackDeclaration") -> "NDArray[Any] | None":
        if link.model is not None:
            return self._others(link.model, None)
        return self._champion if link.version == "previous" else self._others(self._handle.name, link.version)

    def _feature(self, name: str) -> "NDArray[Any]":
        """The column as it was known at each row's moment; NaN or None where there was no row."""
        from towpath.models import columns_of

        manifest, own = self._manifest, self._manifest.project
        spine = self._holdout.select([n for n in self._holdout.column_names if "." not in n and ":" not in n])
        assert manifest.time is not None
        view = name.removeprefix(f"{own}/").rpartition(".")[0]
        locks = [lock for lock in manifest.fallback_features if called(lock, own) == view]
        trained = AsTrained(self._handle.platform, locks, own)
        table = trained.joined(spine, keys=manifest.entity, time=manifest.time)
        return columns_of(trained.filled(table).select(trained.names))[name.removeprefix(f"{own}/")]

    def _earlier(self, age_s: float) -> "NDArray[Any]":
        """What the candidate answered to the same key at its last moment before, no longer ago than that."""
        manifest = self._manifest
        assert manifest.time is not None
        times = self._holdout.column(manifest.time).to_numpy().astype("datetime64[us]").astype(np.int64)
        keys = list(zip(*(self._holdout.column(name).to_pylist() for name in manifest.entity), strict=True))
        number = self._answers.dtype.kind in "fiub"
        found = np.full(self._answers.shape, np.nan if number else None, dtype=np.float64 if number else object)
        last: dict[Any, tuple[int, int]] = {}
        for row in np.argsort(times, kind="stable").tolist():
            before = last.get(keys[row])
            if before is not None and before[0] < times[row] <= before[0] + age_s * 1e6:
                found[row] = self._answers[before[1]]
            last[keys[row]] = (int(times[row]), row)
        return found


def _said_of(check: FallbackCheck, good: int, rows: int) -> FallbackCheck:
    """A link that answered some rows passes, and says how many."""
    if not check.passed:
        return check
    return FallbackCheck(name=check.name, passed=True, detail=f"answered {good:,} of {rows:,} rows")


def _one_a_row(values: "NDArray[Any]") -> "NDArray[Any]":
    """Lists of text or items as one object a row, whether they came as a matrix or as lists."""
    if values.ndim == 1 or values.dtype.kind in "fiub":
        return values
    rows = np.empty(len(values), dtype=object)
    for place, row in enumerate(values.tolist()):
        rows[place] = row
    return rows


def _filled(values: "NDArray[Any]", good: "NDArray[np.bool_]") -> "NDArray[Any]":
    """The rows that are no answer, with the first one that is."""
    shown, first = values.copy(), values[int(good.argmax())]
    for row in np.flatnonzero(~good):
        shown[row] = first
    return shown

"""Statistics of each version as Triton's clients ask for them: counted and timed, all workers added up.

A worker counts in its own memory, which costs a request less than a microsecond, and writes its counts down with each poll;
whoever is asked adds what the others wrote last. A worker that takes a dead one's place goes on from there.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.clock import Clock, now_us
from towpath.models.columns import Matrix, rows_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from towpath.models.manifest import Signature
    from towpath.serving.answered import Answered
    from towpath.serving.deployment import Deployment
    from towpath.serving.served import Columns, LoadedModel, Served

__all__ = ["Counts", "Executions", "Statistics", "Timed", "Timing"]

_BATCH_SIZES = 64
"""Sizes that are told apart; those that are met later are counted with the largest known size below them."""
_FAILURES = frozenset({"down", "slow", "wrong", "overloaded", "features"})


class Timing(msgspec.Struct):
    """How often, and how long altogether."""

    count: int = 0
    ns: int = 0

    def add(self, other: "Timing") -> None:
        """Take another's in."""
        self.count += other.count
        self.ns += other.ns


class Executions(msgspec.Struct):
    """Calls of a model's own predict, by number of rows."""

    batches: dict[int, Timing] = {}

    def add(self, other: "Executions") -> None:
        """Take another's in."""
        for size, timing in other.batches.items():
            self.batches.setdefault(size, Timing()).add(timing)

    @property
    def all(self) -> Timing:
        """Whatever their size."""
        whole = Timing()
        for timing in self.batches.values():
            whole.add(timing)
        return whole


class Counts(msgspec.Struct):
    """What one version did."""

    success: Timing = msgspec.field(default_factory=Timing)
    """Answers in which it answered a row."""
    fail: Timing = msgspec.field(default_factory=Timing)
    """Answers in which it was the champion, was to answer a row, and could not."""
    queue: Timing = msgspec.field(default_factory=Timing)
    """How long they waited for a thread; a model that is called in the event loop has no queue."""
    rows: int = 0
    """That it answered."""
    last_s: float = 0.0
    """When it answered last, of `time.perf_counter`, which all processes of a machine share."""
    executions: Executions = msgspec.field(default_factory=Executions)

    def add(self, other: "Counts") -> None:
        """Take another worker's in."""
        self.success.add(other.success)
        self.fail.add(other.fail)
        self.queue.add(other.queue)
        self.rows += other.rows
        self.last_s = max(self.last_s, other.last_s)
        self.executions.add(other.executions)


class Timed:
    """A model whose calls are counted.

    Args:
        model: The loaded model.
    """

    def __init__(self, model: "LoadedModel") -> None:
        self._model = model
        self._batches: dict[int, list[int]] = {}
        """Rows → calls and nanoseconds."""
        self._lock = Lock()
        self.predict: Callable[[Columns], dict[str, NDArray[Any]]] = self._counted(model.predict)
        self.close: Callable[[], None] = model.close
        self.signature: Signature = model.signature
        self.inline: bool = model.inline
        self.row_by_row: bool = model.row_by_row

    def executions(self) -> Executions:
        """A copy of what was counted so far."""
        with self._lock:
            return Executions({rows: Timing(*batch) for rows, batch in self._batches.items()})

    def _counted(
        self, predict: "Callable[[Columns], dict[str, NDArray[Any]]]"
    ) -> "Callable[[Columns], dict[str, NDArray[Any]]]":
        """The same, counted; a call that raises is an execution, too. A closure, as this is on the way of every request."""
        batches, lock, now_ns = self._batches, self._lock, time.perf_counter_ns

        def timed(columns: "Columns") -> "dict[str, NDArray[Any]]":
            began = now_ns()
            try:
                return predict(columns)
            finally:
                took = now_ns() - began
                rows = columns.array.shape[0] if type(columns) is Matrix else rows_in(columns)
                with lock:
                    batch = batches.get(rows) or self._new_batch(rows)
                    batch[0] += 1
                    batch[1] += took

        return timed

    def _new_batch(self, rows: int) -> list[int]:
        known = self._batches
        if len(known) >= _BATCH_SIZES:
            rows = max((size for size in known if size < rows), default=min(known))
        return known.setdefault(rows, [0, 0])

    def fallback(self, name: str, columns: "Columns") -> "NDArray[Any]":
        """What a function of ``model.py`` answers instead; that is no execution of the model."""
        return self._model.fallback(name, columns)

    def __getattr__(self, name: str) -> Any:
        """What else it has."""
        return getattr(self._model, name)


class Statistics:
    """The counts of one worker, and of its neighbours.

    Args:
        folder: Shared by the workers of one server; none for a single one.
        slot: Of this worker.
        clock: Says when a version answered last.
    """

    def __init__(self, folder: Path | None = None, slot: int = 0, *, clock: Clock) -> None:
        self._folder = folder
        self._own = f"statistics-{slot}.json"
        self._clock = clock
        self._counts: dict[tuple[str, int], Counts] = {}
        self._before = _read(folder / self._own) if folder is not None else {}
        self._quick: dict[tuple[str, int | None], list[float]] = {}
        """Model and version → answers, milliseconds, the last one's moment: of the plain requests."""
        self._written = b""

    def answered(self, deployment: "Deployment", answered: "Answered", waited_s: float = 0.0) -> None:
        """Note an answer.

        Args:
            deployment: Whose it is.
            answered: The answer; not one row of it need have one.
            waited_s: How long its model's call waited for a thread.
        """
        if answered.count == 1 and answered.reasons[0] == "ok" and not waited_s:
            quick = self._quick.get((answered.model, answered.versions[0]))
            if quick is not None:  # the plain request: one row, inline; added up when somebody asks
                quick[0] += 1
                quick[1] += answered.latency_ms
                quick[2] = time.perf_counter()
                return
            if answered.versions[0] is not None:
                self._quick[answered.model, answered.versions[0]] = [0, 0.0, 0.0]
        ns = int(answered.latency_ms * 1e6)
        by_version: dict[int, int] = {}
        for number in answered.versions:
            if number is not None:
                by_version[number] = by_version.get(number, 0) + 1
        for number, rows in by_version.items():
            counts = self._counts.get((answered.model, number)) or self._new(answered.model, number)
            counts.rows += rows
            self._succeeded(counts, ns, waited_s)
        champion = deployment.policy.state.champion
        if champion is not None and not _FAILURES.isdisjoint(answered.reasons):
            fail = (self._counts.get((answered.model, champion)) or self._new(answered.model, champion)).fail
            fail.count += 1
            fail.ns += ns

    def of(self, deployments: Iterable["Deployment"], version: int | None = None) -> list[dict[str, Any]]:
        """All workers added up, for each version that is loaded here, as ``ModelStatistics`` of the protocol says it.

        Args:
            deployments: Which models.
            version: Only this one.
        """
        now_ms = now_us(self._clock) // 1_000
        others = [*self._neighbours()]
        found: list[dict[str, Any]] = []
        for one in deployments:
            for number, served in sorted(one.versions.items()):
                if version is None or number == version:
                    counts = self._own_counts(one.model, number, served)
                    for other in others:
                        counts.add(other.get(f"{one.model}@{number}", Counts()))
                    ago_ms = round((time.perf_counter() - counts.last_s) * 1e3)
                    found.append(_form(one.model, number, counts, now_ms - ago_ms if counts.last_s else 0))
        return found

    def write(self, live: Mapping[str, "Deployment"]) -> None:
        """Write this worker's counts down where its neighbours read them; nothing where it is alone, or nothing happened."""
        if self._folder is None:
            return
        kept = {(one.model, number): served for one in live.values() for number, served in one.versions.items()}
        text = msgspec.json.encode({f"{m}@{n}": self._own_counts(m, n, served) for (m, n), served in kept.items()})
        for key in [key for key in list(self._counts) if key not in kept]:
            self._counts.pop(key, None)
            self._quick.pop(key, None)
        if text != self._written:
            beside = self._folder / f"{self._own}.new"
            with contextlib.suppress(OSError):  # a full disk costs statistics, and no answer
                beside.write_bytes(text)
                beside.replace(self._folder / self._own)
                self._written = text

    def _own_counts(self, model: str, version: int, served: "Served") -> Counts:
        counts = Counts()
        counts.add(Counts(executions=served.timed.executions()))
        counts.add(self._counts.get((model, version), Counts()))
        plain, plain_ms, last_s = self._quick.get((model, version), (0, 0.0, 0.0))
        whole = Timing(int(plain), int(plain_ms * 1e6))
        counts.add(Counts(success=whole, rows=int(plain), last_s=last_s))
        counts.add(self._before.get(f"{model}@{version}", Counts()))
        return counts

    def _neighbours(self) -> Iterator[Mapping[str, Counts]]:
        if self._folder is not None:
            for path in self._folder.glob("statistics-*.json"):
                if path.name != self._own:
                    yield _read(path)

    def _new(self, model: str, version: int) -> Counts:
        return self._counts.setdefault((model, version), Counts())

    def _succeeded(self, counts: Counts, ns: int, waited_s: float) -> None:
        counts.success.count += 1
        counts.success.ns += ns
        counts.last_s = time.perf_counter()
        if waited_s:
            counts.queue.count += 1
            counts.queue.ns += int(waited_s * 1e9)


def _form(model: str, version: int, counts: Counts, last_ms: int) -> dict[str, Any]:
    """What Triton calls computing the input and the output is not timed here and stands at 0, as does its cache."""
    nothing = {"count": 0, "ns": 0}
    whole = counts.executions.all
    return {
        "name": model,
        "version": str(version),
        "last_inference": last_ms,
        "inference_count": counts.rows,
        "execution_count": whole.count,
        "inference_stats": {
            **{name: msgspec.to_builtins(getattr(counts, name)) for name in ("success", "fail", "queue")},
            "compute_input": nothing,
            "compute_infer": msgspec.to_builtins(whole),
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": nothing,
                "compute_infer": msgspec.to_builtins(timing),
                "compute_output": nothing,
            }
            for size, timing in sorted(counts.executions.batches.items())
        ],
    }


def _read(path: Path) -> Mapping[str, Counts]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Counts])
    except (OSError, msgspec.DecodeError):
        return {}

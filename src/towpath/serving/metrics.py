"""What Prometheus scrapes: counts and latencies, each child bound once."""

import os
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from towpath.serving.slots import SlotFiles
from towpath.types import Reason

__all__ = ["Meter"]

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1_024)
_LABEL_SETS = 1_000
"""Beyond so many label sets the rest is counted as ``other``: a caller must not be able to fill the memory."""


class Meter:
    """Counts answers.

    Args:
        folder: Shared by the workers of one server, whose counts are then added up; none for a single process.
        slot: Of this worker: its file is taken over by the worker that replaces it, so that counts never fall.
    """

    def __init__(self, folder: Path | None = None, slot: int = 0) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            # prometheus-client decides by this variable, when it is imported, whether it adds up processes
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._folder = folder
        if folder is not None:
            from prometheus_client import metrics

            cast("Any", metrics).values.ValueClass = SlotFiles(folder, slot).value()
        self.registry: CollectorRegistry = CollectorRegistry()
        labels = ("model", "version", "source", "reason", "consumer")
        self._rows: Counter = Counter("towpath_rows", "Rows answered.", labels, registry=self.registry)
        self._requests: Counter = Counter(
            "towpath_requests", "Requests answered.", ("model", "protocol", "consumer"), registry=self.registry
        )
        self._latency: Histogram = Histogram(
            "towpath_answer_seconds",
            "Time of a whole answer.",
            ("model", "protocol"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._batches: Histogram = Histogram(
            "towpath_batch_rows",
            "Rows of several requests that one call of the model answered; of models whose requests are joined.",
            ("model", "version"),
            buckets=_BATCH_ROWS,
            registry=self.registry,
        )
        self._errors: Counter = Counter(
            "towpath_refused", "Requests refused.", ("code", "consumer"), registry=self.registry
        )
        self._on_demand: Counter = Counter(
            "towpath_on_demand_missing",
            "Rows for which an on-demand feature was not computed.",
            ("model", "view", "why"),
            registry=self.registry,
        )
        self._without_features: Counter = Counter(
            "towpath_online_reads_failed",
            "Reads that found the online store away or slow, so that all looked-up features were missing.",
            ("model",),
            registry=self.registry,
        )
        self._pushed: Counter = Counter(
            "towpath_pushed_rows",
            "Feature rows that were pushed: accepted, unchanged (they stand online as they are said), or refused.",
            ("view", "outcome", "consumer"),
            registry=self.registry,
        )
        self._outcomes: Counter = Counter(
            "towpath_outcomes", "Outcomes kept.", ("model", "consumer"), registry=self.registry
        )
        self._ready = Gauge(
            "towpath_ready", "Workers that are ready.", registry=self.registry, multiprocess_mode="livesum"
        )
        self._able = Gauge(
            "towpath_model_ready",
            "Whether the champion is loaded, proven and its circuit closed, in every worker.",
            ("model",),
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self._champion = Gauge(
            "towpath_champion",
            "Number of the version that is champion; 0 for none.",
            ("model", "project", "team", "tier"),
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self._wait = Gauge(
            "towpath_waiting_seconds",
            "How long what waits for a thread will take, judging by the last calls; of the worker where it is longest.",
            ("model", "version"),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._dropped = Gauge(
            "towpath_journal_dropped",
            "Journal records dropped.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._abandoned = Gauge(
            "towpath_abandoned_calls",
            "Calls left behind past their deadline.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._breakers = Gauge(
            "towpath_circuit_open",
            "Workers in which the circuit of a version is not closed.",
            ("model", "version"),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._forms = Gauge(
            "towpath_form",
            "Workers in which a version answers in this form, such as onnx where `serving.compile` asks for it.",
            ("model", "version", "form"),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._changes = Gauge(
            "towpath_circuit_changes",
            "How often the circuit of a version changed its state, in living workers.",
            ("model", "version"),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._waiting = Gauge(
            "towpath_waiting_rows",
            "Rows that wait for a thread.",
            ("model", "version"),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._processes = Gauge(
            "towpath_model_processes",
            "Processes of models in their own that answer.",
            ("model", "version"),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._restarts = Gauge(
            "towpath_model_process_ends",
            "How often the process of a model ended and another took its place, in living workers.",
            ("model", "version"),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._children: dict[tuple[Any, ...], Any] = {}
        self._notes: dict[tuple[str, str, str], Callable[[float], None]] = {}
        self._row_children: dict[tuple[Any, ...], Any] = {}
        self._versions: dict[tuple[str, str], str] = {}
        """Model and version → the form in which it answers."""

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Metric, without the ending of counters, → the names of its labels."""
        found = [one for one in vars(self).values() if hasattr(one, "_labelnames")]
        return {one._name: tuple(one._labelnames) for one in found}  # noqa: SLF001 - it has no door to them

    def rows(self, model: str, version: int | None, source: str, reason: Reason, consumer: str, count: int) -> None:
        """Count rows of one origin."""
        key = (model, version, source, reason, consumer)
        child = self._row_children.get(key)
        if child is None:
            labels = (model, "" if version is None else str(version), source, reason)
            child = self._bound(self._row_children, key, self._rows, labels, consumer)
        child._value.inc(count)  # noqa: SLF001 - `inc` looks first whether a counter may count

    def answered(self, model: str, protocol: str, seconds: float, consumer: str) -> None:
        """Count a request, and note how long its answer took."""
        key = (model, protocol, consumer)
        note = self._notes.get(key)
        if note is None:
            requests = self._bound(self._children, ("requests", *key), self._requests, key[:2], consumer)
            note = _noting(requests, self._latency.labels(model, protocol))
            if len(self._notes) < _LABEL_SETS:
                self._notes[key] = note
        note(seconds)

    def joined(self, model: str, version: int | None, rows: int) -> None:
        """Note how many rows of several requests one call answered."""
        key = ("joined", model, version)
        child = self._children.get(key)
        if child is None:
            labels = (model, "" if version is None else str(version))
            child = self._children[key] = self._batches.labels(*labels)
        child.observe(rows)

    def refused(self, code: str, consumer: str) -> None:
        """Count a request that got an error instead of an answer; `consumer` is empty where nobody was recognised."""
        key = ("refused", code, consumer)
        child = self._children.get(key) or self._bound(self._children, key, self._errors, (code,), consumer)
        child.inc()

    def outcomes(self, model: str, consumer: str, rows: int) -> None:
        """Count outcomes that were kept."""
        key = ("outcomes", model, consumer)
        child = self._children.get(key) or self._bound(self._children, key, self._outcomes, (model,), consumer)
        child.inc(rows)

    def on_demand_missing(self, model: str, view: str, why: str, rows: int) -> None:
        """Count rows that an on-demand function gave nothing for."""
        self._on_demand.labels(model, view, why).inc(rows)

    def without_features(self, model: str) -> None:
        """Count a read that the online store did not answer."""
        self._without_features.labels(model).inc()

    def pushed(self, view: str, consumer: str, *, accepted: int, unchanged: int, refused: int) -> None:
        """Count the rows of one push by what became of them."""
        for outcome, rows in (("accepted", accepted), ("unchanged", unchanged), ("refused", refused)):
            key = ("pushed", view, outcome, consumer)
            child = self._children.get(key) or self._bound(self._children, key, self._pushed, key[1:3], consumer)
            child.inc(rows)

    def state(self, *, dropped: int, abandoned: int) -> None:
        """Note what is counted elsewhere."""
        self._dropped.set(dropped)
        self._abandoned.set(abandoned)

    def worker(self, *, ready: bool) -> None:
        """Note whether callers should come."""
        self._ready.set(ready)

    def model(self, model: str, *, project: str, team: str, tier: str, champion: int | None, ready: bool) -> None:
        """Note who answers for a model."""
        self._able.labels(model).set(ready)
        self._champion.labels(model, project, team, tier).set(champion or 0)

    def version(
        self, model: str, version: int, *, form: str, closed: bool, changes: int, waiting_rows: int, waiting_s: float
    ) -> None:
        """Note how one version of a model is."""
        labels = (model, str(version))
        self._versions[labels] = form
        self._forms.labels(*labels, form).set(1)
        self._breakers.labels(*labels).set(not closed)
        self._changes.labels(*labels).set(changes)
        self._waiting.labels(*labels).set(waiting_rows)
        self._wait.labels(*labels).set(waiting_s)

    def only(self, versions: set[tuple[str, str]]) -> None:
        """Let the gauges of versions that are not served any more go to nothing.

        Args:
            versions: Those that are served: model, and number as text.
        """
        for model, version in self._versions.keys() - versions:
            form = self._versions[model, version]
            self.version(model, int(version), form=form, closed=True, changes=0, waiting_rows=0, waiting_s=0.0)
            self.process(model, int(version), up=False, restarts=0)
            self._forms.labels(model, version, form).set(0)
            del self._versions[model, version]

    def _bound(
        self,
        kept: dict[tuple[Any, ...], Any],
        key: tuple[Any, ...],
        metric: Any,
        labels: tuple[str, ...],
        consumer: str,
    ) -> Any:
        """The child of some labels, kept for the next time; the consumer is ``other`` where there are too many."""
        if len(kept) >= _LABEL_SETS:
            return metric.labels(*labels, "other")
        child = kept[key] = metric.labels(*labels, consumer)
        return child

    def process(self, model: str, version: int, *, up: bool, restarts: int) -> None:
        """Note how the process of one version is that runs in its own."""
        labels = (model, str(version))
        self._processes.labels(*labels).set(up)
        self._restarts.labels(*labels).set(restarts)

    def text(self) -> bytes:
        """The exposition format, all workers added up."""
        from prometheus_client import CollectorRegistry, generate_latest

        if self._folder is None:
            return generate_latest(self.registry)
        from prometheus_client.multiprocess import MultiProcessCollector

        together = CollectorRegistry()
        MultiProcessCollector(together, path=str(self._folder))
        return generate_latest(together)


def _noting(requests: Any, latency: Any) -> Callable[[float], None]:
    """Counts a request and its time; prometheus-client's own methods look at labels, signs and exemplars at each call."""
    count, total = requests._value.inc, latency._sum.inc  # noqa: SLF001 - see above
    bounds, buckets = latency._upper_bounds, [one.inc for one in latency._buckets]  # noqa: SLF001

    def note(seconds: float) -> None:
        count(1)
        total(seconds)
        buckets[bisect_left(bounds, seconds)](1)

    return note

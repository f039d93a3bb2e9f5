"""What Prometheus scrapes: counts and latencies, each child bound once."""

import os
from pathlib import Path
from typing import Any, cast

from towpath.types import Reason

__all__ = ["Meter"]

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
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
            from prometheus_client import metrics, values

            values_of_slot = cast("Any", values).MultiProcessValue(process_identifier=lambda: slot)
            metrics.values.ValueClass = values_of_slot
        self.registry: CollectorRegistry = CollectorRegistry()
        labels = ("model", "version", "source", "reason", "consumer")
        self._rows: Counter = Counter("towpath_rows", "Rows answered.", labels, registry=self.registry)
        self._latency: Histogram = Histogram(
            "towpath_answer_seconds",
            "Time of a whole answer.",
            ("model", "protocol"),
            buckets=_BUCKETS_S,
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
        self._error_children: dict[tuple[str, str], Any] = {}
        self._row_children: dict[tuple[Any, ...], Any] = {}
        self._latency_children: dict[tuple[str, str], Any] = {}
        self._pushed_children: dict[tuple[str, str, str], Any] = {}

    def rows(self, model: str, version: int | None, source: str, reason: Reason, consumer: str, count: int) -> None:
        """Count rows of one origin."""
        key = (model, version, source, reason, consumer)
        child = self._row_children.get(key)
        if child is None:
            if len(self._row_children) >= _LABEL_SETS:
                consumer = "other"
            child = self._rows.labels(model, "" if version is None else str(version), source, reason, consumer).inc
            self._row_children[key] = child
        child(count)

    def answered(self, model: str, protocol: str, seconds: float) -> None:
        """Note how long an answer took."""
        key = (model, protocol)
        child = self._latency_children.get(key)
        if child is None:
            child = self._latency_children[key] = self._latency.labels(model, protocol).observe
        child(seconds)

    def refused(self, code: str, consumer: str) -> None:
        """Count a request that got an error instead of an answer; `consumer` is empty where nobody was recognised."""
        key = (code, consumer)
        child = self._error_children.get(key)
        if child is None:
            if len(self._error_children) >= _LABEL_SETS:
                consumer = "other"
            child = self._error_children[key] = self._errors.labels(code, consumer).inc
        child()

    def on_demand_missing(self, model: str, view: str, why: str, rows: int) -> None:
        """Count rows that an on-demand function gave nothing for."""
        self._on_demand.labels(model, view, why).inc(rows)

    def without_features(self, model: str) -> None:
        """Count a read that the online store did not answer."""
        self._without_features.labels(model).inc()

    def pushed(self, view: str, consumer: str, *, accepted: int, unchanged: int, refused: int) -> None:
        """Count the rows of one push by what became of them."""
        for outcome, rows in (("accepted", accepted), ("unchanged", unchanged), ("refused", refused)):
            key = (view, outcome, consumer)
            child = self._pushed_children.get(key)
            if child is None:
                named = consumer if len(self._pushed_children) < _LABEL_SETS else "other"
                child = self._pushed_children[key] = self._pushed.labels(view, outcome, named).inc
            child(rows)

    def state(self, *, dropped: int, abandoned: int) -> None:
        """Note what is counted elsewhere."""
        self._dropped.set(dropped)
        self._abandoned.set(abandoned)

    def version(self, model: str, version: int, *, closed: bool, changes: int, waiting_rows: int) -> None:
        """Note how one version of a model is."""
        labels = (model, str(version))
        self._breakers.labels(*labels).set(not closed)
        self._changes.labels(*labels).set(changes)
        self._waiting.labels(*labels).set(waiting_rows)

    def text(self) -> bytes:
        """The exposition format, all workers added up."""
        from prometheus_client import CollectorRegistry, generate_latest

        if self._folder is None:
            return generate_latest(self.registry)
        from prometheus_client.multiprocess import MultiProcessCollector

        together = CollectorRegistry()
        MultiProcessCollector(together, path=str(self._folder))
        return generate_latest(together)

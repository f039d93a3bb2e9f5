"""A small real model behind the Protocol, and what stands around it."""

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.clock import FixedClock
from towpath.journal.record import Record
from towpath.models.manifest import Artefact, FeatureColumn, FeatureLock, Field, Manifest, Signature, StoredFile
from towpath.project.declarations import FallbackDeclaration, ServingDeclaration
from towpath.registry.log import TrafficState
from towpath.serving.deployment import Deployment
from towpath.serving.deployments import Fixed
from towpath.serving.responder import Responder
from towpath.serving.served import Served
from towpath.serving.worker import Ports, Worker, WorkerConfig
from towpath.settings import ServingSettings
from towpath.traffic import Policy

AT = datetime(2026, 1, 1, tzinfo=UTC)
NONE_US = int(np.iinfo(np.int64).min)
"""The event time of a row that has none, as `towpath.features` gives it."""
NUMBERS = tuple(Field(name=name, type="double") for name in ("a", "b"))


class PlainModel:
    """Sums its columns; told to misbehave by the value of ``a``."""

    def __init__(
        self,
        *,
        inputs: tuple[Field, ...] = NUMBERS,
        inline: bool = True,
        row_by_row: bool = False,
        predict: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]] | None = None,
        fallbacks: Mapping[str, Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]] | None = None,
        container: Any = "numpy",
        outputs: tuple[Field, ...] = (Field(name="prediction", type="double"),),
    ) -> None:
        self.signature = Signature(container=container, inputs=inputs, outputs=outputs)
        self.inline = inline
        self.row_by_row = row_by_row
        self._predict = predict
        self._fallbacks = fallbacks or {}
        self.closed = False

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self._predict is not None:
            return self._predict(columns)
        return {"prediction": np.sum([columns[f.name] for f in self.signature.inputs], axis=0, dtype=float)}

    def fallback(self, name: str, columns: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        return self._fallbacks[name](columns)

    def close(self) -> None:
        self.closed = True


def a_manifest(version: int = 1, **changes: Any) -> Manifest:
    file = StoredFile(path="model", digest="sha256:" + "0" * 64, size_bytes=0)
    given: dict[str, Any] = {
        "project": "shop",
        "team": "area",
        "model": "demand",
        "created_at": AT,
        "created_by": "ana",
        "owner": "ana",
        "artefact": Artefact(file=file, format="test"),
        "signature": Signature(container="numpy", inputs=NUMBERS, outputs=(Field(name="prediction", type="double"),)),
        "serving": ServingDeclaration(timeout_ms=2_000),
    }
    return Manifest(version=version, **(given | changes))


class KeptJournal:
    """Keeps records in memory."""

    dropped = 0
    holds = False

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, record: Record, *, tier: Any = None, held: bool = False) -> bool:
        self.records.append(record)
        return True

    def write_held(self) -> None: ...


class Standing:
    """Deployments that stand still."""

    def __init__(self, *deployments: Deployment) -> None:
        self.live = {one.model: one for one in deployments}


def deployed(
    *served: Served, state: TrafficState | None = None, chain: tuple[FallbackDeclaration, ...] | None = None
) -> Deployment:
    first = served[0] if served else None
    return Deployment(
        model="demand",
        project="shop",
        team="area",
        tier="standard",
        policy=Policy(state or TrafficState(champion=first.version if first else 1), "demand"),
        versions={one.version: one for one in served},
        chain=chain if chain is not None else (first.manifest.fallback if first else ()),
    )


def responding(deployment: Deployment, **more: Any) -> tuple[Responder, KeptJournal]:
    journal = KeptJournal()
    return Responder(Standing(deployment), clock=FixedClock(AT), journal=journal, **more), journal


class OnlineTable:
    """Features in a dict, read as the online reader reads them."""

    class Found:
        def __init__(self, columns: Any, missing: Any, event_us: Any) -> None:
            self.columns, self.missing, self.event_us = columns, missing, event_us
            self.matrix = None

    waits = False

    def __init__(
        self, rows: Mapping[Any, Mapping[str, float]], names: tuple[str, ...], *, refuse: bool = False
    ) -> None:
        self._rows, self._names, self._refuse = rows, names, refuse

    def read(self, key_columns: Any, n: int, now_us: int) -> Any:
        keys = key_columns.get("item_id", [None] * n)
        found = [self._rows.get(key) for key in keys]
        columns = {
            name: np.array([np.nan if row is None else row[name] for row in found], dtype=float) for name in self._names
        }
        missing = [() if row is not None else self._names for row in found]
        events = {"sales": np.array([NONE_US if row is None else 5 for row in found])}
        return self.Found(columns, missing, events)

    def nothing(self, n: int, error: Exception) -> Any:
        return self.read({}, n, 0)


LOCK = FeatureLock(
    project="shop",
    view="sales",
    fingerprint="f",
    entity=("item_id",),
    columns=(FeatureColumn(name="a", type="double"), FeatureColumn(name="b", type="double")),
)
LOOKED_UP = tuple(Field(name=name, type="double") for name in ("sales.a", "sales.b"))


class Running:
    """A worker in a thread."""

    def __init__(self, folder: Path, *deployments: Any, online_url: str = "", **settings: Any) -> None:
        config = WorkerConfig(
            online_url=online_url,
            settings=ServingSettings(**{"drain_ms": 0} | settings),
            ports=Ports("127.0.0.1", 0, 0),
            journal=folder / "journal",
            workers=0,
        )
        self.journal = config.journal
        self.worker = Worker(config, Fixed(*deployments))
        self._up = threading.Event()
        # a test that fails before it closes it must not keep the whole run from ending
        self._thread = threading.Thread(target=self.worker.run, args=(self._ready,), daemon=True)
        self._thread.start()
        assert self._up.wait(30)
        self.url = f"http://127.0.0.1:{self.ports.http}"

    def _ready(self, ports: Ports) -> None:
        import asyncio

        self.ports = ports
        self.loop = asyncio.get_running_loop()
        self._up.set()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.worker.stop)
        self._thread.join(20)
        assert not self._thread.is_alive()

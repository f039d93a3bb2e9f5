"""One worker in this very process, for those who measure from inside."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

from serving import FEATURES

__all__ = ["Inside"]


class Inside:
    """A worker that serves one model file, in a thread.

    Args:
        path: The model.
        folder: Of its journal and metrics.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        from towpath.clock import SystemClock
        from towpath.serving.deployments import Fixed
        from towpath.serving.server import bare_deployment
        from towpath.serving.worker import Ports, Worker, WorkerConfig
        from towpath.settings import ServingSettings

        deployment = bare_deployment(path, name="model", trust_pickle=False, clock=SystemClock())
        self.served: Any = next(iter(deployment.versions.values()))
        settings = ServingSettings(drain_ms=0)
        ports = Ports("127.0.0.1", 0, 0)
        config = WorkerConfig(settings=settings, ports=ports, journal=folder / "j", metrics=folder / "m", workers=0)
        self.worker: Any = Worker(config, Fixed(deployment))
        values = np.random.default_rng(3).normal(size=FEATURES).round(4).tolist()
        self.body = json.dumps({"rows": [dict(zip(self.served.names, values, strict=True))]}).encode()
        """A request of one row."""
        self._up = threading.Event()
        self._thread = threading.Thread(target=self.worker.run, args=(self._ready,), daemon=True)

    def start(self) -> None:
        """Answer from now on, at `url`, in the event loop `loop`."""
        self._thread.start()
        if not self._up.wait(60):
            raise TimeoutError("the worker did not come up within 60 s")

    def stop(self) -> None:
        """Drain and end."""
        self.loop.call_soon_threadsafe(self.worker.stop)
        self._thread.join(20)

    def _ready(self, ports: Any) -> None:
        self.url = f"http://127.0.0.1:{ports.http}/predict/model"
        self.loop = asyncio.get_running_loop()
        self._up.set()

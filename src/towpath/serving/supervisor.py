"""The supervisor: spawned workers that share their ports, replaced when they die, drained together, and the flusher."""

import json
import logging
import os
import pickle
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Self

from msgspec.structs import replace

from towpath.clock import Clock
from towpath.errors import TowpathError, UnavailableError
from towpath.serving.worker import Ports, WorkerConfig, listening
from towpath.stores.objects import Objects

__all__ = ["Flusher", "Supervisor", "told_to_stop"]

_log = logging.getLogger("towpath.serving")
_START_S = 120.0
_STOP_S = 45.0
_TICK_S = 0.05
_QUICK_S = 2.0
"""A worker that died sooner than this after its start is replaced with growing patience."""
_PATIENCE_S = 5.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""One row is quickest on one thread, and workers must not fight for cores; a variable that is set already stays."""


@contextmanager
def told_to_stop() -> Generator[threading.Event]:
    """An event that SIGTERM and SIGINT set while the block runs; from the main thread only."""
    asked = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Flusher:
    """A thread that turns closed journal files into Parquet, every so often and once at the end.

    Args:
        folder: Of the workers' files.
        objects: Where the Parquet goes.
        clock: Dates it.
        every_s: Pause between two turns.
    """

    def __init__(self, folder: Path, objects: Objects, *, clock: Clock, every_s: float) -> None:
        self._folder = folder
        self._objects = objects
        self._clock = clock
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="towpath-flusher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Flush once more and end."""
        self._stop.set()
        self._thread.join()
        self._flush()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._flush()

    def _flush(self) -> None:
        from towpath.journal import flush

        try:
            flush(self._folder, self._objects, clock=self._clock)
        except TowpathError as error:
            _log.warning("the journal was not flushed, and will be later: %s", error)
        except Exception:  # noqa: BLE001 - the thread is the edge: the next turn tries again
            _log.exception("the journal was not flushed, and will be later")


class _Child:
    """One worker's process and the pipes to it."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.started_at = time.monotonic()
        self.ports: Ports | None = None
        self.heard_at = self.started_at
        """When its event loop last said that it turns."""
        reading, writing = os.pipe()
        environment = dict.fromkeys(_THREADS, "1") | dict(os.environ)
        # its own session: Ctrl-C in a terminal reaches the supervisor alone, which drains the workers in order
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "towpath.serving.child", str(writing)],
            stdin=subprocess.PIPE,
            pass_fds=(writing,),
            start_new_session=True,
            env=environment,
        )
        os.close(writing)
        self._reading = reading
        self._heard = b""
        payload = pickle.dumps(config)
        stdin = self.process.stdin
        if stdin is not None:
            try:
                stdin.write(struct.pack("<I", len(payload)) + payload)
                stdin.flush()
            except BrokenPipeError:
                _log.warning("worker %d died at once", config.slot)

    @property
    def dead(self) -> bool:
        return self.process.poll() is not None

    def listen(self) -> None:
        """Take in its ports, once, and that it is alive."""
        if not select.select([self._reading], [], [], 0)[0]:
            return
        heard = os.read(self._reading, 4_096)
        if heard:
            self.heard_at = time.monotonic()
        if self.ports is not None:
            return
        self._heard += heard
        line, newline, _ = self._heard.partition(b"\n")
        if newline:
            said = json.loads(line)
            self.ports = Ports(self.config.ports.host, said["http"], said["grpc"], said["pid"])

    def drain(self) -> None:
        """Closing its stdin is the sign; SIGTERM is for one that does not look."""
        if self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                return
        if not self.dead:
            self.process.send_signal(signal.SIGTERM)

    def bury(self) -> None:
        """Give back what the dead held."""
        self.process.wait()
        os.close(self._reading)
        if self.process.stdin is not None and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                return


class Supervisor:
    """Keeps the workers of one server.

    Args:
        config: Of each worker; ports of 0 take free ones.
        flusher: Runs beside the workers.

    Example:
        ``with Supervisor(config) as server: print(server.ports)``
    """

    def __init__(self, config: WorkerConfig, *, flusher: Flusher | None = None) -> None:
        self._config = config
        self._flusher = flusher
        self._children: list[_Child] = []
        self._held: list[socket.socket] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._quick_deaths = 0
        self.ports = config.ports
        """Where it answers, once it is started."""
        self.restarts = 0
        """Workers that were replaced."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Of the living workers."""
        return [child.process.pid for child in self._children if not child.dead]

    @property
    def ready_pids(self) -> list[int]:
        """Of the living workers that answer."""
        return [child.process.pid for child in self._children if child.ports is not None and not child.dead]

    def start(self, asked: threading.Event | None = None) -> Ports:
        """Take the ports, spawn the workers, and come back when all of them answer.

        Args:
            asked: Of `told_to_stop`; when it is set nobody is waited for.

        Raises:
            RefusedError: A port is taken.
            UnavailableError: A worker did not start; it said why on stderr.
        """
        self._hold_ports()
        self._children = [_Child(self._of_slot(slot)) for slot in range(self._config.workers)]
        until = time.monotonic() + _START_S
        while not all(child.ports for child in self._children) and not (asked is not None and asked.is_set()):
            for child in self._children:
                child.listen()
            fallen = [child for child in self._children if child.dead and child.ports is None]
            if fallen or time.monotonic() > until:
                self._end()
                raise UnavailableError("A worker did not start.", mend="see what it wrote above; tow doctor")
            time.sleep(_TICK_S / 5)
        if self._flusher is not None:
            self._flusher.start()
        self._thread = threading.Thread(target=self._watch, name="towpath-supervisor", daemon=True)
        self._thread.start()
        return self.ports

    def wait(self, asked: threading.Event) -> int:
        """Block until SIGTERM, SIGINT or `stop`; then drain.

        Args:
            asked: Of `told_to_stop`.

        Returns:
            0, once no child is left.
        """
        while not asked.is_set() and not self._stop.is_set():
            asked.wait(_TICK_S * 4)
        self.stop()
        return 0

    def stop(self) -> None:
        """Drain all workers, wait for them, flush the journal."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._end()
        if self._flusher is not None:
            self._flusher.stop()
            self._flusher = None

    def _watch(self) -> None:
        while not self._stop.wait(_TICK_S):
            for place, child in enumerate(self._children):
                child.listen()
                self._end_stalled(place, child)
                if not child.dead or self._stop.is_set():
                    continue
                lived_s = time.monotonic() - child.started_at
                self._quick_deaths = self._quick_deaths + 1 if lived_s < _QUICK_S else 0
                if lived_s < min(_PATIENCE_S, 0.1 * 2**self._quick_deaths):
                    continue
                _log.warning(
                    "worker %d (pid %d) ended with %s; another takes its place",
                    place,
                    child.process.pid,
                    child.process.returncode,
                )
                child.bury()
                self._children[place] = _Child(self._of_slot(place))
                self.restarts += 1

    def _end_stalled(self, place: int, child: _Child) -> None:
        """Kill a worker whose event loop stands still: nothing in its process can help it any more."""
        stalled_s = time.monotonic() - child.heard_at
        if child.ports is None or child.dead or stalled_s < self._config.settings.stall_s:
            return
        _log.error("worker %d (pid %d) has stood still for %.1f s; it is killed", place, child.process.pid, stalled_s)
        child.process.kill()
        child.process.wait()

    def _end(self) -> None:
        for child in self._children:
            child.drain()
        until = time.monotonic() + _STOP_S
        for child in self._children:
            try:
                child.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.error("worker %d does not end; it is killed", child.process.pid)
                child.process.kill()
            child.bury()
        self._children = []
        for held in self._held:
            held.close()
        self._held = []
        if self._config.metrics is not None:
            shutil.rmtree(self._config.metrics, ignore_errors=True)

    def _hold_ports(self) -> None:
        """Bind without listening: the numbers are ours as long as we live, and every connection goes to a worker."""
        found: list[int] = []
        for port in (self._config.ports.http, self._config.ports.grpc):
            if port:  # without SO_REUSEPORT this fails where another server listens, which the workers would not notice
                listening(self._config.ports.host, port, reuse=False).close()
            held = listening(self._config.ports.host, port, reuse=True)
            self._held.append(held)
            found.append(held.getsockname()[1])
        self.ports = Ports(self._config.ports.host, found[0], found[1], os.getpid())

    def _of_slot(self, slot: int) -> WorkerConfig:
        return replace(self._config, slot=slot, ports=self.ports, reuse_port=True)

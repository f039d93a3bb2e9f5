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
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Self

from msgspec.structs import replace

from towpath.clock import Clock
from towpath.errors import RefusedError, TowpathError, UnavailableError
from towpath.serving.slots import forget_gauges
from towpath.serving.worker import CALL, Ports, WorkerConfig, listening
from towpath.stores.objects import Objects

__all__ = ["Asked", "Flusher", "Supervisor", "told_to_stop"]

_log = logging.getLogger("towpath.serving")
_START_S = 120.0
_STOP_S = 45.0
_TICK_S = 0.05
_QUICK_S = 2.0
"""A worker that died sooner than this after its start is replaced with growing patience."""
_PATIENCE_S = 5.0
_LONG_S = 2.0
"""Who is replaced later than this after its end hears of a standby."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""One row is quickest on one thread, and workers must not fight for cores; a variable that is set already stays."""


class Asked:
    """What SIGTERM and SIGINT set.

    No `threading.Event`: Python runs a handler in the main thread, between any two steps of what stands there. One that came
    while the wait for an event held the event's lock waited for that lock, in the thread that held it, and the server was deaf.
    """

    def __init__(self) -> None:
        self._told = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def set(self) -> None:
        """Say it; takes no lock."""
        self._told = True
        with suppress(BlockingIOError):  # full of what was said before
            os.write(self._write, b"!")

    def is_set(self) -> bool:
        """Whether somebody said it."""
        return self._told

    def wait(self, timeout_s: float) -> bool:
        """Wait until somebody says it, or for so long."""
        if not self._told:
            select.select([self._read], [], [], timeout_s)
        return self._told

    def close(self) -> None:
        """Give the pipe back; nobody may say or wait for anything any more."""
        os.close(self._read)
        os.close(self._write)


@contextmanager
def told_to_stop() -> Generator[Asked]:
    """What SIGTERM and SIGINT set while the block runs; from the main thread only."""
    asked = Asked()

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        asked.close()


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
        self.resting = False
        """Whether it has loaded all models and waits to be called."""
        self.ended_at: float | None = None
        """When it was first seen dead."""
        self.vacant_at: float | None = None
        """Since when nobody answers in its place."""
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
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            said = json.loads(line.lstrip(b"."))  # the dots are its event loop's, between two lines
            if said["http"]:
                self.ports = Ports(self.config.ports.host, said["http"], said["grpc"], said["pid"])
            else:
                self.resting = True

    def call(self) -> None:
        """Tell one that stands by to answer; it listens as soon as its models are loaded."""
        if self.process.stdin is not None:
            try:
                self.process.stdin.write(CALL)
                self.process.stdin.flush()
            except BrokenPipeError:
                _log.warning("the standby (pid %d) ended when it was called", self.process.pid)

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
        self._standby: _Child | None = None
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
    def standby_pid(self) -> int | None:
        """Of the process that has loaded everything and waits to take a worker's place."""
        standing = self._standby
        return standing.process.pid if standing is not None and standing.resting and not standing.dead else None

    @property
    def ready_pids(self) -> list[int]:
        """Of the living workers that answer."""
        return [child.process.pid for child in self._children if child.ports is not None and not child.dead]

    def start(self, asked: Asked | None = None) -> Ports:
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

    def wait(self, asked: Asked) -> int:
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
                self._heed(place, child)
                if not child.dead or self._stop.is_set() or not self._may_follow(child):
                    continue
                _log.warning(
                    "worker %d (pid %d) ended with %s; another takes its place",
                    place,
                    child.process.pid,
                    child.process.returncode,
                )
                self._bury(child)
                self._children[place] = self._another(place, child.ended_at)
                self.restarts += 1
            if self._config.settings.standby:
                self._keep_standby()

    def _may_follow(self, dead: _Child) -> bool:
        """Whether another may take its place now: those that end as soon as they start are replaced with growing patience."""
        now_s = time.monotonic()
        if dead.ended_at is None:
            dead.ended_at = now_s
            self._quick_deaths = self._quick_deaths + 1 if now_s - dead.started_at < _QUICK_S else 0
        patience_s = min(_PATIENCE_S, 0.1 * 2**self._quick_deaths) if self._quick_deaths else 0.0
        return now_s - dead.ended_at >= patience_s

    def _another(self, place: int, since: float | None) -> _Child:
        """Who takes the place of a worker that ended: the standby, where there is one, which has the models already."""
        found, self._standby = self._standby, None
        if found is None or found.dead:
            if found is not None:
                self._bury(found)
            found = _Child(self._of_slot(self._free_slot(place)))
        else:
            found.call()
        found.vacant_at = since
        return found

    def _bury(self, child: _Child) -> None:
        child.bury()
        if self._config.metrics is not None:
            forget_gauges(self._config.metrics, child.config.slot)

    def _keep_standby(self) -> None:
        """Have one more process that has loaded everything and waits; started when all workers answer, not to slow them."""
        standing = self._standby
        if standing is not None:
            self._heed(self._config.workers, standing)
            if not standing.dead or not self._may_follow(standing):
                return
            _log.warning("the standby (pid %d) ended with %s", standing.process.pid, standing.process.returncode)
            self._bury(standing)
            self._standby = None
        if len(self.ready_pids) == len(self._children) and not self._stop.is_set():
            self._standby = _Child(replace(self._of_slot(self._free_slot()), standby=True))

    def _free_slot(self, place: int | None = None) -> int:
        """A slot that no living process has; one that stood by keeps its own when it is called."""
        taken = {child.config.slot for at, child in enumerate(self._children) if at != place}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)

    def _heed(self, place: int, child: _Child) -> None:
        """Hear whether it lives, and kill it where its event loop stands still: nothing in its process can help it any more."""
        child.listen()
        now_s = time.monotonic()
        if child.ports is not None and child.vacant_at is not None:
            took_s, child.vacant_at = now_s - child.vacant_at, None
            if took_s > _LONG_S and not self._config.settings.standby:
                _log.warning(
                    "worker %d was replaced after %.1f s, most of which goes into loading; serving.standby = true keeps one loaded",
                    place,
                    took_s,
                )
        stalled_s = now_s - child.heard_at
        awake = child.ports is not None or child.resting
        if not awake or child.dead or stalled_s < self._config.settings.stall_s:
            return
        _log.error("worker %d (pid %d) has stood still for %.1f s; it is killed", place, child.process.pid, stalled_s)
        child.process.kill()
        child.process.wait()

    def _end(self) -> None:
        children = [*self._children, *([] if self._standby is None else [self._standby])]
        for child in children:
            child.drain()
        until = time.monotonic() + _STOP_S
        for child in children:
            try:
                child.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.error("worker %d does not end; it is killed", child.process.pid)
                child.process.kill()
            child.bury()
        self._children, self._standby = [], None
        self._let_go()
        if self._config.metrics is not None:
            shutil.rmtree(self._config.metrics, ignore_errors=True)

    def _hold_ports(self) -> None:
        """Bind without listening: the numbers are ours as long as we live, and every connection goes to a worker."""
        found: list[int] = []
        for port, option in ((self._config.ports.http, "--port"), (self._config.ports.grpc, "--grpc-port")):
            try:
                if (
                    port
                ):  # without SO_REUSEPORT this fails where another server listens, which the workers would not notice
                    listening(self._config.ports.host, port, reuse=False, option=option).close()
                held = listening(self._config.ports.host, port, reuse=True, option=option)
            except RefusedError:
                self._let_go()
                raise
            self._held.append(held)
            found.append(held.getsockname()[1])
        self.ports = Ports(self._config.ports.host, found[0], found[1], os.getpid())

    def _let_go(self) -> None:
        for held in self._held:
            held.close()
        self._held = []

    def _of_slot(self, slot: int) -> WorkerConfig:
        return replace(self._config, slot=slot, ports=self.ports, reuse_port=True)

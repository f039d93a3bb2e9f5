"""The thread that keeps a model's processes: starts them, sees them end, lets another take the place of the first."""

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from numpy.typing import NDArray

from towpath import errors
from towpath.apart.process import BEGINNING, Process, last_words, sweep
from towpath.apart.wire import Loaded, Message
from towpath.errors import FormatError, TowpathError, UnavailableError

__all__ = ["Keeper", "NotBegunError"]

_log = logging.getLogger("towpath.apart")
_START_S = 120.0
"""A process that takes longer to begin, or to load, is ended."""
_TICK_S = 0.25
"""Between two looks at memory, where it is limited."""
_GRACE_S = 0.02
"""Before a waiting process begins to load: the call that was lost asks its functions first."""
_BACK_SHARE = 0.5
"""Of a call's time that loading may take for others to wait for it."""
_FREE_DEATHS = 3
"""In `_LOOK_BACK_S`; each further one doubles the pause before the next start."""
_LOOK_BACK_S = 60.0
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_END_S = 5.0


class NotBegunError(FormatError):
    """The process ended before it could be told anything: its environment is at fault, not the model."""


class Keeper:
    """Keeps one process that answers and, if wanted, one that waits.

    Processes end together with the thread that started them, so it is this one, which lives as long as the model.

    Args:
        start: Starts a process.
        name: In threads and messages.
        own_s: What a call may take.
        memory_bytes: Above it a process is ended; 0 for no limit.
        spare: Whether one waits.
        functions: Whether functions are asked of it.
    """

    def __init__(
        self,
        start: Callable[[], Process],
        *,
        name: str,
        own_s: float,
        memory_bytes: int,
        spare: bool,
        functions: bool,
    ) -> None:
        self._start = start
        self._name = name
        self._own_s = own_s
        self._memory_bytes = memory_bytes
        self._with_spare = spare
        self._functions = functions
        self._there: list[Process] = []
        """All that have not been buried; of those that live, the first that answers or will answer soonest comes first."""
        self._changing = threading.Condition(threading.RLock())
        self._deaths: deque[float] = deque(maxlen=16)
        self._start_at = 0.0
        self._restarts = 0
        self._last = ""
        self._start_took_s = self._load_took_s = 1.0
        self._looked_at = 0.0
        self._closed = False
        self._loaded: Loaded | None = None
        self.good: tuple[Message, list[NDArray[Any]]] | None = None
        """A question that was answered: a process that was loaded again is asked it first, so that no caller waits for its warming up."""
        self._failed: Exception | None = None
        self._woken, self._waking = os.pipe()
        os.set_blocking(self._waking, False)
        os.set_blocking(self._woken, False)
        self._thread = threading.Thread(target=self._keep, name=f"towpath-{name}-keeper", daemon=True)
        self._thread.start()

    def loaded(self) -> Loaded:
        """Wait for the first process to have loaded the model.

        Raises:
            TowpathError: It did not.
        """
        with self._changing:
            while self._loaded is None and self._failed is None:
                self._changing.wait()
            if self._failed is not None:
                raise self._failed
            assert self._loaded is not None
            return self._loaded

    @property
    def says(self) -> dict[str, Any]:
        """For health."""
        with self._changing:
            answering = self._where("predict")
            return {
                "state": answering.state if answering is not None else "down",
                "pid": answering.pid if answering is not None else None,
                "spare": next((p.state for p in self._there if p is not answering and p.state != "ended"), None),
                "restarts": self._restarts,
                "last_end": self._last,
            }

    @property
    def peak_mib(self) -> float:
        """The most memory that the process which answers has used."""
        with self._changing:
            answering = self._where("predict")
            return answering.peak_bytes / (1 << 20) if answering is not None else 0.0

    def turn(self, kind: str, until: float) -> Process:
        """Wait until the process that answers such questions is free; whoever gets it must release its `turn`.

        Args:
            kind: ``predict`` or ``fallback``.
            until: Of `time.perf_counter`.

        Raises:
            UnavailableError: There is none, or it is busy for longer.
        """
        while True:
            with self._changing:
                process = self._where(kind)
                if self._closed:
                    raise UnavailableError(f"{self._name} is closed.")
                left_s = until - time.perf_counter()
                if process is None:
                    if left_s <= 0 or self._back_in_s() > left_s * _BACK_SHARE:
                        raise UnavailableError(
                            f"{self._name} has no process at the moment (the last one: {self._last})."
                        )
                    self._changing.wait(min(left_s, _TICK_S))
                    continue
            if not process.turn.acquire(timeout=-1 if left_s == float("inf") else max(0.0, left_s)):
                raise UnavailableError(f"{self._name} was busy for too long.")
            if process.ended is not None or self._where(kind) is not process:
                process.turn.release()
                continue
            if process.owed and not self._settled(process, until):
                continue
            return process

    def lost(self, process: Process, why: str = "") -> str:
        """Take a process as ended, and end it where it is not.

        Returns:
            Why it ended.
        """
        with self._changing:
            if process.ended is None:
                process.end(why)
                assert process.ended is not None
                self._note(process)
            found = process.ended.why
            self._changing.notify_all()
        self.wake()
        return found

    def wake(self) -> None:
        """Let the thread look now."""
        with self._changing:
            if self._waking >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._waking, b".")

    def close(self) -> None:
        """End all processes, and wait for that; a call that runs gets the rest of its time, and is not waited for."""
        with self._changing:
            self._closed = True
            self._changing.notify_all()
            busy = any(process.turn.locked() for process in self._there)
        self.wake()
        if not busy:
            self._thread.join(_END_S)

    def _where(self, kind: str) -> Process | None:
        """Who answers such questions now."""
        if kind == "fallback":
            waiting = next((p for p in self._there if p.state == "waiting"), None)
            if waiting is not None:
                return waiting
        return next((p for p in self._there if p.state == "answering"), None)

    def _settled(self, process: Process, until: float) -> bool:
        """Take the answer that somebody else did not wait for; its `turn` is released where that cannot be had in time."""
        try:
            process.channel.receive(min(until, process.until))
        except TimeoutError:
            late = time.perf_counter() >= process.until
            process.turn.release()
            if late:
                self.lost(process, f"no answer after {self._own_s * 1e3:.0f} ms")
                return False
            raise UnavailableError(f"{self._name} was busy for too long.") from None
        except (EOFError, OSError, FormatError):
            process.turn.release()
            self.lost(process)
            return False
        process.owed = False
        process.until = float("inf")
        return True

    def _back_in_s(self) -> float:
        """When somebody will answer again, judging by the last starts."""
        now = time.monotonic()
        there = [p for p in self._there if p.state != "ended"]
        if any(p.state in {"loading", "warming"} for p in there):
            return self._load_took_s
        if any(p.state == "waiting" for p in there) and self._quick:
            return self._load_took_s + _GRACE_S
        if any(p.state in {"starting", "opening"} for p in there):
            return self._start_took_s + self._load_took_s
        return max(0.0, self._start_at - now) + self._start_took_s + self._load_took_s

    @property
    def _quick(self) -> bool:
        """Whether loading is so quick that callers wait for it; else functions keep the process that waits."""
        return not self._functions or self._load_took_s < self._own_s * _BACK_SHARE

    def _note(self, process: Process) -> None:
        """Remember an end; after a few in a minute the next start waits, each time for longer."""
        assert process.ended is not None
        now = time.monotonic()
        self._last = process.ended.why
        if self._closed:
            return
        self._deaths.append(now)
        self._restarts += 1
        recent = sum(1 for at in self._deaths if at > now - _LOOK_BACK_S) - _FREE_DEATHS
        pause_s = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** (recent - 1)) if recent > 0 else 0.0
        self._start_at = max(self._start_at, now + pause_s)
        again = f"; the next one is started in {pause_s:.1f} s" if pause_s else ""
        _log.warning("%s: its process %d ended: %s%s", self._name, process.pid, process.ended.why, again)

    def _keep(self) -> None:
        try:
            sweep()
            while not self._over():
                timeout_s = self._step()
                self._listen(timeout_s)
        except Exception as error:  # noqa: BLE001 - the thread is the edge: whoever waits is told
            _log.exception("%s is no longer kept", self._name)
            with self._changing:
                self._closed, self._failed = True, self._failed or error
        finally:
            with self._changing:
                for process in self._there:
                    process.end("closed")
                    process.bury()
                self._there = []
                os.close(self._woken)
                os.close(self._waking)
                self._waking = -1
                self._changing.notify_all()

    def _over(self) -> bool:
        """Whether nobody needs the thread; a call that still runs does, until it must be over."""
        with self._changing:
            if not self._closed:
                return False
            now = time.perf_counter()
            most = now + 60
            return not any(p.turn.locked() and p.ended is None and now < min(p.until, most) for p in self._there)

    def _step(self) -> float:
        """Do what is to be done now; gives how long nothing else will be."""
        with self._changing:
            now = time.monotonic()
            for process in [p for p in self._there if p.state == "ended"]:
                if not process.turn.locked():
                    process.bury()
                    self._there.remove(process)
            look_at_memory = bool(self._memory_bytes) and now - self._looked_at >= _TICK_S
            if look_at_memory:
                self._looked_at = now
            for process in self._there:
                self._look_at(process, now, look_at_memory=look_at_memory)
            if self._closed:
                return 0.02
            living = [p for p in self._there if p.state != "ended"]
            self._promote(living, now)
            wanted = 1 + self._with_spare if self._loaded is not None else 1
            if len(living) < wanted and now >= self._start_at and self._failed is None:
                try:
                    self._there.append(self._start())
                except OSError as fault:
                    self._cannot_start(fault)
            return self._until_next(now)

    def _cannot_start(self, fault: OSError) -> None:
        said = UnavailableError(f"The process of {self._name} cannot be started: {fault.strerror}.")
        if self._loaded is None:
            self._failed = said
            self._changing.notify_all()
        _log.error("%s", said.what)
        self._start_at = time.monotonic() + _LONGEST_PAUSE_S

    def _until_next(self, now: float) -> float:
        timeout_s = _TICK_S if self._memory_bytes else 5.0
        if self._start_at > now:
            timeout_s = min(timeout_s, self._start_at - now)
        for process in self._there:
            if process.state in BEGINNING:
                timeout_s = min(timeout_s, 1.0)
            elif process.state == "ended":
                timeout_s = min(timeout_s, 0.02)
            elif process.owed and process.until < float("inf"):
                timeout_s = min(timeout_s, max(0.0, process.until - time.perf_counter()) + 0.001)
        if any(p.state == "waiting" for p in self._there) and not any(
            p.state in {"answering", "loading", "warming"} for p in self._there
        ):
            timeout_s = min(timeout_s, _GRACE_S / 2)
        return timeout_s

    def _look_at(self, process: Process, now: float, *, look_at_memory: bool) -> None:
        if process.state == "ended":
            return
        if process.gone:
            self._begun_badly(process)
        elif process.state in BEGINNING and now - process.since_s > _START_S:
            process.end(f"it was {process.state} for more than {_START_S:.0f} s")
            self._begun_badly(process)
        elif process.owed and time.perf_counter() > process.until + 0.005:
            self.lost(process, f"no answer after {self._own_s * 1e3:.0f} ms")
        elif look_at_memory and (used := process.resident_bytes) > self._memory_bytes:
            limit = self._memory_bytes >> 20
            self.lost(process, f"{used >> 20} MiB of memory, more than its {limit} MiB (resources.memory)")

    def _begun_badly(self, process: Process) -> None:
        """It ended by itself; before the model was loaded for the first time that is the answer to who loads it."""
        kind = NotBegunError if process.state == "starting" else FormatError
        process.end()
        assert process.ended is not None
        if self._loaded is None and self._failed is None:
            said = last_words(process.tail)
            self._failed = kind(
                f"{self._name} did not load: its process ended ({process.ended.why}){f'; it said: {said}' if said else ''}.",
                mend="publish the version again; tow doctor",
            )
        self._note(process)
        self._changing.notify_all()

    def _promote(self, living: list[Process], now: float) -> None:
        """Let one load where none answers."""
        if any(p.state in {"answering", "loading", "warming"} for p in living):
            return
        for process in living:
            ready = process.state == "waiting" and now - max(process.since_s, self._ended_s) >= _GRACE_S
            if self._loaded is None:
                ready = process.state == "waiting"
            alone = len(living) == 1 and self._with_spare and self._loaded is not None and not self._quick
            if ready and not alone and process.turn.acquire(blocking=False):
                try:
                    process.load()
                except OSError:
                    process.end()
                    self._note(process)
                finally:
                    process.turn.release()
                return

    @property
    def _ended_s(self) -> float:
        return self._deaths[-1] if self._deaths else 0.0

    def _listen(self, timeout_s: float) -> None:
        """Wait for news: a wake-up, an answer to what was asked here, an end."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        by_number: dict[int, Process] = {}
        with self._changing:
            for process in self._there:
                if process.state == "ended":
                    continue
                number = process.channel.socket.fileno()
                by_number[number] = process
                ours = process.state in BEGINNING
                poll.register(number, select.POLLIN if ours else 0)
        for number, event in poll.poll(max(0.0, timeout_s) * 1e3):
            if number == self._woken:
                os.read(number, 1 << 12)
                continue
            process = by_number[number]
            with self._changing:
                if process.state in BEGINNING:
                    self._heard(process)
                elif event & (select.POLLHUP | select.POLLERR) and not process.turn.locked():
                    self.lost(process)

    def _heard(self, process: Process) -> None:
        """One answer of a process that is not in use yet."""
        try:
            answer, _ = process.channel.receive(time.perf_counter() + 1)
        except (EOFError, OSError):
            self._begun_badly(process)
            return
        except FormatError as fault:
            process.end(f"a damaged answer: {fault.what}")
            self._begun_badly(process)
            return
        if answer.fault is not None:
            kind: type[TowpathError] = getattr(errors, answer.fault.kind, FormatError)
            self._refused(process, kind(answer.fault.what, answer.fault.where, answer.fault.mend))
        elif process.state == "starting":
            try:
                process.open()
            except OSError:
                self._begun_badly(process)
        elif process.state == "opening":
            self._start_took_s = time.monotonic() - process.started_s
            process.becomes("waiting")
        else:
            self._has_loaded(process, answer)
        self._changing.notify_all()

    def _has_loaded(self, process: Process, answer: Message) -> None:
        if process.state == "loading":
            self._loaded = self._loaded or msgspec.msgpack.decode(answer.said, type=Loaded)
        if process.state == "loading" and self.good is not None:
            message, arrays = self.good
            process.warm(message, arrays)
            return
        self._load_took_s = time.monotonic() - process.loading_s
        process.becomes("answering")

    def _refused(self, process: Process, error: TowpathError) -> None:
        """It says that it cannot."""
        process.end(error.what)
        if self._loaded is None:
            self._failed = error
        else:
            self._note(process)
        self._changing.notify_all()

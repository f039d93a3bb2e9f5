"""One process that holds a model: started with nothing but what it needs, watched, and ended for good."""

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
from numpy.typing import NDArray

from towpath.apart.environments import arguments
from towpath.apart.wire import Channel, Message, Opening
from towpath.compute.warden import SLACK_BYTES

__all__ = ["BEGINNING", "Ended", "Process", "State", "last_words", "sweep"]

State = Literal["starting", "opening", "waiting", "loading", "warming", "answering", "ended"]
"""``waiting`` has all but the model itself, ``answering`` has that, too."""
BEGINNING = frozenset({"starting", "opening", "loading", "warming"})
"""States in which its keeper waits for an answer of it."""

_log = logging.getLogger("towpath.apart")
_CODE = "from towpath.apart.child import main; main({end}, {parent}, {memory_bytes})"
_FOLDER = "towpath-apart-"
"""Before the number of the process that made it, in the names of working folders."""
_OUTPUT_BYTES_S = 1 << 20
"""Of a model's own printing that is read; one that prints more waits until it is, and misses its deadline."""
_LINES_S = 20
"""Of it that reach our log; the rest is counted."""
_LINE_CHARACTERS = 2_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Ended(msgspec.Struct, frozen=True):
    """Why a process is no more."""

    why: str
    """Such as ``SIGSEGV`` or ``exit code 3``."""
    at: float
    """Of `time.monotonic`."""


class Process:
    """A process and the socket to it; started by the thread that keeps it, for it ends together with that thread.

    Args:
        opening: What it is for.
        python: The interpreter.
        variables: All that its environment holds.
        memory_bytes: What its keeper will let it use; 0 for no limit. One allocation far beyond it fails by itself.
        prints: Whether what it prints may stand in our log.
    """

    def __init__(
        self, opening: Opening, python: str, variables: Mapping[str, str], *, memory_bytes: int, prints: bool
    ) -> None:
        self.name = opening.name
        self.state: State = "starting"
        self.since_s = self.started_s = time.monotonic()
        """When the state began, of `time.monotonic`."""
        self.loading_s = self.since_s
        self.ended: Ended | None = None
        self.turn = threading.Lock()
        """Held by whoever talks to it."""
        self.question = 0
        """Number of the last question."""
        self.owed = False
        """Whether the answer to it is still to come and nobody waits for it."""
        self.until = float("inf")
        """When that answer is too late, of `time.perf_counter`."""
        self._prints = prints
        self._opening = opening
        here, there = socket.socketpair()
        self.channel = Channel(here)
        self._folder = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-")
        most_bytes = memory_bytes and memory_bytes + SLACK_BYTES
        code = _CODE.format(end=there.fileno(), parent=os.getpid(), memory_bytes=most_bytes)
        try:
            self._popen: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - an interpreter of ours and our own code
                arguments(python, code, Path(self._folder)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(there.fileno(),),
                cwd=self._folder,
                env=dict(variables),
                start_new_session=True,
            )
        except OSError:
            here.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        finally:
            there.close()
        self.pid = self._popen.pid
        self.tail: list[str] = []
        """The last lines that it printed."""
        assert self._popen.stdout is not None
        self._output = threading.Thread(
            target=self._read_on, args=(self._popen.stdout,), name=f"towpath-{self.name}-output", daemon=True
        )
        self._output.start()

    @property
    def resident_bytes(self) -> int:
        """Memory that it uses now; 0 where nobody can say."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1]) * _PAGE_BYTES
        except (OSError, IndexError, ValueError):
            return 0

    @property
    def peak_bytes(self) -> int:
        """The most memory that it has used; 0 where nobody can say."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)

    @property
    def gone(self) -> bool:
        """Whether it has ended, by itself or not."""
        return self._popen.poll() is not None

    def becomes(self, state: State) -> None:
        """Note what it is now."""
        self.state = state
        self.since_s = time.monotonic()

    def ask(self, kind: str, said: bytes = b"\xc0") -> None:
        """Send a question of its keeper, who takes the answer when it comes."""
        self.question += 1
        self.channel.send(Message(kind, self.question, said=msgspec.Raw(said)), until=time.perf_counter() + 1)

    def open(self) -> None:
        """Let it fetch all but the model."""
        self.ask("open", msgspec.msgpack.encode(self._opening))
        self.becomes("opening")

    def load(self) -> None:
        """Let it load the model."""
        self.ask("load")
        self.loading_s = time.monotonic()
        self.becomes("loading")

    def warm(self, message: Message, arrays: Sequence[NDArray[Any]]) -> None:
        """Ask it what another process of the model has answered."""
        self.question += 1
        asked = msgspec.structs.replace(message, number=self.question)
        self.channel.send(asked, arrays, time.perf_counter() + 1)
        self.becomes("warming")

    def end(self, why: str = "") -> None:
        """Kill it and whatever it started; why it ended is what its own end says, unless given."""
        if self.ended is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self.ended = Ended(why or _said(self._popen.wait()), time.monotonic())
        self.state = "ended"

    def bury(self) -> None:
        """Give back what the dead held."""
        self._popen.wait()
        self._output.join(1)
        self.channel.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read_on(self, output: IO[bytes]) -> None:
        """Take what it prints into our log, at a bounded rate."""
        began, read, lines, dropped, rest = time.monotonic(), 0, 0, 0, b""
        with output:
            while block := os.read(output.fileno(), 1 << 16):
                now = time.monotonic()
                if now - began >= 1:
                    if dropped:
                        _log.warning("%s: %d more lines were printed", self.name, dropped)
                    began, read, lines, dropped = now, 0, 0, 0
                read += len(block)
                *whole, rest = (rest + block).split(b"\n")
                rest = rest[:_LINE_CHARACTERS]
                room = max(0, _LINES_S - lines)
                for line in whole[:room]:
                    self._print(line)
                lines += len(whole)
                dropped += max(0, len(whole) - room)
                if read > _OUTPUT_BYTES_S:
                    time.sleep(max(0.0, began + 1 - time.monotonic()))
            if rest:
                self._print(rest)
            if dropped:
                _log.warning("%s: %d more lines were printed", self.name, dropped)

    def _print(self, line: bytes) -> None:
        text = line[:_LINE_CHARACTERS].decode("utf-8", "replace").rstrip()
        self.tail = [*self.tail[-9:], text]
        if self._prints:
            _log.info("%s prints: %s", self.name, text)


def _said(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def sweep() -> None:
    """Take away the working folders that somebody left who was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        pid = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def last_words(lines: Sequence[str]) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")

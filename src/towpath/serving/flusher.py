"""The flusher of a server without a supervisor: a process of its own, so that it never holds the worker's interpreter.

As a thread of the worker it cost callers a 99th percentile of 10 to 180 ms, run by run; beside it, it costs CPU only.
"""

import logging
import subprocess
import sys
import threading
from pathlib import Path

from towpath.clock import SystemClock
from towpath.journal.append import SUFFIX
from towpath.stores.objects import Objects

_log = logging.getLogger("towpath.serving")

__all__ = ["FlusherProcess"]

_END_S = 30.0


class FlusherProcess:
    """Turns closed journal files into Parquet every so often, and once more when it is stopped or the server dies.

    Args:
        folder: Of the worker's files.
        objects: URL or folder that the Parquet goes to.
        every_s: Pause between two turns; the process begins after the first one, so that it does not slow the start.
    """

    def __init__(self, folder: Path, objects: str, *, every_s: float) -> None:
        self._folder = folder
        self._argv = [sys.executable, "-m", "towpath.serving.flusher", str(folder), objects, str(every_s)]
        self._process: subprocess.Popen[bytes] | None = None
        self._every_s = every_s
        self._timer = self._later()

    def start(self) -> None:
        """Begin, after the first pause."""
        self._timer.start()

    def stop(self) -> None:
        """Flush once more and end."""
        self._timer.cancel()
        if self._process is None and any(self._folder.glob(f"*{SUFFIX}")):
            self._begin()
        process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:  # what is left in the folder is flushed by whoever comes next
            process.kill()
            process.wait()

    def _begin(self) -> None:
        # Its end of stdin closes when we do, however we end: that is its sign to flush once more and go.
        try:
            self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - ourselves
        except OSError as error:
            _log.warning("the journal's flusher cannot be started now, and will be later: %s", error.strerror)
            self._timer = self._later()
            self._timer.start()

    def _later(self) -> threading.Timer:
        timer = threading.Timer(self._every_s, self._begin)
        timer.daemon = True
        return timer


def main() -> None:
    """Flush until standard input ends, then once more."""
    import select

    from towpath.errors import TowpathError
    from towpath.journal import flush

    folder, objects, every_s = Path(sys.argv[1]), Objects(sys.argv[2]), float(sys.argv[3])
    clock = SystemClock()
    ended = False
    while not ended:
        ended = bool(select.select([sys.stdin], [], [], every_s)[0])
        try:
            flush(folder, objects, clock=clock)
        except TowpathError as error:
            sys.stderr.write(f"the journal was not flushed, and will be later: {error.what}\n")


if __name__ == "__main__":
    main()

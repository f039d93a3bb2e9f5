"""The access log: one JSON line a request, off unless asked for; never a body, a key, a query or a header."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import orjson

from towpath.clock import Clock
from towpath.errors import ProjectError

__all__ = ["AccessLog", "access_log"]

_PATH_CHARACTERS = 256


class AccessLog:
    """Writes lines to a file or to stderr, each in one write, so that the lines of several workers do not mix.

    Args:
        descriptor: Where they go.
        clock: Dates them.
    """

    def __init__(self, descriptor: int, clock: Clock) -> None:
        self._write: Callable[[int, bytes], int] = os.write
        self._descriptor = descriptor
        self._clock = clock

    def line(
        self,
        *,
        protocol: str,
        method: str,
        path: str,
        status: int | str,
        ms: float,
        consumer: str,
        request_id: str,
        bytes_out: int | None = None,
    ) -> None:
        """One request."""
        told = {
            "at": self._clock.now().isoformat(timespec="milliseconds"),
            "protocol": protocol,
            "method": method,
            "path": path[:_PATH_CHARACTERS],
            "status": status,
            "ms": round(ms, 3),
            "consumer": consumer,
            "request_id": request_id,
            "bytes_out": bytes_out,
            "pid": os.getpid(),
        }
        try:
            self._write(self._descriptor, orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE))
        except OSError:  # a full disk or a closed pipe costs lines, and no answer
            return


def access_log(setting: str, folder: Path, clock: Clock) -> AccessLog | None:
    """The log that ``serving.access_log`` asks for; none where it is empty.

    Args:
        setting: ``stderr``, or a file.
        folder: What a relative path stands in.
        clock: Dates lines.

    Raises:
        ProjectError: The file cannot be written.
    """
    if not setting:
        return None
    if setting == "stderr":
        return AccessLog(sys.stderr.fileno(), clock)
    path = folder / setting
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return AccessLog(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640), clock)
    except OSError as error:
        raise ProjectError(
            f"The access log '{path}' cannot be written: {error.strerror}.", "serving.access_log", "check its folder"
        ) from error

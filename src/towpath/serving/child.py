"""The process of a spawned worker: reads its configuration from stdin, says its ports, serves until stdin closes."""

import os
import pickle
import struct
import sys
from contextlib import suppress

from towpath.errors import TowpathError
from towpath.serving.logs import configure
from towpath.serving.worker import Ports, Worker, WorkerConfig

__all__ = ["main"]

_LENGTH = struct.Struct("<I")


def main() -> int:
    """Serve as the supervisor says."""
    from towpath.serving.worker import ready_line

    ready = int(sys.argv[1])
    os.set_blocking(ready, False)  # a supervisor that does not read must not stop the event loop
    (length,) = _LENGTH.unpack(_exactly(_LENGTH.size))
    # our own supervisor's bytes, over a pipe that nobody else has: a clock and settings, never a model or a request
    config: WorkerConfig = pickle.loads(_exactly(length))  # noqa: S301 - see above

    if config.logs:
        configure()

    def say(ports: Ports) -> None:
        with suppress(BrokenPipeError):  # the supervisor went while we started; the end of our stdin says it, too
            os.write(ready, ready_line(ports))

    def alive() -> None:
        with suppress(BrokenPipeError, BlockingIOError):
            os.write(ready, b".")

    try:
        return Worker(config).run(say, until_eof=True, alive=alive)
    except TowpathError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _exactly(size: int) -> bytes:
    """Read from the raw descriptor: what follows is left for the event loop to watch."""
    parts: list[bytes] = []
    while size:
        part = os.read(0, size)
        if not part:
            raise SystemExit(2)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())

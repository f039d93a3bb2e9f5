"""Logging of the long-running commands: text for a terminal, JSON lines for everything else."""

import json
import logging
import sys
import time
from datetime import UTC, datetime

__all__ = ["configure", "often"]

_EVERY_S = 1.0
_KINDS = 1_000
_said: dict[tuple[str, ...], tuple[float, int]] = {}


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info).splitlines()[-1]
        return json.dumps(line, ensure_ascii=False)


def configure() -> None:
    """Send our log to stderr; other libraries only from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname).1s %(message)s") if sys.stderr.isatty() else _JsonLines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("towpath").setLevel(logging.INFO)


def often(log: logging.Logger, kind: tuple[str, ...], text: str) -> None:
    """Warn of what happens to many requests at once: one line a second for each kind, with the number that was left out.

    Args:
        log: Where to.
        kind: Lines of one kind stand for each other.
        text: What happened.
    """
    now = time.monotonic()
    next_at, left_out = _said.get(kind, (0.0, 0))
    if now < next_at:
        _said[kind] = (next_at, left_out + 1)
        return
    if len(_said) >= _KINDS:
        _said.clear()
    _said[kind] = (now + _EVERY_S, 0)
    more = f" (and {left_out} more since)" if left_out else ""
    log.warning("%s%s", text, more)

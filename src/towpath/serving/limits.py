"""What one connection may cost: bytes and number of headers, slow heads, slow bodies, idling, and how many there may be."""

import logging
import os
import resource
from pathlib import Path

import msgspec

from towpath.settings import ServingSettings

__all__ = ["Limits", "can_open", "within_files"]

_log = logging.getLogger("towpath.serving")
_KEPT_FILES = 64
"""For the journal, stores and models, beside connections."""
_MOST_SHARE = 3
"""HTTP holds twice its connections while it tells those that are too many, and gRPC as many again."""


def within_files(settings: ServingSettings) -> ServingSettings:
    """Settings with no more connections than this process may open files for; its soft limit is raised to the hard one first.

    Args:
        settings: As declared.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # a system that has a lower limit of its own
            pass
    if soft == resource.RLIM_INFINITY:
        return settings
    room = (soft - _open_files() - min(_KEPT_FILES, soft // 4)) // _MOST_SHARE
    if room >= settings.max_connections:
        return settings
    fewer = max(1, room)
    _log.warning(
        "serving.max_connections is %d and not %d: this process may open %d files (ulimit -n)",
        fewer,
        settings.max_connections,
        soft,
    )
    return msgspec.structs.replace(settings, max_connections=fewer)


def can_open() -> bool:
    """Whether this process may still open a file."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


def _open_files() -> int:
    for folder in (Path("/proc/self/fd"), Path("/dev/fd")):
        if folder.is_dir():
            return sum(1 for _ in folder.iterdir())
    return 0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a connection, read once."""

    header_bytes: int = 32_768
    headers: int = 100
    header_s: float = 10.0
    body_bytes_per_s: int = 1_000
    idle_s: float = 75.0
    connections: int = 4_096

    @classmethod
    def of(cls, settings: ServingSettings) -> "Limits":
        """As ``[serving]`` says."""
        return cls(
            header_bytes=settings.max_header_bytes,
            headers=settings.max_headers,
            header_s=settings.header_timeout_s,
            body_bytes_per_s=settings.min_body_bytes_per_s,
            idle_s=settings.idle_timeout_s,
            connections=settings.max_connections,
        )

"""The present turn of the event loop: since when its requests wait, and when their answers leave."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Holder", "Turn"]

_log = logging.getLogger("towpath.serving")


class Holder(Protocol):
    """What must be written down before answers leave; `towpath.serving.responder.Responder` is one."""

    @property
    def holds(self) -> bool:
        """Whether there is something."""
        ...

    def write_held(self) -> None:
        """Write it down."""
        ...


class Turn:
    """Tells requests since when they wait, and lets their answers go together.

    The event loop finds many sockets readable at once and answers one request after the other, inline models and all. The
    last of them has waited for all before it, which its own clock would not show. Their journal records are one write, at
    the end of the turn, and no answer leaves before it: whoever has one finds it in the journal, also of a worker that is
    killed the moment after.

    Args:
        holder: Holds the records.
    """

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._since_s: float | None = None
        self._leaving: list[Callable[[], None]] = []

    def since_s(self) -> float:
        """When the first request of this turn was begun, of `time.perf_counter`; from the event loop's own thread."""
        if self._since_s is None:
            self._since_s = time.perf_counter()
            asyncio.get_running_loop().call_soon(self._over)
        return self._since_s

    def leave(self, write: Callable[[], None]) -> None:
        """Write an answer to its connection: at once where nothing is held, else when this turn is over."""
        if not self._leaving and not self._holder.holds:
            write()
            return
        self._leaving.append(write)
        if len(self._leaving) == 1:
            asyncio.get_running_loop().call_soon(self._let_go)

    def _let_go(self) -> None:
        leaving, self._leaving = self._leaving, []
        self._holder.write_held()
        for write in leaving:
            try:
                write()
            except Exception:  # noqa: BLE001 - one connection that cannot be written to keeps nobody else's answer
                _log.exception("an answer could not be written")

    def _over(self) -> None:
        self._since_s = None

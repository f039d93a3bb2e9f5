"""When the present turn of the event loop began: what its later requests have waited since."""

import asyncio
import time

__all__ = ["Turn"]


class Turn:
    """Tells requests since when they wait.

    The event loop finds many sockets readable at once and answers one request after the other, inline models and all. The
    last of them has waited for all before it, which its own clock would not show.
    """

    def __init__(self) -> None:
        self._since_s: float | None = None

    def since_s(self) -> float:
        """When the first request of this turn was begun, of `time.perf_counter`; from the event loop's own thread."""
        if self._since_s is None:
            self._since_s = time.perf_counter()
            asyncio.get_running_loop().call_soon(self._over)
        return self._since_s

    def _over(self) -> None:
        self._since_s = None

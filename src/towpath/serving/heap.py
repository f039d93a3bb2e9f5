"""What is loaded is set aside from the collector, which does not look through it while requests are answered."""

import gc
import sys
from threading import Lock

__all__ = ["Heap"]

_LET_GO = 16
"""So many versions go before what was set aside is looked through again."""
_SWITCH_S = 0.001
_YOUNG = 10_000
"""So many objects more than before are made before the collector looks through them; Python's own 700 (2,000 in newer ones) are those
of a few requests that wait for a thread together, which are all still needed then."""


class Heap:
    """Sets aside what a worker holds for good.

    A process that holds pandas, scikit-learn and a few models has about half a million objects, and requests that wait for a
    thread make enough new ones that Python's collector looks through all of them several times a second: 100 ms in which
    nobody is answered. Set aside (`gc.freeze`), they are not looked at. What is released is freed by its count all the same;
    only a circle among them would stay, so after some versions have gone everything is looked through once.

    Args:
        let_go: After so many versions.

    Example:
        >>> heap = Heap()
        >>> heap.settle()
        >>> gc.get_freeze_count() > 0
        True
        >>> gc.unfreeze()
    """

    def __init__(self, let_go: int = _LET_GO) -> None:
        self._most = let_go
        self._gone = 0
        self._lock = Lock()

    def settle(self, gone: int = 0) -> None:
        """Set aside what is there now; call it where a version was loaded or let go.

        Args:
            gone: Versions that were let go since.
        """
        with self._lock:
            self._gone += gone
            if self._gone >= self._most:
                self._gone = 0
                gc.unfreeze()
                gc.collect()
            gc.freeze()

    @staticmethod
    def take_turns() -> None:
        """Let the event loop have the interpreter back sooner from a model's thread, and have the collector look more rarely.

        Sooner is 1 ms for Python's 5. The collector's rarer looks spare requests that wait for a thread a twentieth of their
        time; what goes without a circle, as nearly everything does, never waits for it.
        """
        sys.setswitchinterval(_SWITCH_S)
        young, middle, old = gc.get_threshold()
        if 0 < young < _YOUNG:  # 0 is off, and somebody's wish
            gc.set_threshold(_YOUNG, middle, old)

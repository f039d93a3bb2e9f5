"""The circuit breaker of a version: one that keeps failing is left alone for a while, and then tried with one call."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from towpath.project.declarations import BreakerDeclaration

__all__ = ["Breaker", "State"]

State = Literal["closed", "open", "trying", "unproven"]
"""``closed`` is well; ``open`` answers nobody; ``trying`` let one call through; ``unproven`` failed its golden cases."""

_log = logging.getLogger("towpath.serving")
_LONGEST = 30
"""Times the first pause that a pause may become."""


class Breaker:
    """Counts what became of the calls of one version, and says whether it may be asked.

    A call counts, not a row. A failure may be its caller's own doing: an input that no model could take. So before it opens
    the version is asked again about an input that it answered before: `ask_again` does so, and says by `came_of` what came of it.

    Args:
        name: ``demand@3``, for the log.
        declared: When it opens, and for how long.
        clock: Seconds, monotonic.

    Example:
        >>> breaker = Breaker("demand@3", BreakerDeclaration(failures=2, pause_ms=60_000))
        >>> breaker.failed("slow"), breaker.failed("slow"), breaker.lets_in()
        (None, None, False)
    """

    __slots__ = (
        "_changing", "_clock", "_consecutive", "_declared", "_name", "_pause_s", "_trial_until", "_until", "ask_again", "bits", "changes",
        "state", "why",
    )  # fmt: skip

    def __init__(self, name: str, declared: BreakerDeclaration, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._declared = declared
        self._clock = clock
        self.state: State = "closed"
        self.why = ""
        """Why it is not closed."""
        self.changes = 0
        """How often its state changed."""
        self.bits = 0
        """The last calls, the newest lowest: 1 where one failed. While it is 0 and the state is closed, nothing need be noted."""
        self.ask_again: Callable[[], bool] | None = None
        """Begins to find out whether the version still answers an input that it answered before; false where it cannot."""
        self._consecutive = 0
        self._pause_s = declared.pause_ms / 1e3
        self._until = 0.0
        self._trial_until = 0.0
        self._changing = threading.Lock()

    def lets_in(self) -> bool:
        """Whether a call may go to the version now; past the pause one may, and the next ones wait for what becomes of it."""
        if self.state == "closed":
            return True
        if self.state == "unproven":
            return False
        with self._changing:
            now = self._clock()
            if now < (self._until if self.state == "open" else self._trial_until):
                return False
            self._trial_until = now + max(self._pause_s, 1.0)  # a trial that never comes back is not the last one
            self._become("trying", self.why)
        return True

    def worked(self) -> None:
        """Note a call that was answered."""
        if self.state == "closed" and not self.bits:
            return
        with self._changing:
            self._note(failed=False)
            if self.state == "trying":
                self._close("a trial call was answered")

    def failed(self, reason: str, error: BaseException | None = None) -> None:
        """Note a call that was not answered, for which the version is to blame.

        Args:
            reason: ``slow`` or ``wrong``.
            error: What it raised.
        """
        with self._changing:
            self._note(failed=True)
            why = f"{reason}: {error}" if error is not None else reason
            ask = None
            if self.state == "trying" or (self.state == "closed" and self._too_many()):
                ask = self.ask_again
                if ask is None:
                    self._open(why)
        if ask is not None and not ask():
            self.came_of(answered=False, why=why)

    def came_of(self, *, answered: bool, why: str) -> None:
        """Say whether the version still answers an input that it answered before.

        Args:
            answered: If so, the calls that failed are their callers' fault, and are forgotten.
            why: It is opened.
        """
        with self._changing:
            if self.state == "unproven":
                return
            if not answered:
                self._open(why)
            elif self.state == "trying":
                self._close("it answers what it answered before")
            else:
                self._forget()

    def proven(self, *, passed: bool, why: str = "") -> None:
        """Say what came of replaying its golden cases; one that fails them answers nobody until it passes them again."""
        with self._changing:
            if passed and self.state == "unproven":
                self._close("it answers its golden cases again")
            elif not passed:
                self._become("unproven", why)

    def _note(self, *, failed: bool) -> None:
        window = self._declared.window
        self.bits = ((self.bits << 1) | failed) & ((1 << window) - 1)
        self._consecutive = self._consecutive + 1 if failed else 0

    def _too_many(self) -> bool:
        declared = self._declared
        return self._consecutive >= declared.failures or self.bits.bit_count() >= declared.share * declared.window

    @property
    def left_s(self) -> float:
        """How long nobody is let in; 0 where it is closed or a trial may begin."""
        until = {"open": self._until, "trying": self._trial_until}.get(self.state, 0.0)
        return max(0.0, until - self._clock()) if until else 0.0

    def _open(self, why: str) -> None:
        first = self._declared.pause_ms / 1e3
        self._pause_s = min(self._pause_s * 2, first * _LONGEST) if self.state == "trying" else first
        self._until = self._clock() + self._pause_s
        self._become("open", why)

    def _close(self, why: str) -> None:
        self._forget()
        self._become("closed", why)
        self.why = ""

    def _forget(self) -> None:
        self.bits = self._consecutive = 0

    def _become(self, state: State, why: str) -> None:
        if state == self.state:
            return
        well = {"open": "its fallback answers", "unproven": "its fallback answers", "trying": "one call is tried"}
        said = well.get(state, "it answers again")
        level = logging.INFO if state in {"closed", "trying"} else logging.WARNING
        _log.log(level, "%s: circuit %s, %s (%s)", self._name, state, said, why)
        self.state, self.why = state, why
        self.changes += 1

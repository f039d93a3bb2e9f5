"""How long one row takes, measured when the model is loaded: what may be called inside an event loop."""

import time
from collections.abc import Callable

__all__ = ["INLINE_MS", "is_quick"]

INLINE_MS = 1.0
"""An inline call cannot be interrupted, so it must be shorter than what a caller notices."""


def is_quick(call: Callable[[], object]) -> bool:
    """Whether the best of three calls takes less than 1 ms; the first one also warms the model up.

    Example:
        >>> is_quick(lambda: None), is_quick(lambda: time.sleep(0.005))
        (True, False)
    """
    best_s = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        call()
        best_s = min(best_s, time.perf_counter() - begun)
    return best_s * 1_000 < INLINE_MS

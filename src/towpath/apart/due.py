"""By when the work of this thread must be done: said by whoever runs it, read by whoever can stop it."""

import threading

__all__ = ["due"]


class _Due(threading.local):
    until: float | None = None
    """Of `time.perf_counter`, in seconds; None where nobody said so."""


due = _Due()
"""One value a thread."""

"""By when the work of this thread must be done, and for which trace: said by whoever runs it, read by whoever works."""

import threading

__all__ = ["due"]


class _Due(threading.local):
    until: float | None = None
    """Of `time.perf_counter`, in seconds; None where nobody said so."""
    trace: tuple[tuple[str, str], ...] = ()
    """W3C trace context that work elsewhere belongs to, as headers; empty where there is none."""


due = _Due()
"""One value a thread."""

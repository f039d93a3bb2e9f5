"""The last good answer to each entity key, kept by a worker so that a fallback link can give it again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from towpath.serving.answered import Answered

__all__ = ["LEFT", "LastAnswers"]

LEFT: Any = object()
"""Stands for a row that a link of the chain leaves to the next one."""
_KEYS = 100_000
"""Keys of one model that a worker remembers; beyond it the one that was answered longest ago is forgotten."""


class LastAnswers:
    """Predictions that a model itself gave, by entity key. Lost when the worker ends; each worker has its own.

    Args:
        keys: How many are kept.

    Example:
        >>> kept = LastAnswers()
        >>> kept.put('["x"]', 7.0, 1_000_000)
        >>> kept.get('["x"]', now_us=3_000_000, age_us=2_000_000), kept.get('["x"]', now_us=3_000_001, age_us=2_000_000) is LEFT
        (7.0, True)
    """

    def __init__(self, keys: int = _KEYS) -> None:
        self._keys = keys
        self._kept: dict[str, tuple[int, Any]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: str, prediction: Any, at_us: int) -> None:
        """Keep one answer."""
        kept = self._kept
        kept.pop(key, None)  # so that it stands last
        kept[key] = (at_us, prediction)
        if len(kept) > self._keys:
            kept.pop(next(iter(kept)), None)

    def get(self, key: str | None, *, now_us: int, age_us: int) -> Any:
        """The answer that was kept; `LEFT` where there is none, or it is older than `age_us`."""
        found = self._kept.get(key) if key is not None else None
        return LEFT if found is None or now_us - found[0] > age_us else found[1]

    def keep(self, answered: "Answered", keys: Sequence[str | None], at_us: int) -> None:
        """Keep what a model answered itself; what a fallback said is not worth repeating."""
        for key, source, prediction in zip(keys, answered.sources, answered.predictions, strict=True):
            if key is not None and not source.startswith("fallback:"):
                self.put(key, prediction, at_us)

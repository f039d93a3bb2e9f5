"""Where a unit falls: two independent hashes, so that a ramp never moves a unit from one arm to another."""

from hashlib import blake2b
from typing import Literal

__all__ = ["point"]

_SPAN = 1 << 64


def point(unit: str, salt: str, purpose: Literal["inclusion", "arm", "holdout", "sample", "beside"]) -> float:
    """Place a unit on [0, 1) for one purpose, the same in every process and on every day.

    A unit is *included* where its inclusion point lies below the share, and gets the arm in whose stretch its arm
    point lies; the two are independent, so growing the share adds units and leaves the others where they were.

    Args:
        unit: Whatever should be treated alike: an entity key, a customer.
        salt: Of the model's traffic state; another salt deals anew.
        purpose: What the point is for; each purpose has its own hash.

    Returns:
        A number in [0, 1), uniform over units.

    Example:
        >>> point('["10002"]', "demand", "arm") == point('["10002"]', "demand", "arm")
        True
        >>> point('["10002"]', "demand", "arm") == point('["10002"]', "demand", "inclusion")
        False
    """
    digest = blake2b(unit.encode(), digest_size=8, key=salt.encode()[:64], person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / _SPAN

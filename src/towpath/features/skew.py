"""Skew: what a model was given online, beside what training would have seen at that moment."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Literal

import msgspec

from towpath.errors import InputError
from towpath.types import utc

__all__ = ["FeatureSkew", "Served", "SkewExample", "compare"]

_SHOWN = 5


class SkewExample(msgspec.Struct, frozen=True, kw_only=True):
    """One row that differs."""

    entity_key: str
    at: datetime
    """When it was answered."""
    what: Literal["mismatch", "stale", "missing", "extra"]
    online: Any
    offline: Any


class FeatureSkew(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of one model."""

    model: str
    feature: str
    compared: int
    """Answers that were replayed."""
    mismatch: int
    """Both sides have a value, and not the same."""
    stale: int
    """Of those the ones where a newer row was known by then, and not built or not pushed yet."""
    missing: int
    """Training would have had a value, the answer had none."""
    extra: int
    """The answer had a value that training would not have had."""
    smape: float | None
    """Of numbers, over rows with a value on both sides: 0 is equal, 2 the most; null where there are none."""
    share: float
    """Of the compared rows that differ in any way."""
    beyond: bool
    """Whether that is more than the limit."""
    examples: tuple[SkewExample, ...] = ()
    """The first of them."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of one model that read one feature, row by row: beside what each was given, what was known."""

    entity_keys: Sequence[str]
    at: Sequence[datetime]
    online: Sequence[Any]
    offline: Sequence[Any]
    online_event_us: Sequence[int]
    """When the online row became true; below zero where there was none."""
    offline_event_us: Sequence[int | None]
    default: Any = None
    """What a missing value was replaced by before the model saw it."""


def compare(model: str, feature: str, rows: Served, *, limit: float, tolerance: float) -> FeatureSkew:
    """Count the answers that differ from what training would have seen.

    Args:
        model: Whose answers.
        feature: ``view.feature``.
        rows: One a row on both sides.
        limit: The share of rows that may differ.
        tolerance: Numbers are equal that differ by no more than this share of the larger; everything else must be the same.

    Example:
        >>> at = utc("2026-03-09")
        >>> rows = Served(entity_keys=["[1]"] * 2, at=[at] * 2, online=[1.0, 2.0], offline=[1.0, 2.5],
        ...               online_event_us=[1, 1], offline_event_us=[1, 2])
        >>> found = compare("demand", "sales.x", rows, limit=0.01, tolerance=1e-9)
        >>> found.compared, found.mismatch, found.stale, round(found.smape, 3), found.beyond
        (2, 1, 1, 0.111, True)
    """
    counts = dict.fromkeys(("mismatch", "stale", "missing", "extra"), 0)
    examples: list[SkewExample] = []
    errors: list[float] = []
    for at, (online, offline) in enumerate(zip(rows.online, rows.offline, strict=True)):
        what = _difference(rows, at, tolerance)
        if _is_number(online) and _is_number(offline):
            size = abs(online) + abs(offline)
            errors.append(2 * abs(online - offline) / size if size else 0.0)
        if what is None:
            continue
        counts[what] += 1
        if len(examples) < _SHOWN:
            examples.append(
                SkewExample(entity_key=rows.entity_keys[at], at=rows.at[at], what=what, online=online, offline=offline)
            )
    compared, differing = len(rows.online), sum(counts.values())
    return FeatureSkew(
        model=model,
        feature=feature,
        compared=compared,
        mismatch=counts["mismatch"] + counts["stale"],
        stale=counts["stale"],
        missing=counts["missing"],
        extra=counts["extra"],
        smape=sum(errors) / len(errors) if errors else None,
        share=differing / compared if compared else 0.0,
        beyond=compared > 0 and differing > limit * compared,
        examples=tuple(examples),
    )


def _difference(rows: Served, at: int, tolerance: float) -> Literal["mismatch", "stale", "missing", "extra"] | None:
    online, offline, known_us = rows.online[at], rows.offline[at], rows.offline_event_us[at]
    if rows.default is not None and online is not None and offline is None and _same(online, rows.default, tolerance):
        return None
    if online is None and offline is None:
        return None
    if offline is None:
        return "extra"
    if online is None or rows.online_event_us[at] < 0:
        return "missing"
    if _same(online, offline, tolerance):
        return None
    return "stale" if known_us is not None and known_us > rows.online_event_us[at] else "mismatch"


def _same(online: Any, offline: Any, tolerance: float) -> bool:
    if _is_number(online) and _is_number(offline):
        return abs(online - offline) <= tolerance * max(abs(online), abs(offline))
    if isinstance(offline, date) and isinstance(online, str):  # a time is a date, too
        try:
            return utc(online) == utc(offline.isoformat())
        except InputError:
            return False
    return online == offline


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)

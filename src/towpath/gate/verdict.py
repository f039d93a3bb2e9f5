"""What the gate found: rules with their reasons, stored beside the version and shown to people."""

from datetime import datetime

import msgspec

__all__ = ["SCHEMA", "Footprint", "Interval", "Rule", "SegmentResult", "Verdict"]

SCHEMA = 1


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate with the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float


class SegmentResult(msgspec.Struct, frozen=True, kw_only=True):
    """One segment: the metric of the candidate and of what it was compared with."""

    segment: str
    """``price_band=low``"""
    rows: int
    candidate: float | None
    reference: float | None
    decides: bool
    """False where it has too few rows."""
    passed: bool


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Measured in a clean process."""

    load_s: float
    memory_mib: float
    p50_ms: float
    p99_ms: float


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One question of the gate and its answer."""

    name: str
    """``better_than_champion better_than_fallback segments golden output footprint fallback sample``; a later release may
    ask more."""
    passed: bool
    reason: str
    """With the numbers and their limits."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """``models/<name>/versions/000017/verdicts/000001.json``, create-only and signed."""

    schema: int = SCHEMA
    project: str
    model: str
    version: int
    against: int | None
    """The champion it was measured against; null where there was none, and then the fallback was."""
    at: datetime
    by: str
    passed: bool
    metric: str
    rows: int
    entities: int
    candidate: float | None = None
    champion: float | None = None
    fallback: float | None = None
    versus_champion: Interval | None = None
    """Candidate minus champion on the same rows; paired bootstrap by entity."""
    versus_fallback: Interval | None = None
    beside: dict[str, dict[str, float | None]] = {}
    """Metric → who → value."""
    segments: tuple[SegmentResult, ...] = ()
    footprint: Footprint | None = None
    rules: tuple[Rule, ...] = ()

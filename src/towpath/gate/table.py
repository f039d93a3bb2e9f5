"""A verdict as rows for a table, in a terminal or on a page."""

import msgspec

from towpath.gate.verdict import Verdict

__all__ = ["RuleRow", "ScoreRow", "SegmentRow", "score_rows", "segment_rows", "verdict_rows"]


class RuleRow(msgspec.Struct, frozen=True):
    """One rule of the gate."""

    rule: str
    answer: str
    """``passed`` or ``failed``"""
    reason: str


class ScoreRow(msgspec.Struct, frozen=True):
    """One metric of all contestants, as text; a dash where there is none."""

    metric: str
    candidate: str
    champion: str
    fallback: str


class SegmentRow(msgspec.Struct, frozen=True):
    """One segment, as text."""

    segment: str
    rows: str
    candidate: str
    reference: str
    answer: str
    """``passed``, ``failed`` or ``too few rows``"""


def verdict_rows(verdict: Verdict) -> list[RuleRow]:
    """One row per rule, with its reason."""
    return [
        RuleRow(rule.name.replace("_", " "), "passed" if rule.passed else "failed", rule.reason)
        for rule in verdict.rules
    ]


def score_rows(verdict: Verdict) -> list[ScoreRow]:
    """One row per metric, the deciding one first."""
    deciding = {"candidate": verdict.candidate, "champion": verdict.champion, "fallback": verdict.fallback}
    return [
        ScoreRow(metric, *(_number(by_who.get(who)) for who in ("candidate", "champion", "fallback")))
        for metric, by_who in ({verdict.metric: deciding} | verdict.beside).items()
    ]


def segment_rows(verdict: Verdict) -> list[SegmentRow]:
    """One row per segment; small ones are shown and do not decide."""
    return [
        SegmentRow(
            segment.segment,
            f"{segment.rows:,}",
            _number(segment.candidate),
            _number(segment.reference),
            ("passed" if segment.passed else "failed") if segment.decides else "too few rows",
        )
        for segment in verdict.segments
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"

"""A verdict as rows for a table, in a terminal or on a page."""

from towpath.gate.verdict import Verdict

__all__ = ["score_rows", "segment_rows", "verdict_rows"]


def verdict_rows(verdict: Verdict) -> list[tuple[str, str, str]]:
    """One row per rule: its name, ``passed`` or ``failed``, and the reason."""
    return [(rule.name.replace("_", " "), "passed" if rule.passed else "failed", rule.reason) for rule in verdict.rules]


def score_rows(verdict: Verdict) -> list[tuple[str, str, str, str]]:
    """One row per metric, the deciding one first: its name, and the candidate's, champion's and fallback's value."""
    who = ("candidate", "champion", "fallback")
    values = [(verdict.metric, {name: getattr(verdict, name) for name in who}), *verdict.beside.items()]
    return [(metric, *(_number(by_who.get(name)) for name in who)) for metric, by_who in values]  # pyright: ignore[reportReturnType] - three names


def segment_rows(verdict: Verdict) -> list[tuple[str, str, str, str, str]]:
    """One row per segment: name, rows, the candidate's value, the reference's value, and what it means."""
    return [
        (
            segment.segment,
            f"{segment.rows:,}",
            _number(segment.candidate),
            _number(segment.reference),
            ("passed" if segment.passed else "failed") if segment.decides else "too few rows",
        )
        for segment in verdict.segments
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"  # noqa: RUF001 - a dash for none

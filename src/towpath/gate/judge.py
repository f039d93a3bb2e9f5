"""May this version answer? Arrays and measurements in, a verdict out; nothing is run and nothing is read."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from towpath.errors import UndefinedError
from towpath.gate.fallbacks import FallbackCheck
from towpath.gate.footprint import within
from towpath.gate.golden import GoldenResult
from towpath.gate.output import OutputCheck, allowed
from towpath.gate.scores import Better, Scores, gap, ratio, segment_codes
from towpath.gate.verdict import Footprint, Interval, Rule, SegmentResult, Verdict
from towpath.project.declarations import GateDeclaration, OutputDeclaration
from towpath.stats.difference import Estimate, ratio_difference
from towpath.types import Tier

__all__ = ["Evidence", "judge"]


class Evidence(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Everything that the judge looks at. All arrays have one entry per held-out row, in one order."""

    project: str
    model: str
    version: int
    tier: Tier = "standard"
    against: int | None
    """The champion; None where there is none."""
    gate: GateDeclaration
    output: OutputDeclaration = OutputDeclaration()
    better: Better
    """Of the metric that decides."""
    entities: NDArray[Any]
    """The entity of each row, as integers or text; the row number for models without entities."""
    segments: Mapping[str, NDArray[Any]]
    """Segment column → value of each row."""
    candidate: Scores
    champion: Scores | None = None
    fallback: Scores | None = None
    beside: Mapping[str, Mapping[str, Scores]] = {}
    """Further metric → ``candidate champion fallback`` → scores."""
    golden: GoldenResult
    answers: OutputCheck
    fallbacks: tuple[FallbackCheck, ...] = ()
    footprint: Footprint | None = None
    """None where it could not be measured."""
    sample_share: float = 1.0


def judge(evidence: Evidence, *, at: datetime, by: str, rng: np.random.Generator) -> Verdict:
    """Hold a version against the rules of the gate.

    Args:
        evidence: Scores and measurements.
        at: When; from a clock.
        by: The person or job that asked.
        rng: Where the bootstrap's chance comes from.

    Returns:
        The verdict; it passes when every rule does. Each rule's reason carries its numbers and their limits.
    """
    rules: list[Rule] = []
    versus_champion = versus_fallback = None
    if evidence.champion is not None:
        who = f"champion {evidence.against}"
        rule, versus_champion = _better_than(evidence, evidence.champion, "better_than_champion", who, rng)
        rules.append(rule)
    if evidence.fallback is not None:
        rule, versus_fallback = _better_than(evidence, evidence.fallback, "better_than_fallback", "fallback", rng)
        rules.append(rule)
    segments = _segments(evidence)
    if evidence.champion is not None or evidence.fallback is not None:
        rules.append(_segments_rule(evidence, segments))
    rules += [
        _golden_rule(evidence.golden),
        _output_rule(evidence),
        _footprint_rule(evidence.footprint, evidence.gate),
        _fallback_rule(evidence),
        _sample_rule(evidence.sample_share),
    ]
    scored = evidence.candidate.scored
    return Verdict(
        project=evidence.project,
        model=evidence.model,
        version=evidence.version,
        against=evidence.against,
        at=at,
        by=by,
        passed=all(rule.passed for rule in rules),
        metric=evidence.gate.metric,
        rows=int(scored.sum()),
        entities=len(segment_codes(evidence.entities[scored])[0]),
        candidate=_metric(evidence.candidate),
        champion=_metric(evidence.champion),
        fallback=_metric(evidence.fallback),
        versus_champion=versus_champion,
        versus_fallback=versus_fallback,
        beside={
            metric: {who: _metric(scores) for who, scores in by_who.items()}
            for metric, by_who in evidence.beside.items()
        },
        segments=segments,
        footprint=evidence.footprint,
        rules=tuple(rules),
    )


def _better_than(
    evidence: Evidence,
    reference: Scores,
    name: Literal["better_than_champion", "better_than_fallback"],
    who: str,
    rng: np.random.Generator,
) -> tuple[Rule, Interval | None]:
    """Compare on the rows that both have scored; the margin is for the champion only, a heuristic must be beaten."""
    gate, candidate = evidence.gate, evidence.candidate
    both = candidate.scored & reference.scored
    ours, theirs = ratio(candidate, both), ratio(reference, both)
    if ours is None or theirs is None:
        reason = f"{gate.metric} cannot be compared: its denominator is zero over {int(both.sum()):,} rows"
        return Rule(name=name, passed=False, reason=reason), None
    try:
        found = ratio_difference(
            candidate.numerator[both],
            candidate.denominator[both],
            reference.numerator[both],
            reference.denominator[both],
            segment_codes(evidence.entities[both])[1],
            resamples=gate.resamples,
            confidence=gate.confidence,
            rng=rng,
            absolute=evidence.better == "zero",
        )
    except UndefinedError as error:
        return Rule(name=name, passed=False, reason=f"{gate.metric} cannot be compared: {error.what}"), None
    margin = gate.margin if name == "better_than_champion" else 0.0
    passed, wanted = _within(found, theirs, evidence.better, margin)
    distance = " in distance from 0" if evidence.better == "zero" else ""
    reason = (
        f"{gate.metric} {ours:.4g} against {theirs:.4g} of the {who}: {found.estimate:+.4g}{distance} "
        f"[{found.low:+.4g}, {found.high:+.4g}] at {gate.confidence:.0%}, {found.entities:,} entities; {wanted}"
    )
    left_out = int((candidate.scored ^ reference.scored).sum())
    if left_out:
        reason += f"; {left_out:,} rows that only one of them scored are left out"
    interval = Interval(estimate=found.estimate, low=found.low, high=found.high)
    return Rule(name=name, passed=passed, reason=reason), interval


def _within(found: Estimate, theirs: float, better: Better, margin: float) -> tuple[bool, str]:
    """Whether even the pessimistic end of the interval is good enough, and the words for it."""
    sign, way = (-1, "above") if better == "higher" else (1, "below")
    pessimistic = found.low if better == "higher" else found.high
    if not margin:
        return sign * pessimistic < 0, f"the whole interval must be {way} 0"
    # A bias has no scale of its own to be relative to, so its margin is in the metric's unit.
    limit = margin if better == "zero" else margin * abs(theirs)
    return sign * pessimistic <= limit, f"the whole interval must be {way} {sign * limit:+.4g}, a margin of {margin:g}"


def _segments(evidence: Evidence) -> tuple[SegmentResult, ...]:
    reference = evidence.champion or evidence.fallback
    rows = evidence.candidate.scored if reference is None else evidence.candidate.scored & reference.scored
    found: list[SegmentResult] = []
    for column in sorted(evidence.segments):
        names, codes = segment_codes(evidence.segments[column][rows])
        size = len(names)
        counts = np.bincount(codes, minlength=size)
        ours = _ratios(evidence.candidate, rows, codes, size)
        theirs = _ratios(reference, rows, codes, size) if reference else [None] * size
        for name, count, our, their in zip(names, counts.tolist(), ours, theirs, strict=True):
            decides = count >= evidence.gate.min_segment_rows and our is not None and their is not None
            passed = not decides or _worsening(_sure(our), _sure(their), evidence.better) <= evidence.gate.no_worse_on
            found.append(
                SegmentResult(
                    segment=f"{column}={name}",
                    rows=count,
                    candidate=our,
                    reference=their,
                    decides=decides,
                    passed=passed,
                )
            )
    return tuple(found)


def _ratios(scores: Scores, rows: NDArray[np.bool_], codes: NDArray[np.intp], size: int) -> list[float | None]:
    above = np.bincount(codes, scores.numerator[rows], size)
    below = np.bincount(codes, scores.denominator[rows], size)
    return [float(a) / float(b) if b else None for a, b in zip(above, below, strict=True)]


def _worsening(ours: float, theirs: float, better: Better) -> float:
    """Relative to the reference; for a bias in the metric's own unit."""
    worse = gap(ours, theirs, better)
    if better == "zero" or worse <= 0:
        return worse
    return worse / abs(theirs) if theirs else float("inf")


def _segments_rule(evidence: Evidence, segments: tuple[SegmentResult, ...]) -> Rule:
    gate, better = evidence.gate, evidence.better
    who = "champion" if evidence.champion is not None else "fallback"
    if not segments:
        return Rule(name="segments", passed=True, reason="training.sql declares no segments")
    deciding = [s for s in segments if s.decides]
    small = len(segments) - len(deciding)
    few = f"; {small} with fewer than {gate.min_segment_rows:,} rows or no metric do not decide" if small else ""
    if not deciding:
        return Rule(name="segments", passed=True, reason=f"none of {len(segments)} segments decides{few}")
    worsened = {s.segment: _worsening(_sure(s.candidate), _sure(s.reference), better) for s in deciding}
    shown = "+.4g" if better == "zero" else "+.1%"
    failing = [s for s in deciding if not s.passed]
    told = failing or [max(deciding, key=lambda s: worsened[s.segment])]
    told = sorted(told, key=lambda s: -worsened[s.segment])[:5]
    parts = "; ".join(
        f"{gate.metric} on '{s.segment}' {s.candidate:.4g} against {s.reference:.4g}, {worsened[s.segment]:{shown}}"
        for s in told
    )
    lead = (
        f"{len(failing)} of {len(deciding)} segments are worse than the {who} by more than {gate.no_worse_on:{shown}}: "
        if failing
        else f"{len(deciding)} segments, none worse than the {who} by more than {gate.no_worse_on:{shown}}; closest: "
    )
    return Rule(name="segments", passed=not failing, reason=lead + parts + few)


def _golden_rule(golden: GoldenResult) -> Rule:
    if not golden.cases:
        return Rule(name="golden", passed=True, reason="there are no golden cases")
    if golden.passed:
        return Rule(name="golden", passed=True, reason=f"{golden.cases} of {golden.cases} cases answered as known good")
    told = "; ".join(golden.failures[:3]) + ("; …" if len(golden.failures) > 3 else "")  # noqa: PLR2004 - fits a table
    return Rule(name="golden", passed=False, reason=f"{len(golden.failures)} of {golden.cases} cases differ: {told}")


def _output_rule(evidence: Evidence) -> Rule:
    answers, may = evidence.answers, allowed(evidence.output)
    others = [scores.scored for scores in (evidence.champion, evidence.fallback) if scores is not None]
    # The label is there, because somebody else has a score; so it is the candidate that gave nothing.
    unscored = int((np.logical_or.reduce(others) & ~evidence.candidate.scored).sum()) if others else 0
    problems: list[str] = []
    if answers.wrong:
        problems.append(f"{answers.wrong:,} of {answers.rows:,} answers are not {may} (limit 0): {answers.detail}")
    if unscored:
        problems.append(f"{unscored:,} labelled rows have no score (limit 0)")
    if not answers.rows:
        problems.append("there are no held-out rows")
    reason = "; ".join(problems) or f"{answers.rows:,} of {answers.rows:,} answers are {may}"
    return Rule(name="output", passed=not problems, reason=reason)


def _footprint_rule(footprint: Footprint | None, gate: GateDeclaration) -> Rule:
    if footprint is None:
        return Rule(name="footprint", passed=False, reason="it could not be measured")
    reason = (
        f"loads in {footprint.load_s:.2g} s (limit {gate.load_s:g}), takes {footprint.memory_mib:,.0f} MiB "
        f"(limit {gate.memory_mib:,}), one row p50 {footprint.p50_ms:.2g} ms, "
        f"p99 {footprint.p99_ms:.2g} ms (limit {gate.latency_p99_ms:g})"
    )
    return Rule(name="footprint", passed=within(footprint, gate), reason=reason)


def _fallback_rule(evidence: Evidence) -> Rule:
    if not evidence.fallbacks:
        critical = evidence.tier == "critical"
        what = "no fallback is declared"
        reason = f"{what}, and the model is critical" if critical else f"{what}: a row that fails gets no answer"
        return Rule(name="fallback", passed=not critical, reason=reason)
    failing = [check for check in evidence.fallbacks if not check.passed]
    told = "; ".join(f"'{check.name}' {check.detail}" for check in failing or evidence.fallbacks)
    return Rule(name="fallback", passed=not failing, reason=told)


def _sample_rule(share: float) -> Rule:
    if share < 1:
        return Rule(name="sample", passed=False, reason=f"trained on a sample of {share:.2%} (100% is needed)")
    return Rule(name="sample", passed=True, reason="trained on all rows")


def _metric(scores: Scores | None) -> float | None:
    if scores is None:
        return None
    return ratio(scores, scores.scored)


def _sure(value: float | None) -> float:
    assert value is not None
    return value

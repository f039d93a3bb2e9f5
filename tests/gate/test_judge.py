from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.gate import score_rows, segment_rows, verdict_rows
from towpath.gate.fallbacks import FallbackCheck
from towpath.gate.golden import GoldenResult
from towpath.gate.judge import Evidence, judge
from towpath.gate.output import OutputCheck
from towpath.gate.scores import Better, Scores
from towpath.gate.verdict import Footprint, Rule, Verdict
from towpath.project.declarations import GateDeclaration, OutputDeclaration
from towpath.types import utc

ROWS, ENTITIES = 2_000, 100
AT = utc("2026-03-01")
GROUPS = np.repeat(np.arange(ENTITIES), ROWS // ENTITIES)
BANDS = np.array(["high", "low", None, "low"], dtype=object)[np.arange(ROWS) % 4]
VOLUME = np.random.default_rng(0).gamma(2, 5, ROWS)


def scores(level: float, seed: int = 1, *, spread: float = 0.05) -> Scores:
    """A metric of about `level`, with habits of entities and noise of rows."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, spread, ENTITIES)[GROUPS] + rng.normal(0, spread, ROWS)
    return Scores(numerator=VOLUME * (level + noise), denominator=VOLUME)


def evidence(**changes: Any) -> Evidence:
    """A good version: better than champion 3 and than the fallback, everything else in order."""
    good = Evidence(
        project="shop",
        model="demand",
        version=4,
        against=3,
        gate=GateDeclaration(resamples=200),
        better="lower",
        entities=GROUPS,
        segments={"price_band": BANDS},
        candidate=scores(0.20),
        champion=scores(0.25),
        fallback=scores(0.40),
        golden=GoldenResult(cases=3),
        answers=OutputCheck(rows=ROWS, wrong=0),
        fallbacks=(FallbackCheck(name="recent_mean", passed=True, detail="answered 2,000 of 2,000 rows"),),
        footprint=Footprint(load_s=0.8, memory_mib=210, p50_ms=0.4, p99_ms=1.9),
    )
    return msgspec.structs.replace(good, **changes)


def judged(**changes: Any) -> Verdict:
    return judge(evidence(**changes), at=AT, by="mira", rng=np.random.default_rng(7))


def rule(verdict: Verdict, name: str) -> Rule:
    return next(rule for rule in verdict.rules if rule.name == name)


def failing(verdict: Verdict) -> list[str]:
    return [rule.name for rule in verdict.rules if not rule.passed]


def test_a_good_version_passes_every_rule_and_each_reason_carries_numbers_and_limits() -> None:
    verdict = judged()
    assert verdict.passed, verdict_rows(verdict)
    assert [rule.name for rule in verdict.rules] == [
        "better_than_champion",
        "better_than_fallback",
        "segments",
        "golden",
        "output",
        "footprint",
        "fallback",
        "sample",
    ]
    assert "of the champion 3" in rule(verdict, "better_than_champion").reason
    assert "limit 30" in rule(verdict, "footprint").reason
    assert verdict.candidate == pytest.approx(0.2, abs=0.03)
    assert verdict.versus_champion is not None
    assert verdict.versus_champion.high < 0
    assert (verdict.rows, verdict.entities) == (ROWS, ENTITIES)


def test_the_same_evidence_and_generator_give_the_same_bytes() -> None:
    assert msgspec.json.encode(judged()) == msgspec.json.encode(judged())
    assert msgspec.json.decode(msgspec.json.encode(judged()), type=Verdict) == judged()


def test_no_better_than_the_champion_is_refused() -> None:
    verdict = judged(candidate=scores(0.26))
    assert failing(verdict) == ["better_than_champion"]
    assert "the whole interval must be below 0" in rule(verdict, "better_than_champion").reason


def test_the_champion_itself_is_not_better_than_itself_but_within_a_margin() -> None:
    assert failing(judged(candidate=scores(0.25))) == ["better_than_champion"]
    with_margin = judged(candidate=scores(0.25), gate=GateDeclaration(resamples=200, margin=0.05))
    assert with_margin.passed
    assert "a margin of 0.05" in rule(with_margin, "better_than_champion").reason


def test_a_margin_is_for_the_champion_and_never_for_the_heuristic() -> None:
    gate = GateDeclaration(resamples=200, margin=5.0, no_worse_on=5.0)
    verdict = judged(candidate=scores(0.41), champion=scores(0.40), gate=gate)
    assert failing(verdict) == ["better_than_fallback"]


def test_an_advantage_that_chance_may_have_made_is_refused() -> None:
    # given a candidate that is a little better, measured with much noise
    verdict = judged(candidate=scores(0.245, seed=3, spread=0.5), champion=scores(0.25, seed=4, spread=0.5))
    assert "better_than_champion" in failing(verdict)


def test_the_first_version_is_held_against_the_fallback_alone() -> None:
    verdict = judged(against=None, champion=None)
    assert verdict.passed
    assert (verdict.against, verdict.champion, verdict.versus_champion) == (None, None, None)
    assert "better_than_champion" not in [rule.name for rule in verdict.rules]
    assert failing(judged(against=None, champion=None, candidate=scores(0.45))) == ["better_than_fallback", "segments"]


def test_without_champion_and_fallback_there_is_nobody_to_beat() -> None:
    verdict = judged(against=None, champion=None, fallback=None, fallbacks=())
    assert verdict.passed
    assert "a row that fails gets no answer" in rule(verdict, "fallback").reason
    assert "fallback" in failing(judged(fallback=None, fallbacks=(), tier="critical"))


@pytest.mark.parametrize(
    ("better", "good", "bad"), [("lower", 0.2, 0.3), ("higher", 0.3, 0.2), ("zero", -0.1, -0.4), ("zero", 0.1, 0.4)]
)
def test_each_metric_says_which_way_is_good(better: Better, good: float, bad: float) -> None:
    for candidate, champion, passes in ((good, bad, True), (bad, good, False)):
        verdict = judged(better=better, candidate=scores(candidate), champion=scores(champion, 2), fallback=None)
        assert rule(verdict, "better_than_champion").passed is passes, rule(verdict, "better_than_champion").reason
        assert rule(verdict, "segments").passed is passes


def test_one_segment_that_is_worse_by_more_than_its_margin_fails() -> None:
    # given a candidate that is better overall and 40% worse where the band is high
    better = scores(0.20)
    worse = np.where(BANDS == "high", VOLUME * 0.35, better.numerator)
    verdict = judged(
        candidate=Scores(numerator=worse, denominator=VOLUME), gate=GateDeclaration(resamples=200, margin=1.0)
    )
    assert failing(verdict) == ["segments"]
    reason = rule(verdict, "segments").reason
    assert "1 of 3 segments are worse than the champion by more than +10.0%" in reason
    assert "'price_band=high' 0.35 against" in reason
    assert {s.segment: s.passed for s in verdict.segments} == {
        "price_band=high": False,
        "price_band=low": True,
        "price_band=null": True,
    }


def test_a_small_segment_is_shown_and_does_not_decide() -> None:
    bands = np.where(np.arange(ROWS) < 10, "rare", "common")
    worse = scores(0.20)
    worse.numerator[:10] = VOLUME[:10] * 9
    verdict = judged(candidate=worse, segments={"band": bands}, gate=GateDeclaration(resamples=200, margin=1.0))
    rare = next(s for s in verdict.segments if s.segment == "band=rare")
    assert (rare.rows, rare.decides, rare.passed) == (10, False, True)
    assert "1 with fewer than 200 rows" in rule(verdict, "segments").reason


def test_golden_output_footprint_fallback_and_sample_each_fail_with_their_reason() -> None:
    verdict = judged(
        golden=GoldenResult(cases=3, failures=("golden.jsonl:2: answered 14.1, known good is 12.3",)),
        answers=OutputCheck(rows=ROWS, wrong=12, detail="row 7 answers -3.2"),
        output=OutputDeclaration(low=0.0),
        footprint=Footprint(load_s=0.8, memory_mib=4_096, p50_ms=0.4, p99_ms=1.9),
        fallbacks=(FallbackCheck(name="recent_mean", passed=False, detail="raised ZeroDivisionError"),),
        sample_share=0.01,
    )
    assert failing(verdict) == ["golden", "output", "footprint", "fallback", "sample"]
    told = {rule.name: rule.reason for rule in verdict.rules}
    assert told["golden"].startswith("1 of 3 cases differ: golden.jsonl:2")
    assert told["output"] == "12 of 2,000 answers are not a number from 0 up (limit 0): row 7 answers -3.2"
    assert "4,096 MiB (limit 2,048)" in told["footprint"]
    assert told["fallback"] == "'recent_mean' raised ZeroDivisionError"
    assert "1.00% (100% is needed)" in told["sample"]
    assert failing(judged(footprint=None)) == ["footprint"]


def test_rows_that_the_candidate_could_not_score_are_its_own_fault() -> None:
    half = scores(0.20)
    half.numerator[:7] = np.nan
    verdict = judged(candidate=half)
    assert failing(verdict) == ["output"]
    assert "7 labelled rows have no score" in rule(verdict, "output").reason
    assert "7 rows that only one of them scored are left out" in rule(verdict, "better_than_champion").reason


def test_rows_without_a_label_are_nobodys_fault() -> None:
    three = [scores(level) for level in (0.20, 0.25, 0.40)]
    for one in three:
        one.numerator[:100] = np.nan
    verdict = judged(candidate=three[0], champion=three[1], fallback=three[2])
    assert verdict.passed
    assert verdict.rows == ROWS - 100


def test_a_metric_that_does_not_exist_is_a_no_that_says_why() -> None:
    zero = Scores(numerator=VOLUME, denominator=VOLUME * 0)
    verdict = judged(candidate=zero, champion=zero, fallback=None)
    assert failing(verdict) == ["better_than_champion"]
    assert "denominator is zero over 2,000 rows" in rule(verdict, "better_than_champion").reason
    assert verdict.candidate is None


def test_one_entity_is_a_no_that_says_why() -> None:
    verdict = judged(entities=np.zeros(ROWS, dtype=int))
    assert "2000 rows of one entity" in rule(verdict, "better_than_champion").reason
    assert not verdict.passed


def test_no_held_out_rows_is_a_no() -> None:
    nothing = Scores(numerator=np.array([]), denominator=np.array([]))
    verdict = judged(
        candidate=nothing,
        champion=nothing,
        fallback=nothing,
        entities=np.array([]),
        segments={"price_band": np.array([], dtype=object)},
        answers=OutputCheck(rows=0, wrong=0),
    )
    assert {"better_than_champion", "better_than_fallback", "output"} <= set(failing(verdict))


def test_entities_may_have_names() -> None:
    named = np.array([f"item-{group}" for group in GROUPS], dtype=object)
    assert judged(entities=named).entities == ENTITIES


@given(seed=st.integers(0, 1_000), shift=st.floats(0.001, 0.2))
@settings(max_examples=20, deadline=None)
def test_a_worse_candidate_never_passes_where_a_better_one_fails(seed: int, shift: float) -> None:
    better = scores(0.24, seed)
    worse = Scores(numerator=better.numerator + shift * VOLUME, denominator=VOLUME)
    first, second = judged(candidate=better), judged(candidate=worse)
    for name in ("better_than_champion", "better_than_fallback", "segments"):
        assert rule(first, name).passed >= rule(second, name).passed


def test_a_verdict_becomes_rows_of_a_table() -> None:
    verdict = judged(beside={"bias": {"candidate": scores(0.01), "champion": scores(0.02)}})
    first = verdict_rows(verdict)[0]
    assert (first.rule, first.answer) == ("better than champion", "passed")
    deciding, bias = score_rows(verdict)
    assert (deciding.metric, bias.metric, bias.fallback) == ("wape", "bias", "-")
    assert [row.segment for row in segment_rows(verdict)] == [
        "price_band=high",
        "price_band=low",
        "price_band=null",
    ]


def test_each_rule_is_documented_with_what_it_asks_why_when_it_cries_wolf_and_how_to_mend() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "gate.md").read_text("utf-8")
    for asked in judged().rules:
        section = page.split(f"### {asked.name}\n")[1].split("\n### ")[0]
        assert all(word in section for word in ("**Asks**", "**Why**", "**Cries wolf**", "**Mend**")), asked.name

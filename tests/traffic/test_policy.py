"""Routing: shares, stickiness, kill switches."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from towpath.registry.log import Challenger, Kill, TrafficState
from towpath.traffic import Policy

AT = datetime(2026, 1, 1, tzinfo=UTC)
UNITS = [f'["{i}"]' for i in range(4_000)]


@given(low=st.floats(0, 1), high=st.floats(0, 1), unit=st.text(max_size=20))
def test_a_ramp_only_adds_units_and_moves_none(low: float, high: float, unit: str) -> None:
    # given the same challenger at a smaller and a larger share
    low, high = sorted((low, high))
    before = Policy(TrafficState(champion=1, challengers=(Challenger(version=2, arm="b", share=low),)), "m")
    after = Policy(TrafficState(champion=1, challengers=(Challenger(version=2, arm="b", share=high),)), "m")
    # then a unit that was in the challenger's arm still is
    if before.route(unit, "local", None).version == 2:
        assert after.route(unit, "local", None).version == 2


@given(share=st.floats(0, 1), unit=st.text(max_size=20))
def test_scaling_two_challengers_together_never_moves_a_unit_between_them(share: float, unit: str) -> None:
    def policy(scale: float) -> Policy:
        arms = (Challenger(version=2, arm="b", share=0.25 * scale), Challenger(version=3, arm="c", share=0.75 * scale))
        return Policy(TrafficState(champion=1, challengers=arms), "m")

    small, full = policy(share).route(unit, "local", None), policy(1.0).route(unit, "local", None)
    assert small.version in {1, full.version}


def test_shares_are_what_was_asked_for() -> None:
    arms = (Challenger(version=2, arm="b", share=0.1), Challenger(version=3, arm="c", share=0.3))
    policy = Policy(TrafficState(champion=1, challengers=arms, holdout_share=0.05), "demand")
    routes = [policy.route(unit, "local", None) for unit in UNITS]
    assert abs(sum(r.reason == "holdout" for r in routes) / len(UNITS) - 0.05) < 0.015
    assert abs(sum(r.arm == "b" for r in routes) / len(UNITS) - 0.095) < 0.02
    assert abs(sum(r.arm == "c" for r in routes) / len(UNITS) - 0.285) < 0.03


def test_a_state_without_shares_and_kills_is_one_route_for_all() -> None:
    assert Policy(TrafficState(champion=4), "m").same_for_all == (4, "champion", None, "ok")
    assert Policy(TrafficState(), "m").route("u", "local", None).reason == "down"


def test_a_kill_switch_hits_what_it_names_and_nothing_else() -> None:
    kill = Kill(because="wrong prices", by="ana", at=AT, segment="price_band=low")
    policy = Policy(TrafficState(champion=4, kills=(kill,)), "m")
    assert policy.route("u", "local", {"price_band": "low"}).reason == "killed"
    assert policy.route("u", "local", {"price_band": "high"}).version == 4
    assert policy.route("u", "local", None).version == 4
    by_consumer = Policy(TrafficState(champion=4, kills=(Kill(because="x", by="ana", at=AT, consumer="b"),)), "m")
    assert by_consumer.route("u", "b", None).reason == "killed"
    assert by_consumer.route("u", "a", None).reason == "ok"
    whole = Policy(TrafficState(champion=4, kills=(Kill(because="x", by="ana", at=AT),)), "m")
    assert whole.same_for_all is not None
    assert whole.same_for_all.reason == "killed"
    by_version = Policy(TrafficState(champion=4, kills=(Kill(because="x", by="ana", at=AT, version=4),)), "m")
    assert by_version.route("u", "a", None).reason == "killed"

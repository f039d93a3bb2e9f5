"""Whatever people do in whatever order: the log is whole, and it says what they did."""

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from towpath.clock import FixedClock
from towpath.errors import RefusedError
from towpath.models.manifest import Manifest
from towpath.registry import claims, history, versions
from towpath.registry.signing import Signer, Trusted, make_keys
from towpath.stores.objects import Objects
from towpath.types import utc

VERSIONS = 4
START = utc("2026-03-01")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder)
    return folder


deeds = st.lists(
    st.one_of(
        st.tuples(st.just("promote"), st.integers(1, VERSIONS)),
        st.tuples(st.just("rollback"), st.just(0)),
        st.tuples(st.just("kill"), st.integers(1, 3)),
        st.tuples(st.just("revive"), st.integers(1, 3)),
    ),
    max_size=14,
)


@given(todo=deeds)
@example(todo=[("promote", 1), ("promote", 2), ("promote", 1), *[("rollback", 0)] * 3])
@settings(max_examples=40, deadline=None)
def test_the_log_tells_champions_and_switches_as_they_were(
    keys: Path, a_manifest: Callable[..., Manifest], todo: list[tuple[str, int]]
) -> None:
    # given a model with four versions, and beside it a line of champions and a set of switches kept by hand
    objects, signer, trusted = Objects("memory://"), Signer(keys), Trusted(keys)
    claims.claim_model(objects, "demand", project="shop", team="fresh", by="mira", clock=FixedClock(START))
    for number in range(1, VERSIONS + 1):
        versions.next_version(objects, "demand", run_id=str(number))
        versions.publish(objects, a_manifest(number), {"model.txt": b"tree"}, signer)
    line: list[int] = []
    switches: set[str] = set()
    then: list[int | None] = []
    # when things happen, an hour apart
    for hour, (deed, which) in enumerate(todo):
        clock = FixedClock(START + timedelta(hours=hour))
        champion = line[-1] if line else None
        if deed == "promote":
            try:
                history.override(
                    objects, "demand", which, against=champion, because="x", trusted=trusted, by="mira", clock=clock
                )
                line.append(which)
            except RefusedError:
                assert which == champion
        elif deed == "rollback":
            try:
                history.rollback(objects, "demand", by="mira", because="x", clock=clock)
                line.pop()
            except RefusedError:
                assert len(line) < 2
        elif deed == "kill":
            history.kill(objects, "demand", by="mira", because="x", clock=clock, consumer=str(which))
            switches.add(str(which))
        else:
            history.revive(objects, "demand", by="mira", clock=clock, consumer=str(which))
            switches.discard(str(which))
        then.append(line[-1] if line else None)
    # then the chain holds, and the newest entry is the whole state
    log = history.entries(objects, "demand")
    now = log[-1].state if log else None
    assert (now.champion if now else None) == (line[-1] if line else None)
    assert (now.previous if now else None) == (line[-2] if len(line) > 1 else None)
    assert {kill.consumer for kill in now.kills} == switches if now else switches == set()
    # and it knows who was champion at any hour
    found = [history.champion_at(log, START + timedelta(hours=hour, minutes=59)) for hour in range(len(todo))]
    assert found == then
    reigns = history.reigns(log)
    assert all(a.until == b.since and a.version != b.version for a, b in pairwise(reigns))
    assert not reigns or reigns[-1].until is None

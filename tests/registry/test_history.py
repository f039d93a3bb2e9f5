from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest

from towpath.clock import FixedClock
from towpath.errors import FormatError, RefusedError, UnknownError
from towpath.gate.verdict import Verdict
from towpath.models.manifest import Manifest
from towpath.registry import history, versions
from towpath.registry.log import Event, LogEntry
from towpath.registry.signing import Signer, Trusted
from towpath.stores.objects import Objects
from towpath.types import utc

Publish = Callable[..., Manifest]


@pytest.fixture
def promote(objects: Objects, trusted: Trusted) -> Callable[..., LogEntry]:
    def one(version: int, at: str = "2026-03-02") -> LogEntry:
        return history.promote(objects, "demand", version, trusted=trusted, by="mira", clock=FixedClock(at))

    return one


Promote = Callable[..., LogEntry]


def test_the_first_promotion_needs_a_verdict_against_nobody(
    objects: Objects, publish: Publish, promote: Promote
) -> None:
    publish(against=None)
    entry = promote(1)
    assert (entry.revision, entry.follows, entry.state.champion, entry.state.previous) == (1, None, 1, None)
    assert entry.event.verdict == "models/demand/versions/000001/verdicts/000001.json"
    assert entry.project == "shop"
    assert history.current(objects, "demand") == entry


def test_each_entry_names_the_one_before_by_digest(objects: Objects, publish: Publish, promote: Promote) -> None:
    publish(against=None)
    publish(against=1)
    promote(1)
    promote(2)
    first, second = history.entries(objects, "demand")
    assert second.follows is not None
    assert second.follows.revision == first.revision == 1
    assert (second.state.champion, second.state.previous) == (2, 1)
    # and a rewritten past is found
    path = "models/demand/log/000001.json"
    objects.put(path, objects.get(path).replace(b"mira", b"otto"))
    with pytest.raises(FormatError, match="entry 2 follows 1"):
        history.entries(objects, "demand")


def test_without_a_verdict_it_is_refused(objects: Objects, publish: Publish, promote: Promote) -> None:
    publish()
    with pytest.raises(RefusedError, match="has no verdict"):
        promote(1)
    assert history.current(objects, "demand") is None


def test_a_failing_verdict_is_refused_with_its_reasons(publish: Publish, promote: Promote) -> None:
    publish(against=None, passed=False)
    with pytest.raises(RefusedError, match=r"better_than_champion: wape 0\.21 against 0\.24"):
        promote(1)


def test_the_newest_verdict_decides(
    objects: Objects, signer: Signer, publish: Publish, promote: Promote, a_verdict: Callable[..., Verdict]
) -> None:
    publish(against=None)
    versions.put_verdict(objects, a_verdict(1, None, passed=False), signer)
    with pytest.raises(RefusedError, match="fails"):
        promote(1)


def test_a_verdict_won_against_another_champion_is_refused(publish: Publish, promote: Promote) -> None:
    publish(against=None)
    publish(against=None)
    promote(1)
    with pytest.raises(RefusedError, match=r"against the fallback alone .* now is version 1"):
        promote(2)
    with pytest.raises(RefusedError, match="is the champion already"):
        promote(1)


def test_a_sample_is_refused_even_with_an_override(
    objects: Objects, trusted: Trusted, publish: Publish, promote: Promote, clock: FixedClock
) -> None:
    publish(against=None, sample_share=0.01)
    with pytest.raises(RefusedError, match=r"sample of 1\.00%"):
        promote(1)
    with pytest.raises(RefusedError, match=r"sample of 1\.00%"):
        history.override(objects, "demand", 1, against=None, because="now", trusted=trusted, by="mira", clock=clock)


def test_an_override_needs_a_reason_and_is_visible_for_ever(
    objects: Objects, trusted: Trusted, publish: Publish, promote: Promote, clock: FixedClock
) -> None:
    publish(against=None, passed=False)
    publish(against=1)
    override = partial(history.override, objects, "demand", 1, trusted=trusted, by="mira", clock=clock)
    with pytest.raises(RefusedError, match="needs a reason"):
        override(against=None, because=" ")
    with pytest.raises(RefusedError, match="champion now is the fallback alone"):
        override(against=7, because="launch")
    override(against=None, because="launch")
    promote(2)
    first, second = history.reigns(history.entries(objects, "demand"))
    assert (first.event.override, first.event.because) == (True, "launch")
    assert not second.event.override


def test_a_tampered_version_is_not_promoted(objects: Objects, publish: Publish, promote: Promote) -> None:
    publish(against=None)
    path = "models/demand/versions/000001/manifest.json"
    objects.put(path, objects.get(path) + b" ")
    with pytest.raises(RefusedError, match="were changed after they were signed"):
        promote(1)


def test_rollback_returns_and_a_second_one_goes_further_back(
    objects: Objects, publish: Publish, promote: Promote, clock: FixedClock
) -> None:
    for version, against in ((1, None), (2, 1), (3, 2)):
        publish(against=against)
        promote(version)

    def back(**leaving: int) -> tuple[int | None, int | None]:
        entry = history.rollback(objects, "demand", by="mira", because="slow", clock=clock, **leaving)
        return entry.state.champion, entry.state.previous

    assert back(leaving=3) == (2, 1)
    # and the button pressed twice goes back once
    with pytest.raises(RefusedError, match="champion is version 2, not 3"):
        back(leaving=3)
    assert back() == (1, None)
    with pytest.raises(RefusedError, match="no version was champion before version 1"):
        back()


def test_rollback_of_a_model_without_history_is_refused(objects: Objects, clock: FixedClock) -> None:
    with pytest.raises(RefusedError, match="not rolled back"):
        history.rollback(objects, "demand", by="mira", because="slow", clock=clock)


def test_who_was_champion_when(objects: Objects, publish: Publish, promote: Promote) -> None:
    publish(against=None)
    publish(against=1)
    promote(1, "2026-03-02")
    promote(2, "2026-03-05")
    history.kill(objects, "demand", by="otto", because="odd", clock=FixedClock("2026-03-06"))
    history.rollback(objects, "demand", by="mira", because="slow", clock=FixedClock("2026-03-07"))
    log = history.entries(objects, "demand")
    found = [(r.version, r.since.day, r.until.day if r.until else None) for r in history.reigns(log)]
    assert found == [(1, 2, 5), (2, 5, 7), (1, 7, None)]
    # windows are half-open
    at = utc("2026-03-05")
    assert history.champion_at(log, at) == 2
    assert history.champion_at(log, at - timedelta(microseconds=1)) == 1
    assert history.champion_at(log, utc("2026-03-01")) is None


def test_kill_switches_add_up_and_are_taken_back(
    objects: Objects, publish: Publish, promote: Promote, clock: FixedClock
) -> None:
    publish(against=None)
    promote(1)

    def kill(because: str, **scope: str | int) -> LogEntry:
        return history.kill(objects, "demand", by="otto", because=because, clock=clock, **scope)  # pyright: ignore[reportArgumentType]

    kill("odd", consumer="app")
    kill("odder", segment="price_band=low")
    entry = kill("oddest", consumer="app")
    # then the same switch pressed twice is one switch, and the champion stays
    assert [(k.consumer, k.segment, k.because) for k in entry.state.kills] == [
        (None, "price_band=low", "odder"),
        ("app", None, "oddest"),
    ]
    assert entry.state.champion == 1
    left = history.revive(objects, "demand", by="otto", clock=clock, consumer="app")
    assert [k.segment for k in left.state.kills] == ["price_band=low"]
    assert history.revive(objects, "demand", by="otto", clock=clock).state.kills == ()
    with pytest.raises(RefusedError, match="say why"):
        kill(" ")
    with pytest.raises(UnknownError, match="did you mean 'demand'"):
        history.kill(objects, "demnad", by="otto", because="odd", clock=clock)


def test_a_decision_on_an_older_revision_is_refused_unless_it_commutes(objects: Objects, clock: FixedClock) -> None:
    history.kill(objects, "demand", by="otto", because="odd", clock=clock)
    event = Event(kind="traffic_changed", at=clock.now(), by="mira")
    with pytest.raises(
        RefusedError, match="decided on revision 0, and meanwhile there is killed by otto at revision 1"
    ):
        history.append(objects, "demand", event, lambda before: before, on=0)
    assert history.append(objects, "demand", event, lambda before: before, on=1).revision == 2
    assert history.append(objects, "demand", event, lambda before: before, on=0, commutes=True).revision == 3


def test_a_lost_acknowledgement_is_no_lost_promotion(
    objects: Objects, publish: Publish, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(against=None)
    put_new = objects.put_new

    # given a store that writes the entry, loses the answer, and on the retry says that it exists
    def twice(path: str, data: bytes) -> None:
        put_new(path, data)
        put_new(path, data)

    monkeypatch.setattr(objects, "put_new", twice)
    assert promote(1).state.champion == 1

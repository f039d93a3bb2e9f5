"""Real processes against a folder and against an S3 server: of promoters that race one wins."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from towpath.clock import FixedClock
from towpath.gate.verdict import Verdict
from towpath.models.manifest import Manifest
from towpath.registry import claims, history, versions
from towpath.registry.signing import Signer, Trusted
from towpath.stores.objects import Objects

RACER = Path(__file__).with_name("racer.py")
Racers = Callable[[str, Sequence[str]], list[Any]]


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "objects")
    return f"{request.getfixturevalue('s3_url')}/{tmp_path.name}"


@pytest.fixture
def store(url: str, clock: FixedClock) -> Objects:
    objects = Objects(url)
    objects.check_create_only()
    claims.claim_model(objects, "demand", project="shop", team="fresh", by="mira", clock=clock)
    return objects


@pytest.fixture
def race(url: str, keys: Path) -> Iterator[Racers]:
    running: list[subprocess.Popen[str]] = []

    def run(role: str, arguments: Sequence[str]) -> list[Any]:
        for number, argument in enumerate(arguments):
            command = [sys.executable, str(RACER), role, url, str(keys), f"{role}-{number}", argument]
            running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        racers = running[-len(arguments) :]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        return [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]

    yield run
    for racer in running:
        racer.kill()
        racer.wait()
        for pipe in (racer.stdin, racer.stdout):
            if pipe is not None:
                pipe.close()


def test_trainers_that_race_get_different_numbers_and_whole_versions(
    store: Objects, race: Racers, trusted: Trusted, a_manifest: Callable[..., Manifest]
) -> None:
    template = msgspec.json.encode(a_manifest(1)).decode()
    numbers = race("train", [template] * 4)
    flat = [number for each in numbers for number in each]
    assert sorted(flat) == list(range(1, 21))
    assert versions.versions(store, "demand") == sorted(flat)
    for name, each in enumerate(numbers):
        for number in each:
            assert versions.manifest(store, "demand", number, trusted).created_by == f"train-{name}"


def test_of_promoters_that_race_one_wins_and_their_retries_are_refused(
    store: Objects,
    race: Racers,
    signer: Signer,
    a_manifest: Callable[..., Manifest],
    a_verdict: Callable[..., Verdict],
) -> None:
    # given four candidates, each with a verdict won against nobody
    for run in range(4):
        number = versions.next_version(store, "demand", run_id=f"r{run}")
        versions.publish(store, a_manifest(number), {"model.txt": b"tree"}, signer)
        versions.put_verdict(store, a_verdict(number, None), signer)
    # when all are promoted at once, each trying five times
    said = [word for each in race("promote", ["1", "2", "3", "4"]) for word in each]
    # then one won, once, and the log has one entry
    assert said.count("won") == 1
    log = history.entries(store, "demand")
    assert [entry.event.kind for entry in log] == ["promoted"]
    # and the others were told why
    assert all("not promoted" in word or "already" in word or "meanwhile" in word for word in said if word != "won")


def test_of_rollbacks_that_race_one_wins(
    store: Objects,
    race: Racers,
    clock: FixedClock,
    trusted: Trusted,
    signer: Signer,
    a_manifest: Callable[..., Manifest],
) -> None:
    for version in (1, 2, 3):
        versions.next_version(store, "demand", run_id=f"r{version}")
        versions.publish(store, a_manifest(version), {"model.txt": b"tree"}, signer)
        against = version - 1 or None
        history.override(
            store, "demand", version, against=against, because="test", trusted=trusted, by="mira", clock=clock
        )
    said = race("rollback", ["3"] * 4)
    assert said.count("won") == 1
    now = history.current(store, "demand")
    assert now is not None
    assert now.state.champion == 2


def test_kill_switches_that_race_are_all_kept(store: Objects, race: Racers) -> None:
    race("kill", [""] * 4)
    log = history.entries(store, "demand")
    assert len(log) == 4 * 6
    assert {k.consumer for k in log[-1].state.kills} == {f"kill-{n}-{r}" for n in range(4) for r in (0, 2)}

"""A store with one claimed model, keys, and small whole versions."""

from collections.abc import Callable
from pathlib import Path

import pytest

from towpath.clock import FixedClock
from towpath.gate.verdict import Rule, Verdict
from towpath.models.manifest import Artefact, Environment, Field, Manifest, Signature, StoredFile, Training
from towpath.registry import claims, versions
from towpath.registry.signing import Signer, Trusted, make_keys
from towpath.stores.objects import Objects
from towpath.types import utc

CLOCK = FixedClock("2026-03-01")


def _manifest(version: int, *, model: str = "demand", project: str = "shop", sample_share: float = 1.0) -> Manifest:
    nothing = "sha256:" + "0" * 64
    return Manifest(
        project=project,
        team="fresh",
        model=model,
        version=version,
        created_at=CLOCK.now(),
        created_by="mira",
        owner="mira",
        artefact=Artefact(file=StoredFile(path="model.txt", digest=nothing, size_bytes=0), format="lightgbm"),
        signature=Signature(
            container="pandas",
            inputs=(Field(name="prices.price", type="double"),),
            outputs=(Field(name="prediction", type="double"),),
        ),
        training=Training(
            run_id=f"run-{version}",
            as_of=CLOCK.now(),
            rows=90,
            holdout_rows=10,
            seed=7,
            sample_share=sample_share,
        ),
        environment=Environment(python="3.11.7", platform="linux-x86_64", packages={}, towpath="0.1.0"),
    )


def _verdict(version: int, against: int | None, *, passed: bool = True) -> Verdict:
    return Verdict(
        project="shop",
        model="demand",
        version=version,
        against=against,
        at=utc("2026-03-01T12:00"),
        by="mira",
        passed=passed,
        metric="wape",
        rows=10,
        entities=5,
        rules=(Rule(name="better_than_champion", passed=passed, reason="wape 0.21 against 0.24 (limit 0.24)"),),
    )


@pytest.fixture
def clock() -> FixedClock:
    return CLOCK


@pytest.fixture(scope="session")
def a_manifest() -> Callable[..., Manifest]:
    return _manifest


@pytest.fixture(scope="session")
def a_verdict() -> Callable[..., Verdict]:
    return _verdict


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    make_keys(folder)
    return folder


@pytest.fixture
def signer(keys: Path) -> Signer:
    return Signer(keys)


@pytest.fixture
def trusted(keys: Path) -> Trusted:
    return Trusted(keys)


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    store = Objects(str(tmp_path / "objects"))
    claims.claim_model(store, "demand", project="shop", team="fresh", by="mira", clock=CLOCK)
    return store


Publish = Callable[..., Manifest]


@pytest.fixture
def publish(objects: Objects, signer: Signer) -> Publish:
    """Publishes the next version of ``demand``; with ``against=…`` also a verdict, passing unless said otherwise."""

    def one(*, sample_share: float = 1.0, passed: bool = True, **verdict: int | None) -> Manifest:
        number = versions.next_version(objects, "demand", run_id=f"run-{len(objects.paths())}")
        files = {"model.txt": b"tree " * 20, "golden.jsonl": b"{}\n", "code/model.py": b"x = 1\n"}
        stored = versions.publish(objects, _manifest(number, sample_share=sample_share), files, signer)
        if "against" in verdict:
            versions.put_verdict(objects, _verdict(number, verdict["against"], passed=passed), signer)
        return stored

    return one

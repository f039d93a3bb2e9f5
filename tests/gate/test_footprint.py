"""A real model, loaded and called in a process of its own."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from towpath import compute
from towpath.clock import FixedClock
from towpath.errors import ModelError
from towpath.gate import footprint
from towpath.gate.verdict import Footprint
from towpath.models.manifest import Artefact, Field, Manifest, Signature, StoredFile
from towpath.project.declarations import GateDeclaration


@pytest.fixture
def version(tmp_path: Path) -> tuple[bytes, Path]:
    """A manifest's bytes and the folder of its files: LightGBM, two features."""
    lightgbm = pytest.importorskip("lightgbm", reason="lightgbm is missing (uv sync --extra lightgbm)")
    folder = tmp_path / "version"
    folder.mkdir()
    rows = np.random.default_rng(0).normal(size=(200, 2))
    data = lightgbm.Dataset(rows, rows[:, 0])
    lightgbm.train({"verbose": -1, "num_threads": 1}, data, 5).save_model(folder / "model.txt")
    manifest = Manifest(
        project="shop",
        team="fresh",
        model="demand",
        version=1,
        created_at=FixedClock("2026-03-01").now(),
        created_by="mira",
        owner="mira",
        artefact=Artefact(
            file=StoredFile(path="model.txt", digest="sha256:" + "0" * 64, size_bytes=0),
            format="lightgbm",
            framework="lightgbm",
            framework_version=lightgbm.__version__,
        ),
        signature=Signature(
            container="numpy",
            inputs=(Field(name="prices.price", type="double"), Field(name="day", type="double")),
            outputs=(Field(name="prediction", type="double"),),
        ),
    )
    return msgspec.json.encode(manifest), folder


def test_a_version_is_measured_in_a_clean_process(version: tuple[bytes, Path], tmp_path: Path) -> None:
    command = footprint.prepare(tmp_path / "task", *version, {"prices.price": 1.5, "day": None})
    finished = compute.run(command, folder=tmp_path)
    found = footprint.read(finished.stdout_tail)
    assert 0 < found.load_s < 60
    assert 10 < found.memory_mib < 2_000
    assert 0 < found.p50_ms <= found.p99_ms


def test_a_version_that_does_not_load_says_why(version: tuple[bytes, Path], tmp_path: Path) -> None:
    (version[1] / "model.txt").write_bytes(b"\x00\x01")
    finished = compute.run(footprint.prepare(tmp_path / "task", *version, {}), folder=tmp_path)
    assert finished.exit_code == 1
    with pytest.raises(ModelError, match=r"could not be measured; .*model\.txt"):
        footprint.read(finished.stdout_tail)


def test_what_the_users_code_prints_does_not_hide_the_measurement() -> None:
    found = footprint.read(
        ["hello", 'towpath-footprint:{"load_s":1,"memory_mib":2,"p50_ms":3,"p99_ms":4}', "warning: bye", ""]
    )
    assert found.p99_ms == 4
    with pytest.raises(ModelError, match="printed last: nothing"):
        footprint.read([])


@pytest.mark.parametrize(
    ("load_s", "memory_mib", "taken", "found"),
    [
        ([2.0, 1.0], 100, 1, 2.0),  # within the limits at once
        ([40.0, 3.0, 1.0], 100, 2, 3.0),  # a neighbour, once
        ([40.0, 50.0, 35.0, 1.0], 100, 3, 35.0),  # it is slow
        ([40.0, 1.0], 4_096, 1, 40.0),  # too large, and no quiet moment would help
    ],
)
def test_a_busy_machine_is_no_slow_version(load_s: list[float], memory_mib: float, taken: int, found: float) -> None:
    measured = iter([Footprint(load_s=s, memory_mib=memory_mib, p50_ms=1, p99_ms=2) for s in load_s])
    best = footprint.quietest(measured, GateDeclaration(load_s=30))
    assert (best.load_s, len(load_s) - len(list(measured))) == (found, taken)
    assert footprint.within(best, GateDeclaration(load_s=30)) == (found < 30 and memory_mib < 2_048)

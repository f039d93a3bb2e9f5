"""Environments of models with a lock of their own: built once, whole or not at all, and other than ours."""

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from apart_stand import a_version, asked
from msgspec.structs import replace

from towpath.apart import Apart, find_uv, open_version
from towpath.apart.environments import interpreter, packages
from towpath.errors import ExtraError, ProjectError, ResourceError
from towpath.models.manifest import StoredFile
from towpath.project.locks import lacking

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numpy and msgspec alone, as our own lock has them: they are in uv's cache, for we run on them."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    said = subprocess.run(
        ["uv", "export", "--frozen", "--no-dev", "--no-emit-project", "--project", str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    blocks = re.findall(r"^(?:numpy|msgspec)==(?:.*\\\n)+.*\n", said, re.MULTILINE)
    path = tmp_path_factory.mktemp("lock") / "requirements.lock"
    path.write_text("".join(blocks))
    return path


def test_a_version_with_a_lock_runs_where_nothing_else_is_installed(tmp_path: Path, lock: Path) -> None:
    # given a version that did not ask for a process and whose code tells what it can import
    code = """import importlib.util, sys
import numpy as np
FOUND = [float(importlib.util.find_spec(name) is not None) for name in ("towpath", "lightgbm", "duckdb")]
def predict(model, rows):
    return np.asarray(rows)[:, 0] * 0 + FOUND[0] * 100 + FOUND[1] * 10 + FOUND[2]
"""
    manifest, folder = a_version(tmp_path, code=code)
    (folder / lock.name).write_bytes(lock.read_bytes())
    stored = StoredFile(path=lock.name, digest="sha256:" + "0" * 64, size_bytes=1)
    manifest = replace(manifest, files=(*manifest.files, stored))
    environments = tmp_path / "environments"
    # when two ask for it at once
    built: list[str] = []
    threads = [
        threading.Thread(target=lambda: built.append(interpreter(folder / lock.name, environments, who="demand@1")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # then one was built, and holds the lock and no more
    assert len(set(built)) == 1
    assert sorted(packages(built[0])) == ["msgspec", "numpy"]
    assert len([path for path in environments.iterdir() if path.is_dir()]) == 1
    model = open_version(manifest, folder, environments=environments)
    assert isinstance(model, Apart)
    assert asked(model, 1) == [100.0]
    model.close()
    # and one that was damaged is built again
    (site,) = Path(built[0]).parents[1].glob("lib/python*/site-packages")
    shutil.rmtree(site / "msgspec")
    model = open_version(manifest, folder, environments=environments)
    assert asked(model, 1) == [100.0]
    model.close()
    Path(built[0]).parents[1].joinpath("towpath.lock").unlink()
    assert interpreter(folder / lock.name, environments, who="demand@1") == built[0]


def test_the_process_of_a_model_needs_numpy_and_msgspec_alone() -> None:
    code = (
        "import sys, towpath.apart.child, towpath.training.task; print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert {name for name in foreign if not name.startswith("_") and "ython" not in name} <= {
        "towpath",
        "numpy",
        "msgspec",
        "typing_extensions",  # which numpy takes where it is there
    }


def test_a_lock_that_cannot_be_used_is_refused_before_anything_is_built(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lacking(lock.name, lock.read_bytes()) == ""
    assert "pyarrow" in lacking(lock.name, lock.read_bytes(), training=True)
    assert lacking("requirements.lock", b"numpy==2.1.0\nmsgspec==0.19 --hash=sha256:0") == "'numpy==2.1.0' has no hash"
    assert lacking("pylock.toml", b'[[packages]]\nname = "numpy"\n[[packages]]\nname = "msgspec"\n') == ""
    bad = tmp_path / "requirements.lock"
    bad.write_bytes(b"numpy==2.1.0")
    with pytest.raises(ProjectError, match="has no hash"):
        interpreter(bad, tmp_path / "environments", who="demand@1")
    # a hash that is not the file's: uv refuses, and nothing is left
    bad.write_text(re.sub(r"sha256:\w+", "sha256:" + "0" * 64, lock.read_text()))
    with pytest.raises(ResourceError, match="could not be built"):
        interpreter(bad, tmp_path / "environments", who="demand@1")
    assert [path for path in (tmp_path / "environments").iterdir() if path.is_dir()] == []
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExtraError, match="needs uv"):
        interpreter(lock, tmp_path / "others", who="demand@1")
    with pytest.raises(ExtraError):
        find_uv()


OLD = """lightgbm==3.3.5
msgspec
numpy<2
pandas<2.2
pyarrow<20
scikit-learn<1.3
"""


@pytest.mark.nightly
def test_a_model_of_another_major_version_is_trained_and_served_beside_one_of_ours(tmp_path: Path) -> None:
    import lightgbm

    from towpath.demo.files import write_project
    from towpath.demo.shop import append, open_shop
    from towpath.demo.story import STORY
    from towpath.features import OnlineReader
    from towpath.platform import Platform
    from towpath.serving.deployments import StoreDeployments

    folder = tmp_path / "shop"
    write_project(folder)
    append(folder / "warehouse" / "shop", open_shop(np.random.default_rng(7)), STORY.history_since, STORY.day(2))
    with Platform.open(folder, variables={}) as platform:
        # given a champion of the LightGBM that is installed here
        now = platform.at(STORY.morning(0))
        demand = now.models["demand"]
        now.features.build()
        demand.train()
        demand.gate()
        demand.promote(because="the first champion")
        # when the model gets a lock with another major version, and is trained and proven again
        home = folder / "models" / "demand"
        (home / "requirements.in").write_text(OLD)
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        asked_for = ["--python-version", python, "requirements.in", "-o", "requirements.lock"]
        subprocess.run(["uv", "pip", "compile", "-q", "--generate-hashes", *asked_for], cwd=home, check=True)
        second = demand.train()
        assert second.version == 2
        manifest = demand.manifest(2)
        assert manifest.artefact.framework_version == "3.3.5" != lightgbm.__version__
        assert manifest.environment is not None
        assert manifest.environment.packages["lightgbm"] == "3.3.5"
        verdict = demand.gate(2)
        assert verdict.footprint is not None
        assert verdict.footprint.memory_mib > 60
        demand.promote(2, because="the old one beside the new one", override=True)
        # then both stand in one process, and each answers by its own framework
        deployments = StoreDeployments(
            platform.objects,
            cache=folder / ".towpath" / "serving" / "versions",
            trusted=platform.trusted,
            open_reader=lambda m: OnlineReader(platform.online, m.features, m.project),
            clock=now.clock,
        )
        deployments.poll()
        live = deployments.live["demand"]
        assert sorted(live.versions) == [1, 2], live.problem
        assert isinstance(live.versions[2].loaded, Apart)
        assert not isinstance(live.versions[1].loaded, Apart)
        row = {field.name: 5.0 for field in manifest.signature.inputs}
        columns = {name: np.array([value]) for name, value in row.items()}
        answers = [next(iter(live.versions[n].model.predict(columns).values())).tolist()[0] for n in (1, 2)]
        assert answers[0] == pytest.approx(answers[1], rel=0.3)
        deployments.close()

"""Small real models of each framework, trained once a session."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from towpath.models import Model, fields_of, load_file, pack_code, save, signature_of
from towpath.models.manifest import Artefact, Manifest, Signature, StoredFile
from towpath.project.declarations import OutputDeclaration
from towpath.types import Container, OutputKind

FEATURES = 4


@pytest.fixture(scope="session")
def features() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(300, FEATURES))


@pytest.fixture(scope="session")
def label(features: np.ndarray) -> np.ndarray:
    return features[:, 0] * 2 + np.sin(3 * features[:, 1])


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, features: np.ndarray, label: np.ndarray) -> dict[str, Path]:
    """One regression file per bare format."""
    import catboost
    import lightgbm
    import skops.io
    import xgboost
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestRegressor

    folder = tmp_path_factory.mktemp("bare")
    made = {
        name: folder / name
        for name in ("model.txt", "model.json", "model.ubj", "model.cbm", "model.skops", "model.onnx")
    }
    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(features, label), 20)
    booster.save_model(made["model.txt"])
    trees = xgboost.train({"nthread": 1}, xgboost.DMatrix(features, label), 20)
    trees.save_model(made["model.json"])
    trees.save_model(made["model.ubj"])
    boosted = catboost.CatBoostRegressor(
        iterations=20, verbose=False, thread_count=1, allow_writing_files=False, train_dir=str(folder)
    )
    boosted.fit(features, label)
    boosted.save_model(str(made["model.cbm"]))
    forest = RandomForestRegressor(10, random_state=1).fit(features, label)
    skops.io.dump(forest, made["model.skops"])
    exported: Any = to_onnx(forest, features[:1].astype(np.float32))
    made["model.onnx"].write_bytes(exported.SerializeToString())
    return made


@pytest.fixture(scope="session")
def loaded(files: dict[str, Path]) -> dict[str, Model]:
    """Each bare file, loaded once: some are tried in a process of their own first."""
    return {name: load_file(path, name="demand") for name, path in files.items()}


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """Write ``models/demand/model.py`` and further modules into a project folder."""

    def write(code: str, **modules: str) -> Path:
        root = tmp_path / "shop"
        (root / "models" / "demand").mkdir(parents=True, exist_ok=True)
        (root / "models" / "demand" / "model.py").write_text(code)
        for name, text in modules.items():
            path = root / ((name if "/" in name else name.replace("__", "/")) + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    return write


@pytest.fixture
def version(tmp_path: Path) -> Callable[..., tuple[Manifest, Path]]:
    """Publish a version into a folder, as the platform does."""

    def publish(
        trained: object,
        signature: Signature,
        *,
        root: Path | None = None,
        number: int = 1,
        kind: OutputKind = "number",
        own_predict: bool = False,
        width: int = FEATURES,
        **of_artefact: object,
    ) -> tuple[Manifest, Path]:
        folder = tmp_path / f"{number:06d}"
        artefact = save(trained, folder, own_predict=own_predict, width=width)
        files: tuple[StoredFile, ...] = ()
        if root is not None:
            code = pack_code(root, root / "models" / "demand")
            (folder / "code.zip").write_bytes(code)
            files = (StoredFile(path="code.zip", digest="sha256:" + "0" * 64, size_bytes=len(code)),)
        if of_artefact:
            import msgspec

            artefact = msgspec.structs.replace(artefact, **of_artefact)
        assert isinstance(artefact, Artefact)
        manifest = Manifest(
            project="shop",
            team="t",
            model="demand",
            version=number,
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            created_by="a",
            owner="a",
            artefact=artefact,
            signature=signature,
            output=OutputDeclaration(kind=kind),
            files=files,
        )
        return manifest, folder

    return publish


@pytest.fixture
def plain(features: np.ndarray) -> Callable[..., Signature]:
    """The signature of the four float features, in any container."""
    import pyarrow as pa

    def make(container: Container = "numpy", kind: OutputKind = "number", trained: object = None) -> Signature:
        table = pa.table({f"c{i}": features[:, i] for i in range(FEATURES)})
        return signature_of(fields_of(table), container, kind, trained)

    return make

"""Damaged and hostile files are refused with what was found in them, and nothing of them runs."""

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
import pytest

from towpath.errors import FormatError, RefusedError, TowpathError
from towpath.models import load_file, load_version, pickles, sniff
from towpath.models.manifest import Manifest, Signature

SUFFIXES = ["model.txt", "model.json", "model.ubj", "model.cbm", "model.skops", "model.onnx"]

SYSTEM: Any = getattr(os, "system")  # noqa: B009 - deprecated by name, and meant
ZLIB: Any = ("zlib", 3)


class Calls:
    """Pickles to a call of any function, by name, whether or not it exists here."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def by_name(module: str, name: str, *arguments: str, packed: int = 0x80) -> bytes:
    """A pickle of protocol 4, written by hand: STACK_GLOBAL, arguments, REDUCE."""

    def text(value: str) -> bytes:
        return b"\x8c" + struct.pack("<B", len(value)) + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93(" + b"".join(map(text, arguments)) + b"tR."


def hostile(marker: Path) -> dict[str, bytes]:
    """Each would write `marker` if a part of it ran."""
    shell = f"touch {marker}"
    joblib_file = io.BytesIO()
    joblib.dump({"a": np.arange(3.0), "b": Calls(SYSTEM, shell)}, joblib_file)
    nested = io.BytesIO()
    joblib.dump(np.array([Calls(SYSTEM, shell)], dtype=object), nested)
    packed = io.BytesIO()
    joblib.dump([np.arange(3.0), Calls(SYSTEM, shell)], packed, compress=ZLIB)
    return {
        "os.system": pickle.dumps(Calls(SYSTEM, shell)),
        "os.system, protocol 0": pickle.dumps(Calls(SYSTEM, shell), protocol=0),
        "os.system through a dotted name": by_name("sklearn.utils", "os.system", shell),
        "os.system through glob": by_name("glob", "os.system", shell),
        "numpy.f2py": by_name("numpy.f2py.crackfortran", "getlincoef", f"__import__('os').system('{shell}')", "x"),
        "numpy's f2py through a dotted name": by_name("numpy", "f2py.compile", shell),
        "pkgutil.resolve_name": by_name("pkgutil", "resolve_name", "os:system"),
        "builtins.eval": by_name("builtins", "eval", f"__import__('os').system('{shell}')"),
        "exec of old": b"cbuiltins\nexec\n(S'open(%r, \"w\")'\ntR." % str(marker),
        "subprocess": by_name("subprocess", "getoutput", shell),
        "runpy": by_name("runpy", "run_path", str(marker)),
        "joblib": joblib_file.getvalue(),
        "joblib, within an array of objects": nested.getvalue(),
        "joblib, packed": packed.getvalue(),
        "joblib, its own loader": by_name("joblib.numpy_pickle", "load", str(marker)),
    }


NAMES = sorted(hostile(Path("x")))


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_no_hostile_pickle_runs_even_where_the_user_trusts_it(name: str, trust: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "model.onnx"
    path.write_bytes(hostile(marker)[name])
    with pytest.raises((FormatError, RefusedError)):
        load_file(path, name="demand", trust_pickle=trust)
    assert not marker.exists()


def test_a_hostile_pickle_is_named_by_what_it_would_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Calls(SYSTEM, "true")))
    with pytest.raises(FormatError, match=r"would run 'posix\.system'; nothing of it was run"):
        load_file(path, name="demand")


def test_a_pickle_needs_trust_that_is_spelt_out(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0])
    for name, data in {"plain": pickle.dumps(model), "old": pickle.dumps(model, protocol=2)}.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(RefusedError, match="--trust-pickle"):
            load_file(path, name="demand")
        loaded = load_file(path, name="demand", trust_pickle=True)
        assert loaded.predict({"f0": np.array([3.0])})["prediction"] == pytest.approx([3.0])


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3)])
def test_an_honest_joblib_file_loads_with_trust(compress: Any, tmp_path: Path, features: np.ndarray) -> None:
    from sklearn.ensemble import RandomForestClassifier

    label = np.where(features[:, 0] > 0, "yes", "no").astype(object)
    forest = RandomForestClassifier(5, random_state=1, n_jobs=2).fit(features, label)
    path = tmp_path / "model.txt"
    joblib.dump(forest, path, compress=compress)
    assert sniff(path).format == "joblib"
    with pytest.raises(RefusedError, match="is a file of joblib"):
        load_file(path, name="demand")
    model = load_file(path, name="demand", trust_pickle=True)
    answer = model.predict({f"f{i}": features[:, i] for i in range(4)})
    assert answer["prediction"].tolist() == forest.predict(features).tolist()
    assert answer["probabilities"].shape == (len(features), 2)
    assert model.kind == "class"


@pytest.mark.parametrize("name", NAMES)
def test_a_version_loads_nothing_that_is_not_in_its_list(
    name: str, tmp_path: Path, version: Callable[..., tuple[Manifest, Path]], plain: Callable[..., Signature]
) -> None:
    # given a version whose artefact was swapped for a hostile one
    marker = tmp_path / "ran"
    manifest, folder = version({"weekly": np.float64(2.0)}, plain())
    (folder / "model.pkl").write_bytes(hostile(marker)[name])
    with pytest.raises(TowpathError):
        load_version(manifest, folder)
    # and given a list that names what no model needs
    wide = msgspec.structs.replace(
        manifest.artefact, allow=("posix:system", "os:system", "builtins:eval", "sklearn.utils:os.system")
    )
    with pytest.raises(TowpathError):
        load_version(msgspec.structs.replace(manifest, artefact=wide), folder)
    assert not marker.exists()


def test_the_list_of_a_pickle_is_exact() -> None:
    data, allow = pickles.dump({"weekly": np.arange(3.0)})
    assert allow
    assert all(pair.startswith("numpy") for pair in allow)
    assert pickles.load_allowed(data, allow, "demand@1")["weekly"].tolist() == [0.0, 1.0, 2.0]
    for left_out in allow:
        with pytest.raises(FormatError, match="not in its list"):
            pickles.load_allowed(data, [pair for pair in allow if pair != left_out], "demand@1")


def test_what_no_model_needs_is_refused_when_it_is_written() -> None:
    with pytest.raises(RefusedError, match=r"posix\.system"):
        pickles.dump({"hook": SYSTEM})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_cut_off_is_refused(suffix: str, files: dict[str, Path], tmp_path: Path) -> None:
    data = files[suffix].read_bytes()
    end = data.index(b"end of trees") if suffix == "model.txt" else len(data)
    for share in (0.02, 0.3, 0.6, 0.97):
        path = tmp_path / "model"
        path.write_bytes(data[: int(end * share)])
        with pytest.raises(FormatError):
            load_file(path, name="demand")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("left_child=99999 ", "out of range"),
        ("left_child=0 ", "out of range"),
        ("split_feature=77 ", "splits on feature 77 of 4"),
        ("threshold=abc ", "no number"),
    ],
)
def test_a_lightgbm_tree_that_points_outside_of_itself_is_refused(
    line: str, said: str, files: dict[str, Path], tmp_path: Path
) -> None:
    text = files["model.txt"].read_text()
    name = line.split("=", maxsplit=1)[0]
    at = text.index(f"\n{name}=") + 1
    end = text.index(" ", at) + 1
    changed = text[:at] + line + text[end:]
    head = changed.index("tree_sizes=")
    changed = changed[:head] + changed[changed.index("\n", head) + 1 :]
    path = tmp_path / "model"
    path.write_text(changed)
    with pytest.raises(FormatError, match=said):
        load_file(path, name="demand")


def test_an_xgboost_tree_that_points_outside_of_itself_ends_no_process_of_ours(
    files: dict[str, Path], tmp_path: Path
) -> None:
    document = json.loads(files["model.json"].read_text())
    for tree in document["learner"]["gradient_booster"]["model"]["trees"]:
        tree["left_children"][0] = tree["right_children"][0] = 2_000_000_000
    path = tmp_path / "model"
    path.write_text(json.dumps(document))
    with pytest.raises(FormatError):
        load_file(path, name="demand")


def test_a_forest_whose_nodes_point_outside_is_refused(features: np.ndarray, label: np.ndarray, tmp_path: Path) -> None:
    from sklearn.tree import DecisionTreeRegressor

    tree = DecisionTreeRegressor(max_depth=3).fit(features, label)
    state = tree.tree_.__getstate__()
    state["nodes"]["left_child"][0] = 1_000_000
    tree.tree_.__setstate__(state)
    path = tmp_path / "model"
    path.write_bytes(pickle.dumps(tree))
    with pytest.raises(FormatError, match="point outside"):
        load_file(path, name="demand", trust_pickle=True)


def test_a_skops_file_with_a_type_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    marker = tmp_path / "ran"
    path = tmp_path / "model"
    skops.io.dump(FunctionTransformer(SYSTEM), path)
    with pytest.raises(FormatError, match=r"posix\.system"):
        load_file(path, name="demand")
    assert not marker.exists()


def test_a_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * 200 * 2**20)
    with pytest.raises(FormatError, match="zip bomb"):
        sniff(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"price,units\n1,2\n", r"is text \(16 bytes that begin"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "a PNG image"),
        (gzip.compress(b"not a model at all"), "a gzip archive"),
        (b"PK\x03\x04nonsense", "damaged or cut off"),
        (b'{"a": 1}', "no XGBoost model"),
        (b'{"a": ', "damaged JSON"),
        (b"{U\x01aU\x07}", "no XGBoost model"),
        (b"\x7fELF" + b"\0" * 50, "a program"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x08\x07\x12\x04abc", "damaged or cut off"),
        (b"\x80\x05\x95", "pickle and is damaged"),
        (b"\x01\x02\x03\x04", "of no known format"),
        (b"PAR1....", "a Parquet table"),
    ],
)
def test_what_is_no_model_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=said):
        sniff(path)


def test_a_file_that_is_not_there_is_a_format_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        sniff(tmp_path / "no")


def test_an_onnx_file_with_weights_elsewhere_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    model = onnx.load(files["model.onnx"])
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    path = tmp_path / "model"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match="other files"):
        load_file(path, name="demand")

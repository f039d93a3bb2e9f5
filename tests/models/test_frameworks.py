"""PyTorch, Keras, TensorFlow, Hugging Face and MLflow: told from bytes, described by what is in them, answered as they answer."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import framework_files as made
from framework_files import ANSWERS, MAKERS, ROWS, needs

from towpath.errors import ExtraError, FormatError, InputError, RefusedError
from towpath.models import (
    as_answered,
    columns_from_rows,
    columns_from_tensor,
    load_file,
    load_version,
    signature_of,
    sniff,
)
from towpath.models.folders import digest_of
from towpath.models.manifest import Field, Manifest, Signature
from towpath.models.model import output_fields

pytestmark = pytest.mark.filterwarnings("ignore")

Publish = Callable[..., tuple[Manifest, Path]]
EXTRAS = {"pt2": "torch", "torchscript": "torch", "keras": "keras", "savedmodel": "tensorflow", "onnx": "onnx"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The model of a format, made once."""
    found: dict[str, Path] = {}

    def give(name: str) -> Path:
        if name not in found:
            makers = {**MAKERS, "huggingface": made.huggingface}
            found[name] = makers[name](tmp_path_factory.mktemp(name))
        return found[name]

    return give


HEAVY = [pytest.param(name, marks=pytest.mark.nightly if name == "savedmodel" else ()) for name in sorted(MAKERS)]
"""TensorFlow takes ten seconds to import, and twice."""


@pytest.mark.parametrize("name", HEAVY)
def test_a_model_of_a_framework_says_what_it_reads_and_answers_as_it_does(
    name: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a file or folder without a suffix
    path = folder(name)
    assert sniff(path).format == name
    # when it is loaded, after a trial in a process of its own
    model = load_file(path, name="points")
    # then names, types and shapes are those of the file
    assert [field.name for field in model.signature.inputs] == ["f0", "f1", "f2"]
    (output,) = model.signature.outputs
    assert (output.type, output.shape) == ("FP32", (-1, 2))
    assert (model.format, model.kind) == (name, "vector")
    # and one row, and several, are answered rightly, by tensor and by rows
    for rows in (1, 2):
        answer = model.predict(columns_from_tensor(model.signature, ROWS[:rows]))
        assert answer[output.name] == pytest.approx(ANSWERS[:rows], rel=1e-5)
    by_rows = columns_from_rows(model.signature, [{"f0": 1, "f1": 2, "f2": 3}])
    assert model.predict(by_rows)[output.name] == pytest.approx(ANSWERS[:1], rel=1e-5)
    # and without its framework, the install line is said
    root = {"onnx": "onnxruntime"}.get(name, EXTRAS[name])
    found = importlib_find(monkeypatch, {root})
    with pytest.raises(ExtraError, match=rf"uv add 'towpath\[{EXTRAS[name]}\]'"):
        load_file(path, name="points")
    assert found


def importlib_find(monkeypatch: pytest.MonkeyPatch, missing: set[str]) -> bool:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in missing else find(name, *a))
    monkeypatch.setattr("towpath.models.loading._UNPROVED", frozenset())  # the trial has its own interpreter
    return True


def test_a_model_has_its_time_of_computing_to_load_in_however_busy_the_machine_is(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder("pt2")
    monkeypatch.setattr("towpath.models.loading._TRIAL_CPU_S", 1)  # less than an import of PyTorch
    with pytest.raises(FormatError, match="did not load within 1 s of computing"):
        load_file(path, name="points")


def test_a_text_classifier_answers_as_transformers_does(folder: Callable[[str], Path]) -> None:
    path = folder("huggingface")
    model = load_file(path, name="taste")
    (text,) = model.signature.inputs
    assert (text.name, text.type, text.nullable) == ("text", "string", False)
    assert model.kind == "class"
    assert [field.levels for field in model.signature.outputs] == [("sour", "sweet")] * 2
    texts = ["good film", "the bad bad film", "good " * 40]
    answer = model.predict(columns_from_rows(model.signature, [{"text": one} for one in texts]))
    for row, one in enumerate(texts):
        labels, shares = _by_transformers(path, one)
        assert answer["prediction"][row] == labels[int(np.argmax(shares))]
        assert answer["probabilities"][row] == pytest.approx(shares, abs=1e-5)
    with pytest.raises(InputError, match="row 0, 'text'"):
        columns_from_rows(model.signature, [{"text": None}])
    with pytest.raises(InputError, match="no token"):
        model.predict({"text": np.array([""], dtype=object)})


def _by_transformers(path: Path, text: str) -> tuple[dict[int, str], Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path)
    with torch.inference_mode():
        logits = model(**tokenizer(text, truncation=True, max_length=16, return_tensors="pt")).logits
    return model.config.id2label, torch.softmax(logits, -1)[0].numpy()


@pytest.mark.nightly
def test_a_regression_gives_numbers_and_a_model_without_a_head_embeddings(tmp_path: Path) -> None:
    needs("torch", "transformers")
    for name, given, kind, shape in (
        ("number", {"num_labels": 1}, "number", (2,)),
        ("vector", {"task": "vector"}, "vector", (2, 16)),
    ):
        model = load_file(made.huggingface(_new(tmp_path / name), **given), name="taste")
        answer = model.predict({"text": np.array(["good film", "bad"], dtype=object)})["prediction"]
        alone = model.predict({"text": np.array(["bad"], dtype=object)})["prediction"]
        assert (model.kind, answer.shape) == (kind, shape)
        # what stands beside a text changes nothing of its answer
        assert answer[1] == pytest.approx(alone[0], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: _edit(f / "config.json", auto_map={"AutoModel": "code.Mine"}), "brings code of its own"),
        (
            lambda f: _edit(f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x", None]}),
            "brings code of its own",
        ),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "its weights are a pickle"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
        (
            lambda f: _edit(f / "config.json", architectures=["BertForCausalLM"]),
            "a BertForCausalLM; text classification",
        ),
        (lambda f: _edit(f / "config.json", quantization_config={"quant_method": "bitsandbytes"}), "bitsandbytes"),
        pytest.param(
            lambda f: _edit(f / "config.json", vocab_size=2_000_000_000),
            "refuses the folder|declares more than it holds",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            lambda f: _edit(f / "config.json", hidden_size=18),
            "refuses the folder|no weights for",
            marks=pytest.mark.nightly,
        ),
        (lambda f: (f / "tokenizer.json").write_bytes(b'{"model": '), "damaged JSON"),
        (lambda f: _cut(f / "model.safetensors", 0.5), "tensors end at"),
        (lambda f: _cut(f / "model.safetensors", 0.01), "its head says"),
        (lambda f: _huge(f / "model.safetensors"), "of shape .* needs .* bytes"),
        (
            lambda f: (f / "stray.safetensors").symlink_to("/etc/passwd"),
            "a link that leads out of it: 'stray.safetensors'",
        ),
    ],
)
def test_a_hugging_face_folder_that_is_damaged_or_would_run_code_is_refused(
    change: Callable[[Path], object], said: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "model"
    shutil.copytree(folder("huggingface"), path)
    change(path)
    with pytest.raises(FormatError, match=said):
        load_file(path, name="taste")


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def _huge(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])
    head[next(name for name in head if name != "__metadata__")]["shape"] = [2**40, 2**20]
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def _new(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_an_mlflow_folder_of_a_data_only_flavour_needs_no_mlflow(
    files: dict[str, Path], tmp_path: Path, folder: Callable[[str], Path]
) -> None:
    # given a LightGBM booster in MLflow's folder, and a graph whose file has no names
    path = made.mlflow(tmp_path)
    shutil.copyfile(files["model.txt"], path / "model.lgb")
    assert sniff(path).format == "mlflow"
    assert load_file(path, name="demand").format == "lightgbm"
    graph = made.mlflow(_new(tmp_path / "g"), flavour="onnx", data="model.onnx")
    shutil.copytree(folder("onnx"), graph / "model.onnx")
    # when it is loaded
    model = load_file(graph, name="points")
    # then the names of MLmodel's signature are the model's
    assert [field.name for field in model.signature.inputs] == ["x", "y", "z"]
    rows = columns_from_rows(model.signature, [{"z": 3, "y": 2, "x": 1}])
    assert model.predict(rows)["prediction"] == pytest.approx(ANSWERS[:1])
    # and code beside it, a pickle in it and another major version are refused
    (tmp_path / "c").mkdir()
    coded = made.mlflow(tmp_path / "c", code="code")
    shutil.copyfile(files["model.txt"], coded / "model.lgb")
    with pytest.raises(RefusedError, match=r"brings code of its own \('code'\)"):
        load_file(coded, name="demand")
    (path / "model.lgb").write_bytes(b"\x80\x04\x8c\x05posix\x8c\x06system\x93(\x8c\x04truetR.")
    with pytest.raises(FormatError, match=r"would run 'posix.system'"):
        load_file(path, name="demand")
    (path / "MLmodel").write_text((path / "MLmodel").read_text().replace("data:", "lgb_version: 2.0.1\n    data:", 1))
    with pytest.raises(RefusedError, match=r"written by lightgbm 2\.0\.1"):
        load_file(path, name="demand")
    for damaged in ("", "flavors: [", "flavors: {lightgbm: {data: ../../etc/passwd}}", "a: &a [*a]"):
        (path / "MLmodel").write_text(damaged)
        with pytest.raises((FormatError, RefusedError)):
            load_file(path, name="demand")
    (path / "MLmodel").write_text("flavors: {lightgbm: {data: ../../etc/passwd}}")
    with pytest.raises(FormatError, match=r"'\.\./\.\./etc/passwd' leads out of the folder"):
        load_file(path, name="demand")


def test_a_python_function_of_mlflow_loads_where_the_user_trusts_it(tmp_path: Path) -> None:
    needs("mlflow")
    import mlflow
    import pandas as pd

    class Double(mlflow.pyfunc.PythonModel):  # pyright: ignore[reportPrivateImportUsage]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input["x"] * 2

    frame = pd.DataFrame({"x": [1.0]})
    path = tmp_path / "model"
    signature = mlflow.models.infer_signature(frame, frame["x"])
    mlflow.pyfunc.save_model(str(path), python_model=Double(), signature=signature, pip_requirements=[])
    with pytest.raises(RefusedError, match="--trust-pickle"):
        load_file(path, name="double")
    model = load_file(path, name="double", trust_pickle=True)
    assert model.predict({"x": np.array([3.0])})["prediction"].tolist() == [6.0]


@pytest.mark.parametrize("name", ["torch", "keras"])
def test_what_train_returns_of_a_framework_is_kept_in_its_data_only_format(
    name: str, version: Publish, folder: Callable[[str], Path]
) -> None:
    needs(*{"torch": ("torch",), "keras": ("keras", "torch", "h5py")}[name])
    inputs = tuple(Field(name=column, type="double") for column in ("x", "y", "z"))
    signature = Signature(container="numpy", inputs=inputs, outputs=output_fields("vector", None, 2))
    if name == "torch":
        trained: Any = made.linear()
    else:
        trained = made._keras().saving.load_model(_with_suffix(folder("keras")))
    manifest, stored = version(trained, signature, kind="vector", width=3)
    assert (manifest.artefact.format, manifest.artefact.allow) == ({"torch": "pt2", "keras": "keras"}[name], ())
    model = load_version(manifest, stored)
    columns = columns_from_rows(model.signature, [{"x": 1, "y": 2, "z": 3}])
    answered = model.predict(columns)
    assert answered["prediction"] == pytest.approx(ANSWERS[:1], rel=1e-5)
    assert as_answered(signature_of(inputs, "numpy", "vector", trained), answered) == signature
    other = msgspec.structs.replace(manifest.artefact, framework_version="1.0.0")
    with pytest.raises(RefusedError, match=r"written by .* 1\.0\.0"):
        load_version(msgspec.structs.replace(manifest, artefact=other), stored)


def _with_suffix(path: Path) -> Path:
    named = path.with_suffix(".keras")
    if not named.exists():
        named.symlink_to(path)
    return named


def test_a_pipeline_of_transformers_is_kept_as_a_folder_whose_every_file_has_a_digest(
    version: Publish, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    needs("torch", "transformers")
    from transformers import pipeline

    trained = pipeline("text-classification", model=str(folder("huggingface")))
    signature = Signature(
        container="numpy",
        inputs=(Field(name="review", type="string", nullable=False),),
        outputs=output_fields("class", ("sour", "sweet")),
    )
    manifest, stored = version(trained, signature, kind="class")
    artefact = manifest.artefact
    assert (artefact.format, artefact.folder) == ("huggingface", "model")
    assert artefact.file.path.startswith("model/")
    model = load_version(manifest, stored)
    label = trained("good film")[0]["label"]  # pyright: ignore[reportIndexIssue, reportArgumentType, reportCallIssue, reportOptionalSubscript]
    answered = model.predict({"review": np.array(["good film"], dtype=object)})
    assert answered["prediction"].tolist() == [label]
    # and where nobody knew its labels before, its answers say that they are texts
    taken = signature_of(signature.inputs, "numpy", "class", trained)
    assert [field.type for field in taken.outputs] == ["double"]
    assert as_answered(taken, answered).outputs[0].type == "string"


def test_the_digest_of_a_folder_changes_with_every_name_and_byte(tmp_path: Path) -> None:
    folder = _new(tmp_path / "a")
    (folder / "x").write_bytes(b"1")
    first = digest_of(folder)
    (folder / "x").rename(folder / "y")
    second = digest_of(folder)
    (folder / "y").write_bytes(b"2")
    assert len({first, second, digest_of(folder)}) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: None, "an empty folder"),
        (lambda f: (f / "readme.md").write_text("x"), "a folder of 1 files"),
        (lambda f: (f / "MLmodel").symlink_to("/etc/passwd"), "leads out of it: 'MLmodel' is '/etc/passwd'"),
        (lambda f: (f / "deep").symlink_to(f.parent, target_is_directory=True), "leads out of it"),
        (lambda f: [(f / str(n)).touch() for n in range(2_001)], "more than 2,000 files"),
        (lambda f: __import__("os").mkfifo(f / "config.json"), "which is no file"),
        (lambda f: (f / "config.json").write_text("{}"), "no safetensors: it has no weights"),
        (lambda f: (f / "saved_model.pb").write_bytes(b"\x08\x01\x12\xff"), "damaged SavedModel"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_by_what_it_holds(
    change: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    path = _new(tmp_path / "model")
    change(path)
    with pytest.raises(FormatError, match=said):
        load_file(path, name="points")

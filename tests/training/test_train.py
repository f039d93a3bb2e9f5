"""Training as a job: what comes of it, what is written down, and what is left when it fails."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.training.conftest import FEATURES, MEAN, MODEL, Shop, training_set

from towpath.errors import ModelError, ProjectError, RefusedError, ResourceError
from towpath.models.manifest import Field
from towpath.project.declarations import ArtefactDeclaration, Resources, TrainDeclaration
from towpath.training import Trained

HOST = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.training.conftest import Shop, START
from towpath.clock import FixedClock
from towpath.stores.catalog import Catalog
from towpath.training import Runs
folder = Path(sys.argv[1])
catalog = Catalog("sqlite:///catalog.db", folder)
class Told(list):
    def append(self, line):
        print(line, flush=True)
Shop(folder / "shop", Runs(catalog, "shop", folder / "runs", FixedClock(START)), catalog, Told()).train()
"""


def _metrics_are_those_of_the_stored_predictions(trained: Trained) -> None:
    """Weighted, and by segment."""
    rows = pq.read_table(trained.folder / "holdout.parquet").to_pandas()
    missed = (rows["prediction"] - rows["sold"]).abs() * rows["importance"]
    truth = rows["sold"].abs() * rows["importance"]
    assert trained.training.metrics["wape"] == pytest.approx(missed.sum() / truth.sum())
    assert trained.training.metrics["wape"] < 0.12
    low = rows["band"] == "low"
    by_value = {segment.value: segment for segment in trained.segments}
    assert by_value["low"].rows == low.sum()
    assert by_value["low"].metrics["wape"] == pytest.approx(missed[low].sum() / truth[low].sum())
    # and each fallback function answered the same rows
    assert rows["fallback:recent"].fillna(-1).tolist() == rows["sales.mean_7d"].fillna(-1).tolist()


def test_a_run_gives_a_model_its_measurements_and_its_origin(shop: Shop) -> None:
    trained = shop.train()
    # the model is the framework's own file, and its signature is what train read
    assert (trained.artefact.format, trained.signature.container) == ("lightgbm", "pandas")
    assert [field.name for field in trained.signature.inputs] == list(FEATURES)
    assert trained.signature.inputs[1].levels == ("north", "south")
    # 14 days of 20 items are held out; 46 days less the one whose label overlaps are trained on
    assert (trained.training.holdout_rows, trained.training.rows) == (280, 45 * 20)
    assert shop.lines == ["training on 900 20"]
    # what it used, where it came from
    run = shop.runs.show(trained.run_id)
    assert run.status == "done"
    assert run.metrics == trained.training.metrics
    assert run.data["digest"] == trained.training.data_digest
    assert run.environment["packages"]["lightgbm"]
    assert run.peak_memory_mib is not None
    assert run.peak_memory_mib > 50
    assert run.cpu_s is not None
    assert run.cpu_s > 0.1
    assert {path.name for path in trained.folder.iterdir()} == {"model.txt", "code.zip", "holdout.parquet", "lock"}
    _metrics_are_those_of_the_stored_predictions(trained)


def test_the_same_seed_gives_the_same_model_and_a_comparison_says_what_differs(shop: Shop) -> None:
    one, same = shop.train(), shop.train()
    assert one.artefact.file.digest == same.artefact.file.digest
    assert one.training.data_digest == same.training.data_digest
    assert shop.runs.compare(one.run_id, same.run_id) == []
    other = shop.train(declared={"train": TrainDeclaration(parameters={"rounds": 5})})
    differs = {
        (found.section, found.name): (found.left, found.right) for found in shop.runs.compare(one.run_id, other.run_id)
    }
    assert differs["parameters", "rounds"] == (20, 5)
    assert ("metrics", "wape") in differs
    assert not [section for section, _ in differs if section in {"data", "packages"}]
    assert {run.run_id for run in shop.runs.newest("demand")} == {one.run_id, same.run_id, other.run_id}


def test_train_may_return_a_folder_that_another_program_wrote(shop: Shop) -> None:
    # given an MLflow folder of a booster that names its columns, and in another order than the project
    shop.write("""
from pathlib import Path
import lightgbm

def train(data):
    rows = data.train.pandas
    names = ["sales.mean_7d", "prices.shop", "prices.price"]
    known = lightgbm.Dataset(rows.features[names], rows.label)
    booster = lightgbm.train({"verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}, known, 20)
    folder = Path("written")
    folder.mkdir()
    booster.save_model(folder / "model.lgb")
    (folder / "MLmodel").write_text("flavors:\\n  lightgbm:\\n    data: model.lgb\\n    code: null\\n")
    return folder
""")
    trained = shop.train(declared={"fallback": ()})
    # then the version is what its flavour holds, asked by the names that its file has
    assert (trained.artefact.format, trained.artefact.file.path) == ("lightgbm", "model")
    assert [field.name for field in trained.signature.inputs] == ["sales.mean_7d", "prices.shop", "prices.price"]
    assert trained.training.metrics["wape"] < 0.1


def test_a_sample_keeps_whole_entities_and_is_written_down(shop: Shop) -> None:
    shop.write(MEAN)
    trained = shop.train(sample_share=0.4, declared={"fallback": ()})
    items = set(pq.read_table(trained.folder / "holdout.parquet").column("item").to_pylist())
    assert 0 < len(items) < 20
    assert trained.training.holdout_rows == 14 * len(items)
    assert trained.training.sample_share == shop.runs.show(trained.run_id).sample_share == 0.4


@pytest.mark.parametrize(
    ("body", "container", "kept"),
    [
        ("import numpy\nfrom sklearn.linear_model import Ridge\nX = numpy.nan_to_num(data.numpy.features)\nreturn Ridge().fit(X, data.numpy.label)", "numpy", "skops"),
        ("f = data.features\nreturn {'mean': float(data.numpy.label.mean())}", "arrow", "pickle"),
        ("f = data.polars.features\nreturn {'mean': data.polars.label.mean()}", "polars", "pickle"),
    ],
    ids=["scikit-learn on numpy", "a dict and Arrow", "a dict and polars"],
)  # fmt: skip
def test_predict_is_handed_the_container_that_train_read(shop: Shop, body: str, container: str, kept: str) -> None:
    own = (
        "import numpy\ndef predict(model, rows):\n    return model.predict(numpy.nan_to_num(rows))\n"
        if container == "numpy"
        else f"def predict(model, rows):\n    assert '{container if container == 'polars' else 'pyarrow'}' in type(rows).__module__\n"
        "    return [model['mean']] * len(rows)\n"
    )
    shop.write("def train(data):\n    " + body.replace("\n", "\n    ") + "\n" + own)
    trained = shop.train(declared={"fallback": ()})
    assert (trained.signature.container, trained.artefact.format) == (container, kept)
    predicted = pq.read_table(trained.folder / "holdout.parquet").column("prediction").to_pylist()
    assert len(predicted) == 280
    assert np.isfinite(predicted).all()


def test_a_failing_train_shows_the_users_own_lines_and_leaves_a_failed_run_and_nothing_else(shop: Shop) -> None:
    # given a train function that fails inside a library that is called by a module of the project
    (shop.folder / "words.py").write_text("import numpy\n\ndef shout(rows):\n    return numpy.linalg.inv(rows)\n")
    shop.write("from words import shout\n\ndef train(data):\n    return shout([[0.0, 0.0], [0.0, 0.0]])\n")
    # when it runs
    with pytest.raises(ModelError) as caught:
        shop.train()
    # then the traceback goes through their files, and neither through ours nor numpy's
    said = caught.value.what
    assert "LinAlgError: Singular matrix" in said.splitlines()[0]
    assert f'File "{shop.folder}/models/demand/model.py", line 4, in train' in said
    assert "return shout([[0.0, 0.0], [0.0, 0.0]])" in said
    assert f'File "{shop.folder}/words.py", line 4, in shout' in said
    assert "towpath/" not in said
    assert "numpy/" not in said
    assert caught.value.where == "words.py:4"
    # and the run is there, failed, without files
    (run,) = shop.runs.newest()
    assert (run.status, run.version, run.metrics) == ("failed", None, {})
    assert "Singular matrix" in run.error
    assert run.peak_memory_mib is not None
    assert list(shop.folder.parent.joinpath("runs").iterdir()) == []
    assert {path.name for path in shop.folder.rglob("*") if path.is_file()} == {"words.py", "model.py"}


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        ("def train(data):\n    return None\n", RefusedError, "returned nothing"),
        ("import no_such_library\ndef train(data): ...\n", ModelError, "no_such_library"),
        ("raise SystemExit(0)\n", ModelError, "SystemExit"),
        ("def train(data):\n    import os\n    os._exit(0)\n", ModelError, "ended without a result"),
        ("def train(data):\n    import os\n    os.kill(os.getpid(), 11)\n", ModelError, "SIGSEGV"),
        ("def train(data):\n    return 1\ndef predict(model, rows):\n    return [1]\n", ModelError, r"for \d+ rows"),
        ("def train(data):\n    return 1\ndef predict(model, rows):\n    return rows['nmae']\n", ModelError, "line 4, in predict"),
        (MODEL + "\ndef recent(rows):\n    return rows['mean']\n", ModelError, "in recent"),
    ],
    ids=["nothing", "an import", "an exit", "a hard exit", "a crash", "too few rows", "predict", "a fallback"],
)  # fmt: skip
def test_whatever_user_code_does_wrong_is_told_and_the_run_has_failed(
    shop: Shop, model: str, error: type[Exception], said: str
) -> None:
    shop.write(model)
    with pytest.raises(error, match=said):
        shop.train()
    assert [run.status for run in shop.runs.newest()] == ["failed"]


def test_a_job_beyond_its_memory_or_time_is_ended_and_says_what_it_used(shop: Shop) -> None:
    shop.write(
        "import time\ndef train(data):\n    held = []\n    while True:\n        held.append(b'x' * 1_000_000)\n        time.sleep(0.001)\n"
    )
    with pytest.raises(ResourceError, match=r"more than its 400 MiB") as caught:
        shop.train(declared={"resources": Resources(memory="400MiB")})
    assert "resources.memory" in caught.value.where
    shop.write("def train(data):\n    return bytearray(9 * 2**30)\n")
    with pytest.raises(ResourceError, match=r"MemoryError \(it was held to 400MiB\)[\s\S]*line 2, in train"):
        shop.train(declared={"resources": Resources(memory="400MiB")})
    shop.write("import time\ndef train(data):\n    time.sleep(600)\n")
    with pytest.raises(ResourceError, match=r"longer than 2 s"):
        shop.train(declared={"resources": Resources(time="2s")})
    runs = shop.runs.newest()
    (late,) = [run for run in runs if run.resources["time"]]
    (large,) = [run for run in runs if "more than its" in run.error]
    assert large.peak_memory_mib is not None
    assert large.peak_memory_mib > 400
    assert late.resources["time"] == "2s"
    assert {run.status for run in runs} == {"failed"}


def test_the_impossible_is_refused_before_a_run_is_opened(shop: Shop) -> None:
    with pytest.raises(ResourceError, match="64 GPUs"):
        shop.train(declared={"resources": Resources(gpu=64)})
    assert shop.runs.newest() == []


def test_train_sees_the_variables_that_model_toml_names(shop: Shop) -> None:
    shop.write(
        "import os\ndef train(data):\n    print(os.environ.get('KEY'), os.environ.get('OTHER'))\n    raise ValueError\n"
    )
    with pytest.raises(ModelError):
        shop.train(declared={"environment": ("KEY",)}, variables={"KEY": "yes", "OTHER": "no"})
    assert shop.lines == ["yes None"]
    with pytest.raises(ProjectError, match="'KEY' is not set"):
        shop.train(declared={"environment": ("KEY",)}, variables={})


def test_a_spine_column_that_metrics_name_otherwise_is_refused(shop: Shop) -> None:
    table = training_set().append_column("prediction", pa.array(np.zeros(1_200)))
    with pytest.raises(ProjectError, match="'prediction' of the spine"):
        shop.train(table=table)


def test_after_kill_nine_the_next_run_marks_the_orphan_and_is_right(shop: Shop) -> None:
    # given a run whose process is killed while its job works
    shop.write("import time\ndef train(data):\n    print('working')\n    time.sleep(600)\n")
    root = str(Path(__file__).parents[2])
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(shop.folder.parent), root], stdout=subprocess.PIPE, text=True
    )
    assert host.stdout is not None
    try:
        assert host.stdout.readline() == "working\n"
        (left,) = shop.runs.newest()
        # while it works nobody takes it for dead
        assert shop.runs.settle() == []
    finally:
        host.kill()
        host.wait(20)
        host.stdout.close()
    # when somebody trains again
    shop.write(MODEL)
    trained = shop.train()
    # then the first run is orphaned, without files, and the second is whole
    orphan = shop.runs.show(left.run_id)
    assert (orphan.status, orphan.folder) == ("orphaned", "")
    assert not Path(left.folder).exists()
    assert shop.runs.show(trained.run_id).status == "done"


def test_the_commit_of_the_project_is_written_down_and_whether_files_differ(shop: Shop) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is missing (apt-get install git)")
    shop.write(MEAN)

    def commit() -> str:
        return shop.train(declared={"fallback": ()}).training.commit

    assert commit() == ""
    git = ["git", "-C", str(shop.folder), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = commit()
    assert len(clean) == 40
    (shop.folder / "words.py").write_text("LOUD = 'louder'\n")
    assert commit() == f"{clean}+dirty"


def test_a_model_of_another_server_is_measured_as_if_it_were_trained(shop: Shop, tmp_path: Path) -> None:
    from tests.serving.serving_stand import PlainModel, Running, a_manifest, deployed

    from towpath.serving.served import Served

    # given a server that knows how the shop sells, and a project that declares it and has no train of its own
    kinds = {"prices.price": "double", "prices.shop": "string", "sales.mean_7d": "double"}
    model = PlainModel(
        inputs=tuple(Field(name=name, type=kind) for name, kind in kinds.items()),
        inline=False,
        predict=lambda rows: {"prediction": 30 - 3 * rows["prices.price"] + 5 * (rows["prices.shop"] == "north")},
    )
    second = Running(tmp_path / "other", deployed(Served(a_manifest(signature=model.signature), model)))
    shop.write("def recent(rows):\n    return rows['sales.mean_7d']\n")
    try:
        declared = ArtefactDeclaration(remote=f"{second.url}/v2/models/demand")
        trained = shop.train(declared={"artefact": declared})
    finally:
        second.close()
    # then the version is its address, and its metrics are those of what it answered
    assert (trained.artefact.format, trained.artefact.file.path) == ("remote", "model.remote.json")
    assert [field.name for field in trained.signature.outputs] == ["prediction"]
    _metrics_are_those_of_the_stored_predictions(trained)

"""Folders and files of frameworks behind HTTP and gRPC, as `tow serve FILE` has them."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from serving_stand import Running, a_manifest
from test_server import Store, booster

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import framework_files as made
from framework_files import ANSWERS, MAKERS, ROWS

from towpath.clock import SystemClock
from towpath.models import columns_from_rows, compiling, load_file, save
from towpath.models.folders import files_of
from towpath.project.declarations import OutputDeclaration
from towpath.registry import versions
from towpath.registry.signing import Signer
from towpath.serving.server import bare_deployment

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=() if one in {"onnx", "pt2"} else pytest.mark.nightly) for one in sorted(MAKERS)]
)
def test_numbers_in_a_framework_out_over_http_and_grpc(name: str, tmp_path: Path) -> None:
    path = MAKERS[name](tmp_path)
    running = Running(tmp_path, bare_deployment(path, name="points", trust_pickle=False, clock=SystemClock()))
    try:
        rows = [{f"f{number}": float(value) for number, value in enumerate(row)} for row in ROWS]
        told = httpx.post(f"{running.url}/predict/points", json={"rows": rows}, timeout=60).json()["predictions"]
        assert [row["prediction"] for row in told] == [pytest.approx(row, rel=1e-5) for row in ANSWERS.tolist()]
        with triton_http.InferenceServerClient(running.url.removeprefix("http://")) as client:
            (output,) = client.get_model_metadata("points")["outputs"]
            assert (output["datatype"], output["shape"]) == ("FP32", [-1, 2])
            assert _asked(triton_http, client, "x", "FP32", ROWS, output["name"]) == pytest.approx(ANSWERS, rel=1e-5)
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{running.ports.grpc}") as client:
            assert _asked(triton_grpc, client, "x", "FP32", ROWS, output["name"]) == pytest.approx(ANSWERS, rel=1e-5)
    finally:
        running.close()


def test_text_in_and_a_label_out_over_http_and_grpc(tmp_path: Path) -> None:
    path = made.huggingface(tmp_path)
    running = Running(tmp_path, bare_deployment(path, name="taste", trust_pickle=False, clock=SystemClock()))
    texts = np.array(["good film", "the bad bad film"], dtype=object)
    try:
        rows = [{"text": text} for text in texts.tolist()]
        told = httpx.post(f"{running.url}/predict/taste", json={"rows": rows}, timeout=60).json()["predictions"]
        labels = [row["prediction"] for row in told]
        assert set(labels) <= {"sour", "sweet"}
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{running.ports.grpc}") as client:
            (given,) = client.get_model_metadata("taste").inputs
            assert (given.name, given.datatype, list(given.shape)) == ("text", "BYTES", [-1])
            by_grpc = _asked(triton_grpc, client, "text", "BYTES", texts, "prediction")
            assert [label.decode() for label in by_grpc.tolist()] == labels
        refused = httpx.post(f"{running.url}/predict/taste", json={"rows": [{"text": 7}]})
        assert (refused.status_code, refused.json()["error"]) == (400, "row 0, 'text': 7 is no text.")
    finally:
        running.close()


@pytest.mark.parametrize(
    "name",
    ["onnx", *(pytest.param(one, marks=pytest.mark.nightly) for one in ("savedmodel", "huggingface")), "mlflow"],
)
def test_a_version_that_is_a_folder_is_served_from_an_empty_cache_and_heals(name: str, tmp_path: Path) -> None:
    # given a folder that another program wrote, published from one machine
    columns = [{"f0": 1.0, "f1": 2.0, "f2": 3.0}]
    if name == "mlflow":
        given = made.mlflow(tmp_path, flavour="onnx", data="model.onnx")
        (tmp_path / "graph").mkdir()
        shutil.move(made.onnx_external(tmp_path / "graph"), given / "model.onnx")
    elif name == "huggingface":
        given, columns = made.huggingface(tmp_path), [{"text": "good film"}]
    else:
        given = MAKERS[name](tmp_path)
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store")
    artefact = save(given, tmp_path / "kept")
    model = load_file(tmp_path / "kept" / "model", name="demand")
    number = versions.next_version(store.objects, "demand", run_id="r")
    output = OutputDeclaration(kind="class" if name == "huggingface" else "vector")
    manifest = a_manifest(number, artefact=artefact, signature=model.signature, output=output)
    files: dict[str, bytes | Path] = {
        f"model/{path}": file for path, file in files_of(tmp_path / "kept" / "model").items()
    }
    stored = versions.publish(store.objects, manifest, files, Signer(store.keys))
    store.promote(number)
    # when machines without it fetch and serve it, the second with a cache into which somebody put a file to be read first
    right = model.predict(columns_from_rows(model.signature, columns))
    strange = next(iter(files.values()))
    for _ in range(2):
        deployments = store.deployments()
        deployments.poll()
        served = deployments.live["demand"].versions[number]
        answer = served.model.predict(columns_from_rows(served.signature, columns))
        # then it answers as where it was made
        for key, values in answer.items():
            assert values.tolist() == right[key].tolist()
        deployments.close()
        (cached,) = (store.folder / "cache").iterdir()
        assert sum(path.is_file() for path in cached.rglob("*")) == len(stored.files) + 1
        shutil.copyfile(strange, cached / "model" / "a")


def test_the_form_of_onnx_answers_over_http_where_it_is_the_same_and_else_the_own_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, rows = booster(tmp_path, 5.0), {"rows": [{"Column_0": 1.0, "Column_1": 0.5}]}
    found: dict[str, float] = {}
    for form in ("onnx", "lightgbm"):
        deployment = bare_deployment(path, name="points", trust_pickle=False, clock=SystemClock(), compile="onnx")
        running = Running(tmp_path / form, deployment)
        try:
            assert httpx.get(f"{running.url}/v2/models/points").json()["platform"] == f"towpath_{form}"
            assert httpx.get(f"{running.url}/health").json()["models"]["points"]["forms"] == {"1": form}
            assert (
                f'towpath_form{{form="{form}",model="points",version="1"}} 1.0'
                in httpx.get(f"{running.url}/metrics").text
            )
            (row,) = httpx.post(f"{running.url}/predict/points", json=rows).json()["predictions"]
            found[form] = row["prediction"]
        finally:
            running.close()
        assert ("answers otherwise" in caplog.text) == (form == "lightgbm")
        # when the other form answers too little to be the same
        monkeypatch.setattr(compiling._Compiled, "_raw", lambda _, values: np.full((len(values), 1), 4.0))
    assert found == {"onnx": pytest.approx(5.0), "lightgbm": pytest.approx(5.0)}


def _asked(module: Any, client: Any, name: str, datatype: str, values: Any, output: str) -> Any:
    tensor = module.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return client.infer("taste" if name == "text" else "points", [tensor]).as_numpy(output)


def test_tow_serves_a_folder(tmp_path: Path) -> None:
    # given an ONNX graph whose weights are in a file beside it
    path = made.onnx_external(tmp_path)
    command = [sys.executable, "-m", "towpath.cli", "serve", str(path), "--port", "0", "--grpc-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(line.split()[1] for line in process.stdout if line.startswith("http:"))
        answer = httpx.post(f"{url}/predict/model", json={"rows": [{"f0": 1, "f1": 2, "f2": 3}]}).json()
        assert answer["predictions"][0]["prediction"] == pytest.approx(ANSWERS[0].tolist())
        process.terminate()
        assert process.wait(20) == 0

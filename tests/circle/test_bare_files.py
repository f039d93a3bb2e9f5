"""`tow serve FILE`: for each bare format both doors give the framework's own answer, and nothing is made beside the file."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from circle_stand import Server, inside, tow

Made = tuple[str, Callable[[np.ndarray], np.ndarray], float]
"""File name, the framework's own answer, and how far single precision may be off."""

RNG = np.random.default_rng(7)
ROWS = RNG.normal(size=(200, 4))
TARGET = ROWS @ np.array([1.0, -2.0, 0.5, 0.0]) + RNG.normal(scale=0.1, size=200)


def lightgbm_text(folder: Path) -> Made:
    import lightgbm

    trained = lightgbm.train({"objective": "l2", "verbose": -1}, lightgbm.Dataset(ROWS, TARGET), num_boost_round=10)
    trained.save_model(folder / "model.txt")
    return "model.txt", lambda rows: np.asarray(trained.predict(rows)), 1e-9


def xgboost_in(suffix: str) -> Callable[[Path], Made]:
    def made(folder: Path) -> Made:
        import xgboost

        trained = xgboost.train({"max_depth": 3, "nthread": 1}, xgboost.DMatrix(ROWS, TARGET), num_boost_round=10)
        trained.save_model(folder / f"model.{suffix}")
        return f"model.{suffix}", lambda rows: trained.predict(xgboost.DMatrix(rows)), 1e-5

    return made


def catboost_cbm(folder: Path) -> Made:
    import catboost

    trained = catboost.CatBoostRegressor(
        iterations=10, depth=3, verbose=0, allow_writing_files=False, thread_count=1, random_seed=7
    )
    trained.fit(ROWS, TARGET)
    trained.save_model(str(folder / "model.cbm"))
    return "model.cbm", lambda rows: np.asarray(trained.predict(rows)), 1e-9


def forest() -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(n_estimators=5, random_state=7).fit(ROWS, TARGET)


def skops_file(folder: Path) -> Made:
    import skops.io

    trained = forest()
    skops.io.dump(trained, folder / "model.skops")
    return "model.skops", trained.predict, 1e-9


def pickle_file(folder: Path) -> Made:
    trained = forest()
    (folder / "model.pkl").write_bytes(pickle.dumps(trained))
    return "model.pkl", trained.predict, 1e-9


def onnx_file(folder: Path) -> Made:
    import onnxruntime
    from skl2onnx import to_onnx

    made = to_onnx(forest(), ROWS[:1].astype(np.float32))
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = [given.name for given in session.get_inputs()]

    def own(rows: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {name: rows.astype(np.float32)})[0])

    return "model.onnx", own, 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [lightgbm_text, xgboost_in("json"), xgboost_in("ubj"), catboost_cbm, skops_file, pickle_file, onnx_file],
    ids=["lightgbm", "xgboost-json", "xgboost-ubj", "catboost", "skops", "pickle", "onnx"],
)
def test_both_doors_give_the_frameworks_own_answer(make: Callable[[Path], Made], tmp_path: Path) -> None:
    # given a file in a folder of its own, under a name that says nothing
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    name, own, tolerance = make(home)
    file = (home / name).rename(home / "Some File (2).bin")
    trust = ("--trust-pickle",) if make is pickle_file else ()
    asked = ROWS[:5]
    expected = np.ravel(own(asked))
    # when it is served
    with Server(file, *trust, log=tmp_path / "log", folder=tmp_path, variables={"TMPDIR": str(temporary)}) as server:
        (model,) = httpx.get(f"{server.url}/v2", timeout=20).json()["models"]
        assert model == "some_file__2"
        about = httpx.get(f"{server.url}/v2/models/{model}", timeout=20).json()
        # then rows by name, one tensor under any name and gRPC say what the framework says
        names = [given["name"] for given in about["inputs"]]
        if len(names) == 4:
            rows = [dict(zip(names, row, strict=True)) for row in asked.tolist()]
            got = [row["prediction"] for row in server.ask(*rows, model=model)]
            assert np.ravel(got) == pytest.approx(expected, rel=tolerance, abs=tolerance)
        tensor = {"name": "any", "datatype": "FP64", "shape": [5, 4], "data": asked.ravel().tolist()}
        infer = httpx.post(f"{server.url}/v2/models/{model}/infer", json={"inputs": [tensor]}, timeout=20).json()
        assert infer["outputs"][0]["data"] == pytest.approx(expected, rel=tolerance, abs=tolerance)
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            given = triton_grpc.InferInput("input-0", [5, 4], "FP32" if make is onnx_file else "FP64")
            given.set_data_from_numpy(asked.astype(np.float32) if make is onnx_file else asked)
            answered = client.infer(model, [given])
            output = answered.as_numpy(infer["outputs"][0]["name"])
            assert np.ravel(np.asarray(output)) == pytest.approx(
                expected, rel=max(tolerance, 1e-6), abs=max(tolerance, 1e-6)
            )
        assert httpx.get(f"{server.url}/v2/health/ready", timeout=20).status_code == 200
        (state,) = [line.removeprefix("state: ") for line in server.said if line.startswith("state: ")]
    # and nothing lies beside the file, or where the server was started
    assert [path.name for path in home.iterdir()] == [file.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "log", "temporary"]
    assert Path(state).is_relative_to(temporary)
    assert list(Path(state).rglob("*.parquet"))


def test_a_pickle_that_reaches_further_is_refused_even_when_trusted_on_a_network(tmp_path: Path) -> None:
    pickle_file(tmp_path)
    done = tow("serve", tmp_path / "model.pkl", "--port", "0", "--grpc-port", "0")
    assert (done.code, "--trust-pickle" in done.err, "Traceback" in done.err) == (1, True, False), done
    opened = ("--trust-pickle", "--host", "0.0.0.0", "--insecure-open", "--port", "0", "--grpc-port", "0")
    assert "loopback" in inside("serve", tmp_path / "model.pkl", *opened, expect=1).err

"""Rows over gRPC, asked by a client that is generated from the file that we hand out."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from serving_stand import PlainModel, Running, a_manifest, deployed

from towpath.models.manifest import Field
from towpath.project.declarations import FallbackDeclaration, OutputDeclaration
from towpath.serving.served import Served

PROTO = Path(__file__).parents[2] / "deploy" / "proto"
ZERO = FallbackDeclaration(name="zero", constant=0.0)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    folder = tmp_path_factory.mktemp("generated")
    argv = ["-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    subprocess.run([sys.executable, *argv, "prediction.proto"], check=True)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("prediction_pb2"), importlib.import_module("prediction_pb2_grpc")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    mixed = PlainModel(
        inputs=(Field(name="a", type="int64"), Field(name="b", type="string", levels=("x", "y"))),
        predict=lambda c: {
            "prediction": np.array([f"{a}{b}" for a, b in zip(c["a"], c["b"], strict=True)], dtype=object)
        },
    )
    running = Running(
        tmp_path_factory.mktemp("served"),
        deployed(
            Served(
                a_manifest(fallback=(ZERO,)),
                PlainModel(predict=lambda c: {"p": np.where(c["a"] < 0, np.nan, c["a"] + c["b"])}),
            )
        ),
        deployed(Served(a_manifest(signature=mixed.signature, output=OutputDeclaration(kind="text")), mixed)).replaced(
            model="mixed"
        ),
        deployed(
            Served(
                a_manifest(output=OutputDeclaration(kind="ranking", top=3)),
                PlainModel(predict=lambda c: {"p": np.array([["x", "y"]] * len(c["a"]), dtype=object)}),
            )
        ).replaced(model="ranked"),
    )
    yield running
    running.close()


def rows_for(pb: Any, *rows: dict[str, Any]) -> list[Any]:
    kinds = {float: "number", int: "integer", str: "text", bool: "flag"}
    return [
        pb.Row(values={n: pb.Value() if v is None else pb.Value(**{kinds[type(v)]: v}) for n, v in row.items()})
        for row in rows
    ]


def test_rows_are_answered_as_over_http(server: Running, generated: tuple[Any, Any]) -> None:
    pb, stubs = generated
    with grpc.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
        ask = stubs.PredictionStub(channel).Predict
        # given a good row and one that the model gets wrong
        asked = pb.PredictRequest(model="demand", rows=rows_for(pb, {"a": 1.0, "b": 2.0}, {"a": -1.0, "b": 2}))
        found, call = ask.with_call(asked, timeout=5, metadata=(("x-request-id", "r-1"),))
        assert (found.model, found.request_id) == ("demand", "r-1")
        assert [(one.prediction.number, one.version, one.source, one.reason) for one in found.predictions] == [
            (3.0, 1, "champion", "ok"),
            (0.0, 0, "fallback:zero", "wrong"),
        ]
        assert found.predictions[0].prediction_id
        assert dict(call.initial_metadata())["x-request-id"] == "r-1"
        # other kinds of values: a whole number beyond 2^53, text, null, a list
        mixed = ask(pb.PredictRequest(model="mixed", rows=rows_for(pb, {"a": 2**53 + 1, "b": "x"})), timeout=5)
        assert mixed.predictions[0].prediction.text == f"{2**53 + 1}x"
        ranked = ask(pb.PredictRequest(model="ranked", rows=rows_for(pb, {"a": 1.0, "b": None})), timeout=5)
        assert ranked.predictions[0].prediction.json == '["x","y"]'


@pytest.mark.parametrize(
    ("model", "rows", "code", "names"),
    [
        ("nobody", [{"a": 1.0}], grpc.StatusCode.NOT_FOUND, "nobody"),
        ("demand", [], grpc.StatusCode.INVALID_ARGUMENT, "rows"),
        ("demand", [{"a": "text", "b": 1.0}], grpc.StatusCode.INVALID_ARGUMENT, "'a'"),
        ("demand", [{"a": 1.0, "b": 1.0, "c": 1.0}], grpc.StatusCode.INVALID_ARGUMENT, "'c'"),
        ("demand", [{"a": 1.0, "b": 1.0}] * 10_001, grpc.StatusCode.RESOURCE_EXHAUSTED, "10001 rows"),
    ],
)
def test_what_cannot_be_answered_names_the_field(
    server: Running, generated: tuple[Any, Any], model: str, rows: list[Any], code: Any, names: str
) -> None:
    pb, stubs = generated
    with grpc.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel, pytest.raises(grpc.RpcError) as caught:
        stubs.PredictionStub(channel).Predict(pb.PredictRequest(model=model, rows=rows_for(pb, *rows)), timeout=10)
    error: Any = caught.value
    assert error.code() == code
    assert names in error.details()


def test_rows_over_grpc_are_logged_with_their_model_and_packed_for_who_asks(
    tmp_path: Path, generated: tuple[Any, Any]
) -> None:
    running = Running(tmp_path, deployed(Served(a_manifest(), PlainModel())), access_log=str(tmp_path / "access.jsonl"))
    pb, stubs = generated
    asked = pb.PredictRequest(model="demand", rows=rows_for(pb, {"a": 1.0, "b": 2.0}) * 500)
    with grpc.insecure_channel(f"127.0.0.1:{running.ports.grpc}") as channel:
        predict = stubs.PredictionStub(channel).Predict
        assert len(predict(asked, metadata=[("towpath-compression", "gzip")]).predictions) == 500
        with pytest.raises(grpc.RpcError, match="towpath-compression"):
            predict(asked, metadata=[("towpath-compression", "zstd")])
    running.close()
    lines = [json.loads(line) for line in (tmp_path / "access.jsonl").read_text().splitlines()]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("Predict", "demand", "OK"),
        ("Predict", "demand", "INVALID_ARGUMENT"),
    ]

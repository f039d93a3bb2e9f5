"""ONNX: tables of scikit-learn, classifiers, and tensors of any shape."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from towpath.errors import InputError
from towpath.models import columns_from_rows, columns_from_tensor, load_file


def written(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_model_of_images_takes_and_gives_tensors(tmp_path: Path) -> None:
    # given a model whose input is no table
    path = written(
        tmp_path / "m",
        [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0)],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n", 3])],
    )
    model = load_file(path, name="images")
    # then its signature is its own
    (image,) = model.signature.inputs
    assert (image.name, image.type, image.shape) == ("image", "FP32", (-1, 3, 4, 4))
    assert (model.signature.container, model.kind) == ("tensors", "tensors")
    # and an array, or nested lists, go through
    pixels = np.arange(2 * 48, dtype=np.float32).reshape(2, 3, 4, 4)
    expected = pixels.mean(axis=(2, 3))
    assert model.predict({"image": pixels})["mean"] == pytest.approx(expected)
    rows = [{"image": image} for image in pixels.tolist()]
    assert model.predict(columns_from_rows(model.signature, rows))["mean"] == pytest.approx(expected)
    with pytest.raises(InputError, match=r"row 0, 'image'.*shape \[3, 4, 4\]"):
        columns_from_rows(model.signature, [{"image": [[1.0]]}])
    with pytest.raises(InputError):
        model.predict({"image": pixels[:, :2]})


def test_one_column_a_tensor_is_a_table(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in ("price", "units")]
    path = written(
        tmp_path / "m",
        [helper.make_node("Mul", ["price", "units"], ["turnover"])],
        values,
        [helper.make_tensor_value_info("turnover", TensorProto.FLOAT, ["n", 1])],
    )
    model = load_file(path, name="turnover")
    columns = columns_from_rows(model.signature, [{"price": 1.5, "units": 2}, {"price": 2, "units": 3}])
    assert model.predict(columns)["turnover"].tolist() == [3.0, 6.0]
    assert model.kind == "number"


@pytest.mark.parametrize("zipmap", [True, False])
def test_a_classifier_gives_label_and_probabilities(zipmap: bool, features: np.ndarray, tmp_path: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    label = np.where(features[:, 0] > 0, "yes", "no")
    trained = LogisticRegression().fit(features, label)
    exported: Any = to_onnx(trained, features[:1].astype(np.float32), options={id(trained): {"zipmap": zipmap}})
    path = tmp_path / "m"
    path.write_bytes(exported.SerializeToString())
    model = load_file(path, name="clicks")
    answer = model.predict(columns_from_tensor(model.signature, features))
    names = [field.name for field in model.signature.outputs]
    assert model.kind == "class"
    assert answer[names[0]].tolist() == trained.predict(features).tolist()
    assert answer[names[1]] == pytest.approx(trained.predict_proba(features), abs=1e-5)


def test_text_in_and_several_outputs_out(tmp_path: Path) -> None:
    # given a graph that reads a text and a number, and gives a number, a text and a table
    nodes = [
        helper.make_node(
            "LabelEncoder", ["shop"], ["rate"], domain="ai.onnx.ml",
            keys_strings=["north", "south"], values_floats=[2.0, 3.0], default_float=0.0,
        ),
        helper.make_node("Mul", ["rate", "price"], ["turnover"]),
        helper.make_node("Identity", ["shop"], ["where"]),
        helper.make_node("Concat", ["rate", "price"], ["both"], axis=1),
    ]  # fmt: skip
    kinds = {"shop": TensorProto.STRING, "price": TensorProto.FLOAT, "where": TensorProto.STRING}
    inputs = [helper.make_tensor_value_info(name, kinds[name], ["n", 1]) for name in ("shop", "price")]
    outputs = [
        helper.make_tensor_value_info("turnover", TensorProto.FLOAT, ["n", 1]),
        helper.make_tensor_value_info("where", TensorProto.STRING, ["n", 1]),
        helper.make_tensor_value_info("both", TensorProto.FLOAT, ["n", 2]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path = tmp_path / "m"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    # when rows are asked, one of a shop that it does not know
    model = load_file(path, name="turnover")
    assert [(field.name, field.type) for field in model.signature.inputs] == [("shop", "string"), ("price", "double")]
    rows = [{"shop": "north", "price": 1.5}, {"shop": "east", "price": 9}]
    answer = model.predict(columns_from_rows(model.signature, rows))
    # then each output has its own type and shape
    assert answer["turnover"].tolist() == [3.0, 0.0]
    assert answer["where"].tolist() == ["north", "east"]
    assert answer["both"].tolist() == [[2.0, 1.5], [0.0, 9.0]]

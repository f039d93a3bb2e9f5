"""Small models of the heavy frameworks, made here; a test of one that is not installed is skipped by its name."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WEIGHTS = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]], dtype=np.float32)
"""Of a layer that reads three numbers and gives two."""
WORDS = ["[PAD]", "[UNK]", "good", "bad", "film", "the"]
ROWS = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]], dtype=np.float32)
ANSWERS = ROWS @ WEIGHTS.T


def needs(*modules: str) -> None:
    """Skip, by name, where a framework is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def linear() -> Any:
    import torch

    layer = torch.nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(WEIGHTS))
    return layer.eval()


def pt2(folder: Path) -> Path:
    needs("torch")
    import torch

    path = folder / "model"
    rows = torch.export.Dim("rows", min=1)
    with path.open("wb") as file:
        torch.export.save(torch.export.export(linear(), (torch.zeros(2, 3),), dynamic_shapes=({0: rows},)), file)
    return path


def torchscript(folder: Path) -> Path:
    needs("torch")
    import torch

    path = folder / "model"
    torch.jit.save(torch.jit.trace(linear(), torch.zeros(2, 3)), str(path))
    return path


def keras(folder: Path) -> Path:
    needs("keras", "h5py", "torch")
    module = _keras()
    model = module.Sequential([module.Input((3,), name="x"), module.layers.Dense(2, use_bias=False)])
    model.layers[0].set_weights([WEIGHTS.T])
    model.save(folder / "m.keras")
    return (folder / "m.keras").rename(folder / "model")


def _keras() -> Any:
    import os

    os.environ.setdefault("KERAS_BACKEND", "torch")
    return importlib.import_module("keras")


def savedmodel(folder: Path) -> Path:
    needs("tensorflow")
    import tensorflow as tf

    class Layer(tf.Module):
        def __init__(self) -> None:
            self.weights = tf.Variable(WEIGHTS.T)

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"prediction": x @ self.weights}

    layer = Layer()
    tf.saved_model.save(layer, str(folder / "model"), signatures={"serving_default": layer.__call__})
    return folder / "model"


def huggingface(folder: Path, **config: Any) -> Path:
    """A text classifier whose answer is known to transformers itself; ``task="vector"`` leaves its head out."""
    needs("torch", "transformers", "tokenizers")
    import os

    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(3)
    vector = config.pop("task", "") == "vector"
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    given = {"vocab_size": len(WORDS), "max_position_embeddings": 16, "initializer_range": 0.5, **shape, **config}
    if not vector and "num_labels" not in given:
        given |= {"id2label": {0: "sour", 1: "sweet"}, "label2id": {"sour": 0, "sweet": 1}}
    made = (BertModel if vector else BertForSequenceClassification)(BertConfig(**given)).eval()
    path = folder / "model"
    made.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def mlflow(folder: Path, flavour: str = "lightgbm", data: str = "model.lgb", code: str | None = None) -> Path:
    """An MLflow folder, written by hand: ``MLmodel`` beside the framework's own file, which is written by the caller."""
    path = folder / "model"
    path.mkdir()
    columns = json.dumps([{"type": "double", "name": name, "required": True} for name in ("x", "y", "z")])
    (path / "MLmodel").write_text(
        f"flavors:\n  {flavour}:\n    data: {data}\n    code: {code or 'null'}\n"
        f"  python_function:\n    data: {data}\n    loader_module: mlflow.{flavour}\n"
        f"mlflow_version: 3.17.2\nsignature:\n  inputs: '{columns}'\n"
    )
    return path


def onnx_external(folder: Path) -> Path:
    """An ONNX graph whose weights are in a file beside it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["prediction"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ascontiguousarray(WEIGHTS.T), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "model"
    path.mkdir()
    onnx.save(
        model,
        path / "m.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "pt2": pt2,
    "torchscript": torchscript,
    "keras": keras,
    "savedmodel": savedmodel,
    "onnx": onnx_external,
}
"""Formats of the layer above; each gives `ANSWERS` for `ROWS`."""

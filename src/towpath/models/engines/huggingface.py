"""Hugging Face folders: text in; a label, a number or an embedding out. No hub, and no code of the folder."""

import importlib
import json
import os
import re
import warnings
from collections import Counter
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from towpath.errors import FormatError, InputError, ModelError, RefusedError
from towpath.models.columns import Columns
from towpath.models.engines import safetensors
from towpath.models.engines.extra import framework, installed_version
from towpath.models.folders import files_of
from towpath.models.manifest import Field, Signature
from towpath.models.model import Outputs, classified, output_fields
from towpath.types import OutputKind

__all__ = ["HuggingFace", "save"]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_CONFIG_BYTES = 16 * 2**20
_LONGEST = 512
"""Tokens that are read of a text where neither model nor tokenizer says how many they take."""


class HuggingFace:
    """One folder with ``config.json``, safetensors and ``tokenizer.json``; its only input is the text."""

    format = "huggingface"
    framework = "transformers"
    inline = False
    row_by_row = True

    @staticmethod
    def check(path: Path) -> None:
        """Refuse a folder in which something would run, before anything is imported for it."""
        _task_of(_checked(path, str(path)), path)

    def __init__(
        self, path: Path, *, name: str, signature: Signature | None = None, kind: OutputKind | None = None
    ) -> None:
        config = _checked(path, name)
        self._name = name
        self._task = _task_of(config, path)
        self._tokenizer, self._model = _opened(path, name, self._task)
        self._lock = Lock()  # a fast tokenizer keeps padding and truncation in itself
        self._longest = _longest(self._tokenizer, self._model.config)
        labels = self._model.config.id2label if self._task == "class" else {}
        self._labels = np.array([labels[number] for number in sorted(labels)], dtype=object)
        self._pooled_first = _pools_first(path)
        found_kind: OutputKind = {"class": "class", "several": "vector", "number": "number", "vector": "vector"}[
            self._task
        ]  # type: ignore[assignment]
        self.kind: OutputKind = kind or found_kind
        width = self._answer(["towpath"]).shape[1]
        found = Signature(
            container="numpy",
            inputs=(Field(name="text", type="string", nullable=False),),
            outputs=output_fields(found_kind, tuple(self._labels) or None, width),
        )
        self.signature = signature or found
        texts = [field.name for field in self.signature.inputs if field.type in {"string", "BYTES"}]
        if len(texts) != 1 or len(self.signature.inputs) != 1:
            raise FormatError(
                f"'{name}' reads one text; its signature has {[field.name for field in self.signature.inputs]}.",
                where=str(path),
                mend="write def predict(model, rows) in model.py, which hands the model its text",
            )
        self._text = texts[0]
        self.unseen: Counter[str] = Counter()

    @staticmethod
    def opened(path: Path, name: str) -> Any:
        """Tokenizer and model as a ``transformers`` pipeline, for code of the project that calls it."""
        config = _checked(path, name)
        task = _task_of(config, path)
        tokenizer, model = _opened(path, name, task)
        transformers: Any = importlib.import_module("transformers")

        called = "feature-extraction" if task == "vector" else "text-classification"
        return transformers.pipeline(called, model=model, tokenizer=tokenizer)

    def predict(self, columns: Columns) -> Outputs:
        """Answer n texts."""
        texts = [_text(value, row, self._text) for row, value in enumerate(columns[self._text].tolist())]
        raw = self._answer(texts)
        first = self.signature.outputs[0].name
        match self._task:
            case "class":
                return classified(self.kind, raw, self._labels)
            case "number":
                return {first: raw[:, 0]}
            case _:
                return {first: raw}

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """A bare folder has no functions."""
        del columns
        raise ModelError(
            f"'{self._name}' is a bare Hugging Face folder and has no function '{name}'.", where="fallback"
        )

    def close(self) -> None:
        """Leave the memory to the garbage collector: a call in another thread may still read it."""

    def _answer(self, texts: list[str]) -> NDArray[np.float64]:
        """Shape ``(n, labels)``, or ``(n, width)`` of an embedding."""
        torch: Any = importlib.import_module("torch")

        with self._lock:
            read = self._tokenizer(texts, padding=True, truncation=True, max_length=self._longest, return_tensors="pt")
        if not read["input_ids"].shape[1]:
            raise InputError(f"'{self._name}' finds no token in the text.", mend="send a text that is not empty")
        with torch.inference_mode():
            answer = self._model(**read)
            if self._task == "vector":
                return self._pooled(answer.last_hidden_state, read["attention_mask"]).double().numpy()
            logits = answer.logits.double()
            if self._task == "class":
                logits = torch.softmax(logits, dim=-1)
            elif self._task == "several":
                logits = torch.sigmoid(logits)
            return logits.numpy()

    def _pooled(self, states: Any, mask: Any) -> Any:
        """The mean over tokens, padding left out; or the first token where the folder says so."""
        if self._pooled_first:
            return states[:, 0]
        weight = mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)


def save(pipeline: Any, folder: Path) -> str:
    """Write a ``transformers`` pipeline (model and tokenizer) into a folder; the name of what was written."""
    target = folder / "model"
    pipeline.model.save_pretrained(target)
    pipeline.tokenizer.save_pretrained(target)
    return "model"


def _checked(path: Path, name: str) -> dict[str, Any]:
    """The config of a folder in which nothing would run.

    Raises:
        FormatError: Code, pickled weights, a damaged file.
        RefusedError: A newer major version of transformers wrote it.
    """
    files = files_of(path)
    config = _json(files["config.json"])
    others = [
        file for file in ("tokenizer_config.json", "generation_config.json", "processor_config.json") if file in files
    ]
    for file, text in [("config.json", config), *((other, _json(files[other])) for other in others)]:
        if "auto_map" in text or "custom_pipelines" in text:
            said = text.get("auto_map") or text.get("custom_pipelines")
            raise FormatError(
                f"'{path}' brings code of its own ('{file}', auto_map: {str(said)[:120]}); nothing of it was run.",
                mend="a model of an architecture that transformers has itself",
            )
    if "quantization_config" in config:
        raise FormatError(
            f"'{path}' is quantised by {config['quantization_config'].get('quant_method', 'a method of its own')}, "
            "which needs code beyond transformers.",
            mend="save it without quantisation, or export it to ONNX",
        )
    weights = [file for file in files if file.endswith(".safetensors")]
    if not weights:
        pickled = [file for file in files if file.endswith(_PICKLES)]
        found = f"its weights are a pickle ('{pickled[0]}'), which can run anything" if pickled else "it has no weights"
        raise FormatError(
            f"'{path}' has no safetensors: {found}; nothing was run.",
            mend="model.save_pretrained(folder, safe_serialization=True), where you trust it",
        )
    for file in weights:
        safetensors.check(files[file])
    if "tokenizer.json" not in files:
        raise FormatError(
            f"'{path}' has no tokenizer.json.", mend="AutoTokenizer.from_pretrained(…).save_pretrained(folder)"
        )
    _json(files["tokenizer.json"])
    wrote, here = str(config.get("transformers_version") or ""), installed_version("transformers")
    if here and int((re.match(r"\d+", wrote) or ["0"])[0]) > int(here.split(".")[0]):
        raise RefusedError(
            f"'{name}' was written by transformers {wrote}; this machine has {here}, an older major version.",
            where="config.json, transformers_version",
            mend=f"uv add 'transformers>={wrote.partition('.')[0]}'",
        )
    return config


def _task_of(config: dict[str, Any], path: Path) -> str:
    """``class several number vector``, by what the architecture is called and what it was trained for."""
    architectures = config.get("architectures") or []
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if name.endswith("ForSequenceClassification"):
        problem, labels = config.get("problem_type"), config.get("id2label") or {"0": "", "1": ""}
        if problem == "regression" or len(labels) == 1:
            return "number"
        return "several" if problem == "multi_label_classification" else "class"
    if name.endswith(("Model", "ForMaskedLM")):
        return "vector"
    raise FormatError(
        f"'{path}' is a {name or 'model without an architecture'}; text classification, regression and embeddings are served.",
        where="config.json, architectures",
        mend="a …ForSequenceClassification or a …Model; or def predict(model, rows) in a project, or ONNX",
    )


def _opened(path: Path, name: str, task: str) -> tuple[Any, Any]:
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[variable] = "1"  # read when it is imported, which happens below
    framework("torch", f"'{name}' is a Hugging Face model")
    transformers: Any = framework("transformers", f"'{name}' is a Hugging Face model")
    torch: Any = importlib.import_module("torch")

    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    kind = transformers.AutoModel if task == "vector" else transformers.AutoModelForSequenceClassification
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), **given)
            model, told = kind.from_pretrained(
                str(path),
                **given,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="eager",
                output_loading_info=True,
            )
    except Exception as fault:  # noqa: BLE001 - whatever a config makes of it: it has no common root
        said = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise FormatError(
            f"transformers refuses the folder: {said[:300]}.", where=str(path), mend="save it again"
        ) from None
    missing = sorted(key for key in told.get("missing_keys", ()) if task != "vector" or "pooler" not in key)
    if missing or told.get("mismatched_keys"):
        raise FormatError(
            f"'{path}' has no weights for {', '.join(missing[:3]) or min(told['mismatched_keys'])}, which would be random.",
            mend="model.save_pretrained(folder) of the trained model",
        )
    return tokenizer, model.eval()


def _longest(tokenizer: Any, config: Any) -> int:
    said = [int(tokenizer.model_max_length), int(getattr(config, "max_position_embeddings", 0) or 0)]
    if getattr(config, "model_type", "") in {"roberta", "xlm-roberta", "camembert", "mpnet"}:
        said[1] -= int(config.pad_token_id or 0) + 1  # their positions begin behind the padding's
    known = [length for length in said if 0 < length < 10**6]
    return min(known, default=_LONGEST)


def _pools_first(path: Path) -> bool:
    """Whether a folder of sentence-transformers says that the first token is the embedding."""
    said = path / "1_Pooling" / "config.json"
    return said.is_file() and bool(_json(said).get("pooling_mode_cls_token"))


def _text(value: object, row: int, name: str) -> str:
    if isinstance(value, str):
        return value
    raise InputError(f"row {row}, '{name}': {'bytes that are no UTF-8' if isinstance(value, bytes) else 'no text'}.")


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _CONFIG_BYTES and path.name != "tokenizer.json":
            raise FormatError(f"'{path}' has more than {_CONFIG_BYTES:,} bytes.", mend="a model folder")
        found: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as fault:
        raise FormatError(f"'{path}' is damaged JSON: {fault}.", mend="save it again") from None
    if not isinstance(found, dict):
        raise FormatError(f"'{path}' is no JSON object.", mend="save it again")
    return found

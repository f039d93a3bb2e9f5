"""What goes over the wire, as JSON schemas: the rows of a model, its answers, its tensors, the rows of a view."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.errors import (
    CallerError,
    QuotaError,
    RetryError,
    TooLargeError,
    TowpathError,
    UnavailableError,
    by_code,
)
from towpath.features import RefusedRow
from towpath.journal.record import Outcome
from towpath.serving.answer import Answer, AnswerRow, WireError
from towpath.serving.infer import described
from towpath.serving.manage import Switch, Switched
from towpath.serving.push import PushAnswer
from towpath.serving.targets import EARLIEST_US, HORIZON, LATEST_US, TARGET
from towpath.types import OutputKind

if TYPE_CHECKING:
    from towpath.features import View
    from towpath.models.manifest import Field
    from towpath.serving.served import Served

__all__ = ["SHARED", "again_s", "answer_schema", "examples", "row_schema", "shared_schemas", "status_of", "tensors_schema", "view_schema"]  # fmt: skip

Schema = dict[str, Any]
SHARED = (Answer, AnswerRow, Outcome, PushAnswer, RefusedRow, Switch, Switched, WireError)
_REF = "#/components/schemas/{name}"
_SCALAR: Schema = {"type": ["string", "number", "boolean", "null"]}
_NUMBER: Schema = {"type": "number"}
_WHOLE: Schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
_FROM_0: Schema = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}
_MOMENT: Schema = {"anyOf": [{"type": "string", "format": "date-time"}, {**_WHOLE, "minimum": EARLIEST_US, "maximum": LATEST_US, "title": "Microseconds since 1970 UTC"}, {"type": "null"}]}  # fmt: skip
_LONGEST_S = 30
_SHOWN = 3
"""Golden cases that stand as examples."""
_KINDS: dict[OutputKind, Schema] = {
    "number": {"type": ["number", "null"]},
    "class": {"type": ["string", "number", "boolean", "null"]},
    "probability": {"type": ["number", "array", "null"], "items": {"type": "number"}},
    "quantiles": {"type": ["number", "array", "null"], "items": {"type": "number"}},
    "ranking": {"type": ["array", "null"]},
    "vector": {"type": ["array", "number", "null"]},
    "text": {"type": ["string", "null"]},
    "tensors": {},
}
"""Kind of output → what ``prediction`` is; null only where even the fallback had nothing to say."""


def shared_schemas() -> dict[str, Schema]:
    """Name → schema of what every model has in common."""
    _, components = msgspec.json.schema_components(SHARED, ref_template=_REF)
    found: dict[str, Schema] = msgspec.json.decode(msgspec.json.encode(components))
    found["WireError"]["properties"]["code"]["enum"] = sorted(by_code(families=False))
    found["Tensor"] = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "datatype": {"type": "string"},
            "parameters": {"type": "object"},
            "data": {"type": "array"},
        },
    }
    found["InferAnswer"] = {
        "type": "object",
        "description": "Tensors, and who answered in parameters.towpath.",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    }
    return found


def status_of(kind: type[TowpathError]) -> int:
    """What HTTP says of an error: 4xx is the caller's, 503 ours.

    Example:
        >>> status_of(TowpathError)
        503
    """
    own = issubclass(kind, CallerError | RetryError) or kind.status == TooLargeError.status
    return kind.status if own else 503


def again_s(error: TowpathError) -> int | None:
    """What ``Retry-After`` says of an error: whole seconds from 1 to 30; none where trying again does not help.

    Of a queue it is the predicted wait, of a quota its refill, of an open circuit the rest of its pause.

    Example:
        >>> from towpath.errors import InputError
        >>> again_s(QuotaError("too often", retry_after_s=2.2)), again_s(InputError("wrong"))
        (3, None)
    """
    if isinstance(error, QuotaError | RetryError):
        return min(max(1, math.ceil(error.retry_after_s)), _LONGEST_S) if status_of(type(error)) in {429, 503} else None
    return 1 if status_of(type(error)) == UnavailableError.status else None


def row_schema(served: "Served") -> Schema:
    """One row of ``POST /predict``: features, keys that they are looked up by, columns that on-demand features read."""
    manifest = served.manifest
    types = {key: kind for lock in manifest.features for key, kind in zip(lock.entity, lock.key_types, strict=False)}
    types |= {one.name: one.type for lock in manifest.on_demand for one in lock.inputs if one.reads == "request"}
    moments = {TARGET: "When what is predicted about ends; else the moment of prediction plus the horizon."}
    if manifest.time is not None:
        moments[manifest.time] = "The moment of prediction; now unless given."
    given = served.given
    properties: dict[str, Schema] = {}
    for field in served.signature.inputs:
        properties[field.name] = _field(field) | (
            {"description": "Looked up or computed unless given."} if field.name in given else {}
        )
    for name in sorted(served.extra - set(properties)):
        properties[name] = _extra(types.get(name, ""), is_key=name in served.keys, is_segment=name in served.segments)
        if name in moments and name not in served.keys:
            properties[name] = _MOMENT | {"description": moments[name]}
        if name == HORIZON and served.horizon.pattern is not None:
            properties[name] = _horizon(served.horizon.said, served.horizon.pattern.pattern)
    schema: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    required = [field.name for field in served.signature.inputs if field.name not in given]
    if required:
        schema["required"] = required
    if served.keys and served.reader is not None:
        features = [name for name in served.names if name in given]
        schema["anyOf"] = [{"required": [key]} for key in served.keys] + [{"required": features}]
    return schema


def answer_schema(served: "Served") -> Schema:
    """The answer of ``POST /predict`` with the type of this model's prediction."""
    output = served.manifest.output
    prediction = dict(_KINDS.get(output.kind, {}))
    if output.classes:
        prediction["examples"] = list(output.classes)
    if output.low is not None or output.high is not None:
        promised = " to ".join("any" if bound is None else f"{bound:g}" for bound in (output.low, output.high))
        prediction["description"] = f"Declared range: {promised}; an answer of the model outside of it falls back."
    row = {"allOf": [{"$ref": "#/components/schemas/AnswerRow"}, {"properties": {"prediction": prediction}}]}
    return {
        "allOf": [
            {"$ref": "#/components/schemas/Answer"},
            {"properties": {"predictions": {"type": "array", "items": row}}},
        ]
    }


def tensors_schema(served: "Served") -> Schema:
    """The body of ``POST /v2/models/<model>/infer``: one tensor for each input, or one matrix for all columns."""
    tensors = [_tensor(field) for field in served.signature.inputs]
    tensors += [
        {
            **_tensor_of(name, "BYTES"),
            "description": "A key, or a column of the request.",
        }
        for name in sorted(served.extra - set(served.names))
    ]
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {
                "type": "array",
                "minItems": 1,
                "items": {"anyOf": [*tensors, {"$ref": "#/components/schemas/Tensor"}]},
            },
            "outputs": {
                "type": "array",
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
            },
        },
    }


def view_schema(view: "View") -> Schema:
    """One row of ``POST /features/<view>``: keys, event time, all features."""
    header = view.header
    properties = {key: _typed(kind) | {} for key, kind in zip(header.keys, view.key_types, strict=False)}
    properties |= {key: {"type": ["string", "number", "boolean"]} for key in header.keys if key not in properties}
    properties[header.event_time] = {"type": "string", "description": "ISO 8601; when the value became true."}
    properties |= {name: _nullable(_typed(kind)) for name, kind in view.columns}
    return {"type": "object", "properties": properties, "required": [*header.keys, header.event_time]}


def examples(served: "Served") -> dict[str, Schema]:
    """Requests with known-good answers, from the golden cases; none of a model that keeps no journal, whose input is private.

    Args:
        served: The version that answers.
    """
    if served.manifest.journal == "none":
        return {}
    found: dict[str, Schema] = {}
    for number, case in enumerate(served.golden[:_SHOWN], start=1):
        known = case.answer is not msgspec.UNSET
        found[f"golden_{number}"] = {
            "summary": f"Known good: {_short(case.answer)}" if known else "A golden case",
            "value": {"rows": [case.request]},
        }
    return found


def _field(field: "Field") -> Schema:
    """A column, or one row of a tensor."""
    schema = _typed(field.type)
    if field.levels is not None:
        schema = {
            "anyOf": [{"enum": list(field.levels)}, schema],
            "description": "One of the levels; a value that training never saw counts as null.",
        }
    for size in reversed(field.shape[1:]):
        schema = {"type": "array", "items": schema} | ({} if size < 0 else {"minItems": size, "maxItems": size})
    return _nullable(schema) if field.nullable and len(field.shape) == 1 else schema


def _typed(kind: str) -> Schema:
    """A type of Arrow or of the Open Inference Protocol as JSON has it."""
    lower = kind.lower()
    if lower in {"double", "float", "halffloat", "float64", "float32", "float16", "fp64", "fp32", "fp16"}:
        return dict(_NUMBER)
    if lower.startswith(("int", "uint")):
        return dict(_FROM_0 if lower.startswith("u") else _WHOLE)
    if lower in {"string", "large_string", "bytes"} or lower.startswith("dictionary"):
        return {"type": "string"}
    if lower == "bool":
        return {"type": "boolean"}
    if lower.startswith(("timestamp", "date")):
        return {"type": "string", "format": "date-time"}
    return {}


def _horizon(longest: str | None, pattern: str) -> Schema:
    said = f"; {longest} unless given, and at most" if longest else ""
    described = f"How far ahead the row is predicted, such as 36h{said}."
    return {"type": ["string", "null"], "pattern": f"^(?:{pattern})(?!\\n)$", "description": described}


def _extra(kind: str, *, is_key: bool, is_segment: bool) -> Schema:
    described = "An entity key." if is_key else "Of the request; no input of the model."
    if is_segment:
        described += " Its segment: whoever sends it is counted by it, and stopped by a kill switch that names it."
    return (dict(_SCALAR) if is_key else _nullable(_typed(kind))) | {"description": described}


def _nullable(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    kind = schema.get("type")
    return schema if kind is None else {**schema, "type": [kind, "null"]}


def _tensor(field: "Field") -> Schema:
    said: Mapping[str, Any] = described(field)
    return _tensor_of(said["name"], said["datatype"], said["shape"])


def _tensor_of(name: str, datatype: str, shape: Sequence[int] = (-1,)) -> Schema:
    sizes: Iterable[Schema] = ({"type": "integer"} if size < 0 else {"const": size} for size in shape)
    return {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"const": name},
            "datatype": {"type": "string", "examples": [datatype]},
            "shape": {"type": "array", "prefixItems": list(sizes)},
            "data": {"type": "array"},
        },
    }


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:59] + "…"  # noqa: PLR2004 - fits on a line

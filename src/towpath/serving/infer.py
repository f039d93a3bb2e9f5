"""The Open Inference Protocol over our own answers, for HTTP and gRPC alike: metadata, tensors in, tensors out."""

import asyncio
import importlib.metadata
import re
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from towpath.errors import InputError, TooLargeError, UnknownError
from towpath.features.lock import names_of
from towpath.serving.answered import Answered, Ask
from towpath.serving.deployment import Deployment
from towpath.serving.oip import DTYPES, InferRequest, Tensor, tensor
from towpath.serving.responder import Responder
from towpath.serving.served import Served
from towpath.serving.statistics import Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from towpath.models.manifest import Field

__all__ = [
    "NUMBER_DIGITS",
    "answer_of",
    "ask_of",
    "described",
    "header_timeout_s",
    "in_thread",
    "model_config",
    "model_metadata",
    "server_metadata",
    "shorter",
    "tensors_of",
    "towpath_parameters",
    "trace_of",
    "version",
    "version_of",
]

_ARROW_DATATYPES = {
    "double": "FP64",
    "float": "FP32",
    "halffloat": "FP16",
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign}INT{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""Arrow's name → OIP's; everything else (text, times) travels as BYTES."""
_TRACE = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
NUMBER_DIGITS = 12
"""Of a number in a header: `int` refuses 5,000 of them, and a float has no room for 400."""
_STATE_CHARACTERS = 2_048
"""W3C asks for at least 512 to be handed on."""
_EXTENSIONS = [
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
]


def server_metadata(*, insecure_open: bool) -> dict[str, Any]:
    """``GET /v2``."""
    metadata: dict[str, Any] = {"name": "towpath", "version": version(), "extensions": _EXTENSIONS}
    if insecure_open:
        metadata["insecure_open"] = True
    return metadata


def model_metadata(deployment: Deployment) -> dict[str, Any]:
    """``GET /v2/models/<model>``: names, types and shapes as the model itself has them.

    A model whose features are looked up or computed names its keys, the columns of the request that on-demand features read,
    and what is left of its inputs; the features themselves are taken, too, one tensor each. ``platform`` names the format that
    answers: ``towpath_onnx`` of a LightGBM model with ``serving.compile``, ``towpath_lightgbm`` where that did not answer the same.
    """
    served = deployment.champion or next(iter(deployment.versions.values()), None)
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    if served is not None:
        inputs = _inputs(served)
        outputs = [described(field) for field in served.signature.outputs]
    return {
        "name": deployment.model,
        "versions": [str(version) for version in sorted(deployment.versions)],
        "platform": "towpath" if served is None else f"towpath_{served.form}",
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {"unit": _unit(served)} if served is not None else {},
    }


def model_config(deployment: Deployment, *, max_rows: int) -> dict[str, Any]:
    """``GET /v2/models/<model>/config``: the metadata in Triton's words.

    ``max_batch_size`` is 0, which says that ``dims`` are whole, the rows among them; how many rows a request may have is a parameter.
    """
    metadata = model_metadata(deployment)

    def tensors(kind: str) -> list[dict[str, Any]]:
        return [
            {
                "name": one["name"],
                "data_type": f"TYPE_{'STRING' if one['datatype'] == 'BYTES' else one['datatype']}",
                "dims": one["shape"],
            }
            for one in metadata[kind]
        ]

    parameters = {"max_rows": str(max_rows), **{name: str(value) for name, value in metadata["parameters"].items()}}
    return {
        "name": deployment.model,
        "platform": metadata["platform"],
        "backend": "towpath",
        "max_batch_size": 0,
        "input": tensors("inputs"),
        "output": tensors("outputs"),
        "parameters": {name: {"string_value": value} for name, value in parameters.items()},
    }


def header_timeout_s(text: "str | bytes | None") -> float | None:
    """The caller's own deadline, from ``Towpath-Timeout-Ms``.

    Raises:
        InputError: It is no whole number above 0.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS and int(text)):  # '¹' is a digit, too
        raise InputError("The header 'Towpath-Timeout-Ms' is no whole number of milliseconds above 0.")
    return int(text) / 1e3


def trace_of(parent: "str | bytes | None", state: "str | bytes | None" = None) -> tuple[tuple[str, str], ...]:
    """A caller's trace context as headers, where it is one; anything else is not handed to other servers.

    Args:
        parent: The header ``traceparent``.
        state: The header ``tracestate``, which says nothing without the other one.

    Example:
        >>> trace_of(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"shop=a1")[1]
        ('tracestate', 'shop=a1')
        >>> trace_of("00-1", "shop=a1")
        ()
    """
    if parent is None:
        return ()
    found = parent.decode("latin-1") if isinstance(parent, bytes) else parent
    if not _TRACE.fullmatch(found):
        return ()
    more = state.decode("latin-1") if isinstance(state, bytes) else state
    if not more or len(more) > _STATE_CHARACTERS or not (more.isascii() and more.isprintable()):
        return (("traceparent", found),)
    return ("traceparent", found), ("tracestate", more)


def shorter(one_s: float | None, other_s: float | None) -> float | None:
    """Which of two deadlines comes first; none where there is neither."""
    if one_s is None or other_s is None:
        return other_s if one_s is None else one_s
    return min(one_s, other_s)


def _inputs(served: Served) -> list[dict[str, Any]]:
    """What a caller sends: keys, columns that on-demand features read, and inputs that nobody else gives."""
    manifest, own = served.manifest, served.manifest.project
    found = {key: {"name": key, "datatype": "BYTES", "shape": [-1]} for key in served.keys if served.reader is not None}
    for one in (each for lock in manifest.on_demand for each in lock.inputs if each.reads == "request"):
        found.setdefault(one.name, {"name": one.name, "datatype": _datatype(one.type), "shape": [-1]})
    given = {
        name
        for lock in (*(manifest.features if served.reader is not None else ()), *manifest.on_demand)
        for name in names_of(lock, own)
    }
    for field in served.signature.inputs:
        if field.name not in given:
            found.setdefault(field.name, described(field))
    return list(found.values())


def version_of(deployment: Deployment, text: str) -> int | None:
    """The version that a path or a message names; none for whoever the policy picks.

    Raises:
        UnknownError: It is not loaded.
    """
    if not text:
        return None
    if text not in map(str, deployment.versions):  # never `int`: '¹' is a digit, and 5,000 of them are none
        loaded = ", ".join(str(version) for version in sorted(deployment.versions)) or "none"
        raise UnknownError(f"Version '{text}' of '{deployment.model}' is not served; loaded: {loaded}.")
    return int(text)


def ask_of(deployment: Deployment, request: InferRequest, *, max_rows: int, **more: Any) -> Ask:
    """Tensors as a request of columns; the first dimension is the row.

    Raises:
        InputError: A tensor without a dimension, or one name twice.
        TooLargeError: More rows than are taken.
    """
    columns = {one.name: one.array for one in request.tensors}
    if len(columns) != len(request.tensors):
        names = [one.name for one in request.tensors]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Two inputs have the name '{twice}'.")
    if any(array.ndim == 0 for array in columns.values()):
        name = next(name for name, array in columns.items() if array.ndim == 0)
        raise InputError(f"Input '{name}' has no dimension; the first one is the row.")
    served = deployment.champion
    if served is not None and len(columns) == 1:
        ((name, only),) = columns.items()
        if only.ndim == 1 and name not in served.names and name not in served.extra and only.size == len(served.names):
            columns = {name: only.reshape(1, -1)}
    rows = len(next(iter(columns.values())))
    if rows > max_rows:
        raise TooLargeError(f"The request has {rows} rows (limit {max_rows}).", mend="send several requests")
    return Ask(columns=columns, rows_count=rows, **more)


async def answer_of(responder: Responder, deployment: Deployment, ask: Ask, statistics: Statistics) -> Answered:
    """The answer, counted.

    Raises:
        TowpathError: Not one row has one.
    """
    steps = responder.steps(deployment, ask)
    try:
        call = next(steps)
    except StopIteration as done:  # the model was called inline and nothing had to wait
        answered = cast("Answered", done.value)
        statistics.answered(deployment, answered)
    else:
        began_s = time.perf_counter()
        answered = await responder.waited(steps, call)
        statistics.answered(deployment, answered, max(0.0, getattr(call, "started_s", 0.0) - began_s))
    if answered.unanswered:
        raise answered.error()
    return answered


async def in_thread(function: Callable[..., Any], *given: Any) -> Any:
    """Call what waits for a disk or a store, while the event loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *given)


def tensors_of(deployment: Deployment, answered: Answered) -> list[Tensor]:
    """The outputs of an answer: the model's own arrays where it answered all rows, else built from the rows.

    A row without a value is NaN in a float and an empty text in BYTES; an integer output becomes FP64 where one is null.
    """
    if answered.outputs is not None:
        return [tensor(name, array) for name, array in answered.outputs.items()]
    served = deployment.champion
    fields = served.signature.outputs if served is not None else ()
    first = fields[0].name if fields else "prediction"
    found = [tensor(first, _column(answered.predictions, fields[0] if fields else None))]
    for field in fields[1:]:
        extras = answered.extras or [None] * answered.count
        found.append(tensor(field.name, _column([None if e is None else e.get(field.name) for e in extras], field)))
    return found


def towpath_parameters(answered: Answered) -> dict[str, Any]:
    """Who answered, under ``parameters.towpath``: one value where it is the same for all rows, else one a row."""
    parameters: dict[str, Any] = {
        "prediction_id": answered.prediction_id,
        "source": _once(answered.sources),
        "reason": _once(answered.reasons),
        "version": _once(answered.versions),
        "arm": _once(answered.arms),
    }
    if answered.missing is not None:
        parameters["missing"] = _once(answered.missing)
    return parameters


@cache
def version() -> str:
    """Of Towpath."""
    return importlib.metadata.version("towpath")


def _unit(served: Served) -> str:
    if served.manifest.unit is not None:
        return served.manifest.unit
    return "entity key" if served.entity else "prediction (not sticky)"


def described(field: "Field") -> dict[str, Any]:
    """A field of a signature as the protocol describes it: name, datatype, shape."""
    return {"name": field.name, "datatype": _datatype(field.type), "shape": list(field.shape)}


def _datatype(kind: str) -> str:
    """OIP's name of a type of ours or Arrow's."""
    return kind if kind in DTYPES else _ARROW_DATATYPES.get(kind, "BYTES")


def _once(values: Sequence[Any]) -> Any:
    first = values[0]
    return first if len(values) == 1 or all(value == first for value in values) else list(values)


def _column(values: list[Any], field: "Field | None") -> "NDArray[Any]":
    kind = DTYPES.get(_datatype(field.type)) if field else None
    try:
        if kind is not None and kind.kind == "f":
            return np.array([np.nan if value is None else value for value in values], dtype=kind)
        if None not in values:
            return np.array(values, dtype=kind)
        if kind is not None and kind.kind in "iub":
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    except (ValueError, TypeError):  # rows of different lengths: a ranking and a constant, say
        pass
    text = np.empty(len(values), dtype=object)
    text[:] = ["" if value is None else value if isinstance(value, str) else str(value) for value in values]
    return text

"""What MLflow's clients send to ``/invocations``: data frames, records, tensors and CSV, as our rows and columns.

Source:
    MLflow, "Local Inference Server Specification" (``dataframe_split``, ``dataframe_records``, ``instances``, ``inputs``, CSV).
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from towpath.errors import InputError, UnknownError, nearest
from towpath.models.columns import is_number
from towpath.serving.answered import Answered
from towpath.serving.deployment import Deployment
from towpath.serving.infer import towpath_parameters
from towpath.serving.oip import decode_json, from_values, tensor
from towpath.serving.served import Columns, Served

__all__ = ["Sent", "answer_form", "model_named", "read"]

_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_MEND = 'send {"dataframe_split": {"columns": [...], "data": [[...]]}}'


class Sent(NamedTuple):
    """Rows, or columns, and how many rows they are."""

    rows: Sequence[Mapping[str, Any]] | None
    columns: Columns | None
    rows_count: int


def model_named(name: str, live: Mapping[str, Deployment]) -> str:
    """Whom ``/invocations/<model>`` or a bare ``/invocations`` asks.

    Args:
        name: Of the path, or empty.
        live: Who is served.

    Raises:
        UnknownError: No model is named, and not exactly one is served.
    """
    if name:
        return name
    if len(live) != 1:
        raise UnknownError(
            f"'/invocations' names no model{nearest('', live)}" if live else "No model is served.",
            mend="POST /invocations/<model>",
        )
    return next(iter(live))


def read(deployment: Deployment, body: bytes, content_type: bytes) -> Sent:
    """What a request asks about.

    Args:
        deployment: Whose signature says what a cell of a CSV is, and how unnamed columns are called.
        body: As it came.
        content_type: The header; JSON where it is missing.

    Raises:
        InputError: It is none of the forms; the text names the field.
    """
    kind = content_type.decode("latin-1").partition(";")[0].strip().lower()
    served = deployment.base
    if kind == "text/csv":
        rows = _csv(served, body)
        return Sent(rows, None, len(rows))
    if kind not in {"", "application/json"}:
        raise InputError(
            f"The header 'Content-Type' is '{kind[:60]}', which is not taken.", mend="send application/json or text/csv"
        )
    sent = _decoded(body)
    if not isinstance(sent, dict):
        raise InputError("The body is no JSON object.", mend=_MEND)
    sent = cast("dict[str, Any]", sent)
    if sent.get("params"):
        raise InputError("Field 'params' is not taken: no model here has parameters.", mend="leave it out")
    given = [name for name in sent if name not in {"params", "signature_name"}]
    if len(given) != 1 or given[0] not in _FORMS:
        what = "', '".join(name[:60] for name in given) or "nothing"
        raise InputError(f"The body holds '{what}'; it takes one of {', '.join(_FORMS)}.", mend=_MEND)
    form, value = given[0], sent[given[0]]
    if form == "dataframe_split":
        rows = _split(value)
    elif form == "dataframe_records":
        rows = _records(form, value)
    else:
        return _tensors(served, form, value)
    return Sent(rows, None, len(rows))


def answer_form(answered: Answered) -> dict[str, Any]:
    """``{"predictions": [...]}``, and beside it who answered, which MLflow's clients pass over."""
    return {"predictions": answered.predictions, "towpath": towpath_parameters(answered)}


def _decoded(body: bytes) -> Any:
    """JSON, in which MLflow's own client writes a missing number as NaN: outside of texts that is a null."""
    try:
        return decode_json(body)
    except InputError:
        if b"NaN" not in body or b"\xff" in body:
            raise
    # texts end at the quotes that no backslash stands before; two bytes that no UTF-8 has stand for what has one
    parts = body.replace(b"\\\\", b"\xff\xfe").replace(b'\\"', b"\xff\xfd").split(b'"')
    parts[::2] = [part.replace(b"NaN", b"null") for part in parts[::2]]
    return decode_json(b'"'.join(parts).replace(b"\xff\xfd", b'\\"').replace(b"\xff\xfe", b"\\\\"))


def _split(value: Any) -> list[dict[str, Any]]:
    frame = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    columns, data = frame.get("columns"), frame.get("data")
    if not _is_names(columns) or not isinstance(data, list):
        raise InputError("Field 'dataframe_split' has no list 'columns' of names and list 'data' of rows.", mend=_MEND)
    names = cast("list[str]", columns)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Field 'columns' of 'dataframe_split' names '{twice}' twice.")
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(cast("list[Any]", data)):
        cells = cast("list[Any]", row) if isinstance(row, list) else []
        if len(cells) != len(names) or not isinstance(row, list):
            raise InputError(f"Row {number} of 'dataframe_split' is no list of {len(names)} values, one a column.")
        rows.append(dict(zip(names, cells, strict=True)))
    return _some(rows, "dataframe_split")


def _records(form: str, value: Any) -> list[dict[str, Any]]:
    items = cast("list[Any]", value) if isinstance(value, list) else [None]
    for number, row in enumerate(items):
        if not isinstance(row, dict):
            raise InputError(f"Row {number} of '{form}' is no JSON object.", mend=_MEND)
    return _some(items, form)


def _tensors(served: Served | None, form: str, value: Any) -> Sent:
    """TensorFlow Serving's two forms: rows (``instances``), or columns by name (``inputs``), or one tensor."""
    names = served.names if served is not None else ()
    if isinstance(value, dict):
        columns = cast("dict[str, Any]", value)
        if form == "instances" or not columns:
            raise InputError(f"Field '{form}' is no list.", mend='send {"instances": [{"column": value}]}')
        return _columns(served, columns)
    if not isinstance(value, list):
        raise InputError(f"Field '{form}' is no list.", mend=_MEND)
    items = _some(cast("list[Any]", value), form)
    if all(isinstance(item, dict) for item in items):
        if _whole_tensors(served):
            records = _records(form, items)
            if any(row.keys() != records[0].keys() for row in records):
                raise InputError(f"Two rows of '{form}' have different names.")
            return _columns(served, {name: [row[name] for row in records] for name in records[0]})
        return Sent(_records(form, items), None, len(items))
    if _whole_tensors(served):
        return _columns(served, {names[0] if names else form: items})
    if len(names) == 1 and not any(isinstance(item, list | dict) for item in items):
        return Sent([{names[0]: item} for item in items], None, len(items))
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        cells = cast("list[Any]", item) if isinstance(item, list) else [item]
        if len(cells) != len(names):
            raise InputError(f"Row {number} of '{form}' has {len(cells)} values; the model reads {len(names)}.")
        rows.append(dict(zip(names, cells, strict=True)))
    return Sent(rows, None, len(rows))


def _columns(served: Served | None, given: dict[str, Any]) -> Sent:
    lengths = {
        name: len(cast("list[Any]", values)) if isinstance(values, list) else -1 for name, values in given.items()
    }
    for name, length in lengths.items():
        if length != next(iter(lengths.values())) or length < 1:
            what = "is no list" if length < 0 else f"has {length} values, others have {next(iter(lengths.values()))}"
            raise InputError(f"Input '{name}' of 'inputs' {what}.")
    count = next(iter(lengths.values()))
    if not _whole_tensors(served):
        names = list(given)
        return Sent([dict(zip(names, row, strict=True)) for row in zip(*given.values(), strict=True)], None, count)
    fields = {field.name: field for field in served.signature.inputs} if served is not None else {}
    columns: dict[str, Any] = {}
    for name, values in given.items():
        shape = _shape(values)
        kind = fields[name].type if name in fields else None
        try:
            columns[name] = (
                from_values(name, kind, shape, values).array if kind else tensor(name, np.array(values)).array
            )
        except ValueError:
            raise InputError(f"Input '{name}' is ragged.") from None
    return Sent(None, columns, count)


def _csv(served: Served | None, body: bytes) -> list[dict[str, Any]]:
    """With a head of names; an empty cell is null, and a cell of a column of numbers a number."""
    try:
        lines = list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
    except UnicodeDecodeError:
        raise InputError("The CSV is no UTF-8.") from None
    except csv.Error as error:
        raise InputError(f"The body is no CSV: {error}.") from None
    lines = [line for line in lines if line]
    if not lines:
        raise InputError("The CSV is empty.", mend="send a line of names, and one for each row")
    names = lines[0]
    if len(set(names)) != len(names):
        raise InputError(f"The CSV names '{next(name for name in names if names.count(name) > 1)}' twice.")
    numbers = (
        {field.name for field in served.signature.inputs if is_number(field)} if served is not None else set[str]()
    )
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[1:]):
        if len(line) != len(names):
            raise InputError(f"Row {number} of the CSV has {len(line)} values, its head {len(names)} names.")
        cells = zip(names, line, strict=True)
        rows.append({name: _cell(name, number, text, numbers=name in numbers) for name, text in cells})
    return _some(rows, "csv")


def _cell(name: str, row: int, text: str, *, numbers: bool) -> Any:
    if text == "":
        return None
    if not numbers:
        return text
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise InputError(f"Row {row} of the CSV, '{name}': '{text[:60]}' is no number.") from None


def _whole_tensors(served: Served | None) -> bool:
    return served is not None and served.signature.container == "tensors"


def _shape(values: Any) -> list[int]:
    shape: list[int] = []
    while isinstance(values, list):
        items = cast("list[Any]", values)
        shape.append(len(items))
        values = items[0] if items else None
    return shape


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in cast("list[Any]", value))


def _some(rows: list[Any], form: str) -> list[Any]:
    if not rows:
        raise InputError(f"'{form}' has no rows.", mend="send at least one")
    return rows

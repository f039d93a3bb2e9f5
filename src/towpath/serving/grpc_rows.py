"""The gRPC twin of ``POST /predict/<model>``: rows by entity key or with features, and an answer that says who gave it.

``deploy/proto/prediction.proto`` is the same for who generates a client; reflection has it, too.
"""

from base64 import b64encode
from functools import cache
from typing import TYPE_CHECKING, Any

from towpath.apart.protocol import Method, described
from towpath.journal.record import json_of

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    from towpath.serving.answer import Answer

__all__ = ["file", "rows_of_message", "write_answer"]

_INT64 = 2**63


@cache
def file() -> "FileDescriptorProto":
    """The messages, with their service."""
    return described(
        "towpath/prediction.proto",
        "towpath.v1",
        {
            "Value": [
                ("number", 1, "double|kind"),
                ("integer", 2, "int64|kind"),
                ("text", 3, "string|kind"),
                ("flag", 4, "bool|kind"),
                ("data", 5, "bytes|kind"),
                ("json", 6, "string|kind"),
            ],
            "Row": [("values", 1, "map:Value")],
            "PredictRequest": [("model", 1, "string"), ("rows", 2, "Row*")],
            "Answer": [
                ("prediction", 1, "Value"),
                ("output_json", 2, "string"),
                ("prediction_id", 3, "string"),
                ("version", 4, "int64"),
                ("arm", 5, "string"),
                ("source", 6, "string"),
                ("reason", 7, "string"),
                ("missing", 8, "string*"),
            ],
            "PredictResponse": [("model", 1, "string"), ("request_id", 2, "string"), ("predictions", 3, "Answer*")],
        },
        {"Prediction": {"Predict": Method("PredictRequest", "PredictResponse")}},
    )


def rows_of_message(request: Any) -> list[dict[str, Any]]:
    """Rows as JSON would have them; a value of no kind is null.

    Example:
        >>> from towpath.apart.protocol import classes
        >>> request = classes(file())["PredictRequest"](model="demand")
        >>> row = request.rows.add().values
        >>> row["item_id"].text = "bread"
        >>> row["price"].number = 2.5
        >>> sorted(rows_of_message(request)[0].items())
        [('item_id', 'bread'), ('price', 2.5)]
    """
    return [{name: _read(value) for name, value in row.values.items()} for row in request.rows]


def write_answer(answer: "Answer", response: Any) -> Any:
    """Fill a ``PredictResponse``."""
    response.model, response.request_id = answer.model, answer.request_id
    for row in answer.predictions:
        one = response.predictions.add(
            prediction_id=row.prediction_id,
            version=row.version or 0,
            arm=row.arm or "",
            source=row.source,
            reason=row.reason,
        )
        _write(row.prediction, one.prediction)
        if row.output is not None:
            one.output_json = json_of(row.output).decode()
        one.missing.extend(row.missing)
    return response


def _read(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None:
        return None
    if kind == "data":
        return b64encode(value.data).decode()
    if kind == "json":
        from towpath.serving.oip import decode_json

        return decode_json(value.json.encode())
    return getattr(value, kind)


def _write(given: Any, value: Any) -> None:
    if given is None:
        return
    if isinstance(given, bool):
        value.flag = given
    elif isinstance(given, float):
        value.number = given
    elif isinstance(given, int) and -_INT64 <= given < _INT64:
        value.integer = given
    elif isinstance(given, str):
        value.text = given
    else:
        value.json = json_of(given).decode()

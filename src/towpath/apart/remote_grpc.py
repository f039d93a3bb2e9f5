"""A model of another server over gRPC: one channel for all calls, and answers in the form that HTTP's JSON has."""

import http
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np

from towpath.apart.due import due
from towpath.apart.model import LateError
from towpath.apart.protocol import SERVICE, messages
from towpath.errors import InputError, UnavailableError
from towpath.models.columns import tensor_dtype
from towpath.models.manifest import Field

__all__ = ["Answer", "GrpcServer"]

_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "UNIMPLEMENTED": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
}
"""Of gRPC → what HTTP says of the same; all others are the server's own faults."""
_ANSWER_BYTES = 64 * 2**20
_OPTIONS = (
    ("grpc.max_receive_message_length", _ANSWER_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a server that is back is asked again soon
)


class Answer(NamedTuple):
    """What a server said, over HTTP or as if over HTTP."""

    status: int
    said: Any
    retry_after: str


class GrpcServer:
    """One model of one server.

    Args:
        url: ``grpc://host:port/model``, or ``grpcs://`` for TLS; with ``/versions/3`` where one is meant.
        name: What the model is called in errors.
        key: Sent as ``authorization: Bearer``; empty where the server asks for none.
    """

    def __init__(self, url: str, name: str, key: str) -> None:
        import grpc  # here, so that a process with an environment of its own needs numpy and msgspec alone

        self._library: Any = grpc
        self._url, self._name = url, name
        parts = urlsplit(url)
        _, model, *version = parts.path.split("/")
        self._model, self._version = unquote(model), version[1] if version else ""
        self._metadata = [("authorization", f"Bearer {key}")] if key else []
        self._kinds = messages()
        secure = parts.scheme == "grpcs"
        self._channel: Any = (
            grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials(), _OPTIONS)
            if secure
            else grpc.insecure_channel(parts.netloc, _OPTIONS)
        )

    def metadata(self, until: float) -> Answer:
        """What the model reads and gives."""
        request = self._kinds["ModelMetadataRequest"](name=self._model, version=self._version)
        found = self._asked("ModelMetadata", request, until, self._metadata)
        if isinstance(found, Answer):
            return found
        said = {
            key: [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in getattr(found, key)]
            for key in ("inputs", "outputs")
        }
        return Answer(http.HTTPStatus.OK, said, "")

    def infer(self, tensors: Sequence[dict[str, Any]], until: float) -> Answer:
        """The answer to tensors of ``name``, ``datatype``, ``shape`` and ``data``.

        Raises:
            InputError: A row has no value where gRPC has no null.
            LateError: It did not come in time.
            UnavailableError: The server cannot be reached.
        """
        request = self._kinds["ModelInferRequest"](model_name=self._model, model_version=self._version)
        for tensor in tensors:
            request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
            request.raw_input_contents.append(_packed(tensor))
        found = self._asked("ModelInfer", request, until, [*self._metadata, *due.trace])
        if isinstance(found, Answer):
            return found
        raw = list(found.raw_output_contents)
        outputs = [
            {"name": one.name, "datatype": one.datatype, "shape": list(one.shape), "data": _values(one, raw, number)}
            for number, one in enumerate(found.outputs)
        ]
        told = found.parameters["towpath"].string_param if "towpath" in found.parameters else ""
        return Answer(http.HTTPStatus.OK, {"outputs": outputs, "parameters": {"towpath": told}}, "")

    def close(self) -> None:
        """End the calls that are under way, and close the channel."""
        self._channel.close()

    def _asked(self, method: str, request: Any, until: float, metadata: Sequence[tuple[str, str]]) -> Any:
        """The response, or an `Answer` that says why there is none."""
        left_s = until - time.perf_counter()
        if left_s <= 0:
            raise LateError(f"{self._name}: '{self._url}' did not answer in time.")
        call = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=self._kinds[f"{method}Response"].FromString,
        )
        try:
            return call(request, timeout=left_s, metadata=metadata)
        except self._library.RpcError as error:
            code, trailing = error.code().name, dict(error.trailing_metadata() or ())
            if code == "DEADLINE_EXCEEDED":
                raise LateError(f"{self._name}: '{self._url}' did not answer in time.") from None
            if code == "UNAVAILABLE" and "towpath-code" not in trailing:
                raise UnavailableError(f"{self._name}: '{self._url}' is away: {error.details()}.") from None
            said = {"error": error.details() or code}
            return Answer(_STATUSES.get(code, 500), said, str(trailing.get("retry-after", "")))
        except ValueError:  # the channel was closed meanwhile
            raise UnavailableError(f"{self._name}: its channel to '{self._url}' is closed.") from None


def _packed(tensor: dict[str, Any]) -> bytes:
    """The raw form: little endian, row-major; each of BYTES with its length before it."""
    name, datatype, data = tensor["name"], tensor["datatype"], tensor["data"]
    if datatype == "BYTES":
        words = [
            value if isinstance(value, bytes) else None if value is None else str(value).encode() for value in data
        ]
        if None in words:
            raise _no_null(name, datatype)
        return b"".join(len(word).to_bytes(4, "little") + word for word in words if word is not None)
    wanted = tensor_dtype(Field(name=name, type=datatype))
    values = np.asarray([np.nan if value is None else value for value in data] if isinstance(data, list) else data)
    if values.dtype.kind == "f" and wanted.kind != "f" and np.isnan(values).any():
        raise _no_null(name, datatype)
    try:
        return np.ascontiguousarray(values).astype(wanted.newbyteorder("<"), copy=False).tobytes()
    except (ValueError, TypeError, OverflowError) as fault:
        raise InputError(f"'{name}' is no {datatype}: {fault}.") from None


def _no_null(name: str, datatype: str) -> InputError:
    return InputError(
        f"'{name}' has no value in a row, and gRPC has no null of {datatype}.", mend="http:// for this model"
    )


def _values(output: Any, raw: Sequence[bytes], number: int) -> list[Any] | None:
    """The values of an output, flat; none where they cannot be read."""
    if not raw:
        contents = [values for _, values in output.contents.ListFields()]
        return [_text(value) for value in contents[0]] if contents else []
    if number >= len(raw):
        return None
    data = raw[number]
    if output.datatype != "BYTES":
        try:
            wanted = tensor_dtype(Field(name=output.name, type=output.datatype))
            return np.frombuffer(data, wanted.newbyteorder("<")).tolist()
        except (ValueError, TypeError):
            return None
    words: list[Any] = []
    while data:
        size = int.from_bytes(data[:4], "little")
        if len(data) < 4 + size:
            return None
        words.append(_text(data[4 : 4 + size]))
        data = data[4 + size :]
    return words


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value

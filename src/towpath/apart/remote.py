"""A model that another server answers for, over the Open Inference Protocol: behind our guard, routing and journal."""

import http.client
import json
import logging
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from towpath.apart.due import due
from towpath.apart.model import LateError
from towpath.apart.remote_grpc import Answer, GrpcServer
from towpath.errors import FormatError, InputError, ModelError, RefusedError, UnavailableError, nearest
from towpath.models.columns import Columns, Encoder, rows_in, tensor_dtype
from towpath.models.folders import digest_of, size_of
from towpath.models.manifest import Artefact, Field, Signature, StoredFile
from towpath.models.model import Outputs, kind_of
from towpath.project.declarations import REMOTE
from towpath.settings import secret
from towpath.types import OutputKind

__all__ = ["Remote", "write"]

_log = logging.getLogger("towpath.apart")
_FILE = "model.remote.json"
_OWN_S = 5.0
_LOOK_AGAIN_S = 30.0
"""How long its metadata counts as read."""
_ANSWER_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**16
_ASKED_TOO_MUCH = frozenset({400, 413, 422})
_LIMITED = frozenset({429, 503})
_COLUMN_TYPES = {"FP64": "double", "FP32": "double", "FP16": "double", "BYTES": "string", "BOOL": "bool"} | {
    f"{sign}INT{bits}": "int64" for sign in ("", "U") for bits in (8, 16, 32, 64)
}
_BROKEN = (http.client.HTTPException, ConnectionError, ssl.SSLError)


class _Tensor(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    datatype: str
    shape: tuple[int, ...]


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """The artefact: where the other server is, and what it said of the model when the version was made."""

    remote: Annotated[str, Meta(pattern=REMOTE)]
    token: str = ""
    """Where its key is: ``env:NAME`` or ``file:PATH``."""
    inputs: tuple[_Tensor, ...] = ()
    outputs: tuple[_Tensor, ...] = ()


def write(folder: Path, url: str, token: str = "", variables: Mapping[str, str] | None = None) -> Artefact:
    """Ask another server what its model reads and gives, and keep that as an artefact.

    Args:
        folder: Where the file goes.
        url: Of the model, such as ``http://triton:8000/v2/models/demand`` or ``grpc://triton:8001/demand``, with ``/versions/3`` where
            one is meant.
        token: Where its key is: ``env:NAME`` or ``file:PATH``; the key itself is refused.
        variables: The process environment unless given.

    Raises:
        RefusedError: The token is a key and not the place of one, or the URL is none of a model.
        UnavailableError: The server does not answer.
        ModelError: It has no such model.
    """
    if token and not token.startswith(("env:", "file:")):
        raise RefusedError(
            "the token of another server stands in the clear.",
            where="model.toml, artefact.token",
            mend='token = "env:NAME"',
        )
    draft = _converted({"remote": url, "token": token}, "model.toml, artefact.remote")
    server = _server(draft, url, variables)
    try:
        inputs, outputs = _described(server.metadata(time.perf_counter() + _OWN_S), url)
    finally:
        server.close()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _FILE
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(draft, inputs=inputs, outputs=outputs)))
    file = StoredFile(path=_FILE, digest=digest_of(path), size_bytes=size_of(path))
    return Artefact(file=file, format="remote", framework="")


class Remote:
    """One model of another server. Calls go over a network, so never inline; connections stay open between calls.

    The server's metadata is held against what the version was made of, when a first call is made and every half minute: one that
    reads or gives other things than it did is not asked, until it is as it was or a new version is made of it.

    Args:
        path: The artefact.
        name: For errors.
        signature: Of the version; a bare file takes that of the server.
        kind: What a prediction is, where it is declared.
        own_s: What a call may take.
        variables: Where the token's value comes from; the process environment unless given.

    Raises:
        FormatError: The file is damaged.
        RefusedError: The version's signature does not fit what the server reads.
        UnavailableError: A bare file, and the server does not answer.
    """

    format = "remote"
    framework = ""
    inline = False
    row_by_row = False

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        signature: Signature | None = None,
        kind: OutputKind | None = None,
        own_s: float | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        try:
            file = _converted(json.loads(path.read_bytes()), str(path))
        except (ValueError, RecursionError) as fault:
            raise FormatError(f"'{path}' is damaged JSON: {fault}.", mend="write it again") from None
        self._name = name
        self._own_s = own_s or _OWN_S
        self._server = _server(file, name, variables)
        if not file.inputs:
            try:
                inputs, outputs = _described(self._server.metadata(time.perf_counter() + self._own_s), file.remote)
            except BaseException:
                self.close()
                raise
            file = msgspec.structs.replace(file, inputs=inputs, outputs=outputs)
        self._file = file
        self._seen_until = 0.0
        self._looking = threading.Lock()
        found = _signature(file)
        self.signature = signature or found
        self._encoder = Encoder(self.signature.inputs)
        self.unseen: Counter[str] = self._encoder.unseen
        self.kind: OutputKind = kind or kind_of(self.signature)
        try:
            self._fed = self._feeding()
        except RefusedError:
            self.close()
            raise
        self.says: dict[str, Any] = {"url": file.remote, "answers": 0, "by_its_fallback": 0}
        """For health: how many calls it answered, and how many of them by a fallback of its own."""

    def predict(self, columns: Columns) -> Outputs:
        """Answer n rows.

        Raises:
            InputError: The server says that it cannot read them.
            ModelError: What it gave is not what it promised, or it refuses us.
            UnavailableError: It is away, overloaded, or too slow.
        """
        now = time.perf_counter()
        until = min(now + self._own_s, due.until if due.until is not None else now + self._own_s)
        if now >= self._seen_until:
            self._look(until)
        answer = self._server.infer(self._fed(columns), until)
        if answer.status != http.HTTPStatus.OK:
            raise self._refused(answer, until)
        self._note(answer.said)
        return self._outputs(answer.said, rows_in(columns))

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """It has no functions."""
        del columns
        raise ModelError(f"'{self._name}' is a model of another server and has no function '{name}'.", where="fallback")

    def close(self) -> None:
        """Close the connections that no call is on."""
        self._server.close()

    def _look(self, until: float) -> None:
        """Hold the server's metadata against the version's."""
        with self._looking:
            if time.perf_counter() < self._seen_until:
                return
            inputs, outputs = _described(self._server.metadata(until), self._file.remote)
            if (inputs, outputs) != (self._file.inputs, self._file.outputs):
                raise ModelError(
                    f"{self._name}: '{self._file.remote}' reads or gives other things than when this version was made: "
                    f"{_difference((*self._file.inputs, *self._file.outputs), (*inputs, *outputs))}.",
                    where="artefact.remote",
                    mend=f"tow train {self._name.partition('@')[0]}, which makes a version of what it is now",
                )
            self._seen_until = time.perf_counter() + _LOOK_AGAIN_S

    def _feeding(self) -> Callable[[Columns], list[dict[str, Any]]]:
        """How columns become the tensors that the server reads."""
        given = [field.name for field in self.signature.inputs]
        wanted = self._file.inputs
        names = [tensor.name for tensor in wanted]
        if set(names) <= set(given) and len(given) == len(names):
            return lambda columns: [self._tensor(tensor, columns[tensor.name]) for tensor in wanted]
        only = wanted[0] if len(wanted) == 1 else None
        if only is not None and len(only.shape) == 2 and only.shape[1] in {-1, len(given)}:  # noqa: PLR2004 - a table
            return lambda columns: [self._tensor(only, self._encoder.matrix(columns))]
        lost = next((name for name in names if name not in given), names[0] if names else "")
        raise RefusedError(
            f"'{self._file.remote}' reads '{lost}'{nearest(lost, given)}; this version has {', '.join(given[:8])}.",
            where="artefact.remote",
            mend="name the features as the server does, or one table of them",
        )

    def _tensor(self, tensor: _Tensor, values: NDArray[Any]) -> dict[str, Any]:
        if tensor.datatype != "BYTES":
            wanted = tensor_dtype(Field(name=tensor.name, type=tensor.datatype))
            lost = values.dtype.kind == "f" and wanted.kind in "iub" and np.isnan(values).any()
            values = values if lost or values.dtype == object else values.astype(wanted, copy=False)
        shape = [len(values), *[abs(size) for size in tensor.shape[1:]]] if values.ndim == 1 else list(values.shape)
        flat = np.ascontiguousarray(values).reshape(-1)
        data = flat.tolist() if flat.dtype == object or tensor.datatype == "BYTES" else flat
        return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": data}

    def _outputs(self, said: Any, rows: int) -> Outputs:
        """The outputs that it promised, each with as many rows as were asked."""
        parts = {str(part.get("name")): part for part in _list(said, "outputs") if isinstance(part, dict)}
        outputs: Outputs = {}
        for field, tensor in zip(self.signature.outputs, self._file.outputs, strict=False):
            part = parts.get(tensor.name)
            if part is None:
                raise self._wrong(f"gave no output '{tensor.name}'{nearest(tensor.name, parts)}")
            array = self._array(tensor, part)
            if array.ndim == 2 and array.shape[1] == 1 and len(field.shape) == 1:  # noqa: PLR2004 - a column of one
                array = array[:, 0]
            fits = array.ndim == len(field.shape) and all(
                want in {-1, have} for want, have in zip(field.shape[1:], array.shape[1:], strict=True)
            )
            if not fits or len(array) != rows:
                raise self._wrong(
                    f"gave '{tensor.name}' of shape {list(array.shape)} for {rows} rows of {list(field.shape)}"
                )
            outputs[field.name] = array
        return outputs

    def _array(self, tensor: _Tensor, part: dict[str, Any]) -> NDArray[Any]:
        shape, data, datatype = part.get("shape"), part.get("data"), part.get("datatype")
        if not isinstance(shape, list) or not isinstance(data, list) or not all(type(size) is int for size in shape):
            raise self._wrong(f"gave '{tensor.name}' without shape or data")
        try:
            if datatype == "BYTES":
                array = np.empty(len(data), dtype=object)
                array[:] = data
            else:
                array = np.array([np.nan if value is None else value for value in data], dtype=np.float64)
                if not np.isnan(array).any():
                    array = np.array(data, dtype=tensor_dtype(Field(name=tensor.name, type=str(datatype))))
            if array.size != prod(shape):
                raise self._wrong(f"gave {array.size} values of '{tensor.name}' for the shape {shape}")
            return array.reshape(shape)
        except (ValueError, TypeError, OverflowError) as fault:
            raise self._wrong(f"gave '{tensor.name}' that cannot be read: {fault}") from None

    def _refused(self, answer: Answer, until: float) -> Exception:
        """What a status other than 200 means for whoever asked us."""
        said = _error_of(answer.said)
        if answer.status in _LIMITED or answer.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            wait = f" It asks to wait {answer.retry_after} s." if answer.retry_after.isdigit() else ""
            return UnavailableError(
                f"{self._name}: '{self._file.remote}' is not able to answer ({answer.status}): {said}.{wait}"
            )
        if answer.status in _ASKED_TOO_MUCH:
            self._seen_until = 0.0
            self._look(until)  # where it changed, that is no fault of the caller
            return InputError(f"'{self._name}' cannot read this: {said}.")
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return UnavailableError(f"{self._name}: '{self._file.remote}' is not there: {said}.")
        where, mend = "artefact.token", "a key that the other server knows"
        if answer.status not in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            where, mend = "artefact.remote", "the URL of the model itself"
        return ModelError(
            f"{self._name}: '{self._file.remote}' refuses us ({answer.status}): {said}.", where=where, mend=mend
        )

    def _note(self, said: Any) -> None:
        """Count what another Towpath says of who answered there."""
        self.says["answers"] += 1
        parameters: Any = said.get("parameters") if isinstance(said, dict) else None
        told: Any = parameters.get("towpath") if isinstance(parameters, dict) else None
        if isinstance(told, str):
            told = msgspec.json.decode(told) if told.startswith("{") else None
        if isinstance(told, dict) and "fallback:" in str(told.get("source")):
            if not self.says["by_its_fallback"]:
                _log.warning(
                    "%s: '%s' answers by its own fallback (%s)", self._name, self._file.remote, told.get("reason")
                )
            self.says["by_its_fallback"] += 1

    def _wrong(self, what: str) -> ModelError:
        return ModelError(f"{self._name}: '{self._file.remote}' {what}.", where="artefact.remote")


class _Server:
    """Connections to one server, as many as there are calls at once, kept open between them."""

    def __init__(self, url: str, name: str, key: str) -> None:
        parts = urlsplit(url)
        self._url, self._path, self._name = url, parts.path, name
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._idle: list[http.client.HTTPConnection] = []
        self._closed = False

    def metadata(self, until: float) -> Answer:
        """What the model reads and gives."""
        return self.asked("GET", "", b"", until)

    def infer(self, tensors: Sequence[dict[str, Any]], until: float) -> Answer:
        """The answer to tensors of ``name``, ``datatype``, ``shape`` and ``data``."""
        import orjson  # here, so that a process with an environment of its own needs numpy and msgspec alone

        sent = [
            one | {"data": [_word(value) for value in one["data"]]} if one["datatype"] == "BYTES" else one
            for one in tensors
        ]
        return self.asked("POST", "/infer", orjson.dumps({"inputs": sent}, option=orjson.OPT_SERIALIZE_NUMPY), until)

    def asked(self, method: str, path: str, body: bytes, until: float) -> Answer:
        """One call, with what is left of the time; one more where a kept connection turns out to be closed."""
        for last in (False, True):
            kept = self._idle.pop() if self._idle and not last else None
            connection = kept or self._connected()
            try:
                answer = self._exchanged(connection, method, path, body, until)
            except TimeoutError:
                connection.close()
                raise LateError(f"{self._name}: '{self._url}' did not answer in time.") from None
            except (*_BROKEN, OSError) as fault:
                connection.close()
                if kept is None or last:
                    raise UnavailableError(
                        f"{self._name}: '{self._url}' is away: {fault or type(fault).__name__}."
                    ) from None
            else:
                self._keep(connection)
                return answer
        raise AssertionError

    def close(self) -> None:
        """Close the connections that no call is on; the others are closed after their call."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    def _exchanged(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes, until: float
    ) -> Answer:
        left_s = until - time.perf_counter()
        if left_s <= 0:
            raise TimeoutError
        connection.timeout = left_s
        if connection.sock is not None:
            connection.sock.settimeout(left_s)
        headers = self._headers | {"Towpath-Timeout-Ms": str(max(1, int(left_s * 1e3)))}
        if due.trace and body:  # of the call alone: a look at the metadata now and then is no part of it
            headers |= dict(due.trace)
        connection.request(method, self._path + path, body or None, headers)
        response = connection.getresponse()
        parts: list[bytes] = []
        size = 0
        while part := response.read1(_CHUNK_BYTES):
            parts.append(part)
            size += len(part)
            left_s = until - time.perf_counter()
            if left_s <= 0 or size > _ANSWER_BYTES:
                raise TimeoutError
            if connection.sock is not None:
                connection.sock.settimeout(left_s)
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        response.close()  # else the connection takes no further call: it sends one, and only then says so
        import orjson

        try:
            said: Any = orjson.loads(b"".join(parts)) if size else None
        except orjson.JSONDecodeError:
            said = None
        return Answer(response.status, said, response.headers.get("Retry-After", ""))

    def _connected(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port)


def _server(file: _File, name: str, variables: Mapping[str, str] | None) -> "_Server | GrpcServer":
    """By the scheme of its URL; both raise `LateError` and `UnavailableError`."""
    key = secret(file.token, Path.cwd(), variables) if file.token else ""
    return (GrpcServer if file.remote.startswith("grpc") else _Server)(file.remote, name, key)


def _described(answer: Answer, url: str) -> tuple[tuple[_Tensor, ...], tuple[_Tensor, ...]]:
    """Inputs and outputs, as the server's metadata has them."""
    if answer.status != http.HTTPStatus.OK:
        kind = UnavailableError if answer.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR else ModelError
        raise kind(f"'{url}' does not describe its model ({answer.status}): {_error_of(answer.said)}.")
    try:
        inputs, outputs = (
            msgspec.convert(_list(answer.said, key), tuple[_Tensor, ...]) for key in ("inputs", "outputs")
        )
    except msgspec.ValidationError as fault:
        raise ModelError(f"'{url}' describes its model in a way that cannot be read: {fault}.") from None
    if not inputs or not outputs:
        raise ModelError(f"'{url}' does not say what its model reads and gives.", where="artefact.remote")
    return inputs, outputs


def _converted(raw: Any, where: str) -> _File:
    try:
        file = msgspec.convert(raw, _File)
    except msgspec.ValidationError as fault:
        raise RefusedError(
            f"the model of another server is declared wrongly: {fault}.",
            where=where,
            mend='remote = "http://host:8000/v2/models/demand", or "grpc://host:8001/demand"',
        ) from None
    if file.token and not file.token.startswith(("env:", "file:")):
        raise RefusedError("the token of another server stands in the clear.", where=where, mend='token = "env:NAME"')
    return file


def _signature(file: _File) -> Signature:
    """What the server said as a signature: columns where each input is one value a row, else tensors."""
    columns = all(tensor.shape[1:] in {(), (1,)} and tensor.datatype in _COLUMN_TYPES for tensor in file.inputs)
    if columns:
        inputs = tuple(Field(name=one.name, type=_COLUMN_TYPES[one.datatype]) for one in file.inputs)
    else:
        inputs = tuple(
            Field(name=one.name, type=one.datatype, shape=(-1, *one.shape[1:]), nullable=False) for one in file.inputs
        )
    outputs = tuple(
        Field(
            name=one.name,
            type=one.datatype,
            shape=(-1,) if one.shape[1:] in {(), (1,)} else (-1, *one.shape[1:]),
            nullable=False,
        )
        for one in file.outputs
    )
    return Signature(container="numpy" if columns else "tensors", inputs=inputs, outputs=outputs)


def _difference(before: Sequence[_Tensor], now: Sequence[_Tensor]) -> str:
    old, new = ({one.name: f"{one.datatype} {list(one.shape)}" for one in some} for some in (before, now))
    changed = [
        f"'{name}' was {old.get(name, 'not there')} and is {new.get(name, 'gone')}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]
    return ", ".join(changed[:3]) or "their order"


def _list(said: Any, key: str) -> list[Any]:
    found: Any = said.get(key) if isinstance(said, dict) else None
    return found if isinstance(found, list) else []


def _error_of(said: Any) -> str:
    text: Any = said.get("error") if isinstance(said, dict) else None
    return str(text)[:300].rstrip(".") if text else "it does not say why"


def _word(value: object) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None if value is None else str(value)

"""gRPC: the Open Inference Protocol beside HTTP, in the same event loop and with the same answers."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from towpath.errors import CallerError, InputError, QuotaError, TowpathError, UnavailableError
from towpath.serving import oip
from towpath.serving.access import AccessLog
from towpath.serving.http import Health
from towpath.serving.infer import ask_of, model_metadata, server_metadata, tensors_of, towpath_parameters, version_of
from towpath.serving.metrics import Meter
from towpath.serving.protocol import METHODS, SERVICE, messages
from towpath.serving.responder import Responder
from towpath.settings import ServingSettings
from towpath.traffic import Consumers

if TYPE_CHECKING:
    import grpc.aio

__all__ = ["CODES", "GrpcService", "grpc_server"]

_log = logging.getLogger("towpath.serving")
_MARGIN_S = 0.005
_MARGIN_SHARE = 0.1
_PING_MS = 10_000
_ALIVE_MS = 60_000
_IDLE_MS = 1_800_000
"""A gRPC channel keeps one connection on purpose; half an hour without a call is when nobody holds it any more."""
CODES = {
    "input": "INVALID_ARGUMENT",
    "unknown": "NOT_FOUND",
    "denied": "UNAUTHENTICATED",
    "forbidden": "PERMISSION_DENIED",
    "too_large": "RESOURCE_EXHAUSTED",
    "quota": "RESOURCE_EXHAUSTED",
    "overloaded": "RESOURCE_EXHAUSTED",
}
"""Code of an error → gRPC status; any other is INVALID_ARGUMENT of the caller's and UNAVAILABLE of ours."""
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""FP16 has none: the protocol sends it raw only."""


class GrpcService:
    """The methods of ``inference.GRPCInferenceService``.

    Args:
        responder: Answers.
        consumers: Knows keys.
        health: Of this worker.
        meter: Counts.
        settings: Limits.
        access: Takes a line for each call; none where nobody asked for it.
        insecure_open: Said in the metadata.
    """

    def __init__(
        self,
        responder: Responder,
        *,
        consumers: Consumers,
        health: Health,
        meter: Meter,
        settings: ServingSettings,
        access: AccessLog | None = None,
        insecure_open: bool = False,
    ) -> None:
        self._responder = responder
        self._consumers = consumers
        self._health = health
        self._meter = meter
        self._max_rows = settings.max_rows
        self._access = access
        self._insecure_open = insecure_open
        self._messages = messages()

    async def server_live(self, _request: Any, _context: Any) -> Any:
        """Whether the process answers."""
        return self._messages["ServerLiveResponse"](live=True)

    async def server_ready(self, _request: Any, _context: Any) -> Any:
        """Whether callers should come."""
        return self._messages["ServerReadyResponse"](ready=self._health.ready)

    async def model_ready(self, request: Any, _context: Any) -> Any:
        """Whether a model is loaded and proven."""
        deployment = self._responder.deployment(request.name)
        version = version_of(deployment, request.version)
        return self._messages["ModelReadyResponse"](
            ready=self._health.ready and (version is not None or deployment.ready)
        )

    async def server_metadata(self, _request: Any, _context: Any) -> Any:
        """Name, version, extensions."""
        found = server_metadata(insecure_open=self._insecure_open)
        return self._messages["ServerMetadataResponse"](
            name=found["name"], version=found["version"], extensions=found["extensions"]
        )

    async def model_metadata(self, request: Any, _context: Any) -> Any:
        """Names, types and shapes."""
        deployment = self._responder.deployment(request.name)
        version_of(deployment, request.version)
        found = model_metadata(deployment)
        found.pop("parameters")
        return self._messages["ModelMetadataResponse"](**found)

    async def model_infer(self, request: Any, context: Any) -> Any:
        """Tensors in, tensors out: raw where the caller sent raw, typed where it sent typed."""
        metadata: Mapping[str, Any] = dict(context.invocation_metadata() or ())
        caller = self._consumers.admit(_authorization(metadata), "predict", request.model_name)
        deployment = self._responder.deployment(request.model_name)
        version = version_of(deployment, request.model_version)
        raw = bool(request.raw_input_contents)
        ask = ask_of(
            deployment,
            _decoded(request),
            max_rows=self._max_rows,
            consumer=caller.name,
            request_id=str(metadata.get("x-request-id", "")) or request.id,
            protocol="grpc",
            version=version,
            timeout_s=_timeout_s(context.time_remaining()),
        )
        caller.take_rows(ask.rows_count)
        steps = self._responder.steps(deployment, ask)
        try:
            call = next(steps)
        except StopIteration as done:
            answered = done.value
        else:
            answered = await self._responder.waited(steps, call)
        if answered.unanswered:
            raise answered.error()
        back = [("x-request-id", answered.request_id)]
        if "traceparent" in metadata:
            back.append(("traceparent", metadata["traceparent"]))
        await context.send_initial_metadata(back)
        tensors = _wanted(tensors_of(deployment, answered), [one.name for one in request.outputs])
        response = self._messages["ModelInferResponse"](
            model_name=deployment.model,
            model_version="" if answered.versions[0] is None else str(answered.versions[0]),
            id=request.id,
        )
        response.parameters["towpath"].string_param = orjson.dumps(towpath_parameters(answered)).decode()
        for one in tensors:
            _write(response, one, raw=raw or any(t.datatype == "FP16" for t in tensors))
        return response

    def handled(self, name: str, method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        """The method, with our errors as gRPC's and its line in the access log."""
        if self._access is None:
            return self._with_our_errors(method)
        answer, access = self._with_our_errors(method), self._access

        async def logged(request: Any, context: Any) -> Any:
            start = time.perf_counter()
            try:
                return await answer(request, context)
            finally:
                metadata: Mapping[str, Any] = dict(context.invocation_metadata() or ())
                access.line(
                    protocol="grpc",
                    method=name,
                    path=getattr(request, "model_name", "") or getattr(request, "name", ""),
                    status=getattr(context.code(), "name", None) or "OK",
                    ms=(time.perf_counter() - start) * 1e3,
                    consumer=self._consumers.name_of(_authorization(metadata)),
                    request_id=str(metadata.get("x-request-id", "")) or getattr(request, "id", ""),
                )

        return logged

    def _with_our_errors(self, method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        import grpc

        async def answer(request: Any, context: Any) -> Any:
            try:
                return await method(request, context)
            except TowpathError as raised:
                error = raised
            except Exception:  # noqa: BLE001 - the edge: a fault of ours is logged whole and told plainly
                _log.exception("a gRPC request failed")
                error = UnavailableError("The request could not be answered.", mend="try again later")
            metadata: Mapping[str, Any] = dict(context.invocation_metadata() or ())
            self._meter.refused(error.code, self._consumers.name_of(_authorization(metadata)))
            code = CODES.get(error.code, "INVALID_ARGUMENT" if isinstance(error, CallerError) else "UNAVAILABLE")
            text = f"{error.what} {error.mend}".strip()
            trailing = [("towpath-code", error.code)]
            if isinstance(error, QuotaError):  # what clients with a retry policy wait for
                trailing.append(("grpc-retry-pushback-ms", str(max(1, round(error.retry_after_s * 1e3)))))
            return await context.abort(getattr(grpc.StatusCode, code), text, tuple(trailing))

        return answer


def grpc_server(service: GrpcService, *, settings: ServingSettings, reuse_port: bool) -> "grpc.aio.Server":
    """A server that is not started yet and has no port yet."""
    import grpc
    import grpc.aio

    known = messages()
    methods = {
        "ServerLive": service.server_live,
        "ServerReady": service.server_ready,
        "ModelReady": service.model_ready,
        "ServerMetadata": service.server_metadata,
        "ModelMetadata": service.model_metadata,
        "ModelInfer": service.model_infer,
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            service.handled(name, methods[name]),
            request_deserializer=known[f"{name}Request"].FromString,
            response_serializer=known[f"{name}Response"].SerializeToString,
        )
        for name in METHODS
    }
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", int(reuse_port)),
            ("grpc.max_receive_message_length", settings.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", settings.max_header_bytes),
            ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
            ("grpc.max_concurrent_streams", settings.max_streams),
            ("grpc.http.overload_protection", 0),
            ("grpc.server_handshake_timeout_ms", int(settings.header_timeout_s * 1e3)),
            # a caller that pings more often than this, or is gone without a word, is let go
            ("grpc.http2.min_ping_interval_without_data_ms", _PING_MS),
            ("grpc.http2.max_ping_strikes", 3),
            ("grpc.keepalive_time_ms", _ALIVE_MS),
            ("grpc.keepalive_timeout_ms", _ALIVE_MS // 3),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.max_connection_idle_ms", _IDLE_MS),
        ]
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    return server


def _authorization(metadata: Mapping[str, Any]) -> bytes | None:
    found = metadata.get("authorization")
    return None if found is None else str(found).encode("latin-1", "replace")


def _timeout_s(remaining_s: float | None) -> float | None:
    """The caller hangs up at its deadline, so the answer leaves a little earlier: a tenth of it, at least 5 ms."""
    if remaining_s is None:
        return None
    return max(0.001, remaining_s - max(_MARGIN_S, remaining_s * _MARGIN_SHARE))


def _decoded(request: Any) -> oip.InferRequest:
    raw = request.raw_input_contents
    if not request.inputs:
        raise InputError("Field 'inputs' is empty.")
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"There are {len(request.inputs)} inputs and {len(raw)} raw_input_contents.")
    tensors: list[oip.Tensor] = []
    for number, given in enumerate(request.inputs):
        shape = oip.checked_shape(given.name, list(given.shape))
        if raw:
            tensors.append(oip.from_bytes(given.name, given.datatype, shape, raw[number]))
            continue
        field = _CONTENTS.get(given.datatype)
        values = list(getattr(given.contents, field)) if field is not None else []
        tensors.append(oip.from_values(given.name, given.datatype, shape, values))
    return oip.InferRequest(request.id, tensors, [], binary_output=False, parameters={})


def _wanted(tensors: list[oip.Tensor], names: list[str]) -> list[oip.Tensor]:
    if not names:
        return tensors
    return [
        one for one, _ in oip.chosen(tensors, [oip.Wanted(name, binary=False) for name in names], binary_output=False)
    ]


def _write(response: Any, one: oip.Tensor, *, raw: bool) -> None:
    output = response.outputs.add(name=one.name, datatype=one.datatype, shape=one.array.shape)
    if raw:
        response.raw_output_contents.append(oip.bytes_of(one))
        return
    values = one.array.reshape(-1).tolist()
    if one.datatype == "BYTES":
        values = [
            value if isinstance(value, bytes) else ("" if value is None else str(value)).encode() for value in values
        ]
    getattr(output.contents, _CONTENTS[one.datatype]).extend(values)

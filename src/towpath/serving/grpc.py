"""gRPC: the Open Inference Protocol beside HTTP, in the same event loop and with the same answers."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import orjson

from towpath.apart.protocol import classes, file, messages
from towpath.errors import (
    CallerError,
    DeniedError,
    InputError,
    OverloadedError,
    QuotaError,
    TowpathError,
    UnavailableError,
)
from towpath.serving import grpc_rows, health, oip, reflection
from towpath.serving.access import AccessLog
from towpath.serving.answered import Answered, Ask
from towpath.serving.bodies import checked_rows, rows_of
from towpath.serving.grpc_door import Method
from towpath.serving.health import HealthService
from towpath.serving.http import Health
from towpath.serving.infer import (
    answer_of,
    ask_of,
    header_timeout_s,
    in_thread,
    model_config,
    model_metadata,
    server_metadata,
    shorter,
    tensors_of,
    towpath_parameters,
    trace_of,
    version_of,
)
from towpath.serving.metrics import Meter
from towpath.serving.reflection import ReflectionService
from towpath.serving.repository import Repository, unloaded
from towpath.serving.responder import Responder
from towpath.serving.schemas import again_s
from towpath.serving.statistics import Statistics
from towpath.settings import ServingSettings
from towpath.traffic import Consumers

__all__ = ["CODES", "GrpcService"]

_log = logging.getLogger("towpath.serving")
_MARGIN_S = 0.005
_MARGIN_SHARE = 0.1
CODES = {
    "input": "INVALID_ARGUMENT",
    "unknown": "NOT_FOUND",
    "denied": "UNAUTHENTICATED",
    "forbidden": "PERMISSION_DENIED",
    "too_large": "RESOURCE_EXHAUSTED",
    "quota": "RESOURCE_EXHAUSTED",
    "overloaded": "RESOURCE_EXHAUSTED",
    "conflict": "ABORTED",
}
"""Code of an error → gRPC status; any other is INVALID_ARGUMENT of the caller's and UNAVAILABLE of ours."""
_COMPRESSION = "towpath-compression"
"""Metadata by which a caller asks for a compressed answer; whoever packs its message gets a packed answer anyway."""
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
        statistics: Counts by version.
        repository: Loads and unloads.
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
        statistics: Statistics,
        repository: Repository,
        settings: ServingSettings,
        access: AccessLog | None = None,
        insecure_open: bool = False,
    ) -> None:
        self._responder = responder
        self._consumers = consumers
        self._health = health
        self._meter = meter
        self._statistics = statistics
        self._repository = repository
        self._max_rows = settings.max_rows
        self._access = access
        self._insecure_open = insecure_open
        self._messages = messages()
        self._predict_response: Callable[[], Any] = classes(grpc_rows.file())["PredictResponse"]
        self.closing = asyncio.Event()
        """Set when the server ends: streams that are open are finished with the message that they are at."""

    def methods(self) -> dict[str, Method]:
        """All services of the server by path: the protocol's, health, reflection."""
        checks = HealthService(lambda: self._health.ready, self._responder.deployments, self.closing)
        of_health: Mapping[str, Callable[..., Any]] = {
            "Check": checks.check,
            "List": checks.list,
            "Watch": checks.watch,
        }
        files = [
            file(),
            grpc_rows.file(),
            health.file(),
            *(reflection.file(package) for package in reflection.PACKAGES),
        ]
        found: dict[str, Method] = {}
        for one in files:
            known = classes(one)
            own = of_health
            if one.package in reflection.PACKAGES:
                own = {"ServerReflectionInfo": ReflectionService(one.package, files).info}
            for service in one.service:
                for method in service.method:
                    function = own.get(method.name) or getattr(self, _snake(method.name))
                    path = f"/{one.package}.{service.name}/{method.name}"
                    found[path] = self._method(path, method, known, function)
        return found

    async def server_live(self, _request: Any, _context: Any) -> Any:
        """Whether the process answers."""
        return self._messages["ServerLiveResponse"](live=True)

    async def server_ready(self, _request: Any, _context: Any) -> Any:
        """Whether callers should come."""
        return self._messages["ServerReadyResponse"](ready=self._health.ready)

    async def model_ready(self, request: Any, _context: Any) -> Any:
        """Whether a model is loaded and proven, and nobody unloaded it."""
        deployment = self._responder.deployment(request.name)
        version = version_of(deployment, request.version)
        ready = self._health.ready and (version is not None or deployment.ready) and not unloaded(deployment)
        return self._messages["ModelReadyResponse"](ready=ready)

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

    async def model_config(self, request: Any, _context: Any) -> Any:
        """The same in Triton's words."""
        deployment = self._responder.deployment(request.name)
        version_of(deployment, request.version)
        found = {"config": model_config(deployment, max_rows=self._max_rows)}
        return _parsed(found, self._messages["ModelConfigResponse"]())

    async def model_statistics(self, request: Any, _context: Any) -> Any:
        """Counts and times of one model, or of all."""
        deployments, version = self._responder.deployments.live.values(), None
        if request.name:
            deployment = self._responder.deployment(request.name)
            deployments, version = [deployment], version_of(deployment, request.version)
        found = await in_thread(self._statistics.of, deployments, version)
        return _parsed({"model_stats": found}, self._messages["ModelStatisticsResponse"]())

    async def repository_index(self, request: Any, _context: Any) -> Any:
        """Which versions there are."""
        found = self._repository.index(self._responder.deployments.live.values(), only_ready=request.ready)
        return _parsed({"models": found}, self._messages["RepositoryIndexResponse"]())

    async def repository_model_load(self, request: Any, context: Any) -> Any:
        """Let a model answer again."""
        name = await self._changed(request, context, self._repository.load)
        return self._messages["RepositoryModelLoadResponse"](model_name=name, isLoaded=True)

    async def repository_model_unload(self, request: Any, context: Any) -> Any:
        """Send a model's rows to its fallback."""
        name = await self._changed(request, context, self._repository.unload)
        return self._messages["RepositoryModelUnloadResponse"](model_name=name, isUnloaded=True)

    async def model_infer(self, request: Any, context: Any) -> Any:
        """Tensors in, tensors out: raw where the caller sent raw, typed where it sent typed."""
        return await _told(request, context, self._inferred)

    async def predict(self, request: Any, context: Any) -> Any:
        """Rows in, answers out."""
        return await _told(request, context, self._predicted)

    async def _predicted(
        self, request: Any, metadata: Mapping[str, Any], remaining_s: float | None
    ) -> tuple[Any, list[tuple[str, str]]]:
        """The answer to rows, and what goes before it."""
        caller = self._consumers.admit(_authorization(metadata), "predict", request.model)
        deployment = self._responder.deployment(request.model)
        rows = rows_of(grpc_rows.rows_of_message(request))
        checked_rows(len(rows), self._max_rows)
        caller.take_rows(len(rows))
        ask = Ask(
            rows=rows,
            consumer=caller.name,
            request_id=str(metadata.get("x-request-id", "")),
            protocol="grpc",
            timeout_s=shorter(_timeout_s(remaining_s), header_timeout_s(metadata.get("towpath-timeout-ms"))),
            trace=trace_of(metadata.get("traceparent"), metadata.get("tracestate")),
        )
        answered = await answer_of(self._responder, deployment, ask, self._statistics)
        return grpc_rows.write_answer(answered.answer(), self._predict_response()), _back(answered, metadata)

    async def model_stream_infer(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        """One answer, or one error, for each message, in their order; the next is read when the last was answered."""
        metadata: Mapping[str, Any] = dict(context.invocation_metadata() or ())
        packing = metadata.get(_COMPRESSION)
        if packing is not None:
            context.set_compression(_compression(packing))
        request_class, response_class = self._messages["ModelInferRequest"], self._messages["ModelStreamInferResponse"]
        async for raw in self._until_closing(requests):
            response = response_class()
            identity = ""
            try:
                request = _read(request_class, raw)
                identity = request.id
                answer, _ = await self._inferred(request, metadata, context.time_remaining(), streams=True)
            except DeniedError:
                raise  # whoever has no key shall not keep a stream open either
            except Exception as raised:  # noqa: BLE001 - the edge: a message that fails costs none of its neighbours
                error = self._told(raised, metadata)
                response.error_message = _text(error)
                response.infer_response.id = identity
                response.infer_response.parameters["towpath-code"].string_param = error.code
            else:
                answer.parameters["triton_final_response"].bool_param = True
                response.infer_response.CopyFrom(answer)
            yield response

    async def _inferred(
        self, request: Any, metadata: Mapping[str, Any], remaining_s: float | None, *, streams: bool = False
    ) -> tuple[Any, list[tuple[str, str]]]:
        """The answer to tensors, and what goes before it."""
        caller = self._consumers.admit(_authorization(metadata), "predict", request.model_name)
        deployment = self._responder.deployment(request.model_name)
        version = version_of(deployment, request.model_version)
        raw = bool(request.raw_input_contents)
        decoded = _decoded(request)
        timeout_s = shorter(_timeout_s(remaining_s), header_timeout_s(metadata.get("towpath-timeout-ms")))
        if decoded.parameters:
            timeout_s = shorter(timeout_s, oip.timeout_s_of(decoded.parameters))
        named = "" if streams else str(metadata.get("x-request-id", ""))  # a stream has one, and many requests
        ask = ask_of(
            deployment,
            decoded,
            max_rows=self._max_rows,
            consumer=caller.name,
            request_id=named or request.id,
            protocol="grpc",
            version=version,
            timeout_s=timeout_s,
            trace=trace_of(metadata.get("traceparent"), metadata.get("tracestate")),
        )
        caller.take_rows(ask.rows_count)
        answered = await answer_of(self._responder, deployment, ask, self._statistics)
        tensors = _wanted(tensors_of(deployment, answered), [one.name for one in request.outputs])
        response = self._messages["ModelInferResponse"](
            model_name=deployment.model,
            model_version="" if answered.versions[0] is None else str(answered.versions[0]),
            id=request.id,
        )
        response.parameters["towpath"].string_param = orjson.dumps(towpath_parameters(answered)).decode()
        for one in tensors:
            _write(response, one, raw=raw or any(t.datatype == "FP16" for t in tensors))
        return response, _back(answered, metadata)

    async def _changed(self, request: Any, context: Any, change: Callable[..., None]) -> str:
        metadata: Mapping[str, Any] = dict(context.invocation_metadata() or ())
        name = request.model_name or request.repository_name  # where KServe's messages have the model's name
        by = self._repository.admit(_authorization(metadata), name, from_page="origin" in metadata)
        deployment = self._responder.deployment(name)
        await in_thread(partial(change, deployment, _parameters(request.parameters), by=by))
        return name

    async def _until_closing(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The messages of a stream; one that waits for its next when the server ends is told to come again."""
        closing = asyncio.ensure_future(self.closing.wait())
        reading: asyncio.Future[bytes] | None = None
        coming = aiter(requests)
        try:
            while True:
                reading = asyncio.ensure_future(_next(coming))
                await asyncio.wait({reading, closing}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    raise UnavailableError("The server ends.", mend="open the stream again")
                try:
                    message = reading.result()
                except _EndedError:
                    return
                yield message
        finally:
            closing.cancel()
            if reading is not None:
                reading.cancel()

    def _method(self, path: str, method: Any, known: Mapping[str, Any], function: Callable[..., Any]) -> Method:
        """A method as the door takes it. Messages are read in here, so that one which cannot be read is the caller's fault."""
        request_class = known[method.input_type.rpartition(".")[2]]
        write: Callable[[Any], bytes] = known[method.output_type.rpartition(".")[2]].SerializeToString
        if not method.server_streaming:
            return Method(self._once(path, request_class, function, write))
        if not method.client_streaming:

            def asked_once(raw: bytes, context: Any) -> AsyncIterator[Any]:
                return function(_read(request_class, raw), context)

            return Method(self._often(method.name, asked_once, write), answers_often=True)

        def asked_often(raw: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            return function((_read(request_class, one) async for one in self._until_closing(raw)), context)

        # inference reads its messages itself, one by one: each has an error of its own
        often = self._often(method.name, function if method.name == "ModelStreamInfer" else asked_often, write)
        return Method(often, asks_often=True, answers_often=True)

    def _once(
        self,
        path: str,
        request_class: Any,
        method: Callable[[Any, Any], Awaitable[Any]],
        write: Callable[[Any], bytes],
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """The method, with our errors as gRPC's and its line in the access log."""
        access, name = self._access, path.rpartition("/")[2]

        async def answer(raw: bytes, context: Any) -> bytes:
            start = 0.0 if access is None else time.perf_counter()
            request: Any = None
            try:
                request = _read(request_class, raw)
                return write(await method(request, context))
            except Exception as raised:  # noqa: BLE001 - the edge
                return await self._abort(raised, context)
            finally:
                if access is not None:
                    self._log(access, name, request, context, start)

        return answer

    def _often(
        self, name: str, method: Callable[[Any, Any], AsyncIterator[Any]], write: Callable[[Any], bytes]
    ) -> Callable[[Any, Any], AsyncIterator[bytes]]:
        """The same for a method that answers with a stream."""

        async def answers(asked: Any, context: Any) -> AsyncIterator[bytes]:
            start = time.perf_counter()
            try:
                async for response in method(asked, context):
                    yield write(response)
            except Exception as raised:  # noqa: BLE001 - the edge
                await self._abort(raised, context)
            finally:
                if self._access is not None:
                    self._log(self._access, name, None, context, start)

        return answers

    def _log(self, access: AccessLog, name: str, request: Any, context: Any, start: float) -> None:
        metadata: Mapping[str, Any] = dict(context.invocation_metadata() or ())
        access.line(
            protocol="grpc",
            method=name,
            path=next((name for kind in ("model_name", "model", "name") if (name := getattr(request, kind, ""))), ""),
            status=getattr(context.code(), "name", None) or "OK",
            ms=(time.perf_counter() - start) * 1e3,
            consumer=self._consumers.name_of(_authorization(metadata)),
            request_id=str(metadata.get("x-request-id", "")) or getattr(request, "id", ""),
        )

    def _told(self, raised: Exception, metadata: Mapping[str, Any]) -> TowpathError:
        """What is said of it; a fault of ours is logged whole and told plainly."""
        if isinstance(raised, TowpathError):
            error = raised
        else:
            _log.error("a gRPC request failed", exc_info=raised)
            error = UnavailableError("The request could not be answered.", mend="try again later")
        self._meter.refused(error.code, self._consumers.name_of(_authorization(metadata)))
        return error

    async def _abort(self, raised: Exception, context: Any) -> Any:
        if context.done():  # the caller is gone
            raise raised
        error = self._told(raised, dict(context.invocation_metadata() or ()))
        code = CODES.get(error.code, "INVALID_ARGUMENT" if isinstance(error, CallerError) else "UNAVAILABLE")
        trailing = [("towpath-code", error.code)]
        again = again_s(error)
        if again is not None:
            trailing.append(("retry-after", str(again)))
        if isinstance(error, QuotaError | OverloadedError):  # what clients with a retry policy wait for
            trailing.append(("grpc-retry-pushback-ms", str(min(max(1, round(error.retry_after_s * 1e3)), 30_000))))
        return await context.abort(code, _text(error), tuple(trailing))


async def _told(
    request: Any, context: Any, answer: Callable[..., Coroutine[Any, Any, tuple[Any, list[tuple[str, str]]]]]
) -> Any:
    """One answer to one request, packed as the caller asked, behind what goes before it."""
    metadata: Mapping[str, Any] = dict(context.invocation_metadata() or ())
    packing = metadata.get(_COMPRESSION)
    if packing is not None:
        context.set_compression(_compression(packing))
    response, back = await answer(request, metadata, context.time_remaining())
    await context.send_initial_metadata(back)
    return response


def _back(answered: Answered, metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What goes before an answer: the id of the request, and the trace as it came or as the span of this server."""
    trace = metadata.get("traceparent")
    own = [("x-request-id", answered.request_id)]
    return own if trace is None else [*own, ("traceparent", trace)]


def _authorization(metadata: Mapping[str, Any]) -> bytes | None:
    found = metadata.get("authorization")
    return None if found is None else str(found).encode("latin-1", "replace")


class _EndedError(Exception):
    """The caller sends no more."""


async def _next(coming: AsyncIterator[bytes]) -> bytes:
    try:
        return await anext(coming)
    except StopAsyncIteration:  # which no task may end with
        raise _EndedError from None


def _snake(name: str) -> str:
    """``ModelInfer`` → ``model_infer``."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _read(kind: Any, raw: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(raw)
    except DecodeError:
        raise InputError(
            f"The {len(raw)} bytes are no '{kind.DESCRIPTOR.name}'.", mend="send a message of the protocol"
        ) from None


def _parsed(found: dict[str, Any], message: Any) -> Any:
    from google.protobuf.json_format import ParseDict

    return ParseDict(found, message)


def _parameters(given: Any) -> dict[str, Any]:
    """A map of parameters as plain values."""
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "", None) for name, value in given.items()}


def _compression(name: str) -> str:
    if name not in {"gzip", "deflate", "identity"}:
        raise InputError(
            f"The metadata '{_COMPRESSION}' is '{name[:40]}', which is not known.", mend="send gzip or deflate"
        )
    return name


def _text(error: TowpathError) -> str:
    what = error.what if error.what.endswith(".") or not error.mend else f"{error.what}."
    return f"{what} {error.mend}".strip().replace("\n", " ")


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
        if given.parameters:
            oip.refuse_parameters(given.parameters, "input", given.name)
        if raw:
            if given.HasField("contents") and _filled(given):
                raise InputError(
                    f"Input '{given.name}' has values in contents and in raw_input_contents.", mend="send one of them"
                )
            tensors.append(oip.from_bytes(given.name, given.datatype, shape, raw[number]))
            continue
        field = _CONTENTS.get(given.datatype)
        values = list(getattr(given.contents, field)) if field is not None else []
        if not values and (field or given.datatype == "FP16") and (elsewhere := _filled(given)):
            raise InputError(
                f"Input '{given.name}' of {given.datatype} has its values in '{elsewhere}'.",
                mend=f"send them in {field or 'raw_input_contents'}",
            )
        tensors.append(oip.from_values(given.name, given.datatype, shape, values))
    for wanted in request.outputs:
        if wanted.parameters:
            oip.refuse_parameters(wanted.parameters, "output", wanted.name)
    parameters = _parameters(request.parameters) if request.parameters else {}
    return oip.InferRequest(request.id, tensors, [], binary_output=False, parameters=parameters)


def _filled(given: Any) -> str:
    """Which field of an input's contents has values; empty where none has."""
    return next((field.name for field, _ in given.contents.ListFields()), "")


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

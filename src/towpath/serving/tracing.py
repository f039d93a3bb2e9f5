"""A span for each request, for OpenTelemetry; where no setting asks for it, nothing of it is imported."""

import importlib.util
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from towpath.apart.protocol import SERVICE
from towpath.errors import CallerError, ExtraError, TowpathError, by_code

if TYPE_CHECKING:
    from towpath.serving.answered import Answered
    from towpath.serving.deployment import Deployment
    from towpath.serving.grpc import GrpcService
    from towpath.serving.http import App, Headers
    from towpath.serving.statistics import Statistics

__all__ = ["Tracing", "tracing_of"]

_METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"})
_NAMED = frozenset({"predict", "outcomes", "features", "kill", "revive", "invocations", "openapi"})
_PLAIN = frozenset({"/health", "/health/ready", "/metrics", "/openapi.json", "/docs", "/ping", "/version", "/invocations"})  # fmt: skip
_CONTEXT = ("traceparent", "tracestate")
_THEIR_OWN = frozenset({"ModelInfer", "Predict"})
"""Methods whose span is begun further in, where the trace is handed on."""
_OURS = 500
_SEND_S = 2.0
"""How long a receiver that is away may hold up the end of a worker."""
_span: ContextVar[Any] = ContextVar("towpath_span", default=None)


def tracing_of(setting: str, *, server: str, tls: bool = False) -> "Tracing | None":
    """What ``serving.traces`` asks for.

    Args:
        setting: ``otlp``, the URL of a receiver, or empty.
        server: Name of this worker.
        tls: Whether callers speak TLS.

    Raises:
        ExtraError: OpenTelemetry is not installed.
    """
    if not setting:
        return None
    if importlib.util.find_spec("opentelemetry") is None or importlib.util.find_spec("opentelemetry.sdk") is None:
        raise ExtraError(
            "serving.traces needs OpenTelemetry, which is not installed.", "serving.traces", "uv add 'towpath[otel]'"
        )
    return Tracing("" if setting == "otlp" else setting, server=server, tls=tls)


class Tracing:
    """Makes spans by the semantic conventions of HTTP and RPC servers, and hands W3C trace context on.

    Sampling, batching and further resource attributes are the SDK's own (``OTEL_TRACES_SAMPLER``, ``OTEL_RESOURCE_ATTRIBUTES`` …).

    Args:
        url: Of a receiver of OTLP over HTTP; the SDK's own variables decide where it is empty.
        server: Name of this worker.
        tls: Whether callers speak TLS.
    """

    def __init__(self, url: str, *, server: str, tls: bool) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        from towpath.serving.infer import version

        endpoint = url if not url or url.endswith("/v1/traces") else url.rstrip("/") + "/v1/traces"
        own = {"service.name": "towpath", "service.version": version(), "service.instance.id": server}
        # what the SDK's variables say wins over our own
        self._provider = TracerProvider(resource=Resource(own).merge(Resource.create()) if _named() else Resource.create(own))  # fmt: skip
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_SEND_S) if endpoint else OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("towpath", version())
        self._propagator = TraceContextTextMapPropagator()
        self._server: Any = SpanKind.SERVER
        self._failed: Any = Status(StatusCode.ERROR)
        self._scheme = "https" if tls else "http"

    def over_http(self, app: "App") -> None:
        """Let each request of the HTTP door have a span."""
        respond = app.respond

        async def traced(
            method: str, path: str, headers: Mapping[bytes, bytes], given: Any
        ) -> "tuple[int, bytes, Headers]":
            known, route = method if method in _METHODS else "_OTHER", _route(path)
            attributes = {"http.request.method": known, "url.path": path, "url.scheme": self._scheme}
            if route:
                attributes["http.route"] = route
            carrier = {name: headers[name.encode()].decode("latin-1") for name in _CONTEXT if name.encode() in headers}  # fmt: skip
            span = self._begun(f"{known} {route}".strip(), carrier, attributes)
            # for whoever is asked in turn: its parent is our span
            headers = {**headers, **{name.encode(): value.encode() for name, value in _handed_on(span).items()}}
            try:
                status, body, out = await respond(method, path, headers, given)
                span.set_attribute("http.response.status_code", status)
                if status >= _OURS:
                    span.set_attribute("error.type", str(status))
                    span.set_status(self._failed)
                return status, body, out
            finally:
                span.end()

        app.respond = traced  # pyright: ignore[reportAttributeAccessIssue] - the protocols ask the instance

    def over_grpc(self, service: "GrpcService") -> None:
        """Let each call over gRPC have a span, and each inference of a stream; other streams, which may stay open, have none."""
        door: Any = service
        inferred, predicted, once = door._inferred, door._predicted, door._once  # noqa: SLF001 - what all calls go through

        async def traced_infer(request: Any, metadata: Mapping[str, Any], *more: Any, **named: Any) -> Any:
            method = "ModelStreamInfer" if named.get("streams") else "ModelInfer"
            return await self._spanned(
                SERVICE, method, metadata, lambda handed: inferred(request, handed, *more, **named)
            )

        async def traced_predict(request: Any, metadata: Mapping[str, Any], *more: Any) -> Any:
            return await self._spanned(
                "towpath.v1.Prediction", "Predict", metadata, lambda handed: predicted(request, handed, *more)
            )

        def traced_once(path: str, kind: Any, method: Callable[[Any, Any], Awaitable[Any]], *more: Any) -> Any:
            service, _, name = path.strip("/").partition("/")

            async def traced(request: Any, context: Any) -> Any:
                metadata: Mapping[str, Any] = dict(context.invocation_metadata() or ())
                return await self._spanned(service, name, metadata, lambda _: method(request, context))

            return once(path, kind, method if name in _THEIR_OWN else traced, *more)

        door._inferred, door._predicted, door._once = traced_infer, traced_predict, traced_once  # noqa: SLF001

    def with_answers(self, statistics: "Statistics") -> None:
        """Let spans say who answered."""
        answered = statistics.answered

        def noted(deployment: "Deployment", found: "Answered", waited_s: float = 0.0) -> None:
            span = _span.get()
            if span is not None and span.is_recording():
                span.set_attributes(_said(found))
            answered(deployment, found, waited_s)

        statistics.answered = noted  # pyright: ignore[reportAttributeAccessIssue] - asked of the instance

    def close(self) -> None:
        """Send what is left; a receiver that is away is not waited for longer than a few seconds."""
        self._provider.force_flush(int(_SEND_S * 1e3))
        self._provider.shutdown()

    async def _spanned(
        self, service: str, method: str, metadata: Mapping[str, Any], call: Callable[[dict[str, Any]], Awaitable[Any]]
    ) -> Any:
        """A call over gRPC, in a span of its own; it sees that span as its caller's."""
        carrier = {name: str(metadata[name]) for name in _CONTEXT if name in metadata}
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        span = self._begun(f"{service}/{method}", carrier, attributes)
        try:
            found = await call({**metadata, **_handed_on(span)})
        except Exception as error:
            code = error.code if isinstance(error, TowpathError) else "unavailable"
            span.set_attribute("error.type", code)
            span.set_attribute("rpc.grpc.status_code", _status(code))
            span.set_status(self._failed)
            raise
        else:
            span.set_attribute("rpc.grpc.status_code", 0)
            return found
        finally:
            span.end()

    def _begun(self, name: str, carrier: Mapping[str, str], attributes: Mapping[str, str]) -> Any:
        context = self._propagator.extract(carrier) if carrier else None
        span = self._tracer.start_span(name, context=context, kind=self._server, attributes=dict(attributes))
        _span.set(span)  # a request sets its own, so that of the one before on this connection is never read
        return span


def _said(answered: "Answered") -> dict[str, Any]:
    sources, reasons = sorted(set(answered.sources)), sorted(set(answered.reasons))
    versions = sorted({version for version in answered.versions if version is not None})
    return {
        "towpath.model": answered.model,
        "towpath.request_id": answered.request_id,
        "towpath.rows": answered.count,
        "towpath.versions": versions,
        "towpath.sources": sources,
        "towpath.reasons": reasons,
    }


def _handed_on(span: Any) -> dict[str, str]:
    """The span as whoever is asked in turn takes it; the state is the caller's, and empty where its trace was none."""
    context = span.get_span_context()
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    return {"traceparent": parent, "tracestate": context.trace_state.to_header()}


def _route(path: str) -> str:
    """The path without what callers make up; empty where there is no such door."""
    if path in _PLAIN:
        return path
    parts = path.strip("/").split("/")
    if parts[0] in _NAMED and len(parts) > 1:
        return f"/{parts[0]}/{{name}}"
    if parts[0] != "v2":
        return ""
    if parts[1:2] == ["models"] and len(parts) > 2:  # noqa: PLR2004 - the model's name
        parts[2] = "{model}"
        if parts[3:4] == ["versions"] and len(parts) > 4:  # noqa: PLR2004 - its number
            parts[4] = "{version}"
        return (
            "/" + "/".join(parts)
            if parts[-1] in {"infer", "ready", "config", "stats", "{model}", "{version}"}
            else "/v2"
        )
    return "/" + "/".join(parts) if "/".join(parts) in {"v2", "v2/health/live", "v2/health/ready"} else "/v2"


def _named() -> bool:
    """Whether the SDK's variables name the service."""
    import os

    return "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") or "OTEL_SERVICE_NAME" in os.environ


def _status(code: str) -> int:
    """The number of a gRPC status."""
    from towpath.serving.grpc import CODES
    from towpath.serving.grpc_door import STATUSES

    fallback = "INVALID_ARGUMENT" if issubclass(by_code().get(code, TowpathError), CallerError) else "UNAVAILABLE"
    return STATUSES[CODES.get(code, fallback)].code

"""HTTP: one bare ASGI callable. What is asked once per request is bound once per server."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import partial
from typing import Any, Protocol, cast

import msgspec
import orjson

from towpath.clock import Clock
from towpath.errors import (
    DeniedError,
    InputError,
    MethodError,
    TooLargeError,
    TowpathError,
    UnavailableError,
    UnknownError,
    nearest,
)
from towpath.features import View
from towpath.journal.record import Outcome, OutcomeRow
from towpath.serving import invocations, oip
from towpath.serving.access import AccessLog
from towpath.serving.answer import WireError
from towpath.serving.answered import Ask
from towpath.serving.bodies import Given, Receive, at_hand, by_name, checked_rows, rows_of, throw_away, whole_body
from towpath.serving.compression import ENOUGH_BYTES, accepted, compressed
from towpath.serving.deployment import Deployment
from towpath.serving.infer import (
    NUMBER_DIGITS,
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
    version,
    version_of,
)
from towpath.serving.limits import Limits
from towpath.serving.manage import Manager, ManagerDoor, Switched, no_manager
from towpath.serving.metrics import Meter
from towpath.serving.openapi import Documents
from towpath.serving.push import Pusher, pushed_views, view_called
from towpath.serving.repository import Repository, unloaded
from towpath.serving.responder import Responder
from towpath.serving.schemas import again_s, status_of
from towpath.serving.statistics import Statistics
from towpath.serving.turn import Turn
from towpath.settings import ServingSettings
from towpath.traffic import Caller, Consumers

__all__ = ["App", "Health", "OutcomeWriter"]

_log = logging.getLogger("towpath.serving")
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_BINARY = (b"content-type", b"application/octet-stream")
_ID_CHARACTERS = 128
_PLAIN_PATHS = frozenset({"/metrics", "/health", "/health/ready", "/ping", "/version"})
_PATHS = (
    "/predict/<model>",
    "/outcomes/<model>",
    "/features/<view>",
    "/kill/<model>",
    "/revive/<model>",
    "/v2",
    "/v2/models/<model>/infer",
    "/openapi.json",
    "/docs",
    "/v2/models/stats",
    "/v2/repository/index",
    "/invocations",
    "/ping",
    "/metrics",
    "/health",
)


class Health(Protocol):
    """What the worker knows of itself."""

    @property
    def ready(self) -> bool:
        """Whether callers should come."""
        ...

    @property
    def says(self) -> Mapping[str, Any]:
        """State of the worker and of each model."""
        ...

    def measure(self, meter: Meter) -> None:
        """Note gauges before they are scraped."""
        ...


class OutcomeWriter(Protocol):
    """Where outcomes go; `towpath.journal.Journal` is one."""

    def outcomes(self, rows: "list[OutcomeRow]") -> None:
        """Keep all rows, or raise."""
        ...


class App:
    """The server's HTTP door.

    Args:
        responder: Answers.
        consumers: Knows keys.
        health: Of this worker.
        meter: Counts.
        settings: Limits.
        outcomes: Takes outcomes; none where there is no journal.
        pusher: Takes feature rows; none where there is no online store.
        manager: Kills and revives; none where there is no log.
        door: Says who may manage.
        statistics: Counts by version; a new one unless given.
        repository: Loads and unloads; made of `door` and `manager` unless given.
        access: Takes a line for each request; none where nobody asked for it.
        clock: Dates outcomes.
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
        outcomes: OutcomeWriter | None,
        pusher: Pusher | None = None,
        manager: Manager | None = None,
        door: ManagerDoor | None = None,
        statistics: Statistics | None = None,
        repository: Repository | None = None,
        access: AccessLog | None = None,
        clock: Clock,
        insecure_open: bool = False,
    ) -> None:
        self._responder = responder
        self._consumers = consumers
        self._health = health
        self._meter = meter
        self._max_body_bytes = settings.max_body_bytes
        self._max_rows = settings.max_rows
        self._outcomes = outcomes
        self._pusher = pusher
        self._pushed: tuple[Mapping[str, Deployment], dict[str, tuple[View, ...]]] = ({}, {})
        self._manager = manager
        self._door = door or ManagerDoor(consumers, loopback=True)
        self._access = access
        self._clock = clock
        self._insecure_open = insecure_open
        self._documents = Documents(lambda: responder.deployments.live, consumers, insecure_open=insecure_open)
        self._statistics = statistics or Statistics(clock=clock)
        self._repository = repository or Repository(self._door, manager)
        self._posts = {
            "outcomes": self._outcome,
            "features": self._push,
            "kill": self._kill,
            "revive": self._revive,
            "invocations": self._invoked,
        }
        self._encode = msgspec.json.Encoder().encode
        self.turn = Turn(responder)
        """Of the event loop: since when its requests wait, and when their answers leave."""
        self.limits = Limits.of(settings)
        """Of each connection; the protocol keeps them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong is an answer, too."""
        if scope["type"] != "http":
            return
        headers = by_name(cast("Headers", scope["headers"]))
        status, body, out = await self.respond(scope["method"], scope["path"], headers, receive)
        self._responder.write_held()
        if status == TooLargeError.status:
            out.append((b"connection", b"close"))
            await send({"type": "http.response.start", "status": status, "headers": out})
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await throw_away(receive)
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.start", "status": status, "headers": out})
        await send({"type": "http.response.body", "body": body})

    def turned_away(self, error: TowpathError) -> bytes:
        """What a connection is told that is closed before it asked for anything; it is counted like every refusal."""
        self._meter.refused(error.code, "")
        return self._encode(WireError(error=error.what, code=error.code, mend=error.mend))

    async def respond(
        self, method: str, path: str, headers: Mapping[bytes, bytes], given: Given
    ) -> tuple[int, bytes, Headers]:
        """Answer one request; whatever goes wrong is an answer, too. It leaves by `turn`, or after `Responder.write_held`.

        Args:
            method: In capitals.
            path: Without quotes and query.
            headers: Names in lower case.
            given: The whole body, or where it comes from.

        Returns:
            Status, body and headers, the body's length among them.
        """
        start = 0.0 if self._access is None else time.perf_counter()
        given_id = headers.get(b"x-request-id")
        request_id = _readable(given_id) if given_id is not None else ""
        if not request_id and not path.startswith("/v2"):  # there the body may name one
            request_id = self._responder.next_id()
        try:
            status, body, more = await self._route(method, path, headers, given, request_id)
        except TowpathError as error:
            status, body, more = self._refused(error, headers)
        except Exception:  # noqa: BLE001 - the edge: a fault of ours is logged whole, and is no bare 500 to the caller
            _log.exception("a request to %s failed", path)
            status, body, more = self._refused(
                UnavailableError(
                    "The request could not be answered.", mend="the server's log says why; try again later"
                ),
                headers,
            )
        if len(body) >= ENOUGH_BYTES and (encoding := accepted(headers)):
            body = await compressed(body, encoding)
            more += [(b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding")]
        out: Headers = [(b"content-length", b"%d" % len(body)), *more]
        if request_id:
            out.append((b"x-request-id", request_id.encode()))
        trace = headers.get(b"traceparent")
        if trace is not None:
            out.append((b"traceparent", trace))
        if self._access is not None:
            self._access.line(
                protocol="http",
                method=method,
                path=path,
                status=status,
                ms=(time.perf_counter() - start) * 1e3,
                consumer=self._consumers.name_of(headers.get(b"authorization")),
                request_id=request_id,
                bytes_out=len(body),
            )
        return status, b"" if method == "HEAD" else body, out

    async def _route(
        self, method: str, path: str, headers: Mapping[bytes, bytes], given: Given, request_id: str
    ) -> tuple[int, bytes, Headers]:
        if path.startswith("/predict/"):
            _only(method, "POST", path)
            return await self._predict(path[9:], given, headers, request_id)
        if path == "/v2" or path.startswith("/v2/"):
            return await self._oip(path, method, given, headers, request_id)
        door, slash, name = path[1:].partition("/")
        posted = self._posts.get(door) if slash or door == "invocations" else None
        if posted is not None:
            _only(method, "POST", path)
            return await posted(name, given, headers)
        if path.startswith(("/openapi", "/docs")):
            document, kind = self._documents.get(path, headers.get(b"authorization"))
            _only(method, "GET", path)
            return 200, document, [(b"content-type", kind)]
        if path not in _PLAIN_PATHS:
            raise UnknownError(f"There is no '{path}'{nearest(path, _PATHS)}", mend="POST /predict/<model>")
        _only(method, "GET", path)
        if path == "/metrics":
            self._health.measure(self._meter)
            # in a thread: adding up a thousand numbers of each worker takes tens of milliseconds
            return (
                200,
                await in_thread(self._meter.text),
                [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")],
            )
        if path == "/version":
            return 200, version().encode(), [_TEXT]
        ready = 200 if self._health.ready else 503
        return (ready, b"\n", [_TEXT]) if path == "/ping" else (ready, orjson.dumps(self._health.says), [_JSON])

    async def _predict(
        self, model: str, given: Given, headers: Mapping[bytes, bytes], request_id: str
    ) -> tuple[int, bytes, Headers]:
        caller = self._consumers.admit(headers.get(b"authorization"), "predict", model)
        self._responder.deployment(model)  # an unknown model is refused before its body is read
        body = at_hand(given, headers, self._max_body_bytes) or await self._body(given, headers)
        rows = rows_of(oip.decode_json(body))
        checked_rows(len(rows), self._max_rows)
        caller.take_rows(len(rows))
        ask = Ask(
            rows=rows,
            consumer=caller.name,
            request_id=request_id,
            timeout_s=header_timeout_s(headers.get(b"towpath-timeout-ms")),
            trace=trace_of(headers.get(b"traceparent"), headers.get(b"tracestate")),
            since_s=self.turn.since_s(),
            held=True,
        )
        # asked for again: a slow body may have outlived a promotion
        answered = await answer_of(self._responder, self._responder.deployment(model), ask, self._statistics)
        return 200, self._encode(answered.answer()), [_JSON]

    async def _invoked(self, name: str, given: Given, headers: Mapping[bytes, bytes]) -> tuple[int, bytes, Headers]:
        model = invocations.model_named(name, self._responder.deployments.live)
        caller = self._consumers.admit(headers.get(b"authorization"), "predict", model)
        self._responder.deployment(model)
        body = await self._body(given, headers)
        deployment = self._responder.deployment(model)
        sent = invocations.read(deployment, body, headers.get(b"content-type", b""))
        checked_rows(sent.rows_count, self._max_rows)
        caller.take_rows(sent.rows_count)
        given_id = headers.get(b"x-request-id")
        ask = Ask(
            rows=sent.rows,
            columns=sent.columns,
            rows_count=sent.rows_count,
            consumer=caller.name,
            request_id=_readable(given_id) if given_id is not None else "",
            timeout_s=header_timeout_s(headers.get(b"towpath-timeout-ms")),
            trace=trace_of(headers.get(b"traceparent"), headers.get(b"tracestate")),
            since_s=self.turn.since_s(),
            held=True,
        )
        answered = await answer_of(self._responder, deployment, ask, self._statistics)
        return 200, self._encode(invocations.answer_form(answered)), [_JSON]

    async def _oip(
        self, path: str, method: str, given: Given, headers: Mapping[bytes, bytes], request_id: str
    ) -> tuple[int, bytes, Headers]:
        parts = path.strip("/").split("/")[1:]
        match parts:
            case []:
                _only(method, "GET", path)
                found = server_metadata(insecure_open=self._insecure_open)
                return 200, orjson.dumps(found | {"models": sorted(self._responder.deployments.live)}), [_JSON]
            case ["health", "live"]:
                _only(method, "GET", path)
                return 200, b'{"live":true}', [_JSON]
            case ["health", "ready"]:
                _only(method, "GET", path)
                return _ready(ready=self._health.ready)
            case ["models", "stats"] if "stats" not in self._responder.deployments.live:
                _only(method, "GET", path)
                return await self._told(self._responder.deployments.live.values(), None)
            case ["repository", *rest]:
                return await self._repository_call(path, rest, method, given, headers)
            case ["models", model, *rest]:
                version, rest = (rest[1], rest[2:]) if len(rest) > 1 and rest[0] == "versions" else ("", rest)
                return await self._oip_model(model, version, rest, method, given, headers, request_id)
            case _:
                raise UnknownError(f"There is no '{path}'{nearest(path, _PATHS)}", mend="GET /v2")

    async def _oip_model(
        self,
        model: str,
        version: str,
        rest: list[str],
        method: str,
        given: Given,
        headers: Mapping[bytes, bytes],
        request_id: str,
    ) -> tuple[int, bytes, Headers]:
        if rest == ["infer"]:
            _only(method, "POST", f"/v2/models/{model}/infer")
            caller = self._consumers.admit(headers.get(b"authorization"), "predict", model)
            deployment = self._responder.deployment(model)
            version_of(deployment, version)
            body = at_hand(given, headers, self._max_body_bytes) or await self._body(given, headers)
            request = oip.decode(body, _head_bytes(headers))
            deployment = self._responder.deployment(model)  # again: a slow body may have outlived a promotion
            number = version_of(deployment, version)
            return await self._infer(deployment, request, number, caller, headers, request_id)
        deployment = self._responder.deployment(model)
        number = version_of(deployment, version)
        if rest not in ([], ["ready"], ["config"], ["stats"]):
            raise UnknownError(
                f"There is no '{'/'.join(rest)}' of a model.",
                mend="infer, ready, config, stats, or nothing for metadata",
            )
        _only(method, "GET", f"/v2/models/{'/'.join((model, *rest))}")
        if rest == ["ready"]:
            ready = self._health.ready and (deployment.ready if number is None else True)
            return _ready(ready=ready and not unloaded(deployment))
        if rest == ["config"]:
            return 200, orjson.dumps(model_config(deployment, max_rows=self._max_rows)), [_JSON]
        if rest == ["stats"]:
            return await self._told([deployment], number)
        return 200, orjson.dumps(model_metadata(deployment)), [_JSON]

    async def _told(self, deployments: Iterable[Deployment], version: int | None) -> tuple[int, bytes, Headers]:
        found = await in_thread(self._statistics.of, deployments, version)
        return 200, orjson.dumps({"model_stats": found}), [_JSON]

    async def _repository_call(
        self, path: str, rest: list[str], method: str, given: Given, headers: Mapping[bytes, bytes]
    ) -> tuple[int, bytes, Headers]:
        if rest == ["index"]:
            _only(method, "POST", path)
            asked = oip.decode_object(await self._body(given, headers))
            only_ready = bool(asked.get("ready", False))
            return (
                200,
                orjson.dumps(self._repository.index(self._responder.deployments.live.values(), only_ready=only_ready)),
                [_JSON],
            )
        change = {"load": self._repository.load, "unload": self._repository.unload}.get(rest[-1]) if rest else None
        if change is None or rest[0] != "models" or len(rest) != 3:  # noqa: PLR2004 - models/<model>/load
            raise UnknownError(
                f"There is no '{path}'{nearest(path, _PATHS)}", mend="index, models/<model>/load or unload"
            )
        _only(method, "POST", path)
        model = rest[1]
        by = self._repository.admit(headers.get(b"authorization"), model, from_page=b"origin" in headers)
        deployment = self._responder.deployment(model)
        asked = oip.decode_object(await self._body(given, headers))
        await in_thread(partial(change, deployment, oip.parameters_of(asked), by=by))
        return 200, b"{}", [_JSON]

    async def _infer(
        self,
        deployment: Deployment,
        request: oip.InferRequest,
        version: int | None,
        caller: Caller,
        headers: Mapping[bytes, bytes],
        request_id: str,
    ) -> tuple[int, bytes, Headers]:
        ask = ask_of(
            deployment,
            request,
            max_rows=self._max_rows,
            consumer=caller.name,
            request_id=request_id or request.id,
            version=version,
            timeout_s=shorter(
                header_timeout_s(headers.get(b"towpath-timeout-ms")), oip.timeout_s_of(request.parameters)
            ),
            trace=trace_of(headers.get(b"traceparent"), headers.get(b"tracestate")),
            since_s=self.turn.since_s(),
            held=True,
        )
        caller.take_rows(ask.rows_count)
        answered = await answer_of(self._responder, deployment, ask, self._statistics)
        answerer = answered.versions[0]
        head: dict[str, Any] = {
            "model_name": deployment.model,
            "model_version": "" if answerer is None else str(answerer),
            "parameters": {"towpath": towpath_parameters(answered)},
        }
        if request.id:
            head["id"] = request.id
        tensors = tensors_of(deployment, answered)
        body, head_bytes = oip.encode(head, tensors, request.wanted, binary_output=request.binary_output)
        if head_bytes is None:
            return 200, body, [_JSON]
        return 200, body, [_BINARY, (b"inference-header-content-length", b"%d" % head_bytes)]

    async def _outcome(self, model: str, given: Given, headers: Mapping[bytes, bytes]) -> tuple[int, bytes, Headers]:
        from towpath.journal.outcomes import outcome_rows

        caller = self._consumers.admit(headers.get(b"authorization"), "outcomes", model)
        deployment = self._responder.deployment(model)
        if self._outcomes is None:
            raise UnavailableError("This server keeps no journal.", mend="send outcomes to one that does")
        sent = oip.decode_json(await self._body(given, headers))
        if isinstance(sent, dict):
            sent = cast("dict[str, Any]", sent).get("outcomes", sent)
        try:
            posted = msgspec.convert(sent if isinstance(sent, list) else [sent], list[Outcome])
        except msgspec.ValidationError as error:
            raise InputError(
                f"An outcome does not fit: {error}", mend="prediction_id, or entity_key and target_at"
            ) from None
        rows = outcome_rows(
            posted, project=deployment.project, model=model, consumer=caller.name, arrived_at=self._clock.now()
        )
        self._outcomes.outcomes(rows)
        self._meter.outcomes(model, caller.name, len(rows))
        return 202, orjson.dumps({"accepted": len(rows)}), [_JSON]

    async def _push(self, name: str, given: Given, headers: Mapping[bytes, bytes]) -> tuple[int, bytes, Headers]:
        caller = self._consumers.admit(headers.get(b"authorization"), "features")
        live = self._responder.deployments.live
        if self._pushed[0] is not live:  # a mapping that was replaced: some model changed, and perhaps what it reads
            self._pushed = (live, pushed_views(live))
        views = view_called(self._pushed[1], name)
        if self._pusher is None:
            raise UnavailableError("This server has no online store.", mend="push to one that serves an object store")
        rows = rows_of(oip.decode_json(await self._body(given, headers)), objects=False)
        checked_rows(len(rows), self._max_rows)
        caller.take_rows(len(rows))
        # in a thread: the online store waits for its disk or its network, and answers must not wait with it
        push = partial(self._pusher.push, views, rows, consumer=caller.name)
        answer = await in_thread(push)
        return 200, self._encode(answer), [_JSON]

    async def _kill(self, model: str, given: Given, headers: Mapping[bytes, bytes]) -> tuple[int, bytes, Headers]:
        return await self._managed(Manager.kill, model, given, headers)

    async def _revive(self, model: str, given: Given, headers: Mapping[bytes, bytes]) -> tuple[int, bytes, Headers]:
        return await self._managed(Manager.revive, model, given, headers)

    async def _managed(
        self, change: Callable[..., Switched], model: str, given: Given, headers: Mapping[bytes, bytes]
    ) -> tuple[int, bytes, Headers]:
        by = self._door.admit(headers.get(b"authorization"), model, from_page=b"origin" in headers)
        if self._manager is None:
            raise no_manager()
        deployment = self._responder.deployment(model)
        done = partial(change, self._manager, deployment, await self._body(given, headers), by=by)
        answer = await in_thread(done)  # it waits for the store
        return 200, self._encode(answer), [_JSON]

    async def _body(self, given: Given, headers: Mapping[bytes, bytes]) -> bytes:
        return await whole_body(given, headers, self._max_body_bytes)

    def _refused(self, error: TowpathError, headers: Mapping[bytes, bytes]) -> tuple[int, bytes, Headers]:
        self._meter.refused(error.code, self._consumers.name_of(headers.get(b"authorization")))
        status = status_of(type(error))
        more: Headers = [_JSON]
        again = again_s(error)
        if again is not None:
            more.append((b"retry-after", b"%d" % again))
        if isinstance(error, DeniedError):
            more.append((b"www-authenticate", b"Bearer"))
        if isinstance(error, MethodError):
            more.append((b"allow", error.allow.encode()))
        return status, self._encode(WireError(error=error.what, code=error.code, mend=error.mend)), more


def _head_bytes(headers: Mapping[bytes, bytes]) -> int | None:
    text = headers.get(b"inference-header-content-length")
    if text is None:
        return None
    if not text.isdigit() or len(text) > NUMBER_DIGITS:
        raise InputError("The header 'Inference-Header-Content-Length' is no whole number.")
    return int(text)


def _readable(given: bytes) -> str:
    """The caller's own id, if it is one that can go into logs and headers."""
    text = given.decode("latin-1")
    return text if len(text) <= _ID_CHARACTERS and text.isascii() and text.isprintable() else ""


def _only(method: str, allowed: str, path: str) -> None:
    if method != allowed and not (allowed == "GET" and method == "HEAD"):
        raise MethodError(
            f"'{path}' does not take {method}.",
            mend=f"use {allowed}",
            allow="GET, HEAD" if allowed == "GET" else allowed,
        )


def _ready(*, ready: bool) -> tuple[int, bytes, Headers]:
    return (200, b'{"ready":true}', [_JSON]) if ready else (503, b'{"ready":false}', [_JSON])

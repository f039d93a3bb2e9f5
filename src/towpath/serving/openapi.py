"""The server's own description, OpenAPI 3.1: typed by model, made once for each change of what is served."""

import json
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from towpath.errors import UnknownError, by_code, nearest
from towpath.serving.deployment import Deployment
from towpath.serving.infer import server_metadata
from towpath.serving.push import pushed_views
from towpath.serving.schemas import (
    answer_schema,
    examples,
    row_schema,
    shared_schemas,
    status_of,
    tensors_schema,
    view_schema,
)

if TYPE_CHECKING:
    from towpath.traffic import Consumers

__all__ = ["Documents", "document"]

Part = dict[str, Any]
_JSON = "application/json"
_SAID = {
    "400": "The request cannot be read or does not fit.",
    "401": "No key, or one that is unknown, expired or revoked.",
    "403": "The key may not do this.",
    "404": "Nothing of that name exists.",
    "408": "The request came too slowly.",
    "409": "Somebody else wrote first.",
    "413": "The body or the number of rows is over its limit.",
    "429": "The consumer used up its quota.",
    "431": "Path and headers are over their limit.",
    "503": "Ours: nobody could answer. Try again.",
}
_PLAIN = ("400", "404", "408", "431", "503")
_KEYED = ("400", "401", "403", "404", "408", "413", "429", "431", "503")
_TEXT = {"type": "string"}
_ANY: Part = {"type": "object"}


class Documents:
    """The documents of one worker, kept until the next deployment changes.

    Examples come from golden cases, which may hold what only callers may see: where keys are asked for they are shown to a
    key that may call the model, and of a model with ``journal = "none"`` to nobody.

    Args:
        live: Gives the models that are served; a new mapping when one of them changes.
        consumers: Knows keys.
        insecure_open: Said in the metadata of the server.
    """

    def __init__(
        self, live: Callable[[], Mapping[str, Deployment]], consumers: "Consumers", *, insecure_open: bool = False
    ) -> None:
        self._live = live
        self._consumers = consumers
        self._insecure_open = insecure_open
        self._made_of: Mapping[str, Deployment] | None = None
        self._made: dict[tuple[str, bool, bool, bool], bytes] = {}

    def get(self, path: str, authorization: bytes | None) -> tuple[bytes, bytes]:
        """A document and its content type.

        Args:
            path: ``/openapi.json``, ``/openapi/<model>.json`` or ``/docs``.
            authorization: The header's value, or none.

        Raises:
            UnknownError: There is no such document or model.
        """
        live = self._live()
        page, model = path == "/docs", ""
        if not page and path != "/openapi.json":
            model = path.removeprefix("/openapi/").removesuffix(".json")
            if model not in live or path != f"/openapi/{model}.json":
                raise UnknownError(f"There is no '{path}'{nearest(model, live)}", mend="GET /openapi/<model>.json")
        keyed = self._consumers.keyed
        shown = not keyed or self._consumers.may(authorization, "predict", model)
        if self._made_of is not live:
            self._made_of, self._made = live, {}
        asked = (model, keyed, shown, page)
        found = self._made.get(asked)
        if found is None:
            made = document(live, model=model, keyed=keyed, with_examples=shown, insecure_open=self._insecure_open)
            found = self._made[asked] = _page(made).encode() if page else json.dumps(made).encode()
        return found, b"text/html; charset=utf-8" if page else b"application/json"


def document(
    live: Mapping[str, Deployment],
    *,
    model: str = "",
    keyed: bool = False,
    with_examples: bool = True,
    insecure_open: bool = False,
) -> Part:
    """The description of a server.

    Args:
        live: Model → deployment.
        model: Only this one; all unless given.
        keyed: Whether a key is asked for.
        with_examples: Whether golden cases stand as examples.
        insecure_open: Said in the server's metadata.

    Returns:
        An OpenAPI 3.1 document.
    """
    chosen = {name: one for name, one in sorted(live.items()) if not model or name == model}
    schemas = shared_schemas()
    paths: dict[str, Part] = {}
    for name, deployment in chosen.items():
        paths |= _of_model(name, deployment, schemas, with_examples=with_examples)
    for called, forms in sorted(pushed_views(chosen).items()):
        if "/" in called:
            paths |= _of_view(called, view_schema(forms[0]), schemas)
    if not model:
        paths |= _of_server()
    components: Part = {
        "schemas": schemas,
        "responses": {_name(status): _error(status, said) for status, said in _SAID.items()},
        "parameters": {
            "Timeout": _header(
                "Towpath-Timeout-Ms",
                "The caller's own deadline.",
                {"type": "integer", "minimum": 1, "maximum": 10**12 - 1},
            ),
            "RequestId": _header("X-Request-Id", "Goes into the answer, the log and the journal.", _TEXT),
            "Trace": _header("traceparent", "W3C trace context; goes back as it came.", _TEXT),
        },
    }
    made: Part = {
        "openapi": "3.1.0",
        "info": {
            "title": f"Towpath: {model}" if model else "Towpath",
            "version": server_metadata(insecure_open=insecure_open)["version"],
            "description": "Answers, routing and fallbacks are per row; 4xx is the caller's to mend, 503 is ours.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": components,
    }
    if keyed:
        components["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "tow consumers add"}
        }
    for operations in paths.values():
        for operation in operations.values():
            if operation.pop("keyed") and keyed:
                operation["security"] = [{"key": []}]
    return made


def _of_model(name: str, deployment: Deployment, schemas: dict[str, Part], *, with_examples: bool) -> dict[str, Part]:
    served = deployment.base
    rows: Part = _ANY
    answer: Part = _ref("Answer")
    tensors: Part = _ANY
    shown: Part = {}
    if served is not None:
        schemas[f"Row_{name}"] = row_schema(served)
        schemas[f"Answer_{name}"] = answer_schema(served)
        schemas[f"Infer_{name}"] = tensors_schema(served)
        rows, answer, tensors = _ref(f"Row_{name}"), _ref(f"Answer_{name}"), _ref(f"Infer_{name}")
        shown = {"examples": found} if with_examples and (found := examples(served)) else {}
    about = served.manifest.description if served is not None else ""
    parameters = [_parameter("Timeout"), _parameter("RequestId"), _parameter("Trace")]
    predict = _operation(
        f"predict_{name}", name, f"Ask {name}. {about}".strip(), _content(_one_or_many("rows", rows), shown), answer
    )
    infer = _operation(
        f"infer_{name}", name, f"Ask {name} with tensors.", _content(tensors), _ref("InferAnswer"), binary=True
    )
    outcome = _one_or_many("outcomes", _ref("Outcome"))
    accepted = {"type": "object", "required": ["accepted"], "properties": {"accepted": {"type": "integer"}}}
    base = f"/v2/models/{name}"
    metadata = _operation(f"metadata_{name}", name, "Inputs and outputs with names, types and shapes.", None, _ANY)
    ready = _operation(f"ready_{name}", name, "Whether callers should come.", None, _ANY, unready=True)
    paths: dict[str, Part] = {
        f"/predict/{name}": {"post": predict | {"parameters": parameters}},
        f"/outcomes/{name}": {
            "post": _operation(
                f"outcomes_{name}", name, "What really happened.", _content(outcome), accepted, status="202"
            )
        },
        f"{base}/infer": {"post": infer | {"parameters": parameters}},
        base: {"get": metadata},
        f"{base}/ready": {"get": ready},
    }
    versions = [str(number) for number in sorted(deployment.versions)]
    version: Part = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    if versions:
        version["examples"] = {number: {"value": number} for number in versions}
    for path, operation in (
        (f"{base}/versions/{{version}}/infer", infer),
        (f"{base}/versions/{{version}}/ready", ready),
    ):
        method = "post" if operation is infer else "get"
        more = parameters if operation is infer else []
        paths[path] = {
            method: operation | {"operationId": f"{operation['operationId']}_version", "parameters": [version, *more]}
        }
    config = _operation(f"config_{name}", name, "The metadata in the words of Triton's configuration.", None, _ANY)
    stats = _operation(f"statistics_{name}", name, "Counts and times of each loaded version.", None, _ANY)
    frame = _content(_ANY) | {"text/csv": {"schema": _TEXT}}
    invoke = _operation(f"invoke_{name}", name, f"Ask {name} as MLflow's clients do.", frame, _ANY)
    paths |= {
        f"{base}/config": {"get": config},
        f"{base}/stats": {"get": stats},
        f"/invocations/{name}": {"post": invoke},
    }
    for word in ("load", "unload"):
        change = _operation(
            f"{word}_{name}", name, f"As Triton's clients {word}; scope manage.", _content(_ANY), _ANY, more=("409",)
        )
        paths[f"/v2/repository/models/{name}/{word}"] = {"post": change}
    for word in ("kill", "revive"):
        paths[f"/{word}/{name}"] = {
            "post": _operation(
                f"{word}_{name}", name, f"As tow {word}; scope manage.", _content(_ref("Switch")), _ref("Switched"),
                more=("409",),
            )
        }  # fmt: skip
    return paths


def _of_view(called: str, row: Part, schemas: dict[str, Part]) -> dict[str, Part]:
    name = called.replace("/", "_")
    schemas[f"FeatureRow_{name}"] = row
    body = _content(_one_or_many("rows", _ref(f"FeatureRow_{name}")))
    push = _operation(f"push_{name}", "features", f"Push rows of {called}; scope features.", body, _ref("PushAnswer"))
    return {f"/features/{called}": {"post": push}}


def _of_server() -> dict[str, Part]:
    """What belongs to no model."""

    def get(identity: str, said: str, kind: Part, media: str = _JSON, *, unready: bool = False) -> Part:
        return {"get": _operation(identity, "server", said, None, kind, media=media, unready=unready)}

    index = _operation(
        "index", "server", "Which versions there are, and their states.", _content(_ANY), {"type": "array"}
    )
    frame = _content(_ANY) | {"text/csv": {"schema": _TEXT}}
    invoke = _operation("invoke", "server", "Ask the only model as MLflow's clients do.", frame, _ANY)
    return {
        "/invocations": {"post": invoke},
        "/ping": get("ping", "Whether callers should come.", _TEXT, "text/plain", unready=True),
        "/version": get("version", "Of Towpath.", _TEXT, "text/plain"),
        "/v2/models/stats": get("statistics", "Counts and times of all loaded versions.", _ANY),
        "/v2/repository/index": {"post": index | {"keyed": False}},
        "/v2": get("server", "Name, version, extensions, models.", _ANY),
        "/v2/health/live": get("live", "Whether the process answers.", _ANY),
        "/v2/health/ready": get("ready", "Whether callers should come.", _ANY, unready=True),
        "/health": get("health", "State of the worker and of each model.", _ANY, unready=True),
        "/health/ready": get("health_ready", "The same.", _ANY, unready=True),
        "/metrics": get("metrics", "Counts and latencies for Prometheus.", _TEXT, "text/plain"),
        "/openapi.json": get("openapi", "This document.", _ANY),
        "/docs": get("docs", "The same for people.", _TEXT, "text/html"),
    }


def _operation(
    identity: str,
    tag: str,
    summary: str,
    body: Part | None,
    answer: Part,
    *,
    status: str = "200",
    media: str = _JSON,
    binary: bool = False,
    unready: bool = False,
    more: tuple[str, ...] = (),
) -> Part:
    content = {media: {"schema": answer}}
    if binary:
        content["application/octet-stream"] = {}
    responses: Part = {status: {"description": "The answer.", "content": content}}
    for code in (*(_KEYED if body is not None else _PLAIN), *more):
        responses[code] = {"$ref": f"#/components/responses/{_name(code)}"}
    if unready:
        responses["503"] = {"description": "Not now.", "content": {_JSON: {"schema": _ANY}}}
    made: Part = {"operationId": identity, "tags": [tag], "summary": summary, "responses": responses}
    if body is not None:
        made["requestBody"] = {"required": True, "content": body | ({"application/octet-stream": {}} if binary else {})}
    return made | {"keyed": body is not None}


def _one_or_many(name: str, one: Part) -> Part:
    """``{"rows": […]}``, a list, or one."""
    many = {"type": "array", "items": one, "minItems": 1}
    return {"anyOf": [{"type": "object", "required": [name], "properties": {name: many}}, many, one]}


def _content(schema: Part, shown: Part | None = None) -> Part:
    return {_JSON: {"schema": schema} | (shown or {})}


def _ref(name: str) -> Part:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(name: str) -> Part:
    return {"$ref": f"#/components/parameters/{name}"}


def _header(name: str, said: str, schema: Part) -> Part:
    return {"name": name, "in": "header", "required": False, "description": said, "schema": schema}


def _name(status: str) -> str:
    return f"Error{status}"


def _error(status: str, said: str) -> Part:
    codes = [code for code, kind in by_code(families=False).items() if status_of(kind) == int(status)]
    described = f"{said} Codes: {', '.join(sorted(codes))}." if codes else said
    made: Part = {"description": described, "content": {_JSON: {"schema": _ref("WireError")}}}
    if status in {"429", "503"}:
        made["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
    return made


_STYLE = "body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}code,pre{font:14px/1.4 monospace}pre{background:#8881;padding:.7rem;overflow:auto}summary{cursor:pointer}"


def _page(made: Part) -> str:
    """The document for people: one plain page, without a script."""
    by_tag: dict[str, list[str]] = {}
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(operation["tags"][0], []).append(_entry(method, path, operation, made))
    listed = "".join(f"<h2>{escape(tag)}</h2>{''.join(entries)}" for tag, entries in by_tag.items())
    info = made["info"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title><style>{_STYLE}</style>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])} "
        f'For programs: <a href="/openapi.json">/openapi.json</a>.</p>{listed}</html>'
    )


def _entry(method: str, path: str, operation: Part, made: Part) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get(_JSON, {})
    shown = "".join(
        f"<p>{escape(one['summary'])}</p><pre>{escape(json.dumps(one['value'], indent=1))}</pre>"
        for one in content.get("examples", {}).values()
    )
    columns = (
        made["components"]["schemas"].get(f"Row_{operation['tags'][0]}")
        if "examples" in content or path.startswith("/predict/")
        else None
    )
    if columns is not None:
        shown += f"<pre>{escape(json.dumps(columns, indent=1))}</pre>"
    head = f"<code>{method.upper()} {escape(path)}</code> {escape(operation['summary'])}"
    return f"<details><summary>{head}</summary>{shown}</details>" if shown else f"<p>{head}</p>"

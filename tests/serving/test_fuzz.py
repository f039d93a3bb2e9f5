"""Whatever is sent, the server answers it, refuses it in one line, or says honestly that nobody can; it never breaks.

A few seconds by default; thousands of cases with ``-m nightly``.
"""

import json
import logging
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
import schemathesis
from fuzz_stand import TYPED, a_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving_stand import Running

from towpath.apart.protocol import _METHODS, SERVICE, messages
from towpath.errors import by_code
from towpath.serving.oip import DTYPES

MODELS = ("demand", "late", "typed", "image", "words", "item", "ranked", "private", "lost", "nobody")
HONEST = {"unavailable", "overloaded", "model"}
"""Codes of a 503 that is no fault of the server's code: nobody could answer."""
DAYS_AND_NIGHTS = [25, pytest.param(3_000, marks=pytest.mark.nightly)]
each_size = pytest.mark.parametrize("examples", DAYS_AND_NIGHTS)


class Log(logging.Handler):
    """Keeps what must not be there: errors, and anything with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.bad.append(self.format(record))

    def clean(self) -> None:
        """Fail with the first that came since the last time."""
        bad, self.bad = self.bad, []
        assert not bad, bad[0]


@pytest.fixture(scope="module")
def log() -> Iterator[Log]:
    handler = Log()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, log: Log) -> Iterator[Running]:
    running = a_server(tmp_path_factory.mktemp("fuzz"), max_body_bytes=50_000)
    yield running
    running.close()


@pytest.fixture
def client(server: Running, log: Log) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client
        assert client.get("/health").json()["status"] == "ready"
        assert server.worker.exit_code == 0
    log.clean()


def tried(examples: int, *strategies: Any) -> Callable[[Callable[..., None]], None]:
    """Run a test on so many cases: always the same few by day, others each night."""
    profile = settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 100,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    def run(test: Callable[..., None]) -> None:
        profile(given(*strategies)(test))()

    return run


def judged(answer: httpx.Response, log: Log) -> None:
    """No 5xx but an honest 503, no traceback, and each refusal says what, which code and how to mend."""
    log.clean()
    if answer.status_code < 400:
        return
    said = answer.json()
    assert set(said) == {"error", "code", "mend"}, said
    assert said["error"], said
    assert said["code"] in by_code(), said
    assert "Traceback" not in answer.text
    if answer.status_code >= 500:
        assert (answer.status_code, said["code"] in HONEST) == (503, True), said
        assert int(answer.headers["retry-after"]) >= 1
    else:
        assert answer.status_code in {400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431}, said


# what bodies are made of

STRANGE = st.sampled_from([None, True, 0, -0.0, 1e308, -1, 2**31, 2**53 + 1, 2**63, 2**64, 2**200, 1e-320, "", "a", "é\u0000", "NaN", "2026-01-01T00:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01", "north", [], [[]], {}, [1, [2]], {"a": 1}, "x" * 300])  # fmt: skip
VALUES = st.recursive(
    STRANGE | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
NUMBERS = st.floats(-10, 10) | st.integers(-5, 5)
COLUMNS = st.sampled_from(["a", "b", "c", "image", "words", "item_id", "band", "sales.price", "target_at", "horizon", "x", "", *(field.name for field in TYPED)])  # fmt: skip
ROWS = st.dictionaries(COLUMNS, NUMBERS | STRANGE | VALUES, max_size=8) | st.fixed_dictionaries(
    {"a": NUMBERS | STRANGE, "b": NUMBERS | VALUES}, optional={"target_at": STRANGE, "horizon": STRANGE}
)
TYPED_ROWS = st.fixed_dictionaries({field.name: NUMBERS | STRANGE for field in TYPED})
ITEM_ROWS = st.fixed_dictionaries(
    {"c": NUMBERS | STRANGE}, optional={"item_id": VALUES, "band": VALUES, "sales.price": STRANGE, "target_at": VALUES}
)
TENSOR_ROWS = st.fixed_dictionaries({}, optional={"image": VALUES | st.lists(NUMBERS, min_size=2, max_size=2), "words": VALUES})  # fmt: skip
ANY_ROW = ROWS | TYPED_ROWS | ITEM_ROWS | TENSOR_ROWS
BODIES = (
    st.lists(ANY_ROW, max_size=4).map(lambda rows: {"rows": rows})
    | st.lists(ANY_ROW | VALUES, max_size=4)
    | ANY_ROW
    | VALUES
    | VALUES.map(lambda value: {"rows": value})
)
TEXT = st.sampled_from(['{"rows": [{"a": NaN}]}', '{"a": 1e999, "b": 1}', '{"a": 1, "a": 2, "b": 3}', "[" * 5_000, '{"rows":' * 2_000, "\ufeff{}", '{"a": "\\ud800", "b": 1}', "{'a': 1}", "1", "null", "nul"])  # fmt: skip
RAW = (
    st.binary(max_size=200)
    | TEXT.map(str.encode)
    | BODIES.map(lambda value: json.dumps(value).encode()).flatmap(
        lambda body: st.integers(0, len(body)).map(lambda cut: body[:cut])
    )
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "towpath-timeout-ms": st.sampled_from(["0", "1", "-1", "2", "1e3", "٣", "9" * 30, "9" * 400, "9" * 5_000, ""]),
        "x-request-id": st.sampled_from(["", "a", "é", "x" * 500, '"']),
        "traceparent": st.sampled_from(["", "00-1", "x" * 300]),
        "content-type": st.sampled_from(["", "text/plain", "application/json; charset=utf-16", "multipart/form-data"]),
        "content-encoding": st.sampled_from(["gzip", "deflate", "br", "identity", ""]),
        "accept-encoding": st.sampled_from(["gzip", "deflate", "br;q=0", "*"]),
        "inference-header-content-length": st.sampled_from(
            ["0", "5", "99999999", "-1", "x", "²", "9" * 40, "9" * 5_000]
        ),
        "authorization": st.sampled_from(["", "Bearer", "Bearer x", "Basic eA==", "\u00ff"]),
    },
)


def _sent(client: httpx.Client, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    encoded = {name: value.encode("utf-8" if name != "authorization" else "latin-1") for name, value in headers.items()}
    return client.post(path, content=body, headers=encoded)  # pyright: ignore[reportArgumentType]


@each_size
def test_predict_takes_any_body(client: httpx.Client, log: Log, examples: int) -> None:
    body = RAW | BODIES.map(lambda value: json.dumps(value).encode())

    @tried(examples, st.sampled_from(MODELS), body, HEADERS)
    def _(model: str, body: bytes, headers: dict[str, str]) -> None:
        judged(_sent(client, f"/predict/{model}", body, headers), log)


OUTCOMES = st.fixed_dictionaries(
    {},
    optional={
        "prediction_id": VALUES | st.just("p1"), "entity_key": VALUES | st.lists(STRANGE, max_size=3), "target_at": STRANGE, "horizon": STRANGE,
        "item": STRANGE, "happened_at": STRANGE, "metric": STRANGE, "value": STRANGE, "label": STRANGE, "weight": STRANGE, "model": STRANGE,
    },
)  # fmt: skip
PUSHED = st.fixed_dictionaries(
    {"item_id": STRANGE | st.just("x"), "event": STRANGE},
    optional={"price": STRANGE, "units": STRANGE, "landed_at": STRANGE, "x": VALUES},
)
SWITCHES = st.dictionaries(st.sampled_from(["because", "version", "consumer", "segment"]), STRANGE, max_size=4)


@each_size
@pytest.mark.parametrize(
    ("paths", "made", "wrapped"),
    [
        (["/outcomes/demand", "/outcomes/item", "/outcomes/nobody"], OUTCOMES, "outcomes"),
        (["/features/sales", "/features/shop/sales", "/features/x"], PUSHED, "rows"),
        (["/kill/demand", "/revive/demand", "/kill/nobody"], SWITCHES, "rows"),
    ],
    ids=["outcomes", "push", "kill"],
)
def test_outcomes_pushes_and_switches_take_any_body(
    client: httpx.Client, log: Log, examples: int, paths: list[str], made: Any, wrapped: str
) -> None:
    documents = made | st.lists(made, max_size=3) | st.lists(made, max_size=3).map(lambda v: {wrapped: v}) | VALUES
    body = RAW | documents.map(lambda value: json.dumps(value).encode())

    @tried(examples, st.sampled_from(paths), body, HEADERS)
    def _(path: str, body: bytes, headers: dict[str, str]) -> None:
        judged(_sent(client, path, body, headers), log)


DATATYPES = st.sampled_from([*DTYPES, "BF16", "FP8", "", "fp64", "float"])
SIZES = st.integers(-2, 4) | st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30, 1_000_000])
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", "x", "image", "words", "item_id", "c", "count", ""]),
        "datatype": DATATYPES,
        "shape": st.lists(SIZES, max_size=4) | st.just([1]) | st.just([2]) | st.just([2, 2]) | STRANGE,
    },
    optional={
        "data": st.lists(NUMBERS | STRANGE, max_size=5) | st.lists(NUMBERS, min_size=2, max_size=2) | VALUES,
        "parameters": VALUES | st.fixed_dictionaries({"binary_data_size": SIZES | st.integers(0, 40) | STRANGE}),
    },
)
INFER = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=3) | VALUES},
    optional={
        "id": STRANGE,
        "parameters": VALUES | st.fixed_dictionaries({"binary_data_output": STRANGE, "timeout": STRANGE}),
        "outputs": VALUES
        | st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["prediction", "x"]) | STRANGE},
                optional={
                    "parameters": VALUES | st.fixed_dictionaries({"binary_data": STRANGE, "classification": STRANGE})
                },
            ),
            max_size=2,
        ),
    },
)
V2_PATHS = st.sampled_from(MODELS).flatmap(
    lambda model: st.sampled_from(
        [f"/v2/models/{model}/infer"] * 4
        + [f"/v2/models/{model}/versions/1/infer", f"/v2/models/{model}/versions/%C2%B9/infer"]
    )
)


@each_size
def test_infer_takes_any_json_and_any_binary(client: httpx.Client, log: Log, examples: int) -> None:
    tail = st.binary(max_size=40) | st.lists(NUMBERS, max_size=4).map(lambda v: struct.pack(f"<{len(v)}d", *v))

    @tried(examples, V2_PATHS, INFER, tail, HEADERS, st.booleans())
    def _(path: str, document: Any, tail: bytes, headers: dict[str, str], binary: bool) -> None:
        head = json.dumps(document).encode()
        if binary and "inference-header-content-length" not in headers:
            headers = {**headers, "inference-header-content-length": str(len(head))}
        judged(_sent(client, path, head + tail if binary else head, headers), log)

    @tried(examples, V2_PATHS, RAW, HEADERS)
    def _(path: str, body: bytes, headers: dict[str, str]) -> None:
        judged(_sent(client, path, body, headers), log)


@each_size
def test_any_path_and_method_is_answered(client: httpx.Client, server: Running, log: Log, examples: int) -> None:
    part = st.sampled_from(["v2", "models", "demand", "versions", "1", "%C2%B9", "9" * 5_000, "infer", "ready", "health", "live", "predict", "metrics", "openapi", "openapi.json", "docs", "features", "outcomes", "repository", "index", "load", "unload", "config", "stats", "invocations", "ping", "..", "%2e%2e", "%00", "a b", "é", "%ff", "", "x" * 200])  # fmt: skip
    methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])

    @tried(examples, methods, st.lists(part, max_size=6).map("/".join), st.sampled_from(["", "?a=1", "?", "?%"]))
    def _(method: str, path: str, query: str) -> None:
        answer = client.request(method, f"{server.url}/{path}{query}")
        log.clean()
        if method == "HEAD":  # which has no body to tell more
            assert answer.status_code < 500 or answer.status_code == 503
        elif not (answer.status_code == 503 and "ready" in path):
            judged(answer, log)


GRPC_ERRORS = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "FAILED_PRECONDITION", "DEADLINE_EXCEEDED"}  # fmt: skip
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=3),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
        "int64_contents": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
        "uint_contents": st.lists(st.integers(0, 2**32 - 1), max_size=3),
        "uint64_contents": st.lists(st.integers(0, 2**64 - 1), max_size=3),
        "fp32_contents": st.lists(st.floats(width=32), max_size=3),
        "fp64_contents": st.lists(st.floats(), max_size=4),
        "bytes_contents": st.lists(st.binary(max_size=4), max_size=3),
    },
)
GRPC_TENSORS = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "x", "image", "words", "item_id", ""]), "datatype": DATATYPES, "shape": st.lists(st.integers(-2, 4) | st.sampled_from([2**62, -(2**63)]), max_size=3)},
    optional={"contents": CONTENTS},
)  # fmt: skip
GRPC_INFER = st.fixed_dictionaries(
    {"model_name": st.sampled_from(MODELS), "inputs": st.lists(GRPC_TENSORS, max_size=3)},
    optional={
        "model_version": st.sampled_from(["", "1", "x", "99", "¹", "01"]),
        "id": st.text(max_size=5),
        "raw_input_contents": st.lists(st.binary(max_size=20), max_size=3),
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["prediction", "x", ""])}), max_size=2),
    },
)


def _called(channel: grpc.Channel, method: str, body: bytes, metadata: list[tuple[str, str]], log: Log) -> None:
    call = channel.unary_unary(method)
    try:
        call(body, timeout=10, metadata=metadata)
    except grpc.RpcError as error:
        said: Any = error
        code, trailing = said.code().name, dict(said.trailing_metadata() or ())
        assert "Traceback" not in (said.details() or ""), said.details()
        if code == "UNAVAILABLE":
            assert trailing.get("towpath-code") in HONEST, (trailing, said.details())
        else:
            assert code in GRPC_ERRORS, (code, said.details())
    log.clean()


@each_size
def test_grpc_takes_any_bytes_and_any_message(server: Running, client: httpx.Client, log: Log, examples: int) -> None:
    kinds = messages()
    metadata = st.lists(
        st.tuples(
            st.sampled_from(["x-request-id", "traceparent", "authorization", "towpath-timeout-ms", "other"]),
            st.sampled_from(["", "a", "00-1", "Bearer x", "x" * 300, "~"]),
        ),
        max_size=3,
    )
    services = {SERVICE: _METHODS, "grpc.health.v1.Health": ["Check", "List"], "no.Service": ["Call"]}
    methods = [f"/{service}/{name}" for service, names in services.items() for name in [*names, "NoSuchMethod"]]
    with grpc.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:

        @tried(examples, st.sampled_from(methods), st.binary(max_size=60), metadata)
        def _(method: str, body: bytes, metadata: list[tuple[str, str]]) -> None:
            _called(channel, method, body, metadata, log)

        @tried(examples, GRPC_INFER, metadata)
        def _(fields: dict[str, Any], metadata: list[tuple[str, str]]) -> None:
            _called(
                channel,
                f"/{SERVICE}/ModelInfer",
                kinds["ModelInferRequest"](**fields).SerializeToString(),
                metadata,
                log,
            )


CHECKS: list[Any] = [
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    status_code_conformance,
]


BEYOND_UTC = re.compile(r"'(0001-01-01|9999-12-31)T[^']*[+-][^']*' is no time")
"""On the first and the last day there is, the zone decides whether UTC has the moment, which no schema can say."""


@pytest.mark.parametrize("examples", [3, pytest.param(300, marks=pytest.mark.nightly)])
def test_the_published_document_holds_for_every_operation(
    client: httpx.Client, server: Running, log: Log, examples: int
) -> None:
    made = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(made)
    for found in schema.get_all_operations():
        operation: Any = found.ok()
        typed = operation.path in {"/predict/demand", "/predict/typed", "/predict/late", "/predict/ranked"}
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and operation.method == "get":
                continue
            checks = list(CHECKS)
            if typed:
                checks.append(positive_data_acceptance if mode is GenerationMode.POSITIVE else negative_data_rejection)

            @tried(examples, operation.as_strategy(generation_mode=mode), st.just(checks))
            def _(case: Any, checks: list[Any]) -> None:
                answer = case.call(base_url=server.url)
                if answer.status_code == 400 and BEYOND_UTC.search(answer.text):
                    checks = [check for check in checks if check is not positive_data_acceptance]
                case.validate_response(answer, checks=checks)
                log.clean()
                if answer.status_code >= 500:
                    said = answer.json()
                    assert answer.status_code == 503
                    assert said.get("code") in HONEST or "ready" in said or "status" in said, said

"""A second Towpath as the model of the first, and servers that are down, slow, wrong or changed."""

import http.server
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from serving_stand import NUMBERS, PlainModel, Running, a_manifest, deployed

from towpath.apart import LateError, Remote, open_version
from towpath.apart.due import due
from towpath.apart.remote import write
from towpath.clock import SystemClock
from towpath.errors import FormatError, InputError, ModelError, RefusedError, UnavailableError
from towpath.models import sniff
from towpath.models.manifest import Field, Signature
from towpath.project.declarations import FallbackDeclaration, OutputDeclaration, ServingDeclaration
from towpath.serving.served import Served
from towpath.serving.server import bare_deployment

ROWS = {"a": np.array([1.0, 2.0]), "b": np.array([10.0, np.nan])}


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start a second Towpath."""
    started: list[Running] = []

    def start(model: PlainModel | None = None, **manifest: Any) -> Running:
        model = model or PlainModel()
        given = {"signature": model.signature} | manifest
        folder = tmp_path / f"other{len(started)}"
        started.append(Running(folder, deployed(Served(a_manifest(**given), model))))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def remote_of() -> Iterator[Callable[..., Remote]]:
    """Make a version of another server's model."""
    made: list[Remote] = []

    def make(folder: Path, url: str, **more: Any) -> Remote:
        url = url if url.startswith("grpc") or "/v2/" in url else f"{url}/v2/models/demand"
        artefact = write(folder, url, more.pop("token", ""))
        made.append(Remote(folder / artefact.file.path, name="demand@1", **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def url_of(running: Running, scheme: str) -> str:
    return f"{running.url}/v2/models/demand" if scheme == "http" else f"grpc://127.0.0.1:{running.ports.grpc}/demand"


both_ways = pytest.mark.parametrize("scheme", ["http", "grpc"])


@both_ways
def test_a_second_towpath_answers_as_a_model_of_the_first(
    scheme: str, other: Callable[..., Running], tmp_path: Path
) -> None:
    # given a model that another Towpath serves, and its address in a file
    second = other()
    path = tmp_path / "demand.json"
    path.write_text(json.dumps({"remote": url_of(second, scheme)}))
    assert sniff(path).format == "remote"
    # when the file is served
    deployment = bare_deployment(path, name="demand", trust_pickle=False, clock=SystemClock())
    first = Running(tmp_path, deployment)
    try:
        answer = httpx.post(f"{first.url}/predict/demand", json={"rows": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}).json()
        # then names, types and answers are the other one's, and it is our guard that answered
        assert [row["prediction"] for row in answer["predictions"]] == [3.0, 7.0]
        assert {row["source"] for row in answer["predictions"]} == {"champion"}
        told = httpx.get(f"{first.url}/v2/models/demand").json()
        assert [(one["name"], one["datatype"]) for one in told["inputs"]] == [("a", "FP64"), ("b", "FP64")]
        refused = httpx.post(f"{first.url}/predict/demand", json={"rows": [{"a": "x", "b": 2}]})
        assert refused.status_code == 400
    finally:
        first.close()
        deployment.versions[1].model.close()


def test_one_thread_keeps_one_connection_and_null_goes_through(
    other: Callable[..., Running], tmp_path: Path, remote_of: Callable[..., Remote]
) -> None:
    model = remote_of(tmp_path, other().url)
    for _ in range(20):
        answer = model.predict(ROWS)["prediction"]
    assert answer[0] == 11.0
    assert len(model._server._idle) == 1
    assert model.says["answers"] == 20
    assert not model.inline


def test_each_call_is_sent_once(scripted: Any, tmp_path: Path, remote_of: Callable[..., Remote]) -> None:
    model = remote_of(tmp_path, scripted.url)
    for _ in range(5):
        model.predict(ROWS)
    assert [command for command, _, _ in scripted.heard] == ["GET", "GET", *["POST"] * 5]


@both_ways
def test_the_time_that_is_left_goes_along_and_a_slow_server_is_given_up(
    scheme: str, other: Callable[..., Running], tmp_path: Path, remote_of: Callable[..., Remote]
) -> None:
    def slow(columns: Any) -> Any:
        time.sleep(1.0 if columns["a"][0] > 5 else 0)
        return {"prediction": columns["a"] + columns["b"]}

    second = other(PlainModel(inline=False, predict=slow))
    model = remote_of(tmp_path, url_of(second, scheme), own_s=5.0)
    assert model.predict({"a": np.array([1.0]), "b": np.array([2.0])})["prediction"].tolist() == [3.0]
    due.until = time.perf_counter() + 0.2
    begun = time.perf_counter()
    try:
        # the other one hears how long we wait: it gives up by itself, or we do
        with pytest.raises(UnavailableError, match=r"not able to answer|in time"):
            model.predict({"a": np.array([9.0]), "b": np.array([2.0])})
    finally:
        due.until = None
    assert time.perf_counter() - begun < 0.8


@both_ways
def test_a_server_that_is_away_is_down_and_its_fallback_answers(
    scheme: str, other: Callable[..., Running], tmp_path: Path
) -> None:
    # given a version whose server goes away, with a constant behind it
    second = other()
    artefact = write(tmp_path / "v", url_of(second, scheme))
    manifest = a_manifest(
        artefact=artefact,
        serving=ServingDeclaration(timeout_ms=1_000),
        fallback=(FallbackDeclaration(name="zero", constant=0.0),),
    )
    model = open_version(manifest, tmp_path / "v", environments=tmp_path)
    first = Running(tmp_path, deployed(Served(manifest, model)))
    try:
        ask = lambda: httpx.post(f"{first.url}/predict/demand", json={"rows": [{"a": 1, "b": 2}]}).json()[
            "predictions"
        ][0]
        assert (ask()["prediction"], ask()["source"]) == (3.0, "champion")
        second.close()
        row = ask()
        assert (row["prediction"], row["source"], row["reason"]) == (0.0, "fallback:zero", "down")
    finally:
        first.close()
        model.close()
        second.close = lambda: None  # type: ignore[method-assign]


@both_ways
def test_words_bytes_and_missing_values_go_through_or_are_refused(
    scheme: str, other: Callable[..., Running], tmp_path: Path, remote_of: Callable[..., Remote]
) -> None:
    # given a model of a word, a count and a number, which says what it was given
    inputs = tuple(Field(name=name, type=kind) for name, kind in (("word", "string"), ("n", "int64"), ("x", "double")))

    def echo(columns: Any) -> Any:
        said = [f"{word}/{int(n)}/{x}" for word, n, x in zip(*(columns[f.name].tolist() for f in inputs), strict=True)]
        return {"said": np.array(said, dtype=object)}

    output = (Field(name="said", type="string", nullable=False),)
    second = other(PlainModel(inputs=inputs, outputs=output, predict=echo), output=OutputDeclaration(kind="text"))
    model = remote_of(tmp_path, url_of(second, scheme))
    asked = {"word": np.array(["é", ""], dtype=object), "n": np.array([7, -3]), "x": np.array([0.1, np.nan])}
    assert model.predict(asked)["said"].tolist() == ["é/7/0.1", "/-3/nan"]
    # then what gRPC cannot say is refused by name, and not sent as something else
    for name, column in (("word", np.array(["a", None], dtype=object)), ("n", np.array([1.0, np.nan]))):
        if scheme == "grpc":
            with pytest.raises(InputError, match=f"'{name}' has no value in a row, and gRPC has no null"):
                model.predict(asked | {name: column})
    assert model.says["answers"] == 1


class _Scripted(http.server.BaseHTTPRequestHandler):
    """Answers what `server.answers` says, in turns of GET and POST."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.server.heard.append((self.command, dict(self.headers), self.rfile.read(length)))  # type: ignore[attr-defined]
        status, body = self.server.answers[self.command]  # type: ignore[attr-defined]
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # so that closing it waits for what is open

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up is what some tests are about."""


METADATA = {
    "name": "demand",
    "inputs": [{"name": name, "datatype": "FP64", "shape": [-1]} for name in "ab"],
    "outputs": [{"name": "prediction", "datatype": "FP64", "shape": [-1]}],
}


def outputs(shape: Any, data: Any, name: str = "prediction", datatype: str = "FP64") -> Any:
    return {"outputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}


@pytest.fixture
def scripted() -> Iterator[Any]:
    server: Any = _Server(("127.0.0.1", 0), _Scripted)
    server.answers = {"GET": (200, METADATA), "POST": (200, outputs([2], [1.0, 2.0]))}
    server.heard = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (200, outputs([1], [1.0]), ModelError, r"of shape \[1\] for 2 rows"),
        (200, outputs([2, 2], [1.0, 2.0, 3.0, 4.0]), ModelError, r"of shape \[2, 2\] for 2 rows"),
        (200, outputs([3], [1.0, 2.0]), ModelError, r"2 values of 'prediction' for the shape \[3\]"),
        (200, outputs([2], [1.0, 2.0], name="predicton"), ModelError, "no output 'prediction'.*predicton"),
        (200, outputs([2], ["x", "y"]), ModelError, "cannot be read"),
        (200, outputs("two", None), ModelError, "without shape or data"),
        (200, b"<html>", ModelError, "no output 'prediction'"),
        (400, {"error": "row 0, 'a': too large."}, InputError, r"row 0, 'a': too large\."),
        (401, {"error": "who are you?"}, ModelError, r"refuses us \(401\)"),
        (302, {}, ModelError, r"refuses us \(302\)"),
        (404, {"error": "no such model"}, UnavailableError, "is not there: no such model"),
        (429, {"error": "too many"}, UnavailableError, r"not able to answer \(429\): too many"),
        (503, {"error": "busy"}, UnavailableError, r"not able to answer \(503\): busy"),
        (500, b"Traceback", UnavailableError, r"not able to answer \(500\): it does not say why"),
    ],
)
def test_what_another_server_says_is_told_apart(
    status: int,
    body: Any,
    kind: type[Exception],
    said: str,
    scripted: Any,
    tmp_path: Path,
    remote_of: Callable[..., Remote],
) -> None:
    model = remote_of(tmp_path, scripted.url)
    assert model.predict(ROWS)["prediction"].tolist() == [1.0, 2.0]
    scripted.answers["POST"] = (status, body)
    with pytest.raises(kind, match=said) as fault:
        model.predict(ROWS)
    assert type(fault.value) is kind


def test_a_server_that_reads_other_things_than_it_did_is_not_asked(
    scripted: Any, tmp_path: Path, remote_of: Callable[..., Remote]
) -> None:
    model = remote_of(tmp_path, scripted.url)
    model.predict(ROWS)
    # given that its signature changed, and it now refuses what we send
    changed = METADATA | {"inputs": [{"name": "a", "datatype": "INT64", "shape": [-1]}, *METADATA["inputs"][1:]]}  # type: ignore[misc]
    scripted.answers = {"GET": (200, changed), "POST": (400, {"error": "a is no INT64"})}
    # then that is not the caller's fault, and it says what changed
    for _ in range(2):
        with pytest.raises(ModelError, match=r"'a' was FP64 \[-1\] and is INT64 \[-1\]"):
            model.predict(ROWS)
    scripted.answers = {"GET": (200, METADATA), "POST": (200, outputs([2], [1.0, 2.0]))}
    assert model.predict(ROWS)["prediction"].tolist() == [1.0, 2.0]


def test_keys_deadline_and_its_own_fallbacks(
    scripted: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    remote_of: Callable[..., Remote],
) -> None:
    monkeypatch.setenv("OTHER_KEY", "s3cret")
    model = remote_of(tmp_path, scripted.url, token="env:OTHER_KEY", own_s=2.0)
    assert "s3cret" not in (tmp_path / "model.remote.json").read_text()
    told = {"parameters": {"towpath": {"source": "fallback:zero", "reason": "down"}}}
    scripted.answers["POST"] = (200, outputs([2], [0.0, 0.0]) | told)
    model.predict(ROWS)
    _, headers, body = scripted.heard[-1]
    assert headers["Authorization"] == "Bearer s3cret"
    assert 1_000 < int(headers["Towpath-Timeout-Ms"]) <= 2_000
    assert json.loads(body)["inputs"][1] == {"name": "b", "datatype": "FP64", "shape": [2], "data": [10.0, None]}
    assert model.says["by_its_fallback"] == 1
    assert "answers by its own fallback (down)" in caplog.text
    assert "s3cret" not in caplog.text


def test_what_is_declared_wrongly_is_refused(scripted: Any, tmp_path: Path, remote_of: Callable[..., Remote]) -> None:
    for url, token in (
        ("http://x/predict/demand", ""),
        ("ftp://x/v2/models/m", ""),
        (f"{scripted.url}/v2/models/m", "key"),
    ):
        with pytest.raises(RefusedError):
            write(tmp_path, url, token)
    for url in ("http://127.0.0.1:9/v2/models/m", "grpc://127.0.0.1:9/m"):
        with pytest.raises(UnavailableError, match="is away"):
            write(tmp_path, url)
    (tmp_path / "bad").write_text('{"remote": ')
    with pytest.raises(FormatError):
        Remote(tmp_path / "bad", name="m")
    columns = tuple(Field(name=name, type="double") for name in ("a", "c"))
    other = Signature(container="numpy", inputs=columns, outputs=(Field(name="y", type="double"),))
    with pytest.raises(RefusedError, match="reads 'b'"):
        remote_of(tmp_path, scripted.url, signature=other)
    scripted.answers["GET"] = (200, {"inputs": [{"name": 1}]})
    with pytest.raises(ModelError, match="cannot be read"):
        remote_of(tmp_path, scripted.url)


def test_one_table_is_sent_where_the_server_reads_one(
    scripted: Any, tmp_path: Path, remote_of: Callable[..., Remote]
) -> None:
    scripted.answers["GET"] = (200, METADATA | {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]})
    signature = Signature(container="numpy", inputs=NUMBERS, outputs=(Field(name="prediction", type="FP64"),))
    remote_of(tmp_path, scripted.url, signature=signature).predict(ROWS)
    (sent,) = json.loads(scripted.heard[-1][2])["inputs"]
    assert sent == {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 10.0, 2.0, None]}


def test_a_slow_answer_in_drips_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = threading.Event()

        def drip() -> None:
            connection, _ = listening.accept()
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not done.wait(0.05):
                try:
                    connection.sendall(b" ")
                except OSError:
                    break
            connection.close()

        thread = threading.Thread(target=drip)
        thread.start()
        (tmp_path / "m").write_text(
            json.dumps(
                {
                    "remote": f"http://127.0.0.1:{listening.getsockname()[1]}/v2/models/m",
                    "inputs": [{"name": "a", "datatype": "FP64", "shape": [-1]}],
                    "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1]}],
                }
            )
        )
        model = Remote(tmp_path / "m", name="m", own_s=0.5)
        begun = time.perf_counter()
        with pytest.raises(LateError, match="in time"):
            model.predict({"a": np.array([1.0])})
        assert time.perf_counter() - begun < 1.5
        done.set()
        thread.join()

"""What one connection may cost, over raw sockets: whoever sends too much, too slowly or too often is told why and let go."""

import gc
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc
from serving_stand import PlainModel, Running, a_manifest, deployed
from test_server import eventually
from tritonclient.utils import InferenceServerException

from towpath.serving.served import Served
from towpath.serving.shortway import ShortWayProtocol

triton_grpc: Any = tritonclient.grpc  # it has no types
GOOD = b'[{"a": 1, "b": 2}]'
HEAD_S = 0.4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(
        tmp_path_factory.mktemp("limits"),
        deployed(Served(a_manifest(), PlainModel())),
        max_header_bytes=4_096,
        max_headers=20,
        header_timeout_s=HEAD_S,
        min_body_bytes_per_s=1_000,
        idle_timeout_s=1,
        max_body_bytes=200_000,
        max_streams=4,
    )
    yield running
    running.close()


def connected(server: Running) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", server.ports.http), timeout=10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def all_of(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def post(body: bytes = GOOD, headers: bytes = b"", path: bytes = b"/predict/demand") -> bytes:
    return b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%s\r\n%s" % (path, len(body), headers, body)


@pytest.mark.parametrize(
    "head",
    [
        b"x-long: " + b"a" * 5_000 + b"\r\n",
        b"".join(b"x-%d: a\r\n" % n for n in range(30)),
        b"".join(b"x-%d: %s\r\n" % (n, b"a" * 400) for n in range(12)),
    ],
    ids=["one long", "many", "long together"],
)
@pytest.mark.parametrize("pieces", [1, 7])
def test_a_large_head_is_refused_however_it_arrives(server: Running, head: bytes, pieces: int) -> None:
    request = post(headers=head)
    with connected(server) as connection:
        size = -(-len(request) // pieces)
        for start in range(0, len(request), size):
            try:
                connection.sendall(request[start : start + size])
            except (BrokenPipeError, ConnectionResetError):  # it was told already
                break
            time.sleep(0.01)
        got = all_of(connection)
    assert got.startswith(b"HTTP/1.1 431 "), got[:200]
    assert b'"code":"too_large"' in got
    assert b"connection: close" in got
    assert b"predictions" not in got


def test_a_long_path_is_refused_too(server: Running) -> None:
    with connected(server) as connection:
        connection.sendall(b"GET /v2/%s HTTP/1.1\r\nhost: x\r\n\r\n" % (b"a" * 5_000))
        assert all_of(connection).startswith(b"HTTP/1.1 431 ")


def test_many_requests_in_one_packet_are_no_large_head(server: Running) -> None:
    many = post() * 200
    assert len(many) > 4_096 * 3
    with connected(server) as connection:
        connection.sendall(many + post(headers=b"connection: close\r\n"))
        assert all_of(connection).count(b"HTTP/1.1 200 OK") == 201


@pytest.mark.parametrize("space", [0, 2_000, 70_000], ids=["small", "split between pieces", "uvicorn's way"])
def test_requests_one_behind_the_other_are_answered_in_their_order(server: Running, space: int) -> None:
    count = 3_000 if not space else 150
    bodies = [b'[{"a": %d,%s "b": 0}]' % (number, b" " * space) for number in range(count)]
    with connected(server) as connection:
        sender = threading.Thread(target=connection.sendall, args=(b"".join(map(post, bodies)),))
        sender.start()
        connection.settimeout(10)
        got = b""
        while got.count(b'"prediction":') < count:
            got += connection.recv(1 << 20)
        sender.join()
    assert [int(float(one)) for one in re.findall(rb'"prediction":([0-9.]+)', got)] == list(range(count))


def test_a_head_that_comes_byte_by_byte_is_given_up_in_time(server: Running) -> None:
    with connected(server) as connection:
        began = time.monotonic()
        for byte in b"POST /predict/demand HTTP/1.1\r\nhost: x\r\nx-slow: aaaaaaaaaaaaaaaaaaaaaaaaa":
            try:
                connection.sendall(bytes([byte]))
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.03)
        got = all_of(connection)
        took = time.monotonic() - began
    assert got.startswith(b"HTTP/1.1 408 ")
    assert b"took over 0.4 s" in got
    assert HEAD_S <= took < HEAD_S + 3


def test_a_slow_head_behind_a_good_request_is_given_up_too(server: Running) -> None:
    with connected(server) as connection:
        connection.sendall(post() + b"POST /pre")
        got = all_of(connection)
    assert got.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 408 " in got


@pytest.mark.parametrize("length", [5_000, 150_000], ids=["short way", "uvicorn's way"])
def test_a_slow_body_is_given_up_and_a_fast_one_in_pieces_is_not(server: Running, length: int) -> None:
    with connected(server) as connection:
        connection.sendall(b"POST /predict/demand HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % length)
        for _ in range(40):
            try:
                connection.sendall(b" " * 10)
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.05)
        got = all_of(connection)
    assert got.startswith(b"HTTP/1.1 408 ")
    assert b"bytes/s (least 1,000)" in got
    body = GOOD + b" " * (length - len(GOOD))
    with connected(server) as connection:
        connection.sendall(
            b"POST /predict/demand HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % length
        )
        for start in range(0, length, length // 10):
            connection.sendall(body[start : start + length // 10])
            time.sleep(HEAD_S / 5)
        assert all_of(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_connection_that_says_nothing_is_closed(server: Running) -> None:
    for first in (b"", post()):
        with connected(server) as connection:
            began = time.monotonic()
            connection.sendall(first)
            got = all_of(connection)
            assert got == b"" if not first else got.startswith(b"HTTP/1.1 200 OK")
            assert 0.9 < time.monotonic() - began < 3


@pytest.mark.parametrize("space", [0, 500], ids=["small", "mostly cut in a body"])
@pytest.mark.parametrize("path", [b"/predict/demand", b"/nowhere"])
def test_a_caller_that_never_reads_is_let_go(
    server: Running, path: bytes, space: int, capfd: pytest.CaptureFixture[str]
) -> None:
    # given one that sends as long as the server takes, and reads nothing
    packet, sent, waiting = post(GOOD + b" " * space, path=path) * 3_000, 0, 0
    with connected(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(0.5)
        port = connection.getsockname()[1]
        with suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            while sent < 40_000_000:
                sent += connection.send(packet)
                waiting = max([waiting, *(len(one.pipeline) for one in connections_of(port))])
        # then it takes what the sockets' buffers hold and little more, and of that only a piece is made into requests
        assert sent < 40_000_000
        assert waiting < 500
        # then the server keeps nothing of it, though the caller's side is still open
        until = time.monotonic() + 15
        while any(one.transport is not None for one in connections_of(port)):  # pyright: ignore[reportUnnecessaryComparison]
            assert time.monotonic() < until
            time.sleep(0.05)
    # then the requests that waited know it, and write to nobody
    time.sleep(0.1)
    assert "handler is closed" not in capfd.readouterr().err


def connections_of(port: int) -> list[ShortWayProtocol]:
    """Those that a caller's port has with the servers of this process."""
    return [one for one in connections() if one.client == ("127.0.0.1", port)]


def connections() -> set[ShortWayProtocol]:
    """Of all servers in this process."""
    return {one for found in gc.get_objects() if isinstance(found, ShortWayProtocol) for one in list(found.connections)}  # pyright: ignore[reportReturnType]


def test_a_body_over_the_limit_is_refused_before_it_is_read(server: Running) -> None:
    with connected(server) as connection:
        connection.sendall(b"POST /predict/demand HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_what_is_no_http_gets_our_error(server: Running) -> None:
    with connected(server) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        got = all_of(connection)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"input"' in got


def test_one_connection_too_many_is_told_so_and_the_others_go_on(tmp_path: Path) -> None:
    running = Running(tmp_path, deployed(Served(a_manifest(), PlainModel())), max_connections=3)
    held = [connected(running) for _ in range(3)]
    try:
        for one in held:
            one.sendall(post())
            assert one.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        with connected(running) as fourth:
            fourth.sendall(post())
            got = all_of(fourth)
        assert got.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in got
        assert b'"code":"overloaded"' in got
        # one that asks for nothing does not stay
        with connected(running) as fifth:
            began = time.monotonic()
            all_of(fifth)
            assert time.monotonic() - began < 3
        held[0].sendall(post())
        assert held[0].recv(65_536).startswith(b"HTTP/1.1 200 OK")
        held.pop().close()
        time.sleep(0.1)
        assert httpx.post(f"{running.url}/predict/demand", content=GOOD).status_code == 200
    finally:
        for one in held:
            one.close()
        running.close()


def test_whoever_is_turned_away_is_counted(server: Running) -> None:
    with connected(server) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        all_of(connection)
    assert 'towpath_refused_total{code="input",consumer=""}' in httpx.get(f"{server.url}/metrics").text


def ask_grpc(server: Running, **more: Any) -> Any:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports.grpc}") as client:
        asked = triton_grpc.InferInput("x", [1, 2], "FP64")
        import numpy as np

        asked.set_data_from_numpy(np.ones((1, 2)))
        return client.infer("demand", [asked], **more)


def test_grpc_metadata_and_messages_have_the_same_limits(server: Running) -> None:
    import grpc

    assert ask_grpc(server)
    with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
        ask_grpc(server, headers={"x-long": "a" * 8_000})
    with grpc.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as error:
            call(b"\x0a\xa0\xf7\x36" + b"a" * 900_000, timeout=5)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_one_grpc_connection_has_only_so_many_calls_open(tmp_path: Path) -> None:
    import threading

    import grpc

    most, now, gate = 0, 0, threading.Lock()

    def busy(columns: Any) -> Any:
        nonlocal most, now
        with gate:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with gate:
            now -= 1
        return {"prediction": columns["a"]}

    deployment = deployed(Served(a_manifest(), PlainModel(predict=busy, inline=False)))
    running = Running(tmp_path, deployment, max_streams=2)
    try:
        from towpath.apart.protocol import messages

        kinds = messages()
        request = kinds["ModelInferRequest"](model_name="demand")
        for name in ("a", "b"):
            request.inputs.add(name=name, datatype="FP64", shape=[1]).contents.fp64_contents.append(1.0)
        with grpc.insecure_channel(f"127.0.0.1:{running.ports.grpc}") as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=kinds["ModelInferRequest"].SerializeToString,
                response_deserializer=kinds["ModelInferResponse"].FromString,
            )
            call(request, timeout=5)
            waiting = [call.future(request, timeout=10) for _ in range(10)]
            assert len([one.result() for one in waiting]) == 10
        assert most <= 2
    finally:
        running.close()


def test_a_grpc_caller_that_pings_all_the_time_is_let_go(server: Running) -> None:
    # given HTTP/2 by hand: the preface, empty settings, and pings
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"\x00" * 8
    with socket.create_connection(("127.0.0.1", server.ports.grpc), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        time.sleep(0.2)
        for _ in range(50):
            try:
                connection.sendall(ping)
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.01)
        assert b"too_many_pings" in all_of(connection)


FEW_FILES = """
import logging, resource, sys, tempfile
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from serving_stand import PlainModel, Running, a_manifest, deployed
from towpath.serving.served import Served
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
logging.basicConfig(level="WARNING")
running = Running(Path(tempfile.mkdtemp()), deployed(Served(a_manifest(), PlainModel())))
print(running.ports.http, running.ports.grpc, flush=True)
sys.stdin.readline()
import os, threading
held, over = [], threading.Event()
def take():
    while not over.is_set():  # also what the server gives back only now
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            over.wait(0.005)
taking = threading.Thread(target=take)
taking.start()
print("full", flush=True)
sys.stdin.readline()
over.set()
taking.join()
for one in held:
    os.close(one)
print("free", flush=True)
sys.stdin.readline()
running.close()
"""


def _refused(url: str) -> str:
    """Why readiness is refused to a new caller; empty where the connection was cut, as it is among very many."""
    with suppress(httpx.TransportError):
        told = httpx.get(f"{url}/health/ready")
        return told.json().get("code", "") if told.status_code == 503 else "ready"
    return ""


def test_a_server_that_may_open_few_files_refuses_in_words_and_recovers() -> None:
    command = [sys.executable, "-c", FEW_FILES, str(Path(__file__).parent)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None

        def goes_on(said: str) -> None:
            child.stdin.write("\n")  # pyright: ignore[reportOptionalMemberAccess]
            child.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
            assert child.stdout.readline() == said  # pyright: ignore[reportOptionalMemberAccess]

        http, grpc = map(int, child.stdout.readline().split())
        url = f"http://127.0.0.1:{http}"
        with httpx.Client(base_url=url) as kept, ExitStack() as many:
            assert kept.get("/health/ready").status_code == 200
            # given more connections than it may have files
            for port in [http, grpc] * 60:
                many.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            # then who was there before is served, and who comes is told why
            assert kept.post("/predict/demand", content=GOOD).status_code == 200
            eventually(lambda: _refused(url) == "overloaded")
            many.close()
            # and where something else took the files, readiness says so until they are back
            goes_on("full\n")
            full = (503, "no file can be opened")
            eventually(lambda: (kept.get("/health/ready").status_code, kept.get("/health").json()["status"]) == full)
            assert kept.post("/predict/demand", content=GOOD).status_code == 200
            goes_on("free\n")
            assert kept.get("/health/ready").status_code == 200
        assert httpx.post(f"{url}/predict/demand", content=GOOD).status_code == 200
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.wait(20) == 0
        said = child.stderr.read()
        assert "this process may open 64 files" in said
        assert "Traceback" not in said

"""The short way of a request, over real sockets: the same answers as uvicorn's way, in order, however the bytes arrive."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_stand import PlainModel, Running, a_manifest, deployed
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from towpath.errors import DeniedError
from towpath.project.declarations import FallbackDeclaration
from towpath.serving.served import Served
from towpath.serving.shortway import ShortWayProtocol

GET = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
HEAD = b"HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
GOOD = b'[{"a": 1, "b": 2}]'
TENSORS = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}]}'
WAITS = threading.Event()


def post(body: bytes, path: str = "/predict/demand", headers: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%s\r\n%s" % (path.encode(), len(body), headers, body)


def chunked(body: bytes, path: str = "/predict/demand") -> bytes:
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode()
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def slow(columns: object) -> dict[str, np.ndarray]:
    WAITS.wait(5)
    return {"prediction": np.asarray([7.0])}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    patient = a_manifest(fallback=(FallbackDeclaration(name="zero", constant=0.0),))
    waiting = deployed(Served(patient, PlainModel(predict=slow, inline=False))).replaced(model="waiting")
    running = Running(
        tmp_path_factory.mktemp("shortway"), deployed(Served(a_manifest(), PlainModel())), waiting, max_rows=5
    )
    yield running
    WAITS.set()
    running.close()


def connected(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.ports.http), timeout=10)


def all_of(connection: socket.socket) -> bytes:
    """Everything that comes back until the server closes."""
    parts: list[bytes] = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def asked(server: Running, *pieces: bytes) -> bytes:
    with connected(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            if len(pieces) > 1:
                time.sleep(0.001)
        return all_of(connection)


def answers(data: bytes) -> list[tuple[bytes, object]]:
    """Status line and body of each answer, without what differs from call to call."""
    found: list[tuple[bytes, object]] = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        match = re.search(rb"content-length: (\d+)", head)
        assert match, head
        size = int(match[1])
        body: Any = json.loads(rest[:size])
        if "predictions" in body:
            body = [row["prediction"] for row in body["predictions"]]
        if "parameters" in body:
            del body["parameters"]["towpath"]["prediction_id"]
        found.append((head.split(b"\r\n")[0], body))
        data = rest[size:]
    return found


def test_pipelined_answers_of_both_ways_come_whole_and_in_order(server: Running) -> None:
    got = answers(asked(server, GET + post(GOOD) + GET + post(b'[{"a": 5, "b": 5}]') + post(GOOD) + LAST))
    assert [body for _, body in got] == [{"live": True}, [3.0], {"live": True}, [10.0], [3.0], {"live": True}]


def test_the_head_of_an_answer_without_body_is_not_kept_back(server: Running) -> None:
    assert asked(server, HEAD + LAST).count(b"HTTP/1.1 200 OK\r\n") == 2


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (GOOD, "/predict/demand"),
        (b"{", "/predict/demand"),
        (b'[{"a": 1}]', "/predict/demand"),
        (b"[" + b",".join([GOOD[1:-1]] * 6) + b"]", "/predict/demand"),
        (GOOD, "/predict/demnd"),
        (GOOD, "/nowhere"),
        (GOOD, "/metrics"),
        (
            b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}]}',
            "/v2/models/demand/infer",
        ),
        (b'{"inputs": 3}', "/v2/models/demand/infer"),
        (b'{"prediction_id": "p", "value": 1}', "/outcomes/demand"),
    ],
)
def test_the_short_way_answers_what_uvicorns_way_answers(server: Running, body: bytes, path: str) -> None:
    # given the same request with a length, and in chunks, which is not short
    short, long = (answers(asked(server, request + LAST))[0] for request in (post(body, path), chunked(body, path)))
    assert short == long


@given(data=st.data())
def test_however_the_bytes_arrive_the_answers_are_the_same(server: Running, data: st.DataObject) -> None:
    # given some requests of all kinds, one after the other
    kinds = st.sampled_from([GET, post(GOOD), post(b"{"), chunked(GOOD), post(GOOD, "/predict/x%79"), post(b"", "/no")])
    whole = b"".join(data.draw(st.lists(kinds, max_size=4))) + LAST
    # when they arrive in pieces
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    # then each is answered as if it had come whole
    assert answers(asked(server, *pieces)) == answers(asked(server, whole))


NOT_READ = b'[{"a": 1, "b": "x"}]'


@given(data=st.data())
def test_a_head_that_comes_again_is_answered_as_it_was_the_first_time(server: Running, data: st.DataObject) -> None:
    # given requests whose heads come again, of the same length and of others, whole and in pieces, and what nobody parses
    kinds = [
        GET,
        post(GOOD),
        post(GOOD.replace(b"1", b"4")),
        post(b"{"),
        post(NOT_READ),
        post(GOOD, "/no"),
        chunked(GOOD),
    ]
    kinds += [post(GOOD) + b"\r\n", b"\r\n" + post(GOOD), post(GOOD) * 2, post(GOOD, headers=b"x-request-id: a\r\n")]
    asked_for = data.draw(st.lists(st.sampled_from(kinds), min_size=2, max_size=12))
    alone = {one: answers(asked(server, one + LAST))[:-1] for one in set(asked_for)}
    with connected(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for one in asked_for:
            # when a caller sends one after the other, each when the one before was answered
            cut = data.draw(st.one_of(st.none(), st.integers(1, len(one) - 1)))
            for piece in (one,) if cut is None else (one[:cut], one[cut:]):
                connection.sendall(piece)
                time.sleep(0.0005)
            heard = b""
            while heard.count(b"HTTP/1.1 ") < len(alone[one]) or not _whole(heard):
                heard += connection.recv(65_536)
            # then it hears what it would have heard on a connection of its own
            assert answers(heard) == alone[one]


def _whole(heard: bytes) -> bool:
    head, end, body = heard.rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return bool(end) and length is not None and len(body) == int(length[1])


def test_the_parser_is_left_out_where_a_head_comes_again(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    feed = ShortWayProtocol._feed

    def noted(self: ShortWayProtocol, data: bytes) -> None:
        parsed.append(data)
        feed(self, data)

    monkeypatch.setattr(ShortWayProtocol, "_feed", noted)
    traced = post(GOOD, headers=b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n")
    shorter = post(b'[{"a": 1,"b": 2}]')
    with connected(server) as connection:

        def sent(request: bytes) -> bytes:
            connection.sendall(request)
            return connection.recv(65_536)

        for request in (post(GOOD), post(GOOD), post(GOOD), shorter, shorter, traced, traced):
            assert answers(sent(request))[0][1] == [3.0]
        assert parsed == [post(GOOD), shorter, traced, traced]
        # heads are kept in their turn
        for number in range(10):
            sent(post(GOOD, headers=b"x-shop: %d\r\n" % number))
        # and one of many small headers, which would take much memory for its bytes, is not
        many = post(GOOD, headers=b"".join(b"x%d:\r\n" % number for number in range(30)))
        del parsed[:]
        for _ in range(2):
            assert answers(sent(many))[0][1] == [3.0]
        assert parsed == [many, many]
        del parsed[:]
        assert answers(sent(post(GOOD)))[0][1] == [3.0]
        assert parsed == [post(GOOD)]
    # and another connection's are its own
    with connected(server) as connection:
        connection.sendall(post(GOOD))
        connection.recv(65_536)
    assert parsed == [post(GOOD)] * 2


def test_a_key_that_was_revoked_opens_nothing_though_its_head_is_known(server: Running) -> None:
    caller = post(GOOD, headers=b"authorization: Bearer tow_a_b\r\n")
    consumers = server.worker._consumers
    admit = consumers.admit

    def refused(*_: object) -> NoReturn:
        raise DeniedError("The key is unknown, expired or revoked.")

    with connected(server) as connection:
        for _ in range(2):
            connection.sendall(caller)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        consumers.admit = refused
        try:
            connection.sendall(caller)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")
        finally:
            consumers.admit = admit


def test_no_answer_is_heard_before_its_record_is_in_the_journal(server: Running) -> None:
    connections = [connected(server) for _ in range(12)]
    ways = [post(GOOD), chunked(GOOD), post(TENSORS, "/v2/models/demand/infer"), post(GOOD) * 2]
    for _ in range(20):
        for at, connection in enumerate(connections):
            connection.sendall(ways[at % len(ways)])
        for at, connection in enumerate(connections):
            heard = b""
            while len(ids := re.findall(rb'"prediction_id":"(\w+)"', heard)) < (2 if at % len(ways) == 3 else 1):
                heard += connection.recv(65_536)
                kept = b"".join(path.read_bytes() for path in server.journal.glob("*.journal"))
                for one in re.findall(rb'"prediction_id":"(\w+)"', heard):
                    assert one in kept
            assert len(set(ids)) == len(ids)
    for connection in connections:
        connection.close()


def test_a_request_behind_one_that_waits_is_answered_after_it(server: Running) -> None:
    WAITS.clear()
    with connected(server) as connection:
        connection.sendall(post(b'[{"a": 1, "b": 1}]', "/predict/waiting") + post(GOOD) + LAST)
        time.sleep(0.1)
        WAITS.set()
        got = answers(all_of(connection))
    assert [body for _, body in got] == [[7.0], [3.0], {"live": True}]


def test_a_caller_who_leaves_while_the_model_is_at_work_disturbs_nobody(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    WAITS.clear()
    with connected(server) as connection:
        connection.sendall(post(b'[{"a": 1, "b": 1}]', "/predict/waiting"))
        time.sleep(0.05)
    WAITS.set()
    assert answers(asked(server, post(GOOD) + LAST))[0][1] == [3.0]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "smuggled",
    [
        b"POST /predict/demand HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n[{}]",
        b"POST /predict/demand HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n[{}]",
        b"POST /predict/demand HTTP/1.1\r\nhost: x\r\ncontent-length: -4\r\n\r\n[{}]",
        b"POST /predict/demand HTTP/1.1\r\nhost x\r\ncontent-length: 4\r\n\r\n[{}]",
        # a head that is known by its bytes is only one head because none ends like these
        b"POST /predict/demand HTTP/1.1\nhost: x\ncontent-length: 4\n\n[{}]",
        b"POST /predict/demand HTTP/1.1\r\nhost: x\r\ncontent-length: 4\n\n[{}]",
    ],
)
def test_what_two_readers_would_read_in_two_ways_is_refused(server: Running, smuggled: bytes) -> None:
    assert asked(server, smuggled).startswith(b"HTTP/1.1 400 ")


def test_who_asks_first_whether_to_send_the_body_is_told_to(server: Running) -> None:
    with connected(server) as connection:
        connection.sendall(post(GOOD, headers=b"expect: 100-continue\r\n")[: -len(GOOD)])
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n")
        connection.sendall(GOOD + LAST)
        assert answers(all_of(connection))[0][1] == [3.0]


def test_a_quiet_connection_is_closed_and_one_that_waits_for_an_answer_is_not(tmp_path: Path) -> None:
    WAITS.clear()
    patient = Served(a_manifest(), PlainModel(predict=slow, inline=False))
    running = Running(tmp_path, deployed(patient), idle_timeout_s=1)
    try:
        with connected(running) as connection:
            connection.sendall(post(b'[{"a": 1, "b": 1}]', headers=b"towpath-timeout-ms: 2500\r\n"))
            time.sleep(1.4)
            WAITS.set()
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK\r\n")
            began = time.monotonic()
            assert connection.recv(1) == b""
            assert 0.5 < time.monotonic() - began < 3
    finally:
        running.close()


def test_a_server_that_drains_answers_what_it_began_and_says_that_it_closes(tmp_path: Path) -> None:
    WAITS.clear()
    running = Running(tmp_path, deployed(Served(a_manifest(), PlainModel(predict=slow, inline=False))))
    with connected(running) as connection:
        connection.sendall(post(b'[{"a": 1, "b": 1}]'))
        time.sleep(0.1)
        threading.Timer(0.3, WAITS.set).start()
        running.close()
        got = all_of(connection)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in got


def test_uvicorn_still_has_what_the_short_way_steps_in_for() -> None:
    # a release of uvicorn that renames one of these would take our short way silently, or break it
    for name in ("on_message_begin", "on_headers_complete", "on_body", "on_message_complete", "on_response_complete"):
        assert name in HttpToolsProtocol.__dict__
        assert name in ShortWayProtocol.__dict__
    for name in ("_unset_keepalive_if_required", "timeout_keep_alive_handler", "_start_asgi_task", "shutdown"):
        assert name in HttpToolsProtocol.__dict__
    names = RequestResponseCycle.__init__.__code__.co_names
    assert {"disconnected", "keep_alive", "message_event", "response_complete"} <= set(names)

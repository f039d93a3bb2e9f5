"""The short way of an answer, against a real server: whole answers, pipelined ones, and those that go uvicorn's way."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from towpath.serving.onewrite import OneWriteCycle, OneWriteProtocol
from towpath.settings import ServingSettings

ONE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
HEAD = b"HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
LOST = b"GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    from towpath.serving.server import store_server

    folder: Path = tmp_path_factory.mktemp("onewrite")
    (folder / "keys").mkdir()
    settings = ServingSettings(port=0, grpc_port=0)
    server = store_server(
        settings, objects_url="objects", online_url="lmdb://online", keys=folder / "keys", folder=folder
    )
    with server:
        yield server.ports.http


def asked(port: int, data: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        parts: list[bytes] = []
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def test_pipelined_answers_come_whole_and_in_order(port: int) -> None:
    # given three requests in one packet, the last of which closes the connection
    got = asked(port, ONE + ONE + LAST)
    # then three answers came, each with its body
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert got.count(b"\r\n\r\n{") == 3


def test_the_head_of_an_answer_without_body_is_not_kept_back(port: int) -> None:
    # given a request for the head alone, and one after it
    got = asked(port, HEAD + LAST)
    # then both are answered
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 2


def test_an_answer_that_is_an_error_closes_when_it_was_asked_to(port: int) -> None:
    got = asked(port, LOST)
    assert got.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b'"code":"unknown"' in got


def test_uvicorn_still_starts_its_work_where_we_step_in() -> None:
    # a release of uvicorn that renames this would take our short way silently
    assert "_start_asgi_task" in OneWriteProtocol.__mro__[1].__dict__
    assert issubclass(OneWriteCycle, OneWriteCycle.__mro__[1])

"""The client against real servers: answers, each error as its class, and servers that are away, slow, killed or full."""

import asyncio
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from serving_stand import AT, PlainModel, Running, a_manifest, deployed
from test_push import locks_of, row, view_of
from test_server import QUICK, Store

import towpath
from towpath import AsyncClient, Client, features
from towpath.client import Answer, Prediction, PushAnswer, RefusedRow
from towpath.errors import (
    CallerError,
    DeniedError,
    ForbiddenError,
    InputError,
    ModelError,
    ProjectError,
    QuotaError,
    RefusedError,
    TooLargeError,
    TowpathError,
    UnavailableError,
    UnknownError,
)
from towpath.serving.answer import Answer as SentAnswer
from towpath.serving.answer import AnswerRow
from towpath.serving.push import PushAnswer as SentPushAnswer
from towpath.serving.served import Served
from towpath.traffic import ConsumerBook, Quota, make_pepper

ROW = {"a": 1.0, "b": 2.0}
LEAVES = {"Column_0": 1.0, "Column_1": 0.0}


class Ill:
    """A model that gives nothing until it is healed."""

    def __init__(self) -> None:
        self.wrong_calls = 0

    def __call__(self, columns: Any) -> dict[str, Any]:
        self.wrong_calls -= 1
        return {"prediction": columns["a"] * (np.nan if self.wrong_calls >= 0 else 1.0)}


class Served_(Running):
    """A worker with an access log."""

    def __init__(self, folder: Path) -> None:
        self.ill = Ill()
        self.log = folder / "access.jsonl"
        prices = a_manifest(features=locks_of(view_of(folder / "project"), "price"))
        super().__init__(
            folder,
            deployed(Served(a_manifest(), PlainModel())),
            deployed(Served(prices, PlainModel())).replaced(model="priced"),
            deployed(Served(a_manifest(), PlainModel(predict=self.ill))).replaced(model="ill"),
            access_log=str(self.log),
            max_rows=10,
            online_url=f"lmdb://{folder / 'online'}",
        )

    def lines(self, request_id: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in found if line["request_id"] == request_id]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served_]:
    running = Served_(tmp_path_factory.mktemp("served"))
    yield running
    running.close()


@pytest.fixture
def client(server: Served_) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def test_rows_and_one_row_are_answered_with_types(client: Client, server: Served_) -> None:
    answer = client.predict("demand", [ROW, {"a": np.float32(0.5), "b": None}], request_id="abc")
    assert isinstance(answer, Answer)
    assert (answer.model, answer.request_id, len(answer)) == ("demand", "abc", 2)
    assert next((one.prediction, one.source, one.version, one.by_model) for one in answer) == (3.0, "champion", 1, True)
    one = client.predict("demand", ROW)
    assert isinstance(one, Prediction)
    assert one.reason == "ok"
    assert client.outcomes("demand", {"prediction_id": one.prediction_id, "value": 3.0}) == 1
    assert client.outcomes("demand", [{"prediction_id": p.prediction_id, "value": 3.0} for p in answer]) == 2
    assert client.models() == ("demand", "ill", "priced")
    assert client.ready()
    assert client.ready("demand")
    assert "key" not in repr(client)


def test_the_same_from_an_event_loop_many_at_once(server: Served_) -> None:
    async def asked() -> list[float]:
        async with AsyncClient(server.url) as client:
            assert await client.ready()
            assert await client.models() == ("demand", "ill", "priced")
            many = await asyncio.gather(*(client.predict("demand", {"a": float(n), "b": 0.0}) for n in range(50)))
            assert len(await client.predict("demand", [ROW, ROW])) == 2
            assert await client.outcomes("demand", {"prediction_id": many[0].prediction_id, "value": 1.0}) == 1
            with pytest.raises(UnknownError):
                await client.predict("nobody", ROW)
            server.ill.wrong_calls = 1
            assert (await client.predict("ill", ROW)).prediction == 1.0
        with pytest.raises(RefusedError, match="closed"):
            await client.predict("demand", ROW)
        return [one.prediction for one in many]

    assert asyncio.run(asked()) == [float(n) for n in range(50)]


def test_pushed_rows_are_kept_once_and_refused_by_name(client: Client, server: Served_) -> None:
    good, bad = row("k", 2.5), row("l", "cheap")
    told = client.push("shop/sales", [good, bad])
    assert (told.view, told.accepted, told.refused, told.problems[0].row) == ("shop/sales", 1, 1, 1)
    assert "'price'" in told.problems[0].error

    async def again() -> PushAnswer:
        async with AsyncClient(server.url) as caller:
            return await caller.push("sales", good)

    assert asyncio.run(again()) == PushAnswer(view="shop/sales", accepted=0, unchanged=1)


def test_the_client_that_waits_works_inside_an_event_loop_that_runs(client: Client) -> None:
    async def cell() -> float:
        return client.predict("demand", ROW).prediction

    assert asyncio.run(cell()) == 3.0


def test_a_caller_that_stops_the_loop_of_its_own_server_is_told_so() -> None:
    async def cell() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with Client(f"http://127.0.0.1:{port}", timeout_s=0.1) as client:
                client.predict("m", ROW)

    with pytest.raises(UnavailableError, match="await towpath"):
        asyncio.run(cell())


def test_one_client_serves_many_threads(client: Client) -> None:
    found: dict[int, float] = {}

    def ask(n: int) -> None:
        found[n] = client.predict("demand", {"a": float(n), "b": 1.0}).prediction

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: n + 1.0 for n in range(24)}


@pytest.mark.parametrize(
    ("ask", "kind", "said"),
    [
        (lambda c: c.predict("demadn", ROW), UnknownError, "did you mean 'demand'"),
        (lambda c: c.predict("../kill/demand", ROW), UnknownError, "no model"),
        (lambda c: c.predict("demand", {"a": 1.0}), InputError, "'b'"),
        (lambda c: c.predict("demand", [ROW] * 11), TooLargeError, "11 rows"),
        (lambda c: c.predict("demand", []), InputError, "rows"),
        (lambda c: c.predict("demand", {"a": object()}), InputError, "object is no JSON value"),
        (lambda c: c.predict("demand", ROW, request_id="a\nb"), InputError, "printable"),
        (lambda c: c.predict("demand", ROW, timeout_s=0), InputError, "above 0"),
        (lambda c: c.outcomes("demand", {"value": 1.0}), InputError, "prediction_id"),
        (lambda c: c.push("slaes", row()), UnknownError, "did you mean 'sales'"),
        (lambda c: c.push("../kill/demand", row()), InputError, "no name of a view"),
        (lambda c: c.push("../demand", row()), InputError, "no name of a view"),
        (lambda c: c.push("sales", row(price="cheap")), InputError, "'price'"),
        (lambda c: c.push("sales", row(price=object())), InputError, "object is no JSON value"),
    ],
)
def test_what_the_caller_must_mend_is_raised_as_its_class_after_one_try(
    client: Client, server: Served_, ask: Any, kind: type[TowpathError], said: str
) -> None:
    before = server.log.read_text().count("\n")
    with pytest.raises(kind) as raised:
        ask(client)
    assert type(raised.value) is kind
    assert said in str(raised.value)
    assert server.log.read_text().count("\n") - before <= 1


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"address": "host:8080"}, InputError),
        ({"address": "http://me:secret@host"}, InputError),
        ({"address": "http://host", "tries": 0}, InputError),
        ({"address": "http://host", "key": "env:TOWPATH_NO_SUCH"}, ProjectError),
        ({"address": "http://host", "key": "file:/no/such/key"}, ProjectError),
    ],
)
def test_a_client_that_could_never_call_is_not_made(arguments: dict[str, Any], kind: type[TowpathError]) -> None:
    with pytest.raises(kind) as raised:
        Client(**arguments)
    assert "secret" not in str(raised.value)


def test_503_is_tried_again_as_the_same_request_and_healed(client: Client, server: Served_) -> None:
    server.ill.wrong_calls = 1
    began = time.monotonic()
    assert client.predict("ill", ROW, request_id="healed").prediction == 1.0
    assert time.monotonic() - began >= 1.0  # the server said Retry-After: 1
    assert [line["status"] for line in server.lines("healed")] == [503, 200]


def test_503_that_stays_is_raised_when_waiting_would_be_too_long(client: Client, server: Served_) -> None:
    server.ill.wrong_calls = 9
    began = time.monotonic()
    with pytest.raises(ModelError, match="no answer"):
        client.predict("ill", ROW, request_id="stays", timeout_s=0.5)
    assert time.monotonic() - began < 0.5
    assert [line["status"] for line in server.lines("stays")] == [503]
    server.ill.wrong_calls = 0


class Scripted:
    """A peer that does to each connection what it is told, and keeps what it read."""

    def __init__(self, *does: str) -> None:
        self.heads: list[dict[str, str]] = []
        self._does = list(does)
        self._held: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for does in self._does:
            try:
                peer, _ = self._door.accept()
            except OSError:
                return
            text = peer.recv(65_536).decode("latin-1")
            lines = text.partition("\r\n\r\n")[0].split("\r\n")[1:]
            self.heads.append({name.lower(): value for name, _, value in (line.partition(": ") for line in lines)})
            if does == "hang":
                self._held.append(peer)
                continue
            if does.startswith("drip"):
                threading.Thread(target=self._drip, args=(peer, does), daemon=True).start()
                continue
            if does == "reset":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif does != "hang up":
                status, _, body = does.partition(" ")
                head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
                peer.sendall((head + body).encode())
            peer.close()

    def _drip(self, peer: socket.socket, does: str) -> None:
        """Do a little for three seconds, always before a caller would have lost its patience."""
        head = b"HTTP/1.1 200 X\r\ncontent-length: 1000\r\n"
        with peer, contextlib.suppress(OSError):
            peer.sendall(head + b"\r\n" if does == "drip body" else head + b"x-slow: ")
            for _ in range(60):
                time.sleep(0.05)
                if does == "drip reads":
                    peer.recv(1_000)
                else:
                    peer.sendall(b" ")

    def close(self) -> None:
        self._door.close()
        for peer in self._held:
            peer.close()


GOOD = '200 {"model":"m","request_id":"r","predictions":[{"prediction":1,"prediction_id":"p","source":"champion","reason":"new","later":2}]}'


def test_each_try_carries_the_same_id_and_what_is_left_of_the_deadline() -> None:
    # given a server that dies twice, is away behind a proxy once, and then answers with words that are newer than this client
    peer = Scripted("hang up", "reset", "502 <html>", GOOD)
    with Client(peer.url, key="k", timeout_s=8) as client:
        found = client.predict("m", ROW, traceparent="00-abc-def-01")
    assert (found.prediction, found.reason) == (1, "new")
    assert len({head["x-request-id"] for head in peer.heads}) == 1
    left = [int(head["towpath-timeout-ms"]) for head in peer.heads]
    assert left == sorted(left, reverse=True)
    assert len(set(left)) == 4
    assert left[0] <= 8_000
    assert {(head["authorization"], head["traceparent"]) for head in peer.heads} == {("Bearer k", "00-abc-def-01")}
    peer.close()


@pytest.mark.parametrize(
    "does",
    [["hang"], ["hang up"] * 99, ["503 "] * 99, ["drip head"], ["drip body"], ["drip reads"]],
    ids=lambda d: d[0],
)
def test_the_deadline_covers_all_tries_and_every_byte(does: list[str]) -> None:
    rows = [{"a": "x" * 1_000}] * 9_000  # more than the two sockets between us hold

    async def asked(url: str) -> None:
        async with AsyncClient(url, timeout_s=0.5, tries=99) as client:
            await client.predict("m", rows)

    def waited(url: str) -> None:
        with Client(url, timeout_s=0.5, tries=99) as client:
            client.predict("m", rows)

    for ask in (waited, lambda url: asyncio.run(asked(url))):
        peer = Scripted(*does)
        began = time.monotonic()
        with pytest.raises(UnavailableError):
            ask(peer.url)
        assert time.monotonic() - began < 0.9
        peer.close()


@pytest.mark.parametrize(
    ("does", "kind"),
    [
        ("404 <html>", CallerError),
        ("302 ", CallerError),
        ("200 <html>", UnavailableError),
        ("200 {}", UnavailableError),
    ],
)
def test_who_is_no_towpath_server_is_told_so(does: str, kind: type[TowpathError]) -> None:
    peer = Scripted(does)
    with Client(peer.url) as client, pytest.raises(kind, match="Towpath server"):
        client.predict("m", ROW)
    assert len(peer.heads) == 1
    peer.close()


def test_a_server_that_is_gone_is_not_ready_and_cannot_be_reached() -> None:
    with Client("http://127.0.0.1:9", tries=2) as client:
        assert not client.ready()
        with pytest.raises(UnavailableError, match="cannot be reached \\(2 tries\\)") as raised:
            client.predict("m", ROW)
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.retry_after_s) == (str(raised.value), 1.0)
    with pytest.raises(RefusedError, match="closed"):
        client.predict("m", ROW)


def test_keys_quotas_and_a_worker_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a real server with keys
    store = Store(tmp_path)
    store.promote(store.publish(5.0))
    book = ConsumerBook(store.objects, make_pepper(store.keys))
    keys = {
        "all": book.add("all", team="a", at=AT),
        "teller": book.add("teller", team="a", at=AT, scopes=("outcomes",)),
        "few": book.add("few", team="a", at=AT, quota=Quota(requests_per_s=0.5)),
    }
    running = store.server(replace(QUICK, access_log=str(tmp_path / "access.jsonl")))
    running.start()
    url = f"http://127.0.0.1:{running.ports.http}"
    try:
        # then each refusal is its class, and nothing is tried again
        for key, kind in (("", DeniedError), ("tow_no_key", DeniedError), (keys["teller"], ForbiddenError)):
            with Client(url, key=key) as client, pytest.raises(kind):
                client.predict("demand", LEAVES)
        monkeypatch.setenv("FEW_KEY", keys["few"])
        with Client(url, key="env:FEW_KEY") as client:
            client.predict("demand", LEAVES)
            with pytest.raises(QuotaError) as raised:
                client.predict("demand", LEAVES, request_id="too-often")
            assert raised.value.retry_after_s >= 1
        log = [json.loads(line) for line in (tmp_path / "access.jsonl").read_text().splitlines()]
        assert [line["status"] for line in log if line["request_id"] == "too-often"] == [429]
        # and a key from a file follows a rotation
        file = tmp_path / "key"
        file.write_text("tow_old_key\n")
        with Client(url, key=f"file:{file}", timeout_s=20) as client:
            with pytest.raises(DeniedError):
                client.predict("demand", LEAVES)
            file.write_text(keys["all"] + "\n")
            assert client.predict("demand", LEAVES).prediction == pytest.approx(5.0)
            # when the only worker is killed, the call lives to see the next one
            pid = _worker_of(running)
            os.kill(pid, signal.SIGKILL)
            assert client.predict("demand", LEAVES).prediction == pytest.approx(5.0)
            assert _worker_of(running) != pid
    finally:
        running.stop()


def _worker_of(running: Any) -> int:
    import httpx

    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            return int(httpx.get(f"http://127.0.0.1:{running.ports.http}/health").json()["pid"])
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("no worker")


def test_what_a_client_reads_is_what_a_server_writes() -> None:
    pairs = (
        (Prediction, AnswerRow),
        (Answer, SentAnswer),
        (PushAnswer, SentPushAnswer),
        (RefusedRow, features.RefusedRow),
    )
    for ours, theirs in pairs:
        assert [f.name for f in msgspec.structs.fields(ours)] == [f.name for f in msgspec.structs.fields(theirs)]


def test_every_code_is_a_class_of_its_own() -> None:
    assert all(getattr(towpath.errors, kind.__name__) is kind for kind in towpath.errors.by_code().values())
    assert {"input", "unknown", "denied", "quota", "overloaded", "unavailable"} <= set(towpath.errors.by_code())


def test_without_httpx_the_install_line_is_named_and_towpath_itself_loads_nothing() -> None:
    code = """
import sys
import towpath
assert not {"httpx", "msgspec", "towpath.client"} & set(sys.modules)
from towpath import Client, AsyncClient
assert "httpx" not in sys.modules
sys.modules["httpx"] = None
import importlib.util
importlib.util.find_spec = lambda name: None
for kind in (Client, AsyncClient):
    try:
        kind("http://host")
    except towpath.errors.ExtraError as error:
        assert "towpath[client]" in error.mend
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)

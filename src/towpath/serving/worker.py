"""A worker: one process and one event loop that hold the models and both doors, HTTP and gRPC."""

import asyncio
import importlib
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.clock import Clock, SystemClock
from towpath.errors import RefusedError, TowpathError
from towpath.journal import Journal
from towpath.models.manifest import Manifest
from towpath.serving.access import access_log
from towpath.serving.deployment import Deployments
from towpath.serving.heap import Heap
from towpath.serving.http import App
from towpath.serving.limits import can_open, within_files
from towpath.serving.manage import Manager, ManagerDoor
from towpath.serving.metrics import Meter
from towpath.serving.push import Pusher
from towpath.serving.repository import Repository
from towpath.serving.responder import Responder
from towpath.serving.statistics import Statistics
from towpath.serving.tls import tls_of
from towpath.serving.tracing import tracing_of
from towpath.settings import ServingSettings
from towpath.stores.objects import Objects
from towpath.traffic import Consumers, Quotas, SeenWriter, read_pepper

if TYPE_CHECKING:
    import uvicorn

    from towpath.serving.deployments import StoreDeployments
    from towpath.serving.grpc_door import GrpcDoor
    from towpath.serving.served import Reader
    from towpath.stores.online import OnlineStore

__all__ = ["CALL", "Ports", "Worker", "WorkerConfig", "listening", "ready_line"]

_log = logging.getLogger("towpath.serving")
CALL = b"!"
"""What a supervisor says to one that stands by, for it to answer."""
_FINISH_S = 30
"""How long requests in flight may take once nobody new is let in."""
_BACKLOG = 2_048


class Ports(msgspec.Struct, frozen=True):
    """Where a server answers."""

    host: str
    http: int
    grpc: int
    pid: int = 0


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All that a worker needs to know; it crosses to a spawned process."""

    settings: ServingSettings
    ports: Ports
    journal: Path
    """Folder of the workers' own files."""
    objects_url: str = ""
    online_url: str = ""
    online_timeout_ms: int = 20
    """When a read of it is given up."""
    keys: Path = Path()
    """Folder of the public keys that are trusted."""
    pepper: str = ""
    """Where the pepper of consumers' keys is; in the folder of keys unless given."""
    cache: Path = Path()
    """Folder for the files of versions."""
    folder: Path = Path()
    """What relative URLs are relative to."""
    models: tuple[str, ...] = ()
    """Names to serve; all unless given."""
    environment: str = "local"
    clock: Clock = SystemClock()
    slot: int = 0
    workers: int = 1
    metrics: Path | None = None
    """Folder in which workers share their counts."""
    insecure_open: bool = False
    loopback: bool = True
    """Whether only this machine reaches the server."""
    logs: bool = False
    """Whether a spawned worker sends its log to stderr, because its parent sends its own somewhere."""
    reuse_port: bool = False
    standby: bool = False
    """Whether to load everything and then wait to be called."""


class Worker:
    """Serves until it is told to stop.

    Args:
        config: What to serve and where.
        deployments: Of a bare file; those of the object store unless given.
    """

    def __init__(self, config: WorkerConfig, deployments: Deployments | None = None) -> None:
        self._config = config
        self._settings = within_files(config.settings)
        self._following: StoreDeployments | None = None
        self._objects = Objects(config.objects_url, config.folder) if config.objects_url else None
        # without a store, and so without consumers, everybody on loopback is the consumer `local`
        self._consumers = Consumers() if deployments is not None else self._known_consumers()
        self._tls = tls_of(self._settings.tls_cert, self._settings.tls_key, config.folder)
        self._access = access_log(self._settings.access_log, config.folder, config.clock)
        self._polling = threading.Lock()
        self._heap = Heap()
        self._online: OnlineStore | None = None
        self._stop = asyncio.Event()
        self._called = asyncio.Event()
        if not config.standby:
            self._called.set()
        self._draining = False
        self._proven = deployments is not None
        if deployments is None:
            deployments = self._following = self._followed()
        self._deployments = deployments
        self._meter = Meter(config.metrics, config.slot)
        self._journal = Journal(
            config.journal,
            server=f"{socket.gethostname()}-{config.slot}",
            budget_bytes=self._settings.journal_budget_mib << 20,
            clock=config.clock,
            roll_s=self._settings.flush_s,
        )
        self._statistics = Statistics(config.metrics, config.slot, clock=config.clock)
        self._tracing = tracing_of(
            self._settings.traces, server=f"{socket.gethostname()}-{config.slot}", tls=self._tls is not None
        )
        if self._tracing is not None:
            self._tracing.with_answers(self._statistics)
        self._responder = Responder(
            deployments,
            clock=config.clock,
            journal=self._journal,
            beside=self._journal,
            meter=self._meter,
            server=f"{socket.gethostname()}-{config.slot}",
            environment=config.environment,
        )

    @property
    def ready(self) -> bool:
        """Whether callers should come: proven, not draining, no model hangs in all of its threads, one can answer, files can be opened."""
        return self._proven and not self._draining and not self._stuck and self._able and can_open()

    @property
    def _door(self) -> ManagerDoor:
        """Who may manage; repository calls over gRPC ask it, too."""
        return ManagerDoor(self._consumers, loopback=self._config.loopback)

    @property
    def _manager(self) -> Manager | None:
        if self._objects is None or self._following is None:
            return None
        return Manager(self._objects, self._config.clock, self._poll)

    @property
    def _able(self) -> bool:
        """Whether any model has somebody who answers; false where no signature is trusted. A store without models is no fault."""
        live = self._deployments.live.values()
        return not live or any(one.ready or one.chain for one in live)

    @property
    def says(self) -> Mapping[str, Any]:
        """State of the worker and of each model."""
        state = "draining" if self._draining else "stuck" if self._stuck else "ready" if self._proven else "starting"
        if state == "ready" and not self._able:
            state = "no model can answer"
        if state == "ready" and not can_open():
            state = "no file can be opened"
        models = {
            name: {
                "ready": one.ready,
                "champion": one.policy.state.champion,
                "revision": one.revision,
                "problem": one.problem,
                "circuits": {
                    str(number): served.breaker.state + (f" ({served.breaker.why})" if served.breaker.why else "")
                    for number, served in one.versions.items()
                },
                "forms": {str(number): served.form for number, served in one.versions.items()},
                "processes": {
                    str(number): served.process for number, served in one.versions.items() if served.process is not None
                },
            }
            for name, one in self._deployments.live.items()
        }
        return {"status": state, "models": models, "insecure_open": self._config.insecure_open, "pid": os.getpid()}

    @property
    def exit_code(self) -> int:
        """0, or 3 where the supervisor should put another in its place because calls hang in this one."""
        return 3 if self._stuck else 0

    def measure(self, meter: Meter) -> None:
        """Note gauges before they are scraped."""
        live = self._deployments.live
        lanes = [lane for one in live.values() for served in one.versions.values() for lane in served.lanes]
        known: set[tuple[str, str]] = set()
        for name, one in live.items():
            champion = one.policy.state.champion
            meter.model(name, project=one.project, team=one.team, tier=one.tier, champion=champion, ready=one.ready)
            for number, served in one.versions.items():
                known.add((name, str(number)))
                breaker, lane = served.breaker, served.lane
                meter.version(
                    name,
                    number,
                    form=served.form,
                    closed=breaker.state == "closed",
                    changes=breaker.changes,
                    waiting_rows=lane.waiting_rows,
                    waiting_s=lane.wait_s,
                )
                if (process := served.process) is not None:
                    meter.process(name, number, up=process["state"] == "answering", restarts=process["restarts"])
        meter.only(known)
        meter.worker(ready=self.ready)
        meter.state(dropped=self._journal.dropped, abandoned=sum(lane.abandoned for lane in lanes))

    def stop(self) -> None:
        """Begin to drain; from the event loop's own thread."""
        self._stop.set()

    def run(
        self,
        on_ready: Callable[[Ports], None],
        *,
        until_eof: bool = False,
        alive: Callable[[], None] | None = None,
    ) -> int:
        """Serve until SIGTERM, SIGINT, `stop`, or, with `until_eof`, until the supervisor's end of stdin closes.

        Args:
            on_ready: Told the ports.
            until_eof: Whether stdin is the supervisor's.
            alive: Called each second by the event loop, for whoever watches that it does not stand still.

        Returns:
            The exit code.
        """
        import uvloop

        self._heap.take_turns()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self.serve(on_ready, until_eof=until_eof, alive=alive))
        return self.exit_code

    async def serve(
        self,
        on_ready: Callable[[Ports], None],
        *,
        until_eof: bool = False,
        alive: Callable[[], None] | None = None,
    ) -> None:
        """Serve in the running event loop; see `run`."""
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
        if until_eof:
            loop.add_reader(0, self._on_supervisor)
        # its messages take some time to make, which a thread spends while HTTP comes up
        imported = loop.run_in_executor(None, _import_grpc)
        if self._following is not None:
            await loop.run_in_executor(None, self._poll)
        meanwhile = [asyncio.create_task(task) for task in self._meanwhile(alive)]
        if not self._called.is_set():
            await imported
            self._heap.settle()
            on_ready(Ports(self._config.ports.host, 0, 0, os.getpid()))
        if await self._awoken():
            await self._answer(on_ready, imported)
        for task in meanwhile:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._let_go()

    async def _awoken(self) -> bool:
        """Whether this worker is to answer; one that stands by waits here until it is called, or told to stop."""
        if not self._called.is_set():
            waits = [asyncio.create_task(one.wait()) for one in (self._called, self._stop)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in waits:
                one.cancel()
        return self._called.is_set() and not self._stop.is_set()

    async def _answer(self, on_ready: Callable[[Ports], None], imported: "asyncio.Future[None]") -> None:
        """Open both doors, answer until the worker is told to stop, and drain."""
        http, listener = self._http()
        # bound before anybody is answered: a gRPC client that is refused at the start waits 100 ms before it tries again
        ports = self._config.ports
        grpc_listener = listening(ports.host, ports.grpc, reuse=self._config.reuse_port, option="--grpc-port")
        grpc_listener.listen(_BACKLOG)
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        while not http.started and not serving.done():  # noqa: ASYNC110 - uvicorn has a flag, no event
            await asyncio.sleep(0.001)
        await imported
        grpc_server, closing = await self._grpc(grpc_listener)
        ports = Ports(ports.host, listener.getsockname()[1], grpc_listener.getsockname()[1], os.getpid())
        self._heap.settle()
        on_ready(ports)
        await self._stop.wait()
        self._draining = True
        # answers say it from now on, so that callers leave connections they keep: later one is closed under what they send on it
        http.config.encoded_headers = http.server_state.default_headers = [(b"connection", b"close")]
        await asyncio.sleep(self._settings.drain_ms / 1e3)
        http.should_exit = True
        closing.set()
        await asyncio.gather(serving, grpc_server.stop(_FINISH_S))

    async def _let_go(self) -> None:
        """Give back everything; what was written last is flushed."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._consumers.close, self._config.clock.now())
        if self._tracing is not None:
            await loop.run_in_executor(None, self._tracing.close)
        if self._following is not None:
            self._following.close()
        for deployment in self._deployments.live.values():
            deployment.close()
        self._journal.close()
        if self._online is not None:
            self._online.close()

    def _known_consumers(self) -> Consumers:
        """Of the store; the workers of one server share their quotas."""
        config, objects = self._config, self._objects
        if objects is None:
            return Consumers()
        return Consumers(
            objects,
            pepper=partial(read_pepper, config.pepper, config.keys, config.folder),
            quotas=Quotas(config.metrics / "quotas.bin" if config.metrics is not None else None),
            quota_share=self._settings.quota_share,
            seen=SeenWriter(objects, f"{socket.gethostname()}-{config.slot}"),
        )

    def _followed(self) -> "StoreDeployments":
        from towpath.registry.signing import Trusted
        from towpath.serving.deployments import StoreDeployments

        if self._objects is None:
            raise RefusedError("There is nothing to serve.", mend="tow serve FILE, or tow serve --store URL")
        return StoreDeployments(
            self._objects,
            cache=self._config.cache,
            trusted=Trusted(self._config.keys),
            open_reader=self._reader,
            clock=self._config.clock,
            only=self._config.models,
            heap=self._heap,
            shared=self._config.metrics,
        )

    def _reader(self, manifest: Manifest) -> "Reader":
        from towpath.features import OnlineReader

        return OnlineReader(
            self._opened(),
            manifest.features,
            manifest.project,
            away=lambda _: self._meter.without_features(manifest.model),
        )

    def _opened(self) -> "OnlineStore":
        """The online store, opened when it is first needed."""
        from towpath.stores.online import open_online
        from towpath.stores.online.guarded import GuardedOnlineStore

        if self._online is None:
            timeout_ms = self._config.online_timeout_ms
            self._online = GuardedOnlineStore(
                open_online(self._config.online_url, self._config.folder, timeout_ms=timeout_ms)
            )
        return self._online

    def _poll(self) -> None:
        """Follow the registry log and the consumers; a store that is away changes nothing."""
        if self._tls is not None:
            self._tls.follow()
        following = self._following
        if following is None:
            return
        with self._polling:  # a kill that came over the wire is followed at once, by another thread
            try:
                following.poll(patient=not self._proven)
                self._consumers.refresh(self._config.clock.now())
            except TowpathError as error:
                _log.warning("the store was not read: %s", error)
            else:
                self._proven = True
            self._statistics.write(following.live)

    def _meanwhile(self, alive: Callable[[], None] | None) -> "Iterator[Coroutine[Any, Any, None]]":
        """What goes on beside the requests."""
        if self._following is not None or self._tls is not None:
            yield self._keep_following()
        if self._following is not None and self._settings.prove_s:
            yield self._keep_proving(self._following)
        if alive is not None:
            yield _every_second(alive)

    async def _keep_proving(self, following: "StoreDeployments") -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.prove_s)
            try:
                await loop.run_in_executor(None, following.prove_again)
            except Exception:  # noqa: BLE001 - the edge: the next turn tries again
                _log.exception("golden cases were not replayed")

    async def _keep_following(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.poll_ms / 1e3)
            try:
                await loop.run_in_executor(None, self._poll)
            except Exception:  # noqa: BLE001 - the edge: whatever it was, the next turn tries again
                _log.exception("following the registry failed")
            if self._called.is_set():
                self.measure(self._meter)  # whoever is scraped adds up the workers, and the others are not asked then
            if self._stuck and self._config.workers:
                _log.error("calls hang; this worker drains and is replaced")
                self.stop()

    @property
    def _stuck(self) -> bool:
        return any(served.stuck for one in self._deployments.live.values() for served in one.versions.values())

    def _http(self) -> "tuple[uvicorn.Server, socket.socket]":
        import uvicorn

        from towpath.serving.shortway import ShortWayProtocol

        class QuietServer(uvicorn.Server):
            """Signals are the worker's, which drains first."""

            @contextmanager
            def capture_signals(self) -> Generator[None]:
                yield

        app = App(
            self._responder,
            consumers=self._consumers,
            health=self,
            meter=self._meter,
            settings=self._settings,
            outcomes=self._journal,
            pusher=Pusher(self._opened, self._journal, self._config.clock, self._meter)
            if self._config.online_url
            else None,
            manager=self._manager,
            door=self._door,
            statistics=self._statistics,
            access=self._access,
            clock=self._config.clock,
            insecure_open=self._config.insecure_open,
        )
        if self._tracing is not None:
            self._tracing.over_http(app)
        config = uvicorn.Config(
            app,  # pyright: ignore[reportArgumentType] - a plain mapping of ours is an ASGI scope
            http=ShortWayProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_FINISH_S,
            backlog=_BACKLOG,
        )
        config.load()
        if self._tls is not None:
            config.ssl = self._tls.context
        return QuietServer(config), listening(
            self._config.ports.host, self._config.ports.http, reuse=self._config.reuse_port
        )

    async def _grpc(self, listener: socket.socket) -> "tuple[GrpcDoor, asyncio.Event]":
        from towpath.serving.grpc import GrpcService
        from towpath.serving.grpc_door import GrpcDoor

        service = GrpcService(
            self._responder,
            consumers=self._consumers,
            health=self,
            meter=self._meter,
            statistics=self._statistics,
            repository=Repository(self._door, self._manager),
            settings=self._settings,
            access=self._access,
            insecure_open=self._config.insecure_open,
        )
        if self._tracing is not None:
            self._tracing.over_grpc(service)
        door = GrpcDoor(service.methods(), self._settings)
        await door.start(listener, tls=None if self._tls is None else self._tls.grpc_context, backlog=_BACKLOG)
        return door, service.closing

    def _on_supervisor(self) -> None:
        """It calls this worker, or it is gone."""
        if os.read(0, 1):
            self._called.set()
        else:
            asyncio.get_running_loop().remove_reader(0)
            self.stop()


def listening(host: str, port: int, *, reuse: bool, option: str = "--port") -> socket.socket:
    """A bound TCP socket.

    Args:
        host: Address or name.
        port: 0 takes a free one.
        reuse: Whether other sockets may share the port, as the workers of one server do.
        option: Of the command, in what is said where it is taken.

    Raises:
        RefusedError: Somebody else has the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise _taken(host, port, option) from error
    made.setblocking(False)
    return made


def _taken(host: str, port: int, option: str) -> RefusedError:
    return RefusedError(
        f"{host}:{port} is taken, or not an address of this machine.", mend=f"{option} 0 takes a free one"
    )


async def _every_second(told: Callable[[], None]) -> None:
    while True:
        told()
        await asyncio.sleep(1)


def _import_grpc() -> None:

    importlib.import_module("towpath.serving.grpc").messages()


def ready_line(ports: Ports) -> bytes:
    """What a spawned worker tells its supervisor."""
    return json.dumps({"http": ports.http, "grpc": ports.grpc, "pid": ports.pid}).encode() + b"\n"

"""Two ways to serve: the models of an object store, or one bare model file."""

import ipaddress
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from towpath.clock import Clock, SystemClock
from towpath.errors import InputError, ProjectError, RefusedError
from towpath.models.manifest import Artefact, Manifest, StoredFile
from towpath.project.declarations import OutputDeclaration, ServingDeclaration
from towpath.registry.log import TrafficState
from towpath.serving.deployment import Deployment
from towpath.serving.joint import rows_worth_joining
from towpath.serving.served import Served
from towpath.serving.tls import tls_of
from towpath.serving.worker import Ports, Worker, WorkerConfig
from towpath.settings import ServingSettings
from towpath.stores.objects import Objects
from towpath.traffic import Consumers, Policy, read_pepper

if TYPE_CHECKING:
    from towpath.serving.supervisor import Supervisor

__all__ = ["bare_deployment", "is_loopback", "refuse_open_door", "serve_file", "serve_store", "store_server"]

_log = logging.getLogger("towpath.serving")
_NAME_LENGTH = 63
_TIMEOUT_S = 30.0
"""Of a bare file, which declares none."""


def store_server(
    settings: ServingSettings,
    *,
    objects_url: str,
    online_url: str,
    online_timeout_ms: int = 20,
    keys: Path,
    folder: Path,
    pepper: str = "",
    state: Path | None = None,
    environment: str = "local",
    models: Sequence[str] = (),
    insecure_open: bool = False,
    clock: Clock | None = None,
) -> "Supervisor":
    """Make a server of all models of an object store; used as a context manager it starts and stops.

    Args:
        settings: Host, ports, workers, limits.
        objects_url: The fleet's object store.
        online_url: The online store.
        online_timeout_ms: When a read of it is given up, and features count as missing.
        keys: Folder of the public keys that are trusted.
        folder: What relative URLs and ``settings.journal`` are relative to.
        pepper: Where the pepper of consumers' keys is (``env:NAME``, ``file:PATH``); in the folder of keys unless given.
        state: Folder for caches of this host; ``.towpath/serving`` of `folder` unless given.
        environment: Stands in the journal.
        models: Names to serve; all unless given.
        insecure_open: Whether a host beyond loopback may be bound without keys.
        clock: The system's unless given.

    Raises:
        RefusedError: The host is beyond loopback and there are no consumers, or their keys cannot be recognised here; or this
            is native Windows.
        ProjectError: The certificate for TLS cannot be used.
    """
    from towpath.serving.supervisor import Flusher, Supervisor

    _refuse_windows()
    clock = clock or SystemClock()
    folder = folder.resolve()
    state = (state or folder / ".towpath" / "serving").resolve()
    objects = Objects(objects_url, folder)
    consumers = Consumers(objects, pepper=read_pepper(pepper, keys, folder))
    consumers.refresh(clock.now())
    consumers.check_pepper()
    refuse_open_door(settings.host, keyed=consumers.keyed, insecure_open=insecure_open)
    secure = tls_of(settings.tls_cert, settings.tls_key, folder) is not None
    if consumers.keyed and not secure and not is_loopback(settings.host):
        _log.warning("keys come in the clear: set serving.tls_cert, unless an ingress before this server ends TLS")
    journal = folder / settings.journal
    metrics = state / f"metrics-{os.getpid()}"  # also for one worker: the one that replaces it goes on counting
    try:
        metrics.mkdir(parents=True, exist_ok=True)
        for stale in metrics.iterdir():  # of a process that had our number before us
            stale.unlink()
    except OSError as error:
        raise ProjectError(
            f"The server cannot write its state: {error.strerror}.", str(state), "--state DIRECTORY"
        ) from error
    config = WorkerConfig(
        settings=settings,
        ports=Ports(settings.host, settings.port, settings.grpc_port),
        journal=journal,
        objects_url=objects_url,
        online_url=online_url,
        online_timeout_ms=online_timeout_ms,
        keys=keys,
        pepper=pepper,
        cache=state / "versions",
        folder=folder,
        models=tuple(models),
        environment=environment,
        clock=clock,
        workers=settings.workers,
        metrics=metrics,
        insecure_open=insecure_open,
        loopback=is_loopback(settings.host),
        logs=bool(logging.getLogger().handlers),
    )
    return Supervisor(config, flusher=Flusher(journal, objects, clock=clock, every_s=settings.flush_s))


def serve_store(
    settings: ServingSettings,
    *,
    objects_url: str,
    online_url: str,
    online_timeout_ms: int = 20,
    keys: Path,
    folder: Path,
    pepper: str = "",
    state: Path | None = None,
    environment: str = "local",
    models: Sequence[str] = (),
    insecure_open: bool = False,
    clock: Clock | None = None,
    on_ready: Callable[[Ports], None] | None = None,
) -> int:
    """Serve the models of an object store until SIGTERM or SIGINT; see `store_server`.

    Returns:
        The exit code: 0 after a drain.
    """
    from towpath.serving.supervisor import told_to_stop

    server = store_server(
        settings,
        objects_url=objects_url,
        online_url=online_url,
        online_timeout_ms=online_timeout_ms,
        keys=keys,
        folder=folder,
        pepper=pepper,
        state=state,
        environment=environment,
        models=models,
        insecure_open=insecure_open,
        clock=clock,
    )
    with told_to_stop() as asked:
        ports = server.start(asked)
        if on_ready is not None and not asked.is_set():
            on_ready(ports)
        return server.wait(asked)


def serve_file(
    path: Path,
    *,
    settings: ServingSettings | None = None,
    name: str = "",
    trust_pickle: bool = False,
    compile: Literal["onnx"] | None = None,  # noqa: A002 - as the option is called
    state: Path | None = None,
    insecure_open: bool = False,
    clock: Clock | None = None,
    on_ready: Callable[[Ports], None] | None = None,
    on_state: Callable[[Path], None] | None = None,
) -> int:
    """Serve one bare model file in this process until SIGTERM or SIGINT.

    Args:
        path: The file, or the folder that a framework wrote; its format is told from its bytes.
        settings: Host, ports, limits.
        name: What it is called; the file's stem unless given.
        trust_pickle: Whether a pickle may be loaded, which runs its code; loopback only.
        compile: ``onnx`` serves its ONNX form, where that answers the same.
        state: Folder for journal and objects; a temporary one unless given. Nothing is made beside the file.
        insecure_open: Whether a host beyond loopback may be bound.
        clock: The system's unless given.
        on_ready: Told the ports.
        on_state: Told the folder of the state.

    Returns:
        The exit code: 0 after a drain.

    Raises:
        FormatError: The bytes are of no format that is known, or damaged.
        RefusedError: A pickle without trust, or beyond loopback.
    """
    _refuse_windows()
    # one row is quickest on one thread; read by the frameworks when they are imported, which happens below
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    settings = settings or ServingSettings()
    clock = clock or SystemClock()
    if trust_pickle and not is_loopback(settings.host):
        raise RefusedError(
            f"A trusted pickle is served on loopback only, not on '{settings.host}'.",
            mend="leave --host out, or convert it",
        )
    refuse_open_door(settings.host, keyed=False, insecure_open=insecure_open)
    deployment = bare_deployment(path, name=name, trust_pickle=trust_pickle, clock=clock, compile=compile)
    state = Path(tempfile.mkdtemp(prefix=f"towpath-{deployment.model}-")) if state is None else state.resolve()
    if on_state is not None:
        on_state(state)
    from towpath.serving.deployments import Fixed
    from towpath.serving.flusher import FlusherProcess

    config = WorkerConfig(
        settings=settings,
        ports=Ports(settings.host, settings.port, settings.grpc_port),
        journal=state / "journal",
        objects_url=str(state / "objects"),
        folder=Path.cwd(),
        clock=clock,
        workers=0,
        insecure_open=insecure_open,
        loopback=is_loopback(settings.host),
    )
    worker = Worker(config, Fixed(deployment))
    flusher = FlusherProcess(config.journal, config.objects_url, every_s=settings.flush_s)

    def ready(ports: Ports) -> None:
        flusher.start()
        if on_ready is not None:
            on_ready(ports)

    code = worker.run(ready)
    flusher.stop()
    return code


def bare_deployment(
    path: Path,
    *,
    name: str,
    trust_pickle: bool,
    clock: Clock,
    compile: Literal["onnx"] | None = None,  # noqa: A002 - as the option is called
) -> Deployment:
    """A deployment of one file, as version 1 of a model of project ``local``.

    Raises:
        FormatError: The bytes are of no format that is known, or damaged.
        InputError: The file is not there, or its stem is no name and none was given.
    """
    from towpath.apart import PICKLES, Remote, open_file
    from towpath.models import compile_file, load_file, sniff
    from towpath.models.folders import digest_of, size_of

    if not path.exists():
        raise InputError(f"There is no file '{path}'.", mend="tow serve FILE")
    name = name or _name_from(path)
    told = sniff(path).format
    if told == "remote":
        model = Remote(path, name=name, own_s=_TIMEOUT_S)
    elif trust_pickle and told in {*PICKLES, "mlflow"}:
        model = open_file(path, name=name, own_s=_TIMEOUT_S)
    else:
        model = load_file(path, name=name)
    own = model
    if compile is not None:
        model = compile_file(own, path, name=name)
    manifest = Manifest(
        project="local",
        team="local",
        model=name,
        version=1,
        created_at=clock.now(),
        created_by="tow serve",
        owner="local",
        artefact=Artefact(
            file=StoredFile(path=path.name, digest=digest_of(path), size_bytes=size_of(path)),
            format=own.format,
            framework=own.framework,
        ),
        signature=model.signature,
        output=OutputDeclaration(kind=model.kind),
        serving=ServingDeclaration(timeout_ms=round(_TIMEOUT_S * 1e3), compile=compile),
    )
    served = Served(manifest, model)
    served.join(rows_worth_joining(served))
    return Deployment(
        model=name,
        project="local",
        team="local",
        tier="standard",
        policy=Policy(TrafficState(champion=1), name),
        versions={1: served},
        chain=(),
    )


def refuse_open_door(host: str, *, keyed: bool, insecure_open: bool) -> None:
    """Refuse to bind beyond loopback where anybody could call.

    Raises:
        RefusedError: The host is beyond loopback, there are no consumers with keys, and nobody said ``--insecure-open``.
    """
    if is_loopback(host) or keyed or insecure_open:
        return
    raise RefusedError(
        f"'{host}' is beyond loopback and there are no consumers with keys: anybody who reaches it could call.",
        where="serving.host",
        mend="tow consumers add NAME, or say --insecure-open",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on that host.

    Example:
        >>> is_loopback("::1"), is_loopback("0.0.0.0")
        (True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_from(path: Path) -> str:
    """The file's stem as a name: lower case, everything else an underscore."""
    text = "".join(c if c.isascii() and c.isalnum() else "_" for c in path.name.split(".")[0].lower()).strip("_")
    if not text or not text[0].isalpha():
        text = f"model_{text}".rstrip("_")
    return text[:_NAME_LENGTH]


def _refuse_windows() -> None:
    if sys.platform == "win32":
        raise RefusedError("Native Windows cannot serve: it has no SO_REUSEPORT and no uvloop.", mend="use WSL")

"""What can be configured, with units and bounds; where each value came from is never hidden."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from towpath.errors import ProjectError, nearest
from towpath.types import Dialect, Name

__all__ = [
    "AlertSettings",
    "ClockSettings",
    "ConsoleSettings",
    "ProjectSettings",
    "ServingSettings",
    "Settings",
    "StoreSettings",
    "WarehouseSettings",
    "load",
    "masked",
    "secret",
    "without_project",
]

_PREFIX = "TOWPATH__"
Table = Mapping[str, object]


class ProjectSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose project this is."""

    name: Name
    """Unique in the fleet; stands in every manifest, journal row and metric label."""
    team: Annotated[str, Meta(min_length=1, max_length=100)] = "unknown"
    """Who answers for the project's models."""


class WarehouseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the tables are that feature and training SQL reads."""

    url: str = "duckdb://warehouse"
    """The scheme picks the engine: ``duckdb://FOLDER`` with ``<schema>/<table>.parquet``, ``postgresql://USER@HOST/DATABASE``,
    ``snowflake://USER@ACCOUNT/DATABASE/SCHEMA?warehouse=W`` or ``bigquery://PROJECT/DATASET``; ``env:NAME`` or ``file:PATH`` keeps a password out of this file."""
    dialect: Dialect = "duckdb"
    """Whose SQL views and ``training.sql`` are written in where their headers do not say: DuckDB's, which is translated to each
    engine, or that of the one engine that runs it."""
    tables: dict[str, str] = {}
    """For duckdb, tables that lie elsewhere: ``"sales.lines" = "path or glob"``; ``{TOWPATH_DATA}`` stands for that variable's folder."""
    memory_mib: Annotated[int, Meta(ge=64, le=1_048_576)] = 2_048
    """The most that one query may use before it spills to disk; of a PostgreSQL an eighth is asked for as ``work_mem``."""
    threads: Annotated[int, Meta(ge=1, le=256)] = 2
    """Threads of one query; in PostgreSQL one, and the rest as parallel workers."""


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where state lives: one object store is one environment of one fleet."""

    objects: str = ".towpath/objects"
    """A folder, or a URL such as ``s3://bucket/prefix``."""
    online: str = "lmdb://.towpath/online"
    """The scheme picks the engine: lmdb for one machine; redis or valkey, with TLS rediss or valkeys, for many."""
    catalog: str = "sqlite:///.towpath/catalog.db"
    """What people look at; can be rebuilt from the objects it indexes."""
    online_timeout_ms: Annotated[int, Meta(ge=1, le=1_000)] = 20
    """After this a read for a model is given up, and its features count as missing."""
    keys: str = ".towpath/keys"
    """Folder of the signing key and of the public keys that are trusted."""
    pepper: str = ""
    """The secret that consumers' keys are hashed with: ``env:NAME`` or ``file:PATH``; the file ``pepper`` in the folder of keys
    unless given. Every server needs the same one."""


class ServingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How models are served."""

    host: str = "127.0.0.1"
    """Beyond loopback it needs consumer keys, or ``--insecure-open``."""
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    """HTTP; 0 takes a free one."""
    grpc_port: Annotated[int, Meta(ge=0, le=65_535)] = 8081
    """gRPC; 0 takes a free one."""
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    """Processes that answer, each with its own copy of the models."""
    standby: bool = False
    """Whether one more process loads all models and waits: a worker that dies is then replaced at once, however long its
    framework takes to import. It takes the memory of one more worker."""
    max_body_bytes: Annotated[int, Meta(ge=1_024, le=1_073_741_824)] = 16_777_216
    """A larger request is refused with 413 before it is read."""
    max_rows: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Rows of one request."""
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 4_096
    """HTTP connections of one worker; whoever comes beyond is told 503."""
    max_header_bytes: Annotated[int, Meta(ge=1_024, le=1_048_576)] = 32_768
    """Path and headers of a request, and gRPC metadata; beyond it 431."""
    max_headers: Annotated[int, Meta(ge=8, le=10_000)] = 100
    """Headers of a request; beyond it 431."""
    max_streams: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """gRPC calls that one connection may have open at once; further ones wait at the caller."""
    header_timeout_s: Annotated[float, Meta(ge=0.1, le=3_600)] = 10.0
    """A head that takes longer is given up with 408; also how long a slow body is borne before its speed is measured."""
    min_body_bytes_per_s: Annotated[int, Meta(ge=0, le=1_073_741_824)] = 1_000
    """A body that comes slower is given up with 408; 0 waits for ever."""
    idle_timeout_s: Annotated[float, Meta(ge=1, le=86_400)] = 75.0
    """A connection without a request, or whose caller does not read its answer, is closed after so long."""
    quota_share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Part of each consumer's quota that this server grants; 0.25 behind a balancer over four."""
    tls_cert: str = ""
    """PEM file of the certificate and its chain: HTTP and gRPC then speak TLS only. A renewed file is taken up by itself."""
    tls_key: str = ""
    """PEM file of the certificate's private key, without a password; the certificate's own file unless given."""
    access_log: str = ""
    """One JSON line a request to ``stderr`` or to a file; empty for none. Never a body, a key, a query or a header."""
    traces: str = ""
    """Where spans of requests go: the URL of a receiver of OTLP over HTTP, or ``otlp`` for what the ``OTEL_…`` variables say; empty
    for nowhere. Needs the extra ``otel``."""
    poll_ms: Annotated[int, Meta(ge=50, le=60_000)] = 500
    """How often promotions and kill switches are looked for."""
    prove_s: Annotated[int, Meta(ge=0, le=86_400)] = 60
    """How often each version replays its golden cases while it serves; one that fails them answers nobody. 0 for never."""
    stall_s: Annotated[float, Meta(ge=1, le=600)] = 10.0
    """A worker whose event loop stands still for so long is killed and replaced: code in C that keeps the interpreter's lock
    stops everything in its process, health and deadlines too."""
    drain_ms: Annotated[int, Meta(ge=0, le=600_000)] = 300
    """Time between "not ready" and "no more connections" after SIGTERM."""
    journal: str = ".towpath/journal"
    """Folder of the workers' own append-only files, before they are flushed."""
    journal_budget_mib: Annotated[int, Meta(ge=1, le=1_048_576)] = 1_024
    """Disk that unflushed files may take; beyond it records are dropped by tier and counted."""
    flush_s: Annotated[float, Meta(ge=0.1, le=3_600)] = 5.0
    """How often closed journal files become Parquet."""


class AlertSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where incidents are sent."""

    urls: tuple[str, ...] = ()
    """Addresses in Apprise's form; ``env:NAME`` or ``file:PATH`` keeps a secret out of this file."""


class ConsoleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The pages that people look at."""

    host: str = "127.0.0.1"
    """Loopback unless said otherwise."""
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8090
    """HTTP; 0 takes a free one."""


class ClockSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A simulated time, for demos and rehearsals on a store of their own."""

    file: str = ""
    """A file that says what time it is, see `towpath.clock.SteppedClock`; the machine's own time unless given."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of ``towpath.toml``, with the environment's overrides applied."""

    project: ProjectSettings
    """Name and team."""
    warehouse: WarehouseSettings = WarehouseSettings()
    """Tables."""
    stores: StoreSettings = StoreSettings()
    """State."""
    serving: ServingSettings = ServingSettings()
    """Answers."""
    alerts: AlertSettings = AlertSettings()
    """Messages to people."""
    console: ConsoleSettings = ConsoleSettings()
    """Pages."""
    clock: ClockSettings = ClockSettings()
    """Time, where it is simulated."""
    environment: str = "local"
    """Which ``[environments.<name>]`` table was laid over the rest; ``TOWPATH_ENV`` picks it."""


def load(folder: Path, variables: Mapping[str, str] | None = None) -> Settings:
    """Read ``towpath.toml``, lay the chosen environment over it, and the ``TOWPATH__SECTION__KEY`` variables over both.

    Args:
        folder: The project folder.
        variables: The process environment; `os.environ` unless given.

    Raises:
        ProjectError: The file is missing or no TOML, or a key or variable is unknown or out of bounds.
    """
    variables = os.environ if variables is None else variables
    path = folder / "towpath.toml"
    try:
        raw = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ProjectError(
            f"There is no project in '{folder}'.", str(path), "tow init, or cd into a project folder"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(
            "'towpath.toml' is no TOML.", str(path), "mend the line", [f"towpath.toml: {error}"]
        ) from error
    except OSError as error:
        raise ProjectError(
            f"'towpath.toml' cannot be read: {error.strerror}.", str(path), "check the path and its rights"
        ) from error
    environments = raw.pop("environments", {})
    chosen = variables.get("TOWPATH_ENV", "local")
    if chosen not in environments and chosen != "local":
        raise ProjectError(
            f"There is no environment '{chosen}'{nearest(chosen, environments)}",
            f"{path}, [environments]",
            "set TOWPATH_ENV to one of them",
        )
    raw = _laid_over(raw, environments.get(chosen, {})) | {"environment": chosen}
    raw = _laid_over(raw, _from_variables(variables))
    return _converted(raw, str(path))


def without_project(variables: Mapping[str, str] | None = None) -> Settings:
    """The settings of a server that has no project folder: defaults, and the ``TOWPATH__SECTION__KEY`` variables over them.

    Args:
        variables: The process environment; `os.environ` unless given.

    Raises:
        ProjectError: A variable is unknown or out of bounds.

    Example:
        >>> without_project({"TOWPATH__SERVING__WORKERS": "4"}).serving.workers
        4
    """
    variables = os.environ if variables is None else variables
    raw = {"project": {"name": "local"}, "environment": variables.get("TOWPATH_ENV", "local")}
    return _converted(_laid_over(raw, _from_variables(variables)), "the environment")


def masked(url: str) -> str:
    """The URL with its password hidden, for logs and pages.

    Example:
        >>> masked("redis://app:hunter2@db:6379/0")
        'redis://app:***@db:6379/0'
    """
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rsplit("@", 1)[1]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def secret(value: str, folder: Path, variables: Mapping[str, str] | None = None) -> str:
    """Resolve ``env:NAME`` and ``file:PATH``; anything else is the value itself.

    Args:
        value: Of a setting.
        folder: What a relative path stands in.
        variables: The process environment unless given.

    Raises:
        ProjectError: The variable is not set or the file cannot be read; the value itself is never in the text.
    """
    variables = os.environ if variables is None else variables
    scheme, _, rest = value.partition(":")
    if scheme == "env":
        if rest not in variables:
            raise ProjectError(f"The variable '{rest}' is not set.", value, f"export {rest}=…")
        return variables[rest]
    if scheme == "file" and not rest.startswith("//"):
        try:
            return (folder / rest).read_text("utf-8").strip()
        except OSError as error:
            raise ProjectError(
                f"The file '{rest}' cannot be read: {error.strerror}.", value, "check the path and its rights"
            ) from error
    return value


def _converted(raw: Mapping[str, object], where: str) -> Settings:
    try:
        return msgspec.convert(raw, Settings, strict=False)
    except msgspec.ValidationError as error:
        known = [f.name for f in msgspec.structs.fields(Settings)]
        raise ProjectError(
            "The settings are wrong.", where, f"sections are {', '.join(known)}", [f"towpath.toml: {error}"]
        ) from error


def _from_variables(variables: Mapping[str, str]) -> dict[str, object]:
    """``TOWPATH__SERVING__PORT=9000`` becomes ``{"serving": {"port": "9000"}}``; an unknown one is refused."""
    sections = {f.name: f.type for f in msgspec.structs.fields(Settings) if f.name != "environment"}
    found: dict[str, dict[str, object]] = {}
    problems: list[str] = []
    for name in sorted(variables):
        if not name.startswith(_PREFIX):
            continue
        section, _, key = name[len(_PREFIX) :].lower().partition("__")
        if section not in sections:
            problems.append(f"{name}: unknown section '{section}'{nearest(section, sections)}")
            continue
        keys = {f.name: f.type for f in msgspec.structs.fields(sections[section])}
        if key not in keys:
            problems.append(f"{name}: unknown key '{key}'{nearest(key, keys)}")
            continue
        text = variables[name]
        try:
            found.setdefault(section, {})[key] = msgspec.json.decode(text) if text[:1] in ("[", "{") else text
        except msgspec.DecodeError as error:
            problems.append(f"{name}: a list or a table is written as JSON: {error}")
    if problems:
        raise ProjectError(
            "The environment holds unknown settings.", problems[0].split(":")[0], "unset or rename them", problems
        )
    return dict(found)


def _laid_over(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _laid_over(cast("Table", old), cast("Table", value)) if both else value
    return merged

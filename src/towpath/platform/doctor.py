"""What ``tow doctor`` looks at: stores, keys, ports, drivers, frameworks, each with its mend."""

import importlib.metadata
import shutil
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from towpath.apart import find_uv
from towpath.errors import TowpathError
from towpath.project.locks import lock_beside
from towpath.settings import masked
from towpath.stores.online import Inspected

if TYPE_CHECKING:
    from towpath.platform.opened import Platform

__all__ = ["Finding", "findings"]

_FRAMEWORKS = {
    "lightgbm": "lightgbm",
    "xgboost-cpu|xgboost": "xgboost",
    "catboost": "catboost",
    "scikit-learn": "sklearn",
    "skops": "sklearn",
    "onnxruntime": "onnx",
    "pandas": "pandas",
    "polars": "polars",
    "psycopg": "postgres",
    "adbc-driver-postgresql": "postgres",
    "adbc-driver-snowflake": "snowflake",
    "adbc-driver-bigquery": "bigquery",
    "redis": "redis",
    "hiredis": "redis",
}
"""Distribution → the extra that brings it; of two with a stroke between them either does."""
_LOW_DISK_GIB = 1.0
_TRIP_SHARE = 0.25
"""Of the deadline of a read that the way there and back may take."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "missing", "ill"]
    """``missing`` is no fault: nothing that this project declares needs it so far as we can tell."""
    detail: str
    mend: str = ""


def findings(platform: "Platform") -> list[Finding]:
    """Look at everything that a server or a training run of this project will need; changes nothing.

    Args:
        platform: An opened project.

    Returns:
        One finding for each thing, the ill ones with what to do.
    """
    stores = platform.settings.stores
    looks: list[tuple[str, Callable[[], str]]] = [
        ("project", lambda: _project(platform)),
        ("objects", lambda: _objects(platform)),
        ("online", lambda: _online(platform)),
        (
            "catalog",
            lambda: f"{masked(stores.catalog)}: {platform.catalog.read('select count(*) as n from runs')[0]['n']} runs",
        ),
        ("warehouse", lambda: _warehouse(platform)),
        ("keys", lambda: _keys(platform)),
        ("disk", lambda: _disk(platform)),
        ("http port", lambda: _port(platform.settings.serving.host, platform.settings.serving.port, "--port")),
        (
            "grpc port",
            lambda: _port(platform.settings.serving.host, platform.settings.serving.grpc_port, "--grpc-port"),
        ),
        ("system", _system),
    ]
    return [_looked(what, look) for what, look in looks] + _second_machine(platform) + _locks(platform) + _frameworks()


def _looked(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, state="ok", detail=look())
    except TowpathError as error:
        detail = error.what if not getattr(error, "problems", ()) else f"{error.what} {'; '.join(error.args[3])}"
        return Finding(what=what, state="ill", detail=detail, mend=error.mend or error.where)


def _project(platform: "Platform") -> str:
    project = platform.project
    return f"{project.name} of {project.team}: {len(project.models)} models, {len(project.views)} views, {len(project.monitors)} monitors"


def _objects(platform: "Platform") -> str:
    platform.objects.check_create_only()
    return f"{platform.objects.url}: keeps the first of two create-only writes"


def _warehouse(platform: "Platform") -> str:
    tables = platform.warehouse.tables()  # asks the engine, which then knows its version
    return f"{platform.warehouse}: {len(tables)} tables"


def _online(platform: "Platform") -> str:
    """Whether it answers in the time that serving gives it, and keeps what it is given."""
    store, tables = platform.online_glance, len(platform.online_glance.tables())
    if not isinstance(store, Inspected):
        return f"{masked(platform.settings.stores.online)}: {tables} tables"
    health = store.health()
    faults = list(health.faults)
    trip_ms, timeout_ms = health.round_trip_ms, platform.settings.stores.online_timeout_ms
    if trip_ms is not None and trip_ms > timeout_ms * _TRIP_SHARE:
        faults.append(
            (
                f"a round trip takes {trip_ms:.1f} ms of the {timeout_ms} that a read may take",
                "move it nearer, or raise stores.online_timeout_ms",
            )
        )
    if faults:
        raise TowpathError(
            f"{health.detail}: {'; '.join(fault for fault, _ in faults)}.", mend="; ".join(mend for _, mend in faults)
        )
    trip = "" if trip_ms is None else f", {trip_ms:.2f} ms away"
    return f"{health.detail}, {tables} tables{trip}"


def _second_machine(platform: "Platform") -> list[Finding]:
    """Versions in a bucket can be served anywhere, features in a file of this machine only here."""
    stores = platform.settings.stores
    if "://" not in stores.objects or stores.objects.startswith("file://") or not stores.online.startswith("lmdb"):
        return []
    what = (
        "the objects lie in a bucket, the online features in a file of this machine: a second machine would find none"
    )
    mend = 'stores.online = "redis://…", then tow features build'
    return [Finding(what="second machine", state="missing", detail=what, mend=mend)]


def _keys(platform: "Platform") -> str:
    from towpath.registry.signing import Signer

    signer = Signer(platform.keys)
    return f"signs with {signer.key_id}; trusts {', '.join(platform.trusted.key_ids)}"


def _disk(platform: "Platform") -> str:
    free_gib = shutil.disk_usage(platform.folder).free / 2**30
    if free_gib < _LOW_DISK_GIB:
        raise TowpathError(f"{free_gib:.2f} GiB free.", mend="make room: a full disk drops journal records")
    return f"{free_gib:.0f} GiB free"


def _port(host: str, port: int, option: str) -> str:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise TowpathError(
                f"{host}:{port} is taken ({error.strerror}).",
                mend=f"tow serve {option} 0 takes a free one; or end the other server",
            ) from error
    return f"{host}:{port} is free"


def _system() -> str:
    if sys.platform == "win32":
        raise TowpathError("native Windows cannot serve.", mend="use WSL; tow check and tow train may work")
    workers = "" if sys.platform == "linux" else "; one worker here"
    return f"Python {sys.version.split()[0]} on {sys.platform}{workers}"


def _locks(platform: "Platform") -> list[Finding]:
    """Whether the environments of models with a lock of their own can be built here."""
    try:
        locked = [name for name, model in platform.project.models.items() if lock_beside(model.folder) is not None]
    except TowpathError:  # said of the project
        return []
    if not locked:
        return []
    found = _looked("uv", find_uv)
    if found.state == "ok":
        return [found]
    return [
        msgspec.structs.replace(
            found, detail=f"not installed, and models have a lock of their own: {', '.join(locked)}"
        )
    ]


def _frameworks() -> list[Finding]:
    found: list[Finding] = []
    for names, extra in _FRAMEWORKS.items():
        versions = {name: version for name in names.split("|") if (version := _version(name)) is not None}
        if versions:
            found += [Finding(what=name, state="ok", detail=version) for name, version in versions.items()]
        else:
            mend = f"uv add 'towpath[{extra}]'"
            found.append(Finding(what=names.split("|")[0], state="missing", detail="not installed", mend=mend))
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

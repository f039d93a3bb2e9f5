"""Asking: a monitor is a SELECT of failing rows, run over the journal's views as of a moment."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from towpath.errors import ProjectError, TowpathError, nearest
from towpath.monitors.watched import Watched
from towpath.project.declarations import MonitorHeader
from towpath.sql import Query
from towpath.types import duration, utc

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse.engine import Engine

__all__ = ["BUILT_IN", "Ask", "Checked", "Monitor", "built_in", "check"]

BUILT_IN = ("did_it_run", "far_from_previous", "features_as_trained", "worse_than_promised")
"""Monitors that each model has without a file."""

_SHOWN_ROWS = 20

Ask = Callable[[Query, Mapping[str, object]], "pa.Table"]
"""Runs a SELECT in the warehouse."""


class Monitor(msgspec.Struct, frozen=True, kw_only=True):
    """One question about one model, or about data."""

    name: str
    query: Query
    header: MonitorHeader
    project: str
    model: str = ""
    owner: str = ""
    """Who is woken."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One answer."""

    monitor: Monitor
    at: datetime
    status: Literal["ok", "failing", "error"]
    """``error`` where the question itself could not be asked."""
    failing_rows: int = 0
    segments: dict[str, int] = {}
    """Failing rows for each value of the column ``segment``; one empty name where there is no such column."""
    rows: tuple[dict[str, Any], ...] = ()
    """The first twenty failing rows."""
    duration_ms: float = 0.0
    error: str = ""


def built_in(
    model: Watched, parameters: Mapping[str, Mapping[str, float | int | str]] | None = None
) -> tuple[Monitor, ...]:
    """The monitors that a model has without a file.

    Args:
        model: Whose owner is woken.
        parameters: Monitor name → values that stand in for those of its header.

    Raises:
        ProjectError: There is no such monitor or parameter.
    """
    changed = dict(parameters or {})
    unknown = [name for name in changed if name not in BUILT_IN]
    if unknown:
        raise ProjectError(f"There is no built-in monitor '{unknown[0]}'{nearest(unknown[0], BUILT_IN)}")
    found: list[Monitor] = []
    for name in BUILT_IN:
        query = _own(name)
        header = msgspec.convert(query.header, MonitorHeader)
        values = changed.get(name, {})
        strange = [key for key in values if key not in header.parameters]
        if strange:
            raise ProjectError(f"'{name}' takes no '{strange[0]}'{nearest(strange[0], header.parameters)}", query.path)
        header = msgspec.structs.replace(header, parameters=header.parameters | dict(values))
        found.append(
            Monitor(
                name=name,
                query=query,
                header=header,
                project=model.project,
                model=model.model,
                owner=header.owner or model.owner,
            )
        )
    return tuple(found)


def check(
    engine: "Engine", monitors: Sequence[Monitor], *, as_of: datetime, ask: Ask | None = None
) -> tuple[Checked, ...]:
    """Ask each monitor about the window that ends at a moment.

    Args:
        engine: With the journal's views as of that moment, reaching back as far as the monitors look, and with what
            `towpath.monitors.register` adds.
        monitors: What to ask.
        as_of: The moment; ``:until`` is this, and ``:since`` is the monitor's window before it.
        ask: Runs a monitor's inputs in the warehouse; they arrive as Arrow.

    Returns:
        One answer each, in order. A monitor that cannot be asked gives an answer too, so that one broken file silences
        no other.
    """
    return tuple(_asked(engine, monitor, utc(as_of), ask) for monitor in monitors)


@cache
def _own(name: str) -> Query:
    text = (resources.files("towpath.monitors") / "builtin" / f"{name}.sql").read_text("utf-8")
    return Query.parse(text, f"towpath/monitors/builtin/{name}.sql")


def _asked(engine: "Engine", monitor: Monitor, as_of: datetime, ask: Ask | None) -> Checked:
    start = time.perf_counter()
    parameters: dict[str, object] = {
        "as_of": as_of,
        "until": as_of,
        "since": as_of - duration(monitor.header.window),
        "model": monitor.model,
        **monitor.header.parameters,
    }
    try:
        for name, text in monitor.header.inputs.items():
            engine.register(name, _input(monitor, text, parameters, ask))
        rows = engine.read(monitor.query, parameters)
    except TowpathError as error:
        return Checked(monitor=monitor, at=as_of, status="error", duration_ms=_since(start), error=error.what)
    names = rows["segment"].to_pylist() if "segment" in rows.column_names else [""] * rows.num_rows
    return Checked(
        monitor=monitor,
        at=as_of,
        status="failing" if rows.num_rows else "ok",
        failing_rows=rows.num_rows,
        segments=dict(Counter("" if name is None else str(name) for name in names)),
        rows=tuple(rows.slice(0, _SHOWN_ROWS).to_pylist()),
        duration_ms=_since(start),
    )


def _input(monitor: Monitor, text: str, parameters: Mapping[str, object], ask: Ask | None) -> "pa.Table":
    if ask is None:
        raise ProjectError("The monitor needs the warehouse, and none is given.", monitor.query.path)
    return ask(Query.parse(text, monitor.query.path), parameters)


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1_000

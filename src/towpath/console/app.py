"""The application: each page reads the request, asks one room, and shows the answer."""

import contextlib
import math
import socket
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from towpath.console.charts import bar, lines
from towpath.errors import TowpathError, UnavailableError, UnknownError

if TYPE_CHECKING:
    from markupsafe import Markup
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from towpath.fleet import FleetRow
    from towpath.platform import Platform

__all__ = ["application", "run"]

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def application(platform: "Platform") -> "Starlette":
    """The console as an ASGI application: ``/`` is the fleet, ``/models/<name>`` one model, ``/consumers`` who calls.

    Args:
        platform: Whose fleet is shown; read only.
    """
    from pathlib import Path

    from jinja2 import Environment, PackageLoader, StrictUndefined
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    pages = Environment(loader=PackageLoader("towpath.console"), autoescape=True, undefined=StrictUndefined)
    drawn: dict[str, Any] = {"lines": lines, "bar": bar}
    shown: dict[str, Any] = {
        "moment": _moment,
        "day": _day,
        "number": _number,
        "share": _share,
        "name": _name,
        "advantage": _advantage,
        "aim": _AIMS.get,
    }
    pages.globals.update(drawn)
    pages.filters.update(shown)

    async def page(name: str, status: int, ask: Callable[[], dict[str, Any]]) -> "Response":
        try:
            context = await run_in_threadpool(ask)
        except UnknownError as error:
            name, status, context = "error.html", 404, {"error": error}
        except TowpathError as error:
            name, status, context = "error.html", 503, {"error": error}
        context |= {"settings": platform.settings, "now": platform.now(), "status": status}
        return HTMLResponse(pages.get_template(name).render(context), status, headers=_HEADERS)

    def fleet_now() -> dict[str, Any]:
        now = platform.now()
        found = platform.watch.incidents(only_open=True)
        return {
            "rows": sorted(platform.watch.fleet(), key=_trouble),
            "open": [incident for incident in found if incident.opened_at <= now],
        }

    async def fleet(_request: "Request") -> "Response":
        """GET /: one row for each model, the ones in trouble first."""
        return await page("fleet.html", 200, fleet_now)

    async def model(request: "Request") -> "Response":
        """GET /models/<name>: versions, verdicts, traffic, metric over time against the fallback, incidents."""
        name = request.path_params["name"]
        return await page("model.html", 200, lambda: platform.watch.page(name))

    async def consumers(_request: "Request") -> "Response":
        """GET /consumers: who may call, what was promised, and whether it was kept; the broken first."""
        return await page(
            "consumers.html",
            200,
            lambda: {"rows": sorted(platform.consumers.list(), key=lambda row: (row.sla_kept is not False, row.name))},
        )

    async def health(_request: "Request") -> "Response":
        return PlainTextResponse("ok")

    async def lost(request: "Request", _error: Exception) -> "Response":
        error = UnknownError(f"There is no page '{request.url.path}'.", mend="the fleet is at /")
        return HTMLResponse(
            pages.get_template("error.html").render(
                error=error, settings=platform.settings, now=platform.now(), status=404
            ),
            404,
            headers=_HEADERS,
        )

    return Starlette(
        routes=[
            Route("/", fleet),
            Route("/models/{name}", model),
            Route("/consumers", consumers),
            Route("/health", health),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static"),
        ],
        exception_handlers={404: lost},
    )


_AIMS = {"lower": "lower is better", "higher": "higher is better", "zero": "nearer 0 is better"}
_URGENCY = {"silent": 0, "live": 1, "waiting": 2, "retired": 3}


def _trouble(row: "FleetRow") -> tuple[object, ...]:
    """Sorts a fleet: open incidents, then the silent, then those that their fallback beats, then by name."""
    advantage = _advantage(row)
    return -row.open_incidents, _URGENCY[row.state], not (advantage is not None and advantage < 0), row.model


def _advantage(row: "FleetRow") -> float | None:
    """By what share of the fallback's metric the model is better, on the same rows; below 0 it is worse."""
    model, fallback = row.beside_fallback_value, row.fallback_value
    if model is None or not fallback:
        return None
    if row.better == "zero":
        model, fallback = abs(model), abs(fallback)
    return (model - fallback if row.better == "higher" else fallback - model) / abs(fallback)


def _moment(value: datetime | None) -> str:
    return "never" if value is None else value.strftime("%Y-%m-%d %H:%M")


def _day(value: datetime) -> str:
    return value.strftime("%Y-%m-%d")


def _name(text: str) -> "Markup":
    """A name that may be broken after an underscore or a slash, and nowhere within a word."""
    from markupsafe import Markup, escape

    return Markup(str(escape(text)).replace("_", "_<wbr>").replace("/", "/<wbr>"))  # noqa: S704 - escaped before


def _number(value: float | None) -> str:
    """Four digits that count; whole numbers and large ones with their thousands."""
    if value is None or math.isnan(value):
        return "–"  # noqa: RUF001 - a dash for people
    size = abs(value)
    if isinstance(value, int) or size >= 1000:  # noqa: PLR2004 - people read thousands
        return f"{value:,.0f}"
    if 0 < size < 0.001:  # noqa: PLR2004 - nothing but zeros otherwise
        return f"{value:.2g}"
    return f"{value:.{4 if size < 1 else 3 - int(math.log10(size))}f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"  # noqa: RUF001 - a dash for people


def run(platform: "Platform", *, host: str, port: int, ready: Callable[[str], None] | None = None) -> None:
    """Serve the console until it is told to stop.

    Args:
        platform: Whose fleet is shown.
        host: Loopback, unless whoever calls knows better.
        port: A busy one gives way to the next free one; 0 takes any.
        ready: Called with the address before the first request is taken.
    """
    import uvicorn

    listening = _listening(host, port)
    address = f"http://{host}:{listening.getsockname()[1]}/"
    config = uvicorn.Config(application(platform), log_level="warning", access_log=False, lifespan="off")
    if ready is not None:
        ready(address)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how a console ends
        uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """A listening socket on `port`, or on one of the next twenty."""
    for candidate in range(port, port + 20) if port else (0,):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
        except OSError:
            listening.close()
            continue
        listening.listen(128)
        return listening
    raise UnavailableError(f"Ports {port} to {port + 19} of {host} are all taken.", mend="--port 0 takes a free one")

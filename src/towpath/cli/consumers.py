"""``tow consumers``: who may call, with which key, how much, and how well they were answered."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from towpath.cli.options import json_option, project_option
from towpath.cli.show import as_json_asked, show
from towpath.types import duration, duration_text

if TYPE_CHECKING:
    from towpath.platform.callers import ConsumerRow
    from towpath.traffic import Quota, Sla


def _quota(text: str) -> "Quota":
    from towpath.traffic import Quota, quota_of

    return Quota() if text == "none" else quota_of(text)


def _sla(text: str) -> "Sla":
    from towpath.traffic import Sla, sla_of

    return Sla() if text == "none" else sla_of(text)


def _scopes(text: str) -> tuple[str, ...]:
    from towpath.traffic import scopes_of

    return scopes_of(text)


def _models(text: str) -> tuple[str, ...]:
    return () if text == "all" else tuple(name.strip() for name in text.split(",") if name.strip())


def _terms(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that ``add`` and ``change`` share."""
    options = (
        click.option("--team", default=None, help="Who answers for the consumer; its own name unless given."),
        click.option(
            "--models", type=_models, default=None, metavar="NAME,…", help="What it may call; all unless given."
        ),
        click.option(
            "--scope",
            "scopes",
            type=_scopes,
            default=None,
            metavar="SCOPE,…",
            help="Of predict, outcomes, features, manage; predict,outcomes unless given.",
        ),
        click.option(
            "--quota",
            type=_quota,
            default=None,
            metavar="RATE",
            help="Such as 100/s or 100/s,5000rows/s, on each server; no limit unless given.",
        ),
        click.option(
            "--sla",
            type=_sla,
            default=None,
            metavar="PROMISE",
            help="Such as p99=20ms,availability=99.9%; measured and shown.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group("consumers", invoke_without_command=True)
@project_option
@json_option
@click.pass_context
def command(ctx: click.Context, project: Path) -> None:
    """List who may call. As soon as there is one consumer, servers of this store answer nobody without a key."""
    if ctx.invoked_subcommand is not None:
        ctx.default_map = {ctx.invoked_subcommand: {"project": project}}  # --project may stand before or after it
        return
    _list(project)


@command.command("list")
@project_option
@json_option
def list_consumers(project: Path) -> None:
    """The same as tow consumers: state, quota, when last seen, and the SLA of the last seven days."""
    _list(project)


@command.command("add")
@click.argument("name")
@_terms
@click.option("--expires", type=duration, default=None, metavar="DURATION", help="Such as 90d; never unless given.")
@project_option
@json_option
def add(name: str, project: Path, expires: timedelta | None, **terms: Any) -> None:
    """Make a consumer NAME and show its key, this once. Running servers take it within half a second."""
    from towpath.platform import Platform

    given = {key: value for key, value in terms.items() if value is not None}
    with Platform.open(project) as platform:
        first = not platform.consumers.list()
        key = platform.consumers.add(name, lifetime=expires, **given)
    if as_json_asked():
        show({"name": name, "key": key})
        return
    click.echo(key)
    click.echo(f"This is the key of '{name}'; it is stored nowhere and not shown again.", err=True)
    click.echo(f"What its engineers need: tow consumers kit {name}", err=True)
    if first:
        click.echo("From now on the servers of this store answer nobody without a key.", err=True)


@command.command("change")
@click.argument("name")
@_terms
@project_option
@json_option
def change(name: str, project: Path, **terms: Any) -> None:
    """Change what NAME may do; what is not named stays. --models all, --quota none and --sla none take a limit away."""
    from towpath.platform import Platform

    given = {key: value for key, value in terms.items() if value is not None}
    if not given:
        raise click.UsageError("Nothing to change: --team, --models, --scope, --quota or --sla.")
    with Platform.open(project) as platform:
        consumer = platform.consumers.change(name, **given)
    if as_json_asked():
        show(consumer)
        return
    click.echo(f"'{name}' is changed (revision {consumer.revision}); servers follow within half a second.")


@command.command("show")
@click.argument("name")
@project_option
@json_option
def show_consumer(name: str, project: Path) -> None:
    """All about NAME: keys, limits, and how each model answered it in the last seven days."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        row = platform.consumers.show(name)
    if as_json_asked():
        show(row)
        return
    show(_line(row) | {"changed": f"{row.change} {row.changed_at:%Y-%m-%d %H:%M} by {row.changed_by}"})
    click.echo()
    show(row.keys)
    if row.by_model:
        click.echo()
        show([_answered(one) for one in row.by_model])


@command.command("rotate")
@click.argument("name")
@click.option(
    "--overlap",
    type=duration,
    default="7d",
    show_default=True,
    metavar="DURATION",
    help="How long the old key still works.",
)
@click.option(
    "--expires", type=duration, default=None, metavar="DURATION", help="Of the new key; as the old one unless given."
)
@project_option
@json_option
def rotate(name: str, project: Path, overlap: timedelta, expires: timedelta | None) -> None:
    """Show a new key of NAME, this once; the old one works on for the overlap, so that no call fails."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        key, consumer = platform.consumers.rotate(name, overlap=overlap, lifetime=expires)
    if as_json_asked():
        show({"name": name, "key": key, "revision": consumer.revision})
        return
    click.echo(key)
    click.echo(
        f"The key before it ends in {duration_text(overlap)}." if overlap else "The keys before it are ended.", err=True
    )


@command.command("revoke")
@click.argument("name")
@click.option("--key", default=None, metavar="ID", help="Only this one; tow consumers show NAME lists them.")
@project_option
@json_option
def revoke(name: str, project: Path, key: str | None) -> None:
    """End the keys of NAME; running servers refuse them within half a second."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        consumer = platform.consumers.revoke(name, key=key)
    if as_json_asked():
        show(consumer)
        return
    ended = f"Key {key} of '{name}' is" if key else f"All keys of '{name}' are"
    click.echo(f"{ended} revoked; a new one: tow consumers rotate {name}")


@command.command("kit")
@click.argument("name")
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="Where it goes; ./NAME-kit unless given.",
)
@click.option(
    "--endpoint", default="", metavar="URL", help="Where callers reach HTTP; the settings' host unless given."
)
@click.option("--grpc-endpoint", default="", metavar="HOST:PORT", help="Where callers reach gRPC; the same.")
@click.option("--new-key", is_flag=True, help="Rotate, and put the new key in.")
@project_option
@json_option
def kit(name: str, project: Path, to: Path | None, endpoint: str, grpc_endpoint: str, new_key: bool) -> None:
    """Write what an integrator of NAME needs: endpoint, a typed example that is known to be good, calls that run."""
    from towpath.platform import Platform

    to = to or Path(f"{name}-kit")
    with Platform.open(project) as platform:
        files = platform.consumers.kit(name, to, endpoint=endpoint, grpc_endpoint=grpc_endpoint, new_key=new_key)
    if as_json_asked():
        show([str(path) for path in files])
        return
    click.echo(f"{len(files)} files in {to}; begin with {to / 'README.md'}")
    if new_key:
        click.echo(f"{to / 'key'} is the key itself: hand it over as a secret.")


def _list(project: Path) -> None:
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        rows = platform.consumers.list()
    if as_json_asked():
        show(rows)
        return
    show(
        [_line(row) for row in rows],
        empty="No consumers yet, so servers answer on this machine only: tow consumers add NAME",
    )


def _line(row: "ConsumerRow") -> dict[str, object]:
    rates = [(row.quota.requests_per_s, "/s"), (row.quota.rows_per_s, " rows/s")]
    promised = [f"p99 {row.sla.p99_ms:g} ms"] if row.sla.p99_ms else []
    promised += [f"{row.sla.availability_share * 100:g}%"] if row.sla.availability_share else []
    live = [key for key in row.keys if key.state == "live"]
    ends = [key.expires_at for key in live if key.expires_at is not None]
    return {
        "consumer": row.name,
        "team": row.team,
        "state": row.state,
        "may": ", ".join(row.scopes),
        "models": ", ".join(row.models) or "all",
        "quota": ", ".join(f"{rate:g}{unit}" for rate, unit in rates if rate) or None,
        "keys": f"{len(live)}, until {min(ends):%Y-%m-%d}" if ends else str(len(live)),
        "last_seen": f"{row.last_seen_at:%Y-%m-%d %H:%M}" if row.last_seen_at else None,
        "requests": row.requests,
        "p99": None if row.p99_ms is None else f"{row.p99_ms:.1f} ms",
        "by_model": None if row.available_share is None else f"{row.available_share:.2%}",
        "sla": None if not promised else f"{' and '.join(promised)}: {_said(row)}",
    }


def _said(row: "ConsumerRow") -> str:
    return "not called yet" if row.sla_kept is None else "kept" if row.sla_kept else "broken"


def _answered(one: Any) -> dict[str, object]:
    return {
        "model": one.model,
        "requests": one.requests,
        "rows": one.rows,
        "p99": None if one.p99_ms is None else f"{one.p99_ms:.1f} ms",
        "by_model": None if one.available_share is None else f"{one.available_share:.2%}",
        "last_called": f"{one.last_called_at:%Y-%m-%d %H:%M}",
    }

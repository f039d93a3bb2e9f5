"""``tow runs``: what was trained, from what, with what result."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from towpath.cli.options import json_option, project_option
from towpath.cli.show import as_json_asked, show
from towpath.errors import UnavailableError

if TYPE_CHECKING:
    from towpath.platform import Platform
    from towpath.training import Runs


@click.group("runs", invoke_without_command=True)
@click.option("--model", default=None, help="Only this model's.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@project_option
@json_option
@click.pass_context
def command(ctx: click.Context, model: str | None, limit: int, project: Path) -> None:
    """List runs, newest first; or show one, or compare two."""
    if ctx.invoked_subcommand is not None:
        ctx.default_map = {ctx.invoked_subcommand: {"project": project}}  # --project may stand before or after it
        return
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        found = _settled(platform).newest(model, limit=limit)
    show(found if as_json_asked() else [_line(run) for run in found], empty="No runs yet: tow train MODEL")


@command.command("show")
@click.argument("run")
@project_option
@json_option
def show_run(run: str, project: Path) -> None:
    """Everything that is known of one RUN; an unambiguous beginning of its name will do."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        show(_settled(platform).show(run))


@command.command("compare")
@click.argument("left")
@click.argument("right")
@project_option
@json_option
def compare(left: str, right: str, project: Path) -> None:
    """In what two runs differ: parameters, metrics, data, packages."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        show(_settled(platform).compare(left, right), empty="The two do not differ.")


def _settled(platform: "Platform") -> "Runs":
    """The runs, after those whose process is gone were closed; in a folder that can only be read, as they stand."""
    with suppress(UnavailableError):
        platform.runs.settle()
    return platform.runs


def _line(run: object) -> dict[str, object]:
    names = ("run_id", "model", "kind", "status", "version", "duration_s", "peak_memory_mib", "metrics", "error")
    return {name: getattr(run, name) for name in names}

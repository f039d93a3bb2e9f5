"""``tow monitor``: run the monitors, list incidents."""

from datetime import datetime
from pathlib import Path

import click

from towpath.cli.options import as_of_option, json_option, project_option
from towpath.cli.show import show, working


@click.group("monitor")
def command() -> None:
    """SQL that returns failing rows: run it, and see what it found."""


@command.command("run")
@click.option("--model", default=None, help="Only this model's monitors.")
@as_of_option
@project_option
@json_option
def run(model: str | None, as_of: datetime | None, project: Path) -> None:
    """Ask every monitor once; open, keep and close incidents. Exits 1 where one fails."""
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform, working("monitors"):
        checks = platform.watch.check(model)
    show(checks, empty="No monitors: add monitors/<model>/<name>.sql")
    raise click.exceptions.Exit(1 if any(check.status != "ok" for check in checks) else 0)


@command.command("incidents")
@click.option("--open", "only_open", is_flag=True, help="Only those that are open.")
@click.option("--model", default=None, help="Only this model's.")
@project_option
@json_option
def incidents(only_open: bool, model: str | None, project: Path) -> None:
    """What the monitors found, newest first."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        show(platform.watch.incidents(model, only_open=only_open), empty="No incidents.")

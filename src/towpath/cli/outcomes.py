"""``tow outcomes``: what really happened, from the warehouse."""

from datetime import datetime
from pathlib import Path

import click

from towpath.cli.options import as_of_option, json_option, model_argument, project_option
from towpath.cli.show import show, working
from towpath.types import utc


@click.command("outcomes")
@model_argument
@as_of_option
@click.option(
    "--since",
    type=utc,
    default=None,
    metavar="TIME",
    help="Labels that became known after it; what is not collected yet unless given.",
)
@project_option
@json_option
def command(model: tuple[str, int | None], as_of: datetime | None, since: datetime | None, project: Path) -> None:
    """Collect the labels of MODEL's training.sql that became known by --as-of, as outcomes."""
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform, working(f"collecting outcomes of {model[0]}"):
        show(platform.models[model[0]].collect(since=since))

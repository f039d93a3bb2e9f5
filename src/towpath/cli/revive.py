"""``tow revive``: a killed model answers again."""

from pathlib import Path

import click

from towpath.cli.options import json_option, model_argument, project_option
from towpath.cli.show import as_json_asked, show


@click.command("revive")
@model_argument
@click.option("--because", default="", metavar="TEXT", help="Why; kept for ever.")
@click.option("--consumer", default=None, help="Only the switch for this caller.")
@click.option("--segment", default=None, metavar="COLUMN=VALUE", help="Only the switch for this segment.")
@project_option
@json_option
def command(
    model: tuple[str, int | None], because: str, consumer: str | None, segment: str | None, project: Path
) -> None:
    """Take back the kill switches of MODEL, or only those that are named."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        entry = platform.models[model[0]].revive(because=because, version=model[1], consumer=consumer, segment=segment)
    if as_json_asked():
        show(entry)
        return
    left = f"; {len(entry.state.kills)} switch(es) remain" if entry.state.kills else ""
    click.echo(f"{entry.model} answers again (revision {entry.revision}){left}.")

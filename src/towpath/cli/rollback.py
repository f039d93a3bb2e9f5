"""``tow rollback``: the champion before comes back."""

from datetime import datetime
from pathlib import Path

import click

from towpath.cli.options import as_of_option, because_option, json_option, model_argument, project_option
from towpath.cli.show import as_json_asked, show


@click.command("rollback")
@model_argument
@because_option
@as_of_option
@project_option
@json_option
def command(model: tuple[str, int | None], because: str, as_of: datetime | None, project: Path) -> None:
    """Go back to the champion before; MODEL@VERSION says which champion shall go, so that two people go back one step."""
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform:
        entry = platform.models[model[0]].rollback(because=because, leaving=model[1])
    if as_json_asked():
        show(entry)
        return
    click.echo(f"{entry.model}@{entry.state.champion} is champion again (revision {entry.revision}).")

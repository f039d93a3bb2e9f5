"""``tow promote``: a version becomes the champion."""

from datetime import datetime
from pathlib import Path

import click

from towpath.cli.options import as_of_option, json_option, model_argument, project_option
from towpath.cli.show import as_json_asked, show
from towpath.errors import InputError


@click.command("promote")
@model_argument
@as_of_option
@click.option(
    "--override", is_flag=True, help="Without a passing verdict; needs --because, and stays visible for ever."
)
@click.option("--because", default="", metavar="TEXT", help="Why; kept for ever.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@project_option
@json_option
def command(  # one option each
    model: tuple[str, int | None], as_of: datetime | None, override: bool, because: str, dry_run: bool, project: Path
) -> None:
    """Make MODEL[@VERSION] the champion, on the strength of its newest verdict. Running servers follow by themselves."""
    from towpath.platform import Platform

    if override and not because.strip():
        raise InputError("--override needs a reason.", mend='--because "…"')
    with Platform.open(project).at(as_of) as platform:
        handle = platform.models[model[0]]
        if dry_run:
            show(handle.promotion(model[1]))
            return
        entry = handle.promote(model[1], override=override, because=because)
    if as_json_asked():
        show(entry)
        return
    before = f", before it {entry.state.previous}" if entry.state.previous else ""
    click.echo(f"{entry.model}@{entry.state.champion} is champion{before} (revision {entry.revision}).")

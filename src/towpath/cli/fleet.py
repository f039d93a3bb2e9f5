"""``tow fleet``: who calls which model, and what it is worth."""

from datetime import datetime
from pathlib import Path

import click

from towpath.cli.options import as_of_option, json_option, project_option
from towpath.cli.show import show


@click.command("fleet")
@as_of_option
@project_option
@json_option
def command(as_of: datetime | None, project: Path) -> None:
    """One row for each model of the store: owner, state, champion, calls, fallback share, metric against the fallback."""
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform:
        show(platform.watch.fleet(), empty="No models in this store yet: tow train MODEL")

"""``tow models``: the models of the project and who answers."""

from pathlib import Path

import click

from towpath.cli.options import json_option, project_option
from towpath.cli.show import show


@click.command("models")
@project_option
@json_option
def command(project: Path) -> None:
    """One row for each model: tier, owner, champion, versions, verdict of the newest."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        show(platform.models.list(), empty="No models yet: tow init, or add models/<name>/")

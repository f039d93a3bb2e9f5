"""``tow doctor``: what would stop a server or a training run."""

from pathlib import Path

import click

from towpath.cli.options import json_option, project_option
from towpath.cli.show import show


@click.command("doctor")
@project_option
@json_option
def command(project: Path) -> None:
    """Look at stores, the create-only rule, keys, ports, drivers and frameworks. Exits 2 where something is ill."""
    from towpath.platform import Platform
    from towpath.platform.doctor import findings

    with Platform.open(project) as platform:
        found = findings(platform)
    show(found)
    raise click.exceptions.Exit(2 if any(finding.state == "ill" for finding in found) else 0)

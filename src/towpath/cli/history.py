"""``tow history``: who was champion when, and why."""

from pathlib import Path

import click

from towpath.cli.options import json_option, model_argument, project_option
from towpath.cli.show import show


@click.command("history")
@model_argument
@project_option
@json_option
def command(model: tuple[str, int | None], project: Path) -> None:
    """Every entry of MODEL's log, oldest first: promotions, rollbacks, kills, overrides."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        show(
            platform.models[model[0]].history(), empty=f"Nothing ever happened to '{model[0]}': tow promote {model[0]}"
        )

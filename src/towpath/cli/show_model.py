"""``tow show``: all about one model or version."""

from pathlib import Path

import click

from towpath.cli.options import json_option, model_argument, project_option
from towpath.cli.show import as_json_asked, show


@click.command("show")
@model_argument
@project_option
@json_option
def command(model: tuple[str, int | None], project: Path) -> None:
    """MODEL with its charter, versions and traffic, or MODEL@VERSION with its manifest and verdicts."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        handle = platform.models[model[0]]
        if model[1] is not None:
            show(handle.version(model[1]))
            return
        shown = handle.show()
    if as_json_asked():
        show(shown)
        return
    versions = shown.pop("versions")
    show(shown, title=model[0])
    click.echo()
    show(versions, title="versions", empty=f"No versions yet: tow train {model[0]}")

"""``tow gate``: may this version answer, and why."""

from datetime import datetime
from pathlib import Path

import click

from towpath.cli.options import as_of_option, json_option, model_argument, project_option
from towpath.cli.show import as_json_asked, show, working


@click.command("gate")
@model_argument
@as_of_option
@project_option
@json_option
def command(model: tuple[str, int | None], as_of: datetime | None, project: Path) -> None:
    """Measure MODEL[@VERSION] against the champion and the fallback; the newest version unless given.

    Exits 1 where the verdict is no. The verdict is stored either way.
    """
    from towpath.gate import verdict_rows
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform, working(f"gate of {model[0]}"):
        handle = platform.models[model[0]]
        verdict = handle.gate(model[1])
        charter = handle.folder.declaration.charter
    if as_json_asked():
        show(verdict)
    else:
        click.echo(f"{verdict.model}@{verdict.version} decides {charter.decision}.")
        if charter.stop_when:
            click.echo(f"It stops when {charter.stop_when}.")
        show(verdict_rows(verdict))
        said = "passed" if verdict.passed else "refused"
        then = f"next: tow promote {verdict.model}@{verdict.version}" if verdict.passed else "it cannot be promoted"
        click.echo(f"{verdict.model}@{verdict.version} {said}; {then}")
    raise click.exceptions.Exit(0 if verdict.passed else 1)

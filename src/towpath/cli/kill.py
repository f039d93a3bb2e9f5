"""``tow kill``: a model stops answering at once, and its fallback answers."""

from pathlib import Path

import click

from towpath.cli.options import because_option, json_option, model_argument, project_option
from towpath.cli.show import as_json_asked, show


@click.command("kill")
@model_argument
@because_option
@click.option("--consumer", default=None, help="Only for this caller.")
@click.option(
    "--segment", default=None, metavar="COLUMN=VALUE", help="Only for rows that the caller says are of this segment."
)
@project_option
@json_option
def command(
    model: tuple[str, int | None], because: str, consumer: str | None, segment: str | None, project: Path
) -> None:
    """Stop MODEL, or only MODEL@VERSION; servers follow within two seconds. Undo it with tow revive."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        entry = platform.models[model[0]].kill(because=because, version=model[1], consumer=consumer, segment=segment)
    if as_json_asked():
        show(entry)
        return
    what = entry.model if model[1] is None else f"{entry.model}@{model[1]}"
    only = "".join(f" for {name} '{given}'" for name, given in (("consumer", consumer), ("segment", segment)) if given)
    click.echo(f"{what} is killed{only} (revision {entry.revision}); undo: tow revive {what}")

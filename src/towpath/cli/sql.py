"""``tow sql``: ask the journal."""

from datetime import datetime
from pathlib import Path

import click

from towpath.cli.options import as_of_option, json_option, project_option
from towpath.cli.show import show
from towpath.types import utc


@click.command("sql")
@click.argument("text", metavar="SELECT")
@as_of_option
@click.option(
    "--since", type=utc, default=None, metavar="TIME", help="Predictions made at or after it; all unless given."
)
@click.option("--until", type=utc, default=None, metavar="TIME", help="Predictions made before it.")
@project_option
@json_option
def command(text: str, as_of: datetime | None, since: datetime | None, until: datetime | None, project: Path) -> None:
    """One SELECT over the views predictions, outcomes, matured, previous and runs."""
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform:
        show(platform.sql(text, since=since, until=until), empty="No rows.")

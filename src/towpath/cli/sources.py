"""``tow sources``: the tables that the project reads, and whether they are well."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from towpath.cli.options import as_of_option, json_option, project_option
from towpath.cli.show import as_json_asked, show, working

if TYPE_CHECKING:
    from towpath.platform.sources import SourceRow


@click.command("sources")
@as_of_option
@project_option
@json_option
def command(as_of: datetime | None, project: Path) -> None:
    """Source tables with their state: freshness, rows a day and columns, held against sources.toml and the last build.

    Names what is ill and the features and models that hang on it. Exits 1 where a source is ill.
    """
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform, working("looking at sources"):
        rows = platform.sources.list()
    ill = [one for row in rows for one in row.ill]
    if as_json_asked():
        show(rows)
    else:
        show([_line(row) for row in rows], empty="No sources: no view and no training.sql reads a table.")
        for one in ill:
            click.echo(f"\n{one}")
    raise click.exceptions.Exit(1 if ill else 0)


def _line(row: "SourceRow") -> dict[str, object]:
    return {
        "source": row.source,
        "state": row.state,
        "landed": row.landed,
        "rows a day": row.rows_a_day,
        "owner": row.owner,
        "views": row.views,
        "models": row.models,
    }

"""``tow check``: every fault of the project at once."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from towpath.cli.options import json_option, project_folder
from towpath.cli.show import as_json_asked, show

if TYPE_CHECKING:
    from towpath.project import Problem


@click.command("check")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True), required=False)
@click.option("--schema", "schema_wanted", is_flag=True, help="Print the JSON schema of model.toml, for an editor.")
@json_option
def command(folder: Path | None, schema_wanted: bool) -> None:
    """Find every fault of a project, as file:line, what and how to mend it. Runs nothing; of tables in files it asks for types.

    Exits 2 where there is one; a warning is none.
    """
    from towpath.project import problems, schema

    if schema_wanted:
        show(schema(), as_json=True)
        return
    folder = project_folder(folder)
    found = problems(folder)
    if all(problem.warning for problem in found):
        found = sorted([*found, *_seen_by_the_stores(folder)])
    faults = [problem for problem in found if not problem.warning]
    if as_json_asked():
        show(found)
    else:
        for problem in found:
            click.echo(str(problem))
        said = folder if folder.name else folder.resolve()  # "in .." is what a dot and a full stop would make
        click.echo(f"{_counted(len(faults), 'problem')}{_warned(len(found) - len(faults))} in {said}.")
    raise click.exceptions.Exit(2 if faults else 0)


def _seen_by_the_stores(folder: Path) -> "list[Problem]":
    """Types as an embedded engine sees them; what builds remembered of landing, held against the hours of prediction."""
    from towpath.platform import Platform
    from towpath.platform.described import refused_by_the_engine
    from towpath.platform.in_time import late_views

    with Platform.open(folder) as platform:
        return [*refused_by_the_engine(platform), *late_views(platform)]


def _counted(count: int, what: str) -> str:
    return f"{count or 'No'} {what}{'s' if count > 1 else ''}"


def _warned(count: int) -> str:
    return f" and {_counted(count, 'warning')}" if count else ""

"""``tow check``: every fault of the project at once."""

from pathlib import Path

import click

from towpath.cli.options import json_option, project_folder
from towpath.cli.show import as_json_asked, show


@click.command("check")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True), required=False)
@click.option("--schema", "schema_wanted", is_flag=True, help="Print the JSON schema of model.toml, for an editor.")
@json_option
def command(folder: Path | None, schema_wanted: bool) -> None:
    """Find every fault of a project, as file:line, what and how to mend it. Runs nothing.

    Exits 2 where there is one.
    """
    from towpath.project import problems, schema

    if schema_wanted:
        show(schema(), as_json=True)
        return
    folder = project_folder(folder)
    found = problems(folder)
    if as_json_asked():
        show(found)
    else:
        for problem in found:
            click.echo(str(problem))
        count = f"{len(found)} problem{'s' if len(found) > 1 else ''} in" if found else "No problem in"
        click.echo(f"{count} {folder}.")
    raise click.exceptions.Exit(2 if found else 0)

"""``tow journal``: its files, where one of them is damaged."""

from pathlib import Path

import click

from towpath.cli.options import because_option, json_option, project_option
from towpath.cli.show import as_json_asked, show, working


@click.group("journal")
def command() -> None:
    """The files of predictions, outcomes and runs: are they whole, and what to do about one that is not."""


@command.command("check")
@project_option
@json_option
def check(project: Path) -> None:
    """Read every file whole; list those that are damaged, left out, or named by no day. Exits 1 where one is damaged."""
    from towpath.platform import Platform

    with Platform.open(project) as platform, working("reading the journal"):
        found = platform.watch.examine()
    show(found, empty="Every file of the journal is whole.")
    raise click.exceptions.Exit(1 if any(one.state == "damaged" for one in found) else 0)


@command.command("leave-out")
@click.argument("path")
@because_option
@project_option
@json_option
def leave_out(path: str, because: str, project: Path) -> None:
    """Read the day of a damaged file without it. The file stays; undo it with tow journal take-back."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        left = platform.watch.leave_out(path, because=because)
    if as_json_asked():
        show(left)
        return
    rows = "an unknown number of rows" if left.rows is None else f"{left.rows:,} row{'' if left.rows == 1 else 's'}"
    click.echo(f"Left out, with {rows}; undo, once it is whole: tow journal take-back '{path}'")


@command.command("take-back")
@click.argument("path")
@project_option
@json_option
def take_back(path: str, project: Path) -> None:
    """Name a file in its day again, now that it is whole."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        rows = platform.watch.take_back(path)
    if as_json_asked():
        show({"path": path, "rows": rows})
        return
    click.echo(f"Taken back, with {rows:,} row{'' if rows == 1 else 's'}.")

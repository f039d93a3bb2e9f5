"""``tow features``: list, build and read feature views."""

from datetime import datetime
from pathlib import Path

import click

from towpath.cli.options import as_of_option, json_option, project_option
from towpath.cli.show import show, working
from towpath.types import utc


@click.group("features", invoke_without_command=True)
@project_option
@json_option
@click.pass_context
def command(ctx: click.Context, project: Path) -> None:
    """List the views with their keys, size and the models that read them."""
    if ctx.invoked_subcommand is not None:
        ctx.default_map = {ctx.invoked_subcommand: {"project": project}}  # --project may stand before or after it
        return
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        show(platform.features.list(), empty="No views yet: add features/<view>.sql")


@command.command("build")
@click.argument("view", required=False)
@as_of_option
@click.option("--since", type=utc, default=None, metavar="TIME", help="Only event times at or after it.")
@project_option
@json_option
def build(project: Path, view: str | None, as_of: datetime | None, since: datetime | None) -> None:
    """Bring the online table of VIEW, or of all views, up to what was known at --as-of. Run it again after a crash."""
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform, working("building features"):
        built = platform.features.build(view, since=since)
    show([{"view": name, **_facts(result)} for name, result in built.items()])


@command.command("get")
@click.argument("view")
@click.option("--key", "key", multiple=True, required=True, help="One for each key column, in order; numbers as JSON.")
@as_of_option
@project_option
@json_option
def get(project: Path, view: str, key: tuple[str, ...], as_of: datetime | None) -> None:
    """One online row: values, event time, age, and why a value is missing."""
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform:
        show(platform.features.get(view, key))


def _facts(built: object) -> dict[str, object]:
    return {name: getattr(built, name) for name in ("rows", "entities", "seconds", "newest_event_time")}

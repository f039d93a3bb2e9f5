"""``tow console``: the pages for people."""

from pathlib import Path

import click

from towpath.cli.options import project_option


@click.command("console")
@click.option("--host", default=None, help="Loopback unless given.")
@click.option("--port", type=click.IntRange(0, 65_535), default=None, help="A busy one gives way to the next free one.")
@project_option
def command(host: str | None, port: int | None, project: Path) -> None:
    """Open the pages Fleet and Model, until Ctrl-C. They read, and change nothing."""
    from towpath.console import run
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        settings = platform.settings.console
        run(
            platform,
            host=host or settings.host,
            port=settings.port if port is None else port,
            ready=lambda address: click.echo(f"console: {address}"),
        )

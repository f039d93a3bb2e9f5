"""``tow up``: serve, console and flusher for a project, in one foreground process group."""

import subprocess
import sys
from pathlib import Path

import click

from towpath.cli.options import project_option


@click.command("up")
@click.option("--port", type=click.IntRange(0, 65_535), default=None, help="HTTP of the server.")
@click.option("--grpc-port", type=click.IntRange(0, 65_535), default=None, help="gRPC of the server.")
@click.option("--console-port", type=click.IntRange(0, 65_535), default=None, help="HTTP of the console.")
@project_option
def command(port: int | None, grpc_port: int | None, console_port: int | None, project: Path) -> None:
    """Serve the project's models and open the console, until Ctrl-C. The journal is flushed as with tow serve."""
    from towpath.console import run
    from towpath.platform import Platform

    argv = [sys.executable, "-m", "towpath.cli", "serve", "--project", str(project)]
    argv += [] if port is None else ["--port", str(port)]
    argv += [] if grpc_port is None else ["--grpc-port", str(grpc_port)]
    with Platform.open(project) as platform:
        settings = platform.settings.console
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL)  # noqa: S603 - ourselves
        try:
            run(
                platform,
                host=settings.host,
                port=settings.port if console_port is None else console_port,
                ready=lambda address: click.echo(f"console: {address}"),
            )
        finally:
            server.terminate()
            server.wait()

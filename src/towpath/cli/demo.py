"""``tow demo``: the whole circle, on a simulated shop or on the real retail file."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from towpath.cli.options import json_option
from towpath.cli.show import as_json_asked, show

if TYPE_CHECKING:
    from towpath.demo.drive import Demo
    from towpath.platform import Platform


@click.command("demo")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("towpath-demo"))
@click.option("--no-wait", is_flag=True, help="End when the summary is printed.")
@click.option(
    "--port",
    type=click.IntRange(1, 65_000),
    default=8080,
    show_default=True,
    help="A busy one gives way to the next free one.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of the real data: replay eight weeks of a real shop instead of simulating one.",
)
@json_option
def command(folder: Path, no_wait: bool, port: int, data: Path | None) -> None:
    """Walk the whole circle in FOLDER: project, features, training, gate, serving, outcomes, monitors, fleet.

    An existing demo is continued, a folder of somebody else's is refused. Without --no-wait it serves until Ctrl-C.
    """
    if data is not None:
        _replay(folder, data, no_wait=no_wait)
        return
    from towpath.demo.drive import Demo

    demo = Demo(folder, say=_sayer(), port=port)
    platform = demo.prepare()
    with platform, demo.serving():
        days = demo.days
        click.echo(
            f"serving on http://{demo.address} (gRPC 127.0.0.1:{demo.grpc}); {len(days)} simulated days pass", err=True
        )
        _days(demo, platform, days)
        summary = demo.summary(platform)
        if as_json_asked():
            show(summary)
        else:
            show(summary, title="what the stores say")
        if not no_wait:
            _wait(demo, platform)


def _sayer() -> Callable[[str], None]:
    """Each step on stderr with the seconds since the start."""
    started = time.perf_counter()

    def say(line: str) -> None:
        click.echo(f"{time.perf_counter() - started:5.1f} s  {line}", err=True)

    return say


def _days(demo: "Demo", platform: "Platform", days: range) -> None:
    import sys

    if not sys.stderr.isatty():
        for number in days:
            demo.live(platform, number)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("simulated days", total=len(days))
        for number in days:
            progress.update(task, description=str(demo.story.day(number)))
            demo.live(platform, number)
            progress.advance(task)


def _wait(demo: "Demo", platform: "Platform") -> None:
    """Serve, and show the console, until Ctrl-C."""
    from towpath.console import run

    def ready(address: str) -> None:
        here = Path.cwd()
        shown = demo.folder.relative_to(here) if demo.folder.is_relative_to(here) else demo.folder
        click.echo("\nopen")
        click.echo(f"  {address}")
        click.echo("try")
        click.echo(f"""  curl -s http://{demo.address}/predict/demand -d '{{"rows": [{{"item_id": "10002"}}]}}'""")
        click.echo(
            f"  cd {shown} && uv run tow sql 'select source, reason, count(*) as rows from predictions group by all'"
        )
        click.echo(
            f"  cd {shown} && uv run tow kill demand --because 'trying it'   # then call again; undo: tow revive demand"
        )
        click.echo("\nCtrl-C ends it; `tow demo` again goes on from here.")

    run(platform, host="127.0.0.1", port=8090, ready=ready)


def _replay(folder: Path, data: Path, *, no_wait: bool) -> None:
    """Eight weeks of a real shop, day by day; then its console, until Ctrl-C."""
    from towpath.demo.replay import as_facts, as_rows, replay

    replayed = replay(folder, data=data, progress=_sayer())
    if as_json_asked():
        show(replayed)
    else:
        show(as_rows(replayed), title="answers that came true, and the heuristic on the same rows")
        click.echo()
        show(as_facts(replayed))
    if no_wait:
        return
    from towpath.console import run
    from towpath.platform import Platform

    with Platform.open(folder).at(replayed.matured_at) as platform:
        run(
            platform,
            host="127.0.0.1",
            port=8090,
            ready=lambda address: click.echo(f"\nopen\n  {address}\n\nCtrl-C ends it."),
        )

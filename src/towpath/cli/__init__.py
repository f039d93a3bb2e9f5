"""The command line: a table of commands, each imported only when it is called, and the way errors become exit codes.

Exit codes: 0 fine; 1 the answer is no (a gate refused, a monitor fails); 2 usage or a project error; 3 a fault of Towpath itself;
130 interrupted.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

import click

from towpath.errors import RefusedError, TowpathError, nearest

__all__ = ["COMMANDS", "LazyGroup", "main", "tow"]

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("towpath.cli.init:command", "Begin a project, with a model that trains at once."),
    "check": ("towpath.cli.check:command", "Find every fault of the project, without running it."),
    "doctor": ("towpath.cli.doctor:command", "Look at stores, keys, ports, drivers and frameworks."),
    "features": ("towpath.cli.features:command", "Build, list and show feature views."),
    "sources": ("towpath.cli.sources:command", "The tables that views read: fresh, whole, as expected?"),
    "train": ("towpath.cli.train:command", "Train a model and keep it as a version."),
    "gate": ("towpath.cli.gate:command", "Ask whether a version may answer, and say why."),
    "promote": ("towpath.cli.promote:command", "Make a version the champion."),
    "rollback": ("towpath.cli.rollback:command", "Go back to the champion before."),
    "history": ("towpath.cli.history:command", "Who was champion when, and why."),
    "predict": ("towpath.cli.predict:command", "Answer every row of a day, as one run."),
    "try": ("towpath.cli.try_row:command", "Answer one row here, with features, ages and timings."),
    "serve": ("towpath.cli.serve:command", "Answer over HTTP and gRPC: a project, a store or a model file."),
    "consumers": ("towpath.cli.consumers:command", "Who may call: keys, scopes, quotas, SLA."),
    "kill": ("towpath.cli.kill:command", "Stop a model at once; its fallback answers."),
    "revive": ("towpath.cli.revive:command", "Let a killed model answer again."),
    "runs": ("towpath.cli.runs:command", "List, show and compare training runs."),
    "models": ("towpath.cli.models:command", "List models and their versions."),
    "show": ("towpath.cli.show_model:command", "All about one model or version."),
    "monitor": ("towpath.cli.monitor:command", "Run the monitors and list incidents."),
    "sql": ("towpath.cli.sql:command", "Ask the journal: predictions, outcomes, matured, previous, runs."),
    "journal": ("towpath.cli.journal:command", "Look for damaged files; leave one out, take it back."),
    "fleet": ("towpath.cli.fleet:command", "One row for each model: who calls it and what it is worth."),
    "outcomes": ("towpath.cli.outcomes:command", "Hand in what really happened."),
    "console": ("towpath.cli.console:command", "Open the pages for people."),
    "up": ("towpath.cli.up:command", "Serve, console and flusher in one foreground process."),
    "demo": ("towpath.cli.demo:command", "The whole circle on a simulated shop."),
}
"""Name → where its click command stands, and its line in ``tow --help``; the file's own docstring says the rest."""

_BROKEN_PIPE = 141  # what a shell says of a program that SIGPIPE ended


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that ``tow --help`` imports none of them.

    Args:
        table: Name → (``module:attribute``, one line of help).
    """

    def __init__(self, *, table: dict[str, tuple[str, str]], **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - click's own keywords
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click asks so
        """Names, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click asks so
        """Import one command."""
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name][0].partition(":")
        return getattr(import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or offer the nearest name."""
        if args and not args[0].startswith("-") and args[0] not in self.table:
            raise click.UsageError(f"There is no command '{args[0]}'{nearest(args[0], self.table)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click asks so
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])


def _print_version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked:
        from towpath import __version__

        click.echo(f"towpath {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show it and exit."
)
def tow() -> None:
    """From a SQL query and a train function, or a bare model file, to a live, guarded, measured service."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit code.

    Args:
        arguments: What stands after ``tow``; the process's own unless given.
    """
    if threading.current_thread() is threading.main_thread():
        # SIGTERM ends a command as Ctrl-C does: what it began is closed, and no process of its own stays behind
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if "_TOW_COMPLETE" in os.environ:  # a shell asks for completions; click answers
        tow.main(prog_name="tow")
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away, as `| head` does; closing what is left must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _BROKEN_PIPE
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    try:
        with tow.make_context("tow", list(arguments)) as context:
            found = tow.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except TowpathError as error:
        click.echo(str(error), err=True)
        return 1 if isinstance(error, RefusedError) else 2
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f": '{error.filename}'" if error.filename else ""
        click.echo(f"{error.strerror or error}{where}", err=True)
        return 2
    except Exception:  # noqa: BLE001 - the edge: what nobody expected is shown whole, and is not a "no"
        import traceback

        traceback.print_exc()
        click.echo("This is a fault of Towpath, not of the project.", err=True)
        return 3
    return found if isinstance(found, int) and not isinstance(found, bool) else 0

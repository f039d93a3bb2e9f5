"""``tow init``: begin a project."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from towpath.cli.options import json_option
from towpath.cli.show import as_json_asked, show
from towpath.clock import SystemClock

if TYPE_CHECKING:
    from towpath.project import Answers

_QUESTIONS = {
    "name": "Name of the project (lower case, digits, underscores)",
    "team": "Which team answers for it",
    "owner": "Who answers for the first model",
    "decision": "What is decided with its answer",
    "process": "In which process",
    "integrator": "Who builds the caller",
    "analyst": "Who measures whether it works",
    "stop_when": "What would make you switch it off",
}


def _options(function: click.decorators.FC) -> click.decorators.FC:
    for name, question in reversed(_QUESTIONS.items()):
        flag = "--" + name.replace("_", "-")
        function = click.option(flag, name, default=None, metavar="TEXT", help=f"{question}.")(function)
    return function


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.option("--yes", is_flag=True, help="Ask nothing: take what is given and the defaults.")
@_options
@json_option
def command(folder: Path, yes: bool, **given: str | None) -> None:
    """Begin a project in FOLDER: one model that trains at once, in commented files.

    Asks for the name, the team and the charter of the model. A project that is there already stays as it is.
    """
    from towpath.project import init
    from towpath.registry.signing import make_keys
    from towpath.settings import load

    asks = not yes and _at_a_terminal() and not (folder / "towpath.toml").exists()
    answers = _answers(folder, given, asks=asks)
    written = init(folder, answers, clock=SystemClock())
    keys = folder / load(folder).stores.keys
    key = make_keys(keys)
    if as_json_asked():
        show({"folder": folder, "written": written, "signing_key": key})
        return
    if written:
        show("\n".join([f"Wrote {len(written)} files to {folder}:", *(f"  {name}" for name in written)]))
        here = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
        show(f"Next: {here}tow check && tow features build && tow train demand")
    else:
        show(f"There is a project in {folder} already; nothing was changed.")


def _answers(folder: Path, given: dict[str, str | None], *, asks: bool) -> "Answers":
    from towpath.project import Answers

    defaults = {field.name: field.default for field in msgspec.structs.fields(Answers) if not field.required}
    defaults["name"] = re.sub(r"[^a-z0-9_]+", "_", folder.resolve().name.lower()).strip("_0123456789") or "shop"
    found: dict[str, str] = {}
    for name, question in _QUESTIONS.items():
        value = given[name]
        if value is None:
            default = str(defaults[name]) or (found["team"] if name == "owner" else "")
            value = click.prompt(question, default=default, type=str) if asks else default
        found[name] = value
    return msgspec.convert(found, Answers)


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()

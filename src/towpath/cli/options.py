"""Options that many commands share, spelt and read the same everywhere."""

from pathlib import Path

import click

from towpath.types import model_and_version, utc

__all__ = ["as_of_option", "because_option", "json_option", "model_argument", "project_folder", "project_option"]


def _remember_json(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.meta["towpath.json"] = True


json_option = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=_remember_json,
    help="JSON and no table; so does TOWPATH_OUTPUT=json.",
)
"""``--json``; it reaches `towpath.cli.show.show` by itself, the function takes no argument for it."""

as_of_option = click.option(
    "--as-of",
    "as_of",
    type=utc,
    default=None,
    metavar="TIME",
    help="Take this moment for now, so that history can be replayed.",
)
"""``--as-of 2011-09-01``; the function takes ``as_of: datetime | None``."""

model_argument = click.argument("model", type=model_and_version, metavar="MODEL[@VERSION]")
"""``demand`` or ``demand@17``; the function takes ``model: tuple[str, int | None]``."""

because_option = click.option("--because", required=True, metavar="TEXT", help="Why; kept for ever.")
"""``--because "…"``; the function takes ``because: str``."""


def project_folder(given: Path | None) -> Path:
    """The folder named, else the nearest one at or above the present one that holds ``towpath.toml``, else the present one."""
    if given is not None:
        return given
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "towpath.toml").is_file()), here)


def _to_folder(_ctx: click.Context, _option: click.Parameter, given: Path | None) -> Path:
    return project_folder(given)


project_option = click.option(
    "--project",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    callback=_to_folder,
    metavar="DIR",
    help="The project folder; the nearest one at or above this one unless given.",
)
"""``--project DIR``; the function takes ``project: Path``."""

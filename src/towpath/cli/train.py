"""``tow train``: a version from the spine, the features and the train function."""

from datetime import datetime
from pathlib import Path

import click

from towpath.cli.options import as_of_option, json_option, model_argument, project_option
from towpath.cli.show import as_json_asked, show, working
from towpath.errors import InputError


def _share(_ctx: click.Context, _option: click.Parameter, given: str) -> float:
    number, percent = given.removesuffix("%"), given.endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise InputError(
            f"--sample is '{given}'; it is a share above 0 and at most 1.", mend="--sample 1% or --sample 0.01"
        )
    return share


@click.command("train")
@model_argument
@as_of_option
@click.option(
    "--sample",
    default="100%",
    callback=_share,
    metavar="SHARE",
    help="Of the entities, such as 1%; such a version cannot be promoted.",
)
@project_option
@json_option
def command(model: tuple[str, int | None], as_of: datetime | None, sample: float, project: Path) -> None:
    """Train MODEL on what was known at --as-of, and keep it as a version.

    It runs in a process of its own with the resources of model.toml. A train function that fails leaves a failed run.
    """
    from towpath.platform import Platform

    def line(text: str) -> None:
        click.echo(f"  {text}", err=True)

    with Platform.open(project).at(as_of) as platform, working(f"training {model[0]}"):
        trained = platform.models[model[0]].train(sample_share=sample, on_line=line)
    if as_json_asked():
        show(trained)
        return
    show(trained, title=f"{trained.model}@{trained.version}")
    click.echo(f"next: tow gate {trained.model}@{trained.version}")

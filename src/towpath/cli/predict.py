"""``tow predict``: the batch path."""

from datetime import datetime
from pathlib import Path

import click

from towpath.cli.options import as_of_option, json_option, model_argument, project_option
from towpath.cli.show import as_json_asked, show, working


@click.command("predict")
@model_argument
@as_of_option
@click.option(
    "--to",
    default=None,
    metavar="FILE|TABLE",
    help="Also write the answers: a .parquet, .csv or .jsonl file, or schema.table of a warehouse of files or of PostgreSQL, whose rows are replaced.",
)
@project_option
@json_option
def command(model: tuple[str, int | None], as_of: datetime | None, to: str | None, project: Path) -> None:
    """Answer every row of the newest moment at --as-of: same code, fallback and journal as serving.

    Run again it is a new run, and of several for one moment the latest finished one counts.
    """
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform, working(f"predicting {model[0]}"):
        predicted = platform.predict(model[0], to=to)
    show(predicted, title="" if as_json_asked() else f"run {predicted.run_id}")

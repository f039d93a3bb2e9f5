"""``tow try``: one row, answered in this process."""

from datetime import datetime
from pathlib import Path

import click
import msgspec

from towpath.cli.options import as_of_option, json_option, model_argument, project_option
from towpath.cli.show import show
from towpath.errors import InputError


@click.command("try")
@model_argument
@click.argument("row", metavar="JSON")
@as_of_option
@project_option
@json_option
def command(model: tuple[str, int | None], row: str, as_of: datetime | None, project: Path) -> None:
    """Answer one row, such as '{"item_id": "10002"}', and show source, features, their age and timings. Not journalled."""
    from towpath.platform import Platform

    try:
        asked = msgspec.json.decode(row.encode(), type=dict[str, object])
    except msgspec.DecodeError as error:
        raise InputError(
            f"The row is no JSON object: {error}.", mend="""tow try demand '{"item_id": "10002"}'"""
        ) from None
    with Platform.open(project).at(as_of) as platform:
        show(platform.models[model[0]].try_row(asked, version=model[1]))

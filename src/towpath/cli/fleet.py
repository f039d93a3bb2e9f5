"""``tow fleet``: who calls which model, and what it is worth."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from towpath.cli.options import as_of_option, json_option, project_option
from towpath.cli.show import as_json_asked, show

if TYPE_CHECKING:
    from towpath.fleet import FleetRow


@click.command("fleet")
@as_of_option
@project_option
@json_option
def command(as_of: datetime | None, project: Path) -> None:
    """One row for each model of the store: owner, state, champion, calls, fallback share, metric against the fallback."""
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform:
        rows = platform.watch.fleet()
    show(
        rows if as_json_asked() else [_line(row) for row in rows], empty="No models in this store yet: tow train MODEL"
    )


def _line(row: "FleetRow") -> dict[str, object]:
    """What a person looks at first; ``--json`` has everything."""
    interval = f" [{row.difference_low:+.3g}, {row.difference_high:+.3g}]" if row.difference_low is not None else ""
    return {
        "model": row.model,
        "owner": row.owner,
        "state": row.state,
        "champion": row.champion,
        "calls": row.calls,
        "by_fallback": None if row.fallback_share is None else f"{row.fallback_share:.1%}",
        "metric": f"{row.metric} {row.metric_value:.4g}"
        if row.metric_value is not None
        else row.unmeasured or row.metric,
        "minus_fallback": None if row.difference is None else f"{row.difference:+.3g}{interval}",
        "on_rows": row.beside_rows,
        "incidents": f"{row.open_incidents} open" if row.open_incidents else None,
    }

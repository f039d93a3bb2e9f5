"""``tow features``: list, build and read feature views."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from towpath.cli.options import as_of_option, json_option, project_option
from towpath.cli.show import as_json_asked, show, working
from towpath.types import utc

if TYPE_CHECKING:
    from towpath.features import Difference
    from towpath.platform.listed import ViewRow
    from towpath.platform.viewed import FeatureShown


def _share(text: str) -> float:
    """``5%`` or ``0.05``."""
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise click.BadParameter(f"'{text}' is no share; write 5% or 0.05") from None
    if not 0 <= found <= 1:
        raise click.BadParameter(f"'{text}' is not between 0% and 100%")
    return found


@click.group("features", invoke_without_command=True)
@as_of_option
@project_option
@json_option
@click.pass_context
def command(ctx: click.Context, project: Path, as_of: datetime | None) -> None:
    """List the views with their keys, size and the models that read them.

    Where the online store does not answer the rows are unknown; then it exits 2.
    """
    if ctx.invoked_subcommand is not None:
        # --project and --as-of may stand before or after it
        ctx.default_map = {ctx.invoked_subcommand: {"project": project, "as_of": as_of}}
        asked = command.get_command(ctx, ctx.invoked_subcommand)
        if as_of is not None and asked is not None and all(one.name != "as_of" for one in asked.params):
            raise click.UsageError(f"'{asked.name}' takes no --as-of.", ctx)
        return
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform:
        rows = platform.features.list()
        if as_json_asked():
            show(rows)
            _say_unknown(rows)
            return
        show([_line(row, platform.now()) for row in rows], empty="No views yet: add features/<view>.sql")
        for row in rows:
            if row.error:
                click.echo(f"\n{row.view} is broken: {row.error}")
        if rows and all(row.state == "not built" for row in rows):
            click.echo("\nNothing is online yet: tow features build")
        _say_unknown(rows)


@command.command("build")
@click.argument("view", required=False)
@as_of_option
@click.option("--since", type=utc, default=None, metavar="TIME", help="Only the event times at or after it.")
@click.option(
    "--until", type=utc, default=None, metavar="TIME", help="Only what was known by then; --as-of unless given."
)
@click.option("--full", is_flag=True, help="Everything anew, beside what is read; then swap.")
@project_option
@json_option
def build(
    project: Path,
    view: str | None,
    as_of: datetime | None,
    since: datetime | None,
    until: datetime | None,
    full: bool,
) -> None:
    """Bring the online table of VIEW, or of all views, up to what was known at --as-of. Run it again after a crash.

    Reads what became known since the last build where landing can be followed; tow features plan says so beforehand.
    A view that fails stops none of the others; the failures are said in the end, with what hangs on them.
    """
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform, working("building features") as say:
        done = platform.features.building(
            view, since=since, until=until, full=full, progress=lambda name, rows: say(_so_far(name, rows))
        )
    if done.built or not done.failed:
        show([{"view": name, **_facts(result)} for name, result in done.built.items()])
    done.whole()


def _so_far(view: str, rows: int) -> str:
    return f"{view}: {rows:,} rows" if rows else f"{view}: reading"


@command.command("plan")
@click.argument("view", required=False)
@as_of_option
@project_option
@json_option
def plan(project: Path, view: str | None, as_of: datetime | None) -> None:
    """What a build would do, how views changed, and what that breaks for live models. Nothing runs.

    Exits 1 if a live version of a model would lose what it reads.
    """
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform, working("looking at features"):
        rows = platform.features.plan(view)
    show(rows, empty="No views yet: add features/<view>.sql")
    raise SystemExit(1 if any(row.breaks for row in rows) else 0)


@command.command("diff")
@click.argument("view")
@click.argument("a")
@click.argument("b")
@as_of_option
@project_option
@json_option
def diff(project: Path, view: str, a: str, b: str, as_of: datetime | None) -> None:
    """Compare two forms of VIEW, or one at two moments: their schemas, and the values. Exits 1 where they differ.

    A and B are the number of a recorded form (1 is the first), working (the file as it is now), or MODEL@VERSION, each as of
    --as-of; a TIME, at which the file is asked; or both, as in 1:2011-09-01.
    """
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform, working("comparing"):
        found = platform.features.diff(view, a, b)
    if as_json_asked():
        show(found)
    else:
        _show_difference(found)
    raise SystemExit(1 if found.differ else 0)


@command.command("prune")
@project_option
@json_option
def prune(project: Path) -> None:
    """Drop the online tables that neither a file nor a live version of a model needs; tow features plan names them."""
    from towpath.platform import Platform

    with Platform.open(project) as platform:
        show(platform.features.prune(), empty="Every online table is needed.")


@command.command("get")
@click.argument("view")
@click.option("--key", "key", multiple=True, help="One for each key column, in order; numbers as JSON.")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="A column of the request, for on-demand features."
)
@as_of_option
@project_option
@json_option
def get(project: Path, view: str, key: tuple[str, ...], inputs: tuple[str, ...], as_of: datetime | None) -> None:
    """One online row: values, event time, age, and why a value is missing; of an on-demand feature what it gives now."""
    from towpath.platform import Platform
    from towpath.platform.on_demand import input_of

    with Platform.open(project).at(as_of) as platform:
        show(platform.features.get(view, key, inputs=dict(input_of(platform, view, said) for said in inputs)))


@command.command("show")
@click.argument("view")
@as_of_option
@project_option
@json_option
def show_view(project: Path, view: str, as_of: datetime | None) -> None:
    """All about VIEW: its features and what they are made of, which models read them, how fresh it is.

    VIEW is a file of features/, also an on-demand one, or PROJECT/VIEW that another project of the fleet published.
    """
    from towpath.platform import Platform

    with Platform.open(project).at(as_of) as platform:
        found = platform.features.show(view)
    if as_json_asked():
        show(found)
        return
    features = found.pop("features")
    show({name: value for name, value in found.items() if value not in (None, "", ())}, title=view)
    click.echo()
    show([_feature(one, features) for one in features], title="features")


def _show_difference(found: "Difference") -> None:
    facts = {
        name: value
        for name in found.__struct_fields__
        if name not in {"view", "a", "b", "features"} and (value := getattr(found, name)) not in (None, "", ())
    }
    click.echo(f"{found.view}: a is {found.a}, b is {found.b}")
    show(facts)
    if found.rows_both is None:
        click.echo("\nThe keys are others, so no row has its like and no value is compared.")
    elif found.features:
        click.echo()
        chosen = ("feature", "type", "changed", "missing", "extra", "share", "smape", "mean_absolute")
        show([{name: getattr(one, name) for name in chosen} for one in found.features], title="features")
    examples = [
        {"feature": one.feature, "key": pair.key, "a": pair.a, "b": pair.b}
        for one in found.features
        for pair in one.examples
    ]
    if examples:
        click.echo()
        show(examples, title="examples")


def _line(row: "ViewRow", now: datetime) -> dict[str, object]:
    return {
        "view": row.view,
        "entity": row.entity,
        "features": len(row.features),
        "rows": "unknown" if row.online_rows is None else row.online_rows,
        "newest": _ago(now, row.newest_event_time),
        "built": _ago(now, row.built_at),
        "state": row.state,
        "used by": row.used_by,
    }


def _say_unknown(rows: "Sequence[ViewRow]") -> None:
    unknown = dict.fromkeys(row.rows_unknown for row in rows if row.rows_unknown)
    for why in unknown:
        click.echo(f"\nHow many rows are online is unknown. {why}\n  mend:  tow doctor", err=True)
    if unknown:
        raise SystemExit(2)


def _ago(now: datetime, then: datetime | None) -> str | None:
    """``5m ago``, in one unit; the exact time is in the JSON."""
    if then is None:
        return None
    seconds = int((now - then).total_seconds())
    if seconds < 0:
        return f"{then:%Y-%m-%d}"
    units = ((1, "s"), (60, "m"), (3_600, "h"), (86_400, "d"))
    size, unit = next((one for one in reversed(units) if seconds >= 2 * one[0]), units[0])
    return f"{seconds // size}{unit} ago"


def _feature(one: "FeatureShown", all_of: "Sequence[FeatureShown]") -> dict[str, object]:
    """One line; what is the same for all, the only table and the models, stands above already."""
    tables = {part.rpartition(".")[0] for each in all_of for part in each.made_of or ()}
    made_of = [part.rpartition(".")[2] if len(tables) == 1 else part for part in one.made_of or ()]
    differ = len({each.used_by for each in all_of}) > 1
    return {
        "feature": one.feature,
        "type": one.type,
        "missing": one.missing,
        "made of": "unknown" if one.made_of is None else made_of or "a constant, or a count of rows",
        **({"used by": one.used_by} if differ else {}),
        **({"description": one.description} if one.description else {}),
    }


@command.command("skew")
@click.argument("model", required=False)
@click.option(
    "--since", type=utc, default=None, metavar="TIME", help="First moment of the answers; 7 days back unless given."
)
@click.option(
    "--until", type=utc, default=None, metavar="TIME", help="End of the answers, exclusive; now unless given."
)
@click.option(
    "--share",
    type=_share,
    metavar="SHARE",
    default="5%",
    show_default=True,
    help="Of the entity keys, by hash; the server keeps 1 in 16.",
)
@click.option(
    "--limit", type=_share, metavar="SHARE", default="1%", show_default=True, help="Of the answers that may differ."
)
@click.option(
    "--tolerance", type=float, default=1e-6, show_default=True, help="Numbers this close (relative) are equal."
)
@project_option
@json_option
def skew(
    project: Path,
    model: str | None,
    since: datetime | None,
    until: datetime | None,
    share: float,
    limit: float,
    tolerance: float,
) -> None:
    """Compare what MODEL, or every model, was given online with what training would have seen. Exits 1 beyond --limit."""
    from towpath.platform import Platform

    with Platform.open(project) as platform, working("replaying answers"):
        found = platform.features.skew(model, since=since, until=until, share=share, limit=limit, tolerance=tolerance)
    if as_json_asked():
        show(found)
    else:
        show([_short(one) for one in found.features], empty="No answer with looked-up features in that time.")
        for one in found.features:
            for example in one.examples if one.beyond else ():
                said = f"{example.what}: online {example.online}, offline {example.offline}"
                click.echo(f"{one.feature} {example.entity_key} at {example.at:%Y-%m-%d %H:%M:%S}  {said}")
    for view, because in found.left_out.items():
        click.echo(f"not replayed: '{view}': {because}", err=True)
    raise SystemExit(1 if any(one.beyond for one in found.features) else 0)


def _short(one: object) -> dict[str, object]:
    names = ("model", "feature", "compared", "mismatch", "stale", "missing", "extra", "smape", "share", "beyond")
    return {name: getattr(one, name) for name in names}


def _facts(built: object) -> dict[str, object]:
    return {
        name: getattr(built, name) for name in ("rows", "entities", "seconds", "newest_event_time", "work", "because")
    }

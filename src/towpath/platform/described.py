"""What an embedded engine says of a project's SQL before anything runs: types, which no parser knows."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from towpath.errors import ProjectError, TowpathError, nearest
from towpath.features.keys import family
from towpath.project.lines import Lines
from towpath.project.problem import Problem, problems_of
from towpath.types import type_name
from towpath.warehouse import FileWarehouse

if TYPE_CHECKING:
    from towpath.features import View
    from towpath.platform.opened import Platform
    from towpath.project import ModelFolder
    from towpath.sql import Query

__all__ = ["refused_by_the_engine"]


def refused_by_the_engine(platform: "Platform") -> list[Problem]:
    """What builds and training would refuse: a time column that is text, a column or a function that is not there.

    A server is not asked. A table that is not here yet is a warning, because the files may come later.

    Args:
        platform: Of a project without faults.
    """
    if not isinstance(platform.warehouse, FileWarehouse):
        return []
    there = {*platform.warehouse.tables(), *(f"landing.{view}" for view in platform.project.views)}
    found: list[Problem] = []
    views: dict[str, View] = {}
    for view in platform.project.views.values():
        if lacking := sorted(set(view.query.tables) - there):
            found += [_no_table(view.query, table, there) for table in lacking]
        else:
            found += _faults(view.query, lambda view=view: views.update({view.name: platform.features.view(view.name)}))
    for model in platform.project.models.values():
        if lacking := sorted(set(model.training.query.tables) - there):
            found += [_no_table(model.training.query, table, there) for table in lacking]
        else:
            found += _faults(model.training.query, lambda model=model: _describe_spine(platform, model, views))
    return found


def _no_table(query: "Query", table: str, there: Collection[str]) -> Problem:
    said = f"reads the table '{table}', which the warehouse does not have"
    mend = nearest(table, there).removeprefix("; ") or "tow doctor lists those that it has"
    line = query.line_of(table.rpartition(".")[2]) or query.select_line
    return Problem(query.path, line, said, mend, warning=True)


def _faults(query: "Query", describe: Callable[[], object]) -> list[Problem]:
    try:
        describe()
    except ProjectError as error:
        if error.problems:
            return problems_of(error, query.path)
        _, _, line = error.where.rpartition(":")
        return [
            Problem(query.path, int(line) if line.isdigit() else query.select_line, error.what.rstrip("."), error.mend)
        ]
    except TowpathError:
        return []  # a file that cannot be read is told where it is read
    return []


def _describe_spine(platform: "Platform", model: "ModelFolder", views: "Mapping[str, View]") -> None:
    """Refuse a time column of a spine that is no time, and a key of another type than in a view that the model reads."""
    query, header = model.training.query, model.training.header
    schema = platform.warehouse.describe(query)
    lines = Lines(query.header_text, query.header_line)
    problems = [
        f"{query.path}:{lines.of((place,))}: {place} '{name}' is {type_name(str(schema.field(name).type))}; cast it to timestamp"
        for place, name in (("time", header.time), ("label_time", header.label_time))
        if name in schema.names and not str(schema.field(name).type).startswith(("timestamp", "date"))
    ]
    read = dict.fromkeys(name.split(".")[0] for name in platform.features.split(model.declaration.features).features)
    problems += [
        f"{query.path}:{query.line_of(key) or query.select_line}: key '{key}' is {type_name(kind)}, and {type_name(wanted)} in the view '{name}'; cast one of them"
        for name in read
        if name in views
        for key, wanted in zip(views[name].header.keys, views[name].key_types, strict=True)
        if key in schema.names and family(kind := str(schema.field(key).type)) != family(wanted)
    ]
    if problems:
        raise ProjectError(f"The spine of '{model.name}' is wrong.", query.path, "cast in the SELECT", problems)

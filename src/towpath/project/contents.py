"""What only shows when the SQL is parsed and the golden cases are read; still nothing runs."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from towpath.errors import ProjectError, nearest
from towpath.project.faults import Declared
from towpath.project.folder import Draft, MetricFile, MonitorFile, Reading, ViewFile
from towpath.project.lines import Place
from towpath.project.on_demand import TIME, OnDemandFile, is_feature
from towpath.project.problem import Problem, problems_of
from towpath.project.sources import unread_sources
from towpath.settings import secret
from towpath.sql import Query

if TYPE_CHECKING:
    from sqlglot import exp

__all__ = ["columns_of", "deep_problems"]

_MOMENTS = ("as_of", "since", "until")
_ENGINES = {"duckdb": "duckdb", "postgresql": "postgres", "snowflake": "snowflake", "bigquery": "bigquery"}
"""Scheme of the warehouse's URL → the dialect that it runs."""
_GOLDEN = ("request", "answer", "tolerance")
_NOT_ROW_BY_ROW = ("where", "group", "having", "distinct", "limit", "offset", "order", "joins", "qualify")


def deep_problems(reading: Reading) -> list[Problem]:
    """Faults of SQL, of columns that headers and models name, and of golden cases."""
    found: list[Problem] = []
    columns = {name: _view(view, reading, found) for name, view in reading.views.items()}
    columns |= {name: tuple(file.header.outputs or {}) for name, file in reading.on_demand.items()}
    _on_demand(reading, columns, found)
    _dialects(reading, found)
    for metric in reading.metrics.values():
        if not metric.built_in:
            _metric(metric, found)
    for monitor in reading.monitors.values():
        _monitor(monitor, reading, found)
    for draft in reading.drafts:
        spine = _spine(draft, reading, found)
        _features(draft, reading, columns, spine, found)
        _golden(draft, reading, found)
    if reading.sources:
        before = len(reading.problems)
        unread_sources(reading, dict.fromkeys(_tables(reading)))
        found += reading.problems[before:]
    return found


def _tables(reading: Reading) -> Iterator[str]:
    """Tables that the SQL of the project reads, as far as it parses."""
    queries = [view.query for view in reading.views.values()]
    queries += [draft.spine.query for draft in reading.drafts if draft.spine is not None]
    for monitor in reading.monitors.values():
        for text in monitor.header.inputs.values():
            with contextlib.suppress(ProjectError):
                queries.append(Query.parse(text, monitor.query.path))
    for query in queries:
        with contextlib.suppress(ProjectError):  # said where the query is looked at
            yield from query.tables


def columns_of(query: Query) -> tuple[str, ...] | None:
    """The columns that a SELECT gives by name; None where a star hides them.

    Example:
        >>> columns_of(Query.parse("select a, b as c, d + 1 from t")), columns_of(Query.parse("select * from t"))
        (('a', 'c'), None)
    """
    from sqlglot import exp

    tree = query.tree
    if tree.is_star or any(found.find(exp.Columns) for found in tree.selects):
        return None
    return tuple(name for name in tree.named_selects if name)


def _columns(query: Query, allowed: Iterable[str], found: list[Problem]) -> tuple[str, ...] | None:
    """The columns of a SELECT, and what is wrong with it; None where they are not known."""
    try:
        query.check_parameters(allowed)
        columns = columns_of(query)
    except ProjectError as error:
        found += problems_of(error, query.path)
        return None
    for name in sorted({name for name in columns or () if (columns or ()).count(name) > 1}):
        found.append(
            Problem(query.path, query.select_line, f"the SELECT gives '{name}' twice", "name one of them otherwise")
        )
    return columns


def _missing(
    names: Sequence[tuple[Place, str | None]], columns: tuple[str, ...] | None, declared: Declared
) -> list[Problem]:
    """A problem for each name in a header that the SELECT does not give."""
    return [
        Problem(
            declared.file,
            declared.lines.of(place),
            f"{'.'.join(str(part) for part in place[:1])} '{name}' is no column of the SELECT",
            nearest(name, columns).removeprefix("; "),
        )
        for place, name in names
        if columns is not None and name is not None and name not in columns
    ]


def _dialects(reading: Reading, found: list[Problem]) -> None:
    """Files in the SQL of an engine that is not the warehouse; where its URL is not known here, that is said."""
    if reading.settings is None:
        return
    warehouse = reading.settings.warehouse
    queries = [view.query for view in reading.views.values()]
    queries += [draft.spine.query for draft in reading.drafts if draft.spine is not None]
    foreign = [query for query in queries if query.dialect != "duckdb"]
    try:
        url = secret(warehouse.url, reading.folder, reading.variables)
    except ProjectError as error:
        if foreign:
            line = reading.places["towpath.toml"].lines.of(("warehouse", "url"))
            said = f"whether '{foreign[0].path}' in the SQL of '{foreign[0].dialect}' runs is not known: {error.what.rstrip('.')}"
            found.append(Problem("towpath.toml", line, said, error.mend, warning=True))
        return
    engine = _ENGINES.get(url.partition("://")[0])
    if engine is None:
        return
    if warehouse.dialect not in {"duckdb", engine}:
        line = reading.places["towpath.toml"].lines.of(("warehouse", "dialect"))
        said = f"the project's SQL is written for '{warehouse.dialect}', and its warehouse runs '{engine}'"
        found.append(Problem("towpath.toml", line, said, "mend dialect, or url"))
        return
    for query in foreign:
        try:
            query.check_runs_on(engine)
        except ProjectError as error:
            file, _, line = error.where.rpartition(":")
            found.append(Problem(file, int(line), error.what.rstrip("."), error.mend))


def _keys(entity: Sequence[str | None] | str | None) -> list[tuple[Place, str | None]]:
    if entity is None or isinstance(entity, str):
        return [(("entity",), entity)]
    return [(("entity", i), name) for i, name in enumerate(entity)]


def _view(view: ViewFile, reading: Reading, found: list[Problem]) -> tuple[str, ...] | None:
    """The features of a view; None where they are not known."""
    columns = _columns(view.query, _MOMENTS, found)
    header, declared = view.header, reading.places[view.query.path]
    own = [*_keys(header.entity), (("event_time",), header.event_time), (("created_time",), header.created_time)]
    found += _missing([*own, *((("features", name), name) for name in header.features)], columns, declared)
    if columns is None:
        return None
    taken = {name for _, name in own}
    features = tuple(name for name in columns if name not in taken)
    if not features:
        found.append(
            Problem(view.query.path, view.query.select_line, "the view has keys and times and no feature", "select one")
        )
    return features


def _spine(draft: Draft, reading: Reading, found: list[Problem]) -> tuple[str, ...] | None:
    if draft.spine is None:
        return None
    query, header = draft.spine.query, draft.spine.header
    columns = _columns(query, _MOMENTS, found)
    names = [
        *_keys(header.entity),
        (("time",), header.time),
        (("label",), header.label),
        (("label_time",), header.label_time),
        (("weight",), header.weight),
        *((("segments", i), name) for i, name in enumerate(header.segments)),
    ]
    found += _missing(names, columns, reading.places[query.path])
    return columns


def _features(
    draft: Draft,
    reading: Reading,
    columns: dict[str, tuple[str, ...] | None],
    spine: tuple[str, ...] | None,
    found: list[Problem],
) -> None:
    """Features that a view does not give, and views whose keys the spine does not give."""
    if draft.declaration is None:
        return
    declared = reading.places[f"{reading.name(draft.folder)}/model.toml"]
    own = reading.settings.project.name if reading.settings else ""
    unkeyed: set[str] = set()
    for position, feature in enumerate(draft.declaration.features or ()):
        project, _, local = (feature or "").rpartition("/")
        view, _, name = local.partition(".")
        if project not in {"", own} or view not in columns:
            continue
        line, known = declared.lines.of(("features", position)), columns[view]
        if known is not None and name not in {"*", *known}:
            mend = nearest(name, known).removeprefix("; ")
            found.append(Problem(declared.file, line, f"view '{view}' has no feature '{name}'", mend))
        for what, lacking in _needed(view, reading):
            if spine is not None and lacking not in spine and what not in unkeyed:
                unkeyed.add(what)
                said = f"{what} '{lacking}', which training.sql does not select"
                found.append(Problem(declared.file, line, said, f"select {lacking} in training.sql"))
            elif draft.spine is not None and lacking == draft.spine.header.label and lacking and "request's" in what:
                said = f"{what} '{lacking}', which is the label: nobody knows it when a prediction is asked for"
                found.append(Problem(declared.file, line, said, "another input"))


def _needed(view: str, reading: Reading) -> list[tuple[str, str]]:
    """Columns that the spine must give for a view, each with who wants it."""
    needed: list[tuple[str, str]] = []
    for name in _behind(view, reading):
        if name in reading.views:
            keys = [key for _, key in _keys(reading.views[name].header.entity) if key]
            needed += [(f"view '{name}' is keyed by", key) for key in keys]
        elif name in reading.on_demand:
            inputs = (reading.on_demand[name].header.inputs or {}).items()
            asked = [one for one, said in inputs if said.type and said.type != TIME and not is_feature(said.type)]
            needed += [(f"'{name}' reads the request's", one) for one in asked]
    return needed


def _behind(view: str, reading: Reading) -> list[str]:
    """A view and, of an on-demand one, all those that it reads."""
    found, waiting = list[str](), [view]
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found.append(name)
            waiting += _read_by(reading.on_demand[name], reading) if name in reading.on_demand else []
    return found


def _read_by(file: OnDemandFile, reading: Reading) -> list[str]:
    """The project's own views that an on-demand feature reads."""
    own = reading.settings.project.name if reading.settings else ""
    kinds = [one.type for one in (file.header.inputs or {}).values() if one.type and is_feature(one.type)]
    local = [kind.rpartition("/") for kind in kinds]
    return [name.partition(".")[0] for project, _, name in local if project in {"", own}]


def _on_demand(reading: Reading, columns: dict[str, tuple[str, ...] | None], found: list[Problem]) -> None:
    """Inputs that no view gives, columns of the request with two types, and circles."""
    own = reading.settings.project.name if reading.settings else ""
    said: dict[str, tuple[str, str]] = {}
    for file in reading.on_demand.values():
        declared = reading.places[file.path]
        for name, one in (file.header.inputs or {}).items():
            line, kind = declared.lines.of(("inputs", name)), one.type
            if not kind or kind == TIME:
                continue
            if not is_feature(kind):
                first, where = said.setdefault(name, (kind, file.path))
                if first != kind:
                    what = f"input '{name}' is '{kind}' here and '{first}' in {where}"
                    found.append(Problem(declared.file, line, what, "one type for a column of the request"))
                continue
            project, _, local = kind.rpartition("/")
            view, _, feature = local.partition(".")
            if project not in {"", own}:
                continue
            if view not in columns:
                if not any(view == _stem(other) for other in reading.names["view"]):
                    mend = nearest(view, columns).removeprefix("; ")
                    found.append(Problem(declared.file, line, f"unknown view '{view}' in '{kind}'", mend))
            elif (known := columns[view]) is not None and feature not in known:
                mend = nearest(feature, known).removeprefix("; ")
                found.append(Problem(declared.file, line, f"view '{view}' has no feature '{feature}'", mend))
        for name in _read_by(file, reading):
            if file.name in _behind(name, reading) and name in reading.on_demand:
                what = f"'{file.name}' reads '{name}', which reads '{file.name}'"
                what = f"'{file.name}' reads itself" if name == file.name else what
                found.append(Problem(declared.file, declared.lines.of(("inputs",)), what, "break the circle"))


def _stem(file: str) -> str:
    return file.rpartition("/")[2].partition(".")[0]


def _metric(metric: MetricFile, found: list[Problem]) -> None:
    query = metric.query
    columns = _columns(query, (), found)
    if columns is None:
        return
    found += [
        Problem(query.path, query.select_line, f"the SELECT gives no '{name}'", f"… as {name}")
        for name in ("numerator", "denominator")
        if name not in columns
    ]
    if query.tables != ("scored",):
        said = " and ".join(f"'{table}'" for table in query.tables) or "no table"
        found.append(Problem(query.path, query.select_line, f"a metric reads {said}", "read 'scored' alone"))
    if not _row_by_row(query.tree):
        found.append(
            Problem(
                query.path,
                query.select_line,
                "a metric gives one row for each row of 'scored'",
                "no where, group, order, limit, join",
            )
        )


def _row_by_row(tree: "exp.Query") -> bool:
    from sqlglot import exp

    return (
        isinstance(tree, exp.Select)
        and not tree.find(exp.AggFunc)
        and not any(tree.args.get(part) for part in _NOT_ROW_BY_ROW)
    )


def _monitor(monitor: MonitorFile, reading: Reading, found: list[Problem]) -> None:
    header, declared = monitor.header, reading.places[monitor.query.path]
    _columns(monitor.query, (*_MOMENTS, "model", *header.parameters), found)
    for name, text in header.inputs.items():
        line = declared.lines.of(("inputs", name))
        try:
            Query.parse(text, declared.file).check_parameters(_MOMENTS)
        except ProjectError as error:
            # Lines inside a value of the header start where the value does.
            found += [
                Problem(p.file, line + p.line - 1, f"input '{name}': {p.what}", p.mend)
                for p in problems_of(error, declared.file)
            ]


def _golden(draft: Draft, reading: Reading, found: list[Problem]) -> None:
    path = draft.folder / "golden.jsonl"
    file = reading.name(path)
    if not path.is_file():
        return
    before = len(reading.problems)
    text = reading.text(path)
    found += reading.problems[before:]
    lines = [(i, line) for i, line in enumerate((text or "").split("\n"), start=1) if line.strip()]
    if text is not None and not lines:
        found.append(Problem(file, 1, "there is no golden case", '{"request": {…}, "answer": …} one a line'))
    for number, line in lines:
        found += [Problem(file, number, what, mend) for what, mend in _golden_faults(line)]


def _golden_faults(line: str) -> list[tuple[str, str]]:
    shape = '{"request": {…}, "answer": …, "tolerance": 0.01}'
    try:
        case = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        return [(f"the line is no JSON: {error}", shape)]
    if not isinstance(case, dict):
        return [("the line is no JSON object", shape)]
    case = cast("dict[str, object]", case)
    # Without an answer the case asks only for one that the model's [output] allows.
    faults = [] if "request" in case else [("'request' is missing", shape)]
    faults += [
        (f"unknown field '{name}'", nearest(name, _GOLDEN).removeprefix("; ")) for name in case if name not in _GOLDEN
    ]
    if "request" in case and not isinstance(case["request"], dict):
        faults.append(("'request' is no object", '"request": {"column": value}'))
    tolerance = case.get("tolerance", 0)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or tolerance < 0:
        faults.append((f"'tolerance' is {tolerance}", "a number, 0 or more"))
    return faults

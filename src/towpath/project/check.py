"""Every problem of a project at once, without running anything: names, SQL, code, golden cases."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from towpath.errors import nearest
from towpath.project.circles import circle_from
from towpath.project.code import Code
from towpath.project.cron import cron_fault
from towpath.project.declarations import KINDS, FallbackDeclaration, FeatureDeclaration, FeatureHeader, ModelDeclaration
from towpath.project.faults import Declared
from towpath.project.folder import Draft, Reading
from towpath.project.lines import Place
from towpath.project.locks import MEND, lacking, lock_beside
from towpath.project.on_demand import OnDemandFile, unpublished
from towpath.project.problem import Problem
from towpath.types import duration

__all__ = ["problems", "shallow_problems"]


def problems(folder: Path | str, variables: Mapping[str, str] | None = None) -> list[Problem]:
    """Everything that is wrong in a project folder, sorted by file and line; empty where all is well.

    Args:
        folder: The project folder.
        variables: The process environment; `os.environ` unless given.
    """
    from towpath.project.contents import deep_problems

    reading = Reading(Path(folder).absolute(), variables)
    return sorted({*shallow_problems(reading), *deep_problems(reading)})


def shallow_problems(reading: Reading) -> list[Problem]:
    """What was wrong while reading, and names in one file that no other file has; parses no SQL."""
    for draft in reading.drafts:
        if draft.declaration is not None:
            declared = reading.places[f"{reading.name(draft.folder)}/model.toml"]
            _check_features(reading, draft.declaration, declared)
            _check_metrics(reading, draft.declaration, declared)
            _check_fallbacks(reading, draft, declared)
            _check_schedule(draft.declaration, declared)
        _check_lock(reading, draft)
    for view in reading.views.values():
        _check_cron(view.header.schedule, ("schedule",), reading.places[view.query.path])
        _check_keep(view.header, reading.places[view.query.path])
        _check_keys(view.header, reading.places[view.query.path])
        _check_defaults(view.header.features or {}, "features", reading.places[view.query.path])
    for function in reading.on_demand.values():
        _check_defaults(function.header.outputs or {}, "outputs", reading.places[function.path])
        _check_published(reading, function)
    known = [Path(file).name for file in reading.names["model"]]
    for monitor in reading.monitors.values():
        model = monitor.header.model
        if model is not None and model not in known:
            reading.places[monitor.query.path].note(("model",), f"unknown model '{model}'", _mend(model, known))
    return sorted(set(reading.problems))


def _check_lock(reading: Reading, draft: Draft) -> None:
    """A lock that no environment could be built from, and one of a kind that is not read."""
    lock = lock_beside(draft.folder)
    other = draft.folder / "uv.lock"
    if lock is None and other.is_file():
        mend = "uv export --format requirements.txt -o requirements.lock"
        reading.problems.append(Problem(reading.name(other), 1, "a uv.lock is not read: it hangs on its project", mend))
    wrong = "" if lock is None else lacking(lock.name, lock.read_bytes(), training=True)
    if lock is not None and wrong:
        reading.problems.append(Problem(reading.name(lock), 1, wrong, MEND))


def _check_features(reading: Reading, declaration: ModelDeclaration, declared: Declared) -> None:
    views = [Path(file).stem for file in reading.names["view"]]
    own = reading.settings.project.name if reading.settings else None
    features = declaration.features or ()
    for position, feature in enumerate(features):
        if feature is None:  # pyright: ignore[reportUnnecessaryComparison] - faulty, and reported where it was read
            continue
        project, _, local = feature.rpartition("/")
        view = local.split(".")[0]
        if project in {"", own} and view not in views:
            declared.note(("features", position), f"unknown view '{view}' in '{feature}'", _mend(view, views))
        elif project in {"", own} and view in reading.views and _never_online(reading, view, declaration):
            said = f"'{feature}' is of a view with online = false, so a served answer never has it"
            declared.note(("features", position), said, "online = true, or [schedule] predict where only batches ask")
        if feature in features[:position]:
            declared.note(("features", position), f"'{feature}' is named twice", "remove one")


def _check_metrics(reading: Reading, declaration: ModelDeclaration, declared: Declared) -> None:
    known = {*reading.metrics, *(Path(file).stem for file in reading.names["metric"])}
    gate = declaration.gate
    if gate.metric not in known:
        declared.note(("gate", "metric"), f"unknown metric '{gate.metric}'", _mend(gate.metric, known))
    for position, name in enumerate(gate.beside):
        if name is not None and name not in known:  # pyright: ignore[reportUnnecessaryComparison] - as above
            declared.note(("gate", "beside", position), f"unknown metric '{name}'", _mend(name, known))


def _check_fallbacks(reading: Reading, draft: Draft, declared: Declared) -> None:
    declaration = cast("ModelDeclaration", draft.declaration)
    chain = declaration.fallback
    if declaration.tier == "critical" and not chain:
        declared.note(
            ("tier",),
            "a critical model must have a fallback",
            f"[[fallback]] with name and one of {', '.join(KINDS)}",
        )
    for position, link in enumerate(chain):
        place = ("fallback", position)
        _check_link(link, draft.code, place, declared)
        if link.model is not None:
            _check_other_model(reading, draft.folder.name, link.model, (*place, "model"), declared)
        if link.sql is not None:
            _check_sql(reading, link.sql, (*place, "sql"), declared)
        if link.constant is not None and position < len(chain) - 1:
            said = f"fallback '{link.name}' always has an answer, so '{chain[position + 1].name}' is never asked"
            declared.note(place, said, "the constant last")
        if link.name is not None and link.name in [other.name for other in chain[:position]]:  # pyright: ignore[reportUnnecessaryComparison] - as above
            declared.note((*place, "name"), f"two fallbacks are named '{link.name}'", "rename one")
    if chain and declaration.tier == "critical" and chain[-1].kinds in {("model",), ("sql",), ("last",), ("version",)}:
        said = f"the chain of a critical model ends in '{chain[-1].name}', which may have no answer"
        declared.note(("fallback", len(chain) - 1), said, "end with a constant or a function")


def _check_link(link: FallbackDeclaration, code: Code | None, place: Place, declared: Declared) -> None:
    given = link.kinds
    if len(given) != 1:
        said = " and ".join(given) or f"none of {', '.join(KINDS)}"
        declared.note(place, f"fallback '{link.name}' has {said}", f"exactly one of {', '.join(KINDS)}")
    if link.function is not None and code is not None and code.functions and link.function not in code.functions:
        known = [name for name in code.functions if name not in {"train", "predict"}]
        said = f"model.py has no function '{link.function}'"
        declared.note((*place, "function"), said, _mend(link.function, known) or f"def {link.function}(rows): …")


def _check_other_model(reading: Reading, own: str, other: str, place: Place, declared: Declared) -> None:
    """The other model is one of the project, and no chain comes back to where it began."""
    known = [Path(file).name for file in reading.names["model"]]
    if other not in known:
        declared.note(place, f"unknown model '{other}'", _mend(other, [name for name in known if name != own]))
        return
    asks = {
        draft.folder.name: [link.model for link in draft.declaration.fallback if link.model is not None]
        for draft in reading.drafts
        if draft.declaration is not None
    }
    circle = circle_from(own, other, asks)
    if circle:
        declared.note(place, f"the chains of {' and '.join(circle)} ask each other", "break the circle")


def _check_sql(reading: Reading, feature: str, place: Place, declared: Declared) -> None:
    project, _, local = feature.rpartition("/")
    own = reading.settings.project.name if reading.settings else None
    if project not in {"", own}:
        return
    views = [Path(file).stem for file in reading.names["view"] if file.endswith(".sql")]
    view = local.split(".")[0]
    if view not in views:
        declared.note(place, f"unknown view '{view}' in '{feature}'", _mend(view, views) or f"features/{view}.sql")
    elif view in reading.views and not reading.views[view].header.online:
        said = f"'{feature}' is of a view with online = false, so the online store never has it"
        declared.note(place, said, "online = true in its header")


def _check_schedule(declaration: ModelDeclaration, declared: Declared) -> None:
    for name in ("train", "predict"):
        _check_cron(getattr(declaration.schedule, name), ("schedule", name), declared)


def _check_cron(line: str | None, place: Place, declared: Declared) -> None:
    if line is not None and (fault := cron_fault(line)):
        declared.note(
            place, f"'{line}' is no cron line: {fault}", 'minute hour day month weekday, such as "0 5 * * mon"'
        )


def _check_keep(header: FeatureHeader, declared: Declared) -> None:
    """What is taken out of the landing table must be too old for a build to need it again."""
    keep = header.landing_keep
    for name in ("ttl", "lookback"):
        other = getattr(header, name)
        if keep is not None and other is not None and duration(keep) < duration(other):
            what = f"pushed rows would go after {keep}, before the {name} of {other} is over"
            declared.note(("landing_keep",), what, f"{other} or more")


def _check_keys(header: FeatureHeader, declared: Declared) -> None:
    keys = header.keys or ()
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        declared.note(("entity",), f"entity names '{twice[0]}' twice", "each key column once")


def _check_defaults(features: Mapping[str, FeatureDeclaration], table: str, declared: Declared) -> None:
    """A default and the rule that takes it go together; a default alone would do nothing, and say nothing."""
    for name, said in features.items():
        if said.missing == "default" and said.default is None:
            declared.note((table, name), f"'{name}' is missing = \"default\" and has no default", "default = …")
        elif said.default is not None and said.missing == "null":
            declared.note((table, name), f"the default of '{name}' is never used", 'missing = "default"')


def _check_published(reading: Reading, function: OnDemandFile) -> None:
    """Whoever asks for a published function reads its views too, so a build refuses to publish it without them; here it runs."""
    own = reading.settings.project.name if reading.settings else ""
    known = {name: one.header.publish for name, one in (*reading.views.items(), *reading.on_demand.items())}
    if function.header.publish:
        for argument, read in unpublished(function.header, own, known).items():
            kind = ".sql" if read in reading.views else ".py"
            said = f"'{function.name}' is published and reads '{function.header.inputs[argument].type}', which is not"
            mend = f"publish = true in features/{read}{kind}, or another '{argument}'"
            reading.places[function.path].note(("inputs", argument), said, mend, warning=True)


def _never_online(reading: Reading, view: str, declaration: ModelDeclaration) -> bool:
    return not reading.views[view].header.online and declaration.schedule.predict is None


def _mend(name: str, known: Iterable[str]) -> str:
    return nearest(name, known).removeprefix("; ")

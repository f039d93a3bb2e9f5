"""A project folder, read into frozen values; whatever is wrong in it is reported at once."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from towpath.errors import ProjectError
from towpath.project.code import Code, read_code
from towpath.project.declarations import FeatureHeader, MetricHeader, ModelDeclaration, MonitorHeader, TrainingHeader
from towpath.project.faults import Declared
from towpath.project.lines import Lines, Place
from towpath.project.on_demand import OnDemandFile, read_on_demand
from towpath.project.problem import Problem, problems_of
from towpath.project.sources import FILE, SourceDeclaration, read_sources
from towpath.settings import Settings, load
from towpath.sql import Query
from towpath.types import Dialect, Name

__all__ = [
    "Draft",
    "MetricFile",
    "ModelFolder",
    "MonitorFile",
    "Project",
    "Reading",
    "SpineFile",
    "ViewFile",
    "built_in_metrics",
]


class ViewFile(msgspec.Struct, frozen=True, kw_only=True):
    """``features/<name>.sql``."""

    name: str
    query: Query
    header: FeatureHeader


class SpineFile(msgspec.Struct, frozen=True, kw_only=True):
    """``models/<name>/training.sql``."""

    query: Query
    header: TrainingHeader


class MetricFile(msgspec.Struct, frozen=True, kw_only=True):
    """``metrics/<name>.sql``, or one that comes with Towpath."""

    name: str
    query: Query
    header: MetricHeader
    built_in: bool = False


class MonitorFile(msgspec.Struct, frozen=True, kw_only=True):
    """``monitors/**/<name>.sql``."""

    name: str
    """The path below ``monitors`` without its suffix, such as ``demand/too_high``."""
    query: Query
    header: MonitorHeader


class ModelFolder(msgspec.Struct, frozen=True, kw_only=True):
    """``models/<name>/``."""

    name: str
    folder: Path
    """Absolute where the project's folder is."""
    declaration: ModelDeclaration
    training: SpineFile
    code: Code
    golden: Path | None
    """``golden.jsonl``; None where there is none."""

    @property
    def has_predict(self) -> bool:
        """Whether ``model.py`` answers itself."""
        return self.code.has_predict


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that people declared, checked."""

    folder: Path
    settings: Settings
    views: dict[str, ViewFile]
    metrics: dict[str, MetricFile]
    """The built-in ones, and the project's own; of one name the project's own wins."""
    models: dict[str, ModelFolder]
    monitors: dict[str, MonitorFile]
    sources: dict[str, SourceDeclaration] = {}
    """What ``sources.toml`` expects of tables, by table."""
    on_demand: dict[str, OnDemandFile] = {}
    """``features/<name>.py``."""

    @property
    def name(self) -> str:
        """Of the project, unique in the fleet."""
        return self.settings.project.name

    @property
    def team(self) -> str:
        """Who answers for it."""
        return self.settings.project.team


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A model folder as far as it could be read."""

    name: str
    folder: Path
    declaration: ModelDeclaration | None
    spine: SpineFile | None
    code: Code | None


class Reading:
    """One pass over a folder: what could be read, and every problem on the way.

    A value that stands in `views`, `drafts` and so on may have holes where `problems` is not empty; only `project` is whole.

    Args:
        folder: The project folder.
        variables: The process environment; `os.environ` unless given.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self.places: dict[str, Declared] = {}
        """File → where its keys stand."""
        self.settings: Settings | None = None
        self.views: dict[str, ViewFile] = {}
        self.on_demand: dict[str, OnDemandFile] = {}
        self.drafts: list[Draft] = []
        self.monitors: dict[str, MonitorFile] = {}
        self.sources: dict[str, SourceDeclaration] = {}
        self.metrics: dict[str, MetricFile] = dict(built_in_metrics())
        self.names: dict[str, list[str]] = {"view": [], "metric": [], "model": []}
        """Every name that is there, also of files that cannot be read, so that one fault does not look like two."""
        self.variables = variables
        self._read_settings()
        self._read_views()
        self._read_metrics()
        self._read_models()
        self._read_monitors()
        self._read_sources()

    @property
    def project(self) -> Project:
        """The whole project; only where `problems` is empty."""
        if self.settings is None:
            raise ProjectError("The project's settings cannot be read.", str(self.folder), "tow check")
        return Project(
            folder=self.folder,
            settings=self.settings,
            views=self.views,
            metrics=self.metrics,
            models={draft.name: _whole(draft) for draft in self.drafts},
            monitors=self.monitors,
            sources=self.sources,
            on_demand=self.on_demand,
        )

    def note(self, file: str, line: int, what: str, mend: str = "") -> None:
        """Add a problem."""
        self.problems.append(Problem(file, line, what, mend))

    def text(self, path: Path) -> str | None:
        """The text of a file, or None and a problem."""
        try:
            raw = path.read_bytes()
            return raw.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            self.note(
                self.name(path), line, f"byte 0x{error.object[error.start]:02x} is no UTF-8", "save the file as UTF-8"
            )
        except OSError as error:
            self.note(self.name(path), 1, f"the file cannot be read: {error.strerror}", "check the path and its rights")
        return None

    def name(self, path: Path) -> str:
        """A path as messages show it."""
        return path.relative_to(self.folder).as_posix()

    def toml(self, path: Path) -> tuple[dict[str, Any], Declared] | None:
        """A parsed TOML file and where its keys stand, or None and a problem."""
        text = self.text(path)
        if text is None:
            return None
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self.note(
                self.name(path), _line_in(str(error), text), f"the file is no TOML: {error}", "key = value, one a line"
            )
            return None
        return raw, self._declared(path, Lines(text))

    def _declared(self, path: Path, lines: Lines) -> Declared:
        declared = Declared(self.name(path), lines)
        self.places[declared.file] = declared
        declared.problems = self.problems
        return declared

    def _query(self, path: Path, dialect: Dialect = "duckdb") -> Query | None:
        text = self.text(path)
        if text is None:
            return None
        try:
            return Query.parse(text, self.name(path), dialect=dialect)
        except ProjectError as error:
            self.problems += problems_of(error, self.name(path))
            return None

    def _headed(self, path: Path, kind: type[Any]) -> tuple[Query, Any] | None:
        """A .sql file with its header as a struct, which has holes where it was faulty."""
        own = self.settings is not None and kind in (FeatureHeader, TrainingHeader)
        query = self._query(path, self.settings.warehouse.dialect if own and self.settings else "duckdb")
        if query is None:
            return None
        declared = self._declared(path, Lines(query.header_text, query.header_line))
        if not query.header.keys() - {"dialect"}:
            self.note(declared.file, 1, "the file has no header", "begin it with /* ---, TOML and --- */")
            return None
        return query, declared.read(kind, query.header)

    def _read_settings(self) -> None:
        path = self.folder / "towpath.toml"
        if not path.is_file():
            self.note("towpath.toml", 1, "the file is missing", "tow init, or cd into a project folder")
            return
        parsed = self.toml(path)
        if parsed is None:
            return
        raw, declared = parsed
        before = len(self.problems)
        environments = raw.pop("environments", {})
        declared.read(Settings, raw)
        if table := _table(declared, ("environments",), environments):
            for name, values in table.items():
                self._read_environment(declared, ("environments", name), values)
        _note_passwords(declared, raw | {"environments": environments})
        if len(self.problems) == before:
            try:
                self.settings = load(self.folder, self.variables)
            except ProjectError as error:
                self.problems += problems_of(error, "towpath.toml")

    def _read_environment(self, declared: Declared, place: Place, values: object) -> None:
        sections: dict[str, Any] = {field.name: field.type for field in msgspec.structs.fields(Settings)}
        for section, inner in _table(declared, place, values).items():
            if section in sections and section != "environment":
                table = _table(declared, (*place, section), inner)
                declared.read(sections[section], table, (*place, section), partial=True)
            else:
                declared.read(Settings, {section: inner}, place, partial=True)

    def _read_views(self) -> None:
        for path in self._files("features", ".sql"):
            headed = self._headed(path, FeatureHeader) if self._named(path, path.stem, "view") else None
            if headed:
                self.views[path.stem] = ViewFile(name=path.stem, query=headed[0], header=headed[1])
        for path in self._files("features", ".py"):
            # A name that begins with an underscore is a module that others import.
            text = None if path.name.startswith("_") or not self._named(path, path.stem, "view") else self.text(path)
            if text is None:
                continue
            found = read_on_demand(
                text, path.stem, path, self.name(path), lambda lines, path=path: self._declared(path, lines)
            )
            if found is not None:
                self.on_demand[path.stem] = found

    def _read_metrics(self) -> None:
        for path in self._files("metrics", ".sql"):
            headed = self._headed(path, MetricHeader) if self._named(path, path.stem, "metric") else None
            if headed:
                self.metrics[path.stem] = MetricFile(name=path.stem, query=headed[0], header=headed[1])

    def _read_monitors(self) -> None:
        root = self.folder / "monitors"
        for path in self._files("monitors", ".sql"):
            headed = self._headed(path, MonitorHeader)
            name = path.relative_to(root).with_suffix("").as_posix()
            if headed:
                self.monitors[name] = MonitorFile(name=name, query=headed[0], header=headed[1])

    def _read_sources(self) -> None:
        path = self.folder / FILE
        parsed = self.toml(path) if path.is_file() else None
        if parsed:
            self.sources = read_sources(*parsed)

    def _read_models(self) -> None:
        for folder in self._model_folders():
            if not self._named(folder, folder.name, "model"):
                continue
            missing = [name for name in ("model.toml", "training.sql", "model.py") if not (folder / name).is_file()]
            for name in missing:
                self.note(self.name(folder / name), 1, "the file is missing", _WHAT_FOR[name])
            parsed = None if "model.toml" in missing else self.toml(folder / "model.toml")
            headed = None if "training.sql" in missing else self._headed(folder / "training.sql", TrainingHeader)
            declaration = parsed[1].read(ModelDeclaration, parsed[0]) if parsed else None
            trained = declaration is None or declaration.artefact.remote is None
            draft = Draft(
                name=folder.name,
                folder=folder,
                declaration=declaration,
                spine=SpineFile(query=headed[0], header=headed[1]) if headed else None,
                code=None if "model.py" in missing else self._code(folder / "model.py", trained=trained),
            )
            self.drafts.append(draft)

    def _code(self, path: Path, *, trained: bool) -> Code | None:
        """The functions of ``model.py``; one whose model is on another server needs no ``train``."""
        text = self.text(path)
        if text is None:
            return None
        code, faults = read_code(text, trained=trained)
        for fault in faults:
            self.note(self.name(path), fault.line, fault.what, fault.mend)
        return code

    def _model_folders(self) -> list[Path]:
        """Folders with a model's files, and those right below ``models`` that hold none: they lack all of them."""
        root = self.folder / "models"
        found = {path.parent for name in _WHAT_FOR for path in self._files("models", name)} - {root}
        for stray in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
            inside = any(stray == folder or stray in folder.parents for folder in found)
            if not inside and not stray.name.startswith((".", "__")):
                found.add(stray)
        return sorted(found)

    def _named(self, path: Path, name: str, kind: str) -> bool:
        """Whether a file's or folder's name can be used; says why not."""
        file, others = self.name(path), self.names[kind]
        try:
            msgspec.convert(name, Name)
        except msgspec.ValidationError:
            self.note(
                file, 1, f"'{name}' cannot name a {kind}", "lower case letters, digits and underscores, a letter first"
            )
        same = [other for other in others if _bare(other).lower() == name.lower()]
        others.append(file)
        for other in same:
            how = "have one name" if _bare(other) == name else "differ only in case"
            self.note(file, 1, f"two {kind}s {how}: '{other}' and '{file}'", "rename one of them")
        return not same

    def _files(self, room: str, ending: str) -> list[Path]:
        root = self.folder / room
        return sorted(path for path in self._walk(root, ()) if path.name.endswith(ending)) if root.is_dir() else []

    def _walk(self, folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
        """Files below a folder, through symbolic links, but never round in a circle."""
        real = Path(os.path.realpath(folder))
        if real in above:
            self._note_once(folder, "the symbolic link leads back to a folder above it")
            return
        for path in sorted(folder.iterdir()):
            if path.name.startswith((".", "__pycache__")):
                continue
            if path.is_symlink() and not path.exists():
                self._note_once(path, "the symbolic link leads nowhere")
            elif path.is_dir():
                yield from self._walk(path, (*above, real))
            else:
                yield path

    def _note_once(self, path: Path, what: str) -> None:
        problem = Problem(self.name(path), 1, what, "remove the link")
        if problem not in self.problems:
            self.problems.append(problem)


def _bare(file: str) -> str:
    return Path(file).name.removesuffix(".sql").removesuffix(".py")


def _whole(draft: Draft) -> ModelFolder:
    if draft.declaration is None or draft.spine is None or draft.code is None:
        raise ProjectError(f"The model '{draft.name}' cannot be read.", str(draft.folder), "tow check")
    golden = draft.folder / "golden.jsonl"
    return ModelFolder(
        name=draft.name,
        folder=draft.folder,
        declaration=draft.declaration,
        training=draft.spine,
        code=draft.code,
        golden=golden if golden.is_file() else None,
    )


_WHAT_FOR = {
    "model.toml": "it says who owns the model and what it reads",
    "training.sql": "it selects keys, time and label",
    "model.py": "it holds train(data)",
}


@cache
def built_in_metrics() -> Mapping[str, MetricFile]:
    """The metrics that come with Towpath, by name."""
    found: dict[str, MetricFile] = {}
    for path in sorted((Path(__file__).parent / "metrics").glob("*.sql")):
        query = Query.parse(path.read_text("utf-8"), f"towpath/project/metrics/{path.name}")
        header = msgspec.convert(query.header, MetricHeader)
        found[path.stem] = MetricFile(name=path.stem, query=query, header=header, built_in=True)
    return found


def _table(declared: Declared, place: Place, value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    declared.note(place, f"{'.'.join(map(str, place))} is no table", "[environments.production.stores]")
    return {}


def _note_passwords(declared: Declared, raw: Mapping[str, Any], place: Place = ()) -> None:
    """Secrets never stand in project files."""
    for key, value in raw.items():
        if isinstance(value, Mapping):
            _note_passwords(declared, cast("Mapping[str, Any]", value), (*place, key))
        elif isinstance(value, str) and _has_password(value):
            declared.note((*place, key), f"'{key}' holds a password", "write env:NAME and set the variable NAME")


def _has_password(value: str) -> bool:
    try:
        return "://" in value and bool(urlsplit(value).password)
    except ValueError:
        return False


def _line_in(message: str, text: str) -> int:
    """The line in a message of the TOML parser; the end of the document is the last line."""
    _, _, rest = message.partition("(at line ")
    return int(rest.split(",")[0]) if rest else text.rstrip("\n").count("\n") + 1

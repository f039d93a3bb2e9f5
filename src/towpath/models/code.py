"""The code of a version: packed into a zip, and imported under a private name so that two versions live in one process."""

import ast
import builtins
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import io
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import CodeType, MappingProxyType, ModuleType
from typing import Any

from towpath.errors import FormatError, ModelError, ProjectError

__all__ = ["module_at", "pack_code", "project_module", "unpack_code"]

_LIMIT_BYTES = 64 * 2**20
_PREFIX = "_towpath_"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first day, so that equal code packs to equal bytes


def pack_code(
    project: Path,
    model_folder: Path | None,
    also: Iterable[Path] = (),
    *,
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    """Pack the model's folder and the project modules that it imports.

    Args:
        project: The project's folder.
        model_folder: ``models/<name>`` within it; it must hold ``model.py``. None packs the other files alone.
        also: Further files, such as ``features/<name>.py``, with the project modules that they import.
        beside: Code of other projects, by the path that it gets; it imports from its own folder ``_published/<project>`` alone.

    Returns:
        A zip; the same files give the same bytes. Paths are relative to the project.

    Raises:
        ProjectError: There is no ``model.py``, or a file does not parse.
    """
    root = project.resolve()
    home = model_folder.resolve() if model_folder is not None else root
    if model_folder is not None and not (home / "model.py").is_file():
        raise ProjectError(f"'{home}' has no model.py.", mend="a file with a function train(data)")
    todo = [*(sorted(home.rglob("*.py")) if model_folder is not None else ()), *(path.resolve() for path in also)]
    files: dict[str, bytes] = {}
    while todo:
        path = todo.pop()
        name = path.relative_to(root).as_posix()
        if name in files or "__pycache__" in path.parts:
            continue
        files[name] = path.read_bytes()
        inside = path.is_relative_to(home) if model_folder is not None else False
        todo += _imported(files[name], path, [home if inside else path.parent, root])
    return _zipped({**files, **beside})


def unpack_code(code: bytes) -> dict[str, bytes]:
    """Read the files of a packed project.

    Raises:
        FormatError: It is no zip of ours, or unpacks to more than 64 MiB.

    Example:
        >>> unpack_code(_zipped({"models/demand/model.py": b"x = 1"}))
        {'models/demand/model.py': b'x = 1'}
    """
    try:
        with zipfile.ZipFile(io.BytesIO(code)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > _LIMIT_BYTES:
                raise FormatError(f"code.zip unpacks to {size:,} bytes (limit {_LIMIT_BYTES:,}).", mend="smaller code")
            return {name: archive.read(name) for name in archive.namelist() if name.endswith(".py")}
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as fault:
        raise FormatError(f"code.zip is damaged: {fault}.", mend="publish the version again") from None


def project_module(code: bytes, model: str, *, root: Path | None = None) -> ModuleType:
    """Import the ``model.py`` of a packed project under a private package name.

    The name is made of the code's digest: equal code is imported once, two versions live side by side, and a class that
    was pickled by one process is found by the next. Imports of the project's own modules (beside ``model.py``, then from
    the project's folder) resolve within the package; all others go their usual way.

    Args:
        code: What `pack_code` gave.
        model: The model's name; its module is ``models/<model>/model.py``.
        root: The project's folder, so that tracebacks show the user's own files; unless given they show
            ``code.zip/models/<model>/model.py``.

    Raises:
        FormatError: The zip is damaged or has no such module.
        ModelError: The user's code failed while it was imported.
    """
    return module_at(code, f"models/{model}/model.py", root=root)


def module_at(code: bytes, place: str, *, root: Path | None = None) -> ModuleType:
    """Import any module of a packed project; see `project_module`.

    Args:
        code: What `pack_code` gave.
        place: Its path within the zip.
        root: The project's folder, so that tracebacks show the user's own files.

    Raises:
        FormatError: The zip is damaged or has no such module.
        ModelError: The user's code failed while it was imported.
    """
    package = _PREFIX + hashlib.sha256(code).hexdigest()[:16]
    entry = f"{package}.{place.removesuffix('.py').replace('/', '.')}"
    finder = _FINDERS.get(package)
    if finder is None:
        finder = _Finder(package, unpack_code(code), root)
        _FINDERS[package] = finder
        sys.meta_path.append(finder)
    if place not in finder.files:
        raise FormatError(f"code.zip has no {place}.", mend="publish the version again")
    try:
        return importlib.import_module(entry)
    except Exception as fault:  # the edge to the user's code: whatever it raises is theirs
        raise ModelError(
            f"{place} could not be imported: {type(fault).__name__}: {fault}.",
            where=_place(fault, finder),
            mend=f"python -c 'import {fault.name}' where it is missing" if isinstance(fault, ImportError) else "",
        ) from fault


_PUBLISHED = "_published"
_FINDERS: "dict[str, _Finder]" = {}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of one packed project."""

    def __init__(self, package: str, files: Mapping[str, bytes], root: Path | None) -> None:
        self.package = package
        self.files = files
        self.root = root
        self.folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module of the private package; none for everybody else's."""
        del path, target
        if fullname != self.package and not fullname.startswith(self.package + "."):
            return None
        place = self._path(fullname)
        if place is None:
            return None
        folder = place == "" or place.endswith("__init__.py") or place in self.folders
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=self.shown(place), is_package=folder)
        spec.has_location = place in self.files
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Run the module with an ``import`` that looks into the project first."""
        place = self._path(module.__name__)
        if place is None or place not in self.files:
            return
        home = str(PurePosixPath(place).parent)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _Import(self, home)}
        exec(self._compiled(place), module.__dict__)  # noqa: S102 - the user's own code, digest verified by the caller

    def get_source(self, fullname: str) -> str | None:
        """The text of a module; tracebacks print its lines."""
        place = self._path(fullname)
        return self.files[place].decode("utf-8", "replace") if place and place in self.files else None

    def is_package(self, fullname: str) -> bool:
        """Whether it is a folder."""
        place = self._path(fullname)
        return place is not None and (place.endswith("__init__.py") or place not in self.files)

    def shown(self, place: str) -> str:
        """The file name that tracebacks show."""
        return str(self.root / place) if self.root else f"code.zip/{place}"

    def holds(self, parts: Sequence[str]) -> bool:
        """Whether a module of this dotted path, within the project, exists."""
        stem = "/".join(parts)
        return f"{stem}.py" in self.files or stem in self.folders

    def _path(self, fullname: str) -> str | None:
        stem = "/".join(fullname.split(".")[1:])
        for place in (f"{stem}/__init__.py".lstrip("/"), f"{stem}.py"):
            if place in self.files:
                return place
        return stem if stem == "" or stem in self.folders else None

    def _compiled(self, place: str) -> CodeType:
        return compile(self.files[place], self.shown(place), "exec", dont_inherit=True)


class _Import:
    """The ``import`` of a project's module: its own modules first, beside it and then from the root."""

    def __init__(self, finder: _Finder, home: str) -> None:
        self.finder = finder
        parts = PurePosixPath(home).parts
        # Another project's code sees its own modules and not those of the project that uses it.
        root = parts[:2] if parts[:1] == (_PUBLISHED,) else ()
        self.homes = [parts, root] if home != "." else [()]

    def __call__(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the language names it
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> Any:
        if level == 0:
            top, *rest = name.split(".")
            for home in self.homes:
                if self.finder.holds([*home, top]):
                    first = ".".join([self.finder.package, *home, top])
                    whole = ".".join([first, *rest])
                    found = builtins.__import__(whole, globals, locals, fromlist or ("__name__",), 0)
                    return found if fromlist else sys.modules[first]
        return builtins.__import__(name, globals, locals, fromlist, level)


def _imported(source: bytes, path: Path, homes: Sequence[Path]) -> list[Path]:
    """The project's files that a file imports, anywhere in it."""
    try:
        tree = ast.parse(source, str(path))
    except SyntaxError as fault:
        raise ProjectError(f"'{path}' is no Python: {fault.msg}.", where=f"{path}:{fault.lineno}") from None
    files: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                files += _sources(alias.name, homes)
        elif isinstance(node, ast.ImportFrom):
            within = [path.parents[node.level - 1]] if node.level else homes
            stem = f"{node.module}." if node.module else ""
            for name in [*([node.module] if node.module else []), *(stem + alias.name for alias in node.names)]:
                files += _sources(name, within)
    return files


def _sources(module: str, homes: Iterable[Path]) -> list[Path]:
    """The files of a project module: the module itself and each package on the way to it."""
    for home in homes:
        found: list[Path] = []
        place = home
        for part in module.split("."):
            place = place / part
            found += [p for p in (place / "__init__.py", place.with_name(part + ".py")) if p.is_file()]
        if found:
            return found
    return []


def _zipped(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name])
    return packed.getvalue()


def _place(fault: BaseException, finder: _Finder) -> str:
    """The last line of the user's own code that the fault went through."""
    if isinstance(fault, SyntaxError):
        return f"{fault.filename}:{fault.lineno}"
    place = ""
    frame = fault.__traceback__
    while frame is not None:
        name = frame.tb_frame.f_code.co_filename
        if name.startswith(finder.shown("")):
            place = f"{name}:{frame.tb_lineno}"
        frame = frame.tb_next
    return place

"""``features/<name>.py``: an on-demand feature, read from its text; it is never imported to be checked."""

import ast
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from towpath.errors import nearest
from towpath.project.declarations import FeatureDeclaration
from towpath.project.faults import Declared
from towpath.project.lines import Lines

__all__ = [
    "TIME",
    "OnDemandFile",
    "OnDemandHeader",
    "OnDemandInput",
    "OnDemandOutput",
    "is_feature",
    "read_on_demand",
    "unpublished",
]

TIME = "time"
"""The input that is the moment of prediction."""
_TYPES = ("double", "int64", "bool", "string", "timestamp")
_MARK = "---"
_FEATURE = re.compile(r"([a-z][a-z0-9_]*/)?[a-z][a-z0-9_]{0,62}\.[a-z_][a-z0-9_]{0,62}")
_QUOTES = re.compile(r"[rRuUbBfF]*(\"\"\"|'''|\"|')")

Says = Annotated[str, Meta(min_length=1, max_length=190)]


class OnDemandInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One argument of the function. ``amount = "double"`` is short for ``amount = { type = "double" }``."""

    type: Says
    """A column of the request: ``double int64 bool string timestamp``; a feature of another view: ``view.feature``; the
    moment of prediction: ``time``."""
    required: bool = False
    """Of a column of the request: whether a row without it is refused (400); else it is null there, and named as missing."""


class OnDemandOutput(FeatureDeclaration, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One feature that the function gives. ``ratio = "double"`` is short for ``ratio = { type = "double" }``."""

    type: Literal["double", "int64", "bool", "string", "timestamp"]
    """What the model reads; a value that is not finite counts as missing."""


class OnDemandHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The header of ``features/<name>.py``: TOML between two lines ``---`` in the docstring of the module."""

    inputs: Annotated[dict[str, OnDemandInput], Meta(min_length=1)]
    """The arguments of the function, by name."""
    outputs: Annotated[dict[str, OnDemandOutput], Meta(min_length=1)]
    """The features; the function returns a dict with exactly these names."""
    budget_ms: Annotated[int, Meta(ge=1, le=10_000)] = 50
    """How long one call may take in serving; then its features are missing. It never takes more than half of what is left
    of the model's own time."""
    publish: bool = False
    """Whether other projects of the fleet may use it, with its code; then what it reads is published too."""
    owner: str = ""
    """Who answers for it."""
    description: str = ""
    """For people."""


class OnDemandFile(msgspec.Struct, frozen=True, kw_only=True):
    """``features/<name>.py``, checked."""

    name: str
    path: str
    """Relative to the project folder."""
    file: Path
    """Where it is."""
    header: OnDemandHeader
    arguments: tuple[str, ...]
    """The function's own order of the inputs."""
    line: int
    """On which the function stands."""
    files: dict[str, bytes] = {}
    """Of another project's: its code by the path that it has in a version's ``code.zip``; empty for a file of the project."""


def is_feature(kind: str) -> bool:
    """Whether an input's type names a feature of another view.

    Example:
        >>> is_feature("prices.price"), is_feature("double")
        (True, False)
    """
    return _FEATURE.fullmatch(kind) is not None


def unpublished(header: OnDemandHeader, own: str, known: Mapping[str, bool]) -> dict[str, str]:
    """What a published function reads of its own project that nobody else may read.

    Args:
        header: Of the function; a faulty one has holes.
        own: The project, whose name may stand before a view's.
        known: View or function of the project → whether it is published.

    Returns:
        Argument → view or function that is not published.
    """
    kinds = {name: one.type for name, one in (header.inputs or {}).items() if one and isinstance(one.type, str)}  # pyright: ignore[reportUnnecessaryIsInstance, reportUnnecessaryComparison] - holes
    read = {name: kind.rpartition(".")[0].removeprefix(f"{own}/") for name, kind in kinds.items() if is_feature(kind)}
    return {name: view for name, view in read.items() if known.get(view) is False}


def read_on_demand(
    text: str, name: str, file: Path, path: str, declared_in: Callable[[Lines], Declared]
) -> OnDemandFile | None:
    """Read header and signature of an on-demand feature; nothing of it runs.

    Args:
        text: The module's source.
        name: The file's stem, which the function must have too.
        file: Where it is.
        path: As messages show it.
        declared_in: Makes what collects the problems, for lines of this file.

    Returns:
        The file, with holes where it is faulty; none where it has no header that could be read.
    """
    whole = declared_in(Lines(""))
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        return _fault(whole, getattr(error, "lineno", 1) or 1, f"the file does not compile: {said}", "mend the line")
    found = _header(tree, text)
    if isinstance(found, tuple):
        return _fault(whole, *found)
    header_text, line = found["text"], int(found["line"])
    try:
        raw = tomllib.loads(header_text)
    except tomllib.TOMLDecodeError as error:
        _, _, rest = str(error).partition("(at line ")
        at = line + (int(rest.split(",")[0]) if rest else header_text.rstrip("\n").count("\n") + 1) - 1
        return _fault(whole, at, f"the header is no TOML: {error}", "key = value, one a line")
    declared = declared_in(Lines(header_text, line))
    header: OnDemandHeader = declared.read(OnDemandHeader, _spelt_out(raw))
    _check_names(header, declared)
    arguments, at = _function(tree, name, header, declared)
    return OnDemandFile(name=name, path=path, file=file, header=header, arguments=arguments, line=at)


def _fault(declared: Declared, line: int, what: str, mend: str) -> None:
    declared.note_at(line, what, mend)


def _header(tree: ast.Module, text: str) -> dict[str, str] | tuple[int, str, str]:
    """The TOML and its line, or a fault. Read from the file's own lines, so that what stands there is what counts."""
    mend = f"a docstring with TOML between two lines {_MARK}: [inputs] and [outputs]"
    first = tree.body[0] if tree.body else None
    told = first.value if isinstance(first, ast.Expr) else None
    if not isinstance(told, ast.Constant) or not isinstance(told.value, str):
        return 1, "the file has no header", mend
    lines = text.splitlines()[told.lineno - 1 : told.end_lineno]
    lines[0] = _QUOTES.sub("", lines[0][told.col_offset :], count=1)
    lines[-1] = lines[-1].rstrip().removesuffix('"""').removesuffix("'''")
    marks = [number for number, line in enumerate(lines) if line.strip() == _MARK]
    if not marks:
        return told.lineno, "the docstring has no header", mend
    if len(marks) == 1:
        return told.lineno + marks[0], f"the header is opened with {_MARK} and never closed", f"close it with {_MARK}"
    inside = lines[marks[0] + 1 : marks[1]]
    return {"text": "\n".join(inside) + "\n", "line": str(told.lineno + marks[0] + 1)}


def _spelt_out(raw: Mapping[str, Any]) -> dict[str, Any]:
    """``name = "double"`` as ``name = { type = "double" }``."""
    spelt = dict(raw)
    for part in ("inputs", "outputs"):
        table: Any = raw.get(part)
        if isinstance(table, dict):
            entries = cast("dict[str, Any]", table)
            spelt[part] = {
                name: value if isinstance(value, dict) else {"type": value} for name, value in entries.items()
            }
    return spelt


def _check_names(header: OnDemandHeader, declared: Declared) -> None:
    for name, one in (header.inputs or {}).items():
        place = ("inputs", name)
        if not name.isidentifier():
            declared.note(place, f"'{name}' cannot name an argument", "letters, digits and underscores, a letter first")
        kind = one.type
        if kind is None or kind == TIME or kind in _TYPES or is_feature(kind):  # pyright: ignore[reportUnnecessaryComparison] - faulty, and reported where it was read
            if one.required and kind is not None and kind not in _TYPES:  # pyright: ignore[reportUnnecessaryComparison] - as above
                declared.note(place, f"'{name}' is required and is no column of the request", "leave 'required' out")
            continue
        near = nearest(kind, [*_TYPES, TIME]).removeprefix("; ")
        mend = near if "mean" in near else f"one of {', '.join(_TYPES)}, {TIME}, or view.feature"
        declared.note(place, f"input '{name}' is '{kind}'", mend)
    for name, one in (header.outputs or {}).items():
        if not _FEATURE.fullmatch(f"v.{name}"):
            declared.note(
                ("outputs", name), f"'{name}' cannot name a feature", "lower case letters, digits, underscores"
            )
        if one.default is not None and not _fits(one.default, one.type):
            said = f"the default {one.default!r} of '{name}' is no {one.type}"
            declared.note(("outputs", name), said, "write a default of the feature's type")
    if header.inputs is not None and not header.inputs:  # pyright: ignore[reportUnnecessaryComparison] - as above
        declared.note(("inputs",), "there is no input", 'amount = "double"')
    if header.outputs is not None and not header.outputs:  # pyright: ignore[reportUnnecessaryComparison] - as above
        declared.note(("outputs",), "there is no output", 'ratio = "double"')


def _fits(default: object, kind: str) -> bool:
    if kind == "bool":
        return isinstance(default, bool)
    if kind in {"double", "int64"}:
        number = isinstance(default, int | float) and not isinstance(default, bool)
        return number and (kind == "double" or float(cast("float", default)).is_integer())
    return kind == "string" and isinstance(default, str)


def _function(tree: ast.Module, name: str, header: OnDemandHeader, declared: Declared) -> tuple[tuple[str, ...], int]:
    """The function's arguments and line; notes what is wrong with it."""
    inputs = list(header.inputs or {})
    wanted = f"def {name}({', '.join(inputs)}): …"
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    node = functions.get(name)
    if node is None:
        near = nearest(name, functions).removeprefix("; ")
        declared.note_at(1, f"there is no function {name}", near if "mean" in near else wanted)
        return tuple(inputs), 1
    if isinstance(node, ast.AsyncFunctionDef):
        declared.note_at(node.lineno, f"{name} is async", wanted)
    if node.decorator_list:
        declared.note_at(node.decorator_list[0].lineno, f"{name} has a decorator", "a plain function")
    given = [*node.args.posonlyargs, *node.args.args]
    if node.args.vararg or node.args.kwarg or node.args.kwonlyargs:
        declared.note_at(node.lineno, f"{name} takes more than plain arguments", wanted)
    names = [one.arg for one in given]
    for one in given:
        if one.arg not in inputs:
            near = nearest(one.arg, inputs).removeprefix("; ")
            declared.note_at(one.lineno, f"{name} takes '{one.arg}', which is no input", near)
    for one in inputs:
        if one not in names:
            declared.note(("inputs", one), f"{name} does not take the input '{one}'", wanted)
    return tuple(names), node.lineno

"""The doors of the rooms: what `__all__` promises is there, is documented, and the documentation names what exists."""

import ast
import builtins
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click
import pytest

import towpath
from towpath import errors

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "towpath"


def _names() -> list[str]:
    found = [module.name for module in pkgutil.walk_packages([str(SOURCE)], "towpath.")]
    return ["towpath", *(name for name in found if not name.endswith("__main__") and ".demo.project" not in name)]


MODULES = _names()


class Documented(NamedTuple):
    """A public function or class: where it stands, what it takes, what is said of it."""

    where: str
    parameters: tuple[str, ...]
    text: str
    is_class: bool


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def public() -> Iterator[Documented]:
    """Functions and classes that a module's door names, where they are defined."""
    for name in MODULES:
        room = module(name)
        for door in getattr(room, "__all__", ()):
            thing = getattr(room, door, None)
            if getattr(thing, "__module__", None) != name or isinstance(thing, click.Command):
                continue
            if inspect.isclass(thing):
                yield Documented(f"{name}.{door}", parameters(thing.__init__), inspect.getdoc(thing) or "", True)
            elif inspect.isfunction(thing):
                yield Documented(f"{name}.{door}", parameters(thing), inspect.getdoc(thing) or "", False)


def parameters(function: Any) -> tuple[str, ...]:
    try:
        taken = inspect.signature(function).parameters.values()
    except ValueError:  # made in C
        return ()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(one.name for one in taken if one.name not in {"self", "cls"} and one.kind not in kinds)


def section(text: str, name: str) -> str:
    """The lines of a section of a docstring; empty where there is none."""
    found = re.search(rf"^{name}:\n((?:[ \t]+.*(?:\n|$)|\n)+)", text, re.MULTILINE)
    return inspect.cleandoc(found[1]) if found else ""


def entries(text: str, name: str) -> list[str]:
    """What a section lists: the names before the colons at its own indentation."""
    return [one for line in section(text, name).splitlines() if (m := re.match(r"\*{0,2}([\w, `*]+):", line)) for one in re.findall(r"\w+", m[1])]  # fmt: skip


PUBLIC = list(public())
ROOMS = [name for name in MODULES if name.count(".") < 2]  # what another room imports from
ROOM_DOORS = {
    f"{thing.__module__}.{thing.__name__}"
    for name in ROOMS
    for door in getattr(module(name), "__all__", ())
    if inspect.isfunction(thing := getattr(module(name), door))
}


@pytest.mark.parametrize("name", MODULES)
def test_what_a_door_names_is_there(name: str) -> None:
    room = module(name)
    promised = getattr(room, "__all__", [])
    assert len(set(promised)) == len(promised)
    assert [one for one in promised if not hasattr(room, one)] == []


@pytest.mark.parametrize("name", [name for name in MODULES if hasattr(module(name), "__all__")])
def test_what_is_public_stands_in_the_door(name: str) -> None:
    # given what the file itself defines without an underscore
    tree = ast.parse(Path(inspect.getfile(module(name))).read_text("utf-8"))
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    # then the door names it; `main` is for `python -m` and not for importers
    assert defined - set(module(name).__all__) - {"main"} == set()


@pytest.mark.parametrize("one", PUBLIC, ids=lambda one: one.where)
def test_every_public_thing_says_what_it_is(one: Documented) -> None:
    lines = one.text.splitlines()
    assert lines, "it says nothing"
    assert re.search(r"[.?:…]$", lines[0].rstrip("`")), f"the first line is no sentence: {lines[0]}"
    assert len(lines) == 1 or not lines[1], "the first line stands alone"


@pytest.mark.parametrize("one", [one for one in PUBLIC if one.where in ROOM_DOORS], ids=lambda one: one.where)
def test_every_argument_of_a_function_of_several_is_explained(one: Documented) -> None:
    if len(one.parameters) < 2:
        return
    assert [name for name in one.parameters if name not in entries(one.text, "Args")] == []


@pytest.mark.parametrize("one", PUBLIC, ids=lambda one: one.where)
def test_nothing_is_explained_that_is_not_there(one: Documented) -> None:
    known = {*one.parameters, "rest", "kwargs", "args"}
    assert [name for name in entries(one.text, "Args") if name not in known] == []


@pytest.mark.parametrize("one", PUBLIC, ids=lambda one: one.where)
def test_what_is_raised_is_an_error_that_exists(one: Documented) -> None:
    raised = [name for name in entries(one.text, "Raises") if name.endswith(("Error", "Interrupt"))]
    assert [name for name in raised if not hasattr(errors, name) and not hasattr(builtins, name)] == []


@pytest.mark.parametrize("name", towpath.__all__)
def test_the_front_door_is_in_the_guides(name: str) -> None:
    pages = "\n".join(path.read_text("utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert name == "__version__" or f"towpath.{name}" in pages


def test_the_packages_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert version("towpath") == towpath.__version__

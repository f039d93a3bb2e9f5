"""Reference pages and editor schemas of what people write, made from the structs and the docstrings under their fields.

``python -m towpath.project.reference docs/reference`` writes the pages.
"""

import ast
import inspect
import sys
import types
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from towpath.project import declarations
from towpath.project.declarations import (
    Duration,
    FeatureHeader,
    MetricHeader,
    ModelDeclaration,
    Moment,
    MonitorHeader,
    TrainingHeader,
)
from towpath.project.on_demand import OnDemandHeader
from towpath.project.sources import SourceDeclaration
from towpath.settings import Settings

__all__ = ["HEADERS", "fields_said", "nested_struct", "pages", "schema", "type_said"]

_NONE: Any = type(None)
HEADERS: dict[str, type[Any]] = {
    "features/<view>.sql": FeatureHeader,
    "features/<name>.py": OnDemandHeader,
    "models/<name>/training.sql": TrainingHeader,
    "metrics/<name>.sql": MetricHeader,
    "monitors/**/<name>.sql": MonitorHeader,
}


def schema() -> dict[str, Any]:
    """The JSON schema of ``model.toml``, for editors that complete and check TOML.

    Example:
        >>> schema()["properties"]["tier"]["description"]
        'A critical model must have a fallback.'
    """
    whole = msgspec.json.schema(ModelDeclaration)
    found: dict[str, Any] = whole["$defs"]
    for name, part in found.items():
        for key, said in fields_said(getattr(declarations, name)).items():
            part["properties"][key].setdefault("description", said)
    main = found.pop("ModelDeclaration")
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **main, "title": "model.toml", "$defs": found}
    return msgspec.json.decode(msgspec.json.encode(whole))  # tuples of defaults become lists


def pages() -> dict[str, str]:
    """Name of the page → Markdown: ``model.toml.md``, ``towpath.toml.md``, ``sql-headers.md``, ``sources.toml.md``."""
    headers = "\n".join(_sections(kind, "", f"`{file}`") for file, kind in HEADERS.items())
    return {
        "model.toml.md": _page(
            "model.toml",
            "Each model says in `models/<name>/model.toml` why it exists, what it reads and what it must show.",
            _sections(ModelDeclaration, "", "top level"),
        ),
        "towpath.toml.md": _page(
            "towpath.toml",
            "One file names the project and says where things are. `[environments.<name>]` tables hold the same sections and are "
            "laid over them where `TOWPATH_ENV=<name>`; variables such as `TOWPATH__SERVING__PORT=9000` are laid over both.",
            _sections(Settings, "", "top level"),
        ),
        "sql-headers.md": _page(
            "Headers of .sql files",
            "Each `.sql` file begins with TOML between `/* ---` and `--- */`; the docstring of an on-demand feature "
            "(`features/<name>.py`) holds it between two lines `---`.",
            headers,
        ),
        "sources.toml.md": _page(
            "sources.toml",
            "What a project expects of the tables that it reads and does not own. The file is optional, and so is every key. "
            "`tow sources` and the monitors hold the tables against it.",
            _sections(SourceDeclaration, '"schema.table".', '`["schema.table"]`'),
        ),
    }


def _page(title: str, lead: str, body: str) -> str:
    made = "<!-- made by python -m towpath.project.reference docs/reference -->"
    return f"# {title}\n\n{made}\n\n{lead}\n\n{body}"


def _sections(kind: type[Any], path: str, title: str) -> str:
    """A table of the plain keys of a struct, then a section for each struct within it."""
    said = fields_said(kind)
    rows: list[str] = []
    inner: list[str] = []
    for field in msgspec.structs.fields(kind):
        if kind is Settings and field.name == "environment":
            continue
        nested, mark = nested_struct(field.type)
        if nested is None:
            default = "required" if field.required else f"`{_default(field)}`"
            rows.append(f"| `{field.name}` | {type_said(field.type)} | {default} | {said.get(field.name, '')} |")
        else:
            name = f"{path}{field.name}{mark}"
            inner.append(_sections(nested, f"{name}.", f"`[[{name}]]`" if mark == "[]" else f"`[{name}]`"))
    doc = (inspect.getdoc(kind) or "").replace("``", "`")
    table = "\n".join(["| key | type | default | what |", "| --- | --- | --- | --- |", *rows])
    own = f"## {title.replace('[]', '')}\n\n{doc}\n" + (f"\n{table}\n" if rows else "")
    return "\n".join([own, *inner])


def nested_struct(kind: Any) -> tuple[type[Any] | None, str]:
    """The struct within a field, and how its place is written: ``[]`` for a list of them, ``.<name>`` for a table."""
    inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    parts = get_args(inner)
    if get_origin(inner) is tuple and _is_struct(parts[0]):
        return parts[0], "[]"
    if get_origin(inner) is dict and _is_struct(parts[1]):
        return parts[1], ".<name>"
    return (inner, "") if _is_struct(inner) else (None, "")


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def type_said(kind: Any) -> str:
    """A type of a field in words, with its bounds.

    Example:
        >>> type_said(tuple[int, ...])
        'list of whole number'
    """
    if kind == Duration:
        return "duration"
    if kind == Moment:
        return "time"
    if get_origin(kind) is Annotated:
        base, *rest = get_args(kind)
        return type_said(base) + "".join(_bounds(meta) for meta in rest if isinstance(meta, msgspec.Meta))
    if get_origin(kind) in {Union, types.UnionType}:
        return " or ".join(type_said(part) for part in get_args(kind) if part is not _NONE)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list of {type_said(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"table of {type_said(get_args(kind)[1])}"
    plain: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return plain.get(kind) or {datetime: "time", Any: "any"}.get(kind) or getattr(kind, "__name__", str(kind))


def _bounds(meta: msgspec.Meta) -> str:
    low = [f"≥ {meta.ge}"] if meta.ge is not None else [f"> {meta.gt}"] if meta.gt is not None else []
    high = [f"≤ {meta.le}"] if meta.le is not None else [f"< {meta.lt}"] if meta.lt is not None else []
    return f" ({', '.join([*low, *high])})" if low or high else ""


def _default(field: msgspec.structs.FieldInfo) -> str:
    made = field.default_factory() if callable(field.default_factory) else field.default
    return "none" if made is None else msgspec.json.encode(made).decode()


@cache
def fields_said(kind: type[Any]) -> dict[str, str]:
    """The docstring under each field of a struct, and of those it extends, on one line."""
    said: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if _is_struct(one) and one is not msgspec.Struct:
            tree = ast.parse(inspect.getsource(one))
            said |= dict(_pairs(tree.body[0].body)) if isinstance(tree.body[0], ast.ClassDef) else {}
    return said


def _pairs(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, after in pairwise(body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            yield field.target.id, " ".join(after.value.value.replace("``", "`").split())


if __name__ == "__main__":
    for _name, _text in pages().items():
        (Path(sys.argv[1]) / _name).write_text(_text, "utf-8")

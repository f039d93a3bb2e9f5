"""What no linter knows: captions, heads of .sql files, ports with their embedded default and contract suite."""

import ast
import importlib.metadata
from pathlib import Path

import pytest

from towpath.sql import Query

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "src").rglob("*.py"))
SQL_FILES = sorted([*(ROOT / "src").rglob("*.sql"), *(ROOT / "examples").rglob("*.sql")])


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_module_has_a_caption_of_one_line(path: Path) -> None:
    caption = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").splitlines()
    assert caption, f"{path} has no caption"
    assert caption[0].endswith((".", ":", "?"))
    assert len(caption[0]) <= 120


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sql_file_is_headed_and_lower_case_and_parses(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.lstrip().startswith(("/* ---", "--")), f"{path} has no head"
    if "migrations" in path.parts:
        return
    query = Query.parse(text, str(path))
    assert query.tree is not None
    keywords = ("SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "JOIN")
    code = "\n".join(line.split("--")[0] for line in query.body.splitlines())
    assert not [word for word in keywords if f" {word} " in f" {code.replace(chr(10), ' ')} "]


def test_each_port_has_an_embedded_default_and_a_contract_suite() -> None:
    names = {point.name for point in importlib.metadata.entry_points(group="towpath.online_store")}
    assert "lmdb" in names
    assert (ROOT / "src" / "towpath" / "testing" / "online_store.py").exists()
    names = {point.name for point in importlib.metadata.entry_points(group="towpath.warehouse")}
    assert "duckdb" in names
    assert (ROOT / "src" / "towpath" / "testing" / "warehouse.py").exists()


def test_the_store_rooms_own_their_drivers() -> None:
    owners = {
        "duckdb": ["warehouse"],
        "adbc_driver_manager": ["warehouse"],
        "adbc_driver_postgresql": ["warehouse"],
        "sqlalchemy": ["stores"],
        "obstore": ["stores"],
        "lmdb": ["stores"],
        "redis": ["stores"],
        "grpc": ["serving", "apart"],
        "uvicorn": ["serving", "console"],
        "apprise": ["monitors"],
        "cryptography": ["registry"],
        "starlette": ["console"],
        "jinja2": ["console"],
        "click": ["cli"],
    }
    strangers: list[str] = []
    for path in MODULES:
        room = path.relative_to(ROOT / "src" / "towpath").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            strangers += [
                f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
                for name in names
                if name.split(".")[0] in owners and room not in [*owners[name.split(".")[0]], "testing"]
            ]
    assert strangers == []

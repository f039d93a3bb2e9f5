"""The documentation says what the code does: everything public is documented, and every example is true."""

import ast
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import pytest

import towpath
from towpath.cli import reference as generated
from towpath.features import RefusedRow
from towpath.journal.record import OUTCOME_COLUMNS, PREDICTION_COLUMNS, RUN_COLUMNS, Outcome
from towpath.journal.views import VIEWS
from towpath.monitors import BUILT_IN
from towpath.project.declarations import FeatureHeader, MetricHeader, MonitorHeader, TrainingHeader
from towpath.project.reference import fields_said, nested_struct
from towpath.serving.answer import Answer, AnswerRow, WireError
from towpath.serving.manage import Switch, Switched
from towpath.serving.push import PushAnswer
from towpath.settings import Settings
from towpath.sql import Query
from towpath.traffic import Consumers
from towpath.types import REASONS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [path for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))] if path.exists()]
COMMANDS = dict(generated.commands())
ELLIPSIS = "…"


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(info: str) -> list[Block]:
    found: list[Block] = []
    for page in PAGES:
        begun: tuple[int, str] | None = None
        lines: list[str] = []
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
            if line.startswith("```"):
                if begun is None:
                    begun, lines = (number, line.strip("`").strip()), []
                else:
                    found.append(Block(page, *begun, "\n".join(lines)))
                    begun = None
            elif begun is not None:
                lines.append(line)
        assert begun is None, f"{page}: the fence of line {begun} is not closed"
    return [block for block in found if block.info == info]


def text_of(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level."""
    level = heading.split(" ", maxsplit=1)[0]
    lines = text.splitlines()
    assert heading in lines, f"there is no '{heading}'"
    start = lines.index(heading) + 1
    ends = (i for i, line in enumerate(lines[start:], start) if re.match(rf"#{{1,{len(level)}}} ", line))
    return "\n".join(lines[start : next(ends, len(lines))])


# Everything is documented


@pytest.mark.parametrize("name", sorted(generated.pages()))
def test_a_made_page_is_up_to_date(name: str) -> None:
    assert text_of(f"reference/{name}") == generated.pages()[name], "python -m towpath.cli.reference docs/reference"


def test_every_setting_is_documented() -> None:
    page = text_of("reference/towpath.toml.md")

    def look(kind: Any, path: str) -> Iterator[str]:
        for field in msgspec.structs.fields(kind):
            nested, mark = nested_struct(field.type)
            if nested is None:
                yield f"{path}{field.name}"
            else:
                yield from look(nested, f"{path}{field.name}{mark}.")

    for setting in look(Settings, ""):
        table, _, key = setting.rpartition(".")
        if table:
            assert f"| `{key}` |" in section(page, f"## `[{table}]`"), setting


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_says_what_it_does(name: str) -> None:
    command = COMMANDS[name]
    assert command.help, f"'{name}' says nothing"
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []
    if name != "tow":
        said = section(text_of("reference/cli.md"), f"## {name}")
        assert [option for one in options for option in one.opts if f"`{option}`" not in said] == []


def test_every_error_code_is_documented_once_and_with_its_status() -> None:
    kinds = [kind for kind in generated.error_classes() if "code" in vars(kind) and not kind.__subclasses__()]
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes) > 10
    errors, wire = text_of("reference/errors.md"), section(text_of("reference/wire.md"), "## Errors")
    for kind in kinds:
        assert f"| `{kind.code}` | `{kind.__name__}` |" in errors
        assert f"| `{kind.code}` | " in wire
        assert kind.__name__ in (ast.get_docstring(ast.parse((ROOT / "src/towpath/errors.py").read_text())) or "")


def test_the_statuses_are_those_that_the_server_sends() -> None:
    from towpath.serving.http import App

    class Meter:
        def refused(self, code: str, consumer: str) -> None: ...

    app = object.__new__(App)
    app.__dict__.update(_meter=Meter(), _encode=msgspec.json.encode, _consumers=Consumers())
    wire = section(text_of("reference/wire.md"), "## Errors")
    for kind in generated.error_classes():
        if not kind.__subclasses__():
            status, _, _ = app._refused(kind("x"), {})
            assert f"| `{kind.code}` | {status} |" in wire


@pytest.mark.parametrize("page", ["reference/wire.md", "concepts/guard.md"])
def test_every_reason_of_an_answer_is_documented(page: str) -> None:
    assert set(generated.REASONS_SAID) == set(REASONS)
    assert [reason for reason in REASONS if f"| `{reason}` |" not in text_of(page)] == []


@pytest.mark.parametrize("kind", [Answer, AnswerRow, Outcome, PushAnswer, RefusedRow, Switch, Switched, WireError])
def test_every_field_on_the_wire_is_documented(kind: type) -> None:
    said = fields_said(kind)
    assert [field.name for field in msgspec.structs.fields(kind) if not said.get(field.name)] == []


def test_every_door_of_the_server_is_documented() -> None:
    from towpath.serving.http import _PATHS

    wire = text_of("reference/wire.md")
    assert [path for path in _PATHS if f"{path}`" not in wire] == []


def test_every_view_and_column_of_the_journal_is_documented() -> None:
    page = text_of("reference/journal.md")
    assert all(f"## {view}\n" in page for view in VIEWS)
    for view, columns in (("predictions", PREDICTION_COLUMNS), ("outcomes", OUTCOME_COLUMNS), ("runs", RUN_COLUMNS)):
        said = section(page, f"## {view}")
        assert [name for name in columns if f"| `{name}` |" not in said] == []


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_monitor_says_what_why_when_it_cries_wolf_and_how_to_mend(name: str) -> None:
    assert all(f"**{part}:**" in section(text_of("reference/monitors.md"), f"## {name}") for part in ("Why it matters", "When it cries wolf", "How to mend"))  # fmt: skip
    said = section(text_of("concepts/monitors.md"), f"## {name}")
    assert all(f"**{part}" in said for part in ("Asks", "Why", "Cries wolf", "Mend"))


def test_every_rule_of_the_gate_says_what_why_when_it_cries_wolf_and_how_to_mend() -> None:
    source = (ROOT / "src/towpath/gate/judge.py").read_text("utf-8")
    constants = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    page = text_of("reference/gate.md")
    documented = re.findall(r"^### (\w+)$", page, re.MULTILINE)
    asked = {
        keyword.value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Rule"
        for keyword in node.keywords
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant)
    }
    assert asked | {"better_than_champion", "better_than_fallback"} == set(documented)
    assert set(documented) <= constants
    for rule in documented:
        said = section(page, f"### {rule}")
        assert all(f"- **{part}**" in said for part in ("Asks", "Why", "Cries wolf", "Mend")), rule


# Every example is true


def runnable() -> dict[Path, list[Block]]:
    found: dict[Path, list[Block]] = {}
    for block in blocks("python"):
        if ELLIPSIS not in block.text:
            found.setdefault(block.page, []).append(block)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(runnable()), ids=lambda page: str(page.relative_to(ROOT)))
def test_python_runs(page: Path, played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a folder that holds the played shop, or the shop where the page sends its reader there; its blocks are one program
    shutil.copytree(played, tmp_path / "shop")
    within = "tow demo shop --no-wait && cd shop" in page.read_text("utf-8")
    monkeypatch.chdir(tmp_path / "shop" if within else tmp_path)
    names: dict[str, Any] = {"__name__": "docs"}
    for block in runnable()[page]:
        # where nobody listens: a server that a developer happens to run is none of ours to push rows to
        program = "\n" * block.line + block.text.replace("127.0.0.1:8080", "127.0.0.1:9")
        exec(compile(program, str(page), "exec"), names)


@pytest.mark.slow
def test_the_files_of_the_guide_to_features_fit_the_shop_that_it_names(played: Path, tmp_path: Path) -> None:
    # given the demo's shop with each file that the guide writes
    shop = shutil.copytree(played, tmp_path / "shop")
    page = DOCS / "guides/features.md"
    files = {"sql": "features/shelf.sql", "text": "features/promotion.py", "toml": "sources.toml"}
    for info, name in files.items():
        (shop / name).write_text(next(one.text for one in blocks(info) if one.page == page))
    union = next(one.text for one in blocks("sh") if one.page == page and "union all" in one.text)
    with (shop / "features/prices.sql").open("a") as prices:
        prices.write(union.partition("<<'SQL'")[2].partition("SQL\n")[0])
    # then the shop is whole, and every view is built
    with towpath.open(shop).at("2026-04-22T06:00") as platform:
        built = platform.features.build()
        assert built["shelf"].entities > 100
        assert "prices" in built
        assert platform.features.get("promotion", ["10002"], inputs={"offered_eur": 1.5})["missing"] == {}
        assert platform.sources.ill() == ()


@pytest.mark.parametrize("block", [*blocks("toml"), *blocks("json")], ids=str)
def test_toml_and_json_parse(block: Block) -> None:
    tomllib.loads(block.text) if block.info == "toml" else json.loads(block.text)


@pytest.mark.parametrize("block", blocks("sql"), ids=str)
def test_sql_parses_and_its_header_fits(block: Block) -> None:
    query = Query.parse(block.text.replace(ELLIPSIS, "1"), str(block))
    if not query.header:
        return
    kinds = {"event_time": FeatureHeader, "label": TrainingHeader, "better": MetricHeader}
    kind = next((kind for key, kind in kinds.items() if key in query.header), MonitorHeader)
    msgspec.convert(query.header, kind)


def called(block: Block) -> Iterator[list[str]]:
    """Each call of ``tow`` in a shell block: the words after it, up to the end of the command."""
    text = re.sub(r"(^|\s)#.*$", "", block.text.replace("\\\n", " "), flags=re.MULTILINE)
    words = shlex.shlex(text, posix=True, punctuation_chars=";&|>\n")
    words.whitespace, words.whitespace_split = " \t\r", True
    command: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set(";&|>\n"):
            if "tow" in command:
                yield command[command.index("tow") + 1 :]
            command = []
        else:
            command.append(word)


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_commands_in_the_docs_exist_with_their_options(block: Block) -> None:
    for words in called(block):
        name = "tow"
        for word in words:
            if f"{name} {word}" not in COMMANDS:
                break
            name += f" {word}"
        plain = [word for word in words if not word.startswith("-")]
        assert name != "tow" or not plain, f"there is no 'tow {plain[0]}'"
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help", "-h"}
        given = {word.split("=")[0].rstrip(",;") for word in words if word.startswith("--")}
        assert given <= known, f"{name} takes no {given - known}"


def texts() -> Iterator[tuple[str, str]]:
    """Where → a text of the package or the examples: each string of a Python file, each line of any other."""
    for path in sorted([*(ROOT / "src").rglob("*"), *(ROOT / "examples").rglob("*")]):
        where = path.relative_to(ROOT)
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{where}:{node.lineno}", node.value
        elif path.suffix in {".sql", ".toml", ".html", ".md"}:
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                yield f"{where}:{number}", line


def test_commands_that_errors_and_monitors_advise_exist() -> None:
    wrong: list[str] = []
    for where, text in texts():
        for advice in re.finditer(r"\btow ([a-z][a-z ]*)([^,;.`\n]*)", text):
            name = "tow"
            for word in advice[1].split():
                if f"{name} {word}" not in COMMANDS:
                    break
                name += f" {word}"
            known = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
            given = set(re.findall(r"--[a-z][a-z-]+", advice[2]))
            wrong += [f"{where}: {advice[0]}"] if name == "tow" or given - known else []
    assert wrong == []


# Every way leads somewhere

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in (first or second for first, second in LINK.findall(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.relative_to(ROOT)} leads to '{target}', which is not there"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{page.relative_to(ROOT)} leads to '{target}': no such heading"


def test_the_map_leads_to_every_page() -> None:
    listed = {(DOCS / target.split("#")[0]).resolve() for target, _ in LINK.findall(text_of("index.md"))}
    pages = {page for page in DOCS.rglob("*.md") if page.parent != DOCS}
    assert {str(page.relative_to(DOCS)) for page in pages if page.resolve() not in listed} == set()

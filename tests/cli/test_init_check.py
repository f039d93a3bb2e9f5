"""``tow init`` and ``tow check`` as people and scripts call them."""

import json
import stat
from pathlib import Path

import pytest

from towpath.cli import main
from towpath.cli.init import command as init_command
from towpath.project import read

Capture = pytest.CaptureFixture[str]


def _call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_what_init_writes_passes_check_and_has_a_private_key(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my-shop"
    assert _call("init", str(folder), "--yes", "--team", "forecasting", "--decision", "what to order") == 0
    assert "Wrote 11 files" in capsys.readouterr().out
    assert _call("check", str(folder)) == 0
    assert capsys.readouterr().out == f"No problem in {folder}.\n"
    monkeypatch.chdir(folder)
    assert _call("check", ".") == 0
    assert capsys.readouterr().out == f"No problem in {folder}.\n"
    project = read(folder, {})
    charter = project.models["demand"].declaration.charter
    assert (project.name, project.team, charter.decision) == ("my_shop", "forecasting", "what to order")
    assert stat.S_IMODE((folder / ".towpath/keys/signing.key").stat().st_mode) == 0o600


def test_init_a_second_time_changes_nothing(tmp_path: Path, capsys: Capture) -> None:
    _call("init", str(tmp_path), "--yes", "--name", "shop")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert _call("init", str(tmp_path), "--yes", "--name", "other", "--json") == 0
    assert json.loads(capsys.readouterr().out)["written"] == []
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_init_refuses_a_foreign_folder_with_2(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "thesis.txt").write_text("")
    assert _call("init", str(tmp_path), "--yes", "--name", "shop") == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_init_asks_for_the_charter_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    # given a person at a terminal, who answers two questions and takes the defaults of the others
    monkeypatch.setattr("towpath.cli.init._at_a_terminal", lambda: True)
    answers = "shop\nforecasting\n\nhow many crates\n\n\n\n\n"
    done = CliRunner().invoke(init_command, [str(tmp_path / "new")], input=answers)
    assert done.exit_code == 0, done.output
    declaration = read(tmp_path / "new", {}).models["demand"].declaration
    assert (declaration.owner, declaration.charter.decision) == ("forecasting", "how many crates")


def test_check_prints_every_problem_and_ends_with_2(tmp_path: Path, capsys: Capture) -> None:
    _call("init", str(tmp_path), "--yes", "--name", "shop")
    path = tmp_path / "models/demand/model.toml"
    path.write_text(path.read_text().replace("wape", "wappe").replace("memory", "memry"))
    capsys.readouterr()
    assert _call("check", str(tmp_path)) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"2 problems in {tmp_path}."
    assert all(line.startswith("models/demand/model.toml:") for line in lines[:-1])
    assert _call("check", str(tmp_path), "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert [problem["mend"] for problem in found] == ["did you mean 'wape'?", "did you mean 'memory'?"]


def test_check_outside_a_project_says_tow_init(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _call("check") == 2
    assert "tow init" in capsys.readouterr().out


def test_check_gives_the_schema_to_an_editor(capsys: Capture) -> None:
    assert _call("check", "--schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "model.toml"

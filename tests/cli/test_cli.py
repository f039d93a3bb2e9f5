"""The command line: a table of commands, exit codes that mean something, and no traceback for a fault of the project."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest

from towpath import cli
from towpath.cli import COMMANDS, main
from towpath.cli.options import as_of_option, json_option, model_argument, project_folder, project_option
from towpath.cli.show import show
from towpath.errors import ProjectError, RefusedError

Capture = pytest.CaptureFixture[str]
Put = Callable[[click.Command], None]


def _call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Put a function in the place of ``tow doctor``."""

    def put(function: click.Command) -> None:
        monkeypatch.setattr(cli, "_probe", function, raising=False)
        monkeypatch.setitem(COMMANDS, "doctor", ("towpath.cli:_probe", "A probe."))

    return put


def _raising(error: BaseException) -> click.Command:
    @click.command()
    def probe() -> None:
        raise error

    return probe


def test_help_lists_every_command_with_its_line(capsys: Capture) -> None:
    assert _call("--help") == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and line in out for name, (_, line) in COMMANDS.items())


def test_a_command_line_fits_a_terminal_of_80() -> None:
    assert max(len(line) for _, line in COMMANDS.values()) <= 68


def test_a_misspelt_command_gets_the_nearest_name_and_2(capsys: Capture) -> None:
    assert _call("promte") == 2
    assert "There is no command 'promte'; did you mean 'promote'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RefusedError("demand@3 was not promoted.", mend="tow gate demand@3"), 1, "demand@3 was not promoted.\n  mend:  tow gate demand@3\n"),
        (ProjectError("2 problems in 'shop'.", problems=["a:1: x", "b:2: y"]), 2, "2 problems in 'shop'.\n  a:1: x\n  b:2: y\n"),
        (click.UsageError("no such thing"), 2, "no such thing"),
        (click.ClickException("not so"), 2, "Error: not so"),
        (PermissionError(13, "Permission denied", "/etc/x"), 2, "Permission denied: '/etc/x'\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (ZeroDivisionError("x"), 3, "This is a fault of Towpath"),
        (click.exceptions.Exit(1), 1, ""),
        (SystemExit(1), 1, ""),
    ],
)  # fmt: skip
def test_an_error_becomes_a_message_and_a_code(
    command: Put, capsys: Capture, error: BaseException, code: int, said: str
) -> None:
    command(_raising(error))
    assert _call("doctor") == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert ("Traceback" in shown.err) == (code == 3)
    assert shown.out == ""


def test_json_is_remembered_for_show(command: Put, capsys: Capture) -> None:
    @click.command()
    @json_option
    def probe() -> None:
        show({"a": 1})

    command(probe)
    assert _call("doctor", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    assert _call("doctor") == 0
    assert capsys.readouterr().out == "a  1\n"


def test_times_models_and_projects_are_read_the_same_everywhere(command: Put, capsys: Capture, tmp_path: Path) -> None:
    @click.command()
    @model_argument
    @as_of_option
    @project_option
    @json_option
    def probe(model: tuple[str, int | None], as_of: datetime | None, project: Path) -> None:
        assert as_of == datetime(2011, 9, 1, tzinfo=UTC)
        show([*model, project])

    command(probe)
    assert _call("doctor", "demand@3", "--as-of", "2011-09-01T01:00+01:00", "--project", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out) == ["demand", 3, str(tmp_path)]
    assert _call("doctor", "demand", "--as-of", "yesterday") == 2
    assert "'yesterday' is no time." in capsys.readouterr().err
    assert _call("doctor", "Demand@x") == 2


def test_the_project_is_the_nearest_folder_at_or_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "towpath.toml").write_text("")
    (tmp_path / "models" / "demand").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "models" / "demand")
    assert project_folder(None) == tmp_path
    assert project_folder(Path("x")) == Path("x")


def _process(code: str, **rest: Any) -> subprocess.Popen[str]:
    head = "import sys, click; from towpath import cli; from towpath.cli import COMMANDS, main\n"
    tail = "\ncli._probe = probe; COMMANDS['doctor'] = ('towpath.cli:_probe', ''); main(['doctor'])"
    return subprocess.Popen([sys.executable, "-c", head + code + tail], text=True, stderr=subprocess.PIPE, **rest)


def test_ctrl_c_ends_a_real_process_with_one_line_and_130() -> None:
    code = "@click.command()\ndef probe():\n  import signal\n  click.echo('ready')\n  signal.pause()"
    with _process(code, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "Interrupted.\n")


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_went_away_is_no_error(lines: int) -> None:
    # given a pipe that nobody reads
    reader, writer = os.pipe()
    os.close(reader)
    # when a command writes into it, little enough to stay in the buffer or more
    code = f"@click.command()\ndef probe():\n  [print('x' * 80) for _ in range({lines})]"
    with _process(code, stdout=writer) as process:
        os.close(writer)
        _, said = process.communicate(timeout=20)
    # then it is silent, and says neither yes nor no
    assert (process.returncode, said) == (141, "")


def test_a_store_that_is_not_there_is_not_made_by_serving_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("publishd", f"file://{tmp_path / 'publishd'}"):
        assert _call("serve", "--store", url) == 2
        assert f"There is no store in '{tmp_path / 'publishd'}'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

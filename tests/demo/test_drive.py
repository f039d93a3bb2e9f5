"""The demo as a newcomer has it: one command, a folder that stays usable, and folders that it does not touch."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from towpath.demo.drive import Demo, Progress


def tow(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    variables = {name: value for name, value in os.environ.items() if not name.startswith("TOWPATH")}
    argv = [sys.executable, "-m", "towpath.cli", *words]
    return subprocess.run(argv, cwd=cwd, env=variables, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("newcomer")
    run = tow("demo", "--no-wait", "--json", cwd=folder)
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    return folder / "towpath-demo", json.loads(run.stdout)


@pytest.mark.slow
def test_the_folder_stays_usable_and_shows_what_was_promised(told: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = told
    # given the demo, when the fleet is asked for from within its folder
    (row,) = json.loads(tow("fleet", "--json", cwd=folder).stdout)
    incidents = json.loads(tow("monitor", "incidents", "--json", cwd=folder).stdout)
    # then there is one model with calls, fallbacks, a metric on what came true, and an incident that closed
    assert row["model"] == "demand"
    assert row["calls"] > 0
    assert row["fallback_share"] > 0
    assert row["matured_rows"] > 0
    assert row["beside_fallback_value"] < row["fallback_value"]
    assert any(incident["status"] == "closed" for incident in incidents)
    # and the summary said what the stores say
    assert summary["matured"] == row["matured_rows"]
    assert summary["incidents_opened"] == len(incidents)
    assert {"ok", "killed", "features"} <= set(summary["by_reason"])


@pytest.mark.slow
def test_a_second_run_goes_on_where_the_first_one_ended(told: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = told
    again = tow("demo", str(folder), "--no-wait", "--json", cwd=folder.parent)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["days"] == summary["days"] + 3


class AlwaysReady(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_a_server_that_took_the_port_meanwhile_is_not_taken_for_the_demos_own(played: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(played, tmp_path / "shop"))
    (folder / ".towpath" / "demo.json").write_bytes(msgspec.json.encode(Progress()))
    demo = Demo(folder, say=print)
    # given a port that was free, and on which somebody else says by now that they are ready
    with ThreadingHTTPServer(("127.0.0.1", demo.http), AlwaysReady) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        # when the demo serves, then at another port, and it is its own model that answers there
        with demo.serving():
            assert demo.http != other.server_address[1]
            assert httpx.get(f"http://{demo.address}/v2/models/demand").json()["name"] == "demand"
        other.shutdown()


def test_a_foreign_folder_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years")
    refused = tow("demo", "mine", "--no-wait", cwd=tmp_path)
    assert refused.returncode == 1
    assert "did not make" in refused.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]

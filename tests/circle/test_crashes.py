"""`kill -9` in the middle of each step that writes, then the same command again: what stands afterwards is right."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from circle_stand import TOW, copied, environment, eventually, inside, rows_of

DIES = """
import importlib, os, signal, sys
where, after, *arguments = sys.argv[1:]
module, _, name = where.partition(":")
owner, _, method = name.rpartition(".")
holder = getattr(importlib.import_module(module), owner)
real, left = getattr(holder, method), iter(range(int(after)))
def dies(*given, **named):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given, **named)
setattr(holder, method, dies)
from towpath.cli import main
main(arguments)
"""
"""A command whose process is killed at a certain call of one method, which is what a power cut there looks like."""
PUT = "towpath.stores.objects:Objects.put_new"


def killed(where: str, after: int, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIES, where, str(after), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(),
    )
    assert done.returncode == -signal.SIGKILL, f"it never came to call {after}: {done}"


@pytest.mark.slow
def test_a_train_that_died_between_its_objects_leaves_no_half_version(project: Path) -> None:
    at = ("--project", project)
    # given a training that dies before its first object, among its files, and before the manifest that makes it whole
    for after in (0, 2, 5, 8):
        killed(PUT, after, "train", "demand", *at)
        assert [row["version"] for row in inside("show", "demand", "--json", *at).json["versions"]] == [1]
    # when it runs again
    trained = inside("train", "demand", "--json", *at).json
    # then there is one more version, it can be judged, and no dead run pretends to be at work
    assert [row["version"] for row in inside("show", "demand", "--json", *at).json["versions"]] == [
        trained["version"],
        1,
    ]
    verdict = inside("gate", f"demand@{trained['version']}", "--json", *at, expect=1).json
    assert {rule["name"]: rule["passed"] for rule in verdict["rules"]}["golden"]
    runs = inside("runs", "--json", *at).json
    assert {run["status"] for run in runs} <= {"done", "orphaned", "failed"}
    assert sum(run["status"] == "done" for run in runs) == 2
    assert not list((project / ".towpath" / "runs").glob("*/*")), "a run's folder was left behind"


def test_a_train_that_died_when_its_version_stood_is_done_when_runs_are_listed(project: Path) -> None:
    at = ("--project", project)
    # given a training that dies after the manifest, and one that dies before its folder is removed
    killed("towpath.training.runs:Runs.finish", 0, "train", "demand", *at)
    killed("towpath.platform.opened:Platform.trust_again", 0, "train", "demand", *at)
    assert [row["version"] for row in inside("show", "demand", "--json", *at).json["versions"]] == [3, 2, 1]
    # when somebody lists the runs
    runs = inside("runs", "--json", *at).json
    # then each has its version, and no folder is left
    assert {run["version"]: (run["status"], run["folder"]) for run in runs} == dict.fromkeys((1, 2, 3), ("done", ""))
    assert all(run["metrics"]["wape"] > 0 for run in runs)
    assert not list((project / ".towpath" / "runs").iterdir())


def test_with_the_command_its_training_job_dies(project: Path) -> None:
    code = project / "models" / "demand" / "model.py"
    whole = code.read_text()
    code.write_text(whole.replace("def train(data):", "def train(data):\n    import time\n\n    time.sleep(600)"))
    running = subprocess.Popen(
        [*TOW, "train", "demand", "--project", str(project)], env=environment(), stdin=subprocess.DEVNULL
    )
    job = eventually(lambda: jobs_of(project))
    running.kill()
    running.wait()
    eventually(lambda: not jobs_of(project), 10)
    assert job
    code.write_text(whole)
    assert inside("train", "demand", "--json", "--project", project).json["version"] == 2


def jobs_of(project: Path) -> list[str]:
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if "towpath.training.task" in command and str(project) in command and int(process.name) != os.getpid():
            found.append(command)
    return found


def test_a_build_that_died_is_right_when_it_runs_again(project: Path, tmp_path: Path, prepared: Path) -> None:
    # given an online table that is lost, and builds that die before the schema, before the table, before the rows
    import shutil

    get = ("features", "get", "item_sales", "--key", "item_05", "--json", "--project")
    shutil.rmtree(project / ".towpath" / "online")
    write = "towpath.stores.online.lmdb:LmdbOnlineStore.write"
    for after in (0, 1, 2):
        killed(write, after, "features", "build", "--project", project)
    # when it runs again
    (built,) = inside("features", "build", "--json", "--project", project).json
    # then it holds what a build that was never stopped holds
    assert (built["rows"], built["entities"]) == (24, 24)
    other = copied(prepared, tmp_path / "other")
    inside("features", "build", "--project", other)
    assert inside(*get, project).json == inside(*get, other).json
    assert inside(*get, project).json["item_sales.units_7d"] is not None


def test_a_gate_and_a_promotion_that_died_are_right_when_they_run_again(project: Path) -> None:
    at = ("--project", project)
    inside("train", "demand", *at)
    because = ("--override", "--because", "as a test")
    for after in (0, 1):  # before the seal, and between the seal and the verdict
        killed(PUT, after, "gate", "demand@2", *at)
    killed(PUT, 0, "promote", "demand@2", *because, *at)
    assert inside("show", "demand", "--json", *at).json["champion"] == 1
    assert not inside("gate", "demand@2", "--json", *at, expect=1).json["passed"]
    assert inside("promote", "demand@2", *because, "--json", *at).json["revision"] == 2
    assert [row["champion"] for row in inside("history", "demand", "--json", *at).json] == [1, 2]
    assert inside("rollback", "demand", "--because", "back", "--json", *at).json["state"]["champion"] == 1


def test_a_batch_that_died_counts_once_when_it_runs_again(project: Path) -> None:
    at = ("--project", project)
    for after in (1, 3, 5):
        killed(PUT, after, "predict", "demand", *at)
        (counted,) = rows_of(project, "select count(*) as n from predictions")
        assert counted["n"] == 0
    inside("predict", "demand", *at)
    (counted,) = rows_of(project, "select count(*) as n, count(distinct run_id) as runs from predictions")
    assert counted == {"n": 24, "runs": 1}
    assert [row["status"] for row in rows_of(project, "select status from runs order by counts")][-1] == "done"
    # and the monitor that asks whether it ran is content
    checks = {row["monitor"]: row["status"] for row in inside("monitor", "run", "--json", *at).json}
    assert checks["did_it_run"] == "ok"

"""What breaks around a running server: disks, stores, workers, promotions. Answers go on, and what was acknowledged is kept."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from circle_stand import TOW, Load, Server, copied, environment, eventually, inside, rows_of
from msgspec.structs import replace

from towpath.clock import SystemClock
from towpath.registry import history
from towpath.registry.log import Event, TrafficState
from towpath.stores.objects import Objects

KEYED = [{"item_id": "item_01"}]
ROW = {"item_sales.units_7d": 70.0, "item_sales.units_a_week_28d": 70.0, "item_sales.price_eur": 2.5}


@pytest.fixture(scope="module")
def two_versions(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two versions that both once were champion."""
    folder = copied(prepared, tmp_path_factory.mktemp("two") / "shop")
    inside("train", "demand", "--project", folder)
    inside("promote", "demand@2", "--override", "--because", "as a test", "--project", folder)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"nobody may mount a small disk here ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def journalled(project: Path) -> set[str]:
    return {row["prediction_id"] for row in rows_of(project, "select prediction_id from predictions")}


def test_a_full_disk_costs_records_that_are_counted_and_no_answer(
    project: Path, small_disk: Path, tmp_path: Path
) -> None:
    settings = project / "towpath.toml"
    settings.write_text(settings.read_text().replace("[serving]", f'[serving]\njournal = "{small_disk}/journal"'))
    with Server("--project", project, log=tmp_path / "log") as server:
        (before,) = server.ask(ROW)
        # when the disk fills up
        with (small_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(4_096)):
                pass
        for _ in range(100):
            assert server.ask(*[{"item_id": "item_01"}] * 50)[0]["source"] == "champion"
        # then what is not written is counted, and an outcome is not acknowledged
        dropped = server.metric("towpath_journal_dropped")
        assert dropped > 0
        outcome = [
            {"prediction_id": f"{before['prediction_id']}{n}", "value": 7} for n in range(200)
        ]  # no page has room
        got = httpx.post(f"{server.url}/outcomes/demand", json=outcome, timeout=20)
        assert (got.status_code, got.headers["retry-after"]) == (503, "1"), got.text
        # and with room again it is written again
        (small_disk / "filler").unlink()

        def written() -> list[dict[str, object]] | None:
            dropped = server.metric("towpath_journal_dropped")
            answered = server.ask(ROW)
            return answered if server.metric("towpath_journal_dropped") == dropped else None

        after = eventually(written)
        assert httpx.post(f"{server.url}/outcomes/demand", json=outcome, timeout=20).status_code == 202
    kept = journalled(project)
    assert {before["prediction_id"], after[0]["prediction_id"]} <= kept


def test_warehouse_catalog_and_project_may_go_while_it_serves(project: Path, tmp_path: Path) -> None:
    with Server("--project", project, log=tmp_path / "log") as server:
        assert server.ask(*KEYED)[0]["missing"] == []
        for path in [*project.iterdir(), *(project / ".towpath").glob("catalog*")]:
            if path.name != ".towpath":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        time.sleep(0.3)  # several polls
        (row,) = server.ask(*KEYED)
        assert (row["source"], row["missing"]) == ("champion", [])
        assert httpx.get(f"{server.url}/v2/health/ready", timeout=20).status_code == 200


def test_the_object_store_may_go_and_come_back_while_it_serves(two_versions: Path, tmp_path: Path) -> None:
    project = copied(two_versions, tmp_path / "shop")
    objects = project / ".towpath" / "objects"
    with Server("--project", project, log=tmp_path / "log") as server:
        ids = [server.ask(*KEYED)[0]["prediction_id"]]
        objects.rename(tmp_path / "away")
        for _ in range(5):
            time.sleep(0.1)
            (row,) = server.ask(*KEYED)
            assert (row["source"], row["version"]) == ("champion", 2)
            ids.append(row["prediction_id"])
        # what a flush made meanwhile is not lost when the store is back
        made = list(objects.rglob("*")) if objects.exists() else []
        for path in made:
            if path.is_file():
                target = tmp_path / "away" / path.relative_to(objects)
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    path.rename(target)
        shutil.rmtree(objects, ignore_errors=True)
        (tmp_path / "away").rename(objects)
        inside("rollback", "demand", "--because", "back", "--project", project)
        eventually(lambda: server.ask(*KEYED)[0]["version"] == 1, 5)
    assert set(ids[:1]) <= journalled(project)


def turn(objects: Objects, to: int) -> None:
    """Crown one of two versions without a gate, as fast as the store allows."""
    entry = history.current(objects, "demand")
    assert entry is not None

    def change(state: TrafficState) -> TrafficState:
        return replace(state, champion=to, previous=state.champion)

    event = Event(kind="promoted", at=SystemClock().now(), by="a test", version=to)
    history.append(objects, "demand", event, change, on=entry.revision)


def promoted_under_load(project: Path, log: Path, *, promotions: int, callers: int) -> tuple[Load, float]:
    objects = Objects(str(project / ".towpath" / "objects"))
    with (
        Server("--project", project, "--workers", "2", log=log) as server,
        Load(f"{server.url}/predict/demand", KEYED, callers=callers) as load,
    ):
        started = time.monotonic()
        for number in range(promotions):
            turn(objects, 1 + number % 2)
            time.sleep(0.05)
        seconds = time.monotonic() - started
        last = 1 + (promotions - 1) % 2
        eventually(lambda: {server.ask(*KEYED)[0]["version"] for _ in range(4)} == {last}, 5)
    return load, seconds


@pytest.mark.slow
def test_hot_promotions_under_load_fail_no_request(two_versions: Path, tmp_path: Path) -> None:
    project = copied(two_versions, tmp_path / "shop")
    load, _ = promoted_under_load(project, tmp_path / "log", promotions=50, callers=8)
    assert (load.failed, load.broken) == ([], [])
    assert {row["version"] for row in load.acknowledged} == {1, 2}
    assert {row["source"] for row in load.acknowledged} == {"champion"}
    assert {row["prediction_id"] for row in load.acknowledged} <= journalled(project)


@pytest.mark.nightly
def test_200_hot_promotions_under_16_connections_fail_no_request(two_versions: Path, tmp_path: Path) -> None:
    project = copied(two_versions, tmp_path / "shop")
    load, seconds = promoted_under_load(project, tmp_path / "log", promotions=200, callers=16)
    print(f"200 promotions in {seconds:.1f} s, {len(load.acknowledged)} answers, {len(load.failed)} failed")
    assert (load.failed, load.broken) == ([], [])
    assert {row["prediction_id"] for row in load.acknowledged} <= journalled(project)


@pytest.mark.slow
def test_killed_workers_lose_no_acknowledged_answer(project: Path, tmp_path: Path) -> None:
    killed, callers = 3, 16
    with (
        Server("--project", project, "--workers", "2", log=tmp_path / "log") as server,
        Load(f"{server.url}/predict/demand", KEYED, callers=callers) as load,
    ):
        for _ in range(killed):
            before = eventually(lambda: (found := server.answering()) and len(found) == 2 and found)
            eventually(lambda start=len(load.acknowledged): len(load.acknowledged) > start + 50)
            victim = min(before)
            os.kill(victim, signal.SIGKILL)
            eventually(lambda gone=victim: gone not in server.workers())
        assert len(eventually(lambda: (found := server.answering()) and len(found) == 2 and found)) == 2
    # then only connections to a killed worker broke, each once, and every answer that arrived is in the journal
    assert load.failed == []
    assert len(load.broken) <= killed * callers
    assert len({row["prediction_id"] for row in load.acknowledged}) == len(load.acknowledged)
    assert {row["prediction_id"] for row in load.acknowledged} <= journalled(project)
    assert {row["source"] for row in load.acknowledged} == {"champion"}


@pytest.mark.parametrize("after_s", [0.6, 1.1, 1.6])
def test_a_server_that_is_interrupted_while_it_starts_leaves_nothing_behind(
    project: Path, tmp_path: Path, after_s: float
) -> None:
    # given a server whose supervisor goes somewhere between its first import and its workers' first answer
    with (tmp_path / "log").open("w") as log:
        starting = subprocess.Popen(
            [*TOW, "serve", "--project", str(project), "--port", "0", "--grpc-port", "0"],
            stdout=log,
            stderr=log,
            env=environment(),
            start_new_session=True,
        )
        time.sleep(after_s)
        starting.send_signal(signal.SIGINT)
        assert starting.wait(60) in {0, 130, -signal.SIGINT}
    # then its workers end by themselves, without a word about it
    eventually(lambda: not workers_with(tmp_path / "log"))
    assert "BrokenPipe" not in (tmp_path / "log").read_text()
    assert "Event loop is closed" not in (tmp_path / "log").read_text()


def workers_with(log: Path) -> list[str]:
    """Workers that still have a file open as their stderr."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"serving.child" in (process / "cmdline").read_bytes() and (process / "fd" / "2").readlink() == log:
                found.append(process.name)
        except OSError:
            continue
    return found


def descendants(pid: int) -> dict[int, str]:
    """Process numbers below a process → their commands."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            with contextlib.suppress(OSError):
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            found |= descendants(child)
    return found


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("verb", ["serve", "up"])
def test_a_server_that_is_stopped_while_it_starts_ends_well_and_leaves_nobody(
    verb: str, sign: signal.Signals, project: Path, tmp_path: Path
) -> None:
    more = ("--console-port", "0") if verb == "up" else ()
    with (tmp_path / "log").open("w") as log:
        starting = subprocess.Popen(
            [*TOW, verb, "--port", "0", "--grpc-port", "0", *more, "--project", str(project)],
            stdout=log,
            stderr=log,
            env=environment(),
        )
    below = eventually(
        lambda: any("serving.child" in one for one in descendants(starting.pid).values()) and descendants(starting.pid)
    )
    starting.send_signal(sign)
    assert starting.wait(60) == 0, (tmp_path / "log").read_text()
    eventually(lambda: not [pid for pid in below if Path(f"/proc/{pid}").exists()], 20)
    assert "Traceback" not in (tmp_path / "log").read_text()

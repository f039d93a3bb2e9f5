"""What walks the circle: the command line as a process or in this one, a server of its own, and a project that misbehaves when told."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx

from towpath.cli import main

TOW = [sys.executable, "-m", "towpath.cli"]
RAISES, SLEEPS, NOT_A_NUMBER = 666.0, 777.0, 888.0
"""Prices at which `NAUGHTY` misbehaves."""

NAUGHTY = """
def predict(model, rows):
    import time

    price = np.asarray(rows["item_sales.price_eur"], dtype=float)
    if (price == 666).any():
        raise ValueError("no such price")
    if (price == 777).any():
        time.sleep(1.5)
    answers = np.maximum(_matrix(rows) @ np.asarray(model["weights"]), 0.0)
    answers[price == 888] = np.nan
    return answers
"""
"""Replaces ``predict`` of the project that ``tow init`` writes."""


class Finished(NamedTuple):
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def tow(*arguments: object, variables: Mapping[str, str] | None = None, folder: Path | None = None) -> Finished:
    """A command in a process of its own."""
    done = subprocess.run(
        [*TOW, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        cwd=folder,
        env=environment(variables),
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def inside(*arguments: object, expect: int | None = 0) -> Finished:
    """A command in this process, which spares the imports; refuses another exit code than expected, if one is."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
    found = Finished(code, out.getvalue(), err.getvalue())
    assert code == expect or (expect is None and code < 2), found
    assert "Traceback" not in found.err, found.err
    return found


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOWPATH")}
    return kept | {"NO_COLOR": "1"} | dict(variables or {})


def rows_of(project: Path, text: str, *more: object) -> list[dict[str, Any]]:
    """``tow sql`` as rows."""
    return inside("sql", text, "--json", "--project", project, *more).json


def begin(folder: Path, *, name: str = "shop", team: str = "area", predict: str = NAUGHTY) -> Path:
    """The project of ``tow init``, with a ``predict`` that misbehaves when told, and room for slow machines."""
    inside("init", folder, "--yes", "--name", name, "--team", team, "--owner", "ana")
    code = folder / "models" / "demand" / "model.py"
    if predict:
        code.write_text(
            re.sub(r"def predict\(.*?(?=\n\ndef )", lambda _: predict.strip() + "\n", code.read_text(), flags=re.DOTALL)
        )
    toml = folder / "models" / "demand" / "model.toml"
    toml.write_text(toml.read_text() + "\n[serving]\ntimeout_ms = 1000\n")
    settings = folder / "towpath.toml"
    settings.write_text(settings.read_text() + "\n[serving]\npoll_ms = 100\ndrain_ms = 50\nflush_s = 0.5\n")
    return folder


def crowned(folder: Path) -> Path:
    """The same, built, trained, judged and promoted."""
    begin(folder)
    inside("features", "build", "--project", folder)
    inside("train", "demand", "--project", folder)
    inside("gate", "demand", "--project", folder)
    inside("promote", "demand", "--project", folder)
    return folder


def copied(prepared: Path, to: Path) -> Path:
    """A project of one's own, without training it again."""
    shutil.copytree(prepared, to, symlinks=True)
    return to


def eventually(check: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for something to be true, and give it."""
    until = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.02)
    return found


class Server:
    """``tow serve`` as a process; ends with it, and looks for tracebacks then.

    Args:
        arguments: After ``tow serve``; free ports are added.
        folder: The working folder.
        log: Where its stderr goes.
        limits: Called in the child before it begins.
    """

    def __init__(
        self,
        *arguments: object,
        log: Path,
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [*before, *TOW, "serve", *map(str, arguments), "--port", "0", "--grpc-port", "0"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=folder,
                env=environment(variables),
            )
        self.said: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if line.startswith("grpc: "):
                break
        else:
            self.process.wait()
            self.process.stdout.close()
            raise AssertionError(f"it did not start: {self.said} {self.err}")
        told = dict(line.split(": ", 1) for line in self.said)
        self.url, self.grpc = told["http"], told["grpc"]

    @property
    def err(self) -> str:
        return self.log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        code = self.end()
        if kind is None:
            assert code == 0, self.err
            assert "Traceback" not in self.err, self.err

    def end(self) -> int:
        """Drain it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def ask(self, *rows: Mapping[str, Any], model: str = "demand") -> list[dict[str, Any]]:
        got = httpx.post(f"{self.url}/predict/{model}", json={"rows": rows}, timeout=30)
        assert got.status_code == 200, got.text
        return got.json()["predictions"]

    def metric(self, name: str) -> float:
        """The sum of a counter over its labels."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[ {{]", line))

    def workers(self) -> list[int]:
        """Process numbers of the workers."""
        children = Path(f"/proc/{self.process.pid}/task")
        found = [int(pid) for task in children.iterdir() for pid in (task / "children").read_text().split()]
        return [pid for pid in found if b"serving.child" in _command(pid)]

    def answering(self) -> set[int]:
        """Process numbers of the workers that took one of a few new connections."""
        found: set[int] = set()
        for _ in range(8):
            with contextlib.suppress(httpx.TransportError):  # it went to one that was killed just now
                found.add(httpx.get(f"{self.url}/health", timeout=30).json()["pid"])
        return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Load:
    """Callers that ask without pause, each over a connection of its own.

    Args:
        url: What to post to.
        body: JSON.
        callers: How many.
    """

    def __init__(self, url: str, body: Any, *, callers: int) -> None:
        self._url, self._body = url, body
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]
        self.acknowledged: list[dict[str, Any]] = []
        """Rows of answers that arrived whole."""
        self.broken: list[str] = []
        """Connections that ended without an answer."""
        self.failed: list[str] = []
        """Answers that were none."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    got = client.post(self._url, json=self._body)
                except httpx.TransportError as error:
                    self.broken.append(repr(error))
                    continue
                if got.status_code != 200:
                    self.failed.append(got.text)
                    continue
                self.acknowledged += got.json()["predictions"]


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder in which nothing can be made, for a while."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in folders:
            path.chmod(0o755)

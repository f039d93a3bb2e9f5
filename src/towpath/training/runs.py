"""Runs: what was trained, from what, with what result; what people list, look at and compare."""

import contextlib
import json
import platform
import secrets
import shutil
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from towpath.clock import Clock, now_us
from towpath.errors import UnknownError, nearest
from towpath.stores.catalog import Catalog
from towpath.types import micros

__all__ = ["Difference", "Published", "Run", "Runs", "Segment"]

Status = Literal["running", "done", "failed", "orphaned"]
"""Orphaned: its process ended without a word, so nothing of it counts."""

_JSON = ("parameters", "metrics", "segments", "data", "environment", "resources")
_LOCK = "lock"


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """How well the holdout rows of one segment were answered."""

    column: str
    """A segment column of the spine."""
    value: str
    """Its value; empty for null."""
    rows: int
    """Rows of the holdout."""
    metrics: dict[str, float]
    """By name; one that does not exist there (a ratio over zero) is left out."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the catalog's ``runs``."""

    run_id: str
    project: str
    model: str
    kind: str
    """``train`` or ``predict``."""
    status: Status
    started_at_us: int
    finished_at_us: int | None = None
    as_of_us: int | None = None
    """Nothing that became known later was used; microseconds since 1970."""
    version: int | None = None
    """The version that was published from it."""
    seed: int | None = None
    sample_share: float = 1.0
    parameters: dict[str, Any] = {}
    """As declared."""
    metrics: dict[str, float] = {}
    """On the holdout."""
    segments: tuple[Segment, ...] = ()
    """The same by segment."""
    data: dict[str, Any] = {}
    """Digest, rows and times of what it was trained and measured on."""
    code_commit: str = ""
    """Of the project's git, ``+dirty`` where it was."""
    environment: dict[str, Any] = {}
    """Interpreter and packages."""
    resources: dict[str, Any] = {}
    """What it was held to."""
    duration_s: float | None = None
    cpu_s: float | None = None
    peak_memory_mib: float | None = None
    error: str = ""
    """Why it failed."""
    folder: str = ""
    """Where its files lie until they are published."""
    host: str = ""


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A version that stands, as the run that made it would have noted it."""

    version: int
    metrics: dict[str, float] = {}


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in which two runs differ."""

    section: str
    """``run parameters metrics data packages resources``."""
    name: str
    left: Any
    """None where only the right one has it."""
    right: Any


class Runs:
    """The runs of one project in the catalog.

    Args:
        catalog: Where they are kept.
        project: Whose they are.
        folder: Where each run gets a folder of its own while it works.
        clock: What time it is.
        published: Model and run → the version that the run published, if it got that far; nobody knows unless given.
    """

    def __init__(
        self,
        catalog: Catalog,
        project: str,
        folder: Path,
        clock: Clock,
        *,
        published: Callable[[str, str], Published | None] | None = None,
    ) -> None:
        self._catalog = catalog
        self._published = published
        self._project = project
        self._folder = folder
        self._clock = clock

    @contextmanager
    def start(self, model: str, kind: str = "train", **known: Any) -> Generator["Run", None, None]:
        """Open a run; the block does the work, and a run that it leaves unfinished is a failed one.

        Runs of this machine whose process ended without a word (``kill -9``, power) are settled first.

        Args:
            model: Whose run it is.
            kind: ``train`` or ``predict``.
            known: Further columns that are known at the start, such as ``as_of_us`` and ``seed``.
        """
        self.settle()
        now = self._clock.now()
        run_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        folder = self._folder / run_id
        folder.mkdir(parents=True)
        with _held(folder / _LOCK):
            run = Run(
                run_id=run_id,
                project=self._project,
                model=model,
                kind=kind,
                status="running",
                started_at_us=micros(now),
                folder=str(folder),
                host=platform.node(),
                **known,
            )
            self._insert(run)
            try:
                yield run
            except BaseException as fault:
                self.fail(run_id, str(fault) or type(fault).__name__)
                raise
            if self.show(run_id).status == "running":
                self.fail(run_id, "It ended without a result.")

    def finish(self, run_id: str, **columns: Any) -> None:
        """Close a run that came to a result, with what is known now."""
        self._update(run_id, status="done", finished_at_us=now_us(self._clock), **columns)

    def fail(self, run_id: str, error: str, status: Status = "failed") -> None:
        """Close a run that has no result, and remove its files."""
        run = self.show(run_id)
        shutil.rmtree(run.folder, ignore_errors=True)
        self._update(run_id, status=status, finished_at_us=now_us(self._clock), error=error, folder="")

    def note(self, run_id: str, **columns: Any) -> None:
        """Write down what became known while it runs, or later, such as ``version``."""
        self._update(run_id, **columns)

    def settle(self) -> list[str]:
        """Close the runs of this machine whose process is gone, remove what they left, and give their names.

        A working run holds a lock on a file of its folder, which ends with its process however that dies. One whose version
        stands is done, because a version that has its manifest is whole; every other one is orphaned.
        """
        settled: list[str] = []
        for row in self._catalog.read(
            "select run_id, model, status, folder from runs where project = :project and host = :host and folder <> ''",
            project=self._project,
            host=platform.node(),
        ):
            with contextlib.suppress(BlockingIOError):
                lock = Path(row["folder"]) / _LOCK
                with _held(lock) if lock.exists() else contextlib.nullcontext():
                    if row["status"] == "running":
                        self._close_dead(row["run_id"], row["model"])
                        settled.append(row["run_id"])
                    elif self._published is not None and row["status"] == "done":  # it died before its last step
                        shutil.rmtree(row["folder"], ignore_errors=True)
                        self._update(row["run_id"], folder="")
        return settled

    def _close_dead(self, run_id: str, model: str) -> None:
        found = None if self._published is None else self._published(model, run_id)
        if found is None:
            self.fail(run_id, "Its process ended without a word (killed, or no power).", "orphaned")
            return
        shutil.rmtree(self.show(run_id).folder, ignore_errors=True)
        self.finish(run_id, version=found.version, metrics=found.metrics, folder="")

    def newest(self, model: str | None = None, *, limit: int = 50) -> list[Run]:
        """Runs, newest first.

        Args:
            model: Of this model only.
            limit: At most so many.
        """
        rows = self._catalog.read(
            "select * from runs where project = :project and (:model = '' or model = :model)"
            " order by started_at_us desc, run_id desc limit :most",
            project=self._project,
            model=model or "",
            most=limit,
        )
        return [_run(row) for row in rows]

    def show(self, run_id: str) -> Run:
        """One run, by its name or an unambiguous beginning of it.

        Raises:
            UnknownError: There is none; offers the nearest.
        """
        rows = self._catalog.read(
            "select * from runs where project = :project and substr(run_id, 1, :length) = :run_id",
            project=self._project,
            run_id=run_id,
            length=len(run_id),
        )
        if len(rows) != 1:
            known = [run.run_id for run in self.newest()]
            what = f"There is no run '{run_id}'" if not rows else f"'{run_id}' begins {len(rows)} runs"
            raise UnknownError(f"{what}{nearest(run_id, known)}.", "runs", "tow runs")
        return _run(rows[0])

    def compare(self, left: str, right: str) -> list[Difference]:
        """In what two runs differ: parameters, metrics, data, packages, resources.

        Raises:
            UnknownError: One of them does not exist.
        """
        runs = self.show(left), self.show(right)
        found: list[Difference] = []
        for (section, one), other in zip(_sections(runs[0]).items(), _sections(runs[1]).values(), strict=True):
            found += [
                Difference(section=section, name=name, left=one.get(name), right=other.get(name))
                for name in sorted({*one, *other})
                if one.get(name) != other.get(name)
            ]
        return found

    def _insert(self, run: Run) -> None:
        row = _row(msgspec.to_builtins(run))
        columns = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        self._catalog.write(f"insert into runs ({columns}) values ({values})", **row)

    def _update(self, run_id: str, **columns: Any) -> None:
        row = _row(msgspec.to_builtins(columns))
        assignments = ", ".join(f"{name} = :{name}" for name in row)
        self._catalog.write(f"update runs set {assignments} where run_id = :of", of=run_id, **row)


def _row(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if name in _JSON else value for name, value in columns.items()}


def _run(row: Mapping[str, Any]) -> Run:
    return msgspec.convert({name: json.loads(row[name]) if name in _JSON else row[name] for name in row}, Run)


def _sections(run: Run) -> dict[str, dict[str, Any]]:
    return {
        "run": {name: getattr(run, name) for name in ("model", "as_of_us", "seed", "sample_share", "code_commit")},
        "parameters": run.parameters,
        "metrics": run.metrics,
        "data": run.data,
        "packages": run.environment.get("packages", {}),
        "resources": run.resources,
    }


@contextmanager
def _held(path: Path) -> Generator[None, None, None]:
    """Hold a lock that ends with this process.

    Raises:
        BlockingIOError: Another process holds it.
    """
    with path.open("a") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield

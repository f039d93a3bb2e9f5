"""Training as a job: rows and code go in, a model with its signature, its measurements and its origin come out."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from towpath import compute, errors
from towpath.apart.environments import arguments, interpreter, packages
from towpath.errors import ModelError, ProjectError, ResourceError
from towpath.models import pack_code
from towpath.models.manifest import Artefact, Environment, Signature, StoredFile, Training
from towpath.project.declarations import ModelDeclaration, TrainingHeader
from towpath.project.locks import lock_beside
from towpath.sql import Query
from towpath.training import handover
from towpath.training.runs import Run, Runs, Segment
from towpath.training.scores import measured, metrics_of, scored, segments_of
from towpath.training.splits import Split, sample, split
from towpath.types import duration, micros
from towpath.warehouse.engine import Engine

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Trained", "run"]

_TAKEN = ("prediction", "actual", "label", "predicted_label", "weight")


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """A run that came to a model; its folder holds what a version is made of."""

    run_id: str
    folder: Path
    """Holds the artefact, ``code.zip`` and ``holdout.parquet`` (the labelled rows with ``prediction`` and ``fallback:<name>``)."""
    artefact: Artefact
    signature: Signature
    training: Training
    environment: Environment
    segments: tuple[Segment, ...]
    """The metrics on the holdout by segment."""
    finished: compute.Finished
    """What the job used."""
    unseen: dict[str, int]
    """Values of the holdout that training never saw, by column."""


def run(
    table: "pa.Table",
    *,
    runs: Runs,
    project: str,
    project_folder: Path,
    model: str,
    model_folder: Path,
    header: TrainingHeader,
    declaration: ModelDeclaration,
    features: Sequence[str],
    metrics: Mapping[str, Query],
    as_of: datetime,
    also: Sequence[Path] = (),
    beside: Mapping[str, bytes] = MappingProxyType({}),
    computed: handover.Computed | None = None,
    sample_share: float = 1.0,
    seed: int | None = None,
    on_line: Callable[[str], None] | None = None,
    variables: Mapping[str, str] | None = None,
    environments: Path | None = None,
    publish: Callable[["Trained"], int] | None = None,
) -> Trained:
    """Train a model in a job of its own and measure it on the holdout.

    Args:
        table: The training set: spine columns, then one column per feature.
        runs: Where the run is written down, also when it fails.
        project: Name of the project.
        project_folder: Where its files are.
        model: Name of the model.
        model_folder: Where ``model.py`` is.
        header: Of ``training.sql``.
        declaration: ``model.toml``.
        features: The columns that the model reads, in its order.
        metrics: SELECTs over ``scored``, by name.
        as_of: Nothing that became known later is used.
        also: Files of code that the version needs beside the model's: its on-demand features.
        beside: On-demand features of other projects, by the path that their code has in ``code.zip``.
        computed: These features, which the job computes: user code runs within the limits and sees the named variables alone.
        sample_share: Share of the entities to train on, for a quick try; such a version cannot be promoted.
        seed: For everything random; the declared one unless given.
        on_line: Called with each line that the user's code prints, as it prints it.
        variables: Where the values of the declared variables come from; `os.environ` unless given.
        environments: Folder of the environments that locks of models describe; one in the run's folder unless given.
        publish: Makes it a version and gives its number. It is part of the run: one that dies in it is not done.

    Returns:
        The model, where it came from and how good it is.

    Raises:
        ModelError: The user's code failed; holds the traceback of the user's own lines.
        ProjectError: There is nothing to train on, a declared variable is not set, a metric or a column name is wrong.
        ResourceError: The machine has less than was asked for, or the job used more than it was given.
        RefusedError: What ``train`` returned cannot be kept.
    """
    compute.limits(declaration.resources)  # refuse the impossible before any work
    seed = declaration.train.seed if seed is None else seed
    given_there = () if computed is None else computed.gives
    _check_columns(table, header, [name for name in features if name not in given_there])
    given = _variables(declaration, os.environ if variables is None else variables)
    with runs.start(
        model,
        as_of_us=micros(as_of),
        seed=seed,
        sample_share=sample_share,
        parameters=declaration.train.parameters,
        resources=msgspec.to_builtins(declaration.resources),
        code_commit=_commit(project_folder),
    ) as opened:
        folder = Path(opened.folder)
        history = declaration.train.history
        parts = split(
            sample(table, header.keys, sample_share, seed),
            header,
            holdout=duration(declaration.train.holdout),
            as_of=as_of,
            history=None if history is None else duration(history),
        )
        code = pack_code(project_folder, model_folder, also, beside=beside)
        digest = _hand_over(folder, parts, code, computed)
        task = handover.Task(
            project=project,
            model=model,
            project_folder=str(project_folder.resolve()),
            header=header,
            declaration=declaration,
            features=tuple(features),
            seed=seed,
            code=_stored(handover.CODE, code),
            computed=computed,
        )
        (folder / handover.TASK).write_bytes(msgspec.json.encode(task))
        argv, environment = _job(model, model_folder, folder, environments or folder / "environments")
        runs.note(
            opened.run_id,
            data=_data(parts, digest, features),
            environment=msgspec.to_builtins(environment),
        )
        finished = compute.run(
            argv,
            resources=declaration.resources,
            folder=project_folder,
            variables={**given, "PYTHONHASHSEED": str(seed % 2**32)},
            on_line=on_line,
        )
        runs.note(
            opened.run_id,
            duration_s=finished.duration_s,
            cpu_s=finished.cpu_s,
            peak_memory_mib=finished.peak_memory_mib,
        )
        result = _result(folder, model, finished)
        trained = _measured(
            opened, result, finished, parts, task, metrics, as_of=as_of, digest=digest, environment=environment
        )
        for name in (handover.TRAIN, handover.MEASURE, handover.TASK, handover.RESULT):
            (folder / name).unlink()
        version = None if publish is None else publish(trained)
        runs.finish(
            opened.run_id,
            version=version,
            metrics=trained.training.metrics,
            segments=[msgspec.to_builtins(segment) for segment in trained.segments],
        )
    return trained


def _check_columns(table: "pa.Table", header: TrainingHeader, features: Sequence[str]) -> None:
    """A spine column may have one of the names of ``scored`` only where it is that very thing."""
    own = {"label": header.label, "weight": header.weight}
    for name in table.column_names:
        if name in features:
            continue
        if (name in _TAKEN and own.get(name) != name) or name.startswith("fallback:"):
            raise ProjectError(
                f"The column '{name}' of the spine has a name that metrics give to something else.",
                "training.sql",
                f"select {name} as …; taken are {', '.join(_TAKEN)}",
            )
    missing = [name for name in features if name not in table.column_names]
    if missing:
        raise ProjectError(
            f"The training set has no column '{missing[0]}'{errors.nearest(missing[0], table.column_names)}.",
            "model.toml, features",
        )


def _variables(declaration: ModelDeclaration, there: Mapping[str, str]) -> dict[str, str]:
    missing = [name for name in declaration.environment if name not in there]
    if missing:
        raise ProjectError(
            f"The variable '{missing[0]}' is not set.", "model.toml, environment", f"export {missing[0]}=…"
        )
    return {name: there[name] for name in declaration.environment}


def _hand_over(folder: Path, parts: Split, code: bytes, computed: handover.Computed | None) -> str:
    """Write what the job reads, and give the digest of its rows, and of what it will compute for them."""
    import pyarrow.parquet as pq

    (folder / handover.CODE).write_bytes(code)
    digest = hashlib.sha256(msgspec.json.encode(computed) if computed else b"")
    for name, rows in ((handover.TRAIN, parts.train), (handover.MEASURE, parts.holdout)):
        pq.write_table(rows, folder / name, compression="zstd")
        with (folder / name).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _data(parts: Split, digest: str, features: Sequence[str]) -> dict[str, object]:
    return {
        "digest": digest,
        "rows": parts.train.num_rows,
        "holdout_rows": parts.holdout.num_rows,
        "holdout_since_us": parts.since_us,
        "holdout_until_us": parts.until_us,
        "features": list(features),
    }


def _result(folder: Path, model: str, finished: compute.Finished) -> handover.Result:
    """What the job says, or why it cannot say anything."""
    if finished.ended in {"time", "memory"}:
        raise ResourceError(
            f"Training of '{model}' was ended: {finished.problem}",
            f"model.toml, resources.{finished.ended}",
            f"ask for more {finished.ended}, or try it on a part: tow train {model} --sample 10%",
        )
    path = folder / handover.RESULT
    if not path.exists():
        tail = "\n".join(finished.stdout_tail[-20:])
        raise ModelError(
            f"Training of '{model}' ended without a result. {finished.problem}\n{tail}".rstrip(),
            f"models/{model}/model.py",
        )
    result = msgspec.json.decode(path.read_bytes(), type=handover.Result)
    if result.error:
        raise getattr(errors, result.error)(result.what, result.where, result.mend)
    return result


def _measured(
    opened: Run,
    result: handover.Result,
    finished: compute.Finished,
    parts: Split,
    task: handover.Task,
    metrics: Mapping[str, Query],
    *,
    as_of: datetime,
    digest: str,
    environment: Environment,
) -> Trained:
    import pyarrow.parquet as pq

    assert result.artefact is not None
    assert result.signature is not None
    folder = Path(opened.folder)
    rows = scored(pq.read_table(folder / handover.HOLDOUT), task.header, task.declaration.output)
    engine = Engine()
    try:
        sums = measured(engine, rows, metrics)
    finally:
        engine.close()
    training = Training(
        run_id=opened.run_id,
        as_of=as_of,
        rows=parts.train.num_rows,
        holdout_rows=parts.holdout.num_rows,
        seed=task.seed,
        metrics=metrics_of(sums),
        data_digest=digest,
        commit=opened.code_commit,
        parameters=task.declaration.train.parameters,
        sample_share=opened.sample_share,
    )
    return Trained(
        run_id=opened.run_id,
        folder=folder,
        artefact=result.artefact,
        signature=result.signature,
        training=training,
        environment=environment,
        segments=segments_of(rows, task.header, sums),
        finished=finished,
        unseen=result.unseen,
    )


def _stored(path: str, data: bytes) -> StoredFile:
    return StoredFile(path=path, digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size_bytes=len(data))


def _job(model: str, model_folder: Path, folder: Path, environments: Path) -> tuple[list[str], Environment]:
    """The command of the job, and what it runs on: our own environment, or the one that the model's lock describes."""
    lock = lock_beside(model_folder)
    if lock is None:
        return [sys.executable, "-P", "-m", "towpath.training.task", str(folder)], _environment()
    python = interpreter(lock, environments, who=model, training=True)
    home = folder / "own"
    home.mkdir()
    code = "import runpy; runpy.run_module('towpath.training.task', run_name='__main__')"
    argv = [*arguments(python, code, home), str(folder)]
    return argv, msgspec.structs.replace(_environment(), packages=packages(python))


@cache
def _environment() -> Environment:
    """What the job runs on, which is what we run on; read once, as 150 packages take 0.2 s."""
    told = (found.metadata for found in importlib.metadata.distributions())
    packages = {found["Name"]: found["Version"] for found in told}
    return Environment(
        python=platform.python_version(),
        platform=f"{sys.platform}-{platform.machine()}",
        packages=dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        towpath=packages.get("towpath", ""),
    )


def _commit(folder: Path) -> str:
    """The commit of the project's git, ``+dirty`` where files differ from it; empty where there is none."""
    git = shutil.which("git")
    if git is None:
        return ""

    def said(*words: str) -> str | None:
        try:
            found = subprocess.run(  # noqa: S603 - git itself, with words of ours
                [git, "-C", str(folder), *words], capture_output=True, text=True, check=False, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return found.stdout.strip() if found.returncode == 0 else None

    commit = said("rev-parse", "HEAD")
    if not commit:
        return ""
    return f"{commit}+dirty" if said("status", "--porcelain", "--", ".") else commit

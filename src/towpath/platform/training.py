"""From a model folder to a published version: spine, features, the train job, the manifest."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from towpath import features as views
from towpath.errors import ProjectError
from towpath.features.lock import names_of
from towpath.models.folders import files_of
from towpath.models.manifest import Manifest
from towpath.platform.as_trained import up_to
from towpath.platform.on_demand import split_code
from towpath.project.locks import lock_beside

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.models.manifest import FeatureLock
    from towpath.platform.lifecycle import ModelHandle
    from towpath.stores.objects import Objects
    from towpath.training import Published, Trained

__all__ = ["TrainedVersion", "published", "spine_parameters", "train"]

"""What ``:since`` is where nobody said otherwise."""


class TrainedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What ``tow train`` made."""

    model: str
    version: int
    run_id: str
    rows: int
    holdout_rows: int
    metrics: dict[str, float]
    """On the holdout."""
    format: str
    duration_s: float
    peak_memory_mib: float
    unseen: dict[str, int]
    """Values of the holdout that training never saw, by column."""
    sample_share: float


def train(
    handle: "ModelHandle", *, sample_share: float = 1.0, on_line: Callable[[str], None] | None = None
) -> TrainedVersion:
    """Train a model as of the platform's moment and publish a version; see `ModelHandle.train`."""
    from towpath import training
    from towpath.registry import claims, versions

    platform, folder = handle.platform, handle.folder
    project = platform.settings.project
    declaration, header = folder.declaration, folder.training.header
    claims.refuse_taken(platform.objects, handle.name, project=project.name)
    asked = platform.features.split(declaration.features)
    platform.features.record(declaration.features)
    locks = platform.features.locks(declaration.features)
    answering = [link.sql for link in declaration.fallback if link.sql is not None]
    heuristics = platform.features.locks(answering) if answering else ()
    if answering:
        platform.features.record(answering)
    computed = views.lock_on_demand(asked.files, locks, project.name)
    read = [name for lock in locks for name in names_of(lock, project.name)]
    names = [*(name for name in read if name not in asked.hidden), *asked.computed]
    table = views.with_defaults(_training_set(handle, asked), locks, project.name)
    metrics = {
        name: metric.query
        for name, metric in platform.project.metrics.items()
        if name in {declaration.gate.metric, *declaration.gate.beside}
    }
    also, beside = split_code(asked.files)
    number = 0

    def publish(trained: "Trained") -> int:
        nonlocal number
        claims.claim_model(
            platform.objects,
            handle.name,
            project=project.name,
            team=project.team,
            by=platform.who,
            clock=platform.clock,
        )
        number = versions.next_version(platform.objects, handle.name, run_id=trained.run_id)
        manifest = _manifest(handle, trained, locks, number)
        manifest = msgspec.structs.replace(manifest, on_demand=computed, fallback_features=heuristics)
        versions.publish(platform.objects, manifest, _files(handle, trained), platform.signer)
        return number

    trained = training.run(
        table,
        runs=platform.runs,
        project=project.name,
        project_folder=platform.folder,
        model=handle.name,
        model_folder=folder.folder,
        header=header,
        declaration=declaration,
        features=names,
        also=also,
        beside=beside,
        computed=training.Computed(functions=computed, views=locks, hidden=tuple(asked.hidden)) if computed else None,
        metrics=metrics,
        as_of=platform.now(),
        sample_share=sample_share,
        on_line=on_line,
        variables=platform.variables,
        environments=platform.environments,
        publish=publish,
    )
    platform.trust_again()  # the first version may have made the key
    shutil.rmtree(trained.folder, ignore_errors=True)
    platform.runs.note(trained.run_id, folder="")  # last: whoever settles a dead run looks where its folder was
    return TrainedVersion(
        model=handle.name,
        version=number,
        run_id=trained.run_id,
        rows=trained.training.rows,
        holdout_rows=trained.training.holdout_rows,
        metrics=trained.training.metrics,
        format=trained.artefact.format,
        duration_s=trained.finished.duration_s,
        peak_memory_mib=trained.finished.peak_memory_mib,
        unseen=trained.unseen,
        sample_share=sample_share,
    )


def published(objects: "Objects", model: str, run_id: str) -> "Published | None":
    """The version that a run published, also where it died before it could say so; none where it did not get that far."""
    from towpath.registry import versions
    from towpath.training import Published

    for number in reversed(versions.versions(objects, model)):
        made_from = versions.manifest(objects, model, number, None).training
        if made_from is not None and made_from.run_id == run_id:
            return Published(version=number, metrics=made_from.metrics)
    return None


def spine_parameters(handle: "ModelHandle") -> dict[str, object]:
    """Everything known up to the platform's moment."""
    return up_to(handle.platform.now())


def _files(handle: "ModelHandle", trained: "Trained") -> dict[str, bytes | Path]:
    """What a version holds beside its manifest."""
    folder = handle.folder
    artefact = trained.artefact
    files: dict[str, bytes | Path] = {
        artefact.file.path: trained.folder / artefact.file.path,
        "code.zip": trained.folder / "code.zip",
        "holdout.parquet": trained.folder / "holdout.parquet",
        "training.sql": folder.training.query.text.encode(),
    }
    if artefact.folder:
        inside = files_of(trained.folder / artefact.folder)
        files |= {f"{artefact.folder}/{name}": path for name, path in inside.items()}
    if folder.golden is not None:
        files["golden.jsonl"] = folder.golden.read_bytes()
    lock = lock_beside(folder.folder)
    if lock is not None:
        files[lock.name] = lock.read_bytes()
    return files


def _training_set(handle: "ModelHandle", asked: views.Split) -> "pa.Table":
    """The rows without on-demand features, which the job computes."""
    platform, folder = handle.platform, handle.folder
    header = folder.training.header
    table = platform.features.training_set(
        folder.training.query,
        asked.features,
        keys=header.keys,
        time=header.time,
        parameters=spine_parameters(handle),
    )
    known = {*table.column_names, *asked.computed}
    missing = [name for name in (header.label, *header.segments) if name not in known]
    if missing:
        raise ProjectError(
            f"The SELECT of 'training.sql' gives no column '{missing[0]}'.",
            folder.training.query.path,
            f"select … as {missing[0]}",
        )
    return table


def _manifest(handle: "ModelHandle", trained: "Trained", locks: "tuple[FeatureLock, ...]", number: int) -> Manifest:
    platform, folder = handle.platform, handle.folder
    project, declaration, header = platform.settings.project, folder.declaration, folder.training.header
    return Manifest(
        project=project.name,
        team=project.team,
        model=handle.name,
        version=number,
        created_at=platform.now(),
        created_by=platform.who,
        owner=declaration.owner,
        tier=declaration.tier,
        charter=declaration.charter,
        description=declaration.description,
        artefact=trained.artefact,
        signature=trained.signature,
        entity=header.keys,
        time=header.time,
        label=header.label,
        segments=header.segments,
        unit=declaration.unit,
        features=locks,
        output=declaration.output,
        serving=declaration.serving,
        gate=declaration.gate,
        resources=declaration.resources,
        fallback=declaration.fallback,
        journal=declaration.journal,
        variables=declaration.environment,
        training=trained.training,
        environment=trained.environment,
    )

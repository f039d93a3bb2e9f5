"""The gate's legwork: run the candidates on the held-out rows, measure, replay, and hand the arrays to the judge."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from towpath import compute
from towpath import features as views
from towpath.errors import ModelError, TowpathError, UnknownError, nearest
from towpath.gate.footprint import prepare, quietest, read
from towpath.gate.golden import GoldenResult, compare_golden, read_golden
from towpath.gate.judge import Evidence, judge
from towpath.gate.output import OutputCheck, check_output
from towpath.gate.scores import Scores
from towpath.gate.verdict import Footprint, Verdict
from towpath.platform.as_trained import AsTrained
from towpath.platform.replayed import Replay
from towpath.types import micros

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from towpath.models import Model
    from towpath.models.manifest import Manifest
    from towpath.platform.lifecycle import ModelHandle
    from towpath.project import MetricFile

__all__ = ["judge_version", "others_answers"]


class _Candidate:
    """One version, fetched, loaded and asked about the held-out rows."""

    def __init__(self, handle: "ModelHandle", version: int, cache: Path) -> None:
        from towpath.apart import open_version
        from towpath.registry import versions

        self.manifest: Manifest = handle.manifest(version)
        self.folder = versions.fetch(handle.platform.objects, self.manifest, cache)
        self.model: Model = open_version(
            self.manifest,
            self.folder,
            environments=handle.platform.environments,
            variables=handle.platform.variables,
        )

    def answers(self, columns: "Mapping[str, NDArray[Any]]") -> "NDArray[Any]":
        return next(iter(self.model.predict(columns).values()))

    def close(self) -> None:
        self.model.close()


def judge_version(handle: "ModelHandle", version: int) -> Verdict:
    """Judge a version against the champion of this moment, and store the verdict; see `ModelHandle.gate`.

    It is loaded as it will be served: where that is a process of its own, every proof is given there.
    """
    cache = handle.platform.folder / ".towpath" / "cache" / "versions"
    with closing(_Candidate(handle, version, cache)) as candidate:
        return _judged(handle, candidate, cache)


def _judged(handle: "ModelHandle", candidate: _Candidate, cache: Path) -> Verdict:
    import pyarrow.parquet as pq

    from towpath.models import columns_of
    from towpath.registry import versions

    platform, version = handle.platform, candidate.manifest.version
    entry = handle.current()
    against = entry.state.champion if entry else None
    manifest = candidate.manifest
    holdout: pa.Table = pq.read_table(candidate.folder / "holdout.parquet")
    names = [field.name for field in manifest.signature.inputs]
    columns = columns_of(holdout.select(names))
    answers = candidate.answers(columns)
    given: dict[str, NDArray[Any] | None] = {"candidate": answers, "champion": None}
    if against is not None and against != version:
        given["champion"] = others_answers(handle, against, cache, holdout, manifest)

    def others(model: str, number: int | None) -> "NDArray[Any] | None":
        asked = handle if model == handle.name else platform.models[model]
        standing = asked.current()
        number = number if number is not None else standing.state.champion if standing else None
        return None if number is None else others_answers(asked, number, cache, holdout, manifest)

    replayed = Replay(handle, candidate.model, manifest, holdout, answers, given["champion"], others)
    checks, given["fallback"] = replayed.chain(columns)
    scores = _scores(handle, holdout, given)
    deciding = handle.folder.declaration.gate.metric
    evidence = Evidence(
        project=manifest.project,
        model=handle.name,
        version=version,
        tier=manifest.tier,
        against=against,
        gate=manifest.gate,
        output=manifest.output,
        better=_metric(handle, deciding).header.better,
        entities=_entities(holdout, manifest.entity),
        segments={name: np.array(holdout.column(name).to_pylist(), dtype=object) for name in manifest.segments},
        candidate=scores[deciding]["candidate"],
        champion=scores[deciding].get("champion"),
        fallback=scores[deciding].get("fallback"),
        beside={metric: who for metric, who in scores.items() if metric != deciding},
        golden=_golden(handle, candidate),
        answers=_checked(answers, manifest),
        fallbacks=checks,
        footprint=_footprint(handle, candidate, columns),
        sample_share=manifest.training.sample_share if manifest.training else 1.0,
    )
    seed = manifest.training.seed if manifest.training else 0
    verdict = judge(evidence, at=platform.now(), by=platform.who, rng=np.random.default_rng(seed))
    versions.put_verdict(platform.objects, verdict, platform.signer)
    return verdict


def _checked(answers: "NDArray[Any]", manifest: "Manifest") -> OutputCheck:
    return check_output(answers, manifest.output)


def others_answers(
    handle: "ModelHandle", version: int, cache: Path, holdout: "pa.Table", candidate: "Manifest"
) -> "NDArray[Any]":
    """The champion, or whoever a chain names, on the same rows, each fed as it was trained.

    A feature that the candidate does not read, or reads of another form of its view, is looked up as of each row's moment, in
    the form that the other was trained on. On-demand features that the candidate computes by the same code stay; all others
    are its own to compute.

    Args:
        handle: Whose version.
        version: Its number.
        cache: Folder for the files of versions.
        holdout: Keys, times, labels and the candidate's features.
        candidate: Who is judged.

    Returns:
        One answer a row, as the model gives it.
    """
    with closing(_Candidate(handle, version, cache)) as champion:
        return _answers_of(handle, champion, holdout, candidate)


def _answers_of(
    handle: "ModelHandle", champion: _Candidate, holdout: "pa.Table", candidate: "Manifest"
) -> "NDArray[Any]":
    from towpath.models import columns_of, load_on_demand

    manifest, platform = champion.manifest, handle.platform
    names = [field.name for field in manifest.signature.inputs]
    same = {lock.digest for lock in candidate.on_demand}
    forms = {(lock.project, lock.view): lock.fingerprint for lock in candidate.features}
    computed = {f"{k.view}.{column.name}" for k in manifest.on_demand for column in k.columns}
    if manifest.on_demand and not all(lock.digest in same for lock in manifest.on_demand):
        holdout = holdout.drop_columns([name for name in computed if name in holdout.column_names])
    changed = any(forms.get((k.project, k.view), k.fingerprint) != k.fingerprint for k in manifest.features)
    if changed or any(name not in holdout.column_names for name in names):
        own = manifest.project
        spine = holdout.select([name for name in holdout.column_names if "." not in name and ":" not in name])
        assert candidate.time is not None
        trained = AsTrained(platform, manifest.features, own)
        table = trained.joined(spine, keys=candidate.entity, time=candidate.time)
        functions = load_on_demand(manifest, champion.folder)
        if functions:
            table = views.appended_by(functions, table, manifest.features, project=own, time=candidate.time)
        holdout = views.with_defaults(table, [*manifest.features, *manifest.on_demand], own)
    return champion.answers(columns_of(holdout.select(names)))


def _scores(
    handle: "ModelHandle", holdout: "pa.Table", given: "Mapping[str, NDArray[Any] | None]"
) -> dict[str, dict[str, Scores]]:
    """Metric → who → numerators and denominators, in the order of the rows."""
    import pyarrow as pa

    from towpath.training import measured, scored

    gate = handle.folder.declaration.gate
    metrics = {name: _metric(handle, name).query for name in dict.fromkeys([gate.metric, *gate.beside])}
    header, output = handle.folder.training.header, handle.folder.declaration.output
    plain = holdout.select([name for name in holdout.column_names if name != "prediction" and ":" not in name])
    engine = handle.platform.engine()
    found: dict[str, dict[str, Scores]] = {name: {} for name in metrics}
    try:
        for who, answers in given.items():
            if answers is None:
                continue
            mask = np.isnan(answers) if answers.dtype.kind == "f" and answers.ndim == 1 else None
            column = pa.array(answers, mask=mask) if answers.ndim == 1 else pa.array(answers.tolist())
            rows = scored(plain.append_column("prediction", column), header, output)
            for name, (numerator, denominator) in measured(engine, rows, metrics).items():
                found[name][who] = Scores(numerator=numerator, denominator=denominator)
    finally:
        engine.close()
    return found


def _metric(handle: "ModelHandle", name: str) -> "MetricFile":
    metrics = handle.platform.project.metrics
    if name not in metrics:
        raise UnknownError(f"There is no metric '{name}'{nearest(name, metrics)}", "model.toml, gate")
    return metrics[name]


def _entities(holdout: "pa.Table", keys: Sequence[str]) -> "NDArray[Any]":
    if not keys:
        return np.arange(holdout.num_rows)
    parts = [holdout.column(name).to_pylist() for name in keys]
    return np.array([str(key) for key in zip(*parts, strict=True)], dtype=object)


def _golden(handle: "ModelHandle", candidate: _Candidate) -> GoldenResult:
    """Replay the version's golden cases as a caller would send them; keys are looked up online."""
    from towpath.features import OnlineReader
    from towpath.models import load_on_demand
    from towpath.serving.served import Served

    path = candidate.folder / "golden.jsonl"
    if not path.is_file():
        return GoldenResult(cases=0)
    cases = read_golden(path.read_bytes(), "golden.jsonl")
    platform, manifest = handle.platform, candidate.manifest
    reader = OnlineReader(platform.online, manifest.features, manifest.project) if manifest.features else None
    served = Served(manifest, candidate.model, reader=reader, functions=load_on_demand(manifest, candidate.folder))
    answers: list[Any] = []
    errors: dict[int, str] = {}
    for position, case in enumerate(cases):
        try:
            prepared = served.whole(served.from_rows([case.request], micros(platform.now())))
            answers.append(candidate.answers(prepared.columns).tolist()[0])
        except TowpathError as error:
            errors[position] = error.what
            answers.append(None)
    served.close_lanes()
    return compare_golden(cases, answers, errors=errors)


def _footprint(handle: "ModelHandle", candidate: _Candidate, columns: "Mapping[str, NDArray[Any]]") -> Footprint | None:
    """Measured in a clean process; None where that process failed, which the judge turns into a refusal."""
    row = {name: _json(values[0]) for name, values in columns.items()}
    manifest, platform = candidate.manifest, handle.platform
    variables = {name: platform.variables[name] for name in manifest.variables if name in platform.variables}
    # As a worker serves it: on one core, so that thread pools do not fight over the others.
    alone = msgspec.structs.replace(manifest.resources, cpu=1)

    def measured() -> "Iterator[Footprint]":
        while True:
            with tempfile.TemporaryDirectory() as made:
                written = msgspec.json.encode(manifest)
                folder = Path(made) / "footprint"
                argv = prepare(folder, written, candidate.folder, row, environments=platform.environments)
                finished = compute.run(argv, resources=alone, folder=platform.folder, variables=variables)
                yield read(finished.stdout_tail)

    try:
        return quietest(measured(), manifest.gate)
    except ModelError:
        return None


def _json(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value

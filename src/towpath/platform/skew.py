"""Replaying what a model was given: journalled features against the point-in-time join at the moment of each answer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from towpath.errors import InputError, TowpathError, UnknownError, nearest
from towpath.features import key_part
from towpath.features.lock import called as called_by
from towpath.features.skew import FeatureSkew, Served, compare
from towpath.platform.as_trained import AsTrained, up_to
from towpath.project.on_demand import TIME
from towpath.traffic import point
from towpath.types import micros, utc

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.models.manifest import FeatureLock, Manifest
    from towpath.platform.opened import Platform

__all__ = ["INPUT", "Skew", "skew", "skew_table"]

INPUT = "towpath.skew"
"""What a monitor's input reads to get the skew of its model and window."""
_SERVED = """
select version, entity_key, predicted_at, features, feature_ref
from predictions
where
    model = :model and project = :project and source = 'champion' and coalesce(position, 1) = 1
    and entity_key is not null and features is not null and coalesce(feature_ref, '') <> ''
    and predicted_at >= :since and predicted_at < :until
"""
_MOST_ROWS = 50_000
_WEEK = timedelta(days=7)

Ask = Callable[[str, Mapping[str, object]], "pa.Table"]
"""Runs a SELECT over the journal's views."""


class Skew(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found."""

    features: tuple[FeatureSkew, ...]
    """One for each feature that was compared, most skewed first."""
    left_out: dict[str, str]
    """Views that could not be replayed, and why."""


class _Answer(msgspec.Struct, frozen=True):
    version: int
    entity_key: str
    at: datetime
    features: dict[str, Any]
    events: dict[str, int]
    """View → when the online row became true; only of views whose values all came from there."""


def skew(
    platform: "Platform",
    ask: Ask,
    model: str | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    share: float = 0.05,
    limit: float = 0.01,
    tolerance: float = 1e-6,
) -> Skew:
    """Replay a sample of answers; see `Features.skew`."""
    models = platform.project.models
    if model is not None and model not in models:
        raise UnknownError(f"There is no model '{model}'{nearest(model, models)}", mend="tow models")
    if not 0 < share <= 1:
        raise InputError(f"A share of {share} is none.", mend="--share 5%")
    until = utc(until or platform.now())
    since = utc(since or until - _WEEK)
    if since >= until:
        raise InputError(
            f"The answers asked for begin at {since:%Y-%m-%d %H:%M} and end at {until:%Y-%m-%d %H:%M}.",
            mend="an earlier --since",
        )
    found: dict[str, list[FeatureSkew]] = {}
    left_out: dict[str, str] = {}
    for name in [model] if model else list(models):
        window = {"model": name, "project": platform.settings.project.name, "since": since, "until": until}
        answers = _sample(_answers(ask(_SERVED, window)), name, share)
        for served in _replayed(platform, name, answers, until, left_out):
            for feature, rows in served.items():
                found.setdefault(f"{name} {feature}", []).append(
                    compare(name, feature, rows, limit=limit, tolerance=tolerance)
                )
    one_each = [parts[0] if len(parts) == 1 else _together(parts, limit) for parts in found.values()]
    return Skew(features=tuple(sorted(one_each, key=lambda one: -one.share)), left_out=left_out)


def skew_table(found: Skew) -> "pa.Table":
    """The features of a replay as the table that a monitor reads."""
    import pyarrow as pa

    kinds = {"model": pa.string(), "feature": pa.string(), "smape": pa.float64(), "share": pa.float64()}
    names = ("model", "feature", "compared", "mismatch", "stale", "missing", "extra", "smape", "share")
    schema = pa.schema([(name, kinds.get(name, pa.int64())) for name in names])
    return pa.Table.from_pylist([{name: getattr(one, name) for name in names} for one in found.features], schema=schema)


def _answers(table: "pa.Table") -> Iterator[_Answer]:
    for row in table.to_pylist():
        features = msgspec.json.decode(row["features"])
        events = {
            view: int(event)
            for view, _, event in (part.rpartition("@") for part in row["feature_ref"].split(" "))
            if view
        }
        yield _Answer(row["version"], row["entity_key"], row["predicted_at"], features, events)


def _sample(answers: Iterator[_Answer], model: str, share: float) -> list[_Answer]:
    """Those of the keys that the hash picks, all of a key or none, and no more than fit."""
    points: dict[str, float] = {}
    kept: list[_Answer] = []
    for answer in answers:
        if answer.entity_key not in points:
            points[answer.entity_key] = point(answer.entity_key, model, "sample")
        if points[answer.entity_key] < share:
            kept.append(answer)
    if len(kept) > _MOST_ROWS:
        kept = sorted(kept, key=lambda answer: points[answer.entity_key])[:_MOST_ROWS]
    return kept


def _replayed(
    platform: "Platform", model: str, answers: Sequence[_Answer], until: datetime, left_out: dict[str, str]
) -> Iterator[dict[str, Served]]:
    """Feature → both sides, for each version and view that the answers read."""
    from towpath.registry import versions

    for version in sorted({answer.version for answer in answers}):
        manifest = versions.manifest(platform.objects, model, version, None)
        of_version = [one for one in answers if one.version == version]
        if manifest.on_demand:
            try:
                yield _computed_again(platform, manifest, of_version, until)
            except TowpathError as error:
                left_out |= dict.fromkeys((lock.view for lock in manifest.on_demand), error.what)
        for lock in manifest.features:
            called = called_by(lock, manifest.project)
            rows = [one for one in of_version if called in one.events]
            if not rows:
                continue
            try:
                rows = _with_keys(rows, manifest, lock)
                yield _view_replayed(platform, manifest, lock, called, rows, until)
            except TowpathError as error:
                left_out[called] = error.what


def _with_keys(answers: "Sequence[_Answer]", manifest: "Manifest", *locks: "FeatureLock") -> list[_Answer]:
    """The answers that say by which keys the views were read; keys that are no part of the entity stand among the features.

    Raises:
        InputError: None of them does.
    """
    others = {key for lock in locks for key in lock.entity if key not in manifest.entity}
    found = [one for one in answers if others <= set(one.features)]
    if answers and not found:
        raise InputError(
            f"It is keyed by '{min(others)}', which is no part of the entity of '{manifest.model}', and none of these answers "
            "says it: the server that gave them is an older one."
        )
    return found


def _view_replayed(
    platform: "Platform",
    manifest: "Manifest",
    lock: "FeatureLock",
    called: str,
    answers: Sequence[_Answer],
    until: datetime,
) -> dict[str, Served]:
    known, events = _known(platform, manifest, lock, answers, until)
    found: dict[str, Served] = {}
    for column in lock.columns:
        feature = f"{called}.{column.name}"
        logged = [at for at, answer in enumerate(answers) if feature in answer.features]
        offline = known.column(column.name).to_pylist()
        found[feature] = Served(
            entity_keys=[answers[at].entity_key for at in logged],
            at=[answers[at].at for at in logged],
            online=[answers[at].features[feature] for at in logged],
            offline=[None if (value := offline[at]) != value else value for at in logged],
            online_event_us=[answers[at].events[called] for at in logged],
            offline_event_us=[events[at] for at in logged],
            default=column.default if column.missing == "default" else None,
        )
    return found


def _known(
    platform: "Platform", manifest: "Manifest", lock: "FeatureLock", answers: Sequence[_Answer], until: datetime
) -> "tuple[pa.Table, list[int | None]]":
    """What training would have seen of a view at each answer, and when it became true."""
    import pyarrow as pa

    view = AsTrained(platform, [lock], manifest.project).view(called_by(lock, manifest.project))
    described = platform.warehouse.describe(view.query)
    parts = [
        answer.features | dict(zip(manifest.entity, msgspec.json.decode(answer.entity_key), strict=True))
        for answer in answers
    ]
    spine: dict[str, Any] = {
        "rn": pa.array(range(len(answers)), pa.int64()),
        "t": pa.array([micros(answer.at) for answer in answers], pa.int64()),
    }
    for place, key in enumerate(lock.entity):
        kind = described.field(key).type
        spine[f"k{place}"] = pa.array([key_part(one[key], str(kind)) for one in parts], kind)
    event = view.header.event_time
    names = [column.name for column in lock.columns]
    known = platform.warehouse.point_in_time(view.facts([*names, event]), pa.table(spine), "known", up_to(until))
    return known, known.column(event).cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()


def _computed_again(
    platform: "Platform", manifest: "Manifest", answers: Sequence[_Answer], until: datetime
) -> dict[str, Served]:
    """On-demand features: the version's own code over the logged columns of the request and what was known of views."""
    from towpath.features import compute, with_defaults
    from towpath.features.on_demand import MOMENT, column_of
    from towpath.models import on_demand_of
    from towpath.models.columns import array_of
    from towpath.models.manifest import Field
    from towpath.registry import versions

    inputs = [one for lock in manifest.on_demand for one in lock.inputs]
    views = {called_by(lock, manifest.project): lock for lock in manifest.features}
    behind = {view for one in inputs if (view := one.reads.rpartition(".")[0]) in views}
    asked = {one.name: one for one in inputs if one.reads == "request"}
    # what the caller brought itself is not there, and neither is what an older server wrote
    rows = [one for one in answers if MOMENT in one.features or not any(i.reads == TIME for i in inputs)]
    rows = [one for one in rows if behind <= set(one.events) and set(asked) <= set(one.features)]
    rows = _with_keys(rows, manifest, *(views[view] for view in sorted(behind)))
    if not rows:
        return {}
    columns: dict[str, Any] = {
        name: array_of(Field(name=name, type=one.type), [row.features[name] for row in rows])
        for name, one in asked.items()
    }
    columns[MOMENT] = np.array([row.features.get(MOMENT, micros(row.at)) for row in rows], dtype="M8[us]")
    stale = np.zeros(len(rows), dtype=bool)
    for view in behind:
        known, events = _known(platform, manifest, views[view], rows, until)
        named = known.rename_columns([f"{view}.{name}" for name in known.column_names])
        filled = with_defaults(named, [views[view]], manifest.project)
        columns |= {
            f"{view}.{column.name}": column_of(filled.column(f"{view}.{column.name}"), column.type, column.name)
            for column in views[view].columns
        }
        stale |= [event is not None and event > row.events[view] for event, row in zip(events, rows, strict=True)]
    # this runs code of the version, so its signature counts here
    signed = versions.manifest(platform.objects, manifest.model, manifest.version, platform.trusted)
    code = versions.read_file(platform.objects, signed, "code.zip")
    functions = on_demand_of(code, signed.on_demand, root=platform.folder)
    computed = compute(functions, columns, len(rows)).columns
    found: dict[str, Served] = {}
    for one in functions:
        for name in one.outputs:
            logged = [at for at, row in enumerate(rows) if name in row.features]
            offline = one.filled(name, computed[name]).tolist()
            found[name] = Served(
                entity_keys=[rows[at].entity_key for at in logged],
                at=[rows[at].at for at in logged],
                online=[rows[at].features[name] for at in logged],
                offline=[None if offline[at] != offline[at] else offline[at] for at in logged],
                online_event_us=[0] * len(logged),
                offline_event_us=[int(stale[at]) for at in logged],
            )
    return found


def _together(parts: Sequence[FeatureSkew], limit: float) -> FeatureSkew:
    """One feature that several versions read."""
    sums = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("compared", "mismatch", "stale", "missing", "extra")
    }
    differing, compared = sums["mismatch"] + sums["missing"] + sums["extra"], sums["compared"]
    errors = [(part.smape, part.compared) for part in parts if part.smape is not None]
    weight = sum(rows for _, rows in errors)
    return FeatureSkew(
        model=parts[0].model,
        feature=parts[0].feature,
        **sums,
        smape=sum(error * rows for error, rows in errors) / weight if weight else None,
        share=differing / compared if compared else 0.0,
        beyond=differing > limit * compared,
        examples=tuple(example for part in parts for example in part.examples)[:5],
    )

"""What the journal keeps of a request."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

import msgspec

from towpath.journal.record import Record, Rows, json_of
from towpath.models.columns import Matrix
from towpath.serving.answered import Answered
from towpath.serving.served import Served
from towpath.serving.work import Work, number_or_none
from towpath.traffic import point

__all__ = ["Said", "record", "said"]

_FLOAT = frozenset({float})
_KEPT_BYTES = 4_096
"""A larger value is kept as digest and size."""
_FEATURE_SAMPLE_SHARE = 1 / 16
"""Of entity keys whose looked-up feature values are written down; all others by reference only."""


class Said(NamedTuple):
    """Answers as the journal has them, one a row."""

    numbers: list[float | None] | None = None
    labels: list[str | None] | None = None
    items: list[list[str] | None] | None = None


def record(work: Work, *, server: str, environment: str) -> Record:
    """The request as the journal keeps it."""
    answered, ask, deployment, base = work.answered, work.ask, work.deployment, work.base
    mode = base.manifest.journal if base is not None else "none"
    ranking = base is not None and base.manifest.output.kind == "ranking"
    given = said(answered.predictions, ranking=ranking)
    beside = Said() if answered.beside is None else said(answered.beside, ranking=ranking)
    private = mode == "none"
    return Record(
        prediction_id=answered.prediction_id,
        request_id=answered.request_id,
        project=deployment.project,
        team=deployment.team,
        model=deployment.model,
        environment=environment,
        server=server,
        consumer=ask.consumer,
        predicted_at=work.now_us if ask.at_us is None else ask.at_us,
        recorded_at=work.now_us,
        latency_ms=answered.latency_ms,
        run_id=ask.run_id,
        protocol=ask.protocol,
        rows=Rows(
            source=answered.sources,
            reason=answered.reasons,
            version=answered.versions,
            prediction=given.numbers,
            label=given.labels,
            output=_output(answered, given),
            item=None if given.items is None else [items or [] for items in given.items],
            entity_key=None if private else work.keys,
            unit_id=None if private else work.units,
            segment=None if private else work.segments,
            target_at=work.targets,
            horizon=_horizons(work),
            arm=answered.arms if any(answered.arms) else None,
            features=_features(work, base) if mode == "full" and base is not None else None,
            feature_ref=None if private or base is None else _references(work, base),
            fallback_prediction=beside.numbers,
            fallback_label=beside.labels,
            fallback_items=beside.items,
        ),
    )


def _horizons(work: Work) -> list[str | None] | None:
    """The row's own, else the model's."""
    usual = work.base.horizon.said if work.base is not None and work.base.horizon.us else None
    if work.horizons is None and usual is None:
        return None
    return [own or usual for own in work.horizons or [None] * work.answered.count]


def _features(work: Work, base: Served) -> Any:
    prepared = work.prepared.get(base.version)
    if prepared is None:
        return None
    if work.ask.rows is not None and base.plain and base.scalar:
        return [json_of(row) for row in work.ask.rows]
    names = range(work.answered.count)
    if prepared.online is None or work.keys is None:
        columns = prepared.columns
        if isinstance(columns, Matrix) and (row_type := _row_type(columns.names)) is not None:
            return [json_of(row_type(*values)) for values in columns.array.tolist()]
        found = base.all_features_of(prepared.columns, work.answered.count)
        return [json_of(one if base.scalar else _kept(one)) for one in found]
    asked, keys, model = prepared.asked, work.keys, base.manifest.model
    sample = [row for row in names if point(keys[row] or "", model, "sample") < _FEATURE_SAMPLE_SHARE]
    kept: list[Any] = [None] * work.answered.count
    others = {key: work.asked(key) for key in base.other_keys} if sample else {}
    for row in sample:
        looked_up_by = {key: values[row] for key, values in others.items()}
        read = asked.read_by(row) if asked is not None else {}
        kept[row] = json_of(looked_up_by | base.features_of(prepared.columns, row) | read)
    return kept


@lru_cache(maxsize=256)
def _row_type(names: tuple[str, ...]) -> "type[msgspec.Struct] | None":
    """Rows of numbers as a struct, which becomes JSON in less than half the time of a dict; none where a name needs escapes.

    NaN and infinity become null by msgspec's own rule.
    """
    fields = {f"f{place}": name for place, name in enumerate(names)}
    try:
        return msgspec.defstruct("Row", list(fields), rename=fields, gc=False)
    except ValueError:
        return None


def _references(work: Work, base: Served) -> list[str | None] | None:
    """Which online rows were used: ``view@microseconds`` of each view's event time, -1 where there was none.

    Views of which the caller brought a value are left out.
    """
    prepared = work.prepared.get(base.version)
    if prepared is None or prepared.online is None:
        return None
    events = {view: [max(one, -1) for one in values.tolist()] for view, values in prepared.online.event_us.items()}
    if base.brought(work.ask.rows, work.ask.columns):
        rows = work.ask.rows or [work.ask.columns or {}] * work.answered.count
        return [
            " ".join(f"{view}@{values[at]}" for view, values in events.items() if not base.brought([row], None, view))
            for at, row in enumerate(rows)
        ]
    return [" ".join(f"{view}@{values[row]}" for view, values in events.items()) for row in range(work.answered.count)]


def said(values: list[Any], *, ranking: bool = False) -> Said:
    """Answers as the journal's columns; one is null where no answer is of its kind.

    Args:
        values: One answer a row, null where there is none.
        ranking: Whether a list is one of items, whatever they are; else one of text is.

    Example:
        >>> said([1.5, None])
        Said(numbers=[1.5, None], labels=None, items=None)
        >>> said(["bike", "car"]).labels
        ['bike', 'car']
        >>> said([["bike", 7], None], ranking=True).items
        [['bike', '7'], None]
    """
    if _FLOAT.issuperset(map(type, values)):
        return Said(values)

    def items(value: Any) -> bool:
        return isinstance(value, list) and (ranking or all(isinstance(i, str) for i in cast("list[Any]", value)))

    if any(map(items, values)) and all(value is None or items(value) for value in values):
        return Said(items=[None if value is None else [str(item) for item in value] for value in values])
    labels = [value if isinstance(value, str) else None for value in values]
    return Said([number_or_none(value) for value in values], labels if any(labels) else None)


def _output(answered: Answered, found: Said) -> list[Any] | None:
    """What is no number, no text and no list of items, as JSON; and everything else that the model gave."""
    output: list[Any] | None = None
    if answered.extras is not None:
        output = [None if extra is None else _kept(extra) for extra in answered.extras]
    values = answered.predictions
    if (
        found.items is not None
        or found.numbers is values
        or not any(isinstance(value, list | dict) for value in values)
    ):
        return output
    kept: list[Any] = []
    for row, value in enumerate(values):
        more = None if output is None else output[row]
        kept.append(_kept({"prediction": value, **more} if isinstance(more, dict) else {"prediction": value}))
    return kept


def _kept(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The value, or its digest and size where it is larger than 4 KiB."""
    if sum(len(v) if isinstance(v, str | bytes) else 1 for v in value.values()) * 2 < _KEPT_BYTES and not any(
        isinstance(v, list) for v in value.values()
    ):
        return value
    from hashlib import sha256

    text = json_of(value)
    if len(text) <= _KEPT_BYTES:
        return value
    return {"digest": f"sha256:{sha256(text).hexdigest()}", "size_bytes": len(text)}

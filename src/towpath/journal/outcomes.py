"""What really happened: posted structs and tables of the warehouse become the same rows."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from towpath.errors import InputError, nearest
from towpath.features.keys import entity_key, key_part
from towpath.journal.record import SCHEMA, Outcome, OutcomeRow
from towpath.types import micros, utc

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["outcome_rows", "outcomes_from_table"]


def outcome_rows(
    posted: Sequence[Outcome],
    *,
    project: str,
    model: str,
    consumer: str,
    arrived_at: datetime,
    kinds: Sequence[str] = (),
) -> list[OutcomeRow]:
    """Check what was posted and make it rows that can be appended.

    Args:
        posted: Each names a prediction, or an entity and the time that was predicted about.
        project: Of the model.
        model: From the path of the request; one in the body must be the same.
        consumer: Who sent it.
        arrived_at: Of the clock.
        kinds: Arrow types of the model's key parts, so that ``"7"`` and ``7`` are one key where it is a whole number.

    Returns:
        One row each, in the order given.

    Raises:
        InputError: A row names neither a prediction nor an entity and a time, or says nothing, or its key does not fit;
            the text names the row.

    Example:
        >>> posted = [Outcome(entity_key=("10002",), target_at=utc("2011-09-08"), value=12)]
        >>> [row] = outcome_rows(posted, project="shop", model="demand", consumer="till", arrived_at=utc("2011-09-09"))
        >>> row.entity_key, row.value, row.happened_at == row.target_at
        ('["10002"]', 12.0, True)
    """
    return [
        _row(outcome, at, kinds, project=project, model=model, consumer=consumer, arrived_us=micros(arrived_at))
        for at, outcome in enumerate(posted)
    ]


def outcomes_from_table(
    data: "pa.Table",
    *,
    project: str,
    model: str,
    arrived_at: datetime,
    target_at: str,
    keys: Sequence[str] = (),
    prediction_id: str | None = None,
    value: str | None = None,
    label: str | None = None,
    happened_at: str | None = None,
    item: str | None = None,
    weight: str | None = None,
    horizon: str | None = None,
    metric: str = "outcome",
    consumer: str = "batch",
) -> "pa.Table":
    """Make outcomes of a table that the warehouse gave, for the batch path.

    Rows with a null key part, or with neither value nor label, say nothing and are left out.

    Args:
        data: One row per outcome.
        project: Of the model.
        model: Whose outcomes these are.
        arrived_at: When we came to know them.
        target_at: Column with the end of what was predicted about.
        keys: Columns of the entity key in declared order.
        prediction_id: Column with the prediction's id, where there is one.
        value: Column with the number that happened.
        label: Column with the class that happened.
        happened_at: Column with the time it happened; `target_at` unless given.
        item: Column with the item of a ranking.
        weight: Column; 1 unless given.
        horizon: The same for all rows, such as ``7d``.
        metric: What the values are.
        consumer: Who collected them.

    Returns:
        The columns of `OUTCOME_COLUMNS`, ready for `write_rows`.

    Raises:
        InputError: A named column is not in the table, or neither keys nor prediction_id, or neither value nor label is given.
    """
    from towpath.journal.unfold import outcome_table

    named = [target_at, *keys, *(name for name in (prediction_id, value, label, happened_at, item, weight) if name)]
    for name in named:
        if name not in data.column_names:
            raise InputError(
                f"There is no column '{name}'{nearest(name, data.column_names)}", mend="name a column of the table"
            )
    if not keys and prediction_id is None:
        raise InputError("Outcomes name nothing.", mend="give keys, or prediction_id")
    if value is None and label is None:
        raise InputError("Outcomes say nothing.", mend="give value, or label")

    columns = {name: data[name].to_pylist() for name in dict.fromkeys(named)}
    nothing: list[Any] = [None] * data.num_rows

    def column(name: str | None) -> list[Any]:
        return nothing if name is None else columns[name]

    parts = zip(*(columns[name] for name in keys), strict=True) if keys else [()] * data.num_rows
    rows: list[OutcomeRow] = []
    arrived_us = micros(arrived_at)
    for key, target, by_id, number, text, happened, one, heavy in zip(
        parts,
        columns[target_at],
        column(prediction_id),
        column(value),
        column(label),
        column(happened_at),
        column(item),
        column(weight),
        strict=True,
    ):
        if (number is None and text is None) or (by_id is None and (target is None or None in key or not key)):
            continue
        target_us = None if target is None else micros(_moment(target))
        rows.append(
            _with_id(
                project=project,
                model=model,
                prediction_id=None if by_id is None else str(by_id),
                entity_key=entity_key(key) if key and None not in key else None,
                target_at=target_us,
                horizon=horizon,
                item=None if one is None else str(one),
                happened_at=micros(_moment(happened)) if happened is not None else (target_us or arrived_us),
                metric=metric,
                value=None if number is None else float(number),
                label=None if text is None else str(text),
                weight=1.0 if heavy is None else float(heavy),
                consumer=consumer,
                arrived_at=arrived_us,
            )
        )
    return outcome_table(rows)


def _row(
    outcome: Outcome, at: int, kinds: Sequence[str], *, project: str, model: str, consumer: str, arrived_us: int
) -> OutcomeRow:
    if outcome.model and outcome.model != model:
        raise InputError(f"Row {at}: model is '{outcome.model}' and the path says '{model}'.", mend="send one model")
    key = _key(outcome.entity_key, at, kinds)
    target_us = None if outcome.target_at is None else _when(outcome.target_at, at, "target_at")
    if outcome.prediction_id is None and (key is None or target_us is None):
        raise InputError(
            f"Row {at} names no prediction.",
            mend="give prediction_id, or entity_key and target_at; no part may be null",
        )
    if outcome.value is None and outcome.label is None:
        raise InputError(f"Row {at} says nothing.", mend="give value (a number), or label (a class)")
    happened_us = _when(outcome.happened_at, at, "happened_at") if outcome.happened_at else target_us or arrived_us
    return _with_id(
        project=project,
        model=model,
        prediction_id=outcome.prediction_id,
        entity_key=key,
        target_at=target_us,
        horizon=outcome.horizon,
        item=outcome.item,
        happened_at=happened_us,
        metric=outcome.metric,
        value=None if outcome.value is None else float(outcome.value),
        label=outcome.label,
        weight=outcome.weight,
        consumer=consumer,
        arrived_at=arrived_us,
    )


def _key(given: "tuple[Any, ...] | str | None", at: int, kinds: Sequence[str]) -> str | None:
    """Canonical text, whether a caller sent the parts, one bare part, or the text itself."""
    if given is None:
        return None
    parts: Any = given
    if isinstance(given, str):
        parts = (given,)
        if given.startswith("["):
            try:
                parts = msgspec.json.decode(given)
            except msgspec.DecodeError as error:
                raise InputError(f"Row {at}: entity_key is no JSON array: {error}", mend='such as ["10002"]') from error
    if not parts or None in parts:
        return None
    if not kinds:
        return entity_key(parts)
    if len(parts) != len(kinds):
        raise InputError(f"Row {at}: entity_key has {len(parts)} parts and the model's key {len(kinds)}.")
    typed = [key_part(part, kind) for part, kind in zip(parts, kinds, strict=True)]
    for part, one, kind in zip(parts, typed, kinds, strict=True):
        if one is None:
            raise InputError(f"Row {at}: entity_key holds {part!r}, which is no {kind}.", mend=f"send a {kind}")
    return entity_key(typed)


def _when(value: datetime, at: int, field: str) -> int:
    try:
        return micros(utc(value))
    except OverflowError:  # of the first or last day there is, in a zone on the far side of it
        raise InputError(
            f"Row {at}: {field} is '{value}', which UTC has no year for.", mend="send a time in UTC"
        ) from None


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return utc(value)
    return utc(value if isinstance(value, str) else value.isoformat())


def _with_id(**fields: Any) -> OutcomeRow:
    text = msgspec.json.encode([fields[name] for name in sorted(fields)])
    digest = hashlib.sha256(text).hexdigest()[:32]
    return OutcomeRow(outcome_id=digest, schema=SCHEMA, **fields)

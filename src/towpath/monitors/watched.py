"""A model as monitors and the fleet page see it: who owns it, what it promised, and its metric row by row."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from towpath.errors import ProjectError
from towpath.gate.verdict import Verdict
from towpath.sql import Query, quoted
from towpath.types import OutputKind, Tier

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.warehouse.engine import Engine

__all__ = ["Promise", "Watched", "measured", "promises", "register"]

_KEPT = (
    "project",
    "model",
    "version",
    "prediction_id",
    "item",
    "entity_key",
    "segment",
    "source",
    "arm",
    "predicted_at",
    "target_at",
    "arrived_at",
)
_FALLBACK = {"fallback_prediction": "prediction", "fallback_label": "predicted_label", "fallback_items": "items"}
"""What the fallback said → where a metric reads what the model said."""


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate measured of the metric that decides."""

    version: int
    segment: str
    """``price_band=low``; empty for all rows."""
    value: float
    rows: int


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the fleet; platform makes it from the registry, the verdicts and the metric files."""

    project: str
    team: str
    model: str
    owner: str
    tier: Tier = "standard"
    champion: int | None = None
    metric: str = ""
    query: Query | None = None
    """The metric's file; none where only its name is known, and then it is not measured."""
    better: Literal["lower", "higher", "zero"] = "lower"
    kind: OutputKind = "number"
    """What an answer is; of a ranking the metric reads ``items``."""
    positive: str | None = None
    """The class that a probability is of: the last one declared."""
    promised: tuple[Promise, ...] = ()


def promises(verdicts: Iterable[Verdict]) -> tuple[Promise, ...]:
    """What versions promised: per version the last verdict that has a number, as a whole and per segment."""
    newest = {verdict.version: verdict for verdict in verdicts if verdict.candidate is not None}
    found: list[Promise] = []
    for version, verdict in sorted(newest.items()):
        if verdict.candidate is not None:
            found.append(Promise(version=version, segment="", value=verdict.candidate, rows=verdict.rows))
        found += [
            Promise(version=version, segment=one.segment, value=one.candidate, rows=one.rows)
            for one in verdict.segments
            if one.candidate is not None
        ]
    return tuple(found)


def register(engine: "Engine", models: Sequence[Watched], *, since: datetime | None = None) -> None:
    """Add ``measured``, ``promised`` and ``unmeasured`` to an engine that has the journal's views.

    A metric that reads what the journal does not have stands in ``unmeasured`` with its error, so that one broken file
    silences no other model's monitors.

    Args:
        engine: After `towpath.journal.views`.
        models: Those that may be asked about.
        since: Only what was predicted about this moment or a later one; all unless given.
    """
    import pyarrow as pa

    parts, broken = [measured(engine, [])], list[dict[str, str]]()
    for model in models:
        try:
            parts.append(measured(engine, [model], since=since))
        except ProjectError as error:
            broken.append({"model": model.model, "metric": model.metric, "error": error.what})
    engine.register("measured", pa.concat_tables(parts))
    engine.register("promised", _promised(models))
    fields = [(name, pa.string()) for name in ("model", "metric", "error")]
    engine.register("unmeasured", pa.Table.from_pylist(broken, schema=pa.schema(fields)))


def measured(engine: "Engine", models: Sequence[Watched], *, since: datetime | None = None) -> "pa.Table":
    """The metric of each model on what really happened, row by row, for the answers given and for the fallback's.

    A metric is ``sum(numerator) / sum(denominator)`` over any rows: a segment, a day, a version.

    Args:
        engine: With the journal's views.
        models: One without a metric file has no rows here.
        since: Only what was predicted about this moment or a later one; all unless given.

    Returns:
        What the row is about, and numerator, denominator, fallback_numerator and fallback_denominator (double), the
        latter two null where no fallback was recorded beside the answer.

    Raises:
        ProjectError: A metric reads what the journal does not have.
    """
    import pyarrow as pa

    parts = [_empty()]
    for model in models:
        if model.query is None:
            continue
        scored = _scored(engine, model, since)
        if not scored.num_rows:
            continue
        numerator, denominator = _ratio(engine, model.query, scored.drop_columns(list(_FALLBACK)))
        beside, below = _ratio(engine, model.query, _of_fallback(scored))
        part = scored.select(_KEPT).append_column("numerator", numerator).append_column("denominator", denominator)
        part = part.append_column("fallback_numerator", beside).append_column("fallback_denominator", below)
        parts.append(part.cast(parts[0].schema))
    return pa.concat_tables(parts)


def _scored(engine: "Engine", model: Watched, since: datetime | None) -> "pa.Table":
    """What the gate's ``scored`` has, of what happened; a column ``items`` only where the gate has one."""
    names = {"project": model.project, "model": model.model, "kind": model.kind, "positive": model.positive}
    scored = engine.read(_scored_query(), {**names, "since": since})
    return scored if model.kind == "ranking" else scored.drop_columns(["items"])


def _of_fallback(scored: "pa.Table") -> "pa.Table":
    """The same rows with what the fallback said in place of what the model said."""
    for theirs, ours in _FALLBACK.items():
        if ours in scored.column_names:
            scored = scored.set_column(scored.column_names.index(ours), ours, scored[theirs])
    return scored.drop_columns(list(_FALLBACK))


def _ratio(engine: "Engine", query: Query, given: "pa.Table") -> "tuple[pa.Array, pa.Array]":
    """Numerator and denominator of each row; null where nothing was predicted that the metric can read."""
    import pyarrow as pa

    engine.register("scored rows", given)
    engine.view("scored", Query.parse(_with_segments(engine)))
    found = engine.read(query)
    silent = np.asarray(given["prediction"].is_null()) & np.asarray(given["predicted_label"].is_null())

    def of(name: str) -> "pa.Array":
        values = found[name].cast(pa.float64())
        return pa.array(values.to_numpy(), pa.float64(), mask=silent | np.asarray(values.is_null()))

    return of("numerator"), of("denominator")


def _with_segments(engine: "Engine") -> str:
    """Each segment as a column of its own, as the gate's table has it."""
    listed = 'select distinct unnest(json_keys(segment)) as key from "scored rows" where segment is not null'
    table = engine.read('select * from "scored rows" limit 0')
    keys = [key for key in sorted(engine.read(listed)["key"].to_pylist()) if key not in table.column_names]
    extra = "".join(", segment ->> '" + key.replace("'", "''") + f"' as {quoted(key)}" for key in keys)
    return f'select *{extra} from "scored rows"'


@cache
def _scored_query() -> Query:
    text = (resources.files("towpath.monitors") / "sql" / "scored.sql").read_text("utf-8")
    return Query.parse(text, "monitors/sql/scored.sql")


def _empty() -> "pa.Table":
    import pyarrow as pa

    moment = pa.timestamp("us", "UTC")
    kinds = {"version": pa.int32(), "predicted_at": moment, "target_at": moment, "arrived_at": moment}
    names = [*_KEPT, "numerator", "denominator", "fallback_numerator", "fallback_denominator"]
    fields = [(n, kinds.get(n, pa.float64() if n.endswith("ator") else pa.string())) for n in names]
    return pa.schema(fields).empty_table()


def _promised(models: Sequence[Watched]) -> "pa.Table":
    import pyarrow as pa

    rows = [
        {
            "project": model.project,
            "model": model.model,
            "metric": model.metric,
            "better": model.better,
            **msgspec.structs.asdict(promise),
        }
        for model in models
        for promise in model.promised
    ]
    schema = pa.schema(
        [
            ("project", pa.string()),
            ("model", pa.string()),
            ("metric", pa.string()),
            ("better", pa.string()),
            ("version", pa.int32()),
            ("segment", pa.string()),
            ("value", pa.float64()),
            ("rows", pa.int64()),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)

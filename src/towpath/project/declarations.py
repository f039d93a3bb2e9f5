"""What people write in a project folder, as frozen structs: headers of .sql files and model.toml."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from towpath.types import Dialect, Isolation, JournalMode, Name, OutputKind, Tier

__all__ = [
    "KINDS",
    "REMOTE",
    "ArtefactDeclaration",
    "BreakerDeclaration",
    "Charter",
    "FallbackDeclaration",
    "FeatureDeclaration",
    "FeatureHeader",
    "GateDeclaration",
    "MetricHeader",
    "ModelDeclaration",
    "MonitorHeader",
    "OutputDeclaration",
    "Resources",
    "ScheduleDeclaration",
    "ServingDeclaration",
    "TrainDeclaration",
    "TrainingHeader",
]

REMOTE = r"^(https?://[^\s@/]+/v2/models/[^\s/]+|grpcs?://[^\s@/]+/[^\s/]+)(/versions/[^\s/]+)?(?!\n)$"
"""URL of a model of another server."""
Duration = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?\s*(us|ms|s|m|h|d|w)(?!\n)$")]
"""One number, one unit of us ms s m h d w; never negative."""
FeatureName = Annotated[
    str, Meta(pattern=r"^([a-z][a-z0-9_]*/)?[a-z][a-z0-9_]{0,62}\.([a-z_][a-z0-9_]{0,62}|\*)(?!\n)$")
]
"""``view.feature`` or ``view.*``; ``project/view.feature`` reads a view that another project published."""
SqlFeature = Annotated[str, Meta(pattern=r"^([a-z][a-z0-9_]*/)?[a-z][a-z0-9_]{0,62}\.[a-z_][a-z0-9_]{0,62}(?!\n)$")]
"""``view.feature``, one alone; ``project/view.feature`` reads a view that another project published."""
Column = Annotated[str, Meta(min_length=1, max_length=63)]
Moment = Annotated[
    str,
    Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?)?(?!\n)$"),
]
"""A time as text, such as ``2011-09-01`` or ``2011-09-01T06:00Z``; without a zone it is UTC."""


class FeatureDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a feature says of itself beyond its type, which comes from the engine."""

    default: float | int | str | bool | None = None
    """Stands for a missing value where ``missing = "default"``."""
    missing: Literal["null", "default", "refuse"] = "null"
    """``refuse`` sends the row to the fallback with reason ``features``."""
    description: str = ""
    """For people."""


class FeatureHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The header of ``features/<view>.sql``."""

    entity: Annotated[tuple[Column, ...], Meta(min_length=1)] | Column
    """Key column or columns, in the order of the entity key."""
    event_time: Column
    """When the value became true."""
    created_time: Column | None = None
    """When the row landed; makes training known-at."""
    ttl: Duration | None = None
    """How old a value may be and still answer; both ends inclusive."""
    start: Moment | None = None
    """The first event time that there is, UTC: builds and training know no earlier row, and an interval asked for before it is refused."""
    schedule: str | None = None
    """When a build is due, as a cron line in UTC, for the scheduler that you run; `tow check` and `tow features plan` read it."""
    lookback: Duration | None = None
    """How far before the last build a build reads again: how late a row may show up after the landing time that it claims,
    ``1h`` unless given. Without a ``created_time`` it counts event times, and unless given everything is built again."""
    online: bool = True
    """Whether builds bring it into the online store; ``false`` for a view that is only trained on."""
    landing_keep: Duration | None = None
    """How long pushed rows stay in ``landing.<view>``: by then the table of history has them, else training loses them. Each
    build takes out whole days (UTC) of arrival that are older. At least the ttl and the lookback; for ever unless given."""
    dialect: Dialect = "duckdb"
    """Whose SQL the file is written in: DuckDB's, which is translated to each engine, or that of the one engine that runs it."""
    publish: bool = False
    """Whether other projects of the fleet may read it."""
    owner: str = ""
    """Who answers for it."""
    description: str = ""
    """For people."""
    features: dict[str, FeatureDeclaration] = {}
    """Defaults and rules for single features."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The key columns as a tuple."""
        return (self.entity,) if isinstance(self.entity, str) else self.entity


class TrainingHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The header of ``models/<name>/training.sql``, the spine."""

    entity: Annotated[tuple[Column, ...], Meta(min_length=1)] | Column
    """Key column or columns."""
    time: Column
    """The moment of prediction."""
    label: Column
    """What is predicted; null where it is not known yet."""
    label_time: Column | None = None
    """When the label became known; training as of T uses rows with ``label_time <= T`` only."""
    segments: tuple[Column, ...] = ()
    """Columns along which the gate and the monitors look."""
    weight: Column | None = None
    """How much a row counts in metrics; 1 unless given."""
    dialect: Dialect = "duckdb"
    """Whose SQL the file is written in: DuckDB's, which is translated to each engine, or that of the one engine that runs it."""
    lookback: Duration = "7d"
    """How far before ``--as-of`` the batch path looks for the newest moment of prediction, and how long after its target
    time a label may become known to be collected. It reaches the SQL as ``:since``; SQL without it is read whole."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The key columns as a tuple."""
        return (self.entity,) if isinstance(self.entity, str) else self.entity


class MetricHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The header of ``metrics/<name>.sql``: a row-level SELECT of ``numerator`` and ``denominator`` from ``scored``.

    The metric is the ratio of the two sums, so that segments, days and resamples are sums of the same rows.
    """

    better: Literal["lower", "higher", "zero"]
    """Which way is good; ``zero`` for a bias."""
    unit: str = ""
    """What one means: share, EUR, units."""
    description: str = ""
    """For people."""


class MonitorHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The header of ``monitors/**/*.sql``: a SELECT of failing rows."""

    description: Annotated[str, Meta(min_length=1)]
    """What it asks, in one line."""
    model: Name | None = None
    """Whose incidents these are; none for a check of data."""
    severity: Literal["info", "warning", "critical"] = "warning"
    """How loud an incident is."""
    every: Duration = "1d"
    """How often it is asked."""
    window: Duration = "1d"
    """``:since`` is this long before ``:until``."""
    inputs: dict[str, str] = {}
    """Tables of the warehouse: name here → SELECT there."""
    parameters: dict[str, float | int | str] = {}
    """Further ``:name`` parameters with their values."""
    mend: str = ""
    """What the one who is woken does first."""
    owner: str = ""
    """Who is woken; the model's owner unless given."""


class Charter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Why the model exists; asked by ``tow init``, shown at the gate and at retirement."""

    decision: Annotated[str, Meta(min_length=1)]
    """What is decided with the answer."""
    process: str = ""
    """In which process the decision is made."""
    integrator: str = ""
    """Who builds the caller."""
    analyst: str = ""
    """Who measures whether it works."""
    stop_when: str = ""
    """What would make us switch it off."""


class OutputDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an answer is and what it may be."""

    kind: OutputKind = "number"
    """Number, class, probability, …"""
    low: float | None = None
    """Below this an answer is *wrong*."""
    high: float | None = None
    """Above this an answer is *wrong*."""
    horizon: Duration | None = None
    """How long after the moment of prediction the truth is complete."""
    classes: tuple[str, ...] = ()
    """The labels of a class or of probabilities, in order."""
    top: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    """Length of a ranking."""


class ArtefactDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the model is, when ``train`` does not make it."""

    remote: Annotated[str, Meta(pattern=REMOTE)] | None = None
    """A model of another server that speaks the Open Inference Protocol: ``http://triton:8000/v2/models/demand``, or over gRPC
    ``grpc://triton:8001/demand`` (``https``, ``grpcs`` for TLS), each with ``/versions/3`` where one is meant.
    `tow train` measures it and makes a version of it, which has the guard, the routing and the journal of any other."""
    token: Annotated[str, Meta(pattern=r"^(env|file):.+")] | None = None
    """Where its key is, ``env:NAME`` or ``file:PATH``; sent as ``Authorization: Bearer``. A variable is named in `environment`, too."""


class TrainDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the data is split and what the train function is told."""

    holdout: Duration = "14d"
    """The newest stretch of labelled time; candidates are measured on it and never trained on it."""
    seed: Annotated[int, Meta(ge=0)] = 7
    """For everything random."""
    history: Duration | None = None
    """How far back rows are used; all unless given."""
    parameters: dict[str, float | int | str | bool] = {}
    """Handed to ``train`` as ``data.parameters``."""
    format: Literal["auto", "pickle", "skops"] = "auto"
    """How the trained object is kept; ``auto`` takes the framework's own data-only format where it has one."""


class GateDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a version must show before it may answer."""

    metric: Name = "wape"
    """Which metric decides."""
    beside: tuple[Name, ...] = ()
    """Metrics that are shown and do not decide."""
    margin: Annotated[float, Meta(ge=0)] = 0.0
    """A candidate may be this much worse than the champion and still pass (relative); 0 asks for better."""
    no_worse_on: Annotated[float, Meta(ge=0)] = 0.1
    """Relative worsening that one segment may show against the champion."""
    min_segment_rows: Annotated[int, Meta(ge=1)] = 200
    """Smaller segments are shown and do not decide."""
    confidence: Annotated[float, Meta(gt=0.5, lt=1)] = 0.95
    """Of the interval of the difference."""
    resamples: Annotated[int, Meta(ge=100, le=100_000)] = 1_000
    """Bootstrap resamples by entity."""
    load_s: Annotated[float, Meta(gt=0)] = 30.0
    """The most that loading may take."""
    memory_mib: Annotated[int, Meta(ge=1)] = 2_048
    """The most that a process with the loaded model may use."""
    latency_p99_ms: Annotated[float, Meta(gt=0)] = 100.0
    """The most that one row may take, 99th percentile."""


class BreakerDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a version that keeps failing is asked no more, so that its callers get the fallback at once."""

    failures: Annotated[int, Meta(ge=1, le=1_000)] = 5
    """So many failed calls one after the other open it."""
    share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """This share of failed calls among the last `window` opens it, too."""
    window: Annotated[int, Meta(ge=2, le=1_000)] = 20
    """Calls that `share` looks back on."""
    pause_ms: Annotated[int, Meta(ge=10, le=600_000)] = 2_000
    """How long it stays open before one call is let through; each trial that fails doubles it, up to thirty times."""


class ServingDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the model is called."""

    timeout_ms: Annotated[int, Meta(ge=1, le=600_000)] = 200
    """The whole answer, fallback included."""
    isolation: Isolation = "thread"
    """Where the model is called. ``process`` gives it one of its own, which is ended at the deadline and may crash without
    hurting anybody; pickles and models with a lock of their own always get one."""
    queue_rows: Annotated[int, Meta(ge=1)] = 10_000
    """Rows that may wait; beyond it the fallback answers. A call that cannot be done in time, judging by the ones before it,
    is not let in even where there is room, and consumers take turns: who floods the queue waits behind himself."""
    batch_rows: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Rows of several requests that may be answered in one call of the model; 1 to answer each alone. Unless said it is
    measured when the version is loaded, except for a ``predict`` of your own, which may look at all the rows that it gets."""
    compile: Literal["onnx"] | None = None
    """Serve the model in ONNX's form: LightGBM, XGBoost and scikit-learn are converted when they are loaded and held against
    their own form on 512 rows made from the signature; where one answers otherwise, or has no converter,
    the log says why with the worst row and the own form serves; ``platform`` in the metadata names the form that does."""
    breaker: BreakerDeclaration = BreakerDeclaration()
    """When a version that keeps failing is left alone."""
    beside_share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """Of the units, by their hash: after their answer the first fallback is asked too, and the journal keeps what it would
    have said, so that the fleet page can compare both. No caller waits for it; under load it is skipped. 0 switches it off."""


class FallbackDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One link of the chain; exactly one of function, constant, version, model, sql and last says what answers."""

    name: Name
    """Stands in every answer as ``fallback:<name>``."""
    function: Name | None = None
    """A function of ``model.py`` that takes the same rows as ``predict``."""
    constant: float | int | str | None = None
    """Cannot fail."""
    version: Literal["previous"] | Annotated[int, Meta(ge=1)] | None = None
    """Another version of this model."""
    model: Name | None = None
    """Another model of the project, asked as anybody asks it: with its own traffic, guard and chain."""
    sql: SqlFeature | None = None
    """``view.feature``: a column of a feature view, which ``tow features build`` brings into the online store; read by entity
    key when it is needed. A key without a row goes to the next link."""
    last: Duration | None = None
    """The last good answer to the same entity key, at most this old, such as ``1d``; from memory that the
    workers of a server share; a restart of the server empties it."""
    budget_ms: Annotated[int, Meta(ge=1)] = 50
    """The share of the deadline that is kept for it; the last link of the chain may take all that is left."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """What was said to answer: one of `KINDS` where it is right."""
        return tuple(kind for kind in KINDS if getattr(self, kind) is not None)


KINDS = ("function", "constant", "version", "model", "sql", "last")
"""What a link of a fallback chain can be."""


class ScheduleDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When things are due, as cron lines in UTC, for the scheduler that you run; Towpath starts nothing by itself yet."""

    train: str | None = None
    """Retraining."""
    predict: str | None = None
    """The batch path."""


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a job may use; enforced and recorded."""

    cpu: Annotated[float, Meta(gt=0, le=1_024)] | None = None
    """Cores."""
    memory: Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?\s*(MiB|GiB|MB|GB)(?!\n)$")] | None = None
    """Such as ``4GiB``; a model in a process of its own is held to it while it serves, too."""
    gpu: Annotated[int, Meta(ge=0, le=64)] = 0
    """Whole devices."""
    time: Duration | None = None
    """Wall clock."""


class ModelDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``models/<name>/model.toml``."""

    charter: Charter
    """Why it exists."""
    owner: Annotated[str, Meta(min_length=1)]
    """Who answers for it."""
    features: Annotated[tuple[FeatureName, ...], Meta(min_length=1)]
    """What it reads."""
    description: str = ""
    """For people."""
    tier: Tier = "standard"
    """A critical model must have a fallback."""
    unit: Column | None = None
    """Which input names the unit of experiments; the entity key unless given."""
    journal: JournalMode = "full"
    """What is written of each answer."""
    environment: tuple[str, ...] = ()
    """Variables that training and an isolated model process may see."""
    output: OutputDeclaration = OutputDeclaration()
    """What an answer is."""
    artefact: ArtefactDeclaration = ArtefactDeclaration()
    """Where the model is, when ``train`` does not make it."""
    train: TrainDeclaration = TrainDeclaration()
    """How it is trained."""
    gate: GateDeclaration = GateDeclaration()
    """What it must show."""
    serving: ServingDeclaration = ServingDeclaration()
    """How it is called."""
    fallback: tuple[FallbackDeclaration, ...] = ()
    """Who answers when it cannot, in order."""
    schedule: ScheduleDeclaration = ScheduleDeclaration()
    """When things are due."""
    resources: Resources = Resources()
    """What its jobs may use."""

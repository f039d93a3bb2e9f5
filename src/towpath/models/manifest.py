"""What a version is: the manifest that is stored, signed and read for two schema numbers back."""

from datetime import datetime

import msgspec

from towpath.features.lock import FeatureColumn, FeatureLock, OnDemandInputLock, OnDemandLock
from towpath.project.declarations import (
    Charter,
    FallbackDeclaration,
    GateDeclaration,
    OutputDeclaration,
    Resources,
    ServingDeclaration,
)
from towpath.types import Container, Digest, JournalMode, Tier

__all__ = [
    "SCHEMA",
    "Artefact",
    "Environment",
    "FeatureColumn",
    "FeatureLock",
    "Field",
    "Manifest",
    "OnDemandInputLock",
    "OnDemandLock",
    "Signature",
    "StoredFile",
    "Training",
]

SCHEMA = 1


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One column or tensor of a signature."""

    name: str
    """As the model knows it; ``view.feature`` for looked-up features."""
    type: str
    """Arrow's name for a column (``int64 double string bool timestamp[us, tz=UTC]``); OIP's for a tensor (``FP32``)."""
    shape: tuple[int, ...] = (-1,)
    """-1 for any; the first is the row."""
    nullable: bool = True
    """Whether null may be handed to the model."""
    levels: tuple[str, ...] | None = None
    """Category levels in the order that training saw; an unseen level is null, counted."""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What goes in and what comes out."""

    container: Container
    """What ``predict`` is handed; the one that ``train`` read."""
    inputs: tuple[Field, ...]
    """In the order that the model wants."""
    outputs: tuple[Field, ...]
    """The first one is the prediction."""


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a version, by digest of its bytes."""

    path: str
    """Relative to the version's folder."""
    digest: Digest
    """Of the stored bytes."""
    size_bytes: int
    """Length."""


class Artefact(msgspec.Struct, frozen=True, kw_only=True):
    """The model file."""

    file: StoredFile
    """Where it lies in the version; for a folder its first file."""
    format: str
    """``onnx lightgbm xgboost catboost skops pickle`` …, told from the bytes."""
    framework: str = ""
    """Distribution that wrote it, such as ``lightgbm``."""
    framework_version: str = ""
    """Its version; a major mismatch is refused at load."""
    allow: tuple[str, ...] = ()
    """For a pickle: the exact ``module:name`` pairs that were seen when it was written; nothing else loads."""
    folder: str = ""
    """For a model that is a folder: its name in the version. Its files, each with its digest, are among those of the version."""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """Where the version came from."""

    run_id: str
    """The run that made it."""
    as_of: datetime
    """Nothing that became known later was used."""
    rows: int
    """Rows trained on."""
    holdout_rows: int
    """Rows measured on."""
    seed: int
    """For everything random."""
    metrics: dict[str, float] = {}
    """On the holdout."""
    data_digest: str = ""
    """Of the training set as it was handed over."""
    commit: str = ""
    """Of the project's git, ``+dirty`` where it was."""
    parameters: dict[str, float | int | str | bool] = {}
    """As declared."""
    sample_share: float = 1.0
    """Below 1 the version was trained with ``--sample`` and cannot be promoted."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What it ran on."""

    python: str
    """Such as ``3.11.7``."""
    platform: str
    """Such as ``linux-x86_64``."""
    packages: dict[str, str]
    """Distribution → version."""
    towpath: str
    """Ours."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``models/<name>/versions/000017/manifest.json``; written last, so that a version with one is whole."""

    schema: int = SCHEMA
    project: str
    team: str
    model: str
    version: int
    created_at: datetime
    created_by: str
    owner: str
    tier: Tier = "standard"
    charter: Charter | None = None
    description: str = ""
    artefact: Artefact
    signature: Signature
    entity: tuple[str, ...] = ()
    time: str | None = None
    label: str | None = None
    segments: tuple[str, ...] = ()
    unit: str | None = None
    features: tuple[FeatureLock, ...] = ()
    """Views: what the model reads, and what its on-demand features read."""
    on_demand: tuple[OnDemandLock, ...] = ()
    """Functions in the order in which they are called."""
    output: OutputDeclaration = OutputDeclaration()
    serving: ServingDeclaration = ServingDeclaration()
    gate: GateDeclaration = GateDeclaration()
    resources: Resources = Resources()
    fallback: tuple[FallbackDeclaration, ...] = ()
    fallback_features: tuple[FeatureLock, ...] = ()
    """Views whose column is the answer of a ``sql`` link."""
    journal: JournalMode = "full"
    variables: tuple[str, ...] = ()
    training: Training | None = None
    environment: Environment | None = None
    files: tuple[StoredFile, ...] = ()
    """Everything else in the folder: ``code.zip``, ``golden.jsonl``, ``holdout.parquet`` …"""

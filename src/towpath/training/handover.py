"""What a run and its job hand each other, as files in the run's folder."""

import msgspec

from towpath.features.lock import FeatureLock, OnDemandLock
from towpath.models.manifest import Artefact, Signature, StoredFile
from towpath.project.declarations import ModelDeclaration, TrainingHeader

__all__ = ["CODE", "HOLDOUT", "MEASURE", "RESULT", "TASK", "TRAIN", "Computed", "Result", "Task"]

TASK, TRAIN, MEASURE, CODE = "task.json", "train.parquet", "measure.parquet", "code.zip"
"""What the job is given."""
RESULT, HOLDOUT = "result.json", "holdout.parquet"
"""What it leaves, beside the model's own file."""


class Computed(msgspec.Struct, frozen=True, kw_only=True):
    """On-demand features that the job computes before it trains, by code that is handed over with the model's."""

    functions: tuple[OnDemandLock, ...]
    """In the order in which they are called."""
    views: tuple[FeatureLock, ...]
    """Of the views that they read, for their defaults."""
    hidden: tuple[str, ...] = ()
    """Features that only they read, and the model does not."""

    @property
    def gives(self) -> tuple[str, ...]:
        """Everything that they give, as ``view.feature``."""
        return tuple(f"{lock.view}.{column.name}" for lock in self.functions for column in lock.columns)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """``task.json``: everything but the rows and the code."""

    project: str
    model: str
    project_folder: str
    """So that tracebacks show the user's own files."""
    header: TrainingHeader
    declaration: ModelDeclaration
    features: tuple[str, ...]
    """The columns that the model reads, in its order."""
    seed: int
    code: StoredFile
    computed: Computed | None = None
    """On-demand features, where the model reads any."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """``result.json``: what came of it."""

    artefact: Artefact | None = None
    signature: Signature | None = None
    unseen: dict[str, int] = {}
    """Values of the holdout that training never saw, by column."""
    error: str = ""
    """Class of the error; empty where all went well."""
    what: str = ""
    where: str = ""
    mend: str = ""

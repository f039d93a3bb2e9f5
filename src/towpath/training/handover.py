"""What a run and its job hand each other, as files in the run's folder."""

import msgspec

from towpath.models.manifest import Artefact, Signature, StoredFile
from towpath.project.declarations import ModelDeclaration, TrainingHeader

__all__ = ["CODE", "HOLDOUT", "MEASURE", "RESULT", "TASK", "TRAIN", "Result", "Task"]

TASK, TRAIN, MEASURE, CODE = "task.json", "train.parquet", "measure.parquet", "code.zip"
"""What the job is given."""
RESULT, HOLDOUT = "result.json", "holdout.parquet"
"""What it leaves, beside the model's own file."""


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

"""Training: the task that runs the user's code, splits by time, and the runs that people list and compare."""

from towpath.training.data import TrainingSet
from towpath.training.handover import Computed
from towpath.training.runs import Difference, Published, Run, Runs, Segment
from towpath.training.scores import measured, metrics_of, scored, segments_of
from towpath.training.splits import Split, sample, split
from towpath.training.train import Trained, run

__all__ = [
    "Computed",
    "Difference",
    "Published",
    "Run",
    "Runs",
    "Segment",
    "Split",
    "Trained",
    "TrainingSet",
    "measured",
    "metrics_of",
    "run",
    "sample",
    "scored",
    "segments_of",
    "split",
]

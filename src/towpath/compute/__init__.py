"""Run this there with these resources: a job is a tree of processes that never uses more than it was given."""

from towpath.compute.job import Finished, run
from towpath.compute.machine import Limits, Machine, limits, this_machine

__all__ = ["Finished", "Limits", "Machine", "limits", "run", "this_machine"]

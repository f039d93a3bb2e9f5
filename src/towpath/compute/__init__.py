"""Run this there with these resources: a job is a tree of processes that never uses more than it was given."""

from towpath.compute.job import Finished, kept_variables, run, thread_variables
from towpath.compute.machine import Limits, Machine, limits, mebibytes, this_machine

__all__ = [
    "Finished",
    "Limits",
    "Machine",
    "kept_variables",
    "limits",
    "mebibytes",
    "run",
    "this_machine",
    "thread_variables",
]

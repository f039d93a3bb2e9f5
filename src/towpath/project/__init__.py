"""A project folder: read into frozen values, checked, begun."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from towpath.errors import ProjectError
from towpath.project.check import problems, shallow_problems
from towpath.project.folder import MetricFile, ModelFolder, MonitorFile, Project, Reading, SpineFile, ViewFile
from towpath.project.on_demand import OnDemandFile
from towpath.project.problem import Problem
from towpath.project.sources import SourceDeclaration, VolumeDeclaration
from towpath.project.start import Answers, init

__all__ = [
    "Answers",
    "MetricFile",
    "ModelFolder",
    "MonitorFile",
    "OnDemandFile",
    "Problem",
    "Project",
    "SourceDeclaration",
    "SpineFile",
    "ViewFile",
    "VolumeDeclaration",
    "init",
    "problems",
    "read",
    "schema",
]


def read(folder: Path | str, variables: Mapping[str, str] | None = None) -> Project:
    """Read a project folder.

    SQL is parsed when it is first asked for and `golden.jsonl` when the gate reads it, so that a command on one model starts
    fast; `problems` looks at these too.

    Args:
        folder: The project folder, the one with ``towpath.toml``.
        variables: The process environment; `os.environ` unless given.

    Raises:
        ProjectError: Something is wrong; ``problems`` has every ``file:line: what; how to mend``.
    """
    folder = Path(folder).absolute()
    reading = Reading(folder, variables)
    if all(problem.warning for problem in shallow_problems(reading)):
        return reading.project
    found = [problem for problem in problems(folder, variables) if not problem.warning]
    if not (folder / "towpath.toml").exists():
        raise ProjectError(f"There is no project in '{folder}'.", str(folder), "tow init, or cd into a project folder")
    count = f"{len(found)} problems" if len(found) > 1 else "1 problem"
    raise ProjectError(f"{count} in '{folder.name}'.", str(folder), "tow check", [str(problem) for problem in found])


def schema() -> dict[str, Any]:
    """The JSON schema of ``model.toml``, for editors that complete and check TOML."""
    from towpath.project import reference

    return reference.schema()

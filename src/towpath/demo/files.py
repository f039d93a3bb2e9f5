"""The plain files of the demo's projects, and how they come into a folder."""

from pathlib import Path

from towpath.errors import ProjectError

__all__ = ["PROJECT", "retail_project", "write_project"]

PROJECT = Path(__file__).parent / "project"
"""The files as they lie in the package."""


def retail_project() -> Path:
    """The example over the real retail file: in the package once that is built, in a checkout where it is written.

    Raises:
        ProjectError: Neither is there, because the package was put together by hand.
    """
    packed, written = Path(__file__).parent / "retail", Path(__file__).parents[3] / "examples" / "retail"
    for found in (packed, written):
        if (found / "towpath.toml").is_file():
            return found
    raise ProjectError("The retail example is missing.", str(packed), "install towpath from a wheel, or clone it")


def write_project(folder: Path, source: Path = PROJECT) -> list[str]:
    """Copy a project into a folder; a file that is there already is kept, because it may have been edited.

    Args:
        folder: Made if it is missing.
        source: The demo's own unless given.

    Returns:
        The files that were written, relative to the folder, sorted.
    """
    written: list[str] = []
    left_out = {"__pycache__", ".towpath"}
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        name = file.relative_to(source).as_posix()
        if left_out & set(name.split("/")):
            continue
        target = folder / name
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
        written.append(name)
    return written

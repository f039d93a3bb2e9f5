"""The demo project's plain files, and how they come into a folder."""

from pathlib import Path

__all__ = ["PROJECT", "write_project"]

PROJECT = Path(__file__).parent / "project"
"""The files as they lie in the package."""


def write_project(folder: Path) -> list[str]:
    """Copy the demo project into a folder; a file that is there already is kept, because it may have been edited.

    Args:
        folder: Made if it is missing.

    Returns:
        The files that were written, relative to the folder, sorted.
    """
    written: list[str] = []
    for source in sorted(path for path in PROJECT.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        name = source.relative_to(PROJECT).as_posix()
        target = folder / name
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        written.append(name)
    return written

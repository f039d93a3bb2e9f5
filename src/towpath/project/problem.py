"""One fault in a project's files: where it is, what it is, how to mend it."""

import re

import msgspec

from towpath.errors import ProjectError

__all__ = ["Problem", "problems_of"]

_PLACED = re.compile(r"(?P<file>[^:\n]+)(?::(?P<line>\d+))?: (?P<rest>.*)", re.DOTALL)


class Problem(msgspec.Struct, frozen=True, order=True):
    """One fault; as text ``file:line: what; how to mend``.

    Example:
        >>> str(Problem("towpath.toml", 3, "unknown key 'tema'", "did you mean 'team'?"))
        "towpath.toml:3: unknown key 'tema'; did you mean 'team'?"
    """

    file: str
    """Relative to the project folder."""
    line: int
    """Counted from 1; the table's where a key is missing, 1 where a whole file is meant."""
    what: str
    """The fault, with values in quotes."""
    mend: str = ""
    """What to write instead."""
    warning: bool = False
    """Whether the project can be used as it stands."""

    def __str__(self) -> str:
        mark = "warning: " if self.warning else ""
        return f"{self.file}:{self.line}: {mark}{self.what}" + (f"; {self.mend}" if self.mend else "")


def problems_of(error: ProjectError, file: str) -> list[Problem]:
    """Take apart what another room reported as text.

    Args:
        error: Its ``problems`` are ``file:line: what; mend``.
        file: Stands in where the text names none.
    """
    if not error.problems:
        return [Problem(file, 1, error.what.rstrip("."), error.mend)]
    found: list[Problem] = []
    for text in error.problems:
        placed = _PLACED.fullmatch(text)
        rest = placed["rest"] if placed else text
        what, _, mend = rest.rpartition("; ") if "; " in rest else (rest, "", error.mend)
        found.append(Problem(placed["file"] if placed else file, int(placed["line"] or 1) if placed else 1, what, mend))
    return found

"""Golden cases: requests with known-good answers, one JSON a line; replayed at the gate and before a server is ready."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from towpath.errors import ProjectError

__all__ = ["GoldenCase", "GoldenResult", "compare_golden", "read_golden", "write_golden"]

_NOISE = 1e-6
"""Relative: runtimes and machines differ by this much in 32-bit arithmetic."""


class GoldenCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of ``golden.jsonl``."""

    request: dict[str, Any]
    """A row as a caller would send it: entity keys, raw features, or both."""
    answer: Any = UNSET
    """The known-good prediction; without one the case asks only for an answer that the model's ``[output]`` allows."""
    tolerance: Annotated[float, Meta(ge=0)] = 0.0
    """How far a number may be from it, in its own unit."""
    line: int = 0
    """Where it stands in the file; filled when it is read."""


class GoldenResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the cases."""

    cases: int
    failures: tuple[str, ...] = ()
    """``golden.jsonl:3: answered 14.1, known good is 12.3 (tolerance 0.01)``"""

    @property
    def passed(self) -> bool:
        """Whether every case was answered as it should be."""
        return not self.failures


def read_golden(data: bytes, path: str = "golden.jsonl") -> tuple[GoldenCase, ...]:
    r"""Read golden cases; empty lines are skipped.

    Args:
        data: The file.
        path: For messages.

    Raises:
        ProjectError: With ``path:line`` of every line that is no case.

    Example:
        >>> read_golden(b'{"request": {"item_id": "a"}, "answer": 2.0, "tolerance": 0.5}\n')[0].answer
        2.0
    """
    cases: list[GoldenCase] = []
    problems: list[str] = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            case = msgspec.json.decode(line, type=GoldenCase)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problems.append(f'{path}:{number}: {error}; {{"request": {{…}}, "answer": 12.3, "tolerance": 0.01}}')
        else:
            cases.append(msgspec.structs.replace(case, line=number))
    if problems:
        raise ProjectError(f"{len(problems)} golden cases cannot be read.", path, "one JSON object a line", problems)
    return tuple(cases)


def write_golden(cases: Sequence[GoldenCase], answers: Sequence[object] | None = None) -> bytes:
    r"""Write golden cases, with the answers of a version frozen in where they are given.

    Args:
        cases: What was asked.
        answers: What this version answered, one for each case; a server is ready once it answers so again.

    Example:
        >>> write_golden([GoldenCase(request={"a": 1})], [np.float64(2.5)])
        b'{"request":{"a":1},"answer":2.5}\n'
    """
    lines = [msgspec.structs.replace(case, line=0) for case in cases]
    if answers is not None:
        lines = [
            msgspec.structs.replace(case, answer=_plain(answer)) for case, answer in zip(lines, answers, strict=True)
        ]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def compare_golden(
    cases: Sequence[GoldenCase],
    answers: Sequence[object],
    *,
    errors: Mapping[int, str] | None = None,
    path: str = "golden.jsonl",
) -> GoldenResult:
    """Hold the answers of a version against the known-good ones.

    Numbers may differ by the case's tolerance, or by a millionth of their size where that is more; text and truth values
    not at all; lists and objects part by part (an object may hold more than was known).

    Args:
        cases: What was asked.
        answers: What was answered, one for each case, in order.
        errors: Position → what failed, for cases that got no answer.
        path: For messages.

    Example:
        >>> case = GoldenCase(request={}, answer=12.3, tolerance=0.01, line=3)
        >>> compare_golden([case], [14.1]).failures
        ('golden.jsonl:3: answered 14.1, known good is 12.3 (tolerance 0.01)',)
    """
    failures: list[str] = []
    failed = errors or {}
    for position, (case, answer) in enumerate(zip(cases, answers, strict=True)):
        where = f"{path}:{case.line or position + 1}"
        found = _plain(answer)
        if position in failed:
            failures.append(f"{where}: no answer: {failed[position]}")
        elif isinstance(case.answer, UnsetType):
            if found is None or found != found:  # noqa: PLR0124 - NaN alone differs from itself
                failures.append(f"{where}: answered {found}, any answer would do")
        elif not _same(found, case.answer, case.tolerance):
            failures.append(
                f"{where}: answered {_shown(found)}, known good is {_shown(case.answer)} (tolerance {case.tolerance:g})"
            )
    return GoldenResult(cases=len(cases), failures=tuple(failures))


def _same(found: Any, known: Any, tolerance: float) -> bool:
    if isinstance(known, bool) or isinstance(found, bool):
        return found is known
    if isinstance(known, int | float):
        if not isinstance(found, int | float) or math.isnan(found):
            return False
        return abs(found - known) <= max(tolerance, _NOISE * abs(known))
    if isinstance(known, list):
        known_parts, parts = cast("list[Any]", known), cast("list[Any]", found)
        return (
            isinstance(found, list)
            and len(parts) == len(known_parts)
            and all(_same(f, k, tolerance) for f, k in zip(parts, known_parts, strict=True))
        )
    if isinstance(known, dict):
        known_fields, fields = cast("dict[str, Any]", known), cast("dict[str, Any]", found)
        return isinstance(found, dict) and all(
            key in fields and _same(fields[key], value, tolerance) for key, value in known_fields.items()
        )
    return bool(found == known)


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    if isinstance(value, np.ndarray | np.generic):
        return cast("NDArray[Any]", value).tolist()
    if isinstance(value, tuple | list):
        return [_plain(part) for part in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in cast("dict[str, Any]", value).items()}
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"  # noqa: PLR2004 - fits on a line

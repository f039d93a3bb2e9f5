"""A fallback that was never tried is none: each link of the chain answers the held-out rows at the gate."""

from typing import Any

import msgspec
from numpy.typing import NDArray

from towpath.gate.output import allowed, check_output
from towpath.project.declarations import FallbackDeclaration, OutputDeclaration

__all__ = ["FallbackCheck", "check_fallback"]


class FallbackCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One link of the fallback chain, tried on the held-out rows."""

    name: str
    passed: bool
    detail: str
    """What it answered, or what went wrong."""


def check_fallback(
    link: FallbackDeclaration,
    output: OutputDeclaration,
    *,
    rows: int,
    values: NDArray[Any] | None,
    error: str = "",
    one_row_ms: float | None = None,
) -> FallbackCheck:
    """Say whether a link of the chain did its duty.

    Args:
        link: As it was declared.
        output: What an answer may be; a fallback may not answer otherwise.
        rows: How many rows it was asked.
        values: What it answered, first dimension n; None where it failed.
        error: How it failed.
        one_row_ms: How long one row takes it; not looked at unless given.

    Example:
        >>> link = FallbackDeclaration(name="zero", constant=0.0)
        >>> check_fallback(link, OutputDeclaration(), rows=2, values=None, error="boom").detail
        'failed: boom'
    """
    problem = ""
    if values is None:
        problem = f"failed: {error or 'no answer'}"
    elif len(values) != rows:
        problem = f"answered {len(values):,} of {rows:,} rows"
    else:
        check = check_output(values, output)
        if check.wrong:
            problem = f"gave {check.wrong:,} of {rows:,} answers that are not {allowed(output)}: {check.detail}"
    if not problem and one_row_ms is not None and one_row_ms > link.budget_ms:
        problem = f"takes {one_row_ms:.3g} ms for one row (budget {link.budget_ms} ms)"
    return FallbackCheck(name=link.name, passed=not problem, detail=problem or f"answered {rows:,} of {rows:,} rows")

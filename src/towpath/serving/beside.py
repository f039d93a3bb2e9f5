"""What the fallback would have said: asked of a sample of units, when their answer is on its way.

Who is compared must be measured on the same rows, and a fallback answers live rows only when the model does not. So for
a share of the units the first fallback is asked too, in a thread of its own, and what it says is appended to the journal
after the record of the answer.
"""

import logging
import time
from functools import partial
from typing import Protocol

from towpath.journal.record import Beside
from towpath.serving.guard import Call
from towpath.serving.work import Work
from towpath.serving.written import said
from towpath.traffic import point

__all__ = ["BesideWriter", "ask_later", "sampled"]

_log = logging.getLogger("towpath.serving")
_FRESH_S = 1.0
"""What has waited longer for the thread is skipped: the server has better things to do, and a replaced version soon goes."""
_FEW = 32
"""Rows whose units are hashed in the path of the answer, 2 µs each; a larger request leaves that to the thread."""


class BesideWriter(Protocol):
    """Where it is written; `towpath.journal.Journal` is one."""

    def beside(self, found: Beside) -> bool:
        """Write it; False where it was dropped."""
        ...


def ask_later(work: Work, writer: BesideWriter) -> bool:
    """Have the fallback asked about the sampled rows of an answer; nobody waits for it.

    Args:
        work: Answered, and written down.
        writer: Takes what the fallback says.

    Returns:
        Whether it will be asked: not where no row is sampled, nor where the thread has enough to do.
    """
    served = work.base
    if served is None or work.deployment.beside_link is None:
        return False
    share = served.manifest.serving.beside_share
    if share <= 0:
        return False
    count = work.answered.count
    rows = sampled(work, share) if count <= _FEW else None
    if rows is not None and not rows:
        return False
    call = Call(
        served.beside_lane, partial(_ask, work, writer, share, rows), count, deadline=time.perf_counter() + _FRESH_S
    )
    return served.beside_lane.put(call) is None


def sampled(work: Work, share: float) -> list[int]:
    """Rows that a model answered and whose unit is in the sample: always the same units, and others than of any experiment."""
    answered, units = work.answered, work.units or work.keys
    found: list[int] = []
    for row, source in enumerate(answered.sources):
        if source.startswith("fallback:"):
            continue
        unit = units[row] if units is not None else None
        if point(unit or answered.row_id(row), answered.model, "beside") < share:
            found.append(row)
    return found


def _ask(work: Work, writer: BesideWriter, share: float, rows: list[int] | None) -> None:
    answered = work.answered
    rows = sampled(work, share) if rows is None else rows
    if not rows:
        return
    try:
        values = work.beside(rows)
    except Exception as error:  # noqa: BLE001 - the edge to somebody else's code; no caller is hurt
        _log.warning("%s: the fallback failed beside an answer: %s", answered.model, work.told(error))
        return
    if values is None:
        return
    found = said(values, ranking=work.base is not None and work.base.manifest.output.kind == "ranking")
    writer.beside(
        Beside(
            prediction_id=answered.prediction_id,
            rows=rows,
            values=found.numbers or [None] * len(rows),
            labels=found.labels,
            items=found.items,
        )
    )

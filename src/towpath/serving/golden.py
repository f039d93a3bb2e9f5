"""Ready means proven: a version answers its golden cases before it answers anybody else."""

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from towpath.clock import Clock, now_us
from towpath.errors import ModelError, TowpathError
from towpath.gate.golden import GoldenCase, compare_golden, read_golden
from towpath.serving.guard import Call
from towpath.serving.joint import trial_rows
from towpath.serving.served import Served

__all__ = ["golden_cases", "prove", "rehearse"]

_REHEARSAL_S = 5.0
_log = logging.getLogger("towpath.serving")


def golden_cases(folder: Path) -> Sequence[GoldenCase]:
    """The golden cases among the files of a version; none where it has none."""
    path = folder / "golden.jsonl"
    return read_golden(path.read_bytes(), str(path)) if path.is_file() else ()


def prove(served: Served, cases: Sequence[GoldenCase], clock: Clock) -> None:
    """Replay the golden cases of a version.

    A case that names entity keys reads today's features, so its number may differ from the frozen one; of it only an answer
    within the declared output is asked. A case with all of its features must be answered as it was.

    Args:
        served: The version.
        cases: Of `golden_cases`.
        clock: Dates the look-up.

    Raises:
        ModelError: A case was answered wrongly; the text holds the first ones.
    """
    if not cases:
        return
    at_us = now_us(clock)
    answers: list[Any] = []
    errors: dict[int, str] = {}
    asked = [case if served.answered_by_itself(case.request) else replace(case, answer=UNSET) for case in cases]
    for position, case in enumerate(asked):
        answer: Any = None
        try:
            prepared = served.whole(served.from_rows([case.request], at_us))
            known = prepared.missing is None or not any(prepared.missing)
            answer = next(iter(served.loaded.predict(prepared.columns).values())).tolist()[0]
            if not known and case.answer is UNSET:
                answer = (
                    0.0  # features of a key that is not online here: the model ran, and that is all that can be asked
                )
            elif case.answer is UNSET and served.bad_rows([answer]):
                errors[position] = f"{answer!r} is outside the declared output"
        except TowpathError as error:
            errors[position] = error.what
        except Exception as error:  # noqa: BLE001 - the edge to a model, which may raise anything
            errors[position] = f"{type(error).__name__}: {error}"
        answers.append(answer)
    found = compare_golden(asked, answers, errors=errors)
    if not found.passed:
        name = f"{served.manifest.model}@{served.version}"
        raise ModelError(
            f"{name} does not answer {len(found.failures)} of its {found.cases} golden cases: {found.failures[0]}",
            where=f"golden.jsonl of {name}",
            mend="tow rollback, or train again",
        )
    _log.debug("%s@%d answered %d golden cases", served.manifest.model, served.version, found.cases)


def rehearse(served: Served) -> None:
    """Call each fallback function once, so that what it imports at its first call costs no caller an answer.

    What comes of it is not looked at: the gate did that, and the chain goes on without a function that fails.

    Args:
        served: The version, or what stands in for one that could not be loaded.
    """
    names = [link.function for link in served.manifest.fallback if link.function is not None]
    try:
        rows = trial_rows(served) if names else None
    except Exception as error:  # noqa: BLE001 - the edge to what somebody declared
        _log.debug("%s@%d: its fallbacks are not rehearsed: %s", served.manifest.model, served.version, error)
        return
    for name in names if rows else ():
        call = partial(served.loaded.fallback, name, (rows or [])[0])
        found = Call(served.beside_lane, call, 1, time.perf_counter() + _REHEARSAL_S).wait()
        _log.debug("%s@%d: fallback %s rehearsed: %s", served.manifest.model, served.version, name, found.reason)

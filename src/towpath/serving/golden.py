"""Ready means proven: a version answers its golden cases before it answers anybody else."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from towpath.clock import Clock
from towpath.errors import ModelError, TowpathError
from towpath.gate.golden import GoldenCase, compare_golden, read_golden
from towpath.serving.served import Served
from towpath.types import micros

__all__ = ["golden_cases", "prove"]

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
    now_us = micros(clock.now())
    answers: list[Any] = []
    errors: dict[int, str] = {}
    asked = [case if served.answered_by_itself(case.request) else replace(case, answer=UNSET) for case in cases]
    for position, case in enumerate(asked):
        answer: Any = None
        try:
            prepared = served.whole(served.from_rows([case.request], now_us))
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

"""Ready means proven: a version answers its golden cases before it answers anybody else."""

import logging
from pathlib import Path
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from towpath.clock import Clock
from towpath.errors import CallerError, ModelError, TowpathError
from towpath.gate.golden import compare_golden, read_golden
from towpath.serving.served import Served
from towpath.types import micros

__all__ = ["prove"]

_log = logging.getLogger("towpath.serving")


def prove(served: Served, folder: Path, clock: Clock) -> None:
    """Replay the golden cases of a version.

    A case that names entity keys reads today's features, so its number may differ from the frozen one; of it only an answer
    within the declared output is asked. A case with all of its features must be answered as it was.

    Args:
        served: The version.
        folder: Its files.
        clock: Dates the look-up.

    Raises:
        ModelError: A case was answered wrongly; the text holds the first ones.
    """
    path = folder / "golden.jsonl"
    if not path.is_file():
        return
    cases = read_golden(path.read_bytes(), str(path))
    now_us = micros(clock.now())
    answers: list[Any] = []
    errors: dict[int, str] = {}
    asked = [case if served.answered_by_itself(case.request) else replace(case, answer=UNSET) for case in cases]
    for position, case in enumerate(asked):
        answer: Any = None
        try:
            prepared = served.whole(served.from_rows([case.request], now_us))
            known = prepared.missing is None or not any(prepared.missing)
            answer = next(iter(served.model.predict(prepared.columns).values())).tolist()[0]
            if not known and case.answer is UNSET:
                answer = (
                    0.0  # features of a key that is not online here: the model ran, and that is all that can be asked
                )
            elif case.answer is UNSET and served.bad_rows([answer]):
                errors[position] = f"{answer!r} is outside the declared output"
        except (TowpathError, CallerError) as error:
            errors[position] = error.what
        answers.append(answer)
    found = compare_golden(asked, answers, errors=errors)
    if not found.passed:
        name = f"{served.manifest.model}@{served.version}"
        raise ModelError(
            f"{name} does not answer {len(found.failures)} of its {found.cases} golden cases: {found.failures[0]}",
            where=f"golden.jsonl of {name}",
            mend="tow rollback, or train again",
        )
    _log.info("%s@%d answered %d golden cases", served.manifest.model, served.version, found.cases)

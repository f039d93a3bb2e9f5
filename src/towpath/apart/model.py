"""A model in a process of its own: it may crash, hang or leak, and costs the call that was in it."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from numpy.typing import NDArray

from towpath import errors
from towpath.apart.due import due
from towpath.apart.keeper import Keeper
from towpath.apart.process import Process
from towpath.apart.wire import Fault, Message, Opening, Part, arrays_of, parts_of
from towpath.errors import FormatError, ModelError, TowpathError, UnavailableError
from towpath.models.columns import Columns, Matrix, rows_in
from towpath.models.model import Outputs
from towpath.types import OutputKind

__all__ = ["Apart", "DiedError", "LateError"]

_log = logging.getLogger("towpath.apart")
_PROOF_S = 5.0
"""What a call may take that nobody gave a deadline, such as a golden case at load; its own time where that is longer."""
_GOOD_ROWS = 64
"""Rows of the largest question that is kept for a process that comes later."""
_BLAMED_SHARE = 0.9
"""Of its own time; who is given up sooner had an impatient caller, and may finish."""


class DiedError(UnavailableError):
    """The process ended, or was ended, while it answered this very call."""


class LateError(UnavailableError):
    """Its answer was not there in time."""


class Apart:
    """A `Model` whose code runs elsewhere.

    One call at a time is in its process. A second process, with everything but the model itself, waits to take its place, and
    answers the functions of ``model.py`` meanwhile.

    A call that is not answered by the deadline of its thread (`due`) is over: the process is killed where the call had all of the
    model's own time, and may finish where its caller was in a hurry.

    Args:
        opening: What it is.
        python: The interpreter.
        variables: The environment of its process.
        own_s: What a call may take by the model's own declaration; None for as long as it takes.
        memory_mib: Above it the process is ended; None for no limit.
        spare: Whether a second process waits.
        functions: Whether a fallback chain names functions of it.
        prints: Whether what it prints may stand in the log.

    Raises:
        FormatError: Reading it ended the process.
        TowpathError: What `load_version` raises, from there.
    """

    inline = False

    def __init__(
        self,
        opening: Opening,
        *,
        python: str,
        variables: Mapping[str, str],
        own_s: float | None = None,
        memory_mib: int | None = None,
        spare: bool = True,
        functions: bool = False,
        prints: bool = True,
    ) -> None:
        self._name = opening.name
        self._own_s = float("inf") if own_s is None else own_s
        memory_bytes = (memory_mib or 0) << 20
        self._keeper = Keeper(
            lambda: Process(opening, python, variables, memory_bytes=memory_bytes, prints=prints),
            name=opening.name,
            own_s=self._own_s,
            memory_bytes=memory_bytes,
            spare=spare,
            functions=functions,
        )
        try:
            loaded = self._keeper.loaded()
        except BaseException:
            self._keeper.close()
            raise
        for warning in loaded.warnings:
            _log.warning("%s", warning)
        self.signature = loaded.signature
        self.kind: OutputKind = loaded.kind
        self.row_by_row = loaded.row_by_row
        self.format = loaded.format
        self.framework = loaded.framework
        self.unseen: Counter[str] = Counter()
        self._names = tuple(field.name for field in self.signature.inputs)
        self._counting = threading.Lock()

    @property
    def says(self) -> dict[str, Any]:
        """State of its processes, for health: pid, how often it was started again, and what ended the last one."""
        return self._keeper.says

    @property
    def peak_mib(self) -> float:
        """The most memory that the process which answers has used; 0 where nobody can say."""
        return self._keeper.peak_mib

    def predict(self, columns: Columns) -> Outputs:
        """Answer n rows; see `Model.predict`.

        Raises:
            ModelError: The model's code failed.
            DiedError: Its process ended meanwhile.
            UnavailableError: No process is there, or its turn did not come in time.
        """
        return self._asked("predict", "", columns)

    def fallback(self, name: str, columns: Columns) -> NDArray[Any]:
        """Call a function of ``model.py``; see `Model.fallback`."""
        return next(iter(self._asked("fallback", name, columns).values()))

    def close(self) -> None:
        """End its processes; a call that runs ends well, or when its time is over."""
        self._keeper.close()

    def _asked(self, kind: str, name: str, columns: Columns) -> Outputs:
        until = due.until if due.until is not None else time.perf_counter() + max(self._own_s, _PROOF_S)
        if isinstance(columns, Matrix) and columns.names == self._names:
            array = columns.array if columns.array.flags.c_contiguous else columns.array.copy()
            parts, raw, matrix = (Part("", array.dtype.str, array.shape),), [array], True
        else:
            parts, raw = parts_of(columns)
            matrix = False
        process = self._keeper.turn(kind, until)
        try:
            process.question += 1
            asked = Message(kind, process.question, name, matrix, parts)
            answer, body = self._exchanged(process, asked, raw, until)
        finally:
            process.turn.release()
        if answer.fault is not None:
            raise _fault(answer.fault, self._name)
        try:
            outputs = arrays_of(answer.parts, body)
        except FormatError as fault:
            self._keeper.lost(process, f"a damaged answer: {fault.what}")
            raise ModelError(f"{self._name} gave a damaged answer: {fault.what}") from None
        if answer.unseen:
            with self._counting:
                self.unseen.update(answer.unseen)
        if not outputs:
            raise ModelError(f"{self._name} gave no output.")
        if kind == "predict" and self._keeper.good is None and rows_in(columns) <= _GOOD_ROWS:
            self._keeper.good = (asked, raw)
        return outputs

    def _exchanged(
        self, process: Process, asked: Message, raw: list[NDArray[Any]], until: float
    ) -> tuple[Message, bytearray]:
        """Send a question and wait for its answer; whoever spoils the conversation is ended."""
        keeper = self._keeper
        started = time.perf_counter()
        own_s = max(self._own_s, until - started)
        process.until = started + own_s
        try:
            process.channel.send(asked, raw, until)
        except TimeoutError:
            keeper.lost(process, "it did not take its question")
            raise LateError(f"{self._name} was too slow to take its question.") from None
        except OSError:
            raise self._died(process) from None
        process.owed = True
        try:
            answer, body = process.channel.receive(until)
        except TimeoutError:
            took_s = time.perf_counter() - started
            if took_s >= own_s * _BLAMED_SHARE:
                keeper.lost(process, f"no answer after {took_s * 1e3:.0f} ms")
            else:
                keeper.wake()
            raise LateError(f"{self._name} gave no answer in time.") from None
        except (EOFError, OSError):
            raise self._died(process) from None
        except FormatError as fault:
            keeper.lost(process, f"a damaged answer: {fault.what}")
            raise ModelError(f"{self._name} gave a damaged answer: {fault.what}") from None
        process.owed = False
        process.until = float("inf")
        if answer.number != asked.number or answer.kind not in {"ok", "fault"}:
            keeper.lost(process, "an answer to another question")
            raise ModelError(f"{self._name} answered another question than it was asked.")
        return answer, body

    def _died(self, process: Process) -> DiedError:
        why = self._keeper.lost(process)
        return DiedError(f"The process of {self._name} ended while it answered: {why}.")


def _fault(fault: Fault, name: str) -> TowpathError:
    """The same error here; what is not one of ours is the model's."""
    kind: Any = getattr(errors, fault.kind, None)
    known = isinstance(kind, type) and issubclass(kind, TowpathError) and not issubclass(kind, UnavailableError)
    made: type[TowpathError] = cast("type[TowpathError]", kind) if known else ModelError
    what = fault.what if fault.what.startswith(name) else f"{name}: {fault.what}"
    return made(what, fault.where, fault.mend)

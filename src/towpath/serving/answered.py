"""What is asked, whatever the transport, and what became of it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from towpath.errors import ModelError, OverloadedError, RetryError, TowpathError, UnavailableError
from towpath.features.on_demand import Fault
from towpath.serving.answer import Answer, AnswerRow
from towpath.serving.served import Columns
from towpath.types import Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NOTHING", "OK", "Answered", "Ask"]

OK: Reason = "ok"
NOTHING = "fallback:none"
"""The source of a row that nobody could answer."""


class Ask(NamedTuple):
    """One request: JSON rows, or columns."""

    rows: Sequence[Mapping[str, Any]] | None = None
    columns: Columns | None = None
    rows_count: int = 0
    """Rows of `columns`."""
    consumer: str = "local"
    request_id: str = ""
    protocol: str = "http"
    timeout_s: float | None = None
    """The caller's own deadline; infinity for none."""
    run_id: str | None = None
    at_us: int | None = None
    """The moment of prediction, where it is not now."""
    with_fallback: bool = False
    """Whether the first fallback is asked too and kept beside each answer."""
    version: int | None = None
    """One version by number instead of whoever the policy picks."""
    held: bool = False
    """Whether its record may wait for `Responder.write_held`, which whoever asks calls before the answer goes out."""
    trace: tuple[tuple[str, str], ...] = ()
    """W3C trace context for whoever is asked in turn, as headers; empty where nobody traces."""
    since_s: float | None = None
    """When the event loop saw it, of `time.perf_counter`; now unless given. What the deadline is counted from."""


class Answered:
    """What became of the rows: one list per column."""

    __slots__ = (
        "arms", "beside", "count", "extras", "faults", "joined_rows", "latency_ms", "missing", "model", "outputs", "prediction_id", "predictions",
        "problem", "reasons", "request_id", "sources", "versions",
    )  # fmt: skip

    def __init__(self, model: str, request_id: str, prediction_id: str, count: int) -> None:
        self.model = model
        self.request_id = request_id
        self.prediction_id = prediction_id
        """Of the first row; row ``i`` is ``<prediction_id>-<i>`` where there are several."""
        self.count = count
        self.predictions: list[Any] = [None] * count
        self.sources: list[str] = [NOTHING] * count
        self.reasons: list[Reason] = [OK] * count
        self.versions: list[int | None] = [None] * count
        self.arms: list[str | None] = [None] * count
        self.missing: Sequence[tuple[str, ...]] | None = None
        self.extras: list[dict[str, Any] | None] | None = None
        """Everything else that the model gave, per row."""
        self.outputs: dict[str, NDArray[Any]] | None = None
        """The model's arrays, where one call answered all rows and none was wrong."""
        self.beside: list[Any] | None = None
        """What the first fallback would have answered, where it was asked; null where it may not be given as an answer."""
        self.latency_ms = 0.0
        self.joined_rows = 0
        """Rows of the call that this request led, with those of other requests; 0 where requests are not joined, or another led."""
        self.faults: Sequence[Fault] = ()
        """What went wrong in on-demand features."""
        self.problem: BaseException | None = None
        """The last fault; what a caller is told where no row has an answer."""

    @property
    def unanswered(self) -> bool:
        """Whether not one row has an answer."""
        return self.count > 0 and self.sources.count(NOTHING) == self.count

    def row_id(self, row: int) -> str:
        """The id of one row's prediction."""
        return self.prediction_id if self.count == 1 else f"{self.prediction_id}-{row}"

    def answer(self) -> Answer:
        """The answer as callers of ``/predict`` see it."""
        missing, extras = self.missing, self.extras
        return Answer(
            model=self.model,
            request_id=self.request_id,
            predictions=tuple(
                AnswerRow(
                    prediction=self.predictions[row],
                    output=None if extras is None else extras[row],
                    prediction_id=self.row_id(row),
                    version=self.versions[row],
                    arm=self.arms[row],
                    source=self.sources[row],
                    reason=self.reasons[row],
                    missing=() if missing is None else missing[row],
                )
                for row in range(self.count)
            ),
        )

    def error(self) -> TowpathError:
        """What to tell a caller whose rows have no answer at all."""
        reason = self.reasons[0]
        what = f"'{self.model}' has no answer ({reason}), and no fallback is declared that could give one."
        mend = "try again; the owner declares a [[fallback]] in model.toml"
        again_s = self.problem.retry_after_s if isinstance(self.problem, RetryError) else 1.0
        if reason == "overloaded":
            return OverloadedError(what, mend=mend, retry_after_s=again_s)
        if reason == "wrong":
            return ModelError(what, mend=mend)
        return UnavailableError(what, mend=mend, retry_after_s=again_s)

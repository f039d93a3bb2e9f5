"""What a caller gets; looser than what a server writes, so that a newer server is still understood."""

from collections.abc import Iterator
from typing import Any

import msgspec

__all__ = ["Answer", "Prediction", "PushAnswer", "RefusedRow", "Said"]


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one row."""

    prediction: Any
    """A number, a class, a list; null only where even the fallback had nothing to say."""
    output: Any = None
    """Everything else that the model gave: probabilities, quantiles, items."""
    prediction_id: str
    """Names this prediction in the journal and in outcomes."""
    version: int | None = None
    """Of the model that answered; none for a fallback that has none."""
    arm: str | None = None
    """Of the traffic policy, where the unit was assigned to one."""
    source: str
    """``champion``, ``challenger`` or ``fallback:<name>``."""
    reason: str
    """Why this source answered; ``ok`` where nothing is wrong."""
    missing: tuple[str, ...] = ()
    """Features that had no value, or only one that had expired."""

    @property
    def by_model(self) -> bool:
        """Whether a model answered, and no fallback.

        Example:
            >>> Prediction(prediction=0.0, prediction_id="a1", source="fallback:zero", reason="slow").by_model
            False
        """
        return not self.source.startswith("fallback:")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to several rows: a sequence of `Prediction` in the order asked."""

    model: str
    """Whose answer it is."""
    request_id: str
    """The same in the server's log and journal."""
    predictions: tuple[Prediction, ...]
    """One for each row."""

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    def __getitem__(self, row: int) -> Prediction:
        return self.predictions[row]


class RefusedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A pushed row that was not kept."""

    row: int
    """Its number in the call, from 0."""
    error: str
    """What is wrong, with the column and the value."""


class PushAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of pushed rows."""

    view: str
    """``project/view``."""
    accepted: int
    """Rows that are new: they are on the server's disk and online."""
    unchanged: int = 0
    """Rows that stood online already."""
    refused: int = 0
    """Rows that do not fit the view."""
    problems: tuple[RefusedRow, ...] = ()
    """The first hundred of them."""
    without: tuple[str, ...] = ()
    """Columns of older forms of the view that are still kept up, and that rows do not have any more."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says where it gives no answer; a proxy in between says something else, and then all is empty."""

    error: str = ""
    """What is wrong."""
    code: str = ""
    """One of the closed list of codes."""
    mend: str = ""
    """How to mend it."""

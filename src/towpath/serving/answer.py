"""The answer of one row, as callers see it."""

from typing import Any

import msgspec

from towpath.types import Reason

__all__ = ["Answer", "AnswerRow", "WireError"]


class AnswerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``POST /predict/<model>``."""

    prediction: Any
    """A number, a class, a list; null only where even the fallback had nothing to say."""
    output: Any = None
    """Everything else that the model gave: probabilities, quantiles, items."""
    prediction_id: str
    """Names this prediction in the journal and in outcomes."""
    version: int | None
    """Of the model that answered; null for a fallback that has none."""
    arm: str | None = None
    """Of the traffic policy, where the unit was assigned to one."""
    source: str
    """``champion``, ``challenger`` or ``fallback:<name>``."""
    reason: Reason
    """Why this source answered."""
    missing: tuple[str, ...] = ()
    """Features that had no value, or only one that had expired."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    model: str
    """Whose answer it is."""
    request_id: str
    """The caller's own ``X-Request-Id``, or one that was made."""
    predictions: tuple[AnswerRow, ...]
    """One for each row, in the order asked."""


class WireError(msgspec.Struct, frozen=True, kw_only=True):
    """What goes over the wire when there is no answer."""

    error: str
    """What is wrong, with the field and the value."""
    code: str
    """One of the closed list of codes; what programs look at."""
    mend: str = ""
    """How to mend it."""

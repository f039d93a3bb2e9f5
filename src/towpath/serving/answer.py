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
    version: int | None
    """Of the model that answered; null for a fallback that has none."""
    arm: str | None = None
    source: str
    """``champion``, ``challenger`` or ``fallback:<name>``."""
    reason: Reason
    missing: tuple[str, ...] = ()
    """Features that had no value, or only one that had expired."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    model: str
    request_id: str
    predictions: tuple[AnswerRow, ...]


class WireError(msgspec.Struct, frozen=True, kw_only=True):
    """What goes over the wire when there is no answer."""

    error: str
    code: str
    mend: str = ""

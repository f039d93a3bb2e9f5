"""The log of a model: create-only entries, each with the whole state after it."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from towpath.types import Digest

__all__ = ["SCHEMA", "Challenger", "Event", "Follows", "Kill", "LogEntry", "TrafficState"]

SCHEMA = 1

Share = Annotated[float, Meta(ge=0, le=1)]


class Challenger(msgspec.Struct, frozen=True, kw_only=True):
    """A version that gets a share of the units."""

    version: int
    arm: str
    share: Share


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """A switch that sends matching rows to the fallback; a field that is null matches everything."""

    because: str
    by: str
    at: datetime
    version: int | None = None
    consumer: str | None = None
    segment: str | None = None


class TrafficState(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers whom."""

    champion: int | None = None
    previous: int | None = None
    """The champion before; what ``rollback`` returns to."""
    challengers: tuple[Challenger, ...] = ()
    shadows: tuple[int, ...] = ()
    holdout_share: Share = 0.0
    rules: tuple[dict[str, str | int | float], ...] = ()
    kills: tuple[Kill, ...] = ()
    retired: bool = False
    salt: str = ""
    """Of the two hashes of the unit."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What happened: who, when, why."""

    kind: str
    """``promoted rolled_back traffic_changed killed revived retired``; a later release may write others, and a server
    that does not know them still follows `state`."""
    id: str = ""
    """Of this one attempt, so that a writer whose acknowledgement was lost knows its own entry again."""
    at: datetime
    by: str
    because: str = ""
    version: int | None = None
    verdict: str | None = None
    """Path of the verdict that allowed it."""
    override: bool = False
    """Promoted without a passing verdict; visible for ever."""


class Follows(msgspec.Struct, frozen=True, kw_only=True):
    """The entry that the decision was made on."""

    revision: int
    digest: Digest


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """``models/<name>/log/000042.json``; the highest number is current, there is no other state."""

    schema: int = SCHEMA
    project: str
    team: str
    model: str
    revision: int
    follows: Follows | None = None
    event: Event
    state: TrafficState

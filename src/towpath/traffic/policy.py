"""The traffic policy of a model, compiled once for each revision and asked once for each row."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from towpath.traffic.assignment import point

if TYPE_CHECKING:
    from towpath.registry.log import Kill, TrafficState
    from towpath.types import Reason

__all__ = ["CHAMPION", "Policy", "Route"]


class Route(NamedTuple):
    """Who shall answer one row."""

    version: int | None
    """None where no model may answer and the fallback does."""
    source: str
    """``champion`` or ``challenger``; what a fallback is called is known only when it has answered."""
    arm: str | None
    reason: "Reason"
    """``ok``, or why no model may answer: ``killed``, ``holdout``, ``down``."""


CHAMPION = "champion"
CHALLENGER = "challenger"


class Policy:
    """One `TrafficState`, ready to be asked.

    Args:
        state: The state after the newest entry of the model's log.
        model: Its name; salts the hashes where the state has no salt of its own.

    Example:
        >>> from towpath.registry.log import TrafficState
        >>> policy = Policy(TrafficState(champion=3, holdout_share=1.0), "demand")
        >>> policy.route("any", "local", None).reason
        'holdout'
    """

    def __init__(self, state: "TrafficState", model: str) -> None:
        self.state = state
        self._salt = state.salt or model
        self._champion = Route(state.champion, CHAMPION, None, "ok")
        self._holdout = Route(None, CHAMPION, "holdout", "holdout")
        self._included_share = min(1.0, sum(c.share for c in state.challengers))
        self._kills_by_segment = any(kill.segment is not None for kill in state.kills)
        self.same_for_all: Route | None = self._for_all()
        """The route of every row, where the state asks neither for the unit nor for consumer or segment."""

    @property
    def needs_segment(self) -> bool:
        """Whether a kill switch looks at segments."""
        return self._kills_by_segment

    def route(self, unit: str, consumer: str, segment: Mapping[str, str] | None) -> Route:
        """Say who shall answer a row.

        Args:
            unit: What is assigned: the entity key, or the row's unit.
            consumer: Who calls.
            segment: Segment column → value, for kill switches that name one (``price_band=low``).
        """
        if self.same_for_all is not None:
            return self.same_for_all
        state = self.state
        if state.holdout_share and point(unit, self._salt, "holdout") < state.holdout_share:
            return self._holdout
        route = self._arm(unit)
        for kill in state.kills:
            if _matches(kill, route.version, consumer, segment):
                return Route(None, route.source, route.arm, "killed")
        return route

    def killed(self, version: int) -> bool:
        """Whether a version is switched off for everybody, so that no chain may ask it either."""
        return any(k.version == version and k.consumer is None and k.segment is None for k in self.state.kills)

    def _arm(self, unit: str) -> Route:
        """The challengers' stretches lie side by side on the arm axis, each as wide as its part of their sum."""
        challengers = self.state.challengers
        if not challengers or point(unit, self._salt, "inclusion") >= self._included_share:
            return self._champion
        place = point(unit, self._salt, "arm") * sum(c.share for c in challengers)
        for challenger in challengers:
            place -= challenger.share
            if place < 0:
                return Route(challenger.version, CHALLENGER, challenger.arm, "ok")
        last = challengers[-1]
        return Route(last.version, CHALLENGER, last.arm, "ok")

    def _for_all(self) -> Route | None:
        state = self.state
        if any(_matches(kill, state.champion, None, None) and kill.version is None for kill in state.kills):
            return Route(None, CHAMPION, None, "killed")
        if state.kills or state.challengers or state.holdout_share:
            return None
        if state.retired or state.champion is None:
            return Route(None, CHAMPION, None, "down")
        return self._champion


def _matches(kill: "Kill", version: int | None, consumer: str | None, segment: Mapping[str, str] | None) -> bool:
    if kill.version is not None and kill.version != version:
        return False
    if kill.consumer is not None and kill.consumer != consumer:
        return False
    if kill.segment is None:
        return True
    column, _, value = kill.segment.partition("=")
    return segment is not None and segment.get(column) == value

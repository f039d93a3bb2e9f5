"""What happens in the demo, day by day, as data: whoever drives it reads this list and does what it says."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from towpath.types import utc

__all__ = ["STORY", "Event", "Story"]


@dataclass(frozen=True)
class Event:
    """One thing that happens on one simulated day."""

    day: int
    """0 is the day on which the model is promoted."""
    kind: Literal["kill", "silence", "new_items", "cents", "retrain"]
    """``kill``: the model is killed for the second half of the day's calls, then revived. ``silence``: nobody calls.
    ``new_items``: the caller asks for items that were listed this morning. ``cents``: the price list comes in cents and is
    mended the day after. ``retrain``: a new version is trained and judged."""
    because: str
    """For the log and the screen."""


@dataclass(frozen=True)
class Story:
    """A simulated stretch of time.

    Example:
        >>> STORY.morning(0).isoformat(), STORY.until.isoformat()
        ('2026-04-13T06:00:00+00:00', '2026-04-29')
        >>> [event.kind for event in STORY.on(3)]
        ['new_items']
    """

    history_since: date
    """First day of the warehouse."""
    start: date
    """Day 0; the warehouse holds the days before it when the model is trained."""
    days: int
    """How many days pass."""
    events: tuple[Event, ...]
    """In the order of their days."""

    @property
    def until(self) -> date:
        """The first day that is not simulated."""
        return self.start + timedelta(days=self.days)

    def day(self, number: int) -> date:
        """The date of a day by its number."""
        return self.start + timedelta(days=number)

    def morning(self, number: int) -> datetime:
        """When the ordering service calls on that day: six o'clock UTC, the moment of prediction."""
        return utc(f"{self.day(number).isoformat()}T06:00:00")

    def on(self, number: int) -> tuple[Event, ...]:
        """What happens on that day."""
        return tuple(event for event in self.events if event.day == number)

    @property
    def cents_on(self) -> frozenset[date]:
        """Days whose price list arrives in cents."""
        return frozenset(self.day(event.day) for event in self.events if event.kind == "cents")


STORY = Story(
    history_since=date(2025, 3, 10),
    start=date(2026, 4, 13),
    days=16,
    events=(
        Event(2, "kill", "a merchant saw odd numbers and wanted the recent mean for the afternoon"),
        Event(3, "new_items", "three items were listed this morning and have no past"),
        Event(5, "silence", "the ordering service was down for a day"),
        Event(8, "cents", "pricing exported cents where euros belong"),
        Event(10, "retrain", "ten days of new labels"),
    ),
)
"""Each event leaves a trace: fallbacks with reason ``killed`` and ``features``, an incident of ``did_it_run`` that opens on
day 5 and closes on day 6, one of ``price_list`` on days 8 and 9, and a second verdict."""

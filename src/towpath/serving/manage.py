"""Management over the wire: who may, and what it writes into the log of a running fleet: kill, revive, load, unload."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from towpath.clock import Clock
from towpath.errors import ForbiddenError, InputError, UnavailableError, UnknownError, nearest
from towpath.registry import history, versions
from towpath.registry.log import Event, TrafficState
from towpath.serving.deployment import Deployment
from towpath.stores.objects import Objects
from towpath.traffic import Consumers

__all__ = ["Manager", "ManagerDoor", "Switch", "Switched", "no_manager"]


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of ``POST /kill/<model>`` and ``POST /revive/<model>``; what is left out is not narrowed."""

    because: Annotated[str, Meta(max_length=1_000)] = ""
    """Why; kept for ever. A kill needs it."""
    version: Annotated[int, Meta(ge=1)] | None = None
    """Only this one."""
    consumer: str | None = None
    """Only for this caller."""
    segment: str | None = None
    """Only for this one, ``column=value``: for rows in which the caller says so."""


class Switched(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``POST /kill/<model>`` and ``POST /revive/<model>``; this worker has followed, the others do within ``poll_ms``."""

    model: str
    """Whose log it stands in."""
    revision: int
    """Of that log."""
    by: str
    """The consumer whose key it was."""
    kills: tuple[dict[str, Any], ...]
    """The switches that are on now."""


class ManagerDoor:
    """Says who may manage: a key with the scope, or on loopback anybody while there are no keys.

    Args:
        consumers: Knows keys.
        loopback: Whether the server can be reached from this machine only.
    """

    def __init__(self, consumers: Consumers, *, loopback: bool) -> None:
        self._consumers = consumers
        self._loopback = loopback

    def admit(self, authorization: bytes | None, model: str, *, from_page: bool = False) -> str:
        """Let in whoever may manage a model.

        Args:
            authorization: The header's value, or none.
            model: Which one.
            from_page: Whether a browser says that a page of some site sends this; without keys such pages stay out.

        Returns:
            The consumer's name, for the record.

        Raises:
            DeniedError: Keys are asked for and this is none.
            ForbiddenError: The key has not the scope ``manage``; or there are no keys and the server is open beyond loopback.
        """
        if not self._consumers.keyed and (from_page or not self._loopback):
            raise ForbiddenError(
                "Without keys models are managed from this machine only.",
                mend="tow consumers add operator --scope manage",
            )
        return self._consumers.admit(authorization, "manage", model).name


class Manager:
    """Kills and revives in the registry's log, as ``tow kill`` and ``tow revive`` do.

    Args:
        objects: The fleet's store.
        clock: Dates entries.
        follow: Reads the log again, so that this worker has followed before the caller hears of it.
    """

    def __init__(self, objects: Objects, clock: Clock, follow: Callable[[], None]) -> None:
        self._objects = objects
        self._clock = clock
        self._follow = follow

    def kill(self, deployment: Deployment, body: bytes, *, by: str) -> Switched:
        """Send rows to the fallback; may block.

        Raises:
            InputError: The body is wrong, or gives no reason.
            UnknownError: No such version or segment: a switch that matches nothing stops nobody.
        """
        switch = _read(body)
        if not switch.because.strip():
            raise InputError("Field 'because' is missing: a kill says why.", mend='{"because": "wrong prices"}')
        numbers = versions.versions(self._objects, deployment.model)
        if switch.version is not None and switch.version not in numbers:
            raise UnknownError(
                f"There is no version {deployment.model}@{switch.version}; there are: {', '.join(map(str, numbers)) or 'none'}."
            )
        column, equals, value = (switch.segment or "").partition("=")
        columns = {name for served in deployment.versions.values() for name in served.manifest.segments}
        if switch.segment is not None and (column not in columns or not equals or not value):
            raise UnknownError(
                f"'{switch.segment}' is no segment of '{deployment.model}'{nearest(column, columns)}",
                mend='{"segment": "column=value"}',
            )
        return self._done(history.kill, deployment.model, switch, by)

    def revive(self, deployment: Deployment, body: bytes, *, by: str) -> Switched:
        """Take kill switches back, all or those that are named; may block.

        Raises:
            InputError: The body is wrong.
        """
        return self._done(history.revive, deployment.model, _read(body), by)

    def write(
        self, model: str, kind: str, change: Callable[[TrafficState], TrafficState], *, by: str, because: str
    ) -> None:
        """Add an entry that is right whatever landed since, and follow it here; may block.

        Args:
            model: Whose log.
            kind: Of the event.
            change: The state before → the state after.
            by: Whose key it was.
            because: Why.
        """
        event = Event(kind=kind, at=self.now(), by=by, because=because)
        history.append(self._objects, model, event, change, on=0, commutes=True)
        self._follow()

    def now(self) -> datetime:
        """What entries are dated with."""
        return self._clock.now()

    def _done(self, change: Callable[..., Any], model: str, switch: Switch, by: str) -> Switched:
        entry = change(
            self._objects,
            model,
            by=by,
            because=switch.because,
            clock=self._clock,
            version=switch.version,
            consumer=switch.consumer,
            segment=switch.segment,
        )
        self._follow()
        return Switched(
            model=model,
            revision=entry.revision,
            by=by,
            kills=tuple(msgspec.structs.asdict(kill) for kill in entry.state.kills),
        )


def no_manager() -> UnavailableError:
    """What a server of one bare file says."""
    return UnavailableError("A bare file has no log to write to.", mend="serve a project or a store: tow serve")


def _read(body: bytes) -> Switch:
    try:
        return msgspec.json.decode(body or b"{}", type=Switch)
    except msgspec.DecodeError as error:
        raise InputError(f"The body does not fit: {error}", mend='{"because": "wrong prices"}') from None

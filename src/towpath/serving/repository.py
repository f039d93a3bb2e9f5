"""The repository of the protocol: which versions there are; load and unload, remembered by the log like a kill.

The log is the truth, for all servers of the fleet. To *unload* a model is to send its rows to its fallback, recorded by whose key
it was; what was loaded stays in memory, as at a kill, so that the way back is instant. To *load* takes that back, and a version that
could not be loaded is tried again by every server. What a person killed for a reason, only `revive` brings back.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from towpath.errors import ConflictError, InputError, UnavailableError
from towpath.registry.log import Kill, TrafficState
from towpath.serving.deployment import Deployment
from towpath.serving.manage import Manager, ManagerDoor, no_manager

__all__ = ["Repository", "unloaded"]

_UNLOADED = "unloaded over /v2/repository"
"""Why the kill switch is on; by it `load` knows its own."""
_IGNORED = frozenset({"unload_dependents"})
"""Parameters that change nothing here: no model depends on another one being loaded."""


class Repository:
    """Index, load and unload.

    Args:
        door: Says who may.
        manager: Writes the log; none where a bare file is served.
    """

    def __init__(self, door: ManagerDoor, manager: Manager | None) -> None:
        self._door = door
        self._manager = manager

    @staticmethod
    def index(deployments: Iterable[Deployment], *, only_ready: bool = False) -> list[dict[str, str]]:
        """One entry for each version that is loaded, and one for a model of which none is."""
        found: list[dict[str, str]] = []
        for one in deployments:
            off = _off(one.policy.state)
            for number, served in sorted(one.versions.items()):
                circuit = f"circuit {served.breaker.state}: {served.breaker.why}"
                closed = served.breaker.state == "closed"
                reason = off or ("killed" if one.policy.killed(number) else "" if closed else circuit)
                found.append(_entry(one.model, str(number), reason))
            champion = one.policy.state.champion
            if one.champion is None:
                found.append(_entry(one.model, "" if champion is None else str(champion), one.problem or "no champion"))
        return [entry for entry in found if not only_ready or entry["state"] == "READY"]

    def admit(self, authorization: bytes | None, model: str, *, from_page: bool = False) -> str:
        """Let in whoever may load and unload; see `ManagerDoor.admit`."""
        return self._door.admit(authorization, model, from_page=from_page)

    def load(self, deployment: Deployment, parameters: Mapping[str, Any], *, by: str) -> None:
        """Let a model answer again, and try again what could not be loaded, beside the requests; may block.

        Args:
            deployment: Of the model.
            parameters: Of the request; nothing can be changed on the way.
            by: Whose key it was.

        Raises:
            InputError: A parameter would change what is loaded.
            ConflictError: Somebody killed it for another reason.
            UnavailableError: A bare file that cannot answer.
        """
        _refuse(parameters)
        state = deployment.policy.state
        killed = next((kill for kill in state.kills if _whole(kill) and kill.because != _UNLOADED), None)
        if killed is not None:
            raise ConflictError(
                f"'{deployment.model}' was killed by {killed.by}: {killed.because}",
                mend=f"POST /revive/{deployment.model}, or tow revive {deployment.model}",
            )
        if not _off(state) and deployment.champion is not None:
            return
        if self._manager is None:
            raise UnavailableError(f"'{deployment.model}' cannot answer: {deployment.problem}", mend="serve it anew")

        def change(before: TrafficState) -> TrafficState:
            return msgspec.structs.replace(
                before, kills=tuple(kill for kill in before.kills if kill.because != _UNLOADED)
            )

        self._manager.write(deployment.model, "loaded", change, by=by, because="loaded over /v2/repository")

    def unload(self, deployment: Deployment, parameters: Mapping[str, Any], *, by: str) -> None:
        """Send a model's rows to its fallback; may block.

        Args:
            deployment: Of the model.
            parameters: Of the request.
            by: Whose key it was.

        Raises:
            InputError: A parameter that is not known.
            UnavailableError: A bare file, which has no log.
        """
        _refuse(parameters)
        if self._manager is None:
            raise no_manager()
        if _off(deployment.policy.state):
            return

        def change(before: TrafficState) -> TrafficState:
            if _off(before):  # somebody was quicker
                return before
            return msgspec.structs.replace(before, kills=(*before.kills, switch))

        switch = Kill(because=_UNLOADED, by=by, at=self._manager.now())
        self._manager.write(deployment.model, "unloaded", change, by=by, because=_UNLOADED)


def unloaded(deployment: Deployment) -> bool:
    """Whether somebody unloaded the model, and nobody loaded it since."""
    return any(kill.because == _UNLOADED for kill in deployment.policy.state.kills)


def _entry(model: str, version: str, reason: str) -> dict[str, str]:
    return {"name": model, "version": version, "state": "UNAVAILABLE" if reason else "READY", "reason": reason}


def _whole(kill: Kill) -> bool:
    return kill.version is None and kill.consumer is None and kill.segment is None


def _off(state: TrafficState) -> str:
    """Why the whole model is switched off; empty where it is not."""
    why = next((kill for kill in state.kills if _whole(kill)), None)
    if why is not None:
        return "unloaded" if why.because == _UNLOADED else f"killed: {why.because}"
    return "retired" if state.retired else ""


def _refuse(parameters: Mapping[str, Any]) -> None:
    for name in parameters:
        if name not in _IGNORED:
            raise InputError(
                f"The parameter '{name[:60]}' is not taken: a version is served as it was signed.",
                mend="publish another version, and leave the parameter out",
            )

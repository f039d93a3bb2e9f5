"""Which models are served, kept in step with the registry log of an object store."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from towpath.clock import Clock
from towpath.errors import TowpathError, UnavailableError
from towpath.models import load_on_demand, load_version
from towpath.models.manifest import Manifest
from towpath.registry import history, versions
from towpath.registry.log import LogEntry, TrafficState
from towpath.registry.signing import Trusted
from towpath.serving.deployment import Deployment
from towpath.serving.golden import prove
from towpath.serving.served import Reader, Served
from towpath.stores.objects import Objects
from towpath.traffic import Policy

__all__ = ["Fixed", "StoreDeployments"]

_GRACE_S = 2.0
"""Beyond the deadline of the last request that a replaced version may still answer."""
_log = logging.getLogger("towpath.serving")


class Fixed:
    """Deployments that never change: those of a bare file."""

    def __init__(self, *deployments: Deployment) -> None:
        self.live: Mapping[str, Deployment] = {one.model: one for one in deployments}


class StoreDeployments:
    """The models of one object store; needs neither project nor catalog nor warehouse.

    A new version is loaded beside the old one, answers its golden cases, and is swapped in by one assignment, between two
    requests. The champion before stays warm, so that a rollback is instant; what else was replaced is let go once nobody can
    still be calling it.

    Args:
        objects: The fleet's store.
        cache: Folder for the files of versions.
        trusted: Whose signatures count.
        open_reader: Opens the online features of a version.
        clock: Dates look-ups in golden cases.
        only: Names of the models to serve; all unless given.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        cache: Path,
        trusted: Trusted,
        open_reader: Callable[[Manifest], Reader],
        clock: Clock,
        only: Sequence[str] = (),
    ) -> None:
        self._objects = objects
        self._cache = cache
        self._trusted = trusted
        self._open_reader = open_reader
        self._clock = clock
        self._only = frozenset(only)
        self._retiring: list[tuple[float, Served]] = []
        self.live: Mapping[str, Deployment] = {}
        """Model → deployment; replaced as a whole."""

    def poll(self) -> list[str]:
        """Look for new log entries and follow them.

        Returns:
            The models that changed.

        Raises:
            UnavailableError: The store cannot be read; what is served stays.
        """
        self._let_go()
        names = [name for name in self._objects.folders("models/") if not self._only or name in self._only]
        changed: list[str] = []
        for name in names:
            standing = self.live.get(name)
            # one question per model, whatever the length of its log: is there an entry after the one we know?
            if standing is not None and not self._objects.exists(_entry_path(name, standing.revision + 1)):
                continue
            entry = history.current(self._objects, name)
            if entry is None:
                continue
            self._follow(entry, standing)
            changed.append(name)
        return changed

    def close(self) -> None:
        """Let go of all models."""
        for deployment in self.live.values():
            for served in deployment.versions.values():
                _close(served)
        for _, served in self._retiring:
            _close(served)

    def _follow(self, entry: LogEntry, standing: Deployment | None) -> None:
        state = entry.state
        loaded: dict[int, Served] = {}
        problem = ""
        champion: Manifest | None = None
        warm = dict(standing.versions) if standing is not None else {}
        for number in _wanted(state):
            try:
                manifest, served = self._version(entry.model, number, warm)
            except UnavailableError:
                raise
            except TowpathError as error:
                problem = problem or error.what
                _log.error("%s@%d is not served: %s", entry.model, number, error)
                continue
            if number == state.champion:
                champion = manifest
            if served is not None:
                loaded[number] = served
        if champion is not None:
            for link in champion.fallback:
                if isinstance(link.version, int) and link.version not in loaded:
                    loaded |= self._beside(entry.model, link.version, warm)
        chain = champion.fallback if champion is not None else (standing.chain if standing is not None else ())
        deployment = Deployment(
            model=entry.model,
            project=entry.project,
            team=entry.team,
            tier=champion.tier if champion is not None else "standard",
            policy=Policy(state, entry.model),
            versions=loaded,
            chain=chain,
            revision=entry.revision,
            problem=problem,
        )
        self.live = {**self.live, entry.model: deployment}
        now_s = time.monotonic()
        self._retiring += [(now_s + s.timeout_s + _GRACE_S, s) for n, s in warm.items() if n not in loaded]
        _log.info("%s: revision %d, champion %s", entry.model, entry.revision, state.champion)

    def _let_go(self) -> None:
        """Close what was replaced so long ago that no request can still be at it."""
        now_s = time.monotonic()
        for _, served in [pair for pair in self._retiring if pair[0] < now_s]:
            _close(served)
        self._retiring = [pair for pair in self._retiring if pair[0] >= now_s]

    def _version(self, model: str, number: int, warm: Mapping[int, Served]) -> tuple[Manifest, Served | None]:
        """The manifest, and the version loaded and proven; without it where only loading failed, so that its chain answers."""
        known = warm.get(number)
        if known is not None:
            return known.manifest, known
        manifest = versions.manifest(self._objects, model, number, self._trusted)
        try:
            folder = versions.fetch(self._objects, manifest, self._cache)
            reader = self._open_reader(manifest) if manifest.features else None
            loaded, functions = load_version(manifest, folder), load_on_demand(manifest, folder)
            served = Served(manifest, loaded, reader=reader, functions=functions)
            prove(served, folder, self._clock)
        except UnavailableError:
            raise
        except TowpathError as error:
            _log.error("%s@%d cannot answer, its fallback does: %s", model, number, error)
            return manifest, None
        return manifest, served

    def _beside(self, model: str, number: int, warm: Mapping[int, Served]) -> dict[int, Served]:
        try:
            _, served = self._version(model, number, warm)
        except TowpathError as error:
            _log.error("%s@%d cannot be its fallback: %s", model, number, error)
            return {}
        return {} if served is None else {number: served}


def _wanted(state: TrafficState) -> list[int]:
    numbers = [state.champion, *[c.version for c in state.challengers], *state.shadows, state.previous]
    return list(dict.fromkeys(number for number in numbers if number is not None))


def _entry_path(model: str, revision: int) -> str:
    return f"models/{model}/log/{revision:06d}.json"


def _close(served: Served) -> None:
    served.close_lanes()
    served.model.close()

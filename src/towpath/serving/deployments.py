"""Which models are served, kept in step with the registry log of an object store."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from towpath.apart import open_version
from towpath.clock import Clock
from towpath.errors import TowpathError, UnavailableError
from towpath.models import Model, left_of_on_demand, load_functions, load_on_demand
from towpath.models.manifest import Manifest
from towpath.project.circles import circle_from
from towpath.registry import history, versions
from towpath.registry.log import LogEntry, TrafficState
from towpath.registry.signing import Trusted
from towpath.serving.deployment import Deployment, kept_seconds, own_seconds
from towpath.serving.golden import golden_cases, prove, rehearse
from towpath.serving.heap import Heap
from towpath.serving.joint import rows_worth_joining
from towpath.serving.last import LastAnswers, SharedAnswers
from towpath.serving.served import Reader, Served
from towpath.stores.objects import Objects
from towpath.traffic import Policy

if TYPE_CHECKING:
    from towpath.project.declarations import FallbackDeclaration

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
    still be calling it. A kill switch does not wait for a version that loads: it is obeyed at once.

    Args:
        objects: The fleet's store.
        cache: Folder for the files of versions.
        trusted: Whose signatures count.
        open_reader: Opens the online features of a version.
        clock: Dates look-ups in golden cases.
        only: Names of the models to serve; all unless given. Those that their chains ask are served, too.
        spare: Whether a model in a process of its own has a second one that waits to take over.
        heap: Told when versions come and go; none where nobody's answers wait for the collector.
        shared: Folder that the workers of one server share, for the last answers to keys; none where there is one worker.
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
        spare: bool = True,
        heap: Heap | None = None,
        shared: Path | None = None,
    ) -> None:
        self._spare = spare
        self._shared = shared
        self._heap = heap
        self._objects = objects
        self._cache = cache
        self._trusted = trusted
        self._open_reader = open_reader
        self._clock = clock
        self._only = frozenset(only)
        self._retiring: list[tuple[float, Served]] = []
        self._seen: dict[str, LogEntry] = {}
        self._loading: threading.Thread | None = None
        self._changing = threading.Lock()
        self.live: Mapping[str, Deployment] = {}
        """Model → deployment; replaced as a whole."""

    def poll(self, *, patient: bool = True) -> list[str]:
        """Look for new log entries and follow them.

        Args:
            patient: Whether to come back only when every version that is needed is loaded; else a thread loads it, and until
                then who answered goes on answering, under the new kill switches.

        Returns:
            The models that changed.

        Raises:
            UnavailableError: The store cannot be read; what is served stays.
        """
        self._let_go()
        changed: list[str] = []
        for name in self._names():
            entry = self._news(name)
            if entry is None:
                continue
            changed.append(name)
            if patient or self._warm(entry):
                self._follow(entry)
            else:
                self._obey(entry)
        if patient and changed and self._only:  # a chain that was loaded just now may ask a model that is not here yet
            changed += self.poll()
        if not patient and self._behind() and (self._loading is None or not self._loading.is_alive()):
            self._loading = threading.Thread(target=self._load, name="towpath-loading", daemon=True)
            self._loading.start()
        return changed

    def prove_again(self) -> None:
        """Replay the golden cases of everybody who may answer; who fails them answers nobody until he passes them again.

        A version that is busy is proven by its answers, one whose circuit is open will be tried by a call.
        """
        for deployment in self.live.values():
            for served in deployment.versions.values():
                if served.golden and served.breaker.state in {"closed", "unproven"}:
                    served.prove_beside(lambda served=served: prove(served, served.golden, self._clock))

    def close(self) -> None:
        """Let go of all models."""
        for deployment in self.live.values():
            deployment.close()
        for _, served in self._retiring:
            served.close()

    def _names(self) -> list[str]:
        there = self._objects.folders("models/")
        if not self._only:
            return there
        asked = {link.model for one in self.live.values() for link in one.chain if link.model is not None}
        return [name for name in there if name in self._only or name in asked]

    def _news(self, name: str) -> LogEntry | None:
        """The newest entry, where nobody has seen it: one question a model, whatever the length of its log."""
        seen = self._seen.get(name)
        if seen is not None and not self._objects.exists(_entry_path(name, seen.revision + 1)):
            return None
        entry = history.current(self._objects, name)
        if entry is not None:
            self._seen[name] = entry
        return entry

    def _warm(self, entry: LogEntry) -> bool:
        """Whether nothing need be loaded to follow it."""
        standing = self.live.get(entry.model)
        return standing is not None and all(number in standing.versions for number in _wanted(entry.state))

    def _behind(self) -> list[LogEntry]:
        """Entries that were seen and are not followed yet."""
        revisions = {name: one.revision for name, one in self.live.items()}
        return [entry for name, entry in self._seen.items() if revisions.get(name) != entry.revision]

    def _load(self) -> None:
        try:
            while behind := self._behind():
                for entry in behind:
                    self._follow(entry)
            if self._heap is not None:
                self._heap.settle()
        except TowpathError as error:
            _log.warning("the store was not read: %s", error)
        except Exception:  # noqa: BLE001 - the thread is the edge: the next poll begins again
            _log.exception("a version was not loaded")

    def _obey(self, entry: LogEntry) -> None:
        """Take over the kill switches of an entry whose versions are not loaded yet."""
        with self._changing:
            standing = self.live.get(entry.model)
            if standing is None or standing.revision >= entry.revision:
                return
            state = msgspec.structs.replace(standing.policy.state, kills=entry.state.kills, retired=entry.state.retired)
            if state == standing.policy.state:
                return
            deployment = standing.replaced(policy=Policy(state, entry.model))
            self.live = {**self.live, entry.model: deployment}

    def _follow(self, entry: LogEntry) -> None:
        state = entry.state
        standing = self.live.get(entry.model)
        loaded: dict[int, Served] = {}
        problem = ""
        champion: Manifest | None = None
        stand_in: Served | None = None
        warm = dict(standing.versions) if standing is not None else {}
        for number in _wanted(state):
            try:
                manifest, served, fallen = self._version(entry.model, number, warm)
            except UnavailableError:
                raise
            except TowpathError as error:
                problem = problem or error.what
                _log.error("%s@%d is not served: %s", entry.model, number, error)
                continue
            if number == state.champion:
                champion, stand_in = manifest, fallen
                problem = fallen.problem if fallen is not None else problem
            if served is not None:
                loaded[number] = served
        if champion is not None:
            for link in champion.fallback:
                if isinstance(link.version, int) and link.version not in loaded:
                    loaded |= self._beside(entry.model, link.version, warm)
        chain = champion.fallback if champion is not None else (standing.chain if standing is not None else ())
        problem = problem or self._circle(entry.model, chain)
        with self._changing:
            newest = self._seen.get(entry.model, entry).state  # it may have landed while this one was loaded
            state = msgspec.structs.replace(state, kills=newest.kills, retired=newest.retired)
            self._stand(entry, state, champion, loaded, chain, problem, stand_in)
        now_s = time.monotonic()
        self._retiring += [(now_s + s.timeout_s + _GRACE_S, s) for n, s in warm.items() if n not in loaded]
        _log.info("%s: revision %d, champion %s", entry.model, entry.revision, state.champion)

    def _stand(
        self,
        entry: LogEntry,
        state: TrafficState,
        champion: Manifest | None,
        loaded: Mapping[int, Served],
        chain: "tuple[FallbackDeclaration, ...]",
        problem: str,
        stand_in: Served | None,
    ) -> None:
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
            stand_in=stand_in,
            memory=self._memory(entry.model, champion, chain),
        )
        self.live = {**self.live, entry.model: deployment}

    def _memory(
        self, model: str, champion: Manifest | None, chain: "Sequence[FallbackDeclaration]"
    ) -> LastAnswers | None:
        """The last answers to keys: those that stand, where they may go on standing. Of a model without a journal none reaches a file."""
        standing = self.live.get(model)
        memory = standing.memory if standing is not None else None
        if champion is None or all(link.last is None for link in chain):
            return memory
        share = self._shared is not None and champion.journal != "none"
        if memory is not None and (memory.shared is not None) == share:
            return memory
        if self._shared is None or not share:
            return LastAnswers()
        try:
            return LastAnswers(shared=SharedAnswers(self._shared / f"last-{model}.bin"))
        except OSError as error:
            _log.warning("%s: each worker keeps its own last answers, because they cannot be shared: %s", model, error)
            return memory if memory is not None else LastAnswers()

    def _circle(self, model: str, chain: "Sequence[FallbackDeclaration]") -> str:
        """What is wrong where the chain leads back to the model; a request stops there and asks the next link."""
        asks = {name: _asked(one.chain) for name, one in self.live.items()} | {model: _asked(chain)}
        for other in asks[model]:
            circle = circle_from(model, other, asks)
            if circle:
                said = f"The chains of {' and '.join(circle)} ask each other; whoever was asked already is left out."
                _log.error("%s: %s", model, said)
                return said
        return ""

    def _let_go(self) -> None:
        """Close what was replaced so long ago that no request can still be at it."""
        now_s = time.monotonic()
        gone = [pair for pair in self._retiring if pair[0] < now_s]
        if not gone:
            return
        for _, served in gone:
            served.close()
        self._retiring = [pair for pair in self._retiring if pair[0] >= now_s]
        if self._heap is not None:
            self._heap.settle(len(gone))

    def _version(
        self, model: str, number: int, warm: Mapping[int, Served]
    ) -> tuple[Manifest, Served | None, Served | None]:
        """The manifest, and the version loaded and proven; where only that failed, what stands in for it, so that its chain answers."""
        known = warm.get(number)
        if known is not None:
            return known.manifest, known, None
        manifest = versions.manifest(self._objects, model, number, self._trusted)
        folder: Path | None = None
        readers = self._readers(manifest)
        try:
            folder = versions.fetch(self._objects, manifest, self._cache)
            served = self._proven(manifest, folder, readers)
        except UnavailableError:
            raise
        except TowpathError as error:
            _log.error("%s@%d cannot answer, its fallback does: %s", model, number, error)
            fallen = Served(
                manifest,
                load_functions(manifest, folder, error.what),
                reader=readers[0],
                functions=left_of_on_demand(manifest, folder, error.what),
                heuristics=readers[1],
            )
            fallen.problem = error.what
            rehearse(fallen)
            return manifest, None, fallen
        return manifest, served, None

    def _proven(self, manifest: Manifest, folder: Path, readers: tuple[Reader | None, Reader | None]) -> Served:
        """The version, loaded where it belongs and with its golden cases answered."""
        functions = load_on_demand(manifest, folder)
        loaded = self._opened(manifest, folder)
        try:
            served = Served(manifest, loaded, reader=readers[0], functions=functions, heuristics=readers[1])
            served.golden = golden_cases(folder)
            prove(served, served.golden, self._clock)
            served.join(rows_worth_joining(served))
            rehearse(served)
        except BaseException:
            loaded.close()
            raise
        return served

    def _opened(self, manifest: Manifest, folder: Path) -> Model:
        own_s = own_seconds(manifest.serving.timeout_ms / 1e3, kept_seconds(manifest.fallback))
        environments = self._cache.parent / "environments"
        return open_version(manifest, folder, environments=environments, own_s=own_s, spare=self._spare)

    def _readers(self, manifest: Manifest) -> tuple[Reader | None, Reader | None]:
        """Of its features, and of what the ``sql`` links of its chain answer."""
        return (
            self._open_reader(manifest) if manifest.features else None,
            self._open_reader(msgspec.structs.replace(manifest, features=manifest.fallback_features))
            if manifest.fallback_features
            else None,
        )

    def _beside(self, model: str, number: int, warm: Mapping[int, Served]) -> dict[int, Served]:
        try:
            _, served, _ = self._version(model, number, warm)
        except TowpathError as error:
            _log.error("%s@%d cannot be its fallback: %s", model, number, error)
            return {}
        return {} if served is None else {number: served}


def _asked(chain: "Sequence[FallbackDeclaration]") -> list[str]:
    return [link.model for link in chain if link.model is not None]


def _wanted(state: TrafficState) -> list[int]:
    numbers = [state.champion, *[c.version for c in state.challengers], *state.shadows, state.previous]
    return list(dict.fromkeys(number for number in numbers if number is not None))


def _entry_path(model: str, revision: int) -> str:
    return f"models/{model}/log/{revision:06d}.json"

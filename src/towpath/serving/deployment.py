"""One model as it stands in traffic."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from towpath.serving.chain import takes_time
from towpath.serving.last import LastAnswers
from towpath.serving.served import Served
from towpath.traffic import Policy
from towpath.types import Tier

if TYPE_CHECKING:
    from towpath.project.declarations import FallbackDeclaration

__all__ = ["Deployment", "Deployments", "kept_seconds", "own_seconds"]

_MODEL_SHARE = 0.5
"""Of the deadline that the model keeps at least, however large the budgets of its fallbacks are."""


def kept_seconds(chain: "Iterable[FallbackDeclaration]") -> float:
    """What of a deadline is kept for a chain."""
    return sum(link.budget_ms for link in chain if takes_time(link)) / 1e3


def own_seconds(timeout_s: float, kept_s: float) -> float:
    """What of a deadline the model has.

    Example:
        >>> own_seconds(0.2, 0.05), own_seconds(0.2, 1.0)
        (0.15000000000000002, 0.1)
    """
    return max(timeout_s - kept_s, timeout_s * _MODEL_SHARE)


class Deployment:
    """One model as it stands in traffic: never changed, replaced as a whole when a new log entry lands.

    Args:
        model: Its name.
        project: Whose it is.
        team: Who answers for it.
        tier: How much it hurts when it is away.
        policy: Who answers whom.
        versions: Those that are loaded.
        chain: Of the champion's manifest, even where the champion itself could not be loaded.
        revision: Of the registry log.
        problem: Why the champion could not be loaded or did not answer its golden cases, or what is wrong with its chain.
        stand_in: Of a champion that could not be loaded: it knows its input and its fallback functions, and predicts nothing.
        memory: Answers by entity key, where a link of the chain repeats them; a new one unless given.
    """

    __slots__ = (
        "base", "beside_link", "chain", "champion", "kept_s", "memory", "model", "policy", "problem", "project", "revision", "stand_in",
        "team", "tier", "versions",
    )  # fmt: skip

    def __init__(
        self,
        *,
        model: str,
        project: str,
        team: str,
        tier: Tier,
        policy: Policy,
        versions: Mapping[int, Served],
        chain: "tuple[FallbackDeclaration, ...]",
        revision: int = 0,
        problem: str = "",
        stand_in: Served | None = None,
        memory: LastAnswers | None = None,
    ) -> None:
        self.model = model
        self.project = project
        self.team = team
        self.tier: Tier = tier
        self.policy = policy
        self.versions = versions
        self.chain = chain
        self.revision = revision
        self.problem = problem
        self.stand_in = stand_in
        number = policy.state.champion
        self.champion = None if number is None else versions.get(number)
        """Where it is loaded."""
        self.base: Served | None = self.champion or stand_in or next(iter(versions.values()), None)
        """Whose signature the input is read by where no model may answer."""
        self.kept_s = kept_seconds(chain)
        """Of the deadline, for the chain."""
        self.beside_link: FallbackDeclaration | None = next((link for link in chain if link.last is None), None)
        """Whom the model is compared with: the first link that does not repeat the model's own words."""
        remembers = any(link.last is not None for link in chain)
        given = LastAnswers() if memory is None else memory
        self.memory: LastAnswers | None = given if remembers else None

    @property
    def ready(self) -> bool:
        """Whether the champion is loaded and proven, and its circuit is closed."""
        return self.champion is not None and self.champion.breaker.state == "closed"

    def close(self) -> None:
        """Let go of its versions."""
        for served in self.versions.values():
            served.close()

    def replaced(self, **changes: Any) -> "Deployment":
        """The same with some arguments changed, and what follows from them anew."""
        taken = {name: getattr(self, name) for name in _ARGUMENTS}
        return Deployment(**{**taken, **changes})


_ARGUMENTS = (
    "model", "project", "team", "tier", "policy", "versions", "chain", "revision", "problem", "stand_in", "memory",
)  # fmt: skip


class Deployments(Protocol):
    """Where the responder finds a model."""

    @property
    def live(self) -> Mapping[str, Deployment]:
        """Model → deployment; a new mapping when one of them changes."""
        ...

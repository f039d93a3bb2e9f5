"""One model as it stands in traffic."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from towpath.serving.served import Served
from towpath.traffic import Policy
from towpath.types import Tier

if TYPE_CHECKING:
    from towpath.project.declarations import FallbackDeclaration

__all__ = ["Deployment", "Deployments"]


class Deployment(NamedTuple):
    """One model as it stands in traffic: replaced as a whole when a new log entry lands."""

    model: str
    project: str
    team: str
    tier: Tier
    policy: Policy
    versions: Mapping[int, Served]
    chain: "tuple[FallbackDeclaration, ...]"
    """Of the champion's manifest, even where the champion itself could not be loaded."""
    revision: int = 0
    problem: str = ""
    """Why the champion could not be loaded or did not answer its golden cases."""

    @property
    def champion(self) -> Served | None:
        """The champion, where it is loaded."""
        version = self.policy.state.champion
        return None if version is None else self.versions.get(version)

    @property
    def ready(self) -> bool:
        """Whether the champion is loaded and proven."""
        return self.champion is not None


class Deployments(Protocol):
    """Where the responder finds a model."""

    @property
    def live(self) -> Mapping[str, Deployment]:
        """Model → deployment; a new mapping when one of them changes."""
        ...

"""The gRPC health check, of the server and of each model, which load balancers and Kubernetes ask.

Source:
    gRPC, "GRPC Health Checking Protocol" (``grpc.health.v1``).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from towpath.apart.protocol import SERVICE as INFERENCE
from towpath.apart.protocol import Method, classes, described
from towpath.errors import UnknownError, nearest
from towpath.serving.repository import unloaded

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    from towpath.serving.deployment import Deployments

__all__ = ["SERVICE", "HealthService", "file"]

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
_LOOK_S = 0.25
"""How often a watched service is looked at."""


@cache
def file() -> "FileDescriptorProto":
    """The protocol, with its service."""
    return described(
        "towpath/health.proto",
        "grpc.health.v1",
        {
            "HealthCheckRequest": [("service", 1, "string")],
            "HealthCheckResponse": [("status", 1, "enum:HealthCheckResponse.ServingStatus")],
            "HealthListRequest": [],
            "HealthListResponse": [("statuses", 1, "map:HealthCheckResponse")],
        },
        {
            "Health": {
                "Check": Method("HealthCheckRequest", "HealthCheckResponse"),
                "List": Method("HealthListRequest", "HealthListResponse"),
                "Watch": Method("HealthCheckRequest", "HealthCheckResponse", answers_often=True),
            }
        },
        {"HealthCheckResponse.ServingStatus": ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")},
    )


class HealthService:
    """Check, List and Watch. A service is the server (an empty name), the protocol's own, or a model by its name.

    Args:
        ready: Whether callers should come.
        deployments: Where the models stand.
        closing: Set when the server ends; whoever watches is told once more, and let go.
    """

    def __init__(self, ready: Callable[[], bool], deployments: "Deployments", closing: asyncio.Event) -> None:
        self._ready = ready
        self._deployments = deployments
        self._closing = closing
        known = classes(file())
        self._response: Any = known["HealthCheckResponse"]
        self._list: Any = known["HealthListResponse"]

    def status(self, service: str) -> int:
        """Of one service."""
        if service in {"", INFERENCE}:
            return SERVING if self._ready() else NOT_SERVING
        deployment = self._deployments.live.get(service)
        if deployment is None:
            return SERVICE_UNKNOWN
        return SERVING if self._ready() and deployment.ready and not unloaded(deployment) else NOT_SERVING

    async def check(self, request: Any, _context: Any) -> Any:
        """How it is now."""
        status = self.status(request.service)
        if status == SERVICE_UNKNOWN:
            raise UnknownError(
                f"There is no service '{request.service}'{nearest(request.service, self._deployments.live)}",
                mend="an empty name is the server, a model's name that model",
            )
        return self._response(status=status)

    async def list(self, _request: Any, _context: Any) -> Any:
        """How all of them are."""
        found = self._list()
        for name in ("", INFERENCE, *self._deployments.live):
            found.statuses[name].status = self.status(name)
        return found

    async def watch(self, request: Any, _context: Any) -> AsyncIterator[Any]:
        """How it is now, and again whenever that changes."""
        told = 0
        while True:
            status = self.status(request.service)
            if status != told:
                told = status
                yield self._response(status=status)
            if self._closing.is_set():
                return
            try:
                await asyncio.wait_for(self._closing.wait(), _LOOK_S)
            except TimeoutError:
                continue

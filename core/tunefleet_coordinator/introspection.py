"""Health and reflection: what programs ask that were not built for tunefleet.

Health says NOT_SERVING from the first moment that the ports are open until the kernel has
loaded its store, and again while the coordinator stops. Reflection lets a client without our
stubs (grpcurl, a proxy, a debugger) find every method and message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import grpc.aio
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc as health_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha import reflection_pb2_grpc as reflection_grpc

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import RpcContext, found_by_name

__all__ = ["SERVICES_OF_PEOPLE", "SERVICES_OF_SERVICES", "Health", "add_introspection"]

SERVICES_OF_SERVICES = ("tunefleet.artifact.v1.ArtifactService", "tunefleet.fleet.v1.FleetService")
SERVICES_OF_PEOPLE = (
    *SERVICES_OF_SERVICES,
    "tunefleet.catalog.v1.CatalogService",
    "tunefleet.dataset.v1.DatasetService",
    "tunefleet.deployment.v1.DeploymentService",
    "tunefleet.job.v1.JobService",
    "tunefleet.model.v1.ModelService",
)
"""What each listener offers."""

_NAMES = tuple(
    file.services_by_name[name].full_name
    for file, name in ((pb.DESCRIPTOR, "Health"), (reflection_pb2.DESCRIPTOR, "ServerReflection"))
)
_Status = pb.HealthCheckResponse.ServingStatus


class Health(health_grpc.HealthServicer):
    """Whether this process answers calls; the same for every service of it.

    Not the class that grpcio-health-checking brings: its Watch writes while it holds the lock
    that a change needs, so one watcher that does not read would stop every change.
    """

    def __init__(self) -> None:
        self._services = {"", *_NAMES}
        self._is_serving = False
        self._changed = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """Whether calls are answered."""
        return self._is_serving

    def know(self, services: Sequence[str]) -> None:
        """Answer for these services too."""
        self._services.update(services)

    def set_serving(self, is_serving: bool) -> None:
        """Say from now on whether calls are answered."""
        self._is_serving = is_serving
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: pb.HealthCheckRequest, context: RpcContext) -> pb.HealthCheckResponse:
        """Answer for one service; an empty name is the whole process."""
        if request.service not in self._services:
            raise TunefleetError(
                Reason.SERVICE_NOT_FOUND,
                f"This listener has no service '{request.service}'.",
                hint="Ask server reflection for the names, or send an empty one.",
                metadata={"service": request.service},
            )
        return pb.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: pb.HealthCheckRequest, context: RpcContext
    ) -> AsyncGenerator[pb.HealthCheckResponse]:
        """Answer now, and again whenever the answer changes."""
        last: _Status.ValueType | None = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != last:
                last = status
                yield pb.HealthCheckResponse(status=status)
            await changed.wait()

    def _status(self, service: str) -> _Status.ValueType:
        if service not in self._services:
            return pb.HealthCheckResponse.SERVICE_UNKNOWN
        return pb.HealthCheckResponse.SERVING if self._is_serving else pb.HealthCheckResponse.NOT_SERVING


def add_introspection(health: Health, server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Offer health and reflection on a listener, before it is started.

    Args:
        health: The health of this process, shared by its listeners.
        server: The listener.
        services: Full names of the services that it offers.
    """
    health.know(services)
    by_name = found_by_name(server)
    health_grpc.add_HealthServicer_to_server(health, by_name)
    servicer = reflection.aio.ReflectionServicer((*services, *_NAMES))
    reflection_grpc.add_ServerReflectionServicer_to_server(servicer, by_name)

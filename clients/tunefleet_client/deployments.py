"""Deployments: what is served."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunefleet.deployment.v1 import deployment_service_pb2 as wire
from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentSpec, DeploymentState
from tunefleet.deployment.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from tunefleet_client.calls import RESOLVE_DEADLINE_SECONDS, Connection
from tunefleet_client.errors import failure, typed
from tunefleet_client.names import resource_name, short_name
from tunefleet_client.pages import all_pages
from tunefleet_client.requests import new_request_id
from tunefleet_core.errors import Reason, TunefleetError, error_from_status

if TYPE_CHECKING:
    from tunefleet.deployment.v1.deployment_service_pb2_grpc import DeploymentServiceAsyncStub

__all__ = ["Deployments"]

_POLL_SECONDS = 0.3
_ON_ITS_WAY = (DeploymentState.DEPLOYMENT_STATE_PENDING, DeploymentState.DEPLOYMENT_STATE_STARTING)


class Deployments:
    """The deployments of one project. Every method raises TunefleetError."""

    def __init__(self, connection: Connection, project: str) -> None:
        self._connection = connection
        self._project = project
        self._stub: DeploymentServiceAsyncStub = DeploymentServiceStub(connection.channel)

    async def create(
        self,
        spec: DeploymentSpec | str,
        *,
        deployment_id: str | None = None,
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> Deployment:
        """Ask for a model to be served; it takes traffic once READY.

        Args:
            spec: What to serve; text is the model alone: `models/<name>`, a Hub id, or the
                absolute folder of a base.
            deployment_id: The model name on the gateway; left out, the model's own id.
            request_id: Idempotency key; left out, a new one.
            validate_only: Check and keep nothing; the answer has no name.
        """
        request = wire.CreateDeploymentRequest(
            request_id=new_request_id(request_id),
            parent=f"projects/{self._project}",
            deployment_id=deployment_id or "",
            spec=DeploymentSpec(model=spec) if isinstance(spec, str) else spec,
            validate_only=validate_only,
        )
        response = await self._connection.unary(
            self._stub.CreateDeployment, request, deadline_seconds=RESOLVE_DEADLINE_SECONDS
        )
        return response.deployment

    async def get(self, name: str) -> Deployment:
        """Return a deployment as it stands."""
        request = wire.GetDeploymentRequest(name=self._name(name))
        return (await self._connection.unary(self._stub.GetDeployment, request)).deployment

    async def wait(self, name: str, *, deadline_seconds: float = 600.0) -> Deployment:
        """Wait until a deployment takes traffic and return it.

        Args:
            name: The deployment.
            deadline_seconds: Loading a large model takes minutes.

        Raises:
            TunefleetError: Why it could not be served, STATE_CONFLICT if it is being taken
                down, TIME_LIMIT past the deadline.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_seconds
        while True:
            found = await self.get(name)
            if found.state == DeploymentState.DEPLOYMENT_STATE_READY:
                return found
            if found.state == DeploymentState.DEPLOYMENT_STATE_FAILED:
                raise typed(error_from_status(found.error))
            if found.state not in _ON_ITS_WAY:
                raise _never_ready(found, Reason.STATE_CONFLICT, "is being taken down")
            if loop.time() >= end:
                raise _never_ready(found, Reason.TIME_LIMIT, f"was not ready in {deadline_seconds:.0f} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def list(self, *, limit: int | None = None) -> tuple[Deployment, ...]:
        """Return deployments, newest first."""

        async def page(size: int, token: str) -> tuple[Sequence[Deployment], str]:
            request = wire.ListDeploymentsRequest(
                parent=f"projects/{self._project}", page_size=size, page_token=token
            )
            response = await self._connection.unary(self._stub.ListDeployments, request)
            return response.deployments, response.next_page_token

        return await all_pages(page, limit=limit)

    async def delete(
        self, name: str, *, allow_missing: bool = False, etag: str = "", request_id: str | None = None
    ) -> Deployment:
        """Take a deployment down.

        Args:
            name: The deployment.
            allow_missing: Succeed if there is none.
            etag: If given, must be the deployment's current one.
            request_id: Idempotency key; left out, a new one.
        """
        request = wire.DeleteDeploymentRequest(
            request_id=new_request_id(request_id),
            name=self._name(name),
            allow_missing=allow_missing,
            etag=etag,
        )
        return (await self._connection.unary(self._stub.DeleteDeployment, request)).deployment

    def _name(self, name: str) -> str:
        return resource_name(name, collection="deployments", project=self._project)


def _never_ready(found: Deployment, reason: Reason, what: str) -> TunefleetError:
    return failure(
        reason,
        f"Deployment '{short_name(found.name)}' {what}.",
        hint="tunefleet deployments list",
        metadata={"name": found.name, "state": DeploymentState.Name(found.state)},
    )

"""Deployments: what is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from tunefleet.deployment.v1 import deployment_service_pb2 as wire
from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentSpec, DeploymentState
from tunefleet.deployment.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from tunefleet.deployment.v1.rollout_pb2 import Rollout, RolloutPolicy, RolloutState
from tunefleet_client.calls import RESOLVE_DEADLINE_SECONDS, Connection
from tunefleet_client.errors import failure, typed
from tunefleet_client.names import resource_name, short_name
from tunefleet_client.pages import all_pages
from tunefleet_client.requests import new_request_id
from tunefleet_client.watch_deployment import DeploymentChange, watch_deployment
from tunefleet_core.errors import Reason, TunefleetError, error_from_status

if TYPE_CHECKING:
    from tunefleet.deployment.v1.deployment_service_pb2_grpc import DeploymentServiceAsyncStub

__all__ = ["Deployments"]

_POLL_SECONDS = 0.3
_ON_ITS_WAY = (
    DeploymentState.DEPLOYMENT_STATE_PENDING,
    DeploymentState.DEPLOYMENT_STATE_PREPARING,
    DeploymentState.DEPLOYMENT_STATE_STARTING,
    DeploymentState.DEPLOYMENT_STATE_DEGRADED,
    DeploymentState.DEPLOYMENT_STATE_WAITING_RETRY,
)


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
        """Wait until a deployment takes traffic with every replica that has a server, and return it.

        One that is DEGRADED then says in `reason` and `replicas` what is missing.

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
            if found.state == DeploymentState.DEPLOYMENT_STATE_READY or _is_all_there_is(found):
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

    async def scale(
        self, name: str, replicas: int, *, etag: str = "", request_id: str | None = None
    ) -> Deployment:
        """Say how many engines serve a deployment; of one whose roll-out goes on, both versions.

        New ones take traffic once they are loaded and checked; those too many end their requests first.

        Args:
            name: The deployment.
            replicas: How many there are to be, at least 1.
            etag: If given, must be the deployment's current one.
            request_id: Idempotency key; left out, a new one.
        """
        request = wire.ScaleDeploymentRequest(
            request_id=new_request_id(request_id), name=self._name(name), replicas=replicas, etag=etag
        )
        return (await self._connection.unary(self._stub.ScaleDeployment, request)).deployment

    async def roll_out(
        self,
        name: str,
        spec: DeploymentSpec | str,
        policy: RolloutPolicy | None = None,
        *,
        etag: str = "",
        request_id: str | None = None,
    ) -> Rollout:
        """Begin to roll out a new version: loaded and checked first, then given more and more traffic.

        Args:
            name: The deployment.
            spec: What the new version serves; text is the model alone. What is left out is as it is
                in the version that serves.
            policy: Steps, bake time, limits; left out: 5, 25, 100 percent, each until `promote`.
                Its job may be named by its short name.
            etag: If given, must be the deployment's current one.
            request_id: Idempotency key; left out, a new one.
        """
        asked = RolloutPolicy()
        if policy is not None:
            asked.CopyFrom(policy)
        if asked.evaluate_job:
            asked.evaluate_job = resource_name(asked.evaluate_job, collection="jobs", project=self._project)
        request = wire.RollOutDeploymentRequest(
            request_id=new_request_id(request_id),
            name=self._name(name),
            spec=DeploymentSpec(model=spec) if isinstance(spec, str) else spec,
            policy=asked,
            etag=etag,
        )
        response = await self._connection.unary(
            self._stub.RollOutDeployment, request, deadline_seconds=RESOLVE_DEADLINE_SECONDS
        )
        return response.rollout

    async def promote(
        self, name: str, *, to_last_step: bool = False, request_id: str | None = None
    ) -> Rollout:
        """Take the next step of a roll-out now; at the last one, end it.

        Args:
            name: The deployment.
            to_last_step: Go to 100 percent at once.
            request_id: Idempotency key; left out, a new one.
        """
        request = wire.PromoteDeploymentRequest(
            request_id=new_request_id(request_id), name=self._name(name), to_last_step=to_last_step
        )
        return (await self._connection.unary(self._stub.PromoteDeployment, request)).rollout

    async def roll_back(self, name: str, *, reason: str = "", request_id: str | None = None) -> Rollout:
        """Give all of the traffic back to the version before, at once.

        Args:
            name: The deployment.
            reason: Why, for the history.
            request_id: Idempotency key; left out, a new one.
        """
        request = wire.RollBackDeploymentRequest(
            request_id=new_request_id(request_id), name=self._name(name), reason=reason
        )
        return (await self._connection.unary(self._stub.RollBackDeployment, request)).rollout

    async def rollout(self, name: str) -> Rollout | None:
        """Return the roll-out of a deployment that goes on, else the last one; None: there never was one."""
        request = wire.GetRolloutRequest(name=self._name(name))
        response = await self._connection.unary(self._stub.GetRollout, request)
        is_one = response.rollout.state != RolloutState.ROLLOUT_STATE_UNSPECIFIED
        return response.rollout if is_one else None

    def watch(
        self, name: str, after_sequence: int = 0, *, give_up_seconds: float = 120.0
    ) -> AsyncGenerator[DeploymentChange]:
        """Follow a deployment: its snapshots, and every event once, in order, over reconnects.

        Ends when the deployment is gone. To leave earlier, close it (`contextlib.aclosing`).

        Args:
            name: The deployment.
            after_sequence: Begin after this event; 0: with the oldest that is kept.
            give_up_seconds: How long the coordinator may be away.
        """
        request = wire.WatchDeploymentRequest(name=self._name(name), after_sequence=after_sequence)
        return watch_deployment(self._connection, self._stub, request, give_up_seconds=give_up_seconds)

    def _name(self, name: str) -> str:
        return resource_name(name, collection="deployments", project=self._project)


def _is_all_there_is(found: Deployment) -> bool:
    """Whether a deployment takes traffic and no further replica of it is being loaded."""
    on_their_way = (
        DeploymentState.DEPLOYMENT_STATE_PREPARING,
        DeploymentState.DEPLOYMENT_STATE_STARTING,
    )
    is_loading = any(replica.state in on_their_way for replica in found.replicas)
    return found.state == DeploymentState.DEPLOYMENT_STATE_DEGRADED and not is_loading


def _never_ready(found: Deployment, reason: Reason, what: str) -> TunefleetError:
    return failure(
        reason,
        f"Deployment '{short_name(found.name)}' {what}.",
        hint=found.reason or "tunefleet deployments list",
        metadata={"name": found.name, "state": DeploymentState.Name(found.state)},
    )

"""Follow a deployment as if the connection never broke; as `watch` does with a job."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentState
from tunefleet.deployment.v1.deployment_service_pb2 import WatchDeploymentRequest, WatchDeploymentResponse
from tunefleet.deployment.v1.rollout_pb2 import DeploymentEvent
from tunefleet_client.calls import Connection
from tunefleet_client.errors import failure as make_failure
from tunefleet_client.following import follow
from tunefleet_core.errors import Reason, TunefleetError

if TYPE_CHECKING:
    from tunefleet.deployment.v1.deployment_service_pb2_grpc import DeploymentServiceAsyncStub

__all__ = ["DeploymentChange", "watch_deployment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentChange:
    """One item of a watch: either the whole deployment, or one event of it."""

    snapshot: Deployment | None = None
    event: DeploymentEvent | None = None


@dataclass(slots=True, kw_only=True)
class _Progress:
    """What was handed out so far, across streams."""

    sequence: int
    snapshot: Deployment | None = None
    is_done: bool = False

    def begin_stream(self) -> None:
        """Nothing depends on which stream a message came by."""

    def take(self, message: WatchDeploymentResponse) -> list[DeploymentChange]:
        """Return what a message adds."""
        if message.HasField("snapshot"):
            found = message.snapshot
            self.is_done = (
                found.state == DeploymentState.DEPLOYMENT_STATE_DELETED
                and self.sequence >= found.last_sequence
            )
            is_new, self.snapshot = found != self.snapshot, found
            return [DeploymentChange(snapshot=found)] if is_new else []
        new = [event for event in message.events.events if event.sequence > self.sequence]
        if new:
            self.sequence = new[-1].sequence
        return [DeploymentChange(event=event) for event in new]

    def end_stream(self) -> None:
        """A deployment that is gone has said so."""

    def nothing_comes(self) -> TunefleetError:
        """Return the error for a coordinator that is silent on it."""
        return make_failure(
            Reason.UNAVAILABLE,
            "The coordinator says nothing of the deployment.",
            hint="See the coordinator's log, or tunefleet doctor.",
        )


async def watch_deployment(
    connection: Connection,
    stub: DeploymentServiceAsyncStub,
    request: WatchDeploymentRequest,
    *,
    give_up_seconds: float,
) -> AsyncGenerator[DeploymentChange]:
    """Yield the snapshots and events of a deployment until it is gone.

    Args:
        connection: Where to.
        stub: On the connection's channel.
        request: The deployment, and the sequence after which to begin.
        give_up_seconds: How long the coordinator may be away.

    Raises:
        TunefleetError: What the coordinator answered; UNAVAILABLE after being away too long.
    """
    progress = _Progress(sequence=request.after_sequence)

    def open_stream() -> object:
        again = WatchDeploymentRequest(name=request.name, after_sequence=progress.sequence)
        return stub.WatchDeployment(again, metadata=connection.metadata)

    following = follow(
        connection, progress, open_stream, WatchDeploymentResponse, give_up_seconds=give_up_seconds
    )
    async with aclosing(following) as changes:
        async for change in changes:
            yield change

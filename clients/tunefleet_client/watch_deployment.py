"""Follow a deployment as if the connection never broke; as `watch` does with a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio

from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentState
from tunefleet.deployment.v1.deployment_service_pb2 import WatchDeploymentRequest, WatchDeploymentResponse
from tunefleet.deployment.v1.rollout_pb2 import DeploymentEvent
from tunefleet_client.calls import Connection, is_handshake
from tunefleet_client.errors import failure as make_failure
from tunefleet_client.streams import messages_of
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import is_worth_repeating

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

    def take(self, response: WatchDeploymentResponse) -> list[DeploymentChange]:
        """Return what a message adds."""
        if response.HasField("snapshot"):
            found = response.snapshot
            self.is_done = (
                found.state == DeploymentState.DEPLOYMENT_STATE_DELETED
                and self.sequence >= found.last_sequence
            )
            is_new, self.snapshot = found != self.snapshot, found
            return [DeploymentChange(snapshot=found)] if is_new else []
        new = [event for event in response.events.events if event.sequence > self.sequence]
        if new:
            self.sequence = new[-1].sequence
        return [DeploymentChange(event=event) for event in new]


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
    clock = asyncio.get_running_loop().time
    progress = _Progress(sequence=request.after_sequence)
    last_news, failures = clock(), 0
    while True:
        failure: TunefleetError | None = None
        connection.channels.require_open()
        try:
            again = WatchDeploymentRequest(name=request.name, after_sequence=progress.sequence)
            call = stub.WatchDeployment(again, metadata=connection.metadata)
            async with aclosing(messages_of(connection, call, WatchDeploymentResponse)) as messages:
                async for response in messages:
                    changes = progress.take(response)
                    # The snapshot that opens every stream is no news by itself.
                    if changes or response.HasField("heartbeat"):
                        last_news, failures = clock(), 0
                    for change in changes:
                        yield change
                    if progress.is_done:
                        return
        except grpc.aio.AioRpcError as error:
            failure = connection.failure(error)
            if not is_worth_repeating(error) or is_handshake(error):
                raise failure from error
        if clock() - last_news >= give_up_seconds:
            raise failure or make_failure(
                Reason.UNAVAILABLE,
                "The coordinator says nothing of the deployment.",
                hint="See the coordinator's log, or tunefleet doctor.",
            )
        failures += 1
        await asyncio.sleep(connection.backoff.seconds(failures))

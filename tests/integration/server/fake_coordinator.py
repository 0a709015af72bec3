"""A coordinator that says what a test tells it to say, and remembers what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tunefleet.artifact.v1 import artifact_service_pb2 as artifact_pb
from tunefleet.artifact.v1 import artifact_service_pb2_grpc as artifact_grpc
from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind, Lineage, Manifest
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet.fleet.v1.fleet_pb2 import DeploymentStatus, DesiredSet
from tunefleet.fleet.v1.fleet_service_pb2 import AttachRequest, AttachResponse, HeartbeatAck, Hello, Welcome
from tunefleet_core.artifacts import BlobStore, build_manifest

WAIT_SECONDS = 60.0


class FakeCoordinator(fleet_grpc.FleetServiceServicer, artifact_grpc.ArtifactServiceServicer):
    """The service listener of a coordinator, without anything behind it."""

    def __init__(self, store: Path, lease_seconds: float) -> None:
        self.hellos: list[Hello] = []
        self.statuses: dict[str, DeploymentStatus] = {}
        self.history: list[tuple[str, str]] = []
        """(deployment uid, state without its prefix), as they came."""
        self.told: list[DeploymentStatus] = []
        """All of it."""
        self.port = 0
        self.server: grpc.aio.Server | None = None
        self._blobs = BlobStore(store)
        self._store = store
        self._lease_seconds = lease_seconds
        self._manifests: dict[str, Manifest] = {}
        self._desired = DesiredSet()
        self._changed = asyncio.Condition()

    async def close(self) -> None:
        """Go away at once, as a coordinator that was killed."""
        assert self.server is not None
        await self.server.stop(grace=None)

    def add_artifact(self, folder: Path) -> str:
        """Store a folder as an adapter and return its manifest's digest."""
        manifest = build_manifest(
            folder, self._blobs, kind=ArtifactKind.ARTIFACT_KIND_ADAPTER, lineage=Lineage(), step=1
        )
        self._manifests[manifest.digest] = manifest
        return manifest.digest

    async def want(self, **fields: Any) -> None:
        """Replace the desired set."""
        async with self._changed:
            self._desired = DesiredSet(generation=self._desired.generation + 1, **fields)
            self._changed.notify_all()

    async def until(self, claim: Callable[[], bool], what: str) -> None:
        """Wait until a claim about what was heard holds."""
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._changed:
                await self._changed.wait_for(claim)
        except TimeoutError:
            raise AssertionError(f"{what}; heard: {self.history}, last: {self.statuses}") from None

    async def until_state(self, uid: str, state: str) -> DeploymentStatus:
        """Wait until a deployment is in a state, as `READY`, and return its status."""
        number = DeploymentState.Value(f"DEPLOYMENT_STATE_{state}")

        def is_there() -> bool:
            status = self.statuses.get(uid)
            return status is not None and status.state == number

        await self.until(is_there, f"deployment {uid} never became {state}")
        return self.statuses[uid]

    async def Attach(self, requests: AsyncIterator[AttachRequest], context: Any) -> None:
        first = await anext(requests)
        await self._hear(list(first.hello.deployments), first.hello)
        await context.write(AttachResponse(welcome=self._welcome()))
        writing = asyncio.Lock()  # a stream takes one write at a time
        async with asyncio.TaskGroup() as group:
            teller = group.create_task(self._tell(context, writing))
            async for request in requests:
                if request.WhichOneof("content") == "heartbeat":
                    ack = HeartbeatAck(sequence=request.heartbeat.sequence)
                    async with writing:
                        await context.write(AttachResponse(heartbeat_ack=ack))
                elif request.WhichOneof("content") == "report":
                    await self._hear(list(request.report.deployments), None)
            teller.cancel()

    async def GetManifest(self, request: Any, context: Any) -> artifact_pb.GetManifestResponse:
        manifest = self._manifests.get(request.digest)
        if manifest is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such manifest")
        return artifact_pb.GetManifestResponse(manifest=manifest)

    def _welcome(self) -> Welcome:
        welcome = Welcome(session_epoch=len(self.hellos), artifact_store=self._store.as_uri())
        welcome.lease_term.FromMilliseconds(int(self._lease_seconds * 1000))
        welcome.heartbeat_interval.FromMilliseconds(int(self._lease_seconds * 1000 / 4))
        return welcome

    async def _tell(self, context: Any, writing: asyncio.Lock) -> None:
        told = -1
        while True:
            async with self._changed:
                while self._desired.generation == told:
                    await self._changed.wait()
                desired = self._desired
            told = desired.generation
            async with writing:
                await context.write(AttachResponse(desired=desired))

    async def _hear(self, statuses: list[DeploymentStatus], hello: Hello | None) -> None:
        async with self._changed:
            if hello is not None:
                self.hellos.append(hello)
            for status in statuses:
                self.statuses[status.deployment_uid] = status
                self.told.append(status)
                name = DeploymentState.Name(status.state).removeprefix("DEPLOYMENT_STATE_")
                self.history.append((status.deployment_uid, name))
            self._changed.notify_all()


@asynccontextmanager
async def running_coordinator(store: Path, lease_seconds: float) -> AsyncIterator[FakeCoordinator]:
    """Serve on a free loopback port until the block ends."""
    coordinator = FakeCoordinator(store, lease_seconds)
    coordinator.server = server = grpc.aio.server()
    fleet_grpc.add_FleetServiceServicer_to_server(coordinator, server)
    artifact_grpc.add_ArtifactServiceServicer_to_server(coordinator, server)
    coordinator.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield coordinator
    finally:
        await server.stop(grace=0)  # a server that runs on hangs the interpreter's exit

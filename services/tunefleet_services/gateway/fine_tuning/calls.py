"""Calls of the coordinator's user listener, each with the token of who asked the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, Protocol, TypeVar

import grpc.aio

from tunefleet.artifact.v1 import blob_service_pb2 as blob_pb
from tunefleet.artifact.v1.blob_service_pb2_grpc import BlobServiceStub
from tunefleet.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from tunefleet.deployment.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from tunefleet.fleet.v1.fleet_service_pb2 import GetFleetRequest
from tunefleet.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.job_service_pb2 import WatchJobRequest
from tunefleet.job.v1.job_service_pb2_grpc import JobServiceStub
from tunefleet.model.v1.model_service_pb2_grpc import ModelServiceStub
from tunefleet_core.artifacts import PIECE_BYTES
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import ChannelTls, error_from_rpc, open_channel

if TYPE_CHECKING:
    from tunefleet.artifact.v1.blob_service_pb2_grpc import BlobServiceAsyncStub
    from tunefleet.dataset.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub
    from tunefleet.deployment.v1.deployment_service_pb2_grpc import DeploymentServiceAsyncStub
    from tunefleet.fleet.v1.fleet_service_pb2_grpc import FleetServiceAsyncStub
    from tunefleet.job.v1.job_service_pb2_grpc import JobServiceAsyncStub
    from tunefleet.model.v1.model_service_pb2_grpc import ModelServiceAsyncStub

__all__ = ["CALL_SECONDS", "READ_ROWS_SECONDS", "RESOLVE_SECONDS", "Coordinator", "Session"]

CALL_SECONDS = 20.0
RESOLVE_SECONDS = 300.0
"""A submit reads rows and the base first."""
READ_ROWS_SECONDS = 1800.0

_Request = TypeVar("_Request", contravariant=True)
_Response = TypeVar("_Response", covariant=True)
Metadata = tuple[tuple[str, str], ...]


class _Method(Protocol[_Request, _Response]):
    """A unary method of a stub."""

    def __call__(
        self, request: _Request, /, *, timeout: float | None = ..., metadata: Metadata | None = ...
    ) -> Awaitable[_Response]: ...


class Coordinator:
    """The way to the coordinator; opened when it is first needed, in the loop that needs it."""

    def __init__(self, address: str, tls: ChannelTls | None = None) -> None:
        self._address = address
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}

    def session(self, token: str, project: str) -> Session:
        """Return the calls of one caller."""
        return Session(self, self._address, token, project)

    def channel(self, address: str) -> grpc.aio.Channel:
        """Return the channel to an address of the fleet."""
        if address not in self._channels:
            self._channels[address] = open_channel(address, self._tls)
        return self._channels[address]

    async def close(self) -> None:
        """Close every channel."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()


class Session:
    """What one caller may ask, in one project. Every method raises TunefleetError."""

    def __init__(self, coordinator: Coordinator, address: str, token: str, project: str) -> None:
        self.project = project
        self._coordinator = coordinator
        self._peer = f"The coordinator at {address}"
        self._metadata: Metadata = (("authorization", f"Bearer {token}"),)
        channel = coordinator.channel(address)
        self.jobs: JobServiceAsyncStub = JobServiceStub(channel)
        self.datasets: DatasetServiceAsyncStub = DatasetServiceStub(channel)
        self.models: ModelServiceAsyncStub = ModelServiceStub(channel)
        self.deployments: DeploymentServiceAsyncStub = DeploymentServiceStub(channel)
        self._fleet: FleetServiceAsyncStub = FleetServiceStub(channel)

    @property
    def parent(self) -> str:
        """The project's resource name."""
        return f"projects/{self.project}"

    def name(self, collection: str, resource_id: str) -> str:
        """Return the resource name of an id, such as `projects/default/jobs/tickets`."""
        return f"{self.parent}/{collection}/{resource_id}"

    async def call(
        self, method: _Method[_Request, _Response], request: _Request, *, seconds: float = CALL_SECONDS
    ) -> _Response:
        """Make a unary call."""
        async with self._typed():
            return await method(request, timeout=seconds, metadata=self._metadata)

    async def events(self, job: str, after: int, last: int) -> list[JobEvent]:
        """Return the events of a job with a sequence above `after`, up to `last`."""
        found: list[JobEvent] = []
        async with self._typed(), asyncio.timeout(RESOLVE_SECONDS):
            call = self.jobs.WatchJob(
                WatchJobRequest(name=job, after_sequence=after), metadata=self._metadata
            )
            try:
                async for response in call:
                    found += [event for event in response.events.events if event.sequence <= last]
                    if response.events.events and response.events.events[-1].sequence >= last:
                        break
            finally:
                call.cancel()
        return found

    async def upload(self, file: IO[bytes], sha256: str, size_bytes: int) -> None:
        """Send a file that lies here to the store, unless it has it."""
        blobs = await self._blobs()
        start = blob_pb.UploadStart(sha256=sha256, size_bytes=size_bytes)
        async with self._typed():
            there = await blobs.GetBlob(
                blob_pb.GetBlobRequest(sha256=sha256), timeout=CALL_SECONDS, metadata=self._metadata
            )
            if there.is_complete:
                return
            call = blobs.UploadBlob(metadata=self._metadata)
            try:
                await call.write(blob_pb.UploadBlobRequest(start=start))
                await asyncio.to_thread(file.seek, 0)
                while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                    await call.write(blob_pb.UploadBlobRequest(chunk=piece))
                await call.done_writing()
                await call
            except asyncio.InvalidStateError:  # refused in the middle: the call says why
                await call
            finally:
                call.cancel()

    async def download(self, sha256: str) -> AsyncGenerator[bytes]:
        """Yield a blob of the store in pieces."""
        blobs = await self._blobs()
        async with self._typed():
            call = blobs.DownloadBlob(blob_pb.DownloadBlobRequest(sha256=sha256), metadata=self._metadata)
            try:
                async for response in call:
                    if response.chunk:
                        yield response.chunk
            finally:
                call.cancel()

    async def _blobs(self) -> BlobServiceAsyncStub:
        fleet = await self.call(self._fleet.GetFleet, GetFleetRequest())
        if not fleet.blob_address:
            raise TunefleetError(
                Reason.CAPABILITY_UNSUPPORTED,
                "This fleet serves no blobs, so it takes no files.",
                hint="Start the coordinator with --blob-address, as `tunefleet up` does.",
            )
        return BlobServiceStub(self._coordinator.channel(fleet.blob_address))

    @asynccontextmanager
    async def _typed(self) -> AsyncGenerator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, self._peer) from error
        except TimeoutError as error:
            raise TunefleetError(
                Reason.TIME_LIMIT, f"{self._peer} did not answer in time.", hint="Try again."
            ) from error

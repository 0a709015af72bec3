"""FakeCoordinator: the user API from dictionaries, over a real gRPC server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn, Self

import grpc
import grpc.aio
from google.protobuf.message import Message

from tunefleet.artifact.v1.artifact_pb2 import Manifest
from tunefleet.artifact.v1.artifact_service_pb2 import PruneArtifactsResponse
from tunefleet.artifact.v1.artifact_service_pb2_grpc import add_ArtifactServiceServicer_to_server
from tunefleet.artifact.v1.blob_service_pb2_grpc import add_BlobServiceServicer_to_server
from tunefleet.catalog.v1.catalog_service_pb2 import Backend, Combination, Family, Format, Plugin
from tunefleet.catalog.v1.catalog_service_pb2_grpc import add_CatalogServiceServicer_to_server
from tunefleet.dataset.v1.dataset_pb2 import Dataset
from tunefleet.dataset.v1.dataset_service_pb2 import CheckRowsResponse
from tunefleet.dataset.v1.dataset_service_pb2_grpc import add_DatasetServiceServicer_to_server
from tunefleet.deployment.v1.deployment_pb2 import Deployment
from tunefleet.deployment.v1.deployment_service_pb2_grpc import add_DeploymentServiceServicer_to_server
from tunefleet.deployment.v1.rollout_pb2 import DeploymentEvent, Rollout
from tunefleet.fleet.v1.fleet_pb2 import Service, ServiceKind, ServiceState
from tunefleet.fleet.v1.fleet_service_pb2 import GetFleetResponse, Token
from tunefleet.fleet.v1.fleet_service_pb2_grpc import add_FleetServiceServicer_to_server
from tunefleet.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from tunefleet.job.v1.diagnosis_pb2 import Diagnosis
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.job_service_pb2 import JobEvents, PlanJobResponse, WatchJobResponse
from tunefleet.job.v1.job_service_pb2_grpc import add_JobServiceServicer_to_server
from tunefleet.job.v1.state_pb2 import CheckpointRef, JobState
from tunefleet.model.v1.model_pb2 import Model
from tunefleet.model.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from tunefleet_client.testing import fake_data, fake_fleet, fake_servicers
from tunefleet_client.watch import is_terminal
from tunefleet_core.errors import STATUS_METADATA_KEY, Reason, TunefleetError, status_from_error

__all__ = ["FakeCoordinator"]


class FakeCoordinator:
    """A coordinator that answers from what a test put into it.

    Args:
        certificate: PEM file that it shows, its key beside it as `key.pem`; None: no TLS.

    Attributes:
        jobs: By full name; `events`, `checkpoints`, `models`, `deployments`, `rollouts`,
            `deployment_events`, `datasets`, `tokens` likewise. `blobs` and `manifests` are by digest.
        plan: What PlanJob answers; `diagnosis`, `fleet`, `check` and `prunable` likewise for
            DiagnoseJob, GetFleet, CheckRows and PruneArtifacts.
        answer: What a chat with any deployment answers, once `add_gateway` was called.
        error: Raised by every unary call while set.
        unavailable_calls: How many more calls fail as if the server were starting.
        lost_answers: How many more new tokens are made but answered with UNAVAILABLE.
        delay_seconds: How long every call takes.
        requests: Every request that arrived, in order.
        deadlines: What each of them had left, in seconds; None for a call without a deadline.
        cuts: How many more watch streams are cut, each after `cut_after` events.

    Example:
        >>> async with FakeCoordinator() as fake:  # doctest: +SKIP
        ...     async with connect(fake.address, fake.token) as client:
        ...         await client.jobs.list()
    """

    def __init__(
        self,
        *,
        token: str = "secret",
        port: int = 0,
        heartbeat_seconds: float = 15.0,
        certificate: Path | None = None,
    ) -> None:
        self._certificate = certificate
        self.token = token
        self.port = port
        self.jobs: dict[str, Job] = {}
        self.events: dict[str, list[JobEvent]] = {}
        self.checkpoints: dict[str, list[CheckpointRef]] = {}
        self.models: dict[str, Model] = {}
        self.deployments: dict[str, Deployment] = {}
        self.rollouts: dict[str, Rollout] = {}
        self.deployment_events: dict[str, list[DeploymentEvent]] = {}
        self.services: list[Service] = []
        self.plugins: list[Plugin] = []
        self.backends: list[Backend] = []
        self.families: list[Family] = []
        self.formats: list[Format] = []
        self.combinations: list[Combination] = []
        self.tokens: dict[str, Token] = {}
        self.token_requests: dict[str, str] = {}
        self.lost_answers = 0
        self.datasets: dict[str, Dataset] = {}
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, Manifest] = {}
        self.fleet = GetFleetResponse(version="0.0.0", principal="admin", role="admin")
        self.check = CheckRowsResponse()
        self.prunable = PruneArtifactsResponse()
        self.answer = "I am a fake."
        self.plan = PlanJobResponse()
        self.diagnosis = Diagnosis()
        self.error: TunefleetError | None = None
        self.unavailable_calls = 0
        self.delay_seconds = 0.0
        self.requests: list[Message] = []
        self.deadlines: list[float | None] = []
        self.cuts = 0
        self.cut_after = 1
        self._heartbeat_seconds = heartbeat_seconds
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a stop, on the same port again."""
        server = grpc.aio.server()
        self._add_servicers(server)
        if self._certificate is None:
            self.port = server.add_insecure_port(self.address)
        else:  # its key lies beside it
            key = self._certificate.with_name("key.pem").read_bytes()
            pair = grpc.ssl_server_credentials([(key, self._certificate.read_bytes())])
            self.port = server.add_secure_port(self.address, pair)
        await server.start()
        self._server = server
        self.fleet.blob_address = self.address

    def _add_servicers(self, server: grpc.aio.Server) -> None:
        add_JobServiceServicer_to_server(fake_servicers.FakeJobs(self), server)
        add_ModelServiceServicer_to_server(fake_servicers.FakeModels(self), server)
        add_DeploymentServiceServicer_to_server(fake_servicers.FakeDeployments(self), server)
        # The half that services speak is left to the generated base: UNIMPLEMENTED.
        fleet = fake_fleet.FakeFleet(self)  # pyright: ignore[reportAbstractUsage]
        add_FleetServiceServicer_to_server(fleet, server)
        add_CatalogServiceServicer_to_server(fake_fleet.FakeCatalog(self), server)
        add_InferenceServiceServicer_to_server(fake_fleet.FakeInference(self), server)
        add_DatasetServiceServicer_to_server(fake_data.FakeDatasets(self), server)
        artifacts = fake_data.FakeArtifacts(self)  # pyright: ignore[reportAbstractUsage]
        add_ArtifactServiceServicer_to_server(artifacts, server)
        add_BlobServiceServicer_to_server(fake_data.FakeBlobs(self), server)

    async def stop(self) -> None:
        """Drop every call and stop listening."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def write_state(self, folder: Path, *, gateway: str = "") -> None:
        """Write endpoints and token as `tunefleet up` does."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        endpoints = {"user": self.address, "service": self.address, "gateway": gateway}
        (folder / "endpoints.json").write_text(json.dumps(endpoints), encoding="utf-8")
        path = folder / "admin.token"
        path.touch(mode=0o600)
        path.write_text(self.token + "\n", encoding="utf-8")

    def add_gateway(self, name: str = "services/gateway-1") -> Service:
        """Attach a gateway that answers chats with `answer`; it listens where the rest does."""
        gateway = Service(
            name=name,
            kind=ServiceKind.SERVICE_KIND_GATEWAY,
            state=ServiceState.SERVICE_STATE_ATTACHED,
            endpoints={"inference": self.address},
        )
        self.services.append(gateway)
        return gateway

    async def append(self, name: str, *events: JobEvent) -> None:
        """Add events to a job's history, numbering them."""
        history = self.events.setdefault(name, [])
        for event in events:
            event.sequence = len(history) + 1
            history.append(event)
        self.jobs[name].last_sequence = len(history)
        await self._wake()

    async def move(self, name: str, state: JobState.ValueType) -> None:
        """Move a job to a state and note it in its history."""
        job = self.jobs[name]
        event = JobEvent(attempt=job.attempt)
        event.state_changed.to = state
        setattr(event.state_changed, "from", job.state)
        job.state = state
        await self.append(name, event)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def admit(self, request: Message, context: fake_servicers.Context) -> None:
        """Note a request; abort it if its token is wrong or an error is set."""
        self.requests.append(request)
        self.deadlines.append(context.time_remaining())
        await asyncio.sleep(self.delay_seconds)
        metadata = dict(context.invocation_metadata() or ())
        if metadata.get("authorization") != f"Bearer {self.token}":
            unknown = TunefleetError(
                Reason.TOKEN_INVALID,
                "This token is not known here.",
                hint="Use the token that tunefleet up wrote (TUNEFLEET_TOKEN, or the state folder).",
            )
            await self.abort(context, unknown)
        if self.unavailable_calls > 0:
            self.unavailable_calls -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        if self.error is not None:
            await self.abort(context, self.error)

    async def abort(self, context: fake_servicers.Context, error: TunefleetError) -> NoReturn:
        """End a call with an error as the coordinator would put it on the wire."""
        details = status_from_error(error).SerializeToString()
        await context.abort(grpc.StatusCode[error.code], error.message, ((STATUS_METADATA_KEY, details),))
        raise AssertionError("abort returns never")

    async def watch(
        self, name: str, after: int, context: fake_servicers.Context
    ) -> AsyncIterator[WatchJobResponse]:
        """Yield what a watch stream carries, cutting it if that is wanted."""
        yield WatchJobResponse(snapshot=self.jobs[name])
        sent = 0
        while True:
            history = self.events.get(name, [])
            for event in history[after : after + 10]:
                yield WatchJobResponse(events=JobEvents(events=[event]))
                after, sent = event.sequence, sent + 1
                if self.cuts > 0 and sent >= self.cut_after:
                    self.cuts -= 1
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            if after < len(history):
                continue
            if is_terminal(self.jobs[name]):
                yield WatchJobResponse(snapshot=self.jobs[name])
                return
            if not await self._news(name, after):
                beat = WatchJobResponse()
                beat.heartbeat.time.GetCurrentTime()
                yield beat

    async def _news(self, name: str, after: int) -> bool:
        try:
            async with asyncio.timeout(self._heartbeat_seconds), self._changed:
                await self._changed.wait_for(
                    lambda: len(self.events.get(name, [])) > after or is_terminal(self.jobs[name])
                )
        except TimeoutError:
            return False
        return True

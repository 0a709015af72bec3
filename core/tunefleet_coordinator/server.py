"""Put the coordinator together: store, kernel, two listeners.

People and services have a listener each: gRPC in Python cannot make client
certificates optional on one port, so the two kinds of callers need two.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from tunefleet.artifact.v1 import artifact_service_pb2_grpc as artifact_grpc
from tunefleet.catalog.v1 import catalog_service_pb2_grpc as catalog_grpc
from tunefleet.dataset.v1 import dataset_service_pb2_grpc as dataset_grpc
from tunefleet.deployment.v1 import deployment_service_pb2_grpc as deployment_grpc
from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet.job.v1 import job_service_pb2_grpc as job_grpc
from tunefleet.model.v1 import model_service_pb2_grpc as model_grpc
from tunefleet_coordinator.admission import Admission
from tunefleet_coordinator.desired_sets import DesiredSets
from tunefleet_coordinator.holding import hold_file
from tunefleet_coordinator.holds import Holds
from tunefleet_coordinator.inspections import InspectionBroker
from tunefleet_coordinator.introspection import (
    SERVICES_OF_PEOPLE,
    SERVICES_OF_SERVICES,
    Health,
    add_introspection,
)
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.located import DatasetLocator
from tunefleet_coordinator.pruning import BLOB_GRACE_SECONDS, Pruner
from tunefleet_coordinator.resolver import Resolver
from tunefleet_coordinator.security import AuthInterceptor, TokenBook, builtin_principals
from tunefleet_coordinator.servicers.artifact import ArtifactServicer
from tunefleet_coordinator.servicers.catalog import CatalogServicer
from tunefleet_coordinator.servicers.dataset import DatasetServicer
from tunefleet_coordinator.servicers.deployment import DeploymentServicer
from tunefleet_coordinator.servicers.fleet import FleetServicer
from tunefleet_coordinator.servicers.fleet_facts import FleetFacts
from tunefleet_coordinator.servicers.job import JobServicer
from tunefleet_coordinator.servicers.model import ModelServicer
from tunefleet_coordinator.servicers.tokens import TokenDesk
from tunefleet_coordinator.sessions import SessionPolicy, Sessions
from tunefleet_coordinator.store import Store
from tunefleet_coordinator.store.schema import HEAD_REVISION
from tunefleet_coordinator.store.state_version import note_version, refuse_newer
from tunefleet_core.artifacts import BlobStore, Watermark
from tunefleet_core.catalog import FamilyRegistry, FormatRegistry
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import Policy
from tunefleet_core.plugins import childless, load_plugins
from tunefleet_core.rpc import ErrorInterceptor, found_by_name, is_loopback
from tunefleet_core.rpc.channels import MESSAGE_OPTIONS

__all__ = ["CoordinatorOptions", "serve"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorOptions:
    """How a coordinator is started."""

    state_folder: Path
    user_address: str
    service_address: str
    lease_seconds: float = 10.0
    blob_address: str = ""
    """Where the blobs process listens, told to clients; empty: there is none."""
    least_free_bytes: int | None = None
    """Disk that new work leaves free; see `Watermark`."""
    blob_grace_seconds: float = BLOB_GRACE_SECONDS
    """How long a blob stays that nothing names."""


async def serve(options: CoordinatorOptions, group: asyncio.TaskGroup) -> None:
    """Serve until cancelled.

    Raises:
        TunefleetError: STATE_FOLDER_HELD, STATE_TOO_NEW, FIELD_INVALID for an address beyond
            this machine.
    """
    for field, address in (
        ("user_address", options.user_address),
        ("service_address", options.service_address),
    ):
        if not is_loopback(address):
            raise TunefleetError.field(
                field, f"'{address}' is reachable from other machines, which needs TLS"
            )
    database = options.state_folder / "coordinator.db"
    # Before the lock file, and again when the store is opened: a newer one's folder stays as it is.
    await asyncio.to_thread(refuse_newer, database, HEAD_REVISION)
    with hold_file(options.state_folder / "coordinator.lock", "coordinator"):
        store = await asyncio.to_thread(Store.open, database)
        try:
            await asyncio.to_thread(note_version, database, HEAD_REVISION)
            await _serve_store(options, store, group)
        finally:
            await asyncio.to_thread(store.close)


async def _serve_store(options: CoordinatorOptions, store: Store, group: asyncio.TaskGroup) -> None:
    tokens = TokenBook(await asyncio.to_thread(builtin_principals, options.state_folder))
    artifacts = options.state_folder / "artifacts"
    kernel = Kernel(store, Policy(lease_term_seconds=options.lease_seconds))
    broker = InspectionBroker(lambda service: sessions.desired_changed(service))
    desired = DesiredSets(kernel, broker, tokens)
    policy = SessionPolicy(lease_term_seconds=options.lease_seconds, artifact_store=f"file://{artifacts}")
    sessions = Sessions(kernel, desired, policy)
    plugins = await asyncio.to_thread(load_plugins, guard=childless)
    blobs = BlobStore(artifacts)
    watermark = Watermark(folder=options.state_folder, least_bytes=options.least_free_bytes)
    holds = Holds()
    resolver = Resolver(
        kernel,
        broker,
        FamilyRegistry(plugins.families()),
        datasets=DatasetLocator(kernel, blobs, holds),
        holds=holds,
        formats=FormatRegistry(plugins.formats()),
    )
    admission = Admission(watermark, holds)
    facts = FleetFacts(
        blob_address=options.blob_address,
        watermark=watermark,
        start_time=kernel.moment().wall,
    )
    desk = TokenDesk(kernel, sessions, tokens)
    fleet = FleetServicer(kernel, sessions, broker, facts, tokens=desk)
    pruner = Pruner(
        kernel,
        blobs,
        holds,
        services_folder=options.state_folder / "services",
        grace_seconds=options.blob_grace_seconds,
    )
    artifact = ArtifactServicer(kernel, blobs, pruner)

    health = Health()
    users = _listener(tokens, health)
    people = found_by_name(users)
    job_grpc.add_JobServiceServicer_to_server(JobServicer(kernel, resolver, admission), people)
    model_grpc.add_ModelServiceServicer_to_server(ModelServicer(kernel, pruner), people)
    deployments = DeploymentServicer(kernel, resolver, admission)
    deployment_grpc.add_DeploymentServiceServicer_to_server(deployments, people)
    datasets = DatasetServicer(kernel, resolver, blobs, watermark)
    dataset_grpc.add_DatasetServiceServicer_to_server(datasets, people)
    catalog_grpc.add_CatalogServiceServicer_to_server(CatalogServicer(kernel, plugins), people)
    fleet_grpc.add_FleetServiceServicer_to_server(fleet, people)
    artifact_grpc.add_ArtifactServiceServicer_to_server(artifact, people)
    services = _listener(tokens, health)
    machines = found_by_name(services)
    fleet_grpc.add_FleetServiceServicer_to_server(fleet, machines)
    artifact_grpc.add_ArtifactServiceServicer_to_server(artifact, machines)

    add_introspection(health, users, SERVICES_OF_PEOPLE)
    add_introspection(health, services, SERVICES_OF_SERVICES)

    try:
        _listen(users, options.user_address)
        _listen(services, options.service_address)
        working = group.create_task(kernel.run())
        # Open from the first moment, so that health can say that nothing is answered yet.
        await services.start()
        await users.start()
        await kernel.ready()
        await desk.load()
        health.set_serving(True)
        _LOG.info("serving users at %s, services at %s", options.user_address, options.service_address)
        await working
    finally:
        health.set_serving(False)
        # A server that is not stopped hangs the interpreter's exit.
        await asyncio.gather(users.stop(grace=0.5), services.stop(grace=0.5))


def _listener(tokens: TokenBook, health: Health) -> grpc.aio.Server:
    options = [*MESSAGE_OPTIONS, ("grpc.so_reuseport", 0)]  # a port that is taken must be an error
    admission = AuthInterceptor(tokens, lambda: health.is_serving)
    return grpc.aio.server(interceptors=[ErrorInterceptor(), admission], options=options)


def _listen(server: grpc.aio.Server, address: str) -> None:
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise TunefleetError(
            Reason.UNAVAILABLE,
            f"The coordinator cannot listen at {address}: the port is taken, or not allowed.",
            hint="Stop what listens there, or choose another port.",
            metadata={"address": address},
        ) from None

"""Put the coordinator together: store, kernel, listeners.

People and services have a listener each: gRPC in Python cannot make client
certificates optional on one port, so the two kinds of callers need two. Services
of this machine come to one of loopback with a token, those of other machines to
one that asks for their certificates.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta
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
from tunefleet_coordinator.security import (
    AuthInterceptor,
    MemberBook,
    MemberInterceptor,
    TokenBook,
    builtin_principals,
)
from tunefleet_coordinator.servicers.artifact import ArtifactServicer
from tunefleet_coordinator.servicers.catalog import CatalogServicer
from tunefleet_coordinator.servicers.dataset import DatasetServicer
from tunefleet_coordinator.servicers.deployment import DeploymentServicer
from tunefleet_coordinator.servicers.fleet import FleetServicer
from tunefleet_coordinator.servicers.fleet_facts import FleetFacts
from tunefleet_coordinator.servicers.job import JobServicer
from tunefleet_coordinator.servicers.joining import JoinDesk, JoinPlace
from tunefleet_coordinator.servicers.model import ModelServicer
from tunefleet_coordinator.servicers.tokens import TokenDesk
from tunefleet_coordinator.sessions import SessionPolicy, Sessions
from tunefleet_coordinator.store import Store
from tunefleet_coordinator.store.schema import HEAD_REVISION
from tunefleet_coordinator.store.state_version import note_version, refuse_newer
from tunefleet_coordinator.tls import FleetTls, TlsOptions, open_tls
from tunefleet_core.artifacts import BlobStore, Watermark
from tunefleet_core.catalog import FamilyRegistry, FormatRegistry
from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle import Policy
from tunefleet_core.plugins import childless, load_plugins
from tunefleet_core.rpc import (
    ErrorInterceptor,
    ListenerTls,
    found_by_name,
    listen,
    listener_options,
    require_tls,
)
from tunefleet_core.rpc.channels import MESSAGE_OPTIONS

__all__ = ["CERTIFICATE_SECONDS", "CoordinatorOptions", "serve"]

CERTIFICATE_SECONDS = 30 * 86_400.0
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
    tls: TlsOptions | None = None
    """Left out: everything stays on this machine, in the clear."""
    member_address: str = ""
    """Listener for services of other machines; needs TLS. Empty: there is none."""
    member_blob_address: str = ""
    """Where the blobs process listens for them."""
    certificate_seconds: float = CERTIFICATE_SECONDS
    """How long the certificates of such services are good; they renew them in time."""


async def serve(options: CoordinatorOptions, group: asyncio.TaskGroup) -> None:
    """Serve until cancelled.

    Raises:
        TunefleetError: STATE_FOLDER_HELD, STATE_TOO_NEW, FIELD_INVALID for an address beyond
            this machine without TLS.
    """
    require_tls(
        "user-address", options.user_address, has_tls=options.tls is not None, hint="Turn it on: --tls"
    )
    require_tls(
        "service-address",
        options.service_address,
        has_tls=False,
        hint="Services of other machines have a listener of their own: --member-address",
    )
    if options.member_address and options.tls is None:
        raise TunefleetError.field("member-address", "needs TLS", hint="Turn it on: --tls")
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
    # Before the tokens: whoever waits for a token file finds the certificates too.
    tls = None
    if options.tls is not None:
        tls = await asyncio.to_thread(open_tls, options.state_folder, options.user_address, options.tls)
    tokens = TokenBook(await asyncio.to_thread(builtin_principals, options.state_folder))
    members = MemberBook()
    artifacts = options.state_folder / "artifacts"
    kernel = Kernel(store, Policy(lease_term_seconds=options.lease_seconds))
    broker = InspectionBroker(lambda service: sessions.desired_changed(service))
    desired = DesiredSets(kernel, broker, tokens, members)
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
    blob_address = options.blob_address
    facts = FleetFacts(
        blob_address=tls.told(blob_address) if tls and blob_address else blob_address,
        local_blob_address=tls.called_here(blob_address) if tls and blob_address else blob_address,
        watermark=watermark,
        start_time=kernel.moment().wall,
        user_address=tls.told(options.user_address) if tls else "",
        authority=tls.trust.decode() if tls else "",
    )
    desk = TokenDesk(kernel, sessions, tokens)
    joining = JoinDesk(kernel, sessions, members, _join_place(options, tls))
    fleet = FleetServicer(kernel, sessions, broker, facts, tokens=desk, joining=joining)
    pruner = Pruner(
        kernel,
        blobs,
        holds,
        services_folder=options.state_folder / "services",
        grace_seconds=options.blob_grace_seconds,
    )
    artifact = ArtifactServicer(kernel, blobs, pruner)

    health = Health()
    users = _listener(AuthInterceptor(tokens, lambda: health.is_serving), tls.users if tls else None)
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
    add_introspection(health, users, SERVICES_OF_PEOPLE)
    listeners = [(users, options.user_address, tls.users if tls else None)]
    of_services: list[tuple[grpc.aio.ServerInterceptor, str, ListenerTls | None]]
    of_services = [(AuthInterceptor(tokens, lambda: health.is_serving), options.service_address, None)]
    if tls is not None and options.member_address:
        checked = MemberInterceptor(members, lambda: health.is_serving)
        of_services.append((checked, options.member_address, tls.services))
    for admission, address, shown in of_services:
        services = _listener(admission, shown)
        machines = found_by_name(services)
        fleet_grpc.add_FleetServiceServicer_to_server(fleet, machines)
        artifact_grpc.add_ArtifactServiceServicer_to_server(artifact, machines)
        add_introspection(health, services, SERVICES_OF_SERVICES)
        listeners.append((services, address, shown))

    try:
        for server, address, shown in listeners:
            listen(server, address, shown, who="The coordinator")
        working = group.create_task(kernel.run())
        # Open from the first moment, so that health can say that nothing is answered yet.
        for server, _, _ in reversed(listeners):
            await server.start()
        await kernel.ready()
        await desk.load()
        await joining.load()
        health.set_serving(True)
        _LOG.info("serving users at %s, services at %s", options.user_address, options.service_address)
        await working
    finally:
        health.set_serving(False)
        # A server that is not stopped hangs the interpreter's exit.
        await asyncio.gather(*(server.stop(grace=0.5) for server, _, _ in listeners))


def _join_place(options: CoordinatorOptions, tls: FleetTls | None) -> JoinPlace | None:
    if tls is None or not options.member_address:
        return None
    return JoinPlace(
        tls=tls,
        service_address=tls.told(options.member_address),
        user_address=tls.told(options.user_address),
        blob_address=tls.told(options.member_blob_address) if options.member_blob_address else "",
        certificate_life=timedelta(seconds=options.certificate_seconds),
    )


def _listener(admission: grpc.aio.ServerInterceptor, tls: ListenerTls | None) -> grpc.aio.Server:
    options = [*MESSAGE_OPTIONS, *listener_options(tls)]
    return grpc.aio.server(interceptors=[ErrorInterceptor(), admission], options=options)

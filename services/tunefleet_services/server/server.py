"""The server: reconciles the deployments it holds with those it is told to hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tunefleet.backend.v1.server_pb2 import Engine, EngineState
from tunefleet.fleet.v1.fleet_pb2 import (
    DeploymentAssignment,
    DeploymentStatus,
    DesiredSet,
    Service,
    ServiceKind,
)
from tunefleet.fleet.v1.fleet_service_pb2 import Hello, Welcome
from tunefleet_core import CONTRACT_VERSION, __version__
from tunefleet_services.control import ArtifactFolders, Connection, InspectionDesk, ServiceSession, no_audit
from tunefleet_services.hosts import BackendDirectory, remove_stale_sockets
from tunefleet_services.joining import Membership, keep_renewed
from tunefleet_services.machine import describe_machine
from tunefleet_services.server.context import ServerContext
from tunefleet_services.server.deployment import DeploymentRunner
from tunefleet_services.server.deployment_record import find_deployments
from tunefleet_services.server.engines import Engines

__all__ = ["Server", "ServerOptions"]

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How a server is started."""

    name: str
    address: str
    token: str
    state_folder: Path
    work_folder: Path
    lease_seconds: float = 10.0
    relays: tuple[str, ...] = ()
    """gRPC doors, `host:port`, of gateways to which requests are carried; empty: gateways dial engines."""
    membership: Membership | None = None
    """Of a fleet on another machine; then there is no token, and the coordinator names the relays."""


class Server:
    """A service of kind SERVER."""

    def __init__(self, options: ServerOptions, group: asyncio.TaskGroup) -> None:
        self._options = options
        self._group = group
        member = options.membership
        self._connection = Connection(
            options.address, options.token, tls=None if member is None else member.channel_tls
        )
        self._session = ServiceSession(self._connection, self)
        self._context = ServerContext(
            connection=self._connection,
            directory=BackendDirectory(options.state_folder),
            machine=describe_machine(options.state_folder),
            work_folder=options.work_folder,
            lease_seconds=options.lease_seconds,
            report=self._session.report_deployment,
            relayed_as=options.name if options.relays or member is not None else "",
        )
        self._engines = Engines(self._context, group)
        adapters = options.work_folder / "adapters"
        self._adapters = ArtifactFolders(self._connection, self._context.blobs, adapters)
        self._desk = InspectionDesk(
            self._connection, no_audit, group, models=self._context.models, disk=options.work_folder
        )
        self._runners: dict[str, DeploymentRunner] = {}
        self._wanted: dict[str, DeploymentAssignment] = {}
        self._relays: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Work until cancelled. Engines go on without this process: the next one adopts them."""
        await asyncio.to_thread(remove_stale_sockets)
        await self._context.directory.refresh()
        await self._adopt()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._session.run())
                group.create_task(self._watch_backends())
                if self._options.membership is not None:
                    renewing = keep_renewed(self._options.membership, self._connection, self._renewed)
                    group.create_task(renewing)
                self._relay_to(self._options.relays)
        finally:
            await self._connection.close()

    def hello(self) -> Hello:
        """Return who attaches and which deployments it holds."""
        service = Service(
            name=f"services/{self._options.name}",
            kind=ServiceKind.SERVICE_KIND_SERVER,
            host=self._context.machine,
            backends=self._context.directory.backends(),
            version=__version__,
            holds=self._engines.names(),
        )
        statuses: list[DeploymentStatus] = [runner.status for runner in self._runners.values()]
        return Hello(service=service, contract_versions=[CONTRACT_VERSION], deployments=statuses)

    async def welcomed(self, welcome: Welcome) -> None:
        """Learn where artifacts lie."""
        self._context.name_store(welcome.artifact_store)

    async def desired(self, desired: DesiredSet) -> None:
        """Begin what is new, take down what is not named any more, end engines nobody needs."""
        self._desk.desired(list(desired.inspections))
        if self._options.membership is not None:
            self._relay_to(desired.relays)
        self._wanted = {item.deployment_uid: item for item in desired.deployments}
        for uid, runner in self._runners.items():
            wanted = self._wanted.get(uid)
            if wanted is None or wanted.earlier_tries != runner.assignment.earlier_tries:
                runner.dismiss()
            else:
                # One that was taken from this server while it was silent, and is given back, is not what
                # the hello told of: it was nobody's then.
                self._session.report_deployment(runner.status)
        for uid, assignment in self._wanted.items():
            if uid not in self._runners:
                self._begin(assignment, None)
        self._engines.sweep()

    async def _adopt(self) -> None:
        """Take over from this server's earlier life what still serves."""
        adopted = await self._engines.adopt()
        kept: set[str] = set()
        for folder in await asyncio.to_thread(find_deployments, self._context.deployments):
            assignment, status = await asyncio.to_thread(folder.read)
            engine = self._engines.find(assignment)
            if engine is not None and _serves(adopted.get(engine.spec.engine), assignment):
                self._begin(assignment, status)
                kept |= {assignment.adapter_manifest_digest, assignment.base.manifest_digest}
            else:
                await asyncio.to_thread(folder.remove)
        await asyncio.to_thread(self._adapters.prune, kept)
        await asyncio.to_thread(self._context.models.prune, kept)

    def _begin(self, assignment: DeploymentAssignment, kept: DeploymentStatus | None) -> None:
        runner = DeploymentRunner(self._context, self._engines, self._adapters, assignment, kept)
        self._runners[assignment.deployment_uid] = runner
        self._group.create_task(self._drive(runner))

    async def _drive(self, runner: DeploymentRunner) -> None:
        await runner.run()
        uid = runner.assignment.deployment_uid
        del self._runners[uid]
        if uid in self._wanted:  # it came back while it was taken down
            self._begin(self._wanted[uid], None)

    def _relay_to(self, gateways: Iterable[str]) -> None:
        """Carry requests from these gateways, and from no others any more."""
        wanted = set(gateways)
        for gateway in self._relays.keys() - wanted:
            self._relays.pop(gateway).cancel()
        for gateway in wanted - self._relays.keys():
            self._relays[gateway] = self._group.create_task(self._relay(gateway))

    async def _relay(self, gateway: str) -> None:
        # aiohttp, which a server that is dialled does without
        from tunefleet_services.server.relay import Relay

        options = self._options
        relay = Relay(
            gateway,
            server=options.name,
            token=options.token,
            tls=self._connection.tls,
            engine_address=self._engines.address_of,
        )
        await relay.run()

    def _renewed(self) -> None:
        """Go over to the new certificate everywhere. An answer that a relay carries just then breaks off."""
        self._session.attach_anew()
        gateways = list(self._relays)
        self._relay_to(())
        self._relay_to(gateways)

    async def _watch_backends(self) -> None:
        """Notice a plugin that was installed while the server runs."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if await self._context.directory.refresh():
                self._session.report_backends(self._context.directory.backends())


def _serves(engine: Engine | None, assignment: DeploymentAssignment) -> bool:
    """Whether an adopted engine answers to a deployment's model already."""
    if engine is None or engine.state != EngineState.ENGINE_STATE_READY:
        return False
    return not assignment.adapter_manifest_digest or assignment.engine_model in engine.adapters

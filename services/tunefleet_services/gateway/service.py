"""The gateway as a service of the fleet: every desired set replaces its route table.

The table outlives the session: while the coordinator is away, the last one serves on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path

from tunefleet.deployment.v1.rollout_pb2 import StickyKey
from tunefleet.fleet.v1.fleet_pb2 import DesiredSet, Service, ServiceKind
from tunefleet.fleet.v1.fleet_pb2 import Route as WireRoute
from tunefleet.fleet.v1.fleet_service_pb2 import Hello, Welcome
from tunefleet_core import CONTRACT_VERSION, __version__
from tunefleet_core.errors import TunefleetError
from tunefleet_core.rpc import ChannelTls, ListenerTls
from tunefleet_services.control import Connection, ServiceSession
from tunefleet_services.gateway.access_log import AccessLog
from tunefleet_services.gateway.fine_tuning import FineTuning
from tunefleet_services.gateway.inference import serve_inference, serve_relays
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.gateway.routes import Grant, Route, RouteTable, RouteTableHolder
from tunefleet_services.gateway.serve import serve_gateway, ssl_context
from tunefleet_services.gateway.settings import GatewaySettings
from tunefleet_services.gateway.splits import Split, StickyBy
from tunefleet_services.gateway.tracing import Tracing
from tunefleet_services.gateway.version_traffic import VersionTraffic
from tunefleet_services.joining import Membership, keep_renewed
from tunefleet_services.machine import describe_machine

__all__ = ["Gateway", "GatewayOptions", "table_of"]

_LOG = logging.getLogger(__name__)
_ADDRESS_LABEL = "address"
_STICKY: Mapping[int, StickyBy] = {
    StickyKey.STICKY_KEY_USER: "user",
    StickyKey.STICKY_KEY_SESSION: "session",
    StickyKey.STICKY_KEY_NONE: "none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """How a gateway is started."""

    name: str
    address: str
    token: str
    state_folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    inference_port: int = 0
    """Port of the gRPC door; 0 takes a free one."""
    user_address: str = ""
    """Where the coordinator takes calls of people; empty: this gateway does not fine-tune."""
    user_authority: bytes = b""
    """What the certificate there is checked by, PEM; empty: it is plain."""
    tls: ListenerTls | None = None
    """What both doors show; demanded beyond this machine."""
    public_name: str = ""
    """What others call this machine; empty: as the doors are bound."""
    relay_port: int = 0
    relay_tls: ListenerTls | None = None
    """Of the door for servers of other machines; None: there is none."""
    membership: Membership | None = None
    """Of a fleet on another machine; then there is no token."""
    settings: GatewaySettings = field(default_factory=GatewaySettings)


class Gateway:
    """A service of kind GATEWAY."""

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._machine = describe_machine(options.state_folder)
        member = options.membership
        self._connection = Connection(
            options.address, options.token, tls=None if member is None else member.channel_tls
        )
        self._session = ServiceSession(self._connection, self)
        self._routes = RouteTableHolder()
        if options.token:
            self._routes.relays.admit(options.token)
        self._base_address = ""
        self._inference_address = ""
        self._relay_address = ""
        self._settings = options.settings
        self._metrics = Metrics()
        self._traffic = VersionTraffic(self._routes.replicas.changed)
        address = options.user_address
        tls = ChannelTls.of_authority(options.user_authority)
        self._fine_tuning = FineTuning(address, self._routes, self._settings, tls=tls) if address else None
        self._access_log = AccessLog()
        self._tracing = Tracing.from_environment()
        self._listening = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._serve_http())
                group.create_task(self._serve_grpc())
                if self._options.relay_tls is not None:
                    group.create_task(self._serve_relays(self._options.relay_tls))
                await self._listening.wait()  # the hello tells where
                group.create_task(self._session.run())
                if self._options.membership is not None:
                    renewing = keep_renewed(
                        self._options.membership, self._connection, self._session.attach_anew
                    )
                    group.create_task(renewing)
                group.create_task(self._tell_traffic())
        finally:
            await self._connection.close()
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)

    async def _serve_http(self) -> None:
        await serve_gateway(
            self._routes,
            self._options.host,
            self._options.port,
            settings=self._settings,
            tls=None if self._options.tls is None else ssl_context(self._options.tls),
            access_log=self._access_log,
            metrics=self._metrics,
            fine_tuning=self._fine_tuning,
            traffic=self._traffic,
            tracing=self._tracing,
            on_listening=self._note_address,
        )

    async def _serve_grpc(self) -> None:
        await serve_inference(
            self._routes,
            f"{self._options.host}:{self._options.inference_port}",
            settings=self._settings,
            tls=self._options.tls,
            metrics=self._metrics,
            access_log=self._access_log,
            traffic=self._traffic,
            tracing=self._tracing,
            on_listening=self._note_inference_address,
        )

    async def _serve_relays(self, tls: ListenerTls) -> None:
        await serve_relays(
            self._routes.relays,
            f"{self._options.host}:{self._options.relay_port}",
            tls=tls,
            on_listening=self._note_relay_address,
        )

    def hello(self) -> Hello:
        """Return who attaches; endpoints and the label `address` say where it takes requests."""
        service = Service(
            name=f"services/{self._options.name}",
            kind=ServiceKind.SERVICE_KIND_GATEWAY,
            host=self._machine,
            version=__version__,
            labels={_ADDRESS_LABEL: self._base_address},
            endpoints={
                "openai": f"{self._base_address}/v1",
                "inference": self._inference_address,
                **({"relay": self._relay_address} if self._relay_address else {}),
            },
        )
        return Hello(service=service, contract_versions=[CONTRACT_VERSION])

    async def welcomed(self, welcome: Welcome) -> None:
        """The routes come with the desired set; until then the last ones serve."""

    async def desired(self, desired: DesiredSet) -> None:
        """Put the routes of the desired set in force for every request that begins now."""
        self._routes.replace_routes(table_of(desired))
        self._routes.relays.admit_members(
            {item.sha256: item.service.removeprefix("services/") for item in desired.relay_certificates}
        )
        self._traffic.drain(desired.draining)
        self._routes.replicas.drain(desired.draining_replicas)

    async def _tell_traffic(self) -> None:
        """Tell what versions answered now and then, and at once when a draining one has nothing left."""
        while True:
            try:
                async with asyncio.timeout(self._settings.report_seconds):
                    await self._traffic.changed.wait()
            except TimeoutError:
                pass
            self._traffic.changed.clear()
            self._session.report_traffic(
                self._traffic.take_counts(), self._traffic.drained(), self._routes.replicas.drained()
            )

    def _note_address(self, base_address: str) -> None:
        _LOG.info("gateway listens on %s", base_address)
        scheme, _, address = base_address.partition("://")
        self._base_address = f"{scheme}://{self._told(address)}"
        self._note_listening()

    def _note_inference_address(self, address: str) -> None:
        _LOG.info("gateway speaks gRPC at %s", address)
        self._inference_address = self._told(address)
        self._note_listening()

    def _note_relay_address(self, address: str) -> None:
        _LOG.info("gateway takes relays of other machines at %s", address)
        self._relay_address = self._told(address)
        self._note_listening()

    def _told(self, address: str) -> str:
        name = self._options.public_name
        return f"{name}:{address.rpartition(':')[2]}" if name else address

    def _note_listening(self) -> None:
        has_relay = self._relay_address or self._options.relay_tls is None
        if self._base_address and self._inference_address and has_relay:
            self._listening.set()


def table_of(desired: DesiredSet) -> RouteTable:
    """Return the route table of a desired set; a route that leads nowhere is left out and logged."""
    grants = [
        (
            item.digest,
            Grant(
                project=item.project,
                expire_time=item.expire_time.ToNanoseconds() / 1e9 if item.HasField("expire_time") else None,
            ),
        )
        for item in desired.token_grants
    ]
    return RouteTable.of(_usable(desired.routes), desired.token_digests, grants)


def _usable(routes: Iterable[WireRoute]) -> list[Route]:
    usable: list[Route] = []
    for wire in routes:
        route = Route(
            model=wire.model,
            engine_addresses=(wire.engine_address,),
            engine_model=wire.engine_model,
            project=wire.project,
            create_time=wire.create_time.ToDatetime(tzinfo=UTC),
            version=wire.deployment_uid,
            replica_uids={wire.engine_address: wire.replica_uid} if wire.replica_uid else {},
            weight=wire.weight,
            split=_split(wire) if wire.HasField("split") else None,
        )
        try:
            RouteTable.of([route], ())
        except TunefleetError as error:  # one bad route must not cost the others
            _LOG.error("route of model %r is left out: %s", wire.model, error.message)
        else:
            usable.append(route)
    return usable


def _split(wire: WireRoute) -> Split:
    return Split(
        rollout=wire.split.rollout,
        is_candidate=wire.split.is_candidate,
        sticky=_STICKY.get(wire.split.sticky, "user"),
    )

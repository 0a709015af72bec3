"""Coordinator, trainers, server and gateway on one machine: no flags, no config.

Stopping stops everything the fleet started, contract hosts and engines too. A
supervisor that is killed leaves running jobs alone for one lease term: the next
`tunefleet up` on the same state folder adopts them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet.fleet.v1.fleet_service_pb2 import ListServicesRequest
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.process import configure_logging, read_token
from tunefleet_core.rpc import ChannelTls, is_loopback, open_channel
from tunefleet_core.worker.marker import FLEET_MARKER, end_marked, marked_environment
from tunefleet_services.hosts import remove_stale_sockets
from tunefleet_services.local.children import Child, ChildSpec
from tunefleet_services.local.endpoints import Endpoints, choose_endpoints
from tunefleet_services.local.lock import hold_state_folder

__all__ = ["UpOptions", "run_up"]

_READY_LIMIT_SECONDS = 60.0
_POLL_SECONDS = 0.1
_START_TRIES = 3
_PORTS_LIMIT_SECONDS = 5.0
_EVERY_ADDRESS = ("0.0.0.0", "::", "[::]")
_AUTHORITY = "authority"
_TRUST = f"{_AUTHORITY}/trust.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """How to start a local fleet."""

    state_folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    trainers: int = 1
    servers: int = 1
    """Each runs engines of its own; a processor serves one replica of a model per server."""
    lease_seconds: float = 10.0
    warm: bool = True
    tls: bool = False
    """Ask for TLS on loopback too; beyond it, it is always on."""
    public_names: tuple[str, ...] = ()
    """What other machines call this one; the first is told to them."""
    tls_cert: Path | None = None
    """The operator's own certificate for people; None: of the fleet's own authority."""
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """What people check it by."""
    gateway_options: tuple[str, ...] = ()
    """Further options of the gateway's command, such as `("--requests-at-once", "8")`."""
    announce: Callable[[str], None] = print
    """Told one line of text for people at each step of the start."""

    @property
    def has_tls(self) -> bool:
        """Whether listeners have TLS, and services of other machines may join."""
        return self.tls or not is_loopback(f"{self.host}:1")

    @property
    def told_host(self) -> str:
        """What other machines call this one."""
        return self.public_names[0] if self.public_names else self.host

    @property
    def local_host(self) -> str:
        """What programs of this machine call the listeners for people; empty: as they are bound."""
        if self.tls_cert is not None:
            return self.told_host  # a certificate of the operator's hardly names loopback
        return "127.0.0.1" if self.host in _EVERY_ADDRESS else ""


def run_up(options: UpOptions) -> None:
    """Run a local fleet in the foreground until TERM or Ctrl-C.

    Raises:
        TunefleetError: STATE_FOLDER_HELD if the folder has a fleet already,
            FIELD_INVALID for options that lack their counterpart, UNAVAILABLE if the
            coordinator cannot be started.
    """
    if options.host in _EVERY_ADDRESS and not options.public_names:
        raise TunefleetError.field(
            "public-name",
            f"must be given for --host {options.host}, which is every address of this machine",
            hint="Say what other machines call this one: --public-name gpu0.example",
        )
    if (options.tls_cert is None) != (options.tls_key is None):
        raise TunefleetError.field("tls-key", "goes with --tls-cert: give both")
    configure_logging(logging.WARNING)
    with hold_state_folder(options.state_folder):
        asyncio.run(_Fleet(options).run())


class _Fleet:
    """The children of one supervisor."""

    def __init__(self, options: UpOptions) -> None:
        self._options = options
        self._state = options.state_folder.absolute()
        self._endpoints = choose_endpoints(
            self._state, options.host, options.port, takes_members=options.has_tls
        )
        self._mark = hashlib.sha256(str(self._state).encode()).hexdigest()[:32]
        self._stopping = asyncio.Event()
        self._failure: TunefleetError | None = None
        self._has_answered = False

    async def _require_ports(self) -> None:
        """Refuse ports that others go on holding; those of a fleet that was killed are soon free."""
        taken = self._endpoints.taken()
        end = asyncio.get_running_loop().time() + _PORTS_LIMIT_SECONDS
        while taken and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(_POLL_SECONDS)
            taken = self._endpoints.taken()
        if taken:
            raise TunefleetError(
                Reason.UNAVAILABLE,
                f"{taken[0]} is taken, or cannot be listened at.",
                hint="Stop what listens there, or choose the first of five others: tunefleet up --port N",
                metadata={"address": taken[0]},
            )

    async def run(self) -> None:
        """Start everything, announce, wait for the signal, stop in order."""
        if self._options.port:
            await self._require_ports()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        if self._options.has_tls:
            # The coordinator makes one for the names of this start; nobody may begin with an older one.
            (self._state / _AUTHORITY / "server.pem").unlink(missing_ok=True)
        self._endpoints.write(
            self._state,
            host=self._options.local_host,
            authority=_TRUST if self._options.has_tls else "",
        )
        environment = marked_environment(self._mark, variable=FLEET_MARKER)
        coordinator = Child(_coordinator(self._options, self._endpoints), environment, lambda: None)
        services = [
            Child(spec, environment, lambda: None) for spec in _services(self._options, self._endpoints)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(coordinator.run())
                watching = group.create_task(self._watch_start(coordinator))
                await self._await_tokens()
                if not self._stopping.is_set():
                    for child in services:
                        group.create_task(child.run())
                waiting = group.create_task(
                    self._announce_ready(len(services) - 1)
                )  # the blobs process attaches to nothing
                await self._stopping.wait()
                watching.cancel()
                waiting.cancel()
                for child in services:
                    child.stop()
                coordinator.stop()
        finally:
            # Hosts and engines have sessions of their own: they are found by the fleet's mark.
            await asyncio.to_thread(end_marked, self._mark, variable=FLEET_MARKER)
            await asyncio.to_thread(remove_stale_sockets)
            self._options.announce("Stopped.")
        if self._failure is not None:
            raise self._failure

    async def _watch_start(self, coordinator: Child) -> None:
        """Give up when the coordinator ends again and again before it has ever answered."""
        while coordinator.starts < _START_TRIES or coordinator.pid:
            if self._has_answered:
                return
            await asyncio.sleep(_POLL_SECONDS)
        log = coordinator.spec.log
        self._failure = TunefleetError(
            Reason.UNAVAILABLE,
            f"The coordinator cannot be started: {await asyncio.to_thread(coordinator.last_words)}",
            hint=f"Correct that, then run it again. The whole log: {log}",
            metadata={"log": str(log)},
        )
        self._stopping.set()

    async def _await_tokens(self) -> None:
        """The coordinator makes tokens and certificates; its services cannot start without theirs."""
        files = [self._state / "service.token"]
        if self._options.has_tls:
            files += [self._state / _AUTHORITY / "server.pem", self._state / _TRUST]
        while not self._stopping.is_set() and not all(file.exists() for file in files):
            await asyncio.sleep(_POLL_SECONDS)

    async def _announce_ready(self, expected: int) -> None:
        say = self._options.announce
        while not (tls := await asyncio.to_thread(self._channel_tls)) and self._options.has_tls:
            await asyncio.sleep(_POLL_SECONDS)
        user, gateway = (
            _called_here(self._options, self._endpoints.user),
            _called_here(self._options, self._endpoints.gateway),
        )
        channel = open_channel(user, tls)
        try:
            async with asyncio.timeout(_READY_LIMIT_SECONDS):
                while await self._attached(channel) < expected:
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            say(f"Not all services answer after {_READY_LIMIT_SECONDS:.0f} s; see {self._state / 'logs'}")
            return
        finally:
            await channel.close()
        say(f"Fleet ready: API {user}, OpenAI {'https' if tls else 'http'}://{gateway}/v1")
        say(f"State and logs: {self._state}   (Ctrl-C stops everything)")
        if tls:
            say(f"Other machines call it {self._options.told_host}: tunefleet fleet tokens create")

    def _channel_tls(self) -> ChannelTls | None:
        if not self._options.has_tls or not (self._state / _TRUST).exists():
            return None
        return ChannelTls(authority=(self._state / _TRUST).read_bytes())

    async def _attached(self, channel: grpc.aio.Channel) -> int:
        stub: fleet_grpc.FleetServiceAsyncStub = fleet_grpc.FleetServiceStub(channel)  # pyright: ignore[reportAssignmentType]  # one class, two faces
        token = read_token(self._state / "admin.token")
        metadata = (("authorization", f"Bearer {token}"),)
        try:
            response = await stub.ListServices(ListServicesRequest(), metadata=metadata, timeout=5)
        except grpc.aio.AioRpcError:
            return 0
        self._has_answered = True
        attached = ServiceState.SERVICE_STATE_ATTACHED
        return sum(1 for service in response.services if service.state == attached)


def _called_here(options: UpOptions, address: str) -> str:
    """Return an address as programs of this machine call it."""
    host = options.local_host
    return f"{host}:{address.rpartition(':')[2]}" if host else address


def _coordinator(options: UpOptions, endpoints: Endpoints) -> ChildSpec:
    arguments = (
        "--state",
        str(options.state_folder.absolute()),
        "--user-address",
        endpoints.user,
        "--service-address",
        endpoints.service,
        "--lease-seconds",
        str(options.lease_seconds),
        "--blob-address",
        endpoints.blobs,
        *_coordinator_tls(options, endpoints),
    )
    return _child(options, "coordinator", "tunefleet_coordinator", arguments)


def _coordinator_tls(options: UpOptions, endpoints: Endpoints) -> list[str]:
    if not options.has_tls:
        return []
    words = ["--tls", "--member-address", endpoints.member, "--member-blob-address", endpoints.member_blobs]
    for name in options.public_names:
        words += ["--public-name", name]
    files = (("--tls-cert", options.tls_cert), ("--tls-key", options.tls_key), ("--tls-ca", options.tls_ca))
    for option, file in files:
        if file is not None:
            words += [option, str(file.absolute())]
    return words


def _door_tls(options: UpOptions) -> list[str]:
    """Return what a listener for people shows: the operator's certificate, or that of the fleet."""
    if not options.has_tls:
        return []
    folder = options.state_folder.absolute() / _AUTHORITY
    certificate, key = options.tls_cert or folder / "server.pem", options.tls_key or folder / "server.key"
    return ["--tls-cert", str(certificate.absolute()), "--tls-key", str(key.absolute())]


def _gateway_tls(options: UpOptions, endpoints: Endpoints) -> list[str]:
    if not options.has_tls:
        return []
    folder = options.state_folder.absolute()
    words = [
        *_door_tls(options),
        "--public-name",
        options.told_host,
        "--user-authority",
        str(folder / _TRUST),
        "--relay-port",
        endpoints.relay.rpartition(":")[2],
        "--relay-certificates",
        str(folder / _AUTHORITY),
    ]
    for name in dict.fromkeys((*options.public_names, options.host)):
        words += ["--allow-host", name]
    return words


def _services(options: UpOptions, endpoints: Endpoints) -> list[ChildSpec]:
    state = options.state_folder.absolute()
    common = (
        "--address",
        endpoints.service,
        "--token-file",
        str(state / "service.token"),
        "--state",
        str(state),
    )
    lease = ("--lease-seconds", str(options.lease_seconds))
    warm = () if options.warm else ("--no-warm",)
    names = ["trainer"] if options.trainers == 1 else [f"trainer-{n}" for n in range(1, options.trainers + 1)]
    servers = ["server", *(f"server-{n}" for n in range(2, options.servers + 1))]
    gateway_host, _, gateway_port = endpoints.gateway.rpartition(":")
    return [
        _child(
            options,
            "blobs",
            "tunefleet_coordinator.blobs",
            (
                "--state",
                str(state),
                "--address",
                endpoints.blobs,
                *_door_tls(options),
                *(("--member-address", endpoints.member_blobs) if endpoints.member_blobs else ()),
            ),
        ),
        *(
            _child(options, name, "tunefleet_services.trainer", (*common, *lease, *warm, "--name", name))
            for name in names
        ),
        *(
            _child(options, name, "tunefleet_services.server", (*common, *lease, "--name", name))
            for name in servers
        ),
        _child(
            options,
            "gateway",
            "tunefleet_services.gateway",
            (
                *common,
                "--name",
                "gateway",
                "--host",
                gateway_host,
                "--port",
                gateway_port,
                "--inference-port",
                endpoints.inference.rpartition(":")[2],
                "--user-address",
                _called_here(options, endpoints.user),
                *_gateway_tls(options, endpoints),
                *options.gateway_options,
            ),
        ),
    ]


def _child(options: UpOptions, name: str, module: str, arguments: tuple[str, ...]) -> ChildSpec:
    return ChildSpec(
        name=name,
        argv=(sys.executable, "-m", module, *arguments),
        log=options.state_folder.absolute() / "logs" / f"{name}.log",
    )

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
from tunefleet_core.rpc import is_loopback, open_channel
from tunefleet_core.worker.marker import FLEET_MARKER, end_marked, marked_environment
from tunefleet_services.hosts import remove_stale_sockets
from tunefleet_services.local.children import Child, ChildSpec
from tunefleet_services.local.endpoints import Endpoints, choose_endpoints
from tunefleet_services.local.lock import hold_state_folder

__all__ = ["UpOptions", "run_up"]

_READY_LIMIT_SECONDS = 60.0
_POLL_SECONDS = 0.1
_START_TRIES = 3


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
    gateway_options: tuple[str, ...] = ()
    """Further options of the gateway's command, such as `("--requests-at-once", "8")`."""
    announce: Callable[[str], None] = print
    """Told one line of text for people at each step of the start."""


def run_up(options: UpOptions) -> None:
    """Run a local fleet in the foreground until TERM or Ctrl-C.

    Raises:
        TunefleetError: STATE_FOLDER_HELD if the folder has a fleet already,
            FIELD_INVALID for an address beyond this machine, UNAVAILABLE if the
            coordinator cannot be started.
    """
    if not is_loopback(f"{options.host}:1"):
        raise TunefleetError.field(
            "host",
            f"'{options.host}' is reachable from other machines, which needs TLS",
            hint="Use 127.0.0.1; TLS for fleets of several machines is not in this version.",
        )
    configure_logging(logging.WARNING)
    with hold_state_folder(options.state_folder):
        asyncio.run(_Fleet(options).run())


class _Fleet:
    """The children of one supervisor."""

    def __init__(self, options: UpOptions) -> None:
        self._options = options
        self._state = options.state_folder.absolute()
        self._endpoints = choose_endpoints(self._state, options.host, options.port)
        self._mark = hashlib.sha256(str(self._state).encode()).hexdigest()[:32]
        self._stopping = asyncio.Event()
        self._failure: TunefleetError | None = None
        self._has_answered = False

    async def run(self) -> None:
        """Start everything, announce, wait for the signal, stop in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._endpoints.write(self._state)
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
        """The coordinator makes the tokens; its services cannot start without theirs."""
        token = self._state / "service.token"
        while not self._stopping.is_set() and not token.exists():
            await asyncio.sleep(_POLL_SECONDS)

    async def _announce_ready(self, expected: int) -> None:
        say = self._options.announce
        channel = open_channel(self._endpoints.user)
        try:
            async with asyncio.timeout(_READY_LIMIT_SECONDS):
                while await self._attached(channel) < expected:
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            say(f"Not all services answer after {_READY_LIMIT_SECONDS:.0f} s; see {self._state / 'logs'}")
            return
        finally:
            await channel.close()
        say(f"Fleet ready: API {self._endpoints.user}, OpenAI http://{self._endpoints.gateway}/v1")
        say(f"State and logs: {self._state}   (Ctrl-C stops everything)")

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
    )
    return _child(options, "coordinator", "tunefleet_coordinator", arguments)


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
            ("--state", str(state), "--address", endpoints.blobs),
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
                endpoints.user,
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

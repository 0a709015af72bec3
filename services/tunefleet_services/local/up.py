"""Coordinator, trainers, server and gateway on one machine: no flags, no config.

Stopping stops everything the fleet started, contract hosts and engines too; trainers
save what they run before that, and the next `tunefleet up` on the same state folder goes
on with it. A second signal stops at once. A supervisor that is killed leaves running jobs
alone for one lease term: the next one adopts them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
from collections.abc import Mapping

import grpc.aio

from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet.fleet.v1.fleet_service_pb2 import ListServicesRequest
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.process import configure_logging, read_token
from tunefleet_core.rpc import ChannelTls, open_channel
from tunefleet_core.worker.marker import FLEET_MARKER, end_marked, marked_environment
from tunefleet_services.hosts import remove_stale_sockets
from tunefleet_services.local.at_work import JobsAtWork, after_stop, before_stop
from tunefleet_services.local.child_specs import (
    AUTHORITY,
    TRUST,
    called_here,
    coordinator_spec,
    service_specs,
    trainer_names,
)
from tunefleet_services.local.children import Child
from tunefleet_services.local.endpoints import choose_endpoints
from tunefleet_services.local.lock import hold_state_folder
from tunefleet_services.local.options import EVERY_ADDRESS, UpOptions

__all__ = ["UpOptions", "run_up"]

_READY_LIMIT_SECONDS = 60.0
_POLL_SECONDS = 0.1
_START_TRIES = 3
_PORTS_LIMIT_SECONDS = 5.0


def run_up(options: UpOptions) -> None:
    """Run a local fleet in the foreground until TERM or Ctrl-C.

    Raises:
        TunefleetError: STATE_FOLDER_HELD if the folder has a fleet already,
            FIELD_INVALID for options that lack their counterpart, UNAVAILABLE if the
            coordinator cannot be started.
    """
    if options.host in EVERY_ADDRESS and not options.public_names:
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
        self._at_once = asyncio.Event()
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
            loop.add_signal_handler(number, self._take_signal)
        if self._options.has_tls:
            # The coordinator makes one for the names of this start; nobody may begin with an older one.
            (self._state / AUTHORITY / "server.pem").unlink(missing_ok=True)
        self._endpoints.write(
            self._state,
            host=self._options.local_host,
            authority=TRUST if self._options.has_tls else "",
        )
        environment = marked_environment(self._mark, variable=FLEET_MARKER)
        coordinator = Child(coordinator_spec(self._options, self._endpoints), environment, lambda: None)
        services = [
            Child(spec, environment, lambda: None) for spec in service_specs(self._options, self._endpoints)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(coordinator.run())
                watching = group.create_task(self._watch_start(coordinator))
                await self._await_tokens()
                running: dict[Child, asyncio.Task[None]] = {}
                if not self._stopping.is_set():
                    running = {child: group.create_task(child.run()) for child in services}
                waiting = group.create_task(
                    self._announce_ready(len(services) - 1)
                )  # the blobs process attaches to nothing
                await self._stopping.wait()
                watching.cancel()
                waiting.cancel()
                await self._stop_services(running)
                coordinator.stop()
        finally:
            # Hosts and engines have sessions of their own: they are found by the fleet's mark.
            await asyncio.to_thread(end_marked, self._mark, variable=FLEET_MARKER)
            await asyncio.to_thread(remove_stale_sockets)
            self._options.announce("Stopped.")
        if self._failure is not None:
            raise self._failure

    def _take_signal(self) -> None:
        if self._stopping.is_set():
            self._at_once.set()
        self._stopping.set()

    async def _stop_services(self, running: Mapping[Child, asyncio.Task[None]]) -> None:
        """Stop the services; returns when the trainers have given back what they run, or at once if asked.

        Until then they need the coordinator.
        """
        say, seconds = self._options.announce, self._options.stop_seconds
        names = trainer_names(self._options)
        trainers = [child for child in running if child.spec.name in names]
        at_work = JobsAtWork(self._state, names)
        jobs = await asyncio.to_thread(at_work.names) if seconds else []
        if jobs:
            say(before_stop(jobs, seconds))
        for child in running:
            child.stop()
        if trainers:
            async with asyncio.TaskGroup() as group:
                ends = group.create_task(asyncio.wait([running[child] for child in trainers]))
                hurry = group.create_task(self._at_once.wait())
                await asyncio.wait((ends, hurry), return_when=asyncio.FIRST_COMPLETED)
                ends.cancel()
                hurry.cancel()
        if self._at_once.is_set():
            say("Stopping at once.")
            for child in trainers:
                child.hurry()
        elif jobs:
            channel = open_channel(called_here(self._options, self._endpoints.user), self._channel_tls())
            try:
                for line in after_stop(await at_work.afterwards(channel, jobs)):
                    say(line)
            finally:
                await channel.close()

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
            files += [self._state / AUTHORITY / "server.pem", self._state / TRUST]
        while not self._stopping.is_set() and not all(file.exists() for file in files):
            await asyncio.sleep(_POLL_SECONDS)

    async def _announce_ready(self, expected: int) -> None:
        say = self._options.announce
        while not (tls := await asyncio.to_thread(self._channel_tls)) and self._options.has_tls:
            await asyncio.sleep(_POLL_SECONDS)
        user, gateway = (
            called_here(self._options, self._endpoints.user),
            called_here(self._options, self._endpoints.gateway),
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
        if not self._options.has_tls or not (self._state / TRUST).exists():
            return None
        return ChannelTls(authority=(self._state / TRUST).read_bytes())

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

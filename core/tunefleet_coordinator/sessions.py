"""Control streams of services: one session per service, the newest wins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, replace

from google.protobuf.duration_pb2 import Duration

from tunefleet.fleet.v1.fleet_pb2 import DeploymentStatus, DesiredSet, Service, ServiceKind
from tunefleet.fleet.v1.fleet_service_pb2 import (
    AttachRequest,
    AttachResponse,
    HeartbeatAck,
    Hello,
    StatusReport,
    Welcome,
)
from tunefleet_coordinator.desired_sets import DesiredSets
from tunefleet_coordinator.kernel import Kernel, Signal
from tunefleet_core import CONTRACT_VERSION, __version__
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import (
    AttemptReported,
    DeploymentReported,
    HeartbeatReceived,
    ServiceAttached,
    ServiceChanged,
    ServiceDetached,
    ServiceStopping,
    SessionOpened,
    TrafficReported,
)

__all__ = ["SessionPolicy", "Sessions"]

_LOG = logging.getLogger(__name__)
_HELLO_LIMIT_SECONDS = 10.0
_HEARTBEATS_PER_LEASE = 5

_Report = AttemptReported | DeploymentReported


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPolicy:
    """What a welcome says."""

    lease_term_seconds: float
    artifact_store: str


class _Session:
    """One open stream: what has to be said, and whether it has to end."""

    def __init__(self, service: str, epoch: int, wake: Signal) -> None:
        self.service = service
        self.epoch = epoch
        self.wake = wake
        self.heartbeat = 0  # newest heartbeat to be acknowledged
        self.unsaved: dict[str, _Report] = {}  # statuses that a full disk refused, the newest each
        self.end: BaseException | None = None
        self.is_closed_by_peer = False
        self.is_gateway = False
        self.relayed_as = ""

    def fail(self, error: BaseException) -> None:
        self.end = error
        self.wake.ring()


class Sessions:
    """Every open session, by service name."""

    def __init__(self, kernel: Kernel, desired: DesiredSets, policy: SessionPolicy) -> None:
        self._kernel = kernel
        self._desired = desired
        self._policy = policy
        self._open: dict[str, _Session] = {}

    def desired_changed(self, service: str) -> None:
        """There are other questions to a service now: look again."""
        session = self._open.get(service)
        if session is not None:
            session.wake.ring()

    def tokens_changed(self) -> None:
        """Other API tokens may use the gateways now: have each look again."""
        for session in self._open.values():
            if session.is_gateway:
                session.wake.ring()

    def end(self, service: str, error: TunefleetError) -> None:
        """End the session of a service, if it has one."""
        session = self._open.get(service)
        if session is not None:
            session.fail(error)

    async def serve(
        self,
        requests: AsyncIterator[AttachRequest],
        *,
        admit: Callable[[Service], None] = lambda _: None,
        artifact_store: str = "",
        relayed_as: str = "",
    ) -> AsyncGenerator[AttachResponse]:
        """Answer one control stream from its hello to its end.

        Args:
            requests: What the service says.
            admit: Told who it says it is; raises if it may not be.
            artifact_store: Where its artifacts lie; empty: where the policy says.
            relayed_as: Name of a server of another machine, whose engines are reached by relay alone.
        """
        hello = await self._hello(requests)
        admit(hello.service)
        for deployment in hello.deployments:
            _require_relayed(deployment, relayed_as)
        name = hello.service.name
        opened = await self._kernel.submit(
            ServiceAttached(
                at=self._kernel.moment(),
                service=hello.service,
                attempts=tuple(hello.attempts),
                deployments=tuple(hello.deployments),
            )
        )
        assert isinstance(opened, SessionOpened)  # the answer to ServiceAttached
        session = _Session(name, opened.epoch, self._kernel.subscribe_service(name))
        session.relayed_as = relayed_as
        session.is_gateway = hello.service.kind == ServiceKind.SERVICE_KIND_GATEWAY
        if (older := self._open.get(name)) is not None:
            older.fail(_superseded(name))
        self._open[name] = session
        _LOG.info("%s attached, session %d", name, opened.epoch)
        try:
            yield AttachResponse(welcome=self._welcome(opened.epoch, artifact_store))
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(session, requests))
                async for response in self._responses(session):
                    yield response
                reader.cancel()
        except BaseExceptionGroup as errors:
            # A stream whose caller is gone is closed from outside, which a TaskGroup takes for a fault.
            _, faults = errors.split(GeneratorExit)
            if faults is not None:
                raise faults from None
        finally:
            session.wake.close()
            if self._open.get(name) is session:
                del self._open[name]
                # Shielded: the stream is usually cancelled, and the core must hear of it all the same.
                detached = ServiceDetached(at=self._kernel.moment(), service=name, epoch=opened.epoch)
                await asyncio.shield(self._kernel.submit(detached))

    async def _hello(self, requests: AsyncIterator[AttachRequest]) -> Hello:
        try:
            async with asyncio.timeout(_HELLO_LIMIT_SECONDS):
                first = await anext(requests)
        except (TimeoutError, StopAsyncIteration):
            raise TunefleetError.field("hello", "must be the first message of the stream") from None
        hello = first.hello
        if first.WhichOneof("content") != "hello" or not hello.service.name.startswith("services/"):
            raise TunefleetError.field("hello.service.name", "must be given, as services/{service}")
        if CONTRACT_VERSION not in hello.contract_versions:
            spoken = ", ".join(str(version) for version in hello.contract_versions) or "none"
            raise TunefleetError(
                Reason.CONTRACT_INCOMPATIBLE,
                f"{hello.service.name} speaks contract {spoken}; this coordinator speaks {CONTRACT_VERSION}.",
                hint=f"Run the same version of tunefleet on both sides: the coordinator has {__version__}.",
                metadata={"host": str(CONTRACT_VERSION), "service": spoken},
            )
        return hello

    def _welcome(self, epoch: int, artifact_store: str) -> Welcome:
        term = self._policy.lease_term_seconds
        return Welcome(
            session_epoch=epoch,
            lease_term=_duration(term),
            heartbeat_interval=_duration(term / _HEARTBEATS_PER_LEASE),
            artifact_store=artifact_store or self._policy.artifact_store,
            version=__version__,
            contract_version=CONTRACT_VERSION,
        )

    async def _responses(self, session: _Session) -> AsyncGenerator[AttachResponse]:
        """Say what is new: nothing is queued but the fact that there is something to say."""
        last = DesiredSet()
        generation = acknowledged = 0
        while session.end is None and not session.is_closed_by_peer:
            # A heartbeat alone changes nothing; but tokens that gateways are told of end by the clock.
            # and a gateway that servers of other machines are to dial may have come.
            if session.wake.take_ring() or session.is_gateway or session.relayed_as or generation == 0:
                desired = await self._desired.build(session.service)
                if generation == 0 or desired != last:
                    last = desired
                    generation += 1
                    response = AttachResponse()
                    response.desired.CopyFrom(desired)  # a third of what merging it in takes
                    response.desired.generation = generation
                    yield response
            if session.heartbeat != acknowledged:
                acknowledged = session.heartbeat
                yield AttachResponse(heartbeat_ack=HeartbeatAck(sequence=acknowledged))
            await session.wake.wait()
        if session.end is not None:
            raise session.end

    async def _read(self, session: _Session, requests: AsyncIterator[AttachRequest]) -> None:
        """Take what the service says; an error ends the session through its writer."""
        try:
            async for request in requests:
                kind = request.WhichOneof("content")
                if kind == "heartbeat":
                    beat = HeartbeatReceived(
                        at=self._kernel.moment(), service=session.service, epoch=session.epoch
                    )
                    await self._kernel.submit(beat)
                    await self._save_again(session)
                    session.heartbeat = request.heartbeat.sequence
                    session.wake.nudge()
                elif kind == "report":
                    await self._take(session, request.report)
            session.is_closed_by_peer = True
            session.wake.ring()
        except TunefleetError as error:
            session.fail(error)

    async def _take(self, session: _Session, report: StatusReport) -> None:
        service, epoch = session.service, session.epoch
        if report.is_stopping:  # before what it gives back, so that it does not get that again
            stopping = ServiceStopping(at=self._kernel.moment(), service=service, epoch=epoch)
            await self._kernel.submit(stopping)
        if report.backends:
            backends = tuple(report.backends)
            changed = ServiceChanged(
                at=self._kernel.moment(), service=service, epoch=epoch, backends=backends
            )
            await self._kernel.submit(changed)
        if report.traffic or report.drained or report.drained_replicas:
            seen = TrafficReported(
                at=self._kernel.moment(),
                service=service,
                epoch=epoch,
                traffic=tuple(report.traffic),
                drained=tuple(report.drained),
                drained_replicas=tuple(report.drained_replicas),
            )
            await self._count(seen)
        for attempt in report.attempts:
            await self._save(
                session,
                AttemptReported(at=self._kernel.moment(), service=service, epoch=epoch, status=attempt),
            )
        for deployment in report.deployments:
            _require_relayed(deployment, session.relayed_as)
            await self._save(
                session,
                DeploymentReported(at=self._kernel.moment(), service=service, epoch=epoch, status=deployment),
            )

    async def _count(self, seen: TrafficReported) -> None:
        try:
            await self._kernel.submit(seen)
        except TunefleetError as error:
            if error.reason is not Reason.DISK_FULL:
                raise
            # Counts are a sample that the next report goes on with; drained versions have a time limit.
            _LOG.warning("traffic of %s was not counted: %s", seen.service, error.message)

    async def _save_again(self, session: _Session) -> None:
        for event in list(session.unsaved.values()):
            await self._save(session, replace(event, at=self._kernel.moment()))

    async def _save(self, session: _Session, event: _Report) -> None:
        subject = _subject(event)
        session.unsaved.pop(subject, None)
        try:
            await self._kernel.submit(event)
        except TunefleetError as error:
            if error.reason is Reason.DISK_FULL:
                # Ending the session would cost the service its lease for a fault that is ours.
                session.unsaved[subject] = event
                _LOG.warning("a status of %s waits for space: %s", event.service, error.message)
            elif error.reason is Reason.FENCED:
                # What is fenced is not in the desired set either: the service drops it by itself.
                _LOG.info("dropped a status of %s: %s", event.service, error.message)
            else:
                raise


def _require_relayed(status: DeploymentStatus, relayed_as: str) -> None:
    """Refuse an engine's address by which a gateway would be sent to another place than that server."""
    address = status.engine_address
    if relayed_as and address and not address.startswith(f"relay://{relayed_as}/"):
        raise TunefleetError(
            Reason.PERMISSION_DENIED,
            f"Server {relayed_as} is of another machine: its engines are reached by its relay, "
            f"not at {address}.",
            hint="Start it with --member alone: it learns its relays from the coordinator.",
            metadata={"service": relayed_as},
        )


def _subject(event: _Report) -> str:
    if isinstance(event, DeploymentReported):
        return event.status.deployment_uid
    return f"{event.status.job_uid}-{event.status.attempt}"


def _superseded(name: str) -> TunefleetError:
    return TunefleetError(
        Reason.SESSION_SUPERSEDED,
        f"A newer session of {name} has attached.",
        hint="Stop the other process of this name, or give this one a name of its own.",
        metadata={"service": name},
    )


def _duration(seconds: float) -> Duration:
    value = Duration()
    value.FromNanoseconds(round(seconds * 1e9))
    return value

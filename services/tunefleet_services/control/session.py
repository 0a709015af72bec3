"""A service's session with the coordinator.

Start, reconnect and restart are one code path: say what is held, be told what
to hold. Nothing is queued: what is told is always the present status, so a
message that was lost is made good by the next hello.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from typing import Protocol

import grpc
import grpc.aio

from tunefleet.deployment.v1.rollout_pb2 import TrafficCounts
from tunefleet.fleet.v1.fleet_pb2 import (
    AttemptStatus,
    DeploymentStatus,
    DesiredSet,
    InstalledBackend,
    VersionTraffic,
)
from tunefleet.fleet.v1.fleet_service_pb2 import (
    AttachRequest,
    AttachResponse,
    Hello,
    ServiceHeartbeat,
    StatusReport,
    Welcome,
)
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.control.connection import Connection

__all__ = ["ServiceSession", "SessionHandler"]

_LOG = logging.getLogger(__name__)
_WELCOME_LIMIT_SECONDS = 10.0
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 2.0
_TRIES_PER_TERM = 8  # a coordinator that comes back gives leases one term in which to be renewed

_Call = grpc.aio.StreamStreamCall[AttachRequest, AttachResponse]


class SessionHandler(Protocol):
    """What a service does with its session."""

    def hello(self) -> Hello:
        """Return who attaches and what it holds, as of now."""
        ...

    async def welcomed(self, welcome: Welcome) -> None:
        """The session is open."""
        ...

    async def desired(self, desired: DesiredSet) -> None:
        """Start working towards a desired set. Must return soon; the work goes on elsewhere."""
        ...


class ServiceSession:
    """Keeps a service attached for as long as it runs."""

    def __init__(self, connection: Connection, handler: SessionHandler) -> None:
        self._connection = connection
        self._handler = handler
        self._attempts: dict[tuple[str, int], AttemptStatus] = {}
        self._deployments: dict[str, DeploymentStatus] = {}
        self._backends: list[InstalledBackend] = []
        self._traffic: dict[str, TrafficCounts] = {}
        self._drained: list[str] = []
        self._drained_replicas: list[str] = []
        self._wake = asyncio.Event()
        self._generation = 0
        self._last_answer = 0.0
        self._wait = _FIRST_WAIT_SECONDS
        self._longest_wait = _LONGEST_WAIT_SECONDS
        self._is_to_end = False
        self._is_stopping_untold = False

    def attach_anew(self) -> None:
        """End the stream soon and attach again, on the connection as it is then."""
        self._is_to_end = True
        self._wake.set()

    def report_attempt(self, status: AttemptStatus) -> None:
        """Tell the status of an attempt soon; a newer one replaces an older one."""
        self._attempts[(status.job_uid, status.attempt)] = status
        self._wake.set()

    def report_deployment(self, status: DeploymentStatus) -> None:
        """Tell the status of a deployment soon."""
        self._deployments[status.deployment_uid] = status
        self._wake.set()

    def report_backends(self, backends: list[InstalledBackend]) -> None:
        """Tell which backends there are now."""
        self._backends = backends
        self._wake.set()

    def report_stopping(self) -> None:
        """Tell that this process is being stopped; from now on the handler's hello says so too."""
        self._is_stopping_untold = True
        self._wake.set()

    def report_traffic(
        self, traffic: Iterable[VersionTraffic], drained: list[str], drained_replicas: list[str]
    ) -> None:
        """Tell what versions answered, added to what could not be told yet, and which are drained.

        Args:
            traffic: By version.
            drained: Versions that nothing in flight is with.
            drained_replicas: Replicas of which that is so while their version goes on.
        """
        for seen in traffic:
            held, new = self._traffic.setdefault(seen.deployment_uid, TrafficCounts()), seen.counts
            held.requests += new.requests
            held.errors += new.errors
            held.first_bytes += new.first_bytes
            held.first_byte_seconds += new.first_byte_seconds
        self._drained, self._drained_replicas = drained, drained_replicas
        if self._traffic or drained or drained_replicas:
            self._wake.set()

    async def run(self) -> None:
        """Attach, and attach again whenever the stream ends; runs until cancelled.

        Raises:
            TunefleetError: CERTIFICATE_INVALID: this service was removed from its fleet.
        """
        while True:
            try:
                await self._attach_once()
            except TunefleetError as error:
                if error.reason is Reason.CERTIFICATE_INVALID:
                    raise  # without this process its work ends too, as it should
                _LOG.warning("session ended: %s (%s)", error.message, error.reason)
                if error.reason in (Reason.CONTRACT_INCOMPATIBLE, Reason.TOKEN_INVALID):
                    self._wait = _LONGEST_WAIT_SECONDS  # only a person can mend this
            # Whoever lost the same coordinator does not come back in the same instant.
            await asyncio.sleep(self._wait * random.uniform(0.5, 1.0))
            self._wait = min(self._wait * 2, self._longest_wait)

    async def _attach_once(self) -> None:
        call: _Call = self._connection.fleet.Attach(metadata=self._connection.metadata)  # pyright: ignore[reportAssignmentType]
        try:
            self._attempts.clear()  # the hello tells them all
            self._deployments.clear()
            self._is_stopping_untold = False
            await call.write(AttachRequest(hello=self._handler.hello()))
            welcome = await self._welcome(call)
            term = welcome.lease_term.ToTimedelta().total_seconds()
            self._wait = _FIRST_WAIT_SECONDS
            self._longest_wait = min(_LONGEST_WAIT_SECONDS, term / _TRIES_PER_TERM)
            await self._handler.welcomed(welcome)
            self._last_answer = asyncio.get_running_loop().time()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._write(call, welcome))
                    group.create_task(self._read(call))
            except BaseExceptionGroup as errors:  # both sides see the same end: one of them is enough
                raise errors.exceptions[0] from None
        except grpc.aio.AioRpcError as error:
            raise self._connection.typed(error) from error
        except asyncio.InvalidStateError:  # how a write says that the stream had ended before it
            raise await self._ended(call) from None
        finally:
            call.cancel()

    async def _welcome(self, call: _Call) -> Welcome:
        try:
            # Not wait_for: on Python 3.11 that drops a cancel which comes together with the result.
            async with asyncio.timeout(_WELCOME_LIMIT_SECONDS):
                first = await call.read()
        except TimeoutError:
            raise TunefleetError(Reason.UNAVAILABLE, "The coordinator did not welcome in time.") from None
        if not isinstance(first, AttachResponse) or first.WhichOneof("content") != "welcome":
            raise await self._ended(call)
        return first.welcome

    async def _read(self, call: _Call) -> None:
        loop = asyncio.get_running_loop()
        while True:
            message = await call.read()
            if not isinstance(message, AttachResponse):
                raise await self._ended(call)
            self._last_answer = loop.time()
            if message.WhichOneof("content") == "desired":
                await self._handler.desired(message.desired)
                self._generation = message.desired.generation

    async def _write(self, call: _Call, welcome: Welcome) -> None:
        """The only writer of the stream: heartbeats on time, statuses when there are any."""
        loop = asyncio.get_running_loop()
        interval = welcome.heartbeat_interval.ToTimedelta().total_seconds()
        term = welcome.lease_term.ToTimedelta().total_seconds()
        heartbeats = reports = 0
        next_heartbeat = loop.time()
        # Services that attached together must not beat together: the second comes at a time of its own.
        share = random.random()
        self._is_to_end = False
        while True:
            if self._is_to_end:
                raise TunefleetError(Reason.UNAVAILABLE, "The certificate is another now.")
            if loop.time() - self._last_answer > term:
                raise TunefleetError(Reason.UNAVAILABLE, f"The coordinator was silent for {term:.1f} s.")
            if loop.time() >= next_heartbeat:
                heartbeats += 1
                beat = ServiceHeartbeat(sequence=heartbeats, acknowledged_generation=self._generation)
                await call.write(AttachRequest(heartbeat=beat))
                next_heartbeat = loop.time() + interval * share
                share = 1.0
            report = self._take_report()
            if report is not None:
                reports += 1
                report.sequence = reports
                await call.write(AttachRequest(report=report))
            try:
                async with asyncio.timeout(max(0.0, next_heartbeat - loop.time())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _take_report(self) -> StatusReport | None:
        self._wake.clear()
        drained = self._drained or self._drained_replicas
        is_stopping, self._is_stopping_untold = self._is_stopping_untold, False
        statuses = self._attempts or self._deployments
        if not (statuses or self._backends or self._traffic or drained or is_stopping):
            return None
        report = StatusReport(
            attempts=self._attempts.values(),
            deployments=self._deployments.values(),
            backends=self._backends,
            is_stopping=is_stopping,
            traffic=[VersionTraffic(deployment_uid=uid, counts=item) for uid, item in self._traffic.items()],
            drained=self._drained,
            drained_replicas=self._drained_replicas,
        )
        self._traffic.clear()
        self._drained, self._drained_replicas = [], []
        self._attempts.clear()
        self._deployments.clear()
        self._backends = []
        return report

    async def _ended(self, call: _Call) -> TunefleetError:
        code = await call.code()
        if code is grpc.StatusCode.OK:
            return TunefleetError(Reason.UNAVAILABLE, "The coordinator closed the session.")
        error = grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), details=await call.details()
        )
        return self._connection.typed(error)

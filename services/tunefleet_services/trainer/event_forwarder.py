"""From a host's event stream to the coordinator: in order, each once, none lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.fleet.v1.fleet_pb2 import Assignment
from tunefleet.fleet.v1.fleet_service_pb2 import ReportEventsRequest
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet_core.rpc import error_from_rpc
from tunefleet_core.worker.hosted_run import SPOOL_NAME
from tunefleet_core.worker.spool import SpoolTail, release_spool
from tunefleet_services.control import Connection
from tunefleet_services.hosts import Host

__all__ = ["EventForwarder", "HostGoneError"]

_BATCH_EVENTS = 500
_RETRY_SECONDS = 0.1
_CUT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)  # the stream broke; others are answers


class HostGoneError(Exception):
    """The contract host died while it had a run."""


class EventForwarder:
    """Hands the events of one attempt over and remembers what the coordinator has."""

    def __init__(
        self,
        connection: Connection,
        assignment: Assignment,
        work_dir: Path,
        seen: Callable[[JobEvent], None],
    ) -> None:
        self._connection = connection
        self._assignment = assignment
        self._seen = seen
        self._spool = work_dir / SPOOL_NAME
        self.acknowledged = 0

    async def follow(self, host: Host, run: str) -> None:
        """Forward until the run has ended and everything is acknowledged.

        Raises:
            HostGoneError: the host died; `drain_spool` forwards what it left.
            TunefleetError: FENCED if the attempt was superseded; what the host answered.
        """
        while True:
            try:
                request = pb.StreamRunEventsRequest(run=run, after_source_sequence=self.acknowledged)
                async for response in host.stub.StreamRunEvents(request):
                    await self._report(list(response.events))
                return
            except grpc.aio.AioRpcError as error:
                if not host.record.is_alive:
                    raise HostGoneError from error
                if error.code() not in _CUT:
                    raise error_from_rpc(error, "The contract host") from error
                await asyncio.sleep(_RETRY_SECONDS)

    async def drain_spool(self) -> None:
        """Forward what a dead host had written."""
        tail = SpoolTail(self._spool, self.acknowledged)
        while batch := await asyncio.to_thread(tail.read, _BATCH_EVENTS):
            await self._report(batch)

    async def _report(self, events: list[JobEvent]) -> None:
        if not events:
            return
        for event in events:
            self._seen(event)
        request = ReportEventsRequest(
            job_uid=self._assignment.job_uid,
            attempt=self._assignment.attempt,
            fencing_number=self._assignment.fencing_number,
            events=events,
        )
        response = await self._connection.patiently(
            lambda seconds: self._connection.fleet.ReportEvents(
                request, metadata=self._connection.metadata, timeout=seconds
            )
        )
        self.acknowledged = response.acknowledged_source_sequence
        await asyncio.to_thread(release_spool, self._spool, self.acknowledged)

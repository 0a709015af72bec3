"""Follow a job as if the connection never broke.

A stream is a snapshot, events, and at the end a terminal snapshot. Whatever
cuts it (a coordinator that restarts, a laptop that sleeps) is bridged by
watching again after the last sequence that was handed out. Sequences have no
holes, so each event is handed out once and none is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio

from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.job_service_pb2 import WatchJobRequest, WatchJobResponse
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client.calls import Connection, is_handshake
from tunefleet_client.errors import failure as make_failure
from tunefleet_client.streams import messages_of
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import is_worth_repeating

if TYPE_CHECKING:
    from tunefleet.job.v1.job_service_pb2_grpc import JobServiceAsyncStub

__all__ = ["TERMINAL_STATES", "JobChange", "is_terminal", "watch_job"]

TERMINAL_STATES = frozenset(
    (JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED)
)


def is_terminal(job: Job) -> bool:
    """Return whether the job has ended for good."""
    return job.state in TERMINAL_STATES


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChange:
    """One item of a watch: either the whole job, or one event of it."""

    snapshot: Job | None = None
    event: JobEvent | None = None


@dataclass(slots=True, kw_only=True)
class _Progress:
    """What was handed out so far, across streams."""

    sequence: int
    snapshot: Job | None = None
    is_done: bool = False
    snapshots_in_stream: int = 0

    def take(self, response: WatchJobResponse) -> list[JobChange]:
        """Return what a message adds. Raises _Hole once everything before it was handed out."""
        if response.HasField("snapshot"):
            return self._snapshot(response.snapshot)
        changes: list[JobChange] = []
        for event in response.events.events:
            if event.sequence > self.sequence + 1:
                if changes:
                    return changes
                raise _Hole
            if event.sequence == self.sequence + 1:
                self.sequence = event.sequence
                changes.append(JobChange(event=event))
        return changes

    def _snapshot(self, job: Job) -> list[JobChange]:
        self.snapshots_in_stream += 1
        self.is_done = is_terminal(job) and self.snapshots_in_stream > 1
        is_new = self.is_done or job != self.snapshot
        self.snapshot = job
        return [JobChange(snapshot=job)] if is_new else []

    def end_of_stream(self) -> None:
        """Note a stream that ended well: over if all there is was handed out."""
        job = self.snapshot
        self.is_done = job is not None and is_terminal(job) and self.sequence >= job.last_sequence


class _Hole(Exception):
    """An event is missing between the last one and the next."""


async def watch_job(
    connection: Connection,
    stub: JobServiceAsyncStub,
    request: WatchJobRequest,
    *,
    give_up_seconds: float,
) -> AsyncGenerator[JobChange]:
    """Yield the snapshots and events of a job until its terminal snapshot.

    Args:
        connection: Where to.
        stub: On the connection's channel.
        request: The job, and the sequence after which to begin.
        give_up_seconds: How long the coordinator may be away.

    Raises:
        TunefleetError: What the coordinator answered; UNAVAILABLE after being away too long.
    """
    clock = asyncio.get_running_loop().time
    progress = _Progress(sequence=request.after_sequence)
    last_news, failures = clock(), 0
    while True:
        failure: TunefleetError | None = None
        progress.snapshots_in_stream = 0
        connection.channels.require_open()
        try:
            again = WatchJobRequest(name=request.name, after_sequence=progress.sequence)
            call = stub.WatchJob(again, metadata=connection.metadata)
            async with aclosing(messages_of(connection, call, WatchJobResponse)) as messages:
                async for response in messages:
                    changes = progress.take(response)
                    # The snapshot that opens every stream is no news by itself.
                    if changes or response.HasField("heartbeat"):
                        last_news, failures = clock(), 0
                    for change in changes:
                        yield change
                    if progress.is_done:
                        return
            progress.end_of_stream()
        except _Hole:
            failure = _missing(progress.sequence + 1)
        except grpc.aio.AioRpcError as error:
            failure = connection.failure(error)
            if not is_worth_repeating(error) or is_handshake(error):
                raise failure from error
        if progress.is_done:
            return
        if clock() - last_news >= give_up_seconds:
            raise failure or _missing(progress.sequence + 1)
        failures += 1
        await asyncio.sleep(connection.backoff.seconds(failures))


def _missing(sequence: int) -> TunefleetError:
    return make_failure(
        Reason.UNAVAILABLE,
        f"The coordinator does not send event {sequence} of the job.",
        hint="See the coordinator's log, or tunefleet doctor.",
        metadata={"sequence": str(sequence)},
    )

"""Follow a job as if the connection never broke.

A stream is a snapshot, events, and at the end a terminal snapshot. Sequences have no
holes, so each event is handed out once and none is left out, over however many streams.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.job_service_pb2 import WatchJobRequest, WatchJobResponse
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client.calls import Connection
from tunefleet_client.errors import failure as make_failure
from tunefleet_client.following import Hole, follow
from tunefleet_core.errors import Reason, TunefleetError

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

    def begin_stream(self) -> None:
        """The next snapshot is the one that opens a stream."""
        self.snapshots_in_stream = 0

    def take(self, message: WatchJobResponse) -> list[JobChange]:
        """Return what a message adds. Raises Hole once everything before it was handed out."""
        if message.HasField("snapshot"):
            return self._snapshot(message.snapshot)
        changes: list[JobChange] = []
        for event in message.events.events:
            if event.sequence > self.sequence + 1:
                if changes:
                    return changes
                raise Hole
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

    def end_stream(self) -> None:
        """Note a stream that ended well: over if all there is was handed out."""
        job = self.snapshot
        self.is_done = job is not None and is_terminal(job) and self.sequence >= job.last_sequence

    def nothing_comes(self) -> TunefleetError:
        """Return the error for an event that is not sent."""
        sequence = self.sequence + 1
        return make_failure(
            Reason.UNAVAILABLE,
            f"The coordinator does not send event {sequence} of the job.",
            hint="See the coordinator's log, or tunefleet doctor.",
            metadata={"sequence": str(sequence)},
        )


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
    progress = _Progress(sequence=request.after_sequence)

    def open_stream() -> object:
        again = WatchJobRequest(name=request.name, after_sequence=progress.sequence)
        return stub.WatchJob(again, metadata=connection.metadata)

    following = follow(connection, progress, open_stream, WatchJobResponse, give_up_seconds=give_up_seconds)
    async with aclosing(following) as changes:
        async for change in changes:
            yield change

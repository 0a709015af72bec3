"""Events that the coordinator itself adds to a job's history."""

from __future__ import annotations

from google.rpc import status_pb2

from tunefleet.job.v1.event_pb2 import (
    AttemptEnded,
    AttemptOutcome,
    AttemptStarted,
    CheckpointCommitted,
    DeviceReleased,
    JobEvent,
)
from tunefleet.job.v1.state_pb2 import CheckpointRef
from tunefleet_core.lifecycle.rows import AttemptRow, Checkpoint

__all__ = ["attempt_ended", "attempt_started", "checkpoint_committed", "checkpoint_ref", "device_released"]


def checkpoint_ref(checkpoint: Checkpoint) -> CheckpointRef:
    """Return the wire form of a committed checkpoint."""
    return CheckpointRef(
        step=checkpoint.step, manifest_digest=checkpoint.manifest_digest, attempt=checkpoint.attempt
    )


def attempt_started(attempt: AttemptRow) -> JobEvent:
    started = AttemptStarted(
        service=attempt.service, fencing_number=attempt.fencing_number, device_ids=attempt.device_ids
    )
    if attempt.resume_from is not None:
        started.resume_from.CopyFrom(checkpoint_ref(attempt.resume_from))
    return JobEvent(attempt=attempt.attempt, attempt_started=started)


def attempt_ended(
    attempt: AttemptRow, outcome: AttemptOutcome.ValueType, error: status_pb2.Status | None
) -> JobEvent:
    ended = AttemptEnded(outcome=outcome)
    if error is not None:
        ended.error.CopyFrom(error)
    return JobEvent(attempt=attempt.attempt, attempt_ended=ended)


def device_released(attempt: AttemptRow, released: DeviceReleased) -> JobEvent:
    return JobEvent(attempt=attempt.attempt, device_released=released)


def checkpoint_committed(checkpoint: Checkpoint) -> JobEvent:
    event = JobEvent(attempt=checkpoint.attempt)
    event.checkpoint_committed.CopyFrom(CheckpointCommitted(checkpoint=checkpoint_ref(checkpoint)))
    return event

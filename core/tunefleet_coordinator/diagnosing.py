"""Diagnose a job from the events that are kept of it."""

from __future__ import annotations

from tunefleet.job.v1.diagnosis_pb2 import Diagnosis
from tunefleet.job.v1.job_pb2 import Job
from tunefleet_coordinator.kernel import Kernel
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import JobRow
from tunefleet_core.run_health import RunHistory, diagnose

__all__ = ["diagnose_job"]

_BATCH_EVENTS = 2_000


async def diagnose_job(kernel: Kernel, row: JobRow, job: Job) -> Diagnosis:
    """Return what a training job's history tells about it.

    Args:
        kernel: Where the events are read.
        row: The job.
        job: The same as callers see it, with what was resolved.

    Raises:
        TunefleetError: STATE_CONFLICT for a job that trains nothing.
    """
    if not job.resolved_spec.spec.HasField("train"):
        raise TunefleetError(
            Reason.STATE_CONFLICT,
            f"Job '{job.name}' trains nothing, so there is nothing to diagnose.",
            hint=f"See how it went: tunefleet jobs get {job.name.rpartition('/')[2]}",
            metadata={"name": job.name},
        )
    history, after = RunHistory(), max(0, row.oldest_sequence - 1)
    while events := await kernel.read(kernel.store.read_events, row.uid, after, _BATCH_EVENTS):
        for event in events:
            history.add(event)
        after = events[-1].sequence
    return diagnose(history, job.resolved_spec)

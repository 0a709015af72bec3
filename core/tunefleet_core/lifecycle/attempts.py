"""Rules for attempts: reports, events, manifests, and how a try ends.

The fence is here: whoever does not show the attempt and fencing number of the job's one
live attempt changes nothing, however late or often it tries.
"""

from __future__ import annotations

from google.rpc import status_pb2

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind, Manifest
from tunefleet.backend.v1.run_pb2 import RunState
from tunefleet.fleet.v1.fleet_pb2 import AttemptStatus
from tunefleet.job.v1.event_pb2 import AttemptOutcome, DeviceRelease, DeviceReleased, JobEvent, Metrics
from tunefleet.job.v1.job_pb2 import JobResult
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason, TunefleetError, error_from_status, status_from_error
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.events import attempt_ended, checkpoint_committed, device_released
from tunefleet_core.lifecycle.inputs import EventsAcknowledged, EventsReported, ManifestCommitted
from tunefleet_core.lifecycle.jobs import end_job
from tunefleet_core.lifecycle.pausing import become_paused, give_back
from tunefleet_core.lifecycle.rows import (
    AttemptRow,
    AttemptState,
    Checkpoint,
    JobRow,
    ManifestRow,
    ModelRow,
)

__all__ = ["PERMANENT_REASONS", "commit_manifest", "lose_attempt", "report_attempt", "report_events"]

PERMANENT_REASONS = frozenset(
    {
        Reason.FIELD_INVALID,
        Reason.REQUEST_ID_REUSED,
        Reason.DATA_INVALID,
        Reason.BASE_INVALID,
        Reason.NO_TRAINED_TOKEN,
        Reason.OUT_OF_MEMORY,
        Reason.TRAINING_DIVERGED,
        Reason.CAPABILITY_UNSUPPORTED,
        Reason.TEMPLATE_MISMATCH,
        Reason.NUMBERS_MISMATCH,
        Reason.PERMISSION_DENIED,
        Reason.HUB_ACCESS_DENIED,
    }
)
"""Reasons that the same work would meet again: such a failure is final at the first attempt."""

_MODEL_KINDS = {
    ArtifactKind.ARTIFACT_KIND_ADAPTER: "adapter",
    ArtifactKind.ARTIFACT_KIND_MODEL: "model",
    ArtifactKind.ARTIFACT_KIND_REWARD_MODEL: "reward_model",
}


def live_attempt(draft: Draft, job_uid: str, attempt: int, fencing_number: int) -> tuple[JobRow, AttemptRow]:
    """Return a job and its live attempt if the caller holds its fence.

    Raises:
        TunefleetError: FENCED.
    """
    job, row = draft.job(job_uid), draft.attempt(job_uid, attempt)
    if job is None or row is None or not row.is_live or row.fencing_number != fencing_number:
        raise TunefleetError(
            Reason.FENCED,
            f"Attempt {attempt} with fencing number {fencing_number} is not the live attempt of the job.",
            hint="Stop this attempt; a newer one holds the job, or the job has ended.",
            metadata={"job_uid": job_uid, "attempt": str(attempt), "fencing_number": str(fencing_number)},
        )
    return job, row


def report_attempt(draft: Draft, service: str, status: AttemptStatus) -> None:
    """Take in where a trainer says an attempt stands."""
    job, attempt = live_attempt(draft, status.job_uid, status.attempt, status.fencing_number)
    if attempt.service != service:
        raise TunefleetError(
            Reason.FENCED,
            f"Attempt {attempt.attempt} of job '{job.name}' belongs to {attempt.service}.",
            hint="Stop this attempt.",
            metadata={"job_uid": job.uid, "service": attempt.service},
        )
    if status.state == RunState.RUN_STATE_ENDED:
        _end_attempt(draft, job, attempt, status)
    elif status.state == RunState.RUN_STATE_RUNNING and attempt.state == AttemptState.ASSIGNED:
        draft.write(attempt, state=AttemptState.RUNNING)
        if job.state == JobState.JOB_STATE_PREPARING:
            draft.move(job, JobState.JOB_STATE_RUNNING, "Its processes work.")


def lose_attempt(draft: Draft, attempt: AttemptRow, why: str) -> None:
    """End an attempt whose service cannot speak for it any more."""
    job = draft.job(attempt.job_uid)
    if job is None:
        raise RuntimeError(f"Live attempt of {attempt.job_uid} has no job.")
    error = status_from_error(
        TunefleetError(
            Reason.WORKER_LOST,
            why,
            hint="It is tried again by itself while attempts remain; see the service's log.",
            metadata={"service": attempt.service, "attempt": str(attempt.attempt)},
        )
    )
    unknown = DeviceReleased(device_release=DeviceRelease.DEVICE_RELEASE_UNKNOWN)
    job = _close(draft, job, attempt, AttemptOutcome.ATTEMPT_OUTCOME_LOST, error, unknown)
    if job.cancel_requested:
        end_job(draft, job, JobState.JOB_STATE_CANCELLED, "Its service was lost while it stopped.")
    elif job.state == JobState.JOB_STATE_PAUSING:
        become_paused(draft, job, "Its service was lost while it saved")
    else:
        _try_again(draft, job, error, avoid=attempt.service)


def report_events(draft: Draft, report: EventsReported) -> EventsAcknowledged:
    """Append a source's events to the job's history, each once."""
    job, attempt = live_attempt(draft, report.job_uid, report.attempt, report.fencing_number)
    acknowledged = attempt.acknowledged_source_sequence
    fresh: list[JobEvent] = []
    progress = [job.progress]
    for event in report.events:
        if event.source_sequence <= acknowledged:
            continue
        if event.source_sequence != acknowledged + 1:
            raise TunefleetError.field(
                "events.source_sequence",
                f"expected {acknowledged + 1}, got {event.source_sequence}",
                hint=f"Send the events from {acknowledged + 1} on, without holes.",
            )
        acknowledged += 1
        fresh.append(_of_attempt(event, attempt.attempt))
        if event.HasField("metrics"):
            progress.append(event.metrics.SerializeToString())
    if fresh:
        # Messages one behind the other are read as one in which the later ones were merged.
        numbers = Metrics.FromString(b"".join(progress))
        draft.append(job, *fresh, progress=numbers.SerializeToString())
        draft.write(attempt, acknowledged_source_sequence=acknowledged)
    return EventsAcknowledged(acknowledged_source_sequence=acknowledged)


def _of_attempt(event: JobEvent, attempt: int) -> JobEvent:
    """Return an event as one of an attempt, whatever its source calls it."""
    if event.attempt == attempt:
        return event
    own = JobEvent()
    own.CopyFrom(event)
    own.attempt = attempt
    return own


def commit_manifest(draft: Draft, commit: ManifestCommitted) -> ManifestRow:
    """Make a manifest count, if the caller still holds the fence."""
    job, attempt = live_attempt(draft, commit.job_uid, commit.attempt, commit.fencing_number)
    if not commit.digest:
        raise TunefleetError.field("manifest.digest", "must be set")
    row = draft.row(("manifest", commit.digest, commit.job_uid))
    if isinstance(row, ManifestRow):
        if row.kind != commit.kind or row.step != commit.step:
            raise TunefleetError.field("manifest", "was committed before with another kind or step")
        _advance(draft, job, row)  # a retry from the start may come by the very same state again
        return row
    row = ManifestRow(
        digest=commit.digest,
        job_uid=commit.job_uid,
        attempt=attempt.attempt,
        kind=commit.kind,
        step=commit.step,
        manifest=commit.manifest,
        create_time=draft.at.wall,
    )
    draft.insert(row)
    if commit.kind == ArtifactKind.ARTIFACT_KIND_CHECKPOINT:
        job = _advance(draft, job, row)
        draft.append(job, checkpoint_committed(_checkpoint(row)))
    return row


def _checkpoint(row: ManifestRow) -> Checkpoint:
    return Checkpoint(step=row.step, manifest_digest=row.digest, attempt=row.attempt)


def _advance(draft: Draft, job: JobRow, row: ManifestRow) -> JobRow:
    """Let a job go on from a checkpoint if that is further than where it would go on now."""
    is_checkpoint = row.kind == ArtifactKind.ARTIFACT_KIND_CHECKPOINT
    if not is_checkpoint or (job.checkpoint is not None and row.step <= job.checkpoint.step):
        return job
    return draft.write(job, checkpoint=_checkpoint(row))


def _end_attempt(draft: Draft, job: JobRow, attempt: AttemptRow, status: AttemptStatus) -> None:
    """Take in the end of an attempt and move its job on."""
    output = _committed_output(draft, job, status)
    is_asked = job.cancel_requested or job.state == JobState.JOB_STATE_PAUSING
    outcome, error = status.outcome, status.error if status.HasField("error") else None
    is_succeeded = outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
    is_interrupted = outcome == AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED
    if is_succeeded and output is None:
        # Whoever says so has lost its output; believing it would leave a job without a result.
        outcome, error = AttemptOutcome.ATTEMPT_OUTCOME_FAILED, _no_output(attempt)
    elif not is_interrupted and not is_succeeded and not is_asked and error is None:
        error = _stopped(attempt)
    if job.cancel_requested and not is_succeeded:
        outcome = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
    released = status.device_released if status.HasField("device_released") else None
    job = _close(draft, job, attempt, outcome, error, released)
    if outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED and output is not None:
        _succeed(draft, job, output, status)
    elif job.cancel_requested:
        end_job(draft, job, JobState.JOB_STATE_CANCELLED, "Every process of it is gone.")
    elif not is_interrupted and error is not None and error_from_status(error).reason in PERMANENT_REASONS:
        end_job(draft, job, JobState.JOB_STATE_FAILED, error.message, error, failures=job.failures + 1)
    elif job.state == JobState.JOB_STATE_PAUSING:
        become_paused(draft, job, _how_it_paused(outcome, error))
    elif is_interrupted:
        give_back(draft, job, attempt, error)
    else:
        _try_again(draft, job, error or _stopped(attempt))


def _how_it_paused(outcome: AttemptOutcome.ValueType, error: status_pb2.Status | None) -> str:
    if outcome == AttemptOutcome.ATTEMPT_OUTCOME_PAUSED:
        return "Every process of it is gone"
    if outcome == AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED:
        return "Its service was stopped meanwhile"
    why = "it was stopped" if error is None else error.message.rstrip(".")
    return f"Its attempt ended while it saved ({why})"


def _committed_output(draft: Draft, job: JobRow, status: AttemptStatus) -> ManifestRow | None:
    row = draft.row(("manifest", status.output_manifest_digest, job.uid))
    is_output = isinstance(row, ManifestRow) and row.kind != ArtifactKind.ARTIFACT_KIND_CHECKPOINT
    return row if isinstance(row, ManifestRow) and is_output else None


def _close(
    draft: Draft,
    job: JobRow,
    attempt: AttemptRow,
    outcome: AttemptOutcome.ValueType,
    error: status_pb2.Status | None,
    released: DeviceReleased | None,
) -> JobRow:
    draft.write(attempt, state=AttemptState.ENDED, outcome=outcome, end_time=draft.at.wall)
    events = [attempt_ended(attempt, outcome, error)]
    if released is not None:
        events.append(device_released(attempt, released))
    return draft.append(job, *events)


def _succeed(draft: Draft, job: JobRow, output: ManifestRow, status: AttemptStatus) -> None:
    result = JobResult(manifest_digest=output.digest, scores=status.scores, step=output.step)
    kind = _MODEL_KINDS.get(output.kind)
    if kind is not None:
        model = ModelRow(
            uid=job.uid,
            name=f"projects/{job.project}/models/{job.job_id}",
            project=job.project,
            job=job.name,
            manifest_digest=output.digest,
            base_model=Manifest.FromString(output.manifest).lineage.base_model,
            kind=kind,
            create_time=draft.at.wall,
        )
        draft.insert(model)
        result.model = model.name
    end_job(
        draft,
        job,
        JobState.JOB_STATE_SUCCEEDED,
        "Its output is committed.",
        output_digest=output.digest,
        result=result.SerializeToString(),
    )


def _try_again(draft: Draft, job: JobRow, error: status_pb2.Status, avoid: str = "") -> None:
    failures = job.failures + 1
    why = f"Attempt {job.attempt} failed, {failures} of {job.max_attempts}: {error.message}"
    if failures >= job.max_attempts:
        end_job(draft, job, JobState.JOB_STATE_FAILED, why, error, failures=failures)
        return
    wait = draft.policy.backoff_seconds(failures)
    draft.move(
        job,
        JobState.JOB_STATE_WAITING_RETRY,
        why,
        error=error.SerializeToString(),
        failures=failures,
        not_before=draft.at.now + wait,
        next_try_time=draft.at.wall + wait,
        avoid=avoid,
    )


def _no_output(attempt: AttemptRow) -> status_pb2.Status:
    return status_from_error(
        TunefleetError(
            Reason.BACKEND_FAILED,
            f"Attempt {attempt.attempt} reported success without a committed output.",
            hint="Read the job's log; it is tried again while attempts remain.",
            metadata={"attempt": str(attempt.attempt)},
        )
    )


def _stopped(attempt: AttemptRow) -> status_pb2.Status:
    return status_from_error(
        TunefleetError(
            Reason.WORKER_LOST,
            f"Attempt {attempt.attempt} was stopped by {attempt.service}, not by a request.",
            hint="It is tried again by itself while attempts remain.",
            metadata={"attempt": str(attempt.attempt), "service": attempt.service},
        )
    )

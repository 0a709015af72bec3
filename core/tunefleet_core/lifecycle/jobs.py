"""Rules for what people ask of jobs: submit, cancel, change, delete; and how every job ends."""

from __future__ import annotations

from typing import Any

from google.rpc import status_pb2

from tunefleet.job.v1.event_pb2 import JobEvent, StateChanged
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.inputs import (
    Accepted,
    Acknowledged,
    CancelRequested,
    HistoryTrimmed,
    JobDeleteRequested,
    JobSubmitted,
    JobUpdateRequested,
    Request,
)
from tunefleet_core.lifecycle.rows import (
    AttemptState,
    JobRow,
    RequestRow,
    SpecRow,
)

__all__ = [
    "answered_name",
    "asked_job",
    "cancel_job",
    "check_etag",
    "delete_job",
    "end_job",
    "remember",
    "state_conflict",
    "submit_job",
    "trim_history",
    "update_job",
]

_WAITING = frozenset(
    {JobState.JOB_STATE_PENDING, JobState.JOB_STATE_WAITING_RETRY, JobState.JOB_STATE_PAUSED}
)


def answered_name(draft: Draft, request: Request | None) -> str | None:
    """Return the resource name that a request was answered with before, or None if it is new.

    Raises:
        TunefleetError: REQUEST_ID_REUSED if it came with another body.
    """
    if request is None:
        return None
    row = draft.row(request.key.key)
    if not isinstance(row, RequestRow):
        return None
    if row.body_sha256 != request.body_sha256:
        raise TunefleetError(
            Reason.REQUEST_ID_REUSED,
            f"Request id '{request.key.request_id}' was used before with another body.",
            hint="Make a new request id for a new request.",
            metadata={"request_id": request.key.request_id},
        )
    return row.response.decode()


def remember(draft: Draft, request: Request | None, name: str) -> None:
    """Keep the answer of a request, in the same transaction as what it did."""
    if request is not None:
        draft.insert(
            RequestRow(
                request=request.key,
                body_sha256=request.body_sha256,
                response=name.encode(),
                create_time=draft.at.wall,
            )
        )


def submit_job(draft: Draft, asked: JobSubmitted) -> Accepted:
    """Create a job, once per request."""
    name = answered_name(draft, asked.request)
    if name is not None:
        return Accepted(name=name, row=None)
    if draft.world.job_by_name(asked.name) is not None:
        raise TunefleetError(
            Reason.JOB_EXISTS,
            f"A job '{asked.job_id}' exists already in project '{asked.project}'.",
            hint="Pick another id, or leave it out to get a fresh one.",
            metadata={"job": asked.name},
        )
    if draft.world.has_model(asked.model_name):
        raise TunefleetError(
            Reason.JOB_EXISTS,
            f"A model '{asked.job_id}' of an earlier job exists in project '{asked.project}'.",
            hint=f"Pick another id, or delete the model: tunefleet models delete {asked.job_id}",
            metadata={"model": asked.model_name},
        )
    job = _new_job(draft, asked)
    draft.insert(SpecRow(job_uid=asked.uid, spec=asked.spec, resolved_spec=asked.resolved_spec))
    remember(draft, asked.request, asked.name)
    return Accepted(name=job.name, row=job)


def _new_job(draft: Draft, asked: JobSubmitted) -> JobRow:
    created = StateChanged(to=JobState.JOB_STATE_PENDING, reason="Submitted.")
    sequence, size = draft.record(asked.uid, 0, JobEvent(state_changed=created))
    job = JobRow(
        uid=asked.uid,
        name=asked.name,
        project=asked.project,
        job_id=asked.job_id,
        state=JobState.JOB_STATE_PENDING,
        version=1,
        priority=asked.priority,
        queue_number=draft.take_queue_number(),
        backend=asked.backend,
        devices_needed=max(1, asked.devices_needed),
        required_labels=tuple(sorted(asked.required_labels)),
        max_attempts=max(1, asked.max_attempts),
        labels=tuple(sorted(asked.labels)),
        resolved_spec_digest=asked.resolved_spec_digest,
        creator=asked.creator,
        create_time=draft.at.wall,
        update_time=draft.at.wall,
        last_sequence=sequence,
        history_bytes=size,
    )
    draft.insert(job)
    return job


def cancel_job(draft: Draft, asked: CancelRequested) -> JobRow:
    """Stop a job: at once if nothing of it runs, else once its service has proven it gone."""
    repeated = answered_name(draft, asked.request) is not None
    job = asked_job(draft, asked.name)
    if repeated:
        return job
    if job.state == JobState.JOB_STATE_CANCELLED or job.cancel_requested:
        remember(draft, asked.request, job.name)  # a late double must not stop it after a retry
        return job
    check_etag(job, asked.etag)
    if job.is_terminal:
        raise state_conflict(job, "has already ended", f"See how it went: tunefleet jobs get {job.job_id}")
    if job.state in _WAITING:
        job = end_job(draft, job, JobState.JOB_STATE_CANCELLED, "Cancelled while nothing of it ran.")
    else:
        attempt = draft.world.live_attempt(job.uid)
        if attempt is not None:
            draft.write(attempt, state=AttemptState.STOPPING)
        job = draft.move(job, JobState.JOB_STATE_STOPPING, "Cancel was requested.", cancel_requested=True)
    remember(draft, asked.request, job.name)
    return job


def update_job(draft: Draft, asked: JobUpdateRequested) -> JobRow:
    """Change labels and priority of a job, whatever its state."""
    repeated = answered_name(draft, asked.request) is not None
    job = asked_job(draft, asked.name)
    if repeated:
        return job
    check_etag(job, asked.etag)
    labels = job.labels if asked.labels is None else tuple(sorted(asked.labels))
    priority = job.priority if asked.priority is None else asked.priority
    if (labels, priority) != (job.labels, job.priority):
        job = draft.write(job, labels=labels, priority=priority)
    remember(draft, asked.request, job.name)
    return job


def delete_job(draft: Draft, asked: JobDeleteRequested) -> Acknowledged:
    """Forget an ended job with its history and checkpoints; a model that it made stays."""
    if answered_name(draft, asked.request) is not None:
        return Acknowledged()
    if asked.allow_missing and draft.world.job_by_name(asked.name) is None:
        remember(draft, asked.request, asked.name)  # a late double must not take the next job of that name
        return Acknowledged()
    job = asked_job(draft, asked.name)
    check_etag(job, asked.etag)
    if not job.is_terminal:
        raise state_conflict(job, "has not ended", f"Cancel it first: tunefleet jobs cancel {job.job_id}")
    draft.remove(job)
    remember(draft, asked.request, job.name)
    return Acknowledged()


def trim_history(draft: Draft, trimmed: HistoryTrimmed) -> Acknowledged:
    """Give up the oldest events of a job."""
    job = draft.job(trimmed.job_uid)
    if job is not None and job.oldest_sequence <= trimmed.through_sequence <= job.last_sequence:
        kept = max(0, job.history_bytes - trimmed.dropped_bytes)
        draft.write(job, oldest_sequence=trimmed.through_sequence + 1, history_bytes=kept)
        draft.drop_events(job, trimmed.through_sequence)
    return Acknowledged()


def asked_job(draft: Draft, name: str) -> JobRow:
    """Return a job by name.

    Raises:
        TunefleetError: JOB_NOT_FOUND.
    """
    job = draft.world.job_by_name(name)
    if job is None:
        raise TunefleetError(
            Reason.JOB_NOT_FOUND,
            f"There is no job '{name}'.",
            hint="See the jobs there are: tunefleet jobs list",
            metadata={"job": name},
        )
    return job


def check_etag(job: JobRow, etag: str) -> None:
    """Compare the etag that a caller gave, if any, with the job's own.

    Raises:
        TunefleetError: ETAG_MISMATCH.
    """
    if etag and etag != str(job.version):
        raise TunefleetError(
            Reason.ETAG_MISMATCH,
            f"Job '{job.name}' has changed since it was read.",
            hint="Read the job again, then retry.",
            metadata={"job": job.name, "etag": str(job.version)},
        )


def state_conflict(job: JobRow, what: str, hint: str) -> TunefleetError:
    """Return the refusal of a verb in the state that a job is in."""
    word = JobState.Name(job.state).removeprefix("JOB_STATE_")
    return TunefleetError(
        Reason.STATE_CONFLICT,
        f"Job '{job.name}' {what}: it is {word}.",
        hint=hint,
        metadata={"job": job.name, "state": word},
    )


def end_job(
    draft: Draft,
    job: JobRow,
    state: JobState.ValueType,
    reason: str,
    error: status_pb2.Status | None = None,
    **fields: Any,
) -> JobRow:
    """Bring a job to a terminal state."""
    status = b"" if error is None else error.SerializeToString()
    cancelled = state == JobState.JOB_STATE_CANCELLED
    return draft.move(
        job,
        state,
        reason,
        error=status,
        end_time=draft.at.wall,
        cancel_requested=job.cancel_requested or cancelled,
        **fields,
    )

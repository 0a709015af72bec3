"""Rules for pause, resume, retry and saving: how a job leaves the devices and comes back to the queue.

A pause asks the attempt to save its exact state and end. Whatever becomes of that (it
saves, it dies, its service is lost), the job is PAUSED afterwards, from its newest
committed checkpoint: whoever asked for the device gets it. Only an end that would have
been final without the pause stays one: success, and an error that would come again.

A service that is stopped ends its attempts in the same way by itself: INTERRUPTED counts as no
failure and has no wait, and the job is taken up by whichever trainer is free next.

A checkpoint on request is a number of the attempt that rises: repeating it anywhere on its way
changes nothing. It ends with the attempt, for then nothing is left that was not saved.
"""

from __future__ import annotations

from google.rpc import status_pb2

from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle.asked import (
    CheckpointRequested,
    PauseRequested,
    ResumeRequested,
    RetryRequested,
)
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.jobs import answered_name, asked_job, check_etag, remember, state_conflict
from tunefleet_core.lifecycle.rows import AttemptRow, AttemptState, JobRow

__all__ = [
    "become_paused",
    "checkpoint_job",
    "give_back",
    "going_on",
    "pause_job",
    "resume_job",
    "retry_job",
]

_QUEUED = frozenset({JobState.JOB_STATE_PENDING, JobState.JOB_STATE_WAITING_RETRY})
_ENDED_BADLY = frozenset({JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED})


def pause_job(draft: Draft, asked: PauseRequested) -> JobRow:
    """Pause a job: at once if nothing of it runs, else once its service has saved and proven it gone."""
    repeated = answered_name(draft, asked.request) is not None
    job = asked_job(draft, asked.name)
    if repeated:
        return job
    if job.state == JobState.JOB_STATE_PAUSED:
        remember(draft, asked.request, job.name)  # a late double must not pause it once more
        return job
    check_etag(job, asked.etag)
    if job.is_terminal or job.state == JobState.JOB_STATE_STOPPING:
        raise state_conflict(job, "cannot be paused", f"See how it went: tunefleet jobs get {job.job_id}")
    if job.state == JobState.JOB_STATE_PAUSING:
        if job.resume_requested:
            job = draft.write(job, resume_requested=False)
    elif job.state in _QUEUED:
        job = draft.move(
            job, JobState.JOB_STATE_PAUSED, f"Paused while it waited; {going_on(job)}", error=b""
        )
    else:
        attempt = draft.world.live_attempt(job.uid)
        if attempt is None:
            raise RuntimeError(f"Job {job.uid} is at work without a live attempt.")
        _check_resumable(job, attempt)
        draft.write(attempt, state=AttemptState.PAUSING)
        job = draft.move(job, JobState.JOB_STATE_PAUSING, "Pause was requested.")
    remember(draft, asked.request, job.name)
    return job


def checkpoint_job(draft: Draft, asked: CheckpointRequested) -> JobRow:
    """Ask the attempt at work for a checkpoint."""
    repeated = answered_name(draft, asked.request) is not None
    job = asked_job(draft, asked.name)
    if repeated:
        return job
    check_etag(job, asked.etag)
    attempt = draft.world.live_attempt(job.uid)
    if attempt is None or attempt.state not in (AttemptState.ASSIGNED, AttemptState.RUNNING):
        raise state_conflict(
            job, "has nothing at work to save", f"See where it stands: tunefleet jobs get {job.job_id}"
        )
    if not attempt.saves_on_request:
        raise _unsupported(
            job,
            attempt,
            "CHECKPOINT_ON_REQUEST",
            "cannot save a run when it is asked to",
            f"Set train.checkpoint.every_steps, or pause it: tunefleet jobs pause {job.job_id}",
        )
    draft.write(attempt, checkpoint_requests=attempt.checkpoint_requests + 1)
    remember(draft, asked.request, job.name)
    return job


def become_paused(draft: Draft, job: JobRow, reason: str) -> JobRow:
    """Note that nothing of a PAUSING job runs any more; a resume that came meanwhile takes hold now."""
    is_wanted_again = job.resume_requested
    job = draft.move(job, JobState.JOB_STATE_PAUSED, f"{reason}; {going_on(job)}", error=b"")
    if is_wanted_again:
        job = draft.move(job, JobState.JOB_STATE_PENDING, "Resume was requested while it was pausing.")
    return job


def give_back(
    draft: Draft, job: JobRow, attempt: AttemptRow, error: status_pb2.Status | None = None
) -> JobRow:
    """Put a job back into the queue, with the turn that it had: its service was stopped, nothing failed.

    `error` says why its state could not be saved.
    """
    why = "" if error is None else f" ({error.message.rstrip('.')})"
    reason = f"{attempt.service} was stopped{why}; {going_on(job)}"
    return draft.move(job, JobState.JOB_STATE_PENDING, reason, error=b"")


def going_on(job: JobRow) -> str:
    """Say where a job goes on."""
    if job.checkpoint is None:
        return "nothing of it was saved yet, so it begins anew."
    return f"it goes on from step {job.checkpoint.step}."


def resume_job(draft: Draft, asked: ResumeRequested) -> JobRow:
    """Put a paused job back into the queue, with the turn that it had."""
    repeated = answered_name(draft, asked.request) is not None
    job = asked_job(draft, asked.name)
    if repeated:
        return job
    check_etag(job, asked.etag)
    if job.is_terminal or job.state == JobState.JOB_STATE_STOPPING:
        hint = f"Try it again: tunefleet jobs retry {job.job_id}"
        raise state_conflict(job, "cannot be resumed", hint)
    if job.state == JobState.JOB_STATE_PAUSED:
        job = draft.move(job, JobState.JOB_STATE_PENDING, "Resume was requested.")
    elif job.state == JobState.JOB_STATE_PAUSING and not job.resume_requested:
        # What is saving cannot be told to go on; it comes back by itself as soon as it has saved.
        job = draft.write(job, resume_requested=True)
    remember(draft, asked.request, job.name)
    return job


def retry_job(draft: Draft, asked: RetryRequested) -> JobRow:
    """Put an ended job back into the queue with all its attempts ahead of it; end a wait early."""
    repeated = answered_name(draft, asked.request) is not None
    job = asked_job(draft, asked.name)
    if repeated:
        return job
    check_etag(job, asked.etag)
    checkpoint = None if asked.from_start else job.checkpoint
    if job.state == JobState.JOB_STATE_WAITING_RETRY:
        job = draft.move(
            job, JobState.JOB_STATE_PENDING, "Retry was requested before its time.", checkpoint=checkpoint
        )
    elif job.state in _ENDED_BADLY:
        job = draft.move(
            job,
            JobState.JOB_STATE_PENDING,
            "Retry was requested.",
            checkpoint=checkpoint,
            failures=0,
            error=b"",
            end_time=None,
            cancel_requested=False,
        )
    else:
        raise state_conflict(job, "cannot be retried", _instead_of_retry(job))
    remember(draft, asked.request, job.name)
    return job


def _instead_of_retry(job: JobRow) -> str:
    if job.state == JobState.JOB_STATE_PAUSED:
        return f"Resume it: tunefleet jobs resume {job.job_id}"
    if job.state == JobState.JOB_STATE_SUCCEEDED:
        return "Submit its spec again to have it done once more."
    return f"See where it stands: tunefleet jobs get {job.job_id}"


def _check_resumable(job: JobRow, attempt: AttemptRow) -> None:
    if not attempt.is_resumable:
        raise _unsupported(
            job,
            attempt,
            "CHECKPOINT_RESUME",
            "cannot save the exact state of a run and resume from it",
            f"Let it run, or cancel it: tunefleet jobs cancel {job.job_id}",
        )


def _unsupported(job: JobRow, attempt: AttemptRow, capability: str, what: str, hint: str) -> TunefleetError:
    return TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"Backend '{attempt.backend}' {what}.",
        hint=hint,
        metadata={"backend": attempt.backend, "capability": capability, "job": job.name},
    )

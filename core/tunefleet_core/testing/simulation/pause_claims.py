"""Claims about pausing, retrying, draining and stopping, on books of their own.

Kept from the durable changes alone, like those of the checker: which attempts failed, how
far every job was saved, how far every attempt came, which services drain. Which services
stop is not durable: that is kept from what they said in their newest session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.job_service_pb2 import JobEvents
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.lifecycle import (
    AttemptRow,
    AttemptState,
    Change,
    EventsAppended,
    Input,
    JobRow,
    ManifestRow,
    ReplicaRow,
    RetryRequested,
    RowChange,
    ServiceAttached,
    ServiceRow,
    ServiceStopping,
    is_durable,
)
from tunefleet_core.testing.simulation.claim import require

__all__ = ["PauseClaims"]

_Kind = TypeVar("_Kind", JobRow, AttemptRow, ServiceRow, ReplicaRow, ManifestRow)

_AFTER_PAUSING = frozenset(
    {
        JobState.JOB_STATE_PAUSING,
        JobState.JOB_STATE_PAUSED,
        JobState.JOB_STATE_STOPPING,
        JobState.JOB_STATE_SUCCEEDED,
        JobState.JOB_STATE_FAILED,
    }
)
_TRIED_AGAIN = frozenset(
    {
        JobState.JOB_STATE_PENDING,
        JobState.JOB_STATE_PREPARING,
        JobState.JOB_STATE_WAITING_RETRY,
        JobState.JOB_STATE_FAILED,
    }
)


class PauseClaims:
    """Books of pauses, saves, failures and drains."""

    def __init__(self) -> None:
        self.paused = 0
        self.interrupted = 0
        self._failures: dict[str, int] = {}
        self._saved: dict[str, int] = {}
        self._reached: dict[tuple[str, int], int] = {}
        self._draining: set[str] = set()
        self._epochs: dict[str, int] = {}
        self._stopping: set[str] = set()
        self._cut: set[tuple[str, int]] = set()

    def check(self, event: Input, changes: Sequence[Change]) -> None:
        """Check what one input changed, and note it."""
        for change in changes:
            if isinstance(change, EventsAppended):
                self._note_steps(change)
        for _, service in _changed(changes, ServiceRow):
            (self._draining.add if service.is_draining else self._draining.discard)(service.name)
            self._epochs[service.name] = service.epoch
        if isinstance(event, ServiceAttached):
            stops = event.service.is_stopping
            (self._stopping.add if stops else self._stopping.discard)(event.service.name)
        elif isinstance(event, ServiceStopping) and event.epoch == self._epochs.get(event.service):
            self._stopping.add(event.service)
        for _, manifest in _changed(changes, ManifestRow):
            if manifest.kind == ArtifactKind.ARTIFACT_KIND_CHECKPOINT:
                uid = manifest.job_uid
                self._saved[uid] = max(self._saved.get(uid, 0), manifest.step)
        jobs = {new.uid: (old, new) for old, new in _changed(changes, JobRow)}
        for old, attempt in _changed(changes, AttemptRow):
            if old is None:
                idle = attempt.service not in self._draining
                require(idle, f"Draining {attempt.service} was given an attempt of {attempt.job_uid}.")
                stays = attempt.service not in self._stopping
                require(stays, f"{attempt.service}, which stops, was given an attempt of {attempt.job_uid}.")
            elif attempt.state == AttemptState.ENDED:
                self._check_end(attempt, *jobs[attempt.job_uid])
        for old, row in _changed(changes, ReplicaRow):
            moved = row.service != ("" if old is None else old.service)
            idle = not moved or row.service not in self._draining
            require(idle, f"Draining {row.service} was given {row.uid}.")
        for old, new in jobs.values():
            self._check_job(event, old, new)

    def _note_steps(self, appended: EventsAppended) -> None:
        for event in JobEvents.FromString(appended.payload).events:
            if event.HasField("metrics"):
                self._reached[(appended.job_uid, event.attempt)] = event.metrics.step
            elif event.HasField("attempt_ended") and event.attempt_ended.HasField("error"):
                self._cut.add((appended.job_uid, event.attempt))

    def _check_end(self, attempt: AttemptRow, before: JobRow | None, after: JobRow) -> None:
        """Count an attempt that failed, and hold one that was to save to what it reached."""
        uid = attempt.job_uid
        was_pausing = before is not None and before.state == JobState.JOB_STATE_PAUSING
        is_interrupted = attempt.outcome == AttemptOutcome.ATTEMPT_OUTCOME_INTERRUPTED
        self.interrupted += is_interrupted
        if not was_pausing and not is_interrupted and after.state in _TRIED_AGAIN:
            self._failures[uid] = self._failures.get(uid, 0) + 1
        if was_pausing and after.state == JobState.JOB_STATE_FAILED:
            self._failures[uid] = self._failures.get(uid, 0) + 1
        is_paused = attempt.outcome == AttemptOutcome.ATTEMPT_OUTCOME_PAUSED
        self.paused += is_paused
        has_saved = is_paused or (is_interrupted and (uid, attempt.attempt) not in self._cut)
        step = 0 if after.checkpoint is None else after.checkpoint.step
        reached = self._reached.get((uid, attempt.attempt), 0)
        if has_saved:
            require(step >= reached, f"Job {uid} was paused at step {reached} and saved at step {step}.")

    def _check_job(self, event: Input, old: JobRow | None, new: JobRow) -> None:
        uid = new.uid
        if isinstance(event, RetryRequested):
            if event.from_start:
                self._saved.pop(uid, None)
            if old is not None and old.is_terminal:
                self._failures.pop(uid, None)
        counted = self._failures.get(uid, 0)
        require(new.failures == counted, f"Job {uid} counts {new.failures} failures and had {counted}.")
        require(counted <= new.max_attempts, f"Job {uid} failed {counted} of {new.max_attempts} times.")
        saved, step = self._saved.get(uid), None if new.checkpoint is None else new.checkpoint.step
        require(step == saved, f"Job {uid} would go on from step {step}; {saved} is its newest.")
        if old is not None and old.state == JobState.JOB_STATE_PAUSING and not old.resume_requested:
            word = JobState.Name(new.state)
            require(new.state in _AFTER_PAUSING, f"Job {uid} was to be paused and is {word}.")


def _changed(changes: Sequence[Change], kind: type[_Kind]) -> list[tuple[_Kind | None, _Kind]]:
    """Return the durable changes of rows of one kind, as (before, after)."""
    return [
        (change.old if isinstance(change.old, kind) else None, change.new)
        for change in changes
        if isinstance(change, RowChange) and isinstance(change.new, kind) and is_durable(change)
    ]

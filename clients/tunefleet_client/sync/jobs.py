"""Jobs: create, plan, read, follow, pause, resume, retry, change, cancel, delete.

Sync face of `tunefleet_client.jobs`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from tunefleet.job.v1 import job_service_pb2 as wire
from tunefleet.job.v1.diagnosis_pb2 import Diagnosis
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import CheckpointRef, JobState
from tunefleet_client import jobs as _async
from tunefleet_client.specs import JobSource
from tunefleet_client.sync.session import Session
from tunefleet_client.watch import JobChange

__all__ = ["Jobs"]


class Jobs:
    """The jobs of one project. Names may be given short.

    Every method raises TunefleetError; its `reason` says why. Methods that change
    something take a `request_id`, the idempotency key: left out, a new one; give
    your own to make a repetition after a crash of yours harmless.
    """

    def __init__(self, session: Session[Any], inner: _async.Jobs) -> None:
        self._session = session
        self._inner = inner

    def create(
        self,
        spec: JobSource,
        *,
        job_id: str | None = None,
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> Job:
        """Resolve and start a job.

        Args:
            spec: What to do: a JobSpec, a mapping shaped like a job file, or the path
                of one. Relative paths are taken from the job file's folder, or from
                the current folder for a mapping.
            job_id: Its id; left out, the spec's name and a short random end.
            request_id: Idempotency key.
            validate_only: Check and resolve, keep nothing; the answer has no name.

        Example:
            >>> job = client.jobs.create("job.yaml")  # doctest: +SKIP
        """
        return self._session.call(
            self._inner.create(spec, job_id=job_id, request_id=request_id, validate_only=validate_only)
        )

    def plan(self, spec: JobSource) -> wire.PlanJobResponse:
        """Resolve a job as `create` would and keep nothing."""
        return self._session.call(self._inner.plan(spec))

    def get(self, name: str) -> Job:
        """Return a job as it stands."""
        return self._session.call(self._inner.get(name))

    def list(
        self,
        *,
        states: Sequence[JobState.ValueType] = (),
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> tuple[Job, ...]:
        """Return jobs, newest first, without their resolved specs.

        Args:
            states: Only jobs in one of these states; empty: all.
            labels: Only jobs that carry all of these labels.
            limit: Most jobs; None: all.
        """
        return self._session.call(self._inner.list(states=states, labels=labels, limit=limit))

    def cancel(self, name: str, *, etag: str = "", request_id: str | None = None) -> Job:
        """Ask a job to stop; it is CANCELLED once its processes are proven gone."""
        return self._session.call(self._inner.cancel(name, etag=etag, request_id=request_id))

    def pause(self, name: str, *, etag: str = "", request_id: str | None = None) -> Job:
        """Save a job's exact state and free its devices; it is PAUSED once its processes are gone."""
        return self._session.call(self._inner.pause(name, etag=etag, request_id=request_id))

    def checkpoint(self, name: str, *, etag: str = "", request_id: str | None = None) -> Job:
        """Have a job at work write a checkpoint as soon as it can, and go on; its events tell of it."""
        return self._session.call(self._inner.checkpoint(name, etag=etag, request_id=request_id))

    def resume(self, name: str, *, etag: str = "", request_id: str | None = None) -> Job:
        """Put a paused job back into the queue; it goes on from where it saved."""
        return self._session.call(self._inner.resume(name, etag=etag, request_id=request_id))

    def retry(
        self, name: str, *, from_start: bool = False, etag: str = "", request_id: str | None = None
    ) -> Job:
        """Put a failed or cancelled job back into the queue, or end its wait for the next try.

        Args:
            name: The job.
            from_start: Begin anew instead of at the newest committed checkpoint.
            etag: If given, must be the job's current one.
            request_id: Idempotency key.
        """
        return self._session.call(
            self._inner.retry(name, from_start=from_start, etag=etag, request_id=request_id)
        )

    def update(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        etag: str = "",
        request_id: str | None = None,
    ) -> Job:
        """Change a job's labels, its priority, or both.

        Args:
            name: The job.
            labels: Instead of those it has; an empty mapping removes all. None: as they are.
            priority: Higher runs first, until a device is given. None: as it is.
            etag: If given, must be the job's current one.
            request_id: Idempotency key.
        """
        return self._session.call(
            self._inner.update(name, labels=labels, priority=priority, etag=etag, request_id=request_id)
        )

    def delete(
        self, name: str, *, allow_missing: bool = False, etag: str = "", request_id: str | None = None
    ) -> None:
        """Remove an ended job with its events and checkpoints; a model it made stays."""
        return self._session.call(
            self._inner.delete(name, allow_missing=allow_missing, etag=etag, request_id=request_id)
        )

    def watch(
        self, name: str, after_sequence: int = 0, *, give_up_seconds: float = 120.0
    ) -> Generator[JobChange]:
        """Follow a job: its snapshots, and every event once, in order, over reconnects.

        Ends after the terminal snapshot. To leave earlier, close it
        (`contextlib.closing`), which ends the stream at once.

        Args:
            name: The job.
            after_sequence: Begin after this event; 0: with the first.
            give_up_seconds: How long the coordinator may be away.
        """
        return self._session.iterate(self._inner.watch(name, after_sequence, give_up_seconds=give_up_seconds))

    def wait(self, name: str, *, give_up_seconds: float = 120.0) -> Job:
        """Wait for the end of a job, over reconnects, and return the job as it ended.

        A job that failed is returned too: see its `state` and `error`.

        Args:
            name: The job.
            give_up_seconds: How long the coordinator may be away.
        """
        return self._session.call(self._inner.wait(name, give_up_seconds=give_up_seconds))

    def checkpoints(self, name: str, *, limit: int | None = None) -> tuple[CheckpointRef, ...]:
        """Return the committed checkpoints of a job, newest first."""
        return self._session.call(self._inner.checkpoints(name, limit=limit))

    def diagnose(self, name: str) -> Diagnosis:
        """Return what a training job's history tells about it: the case, its evidence, one next step.

        Raises:
            TunefleetError: STATE_CONFLICT for a job that trains nothing.
        """
        return self._session.call(self._inner.diagnose(name))

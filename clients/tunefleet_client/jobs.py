"""Jobs: create, plan, read, follow, pause, resume, retry, change, cancel, delete."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from tunefleet.job.v1 import job_service_pb2 as wire
from tunefleet.job.v1.diagnosis_pb2 import Diagnosis
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.job_service_pb2_grpc import JobServiceStub
from tunefleet.job.v1.state_pb2 import CheckpointRef, JobState
from tunefleet_client.calls import RESOLVE_DEADLINE_SECONDS, Connection
from tunefleet_client.names import resource_name
from tunefleet_client.pages import all_pages
from tunefleet_client.requests import new_request_id
from tunefleet_client.specs import JobSource, read_spec
from tunefleet_client.watch import JobChange, is_terminal, watch_job

if TYPE_CHECKING:
    from tunefleet.job.v1.job_service_pb2_grpc import JobServiceAsyncStub

__all__ = ["Jobs"]


class Jobs:
    """The jobs of one project. Names may be given short.

    Every method raises TunefleetError; its `reason` says why. Methods that change
    something take a `request_id`, the idempotency key: left out, a new one; give
    your own to make a repetition after a crash of yours harmless.
    """

    def __init__(self, connection: Connection, project: str) -> None:
        self._connection = connection
        self._project = project
        self._stub: JobServiceAsyncStub = JobServiceStub(connection.channel)

    async def create(
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
            >>> job = await client.jobs.create("job.yaml")  # doctest: +SKIP
        """
        request = wire.CreateJobRequest(
            request_id=new_request_id(request_id),
            parent=self._parent,
            job_id=job_id or "",
            spec=await read_spec(spec),
            validate_only=validate_only,
        )
        response = await self._connection.unary(
            self._stub.CreateJob, request, deadline_seconds=RESOLVE_DEADLINE_SECONDS
        )
        return response.job

    async def plan(self, spec: JobSource) -> wire.PlanJobResponse:
        """Resolve a job as `create` would and keep nothing."""
        request = wire.PlanJobRequest(parent=self._parent, spec=await read_spec(spec))
        return await self._connection.unary(
            self._stub.PlanJob, request, deadline_seconds=RESOLVE_DEADLINE_SECONDS
        )

    async def get(self, name: str) -> Job:
        """Return a job as it stands."""
        response = await self._connection.unary(self._stub.GetJob, wire.GetJobRequest(name=self._name(name)))
        return response.job

    async def list(
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

        async def page(size: int, token: str) -> tuple[Sequence[Job], str]:
            request = wire.ListJobsRequest(
                parent=self._parent, page_size=size, page_token=token, states=states, labels=labels
            )
            response = await self._connection.unary(self._stub.ListJobs, request)
            return response.jobs, response.next_page_token

        return await all_pages(page, limit=limit)

    async def cancel(self, name: str, *, etag: str = "", request_id: str | None = None) -> Job:
        """Ask a job to stop; it is CANCELLED once its processes are proven gone."""
        request = wire.CancelJobRequest(
            request_id=new_request_id(request_id), name=self._name(name), etag=etag
        )
        return (await self._connection.unary(self._stub.CancelJob, request)).job

    async def pause(self, name: str, *, etag: str = "", request_id: str | None = None) -> Job:
        """Save a job's exact state and free its devices; it is PAUSED once its processes are gone."""
        request = wire.PauseJobRequest(
            request_id=new_request_id(request_id), name=self._name(name), etag=etag
        )
        return (await self._connection.unary(self._stub.PauseJob, request)).job

    async def checkpoint(self, name: str, *, etag: str = "", request_id: str | None = None) -> Job:
        """Have a job at work write a checkpoint as soon as it can, and go on; its events tell of it."""
        request = wire.CheckpointJobRequest(
            request_id=new_request_id(request_id), name=self._name(name), etag=etag
        )
        return (await self._connection.unary(self._stub.CheckpointJob, request)).job

    async def resume(self, name: str, *, etag: str = "", request_id: str | None = None) -> Job:
        """Put a paused job back into the queue; it goes on from where it saved."""
        request = wire.ResumeJobRequest(
            request_id=new_request_id(request_id), name=self._name(name), etag=etag
        )
        return (await self._connection.unary(self._stub.ResumeJob, request)).job

    async def retry(
        self, name: str, *, from_start: bool = False, etag: str = "", request_id: str | None = None
    ) -> Job:
        """Put a failed or cancelled job back into the queue, or end its wait for the next try.

        Args:
            name: The job.
            from_start: Begin anew instead of at the newest committed checkpoint.
            etag: If given, must be the job's current one.
            request_id: Idempotency key.
        """
        request = wire.RetryJobRequest(
            request_id=new_request_id(request_id), name=self._name(name), etag=etag, from_start=from_start
        )
        return (await self._connection.unary(self._stub.RetryJob, request)).job

    async def update(
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
        given = {"labels": labels, "priority": priority}
        request = wire.UpdateJobRequest(
            request_id=new_request_id(request_id),
            name=self._name(name),
            etag=etag,
            update_mask=FieldMask(paths=[field for field, value in given.items() if value is not None]),
            labels=labels,
            priority=priority,
        )
        return (await self._connection.unary(self._stub.UpdateJob, request)).job

    async def delete(
        self, name: str, *, allow_missing: bool = False, etag: str = "", request_id: str | None = None
    ) -> None:
        """Remove an ended job with its events and checkpoints; a model it made stays."""
        request = wire.DeleteJobRequest(
            request_id=new_request_id(request_id),
            name=self._name(name),
            etag=etag,
            allow_missing=allow_missing,
        )
        await self._connection.unary(self._stub.DeleteJob, request)

    def watch(
        self, name: str, after_sequence: int = 0, *, give_up_seconds: float = 120.0
    ) -> AsyncGenerator[JobChange]:
        """Follow a job: its snapshots, and every event once, in order, over reconnects.

        Ends after the terminal snapshot. To leave earlier, close it
        (`contextlib.aclosing`), which ends the stream at once.

        Args:
            name: The job.
            after_sequence: Begin after this event; 0: with the first.
            give_up_seconds: How long the coordinator may be away.
        """
        request = wire.WatchJobRequest(name=self._name(name), after_sequence=after_sequence)
        return watch_job(self._connection, self._stub, request, give_up_seconds=give_up_seconds)

    async def wait(self, name: str, *, give_up_seconds: float = 120.0) -> Job:
        """Wait for the end of a job, over reconnects, and return the job as it ended.

        A job that failed is returned too: see its `state` and `error`.

        Args:
            name: The job.
            give_up_seconds: How long the coordinator may be away.
        """
        job = await self.get(name)
        if is_terminal(job):
            return job
        changes = self.watch(name, job.last_sequence, give_up_seconds=give_up_seconds)
        async with aclosing(changes):
            async for change in changes:
                job = change.snapshot or job
        return job

    async def checkpoints(self, name: str, *, limit: int | None = None) -> tuple[CheckpointRef, ...]:
        """Return the committed checkpoints of a job, newest first."""
        parent = self._name(name)

        async def page(size: int, token: str) -> tuple[Sequence[CheckpointRef], str]:
            request = wire.ListCheckpointsRequest(parent=parent, page_size=size, page_token=token)
            response = await self._connection.unary(self._stub.ListCheckpoints, request)
            return response.checkpoints, response.next_page_token

        return await all_pages(page, limit=limit)

    async def diagnose(self, name: str) -> Diagnosis:
        """Return what a training job's history tells about it: the case, its evidence, one next step.

        Raises:
            TunefleetError: STATE_CONFLICT for a job that trains nothing.
        """
        request = wire.DiagnoseJobRequest(name=self._name(name))
        return (await self._connection.unary(self._stub.DiagnoseJob, request)).diagnosis

    @property
    def _parent(self) -> str:
        return f"projects/{self._project}"

    def _name(self, name: str) -> str:
        return resource_name(name, collection="jobs", project=self._project)

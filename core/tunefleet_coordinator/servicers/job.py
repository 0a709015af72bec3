"""JobService."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator

from tunefleet.job.v1 import job_service_pb2 as pb
from tunefleet.job.v1 import job_service_pb2_grpc as job_grpc
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.job.v1.state_pb2 import CheckpointRef
from tunefleet_coordinator.admission import Admission
from tunefleet_coordinator.diagnosing import diagnose_job
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.names import check_id, fresh_id, fresh_uid, parse_name, parse_parent
from tunefleet_coordinator.requests import InFlight, request_of
from tunefleet_coordinator.resolver import Resolver
from tunefleet_coordinator.security import current_principal, require_project
from tunefleet_coordinator.views import job_view
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import (
    Accepted,
    CancelRequested,
    CheckpointRequested,
    Input,
    JobDeleteRequested,
    JobRow,
    JobSubmitted,
    JobUpdateRequested,
    PauseRequested,
    Request,
    ResumeRequested,
    RetryRequested,
)
from tunefleet_core.resolve import Resolution
from tunefleet_core.rpc import RpcContext
from tunefleet_core.timestamps import timestamp_now

__all__ = ["JobServicer"]

_LOG = logging.getLogger(__name__)
_HEARTBEAT_SECONDS = 10.0
_BATCH_EVENTS = 500


class JobServicer(job_grpc.JobServiceServicer):
    """Answers for jobs; the docs of each method are in the proto."""

    def __init__(self, kernel: Kernel, resolver: Resolver, admission: Admission) -> None:
        self._kernel = kernel
        self._resolver = resolver
        self._admission = admission
        self._in_flight = InFlight()

    async def GetJob(self, request: pb.GetJobRequest, context: RpcContext) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=await self._view(await self._row(request.name)))

    async def ListJobs(self, request: pb.ListJobsRequest, context: RpcContext) -> pb.ListJobsResponse:
        project = parse_parent(request.parent)
        require_project(project)
        store = self._kernel.store
        page = await self._kernel.read(
            store.list_jobs,
            project,
            states=list(request.states),
            labels=tuple(request.labels.items()),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        specs = await self._kernel.read(store.get_specs, [row.uid for row in page.items])
        jobs = [job_view(row, specs.get(row.uid), with_resolved=False) for row in page.items]
        return pb.ListJobsResponse(jobs=jobs, next_page_token=page.next_page_token)

    async def PlanJob(self, request: pb.PlanJobRequest, context: RpcContext) -> pb.PlanJobResponse:
        project = parse_parent(request.parent)
        require_project(project)
        resolution = await self._resolver.resolve(project, request.spec)
        return pb.PlanJobResponse(
            resolved_spec=resolution.spec,
            resolved_spec_digest=resolution.digest,
            notices=resolution.notices,
        )

    async def CreateJob(self, request: pb.CreateJobRequest, context: RpcContext) -> pb.CreateJobResponse:
        project = parse_parent(request.parent)
        require_project(project)
        if request.job_id:
            check_id(request.job_id, "job_id")
        idempotency = request_of(request, "CreateJob")

        if request.validate_only:
            return pb.CreateJobResponse(job=await self._would_be(project, request))

        async def create(is_known: bool) -> pb.CreateJobResponse:
            known = await self._answered_before(idempotency) if is_known else None
            if known is not None:
                return pb.CreateJobResponse(job=await self._view(known))
            try:
                with await self._admission.new_work():
                    resolution = await self._resolver.resolve(project, request.spec)
                    return await self._submit(project, request, resolution, idempotency)
            except TunefleetError:
                # What was granted to this very request before stays granted, whatever became of the fleet.
                known = await self._answered_before(idempotency)
                if known is None:
                    raise
                return pb.CreateJobResponse(job=await self._view(known))

        return await self._in_flight.one_at_a_time(idempotency, create)

    async def CancelJob(self, request: pb.CancelJobRequest, context: RpcContext) -> pb.CancelJobResponse:
        name, asked = _named(request.name), request_of(request, "CancelJob")
        at = self._kernel.moment()
        job = await self._carry_out(
            CancelRequested(at=at, request=asked, name=name, etag=request.etag), "cancel", request.request_id
        )
        return pb.CancelJobResponse(job=job)

    async def PauseJob(self, request: pb.PauseJobRequest, context: RpcContext) -> pb.PauseJobResponse:
        name, asked = _named(request.name), request_of(request, "PauseJob")
        at = self._kernel.moment()
        job = await self._carry_out(
            PauseRequested(at=at, request=asked, name=name, etag=request.etag), "pause", request.request_id
        )
        return pb.PauseJobResponse(job=job)

    async def CheckpointJob(
        self, request: pb.CheckpointJobRequest, context: RpcContext
    ) -> pb.CheckpointJobResponse:
        name, asked = _named(request.name), request_of(request, "CheckpointJob")
        at = self._kernel.moment()
        job = await self._carry_out(
            CheckpointRequested(at=at, request=asked, name=name, etag=request.etag),
            "checkpoint",
            request.request_id,
        )
        return pb.CheckpointJobResponse(job=job)

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: RpcContext) -> pb.ResumeJobResponse:
        name, asked = _named(request.name), request_of(request, "ResumeJob")
        at = self._kernel.moment()
        job = await self._carry_out(
            ResumeRequested(at=at, request=asked, name=name, etag=request.etag), "resume", request.request_id
        )
        return pb.ResumeJobResponse(job=job)

    async def RetryJob(self, request: pb.RetryJobRequest, context: RpcContext) -> pb.RetryJobResponse:
        event = RetryRequested(
            at=self._kernel.moment(),
            request=request_of(request, "RetryJob"),
            name=_named(request.name),
            etag=request.etag,
            from_start=request.from_start,
        )
        return pb.RetryJobResponse(job=await self._carry_out(event, "retry", request.request_id))

    async def UpdateJob(self, request: pb.UpdateJobRequest, context: RpcContext) -> pb.UpdateJobResponse:
        name = _named(request.name)
        fields = _fields_to_change(request)
        event = JobUpdateRequested(
            at=self._kernel.moment(),
            request=request_of(request, "UpdateJob"),
            name=name,
            etag=request.etag,
            labels=tuple(request.labels.items()) if "labels" in fields else None,
            priority=request.priority if "priority" in fields else None,
        )
        return pb.UpdateJobResponse(job=await self._carry_out(event, "update", request.request_id))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: RpcContext) -> pb.DeleteJobResponse:
        event = JobDeleteRequested(
            at=self._kernel.moment(),
            request=request_of(request, "DeleteJob"),
            name=_named(request.name),
            etag=request.etag,
            allow_missing=request.allow_missing,
        )
        await self._kernel.submit(event)
        where = {"request": request.request_id, "job": event.name}
        _LOG.info("%s deleted the job", current_principal().name, extra=where)
        return pb.DeleteJobResponse()

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: RpcContext
    ) -> AsyncGenerator[pb.WatchJobResponse]:
        row = await self._row(request.name)
        after = request.after_sequence
        if after < 0:
            raise TunefleetError.field("after_sequence", "must not be negative")
        store = self._kernel.store
        with self._kernel.subscribe_job(row.uid) as changed:
            yield pb.WatchJobResponse(snapshot=await self._view(row))
            while True:
                row = await self._row_again(row)
                # The row is read before its events: a terminal row means that they are all there.
                _require_kept(row, after)
                while events := await self._kernel.read(store.read_events, row.uid, after, _BATCH_EVENTS):
                    if events[0].sequence != after + 1:  # given up since the row was read
                        _require_kept(await self._row_again(row), after)
                    after = events[-1].sequence
                    yield pb.WatchJobResponse(events=pb.JobEvents(events=events))
                if row.is_terminal:
                    yield pb.WatchJobResponse(snapshot=await self._view(row))
                    return
                if not await changed.wait(_HEARTBEAT_SECONDS):
                    yield pb.WatchJobResponse(heartbeat=pb.WatchHeartbeat(time=timestamp_now()))

    async def ListCheckpoints(
        self, request: pb.ListCheckpointsRequest, context: RpcContext
    ) -> pb.ListCheckpointsResponse:
        row = await self._row(request.parent, "parent")
        page = await self._kernel.read(
            self._kernel.store.list_checkpoints,
            row.uid,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        checkpoints = [
            CheckpointRef(step=item.step, manifest_digest=item.digest, attempt=item.attempt)
            for item in page.items
        ]
        return pb.ListCheckpointsResponse(checkpoints=checkpoints, next_page_token=page.next_page_token)

    async def DiagnoseJob(
        self, request: pb.DiagnoseJobRequest, context: RpcContext
    ) -> pb.DiagnoseJobResponse:
        row = await self._row(request.name)
        return pb.DiagnoseJobResponse(diagnosis=await diagnose_job(self._kernel, row, await self._view(row)))

    async def _submit(
        self,
        project: str,
        request: pb.CreateJobRequest,
        resolution: Resolution,
        idempotency: Request | None,
    ) -> pb.CreateJobResponse:
        spec = resolution.spec.spec
        answer = await self._kernel.submit(
            JobSubmitted(
                at=self._kernel.moment(),
                request=idempotency,
                uid=fresh_uid(),
                project=project,
                job_id=request.job_id or fresh_id(_stem(request.spec)),
                spec=request.spec.SerializeToString(),
                resolved_spec=resolution.spec.SerializeToString(),
                resolved_spec_digest=resolution.digest,
                backend=resolution.spec.backend.name,
                devices_needed=spec.resources.devices if spec.resources.HasField("devices") else 1,
                required_labels=tuple(sorted(spec.resources.labels.items())),
                labels=tuple(spec.labels.items()),
                priority=spec.priority,
                max_attempts=spec.max_attempts or 3,
                creator=current_principal().name,
            )
        )
        assert isinstance(answer, Accepted)  # the answer to JobSubmitted
        where = {"request": request.request_id, "job": answer.name}
        _LOG.info("a job was submitted by %s", current_principal().name, extra=where)
        row = answer.row
        if not isinstance(row, JobRow):  # a repetition: the job may have gone on since
            return pb.CreateJobResponse(job=await self._view(await self._row(answer.name)))
        # What was just written need not be read, and each of its specs is copied once.
        response = pb.CreateJobResponse(job=job_view(row, None))
        response.job.spec.CopyFrom(request.spec)
        response.job.resolved_spec.CopyFrom(resolution.spec)
        return response

    async def _carry_out(self, event: Input, verb: str, request_id: str) -> Job:
        """Have something done to a job and return it as it is then."""
        answer = await self._kernel.submit(event)
        assert isinstance(answer, JobRow)  # the answer to everything that is asked of a job but its deletion
        where = {"request": request_id, "job": answer.name, "attempt": answer.attempt}
        _LOG.info("%s asked: %s", current_principal().name, verb, extra=where)
        return await self._view(answer)

    async def _would_be(self, project: str, request: pb.CreateJobRequest) -> Job:
        """Return the job that a request would make, checked as if it were made."""
        resolution = await self._resolver.resolve(project, request.spec)
        if request.job_id:
            name = f"projects/{project}/jobs/{request.job_id}"
            if await self._kernel.read(self._kernel.store.get_job, name) is not None:
                raise TunefleetError(
                    Reason.JOB_EXISTS,
                    f"A job '{request.job_id}' exists already in project '{project}'.",
                    hint="Pick another id, or leave it out to get a fresh one.",
                    metadata={"job": name},
                )
        return Job(
            spec=request.spec,
            resolved_spec=resolution.spec,
            resolved_spec_digest=resolution.digest,
            labels=request.spec.labels,
            priority=request.spec.priority,
            creator=current_principal().name,
        )

    async def _answered_before(self, request: Request | None) -> JobRow | None:
        """Return the job that the same request made; equal bytes only, else the core refuses."""
        if request is None:
            return None
        known = await self._kernel.read(self._kernel.store.get_request, request.key)
        if known is None:
            return None
        if known.body_sha256 != request.body_sha256:
            raise TunefleetError(
                Reason.REQUEST_ID_REUSED,
                f"Request id {request.key.request_id} was used before with another body.",
                hint="Make a new request id for a new request.",
                metadata={"request_id": request.key.request_id},
            )
        return await self._row(known.response.decode())

    async def _row(self, name: str, field: str = "name") -> JobRow:
        parsed = parse_name(name, "jobs", field)
        require_project(parsed.project)
        row = await self._kernel.read(self._kernel.store.get_job, str(parsed))
        if row is None:
            raise _not_found(str(parsed))
        return row

    async def _row_again(self, row: JobRow) -> JobRow:
        """Return a job as it is now; by uid, for its name may be another job's by now."""
        found = await self._kernel.read(self._kernel.store.get_job_by_uid, row.uid)
        if found is None:
            raise _not_found(row.name)
        return found

    async def _view(self, row: JobRow) -> Job:
        return job_view(row, await self._kernel.read(self._kernel.store.get_spec, row.uid))


def _stem(spec: JobSpec) -> str:
    return spec.name or (spec.WhichOneof("work") or "job")


def _named(name: str) -> str:
    """Return a job's name, checked, of a project that the caller may use."""
    parsed = parse_name(name, "jobs")
    require_project(parsed.project)
    return str(parsed)


def _not_found(name: str) -> TunefleetError:
    return TunefleetError(
        Reason.JOB_NOT_FOUND,
        f"There is no job '{name}'.",
        hint="See the jobs there are: tunefleet jobs list",
        metadata={"name": name},
    )


def _require_kept(row: JobRow, after: int) -> None:
    """Refuse to leave out events that are no longer kept.

    Raises:
        TunefleetError: HISTORY_COMPACTED naming the oldest sequence.
    """
    if after + 1 < row.oldest_sequence:
        raise TunefleetError(
            Reason.HISTORY_COMPACTED,
            f"Events {after + 1} to {row.oldest_sequence - 1} of job '{row.name}' are no longer kept.",
            hint=f"Watch again with after_sequence={row.oldest_sequence - 1}.",
            metadata={"job": row.name, "oldest_sequence": str(row.oldest_sequence)},
        )


def _fields_to_change(request: pb.UpdateJobRequest) -> frozenset[str]:
    """Return which fields an update changes: those of its mask, else those that are set."""
    changeable = frozenset({"labels", "priority"})
    asked = frozenset(request.update_mask.paths)
    if not asked:
        asked = frozenset(field.name for field, _ in request.ListFields()) & changeable
    unknown = sorted(asked - changeable)
    if unknown:
        raise TunefleetError.field(
            "update_mask",
            f"'{unknown[0]}' cannot be changed",
            hint="Change labels or priority; for anything else submit a new job.",
        )
    if "labels" in asked and not all(name.strip() for name in request.labels):
        raise TunefleetError.field("labels", "has a label without name")
    return asked

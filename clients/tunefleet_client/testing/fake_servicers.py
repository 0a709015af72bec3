"""The servicers of FakeCoordinator for jobs, models and deployments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import grpc.aio
from google.protobuf.message import Message

from tunefleet.deployment.v1 import deployment_service_pb2 as deployment
from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentState
from tunefleet.deployment.v1.deployment_service_pb2_grpc import DeploymentServiceServicer
from tunefleet.deployment.v1.rollout_pb2 import (
    DeploymentEvent,
    DeploymentVersion,
    Rollout,
    RolloutEnded,
    RolloutStarted,
    RolloutState,
    RolloutStep,
)
from tunefleet.job.v1 import job_service_pb2 as job
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.job_service_pb2_grpc import JobServiceServicer
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet.model.v1 import model_service_pb2 as model
from tunefleet.model.v1.model_service_pb2_grpc import ModelServiceServicer
from tunefleet_core.errors import Reason, TunefleetError

if TYPE_CHECKING:
    from tunefleet_client.testing.fake_coordinator import FakeCoordinator

__all__ = ["Context", "FakeDeployments", "FakeJobs", "FakeModels", "missing", "page"]

Context = grpc.aio.ServicerContext[Any, Any]
_Item = TypeVar("_Item", bound=Message)

_ENDED = frozenset((JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED))
_PAUSES: Mapping[int, JobState.ValueType] = {
    JobState.JOB_STATE_PENDING: JobState.JOB_STATE_PAUSED,
    JobState.JOB_STATE_WAITING_RETRY: JobState.JOB_STATE_PAUSED,
    JobState.JOB_STATE_PREPARING: JobState.JOB_STATE_PAUSING,
    JobState.JOB_STATE_RUNNING: JobState.JOB_STATE_PAUSING,
    JobState.JOB_STATE_PAUSING: JobState.JOB_STATE_PAUSING,
    JobState.JOB_STATE_PAUSED: JobState.JOB_STATE_PAUSED,
}
_SAVES: Mapping[int, JobState.ValueType] = {
    JobState.JOB_STATE_PREPARING: JobState.JOB_STATE_PREPARING,
    JobState.JOB_STATE_RUNNING: JobState.JOB_STATE_RUNNING,
}
_RESUMES: Mapping[int, JobState.ValueType] = {
    JobState.JOB_STATE_PAUSED: JobState.JOB_STATE_PENDING,
    JobState.JOB_STATE_PENDING: JobState.JOB_STATE_PENDING,
    JobState.JOB_STATE_PREPARING: JobState.JOB_STATE_PREPARING,
    JobState.JOB_STATE_RUNNING: JobState.JOB_STATE_RUNNING,
}
_RETRIES: Mapping[int, JobState.ValueType] = {
    JobState.JOB_STATE_FAILED: JobState.JOB_STATE_PENDING,
    JobState.JOB_STATE_CANCELLED: JobState.JOB_STATE_PENDING,
    JobState.JOB_STATE_WAITING_RETRY: JobState.JOB_STATE_PENDING,
}
"""From a state to the one that the answer shows; other states are a STATE_CONFLICT."""


def page(items: Iterable[_Item], size: int, token: str) -> tuple[list[_Item], str]:
    """Return a page of items and the token of the next."""
    everything = list(items)
    begin = int(token or 0)
    end = begin + min(size or 50, 500)
    return everything[begin:end], str(end) if end < len(everything) else ""


def missing(reason: Reason, noun: str, name: str) -> TunefleetError:
    """Return the NOT_FOUND of a noun."""
    return TunefleetError(
        reason, f"No {noun} '{name}'.", hint=f"tunefleet {noun}s list", metadata={"name": name}
    )


def _conflict(found: Job) -> TunefleetError:
    state = JobState.Name(found.state).removeprefix("JOB_STATE_")
    return TunefleetError(
        Reason.STATE_CONFLICT,
        f"Job '{found.name.rsplit('/', 1)[-1]}' is {state}.",
        hint=f"tunefleet jobs get {found.name.rsplit('/', 1)[-1]}",
        metadata={"name": found.name, "state": state},
    )


class FakeJobs(JobServiceServicer):
    """JobService from dictionaries."""

    def __init__(self, fake: FakeCoordinator) -> None:
        self._fake = fake

    async def GetJob(self, request: job.GetJobRequest, context: Context) -> job.GetJobResponse:
        await self._fake.admit(request, context)
        return job.GetJobResponse(job=await self._job(request.name, context))

    async def ListJobs(self, request: job.ListJobsRequest, context: Context) -> job.ListJobsResponse:
        await self._fake.admit(request, context)
        wanted = dict(request.labels)
        found = [
            item
            for item in self._fake.jobs.values()
            if (not request.states or item.state in request.states)
            and wanted.items() <= dict(item.labels).items()
        ]
        jobs, token = page(found, request.page_size, request.page_token)
        return job.ListJobsResponse(jobs=jobs, next_page_token=token)

    async def CreateJob(self, request: job.CreateJobRequest, context: Context) -> job.CreateJobResponse:
        await self._fake.admit(request, context)
        name = f"{request.parent}/jobs/{request.job_id or request.spec.name + '-ab12'}"
        created = Job(
            name=name,
            uid="u-1",
            spec=request.spec,
            state=JobState.JOB_STATE_PENDING,
            labels=request.spec.labels,
            priority=request.spec.priority,
        )
        if request.validate_only:
            created.name = created.uid = ""
            return job.CreateJobResponse(job=created)
        self._fake.jobs.setdefault(name, created)
        return job.CreateJobResponse(job=self._fake.jobs[name])

    async def PlanJob(self, request: job.PlanJobRequest, context: Context) -> job.PlanJobResponse:
        await self._fake.admit(request, context)
        return self._fake.plan

    async def CancelJob(self, request: job.CancelJobRequest, context: Context) -> job.CancelJobResponse:
        await self._fake.admit(request, context)
        found = await self._job(request.name, context)
        await self._fake.move(request.name, JobState.JOB_STATE_STOPPING)
        return job.CancelJobResponse(job=found)

    async def PauseJob(self, request: job.PauseJobRequest, context: Context) -> job.PauseJobResponse:
        await self._fake.admit(request, context)
        return job.PauseJobResponse(job=await self._move(request.name, _PAUSES, context))

    async def CheckpointJob(
        self, request: job.CheckpointJobRequest, context: Context
    ) -> job.CheckpointJobResponse:
        await self._fake.admit(request, context)
        return job.CheckpointJobResponse(job=await self._move(request.name, _SAVES, context))

    async def ResumeJob(self, request: job.ResumeJobRequest, context: Context) -> job.ResumeJobResponse:
        await self._fake.admit(request, context)
        return job.ResumeJobResponse(job=await self._move(request.name, _RESUMES, context))

    async def RetryJob(self, request: job.RetryJobRequest, context: Context) -> job.RetryJobResponse:
        await self._fake.admit(request, context)
        return job.RetryJobResponse(job=await self._move(request.name, _RETRIES, context))

    async def UpdateJob(self, request: job.UpdateJobRequest, context: Context) -> job.UpdateJobResponse:
        await self._fake.admit(request, context)
        found = await self._job(request.name, context)
        if "labels" in request.update_mask.paths:
            found.labels.clear()
            found.labels.update(request.labels)
        if "priority" in request.update_mask.paths:
            found.priority = request.priority
        return job.UpdateJobResponse(job=found)

    async def DeleteJob(self, request: job.DeleteJobRequest, context: Context) -> job.DeleteJobResponse:
        await self._fake.admit(request, context)
        if request.name not in self._fake.jobs and request.allow_missing:
            return job.DeleteJobResponse()
        found = await self._job(request.name, context)
        if found.state not in _ENDED:
            await self._fake.abort(context, _conflict(found))
        del self._fake.jobs[request.name]
        return job.DeleteJobResponse()

    async def WatchJob(
        self, request: job.WatchJobRequest, context: Context
    ) -> AsyncIterator[job.WatchJobResponse]:
        await self._fake.admit(request, context)
        await self._job(request.name, context)
        async for response in self._fake.watch(request.name, request.after_sequence, context):
            yield response

    async def DiagnoseJob(self, request: job.DiagnoseJobRequest, context: Context) -> job.DiagnoseJobResponse:
        await self._fake.admit(request, context)
        await self._job(request.name, context)
        return job.DiagnoseJobResponse(diagnosis=self._fake.diagnosis)

    async def ListCheckpoints(
        self, request: job.ListCheckpointsRequest, context: Context
    ) -> job.ListCheckpointsResponse:
        await self._fake.admit(request, context)
        found = self._fake.checkpoints.get(request.parent, [])
        checkpoints, token = page(found, request.page_size, request.page_token)
        return job.ListCheckpointsResponse(checkpoints=checkpoints, next_page_token=token)

    async def _move(self, name: str, moves: Mapping[int, JobState.ValueType], context: Context) -> Job:
        found = await self._job(name, context)
        if found.state not in moves:
            await self._fake.abort(context, _conflict(found))
        if moves[found.state] != found.state:
            await self._fake.move(name, moves[found.state])
        return found

    async def _job(self, name: str, context: Context) -> Job:
        if name not in self._fake.jobs:
            await self._fake.abort(context, missing(Reason.JOB_NOT_FOUND, "job", name))
        return self._fake.jobs[name]


class FakeModels(ModelServiceServicer):
    """ModelService from a dictionary."""

    def __init__(self, fake: FakeCoordinator) -> None:
        self._fake = fake

    async def GetModel(self, request: model.GetModelRequest, context: Context) -> model.GetModelResponse:
        await self._fake.admit(request, context)
        if request.name not in self._fake.models:
            await self._fake.abort(context, missing(Reason.MODEL_NOT_FOUND, "model", request.name))
        return model.GetModelResponse(model=self._fake.models[request.name])

    async def ListModels(
        self, request: model.ListModelsRequest, context: Context
    ) -> model.ListModelsResponse:
        await self._fake.admit(request, context)
        models, token = page(self._fake.models.values(), request.page_size, request.page_token)
        return model.ListModelsResponse(models=models, next_page_token=token)

    async def DeleteModel(
        self, request: model.DeleteModelRequest, context: Context
    ) -> model.DeleteModelResponse:
        await self._fake.admit(request, context)
        if self._fake.models.pop(request.name, None) is None and not request.allow_missing:
            await self._fake.abort(context, missing(Reason.MODEL_NOT_FOUND, "model", request.name))
        return model.DeleteModelResponse()


class FakeDeployments(DeploymentServiceServicer):
    """DeploymentService; a new deployment is READY at the second look."""

    def __init__(self, fake: FakeCoordinator) -> None:
        self._fake = fake

    async def GetDeployment(
        self, request: deployment.GetDeploymentRequest, context: Context
    ) -> deployment.GetDeploymentResponse:
        await self._fake.admit(request, context)
        found = await self._deployment(request.name, context)
        answer = deployment.GetDeploymentResponse(deployment=found)
        if found.state == DeploymentState.DEPLOYMENT_STATE_STARTING:
            found.state = DeploymentState.DEPLOYMENT_STATE_READY
        return answer

    async def ListDeployments(
        self, request: deployment.ListDeploymentsRequest, context: Context
    ) -> deployment.ListDeploymentsResponse:
        await self._fake.admit(request, context)
        found, token = page(self._fake.deployments.values(), request.page_size, request.page_token)
        return deployment.ListDeploymentsResponse(deployments=found, next_page_token=token)

    async def CreateDeployment(
        self, request: deployment.CreateDeploymentRequest, context: Context
    ) -> deployment.CreateDeploymentResponse:
        await self._fake.admit(request, context)
        own_id = request.spec.model.rsplit("/", 1)[-1]
        name = f"{request.parent}/deployments/{request.deployment_id or own_id}"
        state = DeploymentState.DEPLOYMENT_STATE_STARTING
        created = Deployment(name=name, uid="u-1", spec=request.spec, state=state)
        if request.validate_only:
            created.name = created.uid = ""
            return deployment.CreateDeploymentResponse(deployment=created)
        self._fake.deployments.setdefault(name, created)
        return deployment.CreateDeploymentResponse(deployment=self._fake.deployments[name])

    async def DeleteDeployment(
        self, request: deployment.DeleteDeploymentRequest, context: Context
    ) -> deployment.DeleteDeploymentResponse:
        await self._fake.admit(request, context)
        if request.name not in self._fake.deployments and request.allow_missing:
            return deployment.DeleteDeploymentResponse()
        found = await self._deployment(request.name, context)
        found.state = DeploymentState.DEPLOYMENT_STATE_STOPPING
        return deployment.DeleteDeploymentResponse(deployment=found)

    async def ScaleDeployment(
        self, request: deployment.ScaleDeploymentRequest, context: Context
    ) -> deployment.ScaleDeploymentResponse:
        await self._fake.admit(request, context)
        found = await self._deployment(request.name, context)
        found.spec.replicas = request.replicas
        state, service = DeploymentState.DEPLOYMENT_STATE_READY, found.service
        for number in range(len(found.replicas) + 1, request.replicas + 1):
            found.replicas.add(number=number, uid=f"{found.uid}-{number}", state=state, service=service)
        del found.replicas[request.replicas :]
        return deployment.ScaleDeploymentResponse(deployment=found)

    async def RollOutDeployment(
        self, request: deployment.RollOutDeploymentRequest, context: Context
    ) -> deployment.RollOutDeploymentResponse:
        await self._fake.admit(request, context)
        found = await self._deployment(request.name, context)
        rollout = Rollout(state=RolloutState.ROLLOUT_STATE_BAKING, policy=request.policy, step=1)
        if not rollout.policy.steps:
            rollout.policy.steps.extend((5, 25, 100))
        rollout.current.CopyFrom(_version(found, 100 - rollout.policy.steps[0]))
        rollout.candidate.CopyFrom(_version(found, rollout.policy.steps[0]))
        rollout.candidate.number += 1
        rollout.candidate.spec.CopyFrom(request.spec)
        self._fake.rollouts[request.name] = rollout
        started = RolloutStarted(model=request.spec.model, policy=rollout.policy)
        step = RolloutStep(step=1, weight=rollout.candidate.weight, reason="It is loaded.")
        self._fake.deployment_events[request.name] = [
            DeploymentEvent(sequence=1, version=rollout.candidate.number, rollout_started=started),
            DeploymentEvent(sequence=2, version=rollout.candidate.number, rollout_step=step),
        ]
        return deployment.RollOutDeploymentResponse(rollout=rollout)

    async def PromoteDeployment(
        self, request: deployment.PromoteDeploymentRequest, context: Context
    ) -> deployment.PromoteDeploymentResponse:
        await self._fake.admit(request, context)
        rollout = await self._rollout(request.name, context)
        last = len(rollout.policy.steps)
        if rollout.step == last:
            self._end(request.name, RolloutState.ROLLOUT_STATE_SUCCEEDED, "Promoted by hand.")
        else:
            rollout.step = last if request.to_last_step else rollout.step + 1
            rollout.candidate.weight = rollout.policy.steps[rollout.step - 1]
            rollout.current.weight = 100 - rollout.candidate.weight
        return deployment.PromoteDeploymentResponse(rollout=rollout)

    async def RollBackDeployment(
        self, request: deployment.RollBackDeploymentRequest, context: Context
    ) -> deployment.RollBackDeploymentResponse:
        await self._fake.admit(request, context)
        rollout = await self._rollout(request.name, context)
        reason = request.reason or "Rolled back by hand."
        self._end(request.name, RolloutState.ROLLOUT_STATE_ROLLED_BACK, reason)
        rollout.candidate.weight, rollout.current.weight = 0, 100
        return deployment.RollBackDeploymentResponse(rollout=rollout)

    async def GetRollout(
        self, request: deployment.GetRolloutRequest, context: Context
    ) -> deployment.GetRolloutResponse:
        await self._fake.admit(request, context)
        await self._deployment(request.name, context)
        return deployment.GetRolloutResponse(rollout=self._fake.rollouts.get(request.name))

    async def WatchDeployment(
        self, request: deployment.WatchDeploymentRequest, context: Context
    ) -> AsyncIterator[deployment.WatchDeploymentResponse]:
        await self._fake.admit(request, context)
        found = await self._deployment(request.name, context)
        yield deployment.WatchDeploymentResponse(snapshot=found)
        kept = self._fake.deployment_events.get(request.name, [])
        events = [event for event in kept if event.sequence > request.after_sequence]
        yield deployment.WatchDeploymentResponse(events=deployment.DeploymentEvents(events=events))
        gone = Deployment()
        gone.CopyFrom(found)
        gone.state = DeploymentState.DEPLOYMENT_STATE_DELETED
        yield deployment.WatchDeploymentResponse(snapshot=gone)

    def _end(self, name: str, state: RolloutState.ValueType, reason: str) -> None:
        rollout = self._fake.rollouts[name]
        rollout.state, rollout.reason = state, reason
        events = self._fake.deployment_events[name]
        ended = RolloutEnded(state=state, reason=reason)
        events.append(DeploymentEvent(sequence=len(events) + 1, version=2, rollout_ended=ended))

    async def _rollout(self, name: str, context: Context) -> Rollout:
        await self._deployment(name, context)
        rollout = self._fake.rollouts.get(name)
        if rollout is None or rollout.state != RolloutState.ROLLOUT_STATE_BAKING:
            error = TunefleetError(
                Reason.STATE_CONFLICT,
                f"Deployment '{name}' has no roll-out.",
                hint="tunefleet deployments list",
            )
            await self._fake.abort(context, error)
        return self._fake.rollouts[name]

    async def _deployment(self, name: str, context: Context) -> Deployment:
        if name not in self._fake.deployments:
            await self._fake.abort(context, missing(Reason.DEPLOYMENT_NOT_FOUND, "deployment", name))
        return self._fake.deployments[name]


def _version(found: Deployment, weight: int) -> DeploymentVersion:
    return DeploymentVersion(
        number=found.version or 1, uid=found.uid, spec=found.spec, state=found.state, weight=weight
    )

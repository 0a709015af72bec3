"""From rows to the messages of the API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from google.rpc.status_pb2 import Status

from tunefleet.artifact.v1.artifact_pb2 import Manifest
from tunefleet.deployment.v1.deployment_pb2 import (
    ContractResult,
    Deployment,
    DeploymentSpec,
    DeploymentState,
    Replica,
)
from tunefleet.deployment.v1.rollout_pb2 import DeploymentVersion, Rollout, RolloutPolicy, TrafficCounts
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet.job.v1.event_pb2 import Metrics
from tunefleet.job.v1.job_pb2 import Job, JobResult
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.model_pb2 import Model
from tunefleet_core.lifecycle import (
    DeploymentRow,
    JobRow,
    ManifestRow,
    ModelRow,
    ReplicaRow,
    ServiceRow,
    SpecRow,
    TrafficRow,
    checkpoint_ref,
    shares_of,
)
from tunefleet_core.timestamps import timestamp_of

__all__ = [
    "deployment_view",
    "etag_of",
    "job_view",
    "manifest_view",
    "model_view",
    "rollout_view",
    "service_view",
]


def etag_of(row: JobRow | DeploymentRow) -> str:
    """Return what changes with every change of a resource."""
    # Versions of a deployment count their changes each for itself.
    return f"{row.number}.{row.version}" if isinstance(row, DeploymentRow) else str(row.version)


def job_view(row: JobRow, spec: SpecRow | None, *, with_resolved: bool = True) -> Job:
    """Return a job as the API shows it; lists leave the resolved spec out."""
    job = Job(
        name=row.name,
        uid=row.uid,
        resolved_spec_digest=row.resolved_spec_digest,
        state=row.state,
        attempt=row.attempt,
        service=row.service,
        create_time=timestamp_of(row.create_time),
        update_time=timestamp_of(row.update_time),
        etag=etag_of(row),
        last_sequence=row.last_sequence,
        creator=row.creator,
        labels=dict(row.labels),
        priority=row.priority,
    )
    if spec is not None:
        job.spec.CopyFrom(JobSpec.FromString(spec.spec))
        if with_resolved:
            job.resolved_spec.CopyFrom(ResolvedSpec.FromString(spec.resolved_spec))
    if row.error:
        job.error.CopyFrom(Status.FromString(row.error))
    if row.progress:
        job.progress.CopyFrom(Metrics.FromString(row.progress))
    if row.checkpoint is not None:
        job.checkpoint.CopyFrom(checkpoint_ref(row.checkpoint))
    if row.result:
        job.result.CopyFrom(JobResult.FromString(row.result))
    if row.start_time is not None:
        job.start_time.CopyFrom(timestamp_of(row.start_time))
    if row.next_try_time is not None:
        job.next_try_time.CopyFrom(timestamp_of(row.next_try_time))
    if row.end_time is not None:
        job.end_time.CopyFrom(timestamp_of(row.end_time))
    return job


def manifest_view(row: ManifestRow) -> Manifest:
    """Return a manifest with the time at which it was committed."""
    manifest = Manifest.FromString(row.manifest)
    manifest.create_time.CopyFrom(timestamp_of(row.create_time))
    return manifest


def model_view(row: ModelRow, manifest: ManifestRow | None, *, made_by: SpecRow | None = None) -> Model:
    """Return a model as the API shows it; `made_by` is what its job was asked."""
    model = Model(
        name=row.name,
        uid=row.uid,
        base_model=row.base_model,
        job=row.job,
        kind=row.kind,
        create_time=timestamp_of(row.create_time),
        format=_format(made_by),
    )
    if manifest is not None:
        model.manifest.CopyFrom(manifest_view(manifest))
    return model


def _format(made_by: SpecRow | None) -> str:
    """Return the format an export was asked for, with its variant behind a slash."""
    if made_by is None:
        return ""
    asked = JobSpec.FromString(made_by.spec).export.quantize
    return f"{asked.format}/{asked.variant}" if asked.variant else asked.format


def deployment_view(
    row: DeploymentRow, traffic: TrafficRow | None = None, replicas: Sequence[ReplicaRow] = ()
) -> Deployment:
    """Return a deployment as the API shows it, by the version that its name stands for."""
    deployment = Deployment(
        name=row.name,
        uid=row.deployment_uid,
        version=row.number,
        last_sequence=traffic.last_sequence if traffic is not None else 0,
        spec=DeploymentSpec.FromString(row.spec),
        state=row.state,
        service=row.service,
        engine_address=row.engine_address,
        engine_model=row.engine_model,
        create_time=timestamp_of(row.create_time),
        update_time=timestamp_of(row.update_time),
        etag=etag_of(row),
        reason=" ".join(replica.reason for replica in replicas if replica.reason),
        replicas=[_replica_view(replica) for replica in replicas],
    )
    deployment.spec.replicas = deployment.spec.replicas or 1  # not said before there were any
    if row.error:
        deployment.error.CopyFrom(Status.FromString(row.error))
    if row.contract:
        deployment.contract.CopyFrom(ContractResult.FromString(row.contract))
    return deployment


def _replica_view(row: ReplicaRow) -> Replica:
    replica = Replica(
        number=row.number,
        uid=row.uid,
        state=row.state,
        service=row.service,
        engine_address=row.engine_address,
        reason=row.reason,
        device_ids=row.device_ids,
        failures=row.failures,
    )
    if row.state == DeploymentState.DEPLOYMENT_STATE_WAITING_RETRY and row.due_time is not None:
        replica.next_try_time.CopyFrom(timestamp_of(row.due_time))
    if row.download:
        replica.download.ParseFromString(row.download)
    if row.error:
        replica.error.CopyFrom(Status.FromString(row.error))
    if row.contract:
        replica.contract.CopyFrom(ContractResult.FromString(row.contract))
    return replica


def rollout_view(
    traffic: TrafficRow,
    versions: Mapping[str, DeploymentRow],
    replicas: Mapping[str, Sequence[ReplicaRow]],
) -> Rollout:
    """Return the roll-out of a deployment that goes on, else the last one."""
    current, candidate = versions.get(traffic.current), versions.get(traffic.candidate)
    shares = shares_of(traffic, current, candidate)
    policy = RolloutPolicy.FromString(traffic.policy)
    rollout = Rollout(
        state=traffic.state,
        policy=policy,
        step=traffic.step,
        step_time=timestamp_of(traffic.step_time),
        start_time=timestamp_of(traffic.start_time),
        reason=traffic.reason,
        evaluation=traffic.evaluation,
    )
    if current is not None:
        own = replicas.get(current.uid, ())
        rollout.current.CopyFrom(_version_view(current, shares, traffic.current_counts, own))
    if candidate is not None:
        own = replicas.get(candidate.uid, ())
        rollout.candidate.CopyFrom(_version_view(candidate, shares, traffic.candidate_counts, own))
    if traffic.end_time is not None:
        rollout.end_time.CopyFrom(timestamp_of(traffic.end_time))
    elif traffic.step and policy.HasField("bake"):
        bake = policy.bake.seconds + policy.bake.nanos / 1e9
        rollout.next_step_time.CopyFrom(timestamp_of(traffic.step_time + bake))
    return rollout


def _version_view(
    row: DeploymentRow, shares: Mapping[str, int], counts: bytes, replicas: Sequence[ReplicaRow]
) -> DeploymentVersion:
    version = DeploymentVersion(
        number=row.number,
        uid=row.uid,
        spec=DeploymentSpec.FromString(row.spec),
        state=row.state,
        service=row.service,
        engine_model=row.engine_model,
        weight=shares.get(row.uid, 0),
        counts=TrafficCounts.FromString(counts),
        replicas=[_replica_view(replica) for replica in replicas],
    )
    if row.error:
        version.error.CopyFrom(Status.FromString(row.error))
    if row.contract:
        version.contract.CopyFrom(ContractResult.FromString(row.contract))
    return version


def service_view(row: ServiceRow, held: Iterable[str]) -> Service:
    """Return a service as it described itself, with what the coordinator knows of it.

    `held` are the names of the jobs and deployments that it works on.
    """
    service = Service.FromString(row.description) if row.description else Service()
    service.name = row.name
    service.kind = row.kind
    service.state = row.state
    service.session_epoch = row.epoch
    service.is_draining = row.is_draining
    service.is_stopping = row.is_stopping
    service.last_heard_time.CopyFrom(timestamp_of(row.last_heard_time))
    service.holds.extend(dict.fromkeys(held))
    return service

"""Inputs of the deciding core with only what matters spelled out: for tests and the simulator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

from google.rpc import status_pb2

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind, Lineage, Manifest
from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.backend.v1.run_pb2 import RunState
from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec
from tunefleet.deployment.v1.rollout_pb2 import RolloutPolicy, TrafficCounts
from tunefleet.fleet.v1.fleet_pb2 import (
    AttemptStatus,
    DeploymentStatus,
    InstalledBackend,
    Service,
    ServiceKind,
    VersionTraffic,
)
from tunefleet.job.v1.event_pb2 import (
    AttemptOutcome,
    DeviceRelease,
    DeviceReleased,
    JobEvent,
    Metrics,
)
from tunefleet_core.errors import Reason, TunefleetError, status_from_error
from tunefleet_core.lifecycle import (
    AttemptReported,
    AttemptRow,
    CancelRequested,
    CheckpointRequested,
    DeploymentScaleRequested,
    DeploymentSubmitted,
    DrainRequested,
    EventsReported,
    HeartbeatReceived,
    JobDeleteRequested,
    JobSubmitted,
    Labels,
    ManifestCommitted,
    Moment,
    PauseRequested,
    PromoteRequested,
    Request,
    RequestKey,
    ResumeRequested,
    RetryRequested,
    RollbackRequested,
    RolloutRequested,
    ServiceAttached,
    ServiceStopping,
    TrafficReported,
    settle_policy,
)

__all__ = [
    "attached",
    "attempt_status",
    "backend",
    "cancel",
    "commit",
    "delete",
    "deployment",
    "drain",
    "events",
    "failure",
    "heartbeat",
    "moment",
    "checkpoint",
    "pause",
    "promote",
    "report",
    "request",
    "resume",
    "retry",
    "roll_back",
    "roll_out",
    "scale",
    "service",
    "stopping",
    "submit",
    "traffic",
]

_EPOCH = 1_700_000_000.0


def moment(now: float) -> Moment:
    """Return a moment at which both clocks agree."""
    return Moment(now=now, wall=_EPOCH + now)


def request(request_id: str, body: bytes = b"", method: str = "CreateJob") -> Request:
    """Return a request of the principal `tester`."""
    key = RequestKey(principal="tester", method=method, request_id=request_id)
    return Request(key=key, body_sha256=sha256(body).digest())


def backend(
    name: str = "echo",
    *,
    device_kinds: Iterable[str] = ("cpu", "cuda"),
    capabilities: Iterable[Capability.ValueType] = (
        Capability.CAPABILITY_TRAIN,
        Capability.CAPABILITY_CHECKPOINT_RESUME,
        Capability.CAPABILITY_CHECKPOINT_ON_REQUEST,
    ),
    status: str = "ACTIVE",
) -> InstalledBackend:
    """Return an installed backend."""
    manifest = BackendManifest(name=name, capabilities=list(capabilities), device_kinds=list(device_kinds))
    return InstalledBackend(manifest=manifest, status=status)


def service(
    name: str = "services/a",
    *,
    kind: ServiceKind.ValueType = ServiceKind.SERVICE_KIND_TRAINER,
    host: str = "",
    devices: Mapping[str, str] | None = None,
    backends: Iterable[InstalledBackend] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Service:
    """Return a service; `devices` are kinds by id (one processor), the host is its own."""
    described = Service(name=name, kind=kind, labels=dict(labels or {}))
    described.host.id = host or f"host-of-{name}"
    for device_id, device_kind in (devices or {"cpu-0": "cpu"}).items():
        described.host.devices.add(id=device_id, kind=device_kind)
    described.backends.extend([backend()] if backends is None else backends)
    return described


def attached(
    now: float,
    described: Service | None = None,
    *,
    attempts: Iterable[AttemptStatus] = (),
    deployments: Iterable[DeploymentStatus] = (),
) -> ServiceAttached:
    """Return the attaching of a service that holds something."""
    return ServiceAttached(
        at=moment(now),
        service=service() if described is None else described,
        attempts=tuple(attempts),
        deployments=tuple(deployments),
    )


def submit(
    now: float,
    job_id: str = "job",
    *,
    request_id: str = "",
    body: bytes = b"",
    uid: str = "",
    devices: int = 1,
    labels: Labels = (),
    priority: int = 0,
    max_attempts: int = 3,
    backend_name: str = "echo",
) -> JobSubmitted:
    """Return a submit of project `default`; the uid is `uid-of-<job id>` unless given."""
    return JobSubmitted(
        at=moment(now),
        request=request(request_id, body) if request_id else None,
        uid=uid or f"uid-of-{job_id}",
        project="default",
        job_id=job_id,
        spec=b"spec",
        resolved_spec=b"resolved",
        resolved_spec_digest="digest",
        backend=backend_name,
        devices_needed=devices,
        required_labels=labels,
        priority=priority,
        max_attempts=max_attempts,
        creator="tester",
    )


def cancel(now: float, job_id: str = "job", *, request_id: str = "", etag: str = "") -> CancelRequested:
    """Return a cancel of a job of project `default`."""
    asked = request(request_id, method="CancelJob") if request_id else None
    return CancelRequested(at=moment(now), request=asked, name=f"projects/default/jobs/{job_id}", etag=etag)


def pause(now: float, job_id: str = "job", *, request_id: str = "", etag: str = "") -> PauseRequested:
    """Return a pause of a job of project `default`."""
    asked = request(request_id, method="PauseJob") if request_id else None
    return PauseRequested(at=moment(now), request=asked, name=f"projects/default/jobs/{job_id}", etag=etag)


def checkpoint(
    now: float, job_id: str = "job", *, request_id: str = "", etag: str = ""
) -> CheckpointRequested:
    """Return a wish for a checkpoint of a job of project `default`."""
    asked = request(request_id, method="CheckpointJob") if request_id else None
    name = f"projects/default/jobs/{job_id}"
    return CheckpointRequested(at=moment(now), request=asked, name=name, etag=etag)


def resume(now: float, job_id: str = "job", *, request_id: str = "", etag: str = "") -> ResumeRequested:
    """Return a resume of a job of project `default`."""
    asked = request(request_id, method="ResumeJob") if request_id else None
    return ResumeRequested(at=moment(now), request=asked, name=f"projects/default/jobs/{job_id}", etag=etag)


def retry(
    now: float, job_id: str = "job", *, request_id: str = "", etag: str = "", from_start: bool = False
) -> RetryRequested:
    """Return a retry of a job of project `default`."""
    asked = request(request_id, method="RetryJob") if request_id else None
    name = f"projects/default/jobs/{job_id}"
    return RetryRequested(at=moment(now), request=asked, name=name, etag=etag, from_start=from_start)


def delete(now: float, job_id: str = "job", *, request_id: str = "", etag: str = "") -> JobDeleteRequested:
    """Return a delete of a job of project `default`."""
    asked = request(request_id, method="DeleteJob") if request_id else None
    name = f"projects/default/jobs/{job_id}"
    return JobDeleteRequested(at=moment(now), request=asked, name=name, etag=etag)


def drain(now: float, name: str = "services/a", *, is_draining: bool = True) -> DrainRequested:
    """Return a drain of a service, or the end of one."""
    return DrainRequested(at=moment(now), request=None, name=name, is_draining=is_draining)


def stopping(now: float, name: str = "services/a", epoch: int = 1) -> ServiceStopping:
    """Return the word of a service that its process is being stopped."""
    return ServiceStopping(at=moment(now), service=name, epoch=epoch)


def heartbeat(now: float, name: str = "services/a", epoch: int = 1) -> HeartbeatReceived:
    """Return a sign of life."""
    return HeartbeatReceived(at=moment(now), service=name, epoch=epoch)


def failure(reason: Reason, message: str = "It failed.") -> status_pb2.Status:
    """Return the wire form of an error."""
    return status_from_error(TunefleetError(reason, message, hint="Try."))


def attempt_status(
    attempt: AttemptRow,
    *,
    outcome: AttemptOutcome.ValueType = AttemptOutcome.ATTEMPT_OUTCOME_UNSPECIFIED,
    error: status_pb2.Status | None = None,
    output: str = "",
    release: DeviceRelease.ValueType = DeviceRelease.DEVICE_RELEASE_BY_EXIT,
) -> AttemptStatus:
    """Return how a trainer sees an attempt: running, or ended if there is an outcome."""
    status = AttemptStatus(
        job_uid=attempt.job_uid,
        attempt=attempt.attempt,
        fencing_number=attempt.fencing_number,
        state=RunState.RUN_STATE_RUNNING,
    )
    if outcome != AttemptOutcome.ATTEMPT_OUTCOME_UNSPECIFIED:
        status.state = RunState.RUN_STATE_ENDED
        status.outcome = outcome
        status.output_manifest_digest = output
        status.device_released.CopyFrom(DeviceReleased(device_release=release))
    if error is not None:
        status.error.CopyFrom(error)
    return status


def report(now: float, status: AttemptStatus, name: str = "services/a", epoch: int = 1) -> AttemptReported:
    """Return a trainer's report."""
    return AttemptReported(at=moment(now), service=name, epoch=epoch, status=status)


def events(now: float, attempt: AttemptRow, *sequences: int) -> EventsReported:
    """Return a report of metrics with these source sequences; the step is the sequence."""
    return EventsReported(
        at=moment(now),
        job_uid=attempt.job_uid,
        attempt=attempt.attempt,
        fencing_number=attempt.fencing_number,
        events=tuple(
            JobEvent(source_sequence=number, metrics=Metrics(step=number, loss=1 / number))
            for number in sequences
        ),
    )


def commit(
    now: float,
    attempt: AttemptRow,
    *,
    kind: ArtifactKind.ValueType = ArtifactKind.ARTIFACT_KIND_ADAPTER,
    step: int = 10,
    digest: str = "",
) -> ManifestCommitted:
    """Return a commit of a manifest; its digest tells kind, job, attempt and step apart unless given."""
    digest = digest or f"{kind}-{attempt.job_uid}-{attempt.attempt}-{step}"
    lineage = Lineage(base_model="/models/base", attempt=attempt.attempt)
    manifest = Manifest(digest=digest, kind=kind, step=step, lineage=lineage)
    return ManifestCommitted(
        at=moment(now),
        job_uid=attempt.job_uid,
        attempt=attempt.attempt,
        fencing_number=attempt.fencing_number,
        digest=digest,
        kind=kind,
        step=step,
        manifest=manifest.SerializeToString(),
    )


def deployment(
    now: float,
    deployment_id: str = "tuned",
    *,
    request_id: str = "",
    engine: str = "embedded",
    base: bytes = b"base",
    uid: str = "",
    replicas: int = 1,
) -> DeploymentSubmitted:
    """Return a submit of a deployment of project `default`; its uid is `uid-of-<id>` unless given."""
    return DeploymentSubmitted(
        at=moment(now),
        request=request(request_id, method="CreateDeployment") if request_id else None,
        uid=uid or f"uid-of-{deployment_id}",
        project="default",
        deployment_id=deployment_id,
        spec=b"",
        engine=engine,
        base_facts=base,
        adapter_manifest_digest="adapter",
        engine_model=f"{deployment_id}@adapter",
        replicas=replicas,
    )


def scale(
    now: float, replicas: int, deployment_id: str = "tuned", *, request_id: str = ""
) -> DeploymentScaleRequested:
    """Return a wish for another number of engines."""
    asked = request(request_id, method="ScaleDeployment") if request_id else None
    name = f"projects/default/deployments/{deployment_id}"
    return DeploymentScaleRequested(at=moment(now), request=asked, name=name, replicas=replicas)


def roll_out(
    now: float,
    deployment_id: str = "tuned",
    *,
    version: str = "better",
    steps: Sequence[int] = (10, 50),
    bake_seconds: int | None = 60,
    request_id: str = "",
    base: bytes = b"base",
    **policy: object,
) -> RolloutRequested:
    """Return a roll-out of a version whose uid is `uid-of-<version>`; `bake_seconds` None: by hand."""
    asked = RolloutPolicy(steps=steps, **policy)  # type: ignore[arg-type]  # what a test names
    if bake_seconds is not None:
        asked.bake.seconds = bake_seconds
    return RolloutRequested(
        at=moment(now),
        request=request(request_id, method="RollOutDeployment") if request_id else None,
        name=f"projects/default/deployments/{deployment_id}",
        uid=f"uid-of-{version}",
        spec=DeploymentSpec(model=version).SerializeToString(),
        engine="embedded",
        base_facts=base,
        adapter_manifest_digest=version,
        engine_model=f"{version}@adapter",
        policy=settle_policy(asked).SerializeToString(),
        evaluate_job=asked.evaluate_job,
    )


def promote(now: float, deployment_id: str = "tuned", *, to_last_step: bool = False) -> PromoteRequested:
    """Return a wish for the next step of a roll-out."""
    name = f"projects/default/deployments/{deployment_id}"
    return PromoteRequested(at=moment(now), request=None, name=name, to_last_step=to_last_step)


def roll_back(now: float, deployment_id: str = "tuned") -> RollbackRequested:
    """Return a wish to end a roll-out with the version before."""
    name = f"projects/default/deployments/{deployment_id}"
    return RollbackRequested(at=moment(now), request=None, name=name)


def traffic(
    now: float,
    uid: str = "",
    requests: int = 0,
    *,
    errors: int = 0,
    seconds_each: float = 0.1,
    drained: Sequence[str] = (),
    drained_replicas: Sequence[str] = (),
    gateway: str = "services/g",
    epoch: int = 1,
) -> TrafficReported:
    """Return a gateway's report on one version."""
    counts = TrafficCounts(
        requests=requests,
        errors=errors,
        first_bytes=requests - errors,
        first_byte_seconds=seconds_each * (requests - errors),
    )
    seen = (VersionTraffic(deployment_uid=uid, counts=counts),) if uid else ()
    return TrafficReported(
        at=moment(now),
        service=gateway,
        epoch=epoch,
        traffic=seen,
        drained=tuple(drained),
        drained_replicas=tuple(drained_replicas),
    )

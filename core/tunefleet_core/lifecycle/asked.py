"""What people ask for: the inputs of `decide` that come from outside the fleet.

Each carries the moment at which it was asked and, if the caller chose an id for it, its
idempotency: the same request is carried out once and answered alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tunefleet_core.lifecycle.rows import Labels, RequestKey

__all__ = [
    "Asked",
    "CancelRequested",
    "CheckpointRequested",
    "DeploymentDeleteRequested",
    "DeploymentScaleRequested",
    "DeploymentSubmitted",
    "DrainRequested",
    "JobDeleteRequested",
    "JobSubmitted",
    "JobUpdateRequested",
    "Moment",
    "PauseRequested",
    "PromoteRequested",
    "Request",
    "ResumeRequested",
    "RetryRequested",
    "RollbackRequested",
    "RolloutRequested",
    "ServiceRemoveRequested",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A moment by both clocks: `now` monotonic seconds, `wall` seconds since the epoch."""

    now: float
    wall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A mutation's idempotency: its key and the SHA-256 of the body without the request id."""

    key: RequestKey
    body_sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted:
    """A resolved job was submitted. Answer: Accepted.

    Errors: JOB_EXISTS (a job has the id, or a model of a deleted job), REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    uid: str
    """Fresh; ignored if the request was seen before."""
    project: str
    job_id: str
    spec: bytes
    resolved_spec: bytes
    resolved_spec_digest: str
    backend: str
    devices_needed: int = 1
    required_labels: Labels = ()
    labels: Labels = ()
    priority: int = 0
    max_attempts: int = 3
    creator: str = ""

    @property
    def name(self) -> str:
        return f"projects/{self.project}/jobs/{self.job_id}"

    @property
    def model_name(self) -> str:
        """Name of the model that it would make."""
        return f"projects/{self.project}/models/{self.job_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Someone wants a job to stop. Answer: JobRow.

    Errors: JOB_NOT_FOUND, STATE_CONFLICT (ended otherwise), ETAG_MISMATCH, REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    etag: str = ""
    """If given, must be the job's version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSubmitted:
    """A deployment was asked for, its model resolved. Answer: Accepted.

    Errors: DEPLOYMENT_EXISTS, REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    uid: str
    project: str
    deployment_id: str
    spec: bytes
    engine: str
    """Backend name; empty: the first that can serve."""
    base_facts: bytes
    adapter_manifest_digest: str
    engine_model: str
    replicas: int = 1

    @property
    def name(self) -> str:
        return f"projects/{self.project}/deployments/{self.deployment_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentDeleteRequested:
    """A deployment is to go. Answer: DeploymentRow on its way out, or Acknowledged if it was missing.

    Errors: DEPLOYMENT_NOT_FOUND (unless allow_missing), REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    allow_missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentScaleRequested:
    """Another number of engines is to serve a deployment. Answer: DeploymentRow.

    Errors: DEPLOYMENT_NOT_FOUND, STATE_CONFLICT (it is taken down), ETAG_MISMATCH, REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    replicas: int
    """At least 1."""
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequested:
    """A new version of a deployment is to be rolled out, its model resolved. Answer: DeploymentRow of it.

    Errors: DEPLOYMENT_NOT_FOUND, JOB_NOT_FOUND (the one that has to pass), STATE_CONFLICT (no traffic, a
    roll-out goes on, the job did not pass), FIELD_INVALID (it serves that already), ETAG_MISMATCH,
    REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    uid: str
    """Fresh; of the new version."""
    spec: bytes
    engine: str
    base_facts: bytes
    adapter_manifest_digest: str
    engine_model: str
    policy: bytes
    """`tunefleet.deployment.v1.RolloutPolicy`, settled."""
    evaluate_job: str = ""
    """Full name of the job that has to pass."""
    etag: str = ""
    replicas: int = 0
    """0: as many as the version that serves has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteRequested:
    """A roll-out is to take its next step now. Answer: DeploymentRow of the version that serves then.

    Errors: DEPLOYMENT_NOT_FOUND, STATE_CONFLICT (no roll-out with a loaded candidate), REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    to_last_step: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRequested:
    """The version before is to have everything again. Answer: DeploymentRow of it.

    Errors: DEPLOYMENT_NOT_FOUND, STATE_CONFLICT (no roll-out), REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRequested:
    """Someone wants a job to save its exact state and free its devices. Answer: JobRow.

    Errors: JOB_NOT_FOUND, STATE_CONFLICT (ended, or on its way out), CAPABILITY_UNSUPPORTED,
    ETAG_MISMATCH, REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRequested:
    """Someone wants a job at work to write a checkpoint now and go on. Answer: JobRow.

    Errors: JOB_NOT_FOUND, STATE_CONFLICT (nothing of it runs, or on its way out), CAPABILITY_UNSUPPORTED,
    ETAG_MISMATCH, REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequested:
    """Someone wants a paused job to go on. Answer: JobRow.

    Errors: JOB_NOT_FOUND, STATE_CONFLICT (ended, or on its way out), ETAG_MISMATCH, REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRequested:
    """Someone wants a job tried again that failed, was cancelled, or waits for its next try. Answer: JobRow.

    Errors: JOB_NOT_FOUND, STATE_CONFLICT (in another state), ETAG_MISMATCH, REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    etag: str = ""
    from_start: bool = False
    """Begin anew instead of at the newest committed checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUpdateRequested:
    """Someone changes labels or priority of a job. Answer: JobRow.

    Errors: JOB_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    etag: str = ""
    labels: Labels | None = None
    """None: as they are."""
    priority: int | None = None
    """None: as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDeleteRequested:
    """An ended job is to be forgotten, with its events and checkpoints. Answer: Acknowledged.

    Errors: JOB_NOT_FOUND (unless allow_missing), STATE_CONFLICT (it has not ended), ETAG_MISMATCH,
    REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    etag: str = ""
    allow_missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRequested:
    """A service is to get no new work, or to get some again. Answer: ServiceRow.

    Errors: SERVICE_NOT_FOUND, REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str
    is_draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRemoveRequested:
    """A service that is LOST is to be forgotten. Answer: Acknowledged.

    Errors: SERVICE_NOT_FOUND, STATE_CONFLICT, REQUEST_ID_REUSED.
    """

    at: Moment
    request: Request | None
    name: str


Asked: TypeAlias = (
    JobSubmitted
    | CancelRequested
    | PauseRequested
    | CheckpointRequested
    | ResumeRequested
    | RetryRequested
    | JobUpdateRequested
    | JobDeleteRequested
    | DeploymentSubmitted
    | DeploymentDeleteRequested
    | DeploymentScaleRequested
    | RolloutRequested
    | PromoteRequested
    | RollbackRequested
    | DrainRequested
    | ServiceRemoveRequested
)

"""The rows that the deciding core reads and writes: plain values, one class per table.

A row is frozen; a change is a pair of rows. `version` grows by one with every durable
change and is what the store compares before it sets. Fields named in a class's
`VOLATILE` live in the coordinator's memory only: leases and sessions are measured by
its monotonic clock, which means nothing after a restart.

Times named `..._time` are wall-clock seconds since the epoch; `lease_expires`,
`last_heard` and `not_before` are seconds of the coordinator's monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, TypeAlias

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.lifecycle.deployment_rows import DeploymentRow, ReplicaRow
from tunefleet_core.lifecycle.identity import Key, Labels
from tunefleet_core.lifecycle.service_row import BackendFacts, DeviceFacts, ServiceRow
from tunefleet_core.lifecycle.traffic_row import TrafficRow

__all__ = [
    "ACTIVE",
    "CPU",
    "TERMINAL_JOB_STATES",
    "AttemptRow",
    "AttemptState",
    "BackendFacts",
    "Checkpoint",
    "DeploymentRow",
    "DeviceFacts",
    "JobRow",
    "Key",
    "Labels",
    "ManifestRow",
    "ModelRow",
    "ReplicaRow",
    "RequestKey",
    "RequestRow",
    "Row",
    "ServiceRow",
    "SpecRow",
    "TrafficRow",
]

ACTIVE = "ACTIVE"
"""`InstalledBackend.status` of a backend that can take work."""

CPU = "cpu"
"""Device kind that only trainers book: engines share the processor."""

TERMINAL_JOB_STATES = frozenset(
    {JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED}
)
# Asked of a job several times in every decision; a value of a proto enum is looked up in Python each time.
_PENDING, _WAITING_RETRY = JobState.JOB_STATE_PENDING, JobState.JOB_STATE_WAITING_RETRY


class AttemptState(IntEnum):
    """Where an attempt stands. ENDED stays; the others hold devices and a lease."""

    ASSIGNED = 1
    RUNNING = 2
    STOPPING = 3
    """To end without saving: the job was cancelled."""
    ENDED = 4
    PAUSING = 5
    """To save its exact state and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint: optimiser step, manifest digest (hex), the attempt that wrote it."""

    step: int
    manifest_digest: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job. Key: uid. `name` is unique for ever."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"not_before", "avoid"})

    uid: str
    name: str
    """`projects/{project}/jobs/{job_id}`."""
    project: str
    job_id: str
    state: JobState.ValueType
    version: int
    priority: int
    queue_number: int
    """Turn among jobs of one priority, given at submit and kept through retries."""
    backend: str
    devices_needed: int
    required_labels: Labels
    max_attempts: int
    resolved_spec_digest: str
    creator: str
    create_time: float
    update_time: float
    start_time: float | None = None
    end_time: float | None = None
    attempt: int = 0
    """Number of the newest attempt; 0 before the first."""
    fencing_number: int = 0
    """Fencing number of the newest attempt; only its holder may commit."""
    failures: int = 0
    """Attempts that failed or were lost since the job was submitted or retried by hand.

    Drives the back-off and is what `max_attempts` bounds; an attempt that was paused is none of them."""
    service: str = ""
    """Service of the newest attempt."""
    not_before: float | None = None
    """WAITING_RETRY only: when it is tried again on any service."""
    avoid: str = ""
    """WAITING_RETRY only: it may run before `not_before` on any service but this one. Empty: on none."""
    next_try_time: float | None = None
    """WAITING_RETRY only: `not_before` by the wall clock."""
    cancel_requested: bool = False
    resume_requested: bool = False
    """PAUSING only: it is to go back into the queue as soon as it is paused."""
    checkpoint: Checkpoint | None = None
    """Newest committed checkpoint: where the next attempt resumes."""
    output_digest: str = ""
    """Digest of the output manifest, once SUCCEEDED."""
    result: bytes = b""
    """`tunefleet.job.v1.JobResult`, once SUCCEEDED."""
    error: bytes = b""
    """`google.rpc.Status`: why it failed or waits to be retried."""
    progress: bytes = b""
    """`tunefleet.job.v1.Metrics`: the latest value of every number that was reported."""
    last_sequence: int = 0
    """Sequence of the job's newest event."""
    labels: Labels = ()
    """Free labels: those of the spec, as they were changed since."""
    oldest_sequence: int = 1
    """Sequence of the oldest event that is kept."""
    history_bytes: int = 0
    """Size of the events that are kept."""

    @property
    def key(self) -> Key:
        return ("job", self.uid, 0)

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL_JOB_STATES

    @property
    def is_queued(self) -> bool:
        """Whether the scheduler may place it now (WAITING_RETRY: only away from `avoid`)."""
        return self.state == _PENDING or (self.state == _WAITING_RETRY and self.avoid != "")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One try of a job on one service. Key: (job_uid, attempt)."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"lease_expires"})

    job_uid: str
    attempt: int
    fencing_number: int
    service: str
    host_id: str
    device_ids: tuple[str, ...]
    backend: str
    state: AttemptState
    version: int
    create_time: float
    end_time: float | None = None
    outcome: AttemptOutcome.ValueType = AttemptOutcome.ATTEMPT_OUTCOME_UNSPECIFIED
    acknowledged_source_sequence: int = 0
    """Newest event of its source that is durable."""
    lease_expires: float = 0.0
    resume_from: Checkpoint | None = None
    is_resumable: bool = True
    """Whether its backend saves exact state and resumes from it, as it declared when it was assigned."""
    saves_on_request: bool = False
    """Whether its backend writes a checkpoint when it is asked to, as it declared when it was assigned."""
    checkpoint_requests: int = 0
    """How often a checkpoint of it was asked for."""

    @property
    def key(self) -> Key:
        return ("attempt", self.job_uid, self.attempt)

    @property
    def is_live(self) -> bool:
        return self.state != AttemptState.ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecRow:
    """What a job was asked and what it runs; written once, never held in memory. Key: job_uid."""

    job_uid: str
    spec: bytes
    """`tunefleet.job.v1.JobSpec`."""
    resolved_spec: bytes
    """`tunefleet.job.v1.ResolvedSpec`."""
    version: ClassVar[int] = 1

    @property
    def key(self) -> Key:
        return ("spec", self.job_uid, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """A committed manifest. Key: (digest, job_uid). Never changes."""

    digest: str
    job_uid: str
    attempt: int
    kind: ArtifactKind.ValueType
    step: int
    manifest: bytes
    """`tunefleet.artifact.v1.Manifest`."""
    create_time: float
    version: ClassVar[int] = 1

    @property
    def key(self) -> Key:
        return ("manifest", self.digest, self.job_uid)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """What a job produced, by name. Key: uid. `name` is unique. Never changes."""

    uid: str
    name: str
    """`projects/{project}/models/{model}`; the model id is the job id."""
    project: str
    job: str
    """Name of the job that made it."""
    manifest_digest: str
    base_model: str
    kind: str
    """`adapter` or `model`."""
    create_time: float
    version: ClassVar[int] = 1

    @property
    def key(self) -> Key:
        return ("model", self.uid, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """Identity of a mutation: who, which method, the id the caller chose."""

    principal: str
    method: str
    request_id: str

    @property
    def key(self) -> Key:
        return ("request", f"{self.principal}\n{self.method}", self.request_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """A mutation that was answered. Key: its RequestKey. Never changes, forgotten after a day or more."""

    request: RequestKey
    body_sha256: bytes
    """SHA-256 of the request without its id."""
    response: bytes = field(repr=False)
    """Name of the resource that was answered with, UTF-8."""
    create_time: float
    version: ClassVar[int] = 1

    @property
    def key(self) -> Key:
        return self.request.key


Row: TypeAlias = (
    JobRow
    | AttemptRow
    | ServiceRow
    | SpecRow
    | ManifestRow
    | ModelRow
    | DeploymentRow
    | ReplicaRow
    | TrafficRow
    | RequestRow
)

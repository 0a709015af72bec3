"""What can happen: the inputs of `decide`, and what it answers with.

Every input carries the moment at which it happened, so that a decision is a function of
the world and the input alone. Wire messages that a service sent (`AttemptStatus`, ...)
are carried as they came; nothing in the core changes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.fleet.v1.fleet_pb2 import (
    AttemptStatus,
    DeploymentStatus,
    InstalledBackend,
    Service,
    VersionTraffic,
)
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet_core.lifecycle.asked import (
    Asked,
    CancelRequested,
    CheckpointRequested,
    DeploymentDeleteRequested,
    DeploymentScaleRequested,
    DeploymentSubmitted,
    DrainRequested,
    JobDeleteRequested,
    JobSubmitted,
    JobUpdateRequested,
    Moment,
    PauseRequested,
    PromoteRequested,
    Request,
    ResumeRequested,
    RetryRequested,
    RollbackRequested,
    RolloutRequested,
    ServiceRemoveRequested,
)
from tunefleet_core.lifecycle.rows import DeploymentRow, JobRow, Key, ManifestRow, ServiceRow

__all__ = [
    "Accepted",
    "Acknowledged",
    "Asked",
    "AttemptReported",
    "Booted",
    "CancelRequested",
    "CheckpointRequested",
    "DeploymentDeleteRequested",
    "DeploymentReported",
    "DeploymentScaleRequested",
    "DeploymentSubmitted",
    "DrainRequested",
    "EventsAcknowledged",
    "EventsReported",
    "HeartbeatReceived",
    "HistoryTrimmed",
    "Input",
    "JobDeleteRequested",
    "JobSubmitted",
    "JobUpdateRequested",
    "ManifestCommitted",
    "Moment",
    "PauseRequested",
    "PromoteRequested",
    "Request",
    "Response",
    "ResumeRequested",
    "RetryRequested",
    "RollbackRequested",
    "RolloutRequested",
    "ServiceAttached",
    "ServiceChanged",
    "ServiceDetached",
    "ServiceRemoveRequested",
    "ServiceStopping",
    "SessionOpened",
    "Tick",
    "TrafficReported",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAttached:
    """A service opened a session. Answer: SessionOpened. Never refused: the newest session wins.

    `attempts` and `deployments` are what it holds from before; those that are still its own are
    adopted, a live one that it should hold and does not is lost.
    """

    at: Moment
    service: Service
    """`name`, `kind`, `host`, `backends`, `labels` are read."""
    attempts: tuple[AttemptStatus, ...] = ()
    deployments: tuple[DeploymentStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDetached:
    """A session's stream ended. Answer: Acknowledged. Leases run on."""

    at: Moment
    service: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceChanged:
    """A service's backends changed. Answer: Acknowledged. Errors: SESSION_SUPERSEDED."""

    at: Moment
    service: str
    epoch: int
    backends: tuple[InstalledBackend, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStopping:
    """A service is being stopped and gives back what it holds. Answer: Acknowledged.

    Repeating it is harmless. Errors: SESSION_SUPERSEDED.
    """

    at: Moment
    service: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReceived:
    """A sign of life; renews the lease of everything the service holds. Answer: Acknowledged.

    Errors: SESSION_SUPERSEDED.
    """

    at: Moment
    service: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReported:
    """A trainer says where an attempt stands. Answer: Acknowledged. Repeating it is harmless.

    Errors: SESSION_SUPERSEDED, FENCED (not the live attempt of the job, or not its fencing number;
    the caller may drop it: the attempt is not in the service's desired set).
    """

    at: Moment
    service: str
    epoch: int
    status: AttemptStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsReported:
    """A trainer hands over events of an attempt, in order. Answer: EventsAcknowledged.

    Errors: FENCED, FIELD_INVALID (a hole: names the expected source sequence).
    """

    at: Moment
    job_uid: str
    attempt: int
    fencing_number: int
    events: tuple[JobEvent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestCommitted:
    """The holder of an attempt commits a manifest. Answer: ManifestRow. Idempotent by digest.

    Errors: FENCED, FIELD_INVALID.
    """

    at: Moment
    job_uid: str
    attempt: int
    fencing_number: int
    digest: str
    kind: ArtifactKind.ValueType
    step: int
    manifest: bytes
    """`tunefleet.artifact.v1.Manifest`, with its digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentReported:
    """A server says where a replica stands. Answer: Acknowledged. Errors: SESSION_SUPERSEDED, FENCED."""

    at: Moment
    service: str
    epoch: int
    status: DeploymentStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficReported:
    """A gateway says what it saw since its last report. Answer: Acknowledged. Errors: SESSION_SUPERSEDED."""

    at: Moment
    service: str
    epoch: int
    traffic: tuple[VersionTraffic, ...] = ()
    drained: tuple[str, ...] = ()
    """Uids of draining versions that none of its requests in flight is with."""
    drained_replicas: tuple[str, ...] = ()
    """Uids of draining replicas of which that is so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passed. `due` are keys of rows whose deadline came (`World.take_due`). Answer: Acknowledged."""

    at: Moment
    due: tuple[Key, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Booted:
    """The coordinator started, or woke from a long sleep: nobody is blamed for the silence.

    Live leases get a fresh term; services are SUSPECT until they are heard. Answer: Acknowledged.
    """

    at: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryTrimmed:
    """The oldest events of a job, up to a sequence, are to be given up. Answer: Acknowledged.

    Made by the shell when a history is beyond the policy's bounds; repeating it is harmless.
    """

    at: Moment
    job_uid: str
    through_sequence: int
    """Last sequence of a stored segment."""
    dropped_bytes: int
    """Size of the segments up to it."""


Input: TypeAlias = (
    Asked
    | ServiceAttached
    | ServiceDetached
    | ServiceChanged
    | ServiceStopping
    | HeartbeatReceived
    | AttemptReported
    | EventsReported
    | ManifestCommitted
    | DeploymentReported
    | TrafficReported
    | HistoryTrimmed
    | Tick
    | Booted
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A resource was created, or had been by the same request.

    `row` is the row as created; None when the request is a repetition: read the resource by name.
    """

    name: str
    row: JobRow | DeploymentRow | None

    @property
    def is_repetition(self) -> bool:
        return self.row is None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened:
    """A session was opened under this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsAcknowledged:
    """Events up to this source sequence are durable."""

    acknowledged_source_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """Done; there is nothing to say."""


Response: TypeAlias = (
    Accepted
    | SessionOpened
    | EventsAcknowledged
    | Acknowledged
    | JobRow
    | ManifestRow
    | DeploymentRow
    | ServiceRow
)

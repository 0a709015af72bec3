"""The rows of a version of a deployment and of its replicas, the engines that serve it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet_core.lifecycle.identity import Key

__all__ = ["ANSWERING_STATES", "LIVE_REPLICA_STATES", "DeploymentRow", "ReplicaRow"]

LIVE_REPLICA_STATES = frozenset(
    {
        DeploymentState.DEPLOYMENT_STATE_PREPARING,
        DeploymentState.DEPLOYMENT_STATE_STARTING,
        DeploymentState.DEPLOYMENT_STATE_READY,
        DeploymentState.DEPLOYMENT_STATE_DRAINING,
    }
)
"""States in which a replica is in its server's desired set."""

ANSWERING_STATES = frozenset(
    {DeploymentState.DEPLOYMENT_STATE_READY, DeploymentState.DEPLOYMENT_STATE_DEGRADED}
)
"""States in which a version takes traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRow:
    """A version of a deployment: a model that is served by its replicas. Key: uid.

    The versions of a deployment share its name; among rows not DELETED name and number are unique.
    `state` and the fields from `service` to `error` follow from the replicas (`replicas.py`).
    """

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    uid: str
    name: str
    """`projects/{project}/deployments/{deployment_id}`."""
    project: str
    deployment_id: str
    """The model name on the gateway."""
    state: DeploymentState.ValueType
    version: int
    spec: bytes
    """`tunefleet.deployment.v1.DeploymentSpec`."""
    engine: str
    """Backend name of the engine; empty until a replica is placed if the spec leaves it open."""
    base_facts: bytes
    """`tunefleet.model.v1.BaseFacts`."""
    adapter_manifest_digest: str
    """Empty: the base alone."""
    engine_model: str
    """Name inside the engine."""
    create_time: float
    update_time: float
    service: str = ""
    """Of the first replica that answers, else of the first that has one; so are the three below."""
    engine_address: str = ""
    contract: bytes = b""
    """`tunefleet.deployment.v1.ContractResult`."""
    error: bytes = b""
    """`google.rpc.Status` of the first replica that failed."""
    number: int = 1
    """Number of the version in its deployment."""
    of: str = ""
    """Uid of the deployment, which is that of its first version; empty: it is the first."""
    is_current: bool = True
    """Whether the deployment's name stands for this version."""
    replicas: int = 1
    """How many replicas it is to have; 0: it is taken down."""
    last_replica: int = 0
    """Number of its newest replica. No number is given twice."""

    @property
    def key(self) -> Key:
        return ("deployment", self.uid, 0)

    @property
    def deployment_uid(self) -> str:
        """Uid of the deployment that it is a version of."""
        return self.of or self.uid

    @property
    def is_deleted(self) -> bool:
        return self.state == DeploymentState.DEPLOYMENT_STATE_DELETED

    @property
    def answers(self) -> bool:
        """Whether it takes traffic."""
        return self.state in ANSWERING_STATES


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRow:
    """One engine of a version: where it is placed, and how it stands there. Key: uid.

    It is given to a server, reported on, moved off a lost server and taken down for itself.
    """

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"is_held", "deadline", "drained"})

    uid: str
    """What its server calls it. That of the first replica is the version's."""
    version_uid: str
    number: int
    """Number of the replica in its version, from 1."""
    state: DeploymentState.ValueType
    version: int
    service: str = ""
    host_id: str = ""
    device_ids: tuple[str, ...] = ()
    """Accelerators booked for its engine, shared by replicas of other models; empty on a processor."""
    engine_address: str = ""
    contract: bytes = b""
    """`tunefleet.deployment.v1.ContractResult`."""
    error: bytes = b""
    """`google.rpc.Status`."""
    download: bytes = b""
    """PREPARING: `tunefleet.job.v1.Download`, how far its server is with what it fetches."""
    reason: str = ""
    """PENDING: why it could not be placed. WAITING_RETRY and FAILED: how often it was tried."""
    failures: int = 0
    """How often in a row it failed for a reason that may pass. Drives the back-off and is bounded."""
    earlier_tries: int = 0
    """How often it was begun anew. What is reported of another try than the newest is fenced."""
    due_time: float | None = None
    """WAITING_RETRY, DRAINING: `deadline` by the wall clock, so that a restart does not begin it anew."""
    is_held: bool = False
    """Whether its server has reported on it since it was given to it."""
    deadline: float | None = None
    """STOPPING: when a server that never reported on it is taken not to hold it. DRAINING: when requests
    in flight are waited for no longer. WAITING_RETRY: when it is tried again. READY: when its failures
    are forgotten."""
    drained: frozenset[str] = frozenset()
    """DRAINING only: the gateways that have no request in flight with it."""

    @property
    def key(self) -> Key:
        return ("replica", self.uid, 0)

    @property
    def is_deleted(self) -> bool:
        return self.state == DeploymentState.DEPLOYMENT_STATE_DELETED

    @property
    def is_live(self) -> bool:
        """Whether its server is to hold it."""
        return self.state in LIVE_REPLICA_STATES

    @property
    def is_ready(self) -> bool:
        return self.state == DeploymentState.DEPLOYMENT_STATE_READY

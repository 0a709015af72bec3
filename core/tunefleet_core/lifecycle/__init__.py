"""How jobs, attempts, services and deployments move: the pure deciding core.

`decide(world, input, policy)` is a deterministic function without I/O, clock or
randomness. A shell around it (the coordinator's kernel, or the simulator) feeds it
inputs one at a time and makes its changes durable:

    world.recall(store.rows(world.missing(wanted_keys(event))))
    decision = decide(world, event, policy)
    world.apply(decision.changes)
    store.commit([decision.changes])          # on failure: world.revert(decision.changes)
    world.settle()

Start reading at `rows.py` (what there is), `inputs.py` (what can happen), `decide.py`.
"""

from tunefleet_core.lifecycle.changes import (
    Change,
    Decision,
    EventsAppended,
    EventsDropped,
    RowChange,
    RowRemoved,
    footprint,
    is_durable,
)
from tunefleet_core.lifecycle.decide import decide
from tunefleet_core.lifecycle.deployment_history import events_of
from tunefleet_core.lifecycle.desired import (
    DesiredAssignment,
    DesiredReplica,
    DesiredView,
    deployments_touched,
    desired_for,
    jobs_touched,
    services_touched,
)
from tunefleet_core.lifecycle.events import checkpoint_ref
from tunefleet_core.lifecycle.inputs import (
    Accepted,
    Acknowledged,
    AttemptReported,
    Booted,
    CancelRequested,
    CheckpointRequested,
    DeploymentDeleteRequested,
    DeploymentReported,
    DeploymentScaleRequested,
    DeploymentSubmitted,
    DrainRequested,
    EventsAcknowledged,
    EventsReported,
    HeartbeatReceived,
    HistoryTrimmed,
    Input,
    JobDeleteRequested,
    JobSubmitted,
    JobUpdateRequested,
    ManifestCommitted,
    Moment,
    PauseRequested,
    PromoteRequested,
    Request,
    Response,
    ResumeRequested,
    RetryRequested,
    RollbackRequested,
    RolloutRequested,
    ServiceAttached,
    ServiceChanged,
    ServiceDetached,
    ServiceRemoveRequested,
    ServiceStopping,
    SessionOpened,
    Tick,
    TrafficReported,
)
from tunefleet_core.lifecycle.policy import Policy
from tunefleet_core.lifecycle.rollout_rules import settle_policy, shares_of
from tunefleet_core.lifecycle.rows import (
    AttemptRow,
    AttemptState,
    BackendFacts,
    Checkpoint,
    DeploymentRow,
    DeviceFacts,
    JobRow,
    Key,
    Labels,
    ManifestRow,
    ModelRow,
    ReplicaRow,
    RequestKey,
    RequestRow,
    Row,
    ServiceRow,
    SpecRow,
    TrafficRow,
)
from tunefleet_core.lifecycle.wants import wanted_keys
from tunefleet_core.lifecycle.world import World

__all__ = [
    # the function
    "decide",
    "Decision",
    "Policy",
    "World",
    # what can happen
    "Input",
    "Moment",
    "Request",
    "RequestKey",
    "JobSubmitted",
    "CancelRequested",
    "CheckpointRequested",
    "PauseRequested",
    "ResumeRequested",
    "RetryRequested",
    "JobUpdateRequested",
    "JobDeleteRequested",
    "DrainRequested",
    "ServiceRemoveRequested",
    "HistoryTrimmed",
    "ServiceAttached",
    "ServiceDetached",
    "ServiceChanged",
    "ServiceStopping",
    "HeartbeatReceived",
    "AttemptReported",
    "EventsReported",
    "ManifestCommitted",
    "DeploymentSubmitted",
    "DeploymentDeleteRequested",
    "DeploymentScaleRequested",
    "DeploymentReported",
    "RolloutRequested",
    "PromoteRequested",
    "RollbackRequested",
    "TrafficReported",
    "Tick",
    "Booted",
    "wanted_keys",
    # what it answers
    "Response",
    "Accepted",
    "Acknowledged",
    "EventsAcknowledged",
    "SessionOpened",
    # what it changes
    "Change",
    "RowChange",
    "RowRemoved",
    "EventsAppended",
    "EventsDropped",
    "footprint",
    "is_durable",
    "jobs_touched",
    "services_touched",
    "deployments_touched",
    # rows
    "Row",
    "Key",
    "Labels",
    "JobRow",
    "AttemptRow",
    "AttemptState",
    "Checkpoint",
    "ServiceRow",
    "BackendFacts",
    "DeviceFacts",
    "ManifestRow",
    "ModelRow",
    "DeploymentRow",
    "ReplicaRow",
    "TrafficRow",
    "events_of",
    "settle_policy",
    "shares_of",
    "RequestRow",
    "SpecRow",
    # what services are to hold
    "DesiredView",
    "DesiredAssignment",
    "DesiredReplica",
    "desired_for",
    "checkpoint_ref",
]

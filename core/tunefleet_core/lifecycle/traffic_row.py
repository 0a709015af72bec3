"""The row of a deployment's traffic: its versions' shares, its roll-out, what happened to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunefleet.deployment.v1.rollout_pb2 import EvaluationState, RolloutState
from tunefleet_core.lifecycle.identity import Key

__all__ = ["TrafficRow"]

_GOING = frozenset({RolloutState.ROLLOUT_STATE_LOADING, RolloutState.ROLLOUT_STATE_BAKING})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficRow:
    """What belongs to a deployment as a whole, beside its versions. Key: uid of the deployment.

    The fields from `state` to `candidate_counts` are those of the roll-out that goes on, else of
    the last one.
    """

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"deadline"})

    uid: str
    name: str
    version: int
    is_over: bool = False
    """Whether every version is gone."""
    last_number: int = 1
    """Number of the newest version."""
    state: RolloutState.ValueType = RolloutState.ROLLOUT_STATE_UNSPECIFIED
    policy: bytes = b""
    """`tunefleet.deployment.v1.RolloutPolicy`, settled."""
    current: str = ""
    """Uid of the version that served before."""
    candidate: str = ""
    """Uid of the version that is rolled out."""
    step: int = 0
    """From 1; 0: the candidate is loaded."""
    step_time: float = 0.0
    start_time: float = 0.0
    end_time: float | None = None
    reason: str = ""
    evaluate_uid: str = ""
    """Uid of the job that has to pass."""
    evaluation: EvaluationState.ValueType = EvaluationState.EVALUATION_STATE_UNSPECIFIED
    current_counts: bytes = b""
    """`tunefleet.deployment.v1.TrafficCounts` since the step began."""
    candidate_counts: bytes = b""
    last_sequence: int = 0
    history: bytes = b""
    """`tunefleet.deployment.v1.DeploymentEvents`: the newest events, up to a bound."""
    deadline: float | None = None
    """BAKING only: when the bake time of the step is over; None: it is over, or there is none."""

    @property
    def key(self) -> Key:
        return ("traffic", self.uid, 0)

    @property
    def is_rolling(self) -> bool:
        """Whether a roll-out goes on."""
        return self.state in _GOING

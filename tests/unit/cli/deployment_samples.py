"""Deployments as they could be, for every view: served, failed, preparing, rolled out."""

from __future__ import annotations

from typing import Any

from sample_names import ago

from tunefleet.deployment.v1.deployment_pb2 import (
    ContractResult,
    ContractState,
    Deployment,
    DeploymentSpec,
    DeploymentState,
)
from tunefleet.deployment.v1.rollout_pb2 import (
    DeploymentEvent,
    DeploymentScaled,
    DeploymentStateChanged,
    DeploymentVersion,
    EvaluationEnded,
    EvaluationState,
    Rollout,
    RolloutEnded,
    RolloutPolicy,
    RolloutStarted,
    RolloutState,
    RolloutStep,
    TrafficCounts,
)


def deployments() -> list[Deployment]:
    ready = Deployment(
        name="projects/default/deployments/tickets",
        uid="d-1",
        spec=DeploymentSpec(model="models/tickets-to-json-9c3e", replicas=2),
        state=DeploymentState.DEPLOYMENT_STATE_DEGRADED,
        service="services/laptop-server",
        reason="Replica 2 fits on no server: laptop-server has replica 1 on its processor already.",
        contract=ContractResult(
            tokens=ContractState.CONTRACT_STATE_VERIFIED,
            numbers=ContractState.CONTRACT_STATE_UNVERIFIED,
            distance_to_tuned=0.0021,
            distance_to_base=1.4,
            summary="Prompts are tokenised as in training.",
        ),
        create_time=ago(600),
    )
    first = ready.replicas.add(number=1, uid="d-1", state=DeploymentState.DEPLOYMENT_STATE_READY)
    first.service = ready.service
    first.contract.CopyFrom(ready.contract)
    waiting = DeploymentState.DEPLOYMENT_STATE_PENDING
    ready.replicas.add(number=2, uid="d-1-2", state=waiting, reason=ready.reason)
    failed = Deployment(
        name="projects/default/deployments/broken",
        uid="d-2",
        spec=DeploymentSpec(model="models/broken"),
        state=DeploymentState.DEPLOYMENT_STATE_FAILED,
        contract=ContractResult(numbers=ContractState.CONTRACT_STATE_REFUSED),
        create_time=ago(1_600),
    )
    return [ready, failed]


def preparing() -> Deployment:
    """A deployment whose server fetches the weights of its base."""
    state = DeploymentState.DEPLOYMENT_STATE_PREPARING
    found = Deployment(
        name="projects/default/deployments/coder",
        uid="d-3",
        spec=DeploymentSpec(model="Qwen/Qwen3-4B", replicas=1),
        state=state,
        service="services/laptop-server",
        create_time=ago(40),
    )
    first = found.replicas.add(number=1, uid="d-3", state=state, service=found.service)
    first.download.what = "Qwen/Qwen3-4B@1cfa9a7208c1"
    first.download.done_bytes, first.download.total_bytes = 2_010_000_000, 8_044_982_000
    return found


def rollout() -> Rollout:
    served, _ = deployments()
    policy = RolloutPolicy(steps=[5, 25, 100], max_error_rate=0.05, max_latency_ratio=1.5, min_requests=20)
    policy.evaluate_job = "projects/default/jobs/scores-of-v2"
    found = Rollout(
        state=RolloutState.ROLLOUT_STATE_BAKING,
        policy=policy,
        step=2,
        reason="The step was as it should be.",
        evaluation=EvaluationState.EVALUATION_STATE_PASSED,
        step_time=ago(120),
        next_step_time=ago(-480),
    )
    found.current.CopyFrom(_version(served, 1, 75, TrafficCounts(requests=1210, errors=3, first_bytes=1210)))
    found.current.counts.first_byte_seconds = 96.8
    found.candidate.CopyFrom(_version(served, 2, 25, TrafficCounts(requests=12, first_bytes=12)))
    found.candidate.counts.first_byte_seconds = 1.1
    found.candidate.spec.model = "models/tickets-v2"
    return found


def deployment_events() -> list[DeploymentEvent]:
    policy = RolloutPolicy(steps=[5, 100])
    starting, ready = DeploymentState.DEPLOYMENT_STATE_STARTING, DeploymentState.DEPLOYMENT_STATE_READY
    back = RolloutState.ROLLOUT_STATE_ROLLED_BACK
    passed = EvaluationState.EVALUATION_STATE_PASSED
    payloads: list[dict[str, Any]] = [
        {"rollout_started": RolloutStarted(model="models/tickets-v2", policy=policy)},
        {"state_changed": DeploymentStateChanged(**{"from": starting, "to": ready})},
        {"rollout_step": RolloutStep(step=1, weight=5, reason="The candidate is loaded and checked.")},
        {"evaluation_ended": EvaluationEnded(state=passed, reason="Job 'scores-of-v2' succeeded.")},
        {"scaled": DeploymentScaled(**{"from": 1, "to": 3})},
        {"rollout_ended": RolloutEnded(state=back, reason="2 of 20 requests failed (10.0%).")},
    ]
    return [
        DeploymentEvent(sequence=number, version=2, **payload) for number, payload in enumerate(payloads, 1)
    ]


def _version(served: Deployment, number: int, weight: int, counts: TrafficCounts) -> DeploymentVersion:
    return DeploymentVersion(
        number=number,
        uid=f"v-{number}",
        spec=served.spec,
        state=served.state,
        service=served.service,
        contract=served.contract,
        weight=weight,
        counts=counts,
    )

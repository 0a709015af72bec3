"""Rules for roll-outs: a candidate is loaded, gets more and more of the traffic, and stays or goes.

What people ask is carried out at once. What follows by itself (the candidate is loaded, a bake
time is over, a limit is broken, the job that has to pass has ended) is found by `drive_rollouts`,
a part of every decision, which looks at what the decision changed and at nothing else.
"""

from __future__ import annotations

from google.rpc.status_pb2 import Status

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec, DeploymentState
from tunefleet.deployment.v1.rollout_pb2 import (
    DeploymentEvent,
    EvaluationState,
    RolloutEnded,
    RolloutPolicy,
    RolloutStarted,
    RolloutState,
    RolloutStep,
    TrafficCounts,
)
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle.deployment_asked import check_etag, find_asked
from tunefleet_core.lifecycle.deployment_history import append_events
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.draining import take_down, take_drained
from tunefleet_core.lifecycle.inputs import (
    PromoteRequested,
    RollbackRequested,
    RolloutRequested,
    TrafficReported,
)
from tunefleet_core.lifecycle.jobs import remember
from tunefleet_core.lifecycle.placement import place_replicas
from tunefleet_core.lifecycle.replicas import fit_replicas
from tunefleet_core.lifecycle.rollout_evaluation import begin_evaluation, judge_evaluation
from tunefleet_core.lifecycle.rollout_rules import broken_limit, seconds_of
from tunefleet_core.lifecycle.rows import DeploymentRow, JobRow
from tunefleet_core.lifecycle.traffic_row import TrafficRow

__all__ = [
    "drive_rollouts",
    "end_rollout",
    "promote",
    "resume_baking",
    "roll_back",
    "roll_out",
    "take_traffic",
]

_BAKING = RolloutState.ROLLOUT_STATE_BAKING
_LOADING = RolloutState.ROLLOUT_STATE_LOADING
_NOT_TO_BE = frozenset(
    {
        DeploymentState.DEPLOYMENT_STATE_FAILED,
        DeploymentState.DEPLOYMENT_STATE_STOPPING,
        DeploymentState.DEPLOYMENT_STATE_DELETED,
    }
)


def roll_out(draft: Draft, asked: RolloutRequested) -> DeploymentRow:
    """Begin a roll-out: the candidate is placed like any deployment, and gets no traffic yet."""
    found = find_asked(draft, asked)
    row, traffic = found.row, found.traffic
    if found.is_repeated:
        return row
    _check_beginning(row, traffic, asked)
    policy = RolloutPolicy.FromString(asked.policy)
    number = traffic.last_number + 1
    candidate = DeploymentRow(
        uid=asked.uid,
        name=row.name,
        project=row.project,
        deployment_id=row.deployment_id,
        state=DeploymentState.DEPLOYMENT_STATE_PENDING,
        version=1,
        spec=asked.spec,
        engine=asked.engine,
        base_facts=asked.base_facts,
        adapter_manifest_digest=asked.adapter_manifest_digest,
        engine_model=asked.engine_model,
        create_time=draft.at.wall,
        update_time=draft.at.wall,
        number=number,
        of=row.deployment_uid,
        is_current=False,
        replicas=asked.replicas or row.replicas,
    )
    evaluation = begin_evaluation(draft, policy, asked.evaluate_job)
    draft.insert(candidate)
    started = RolloutStarted(model=DeploymentSpec.FromString(asked.spec).model, policy=policy)
    draft.write(
        append_events(draft, traffic, DeploymentEvent(version=number, rollout_started=started)),
        state=_LOADING,
        policy=asked.policy,
        current=row.uid,
        candidate=candidate.uid,
        last_number=number,
        step=0,
        step_time=draft.at.wall,
        start_time=draft.at.wall,
        end_time=None,
        reason="The candidate is being loaded and checked.",
        current_counts=b"",
        candidate_counts=b"",
        deadline=None,
        **evaluation,
    )
    fit_replicas(draft, candidate)
    place_replicas(draft, candidate.uid)
    remember(draft, asked.request, row.name)
    return row


def promote(draft: Draft, asked: PromoteRequested) -> DeploymentRow:
    """Take the next step of a roll-out, or its last one."""
    found = find_asked(draft, asked)
    row, traffic = found.row, found.traffic
    if found.is_repeated:
        return row
    if traffic.state != _BAKING:
        what = "still loads its candidate" if traffic.state == _LOADING else "has no roll-out"
        raise _conflict(row, what, "tunefleet deployments rollout", traffic)
    candidate = draft.deployment(traffic.candidate)
    if candidate is None or not candidate.answers:
        raise _conflict(
            row, "has a candidate that cannot answer now", "tunefleet deployments rollout", traffic
        )
    last = len(RolloutPolicy.FromString(traffic.policy).steps)
    step = max(traffic.step, last - 1) if asked.to_last_step and traffic.step < last else traffic.step
    _enter(draft, traffic, step + 1, "Promoted by hand.")
    remember(draft, asked.request, row.name)
    return row


def roll_back(draft: Draft, asked: RollbackRequested) -> DeploymentRow:
    """Give everything back to the version before, at once."""
    found = find_asked(draft, asked)
    row, traffic = found.row, found.traffic
    if found.is_repeated:
        return row
    if not traffic.is_rolling:
        raise _conflict(row, "has no roll-out", "tunefleet deployments rollout", traffic)
    end_rollout(draft, traffic, asked.reason or "Rolled back by hand.")
    remember(draft, asked.request, row.name)
    return row


def take_traffic(draft: Draft, reported: TrafficReported) -> None:
    """Add what a gateway saw to the counts of the steps that it belongs to, and note what is drained."""
    for seen in reported.traffic:
        row = draft.deployment(seen.deployment_uid)
        traffic = None if row is None else draft.traffic(row.deployment_uid)
        if traffic is None or traffic.state != _BAKING:
            continue
        for uid, field in ((traffic.current, "current_counts"), (traffic.candidate, "candidate_counts")):
            if uid == seen.deployment_uid:
                total = _sum(getattr(traffic, field), seen.counts)
                draft.write(traffic, **{field: total.SerializeToString()})
    take_drained(draft, reported)


def drive_rollouts(draft: Draft) -> None:
    """Take the steps that follow from what this decision changed."""
    concerned = dict.fromkeys(row.uid for row in draft.changed(TrafficRow))
    concerned.update(dict.fromkeys(row.deployment_uid for row in draft.changed(DeploymentRow)))
    for job in draft.changed(JobRow):
        concerned.update(dict.fromkeys(draft.world.waiting_for_job(job.uid)))
    for uid in concerned:
        traffic = draft.traffic(uid)
        if traffic is not None and traffic.is_rolling:
            _drive(draft, traffic)


def resume_baking(draft: Draft, traffic: TrafficRow) -> None:
    """Start the clock of a step again after a restart; the wall clock says what is left of it."""
    policy = RolloutPolicy.FromString(traffic.policy)
    if traffic.state == _BAKING and policy.HasField("bake"):
        bake = seconds_of(policy.bake)
        left = min(bake, max(0.0, traffic.step_time + bake - draft.at.wall))
        draft.touch(traffic, deadline=draft.at.now + left)


def end_rollout(
    draft: Draft,
    traffic: TrafficRow,
    reason: str,
    state: RolloutState.ValueType = RolloutState.ROLLOUT_STATE_ROLLED_BACK,
) -> None:
    """End a roll-out; the version that lost finishes what it has in flight and is taken down."""
    current, candidate = draft.deployment(traffic.current), draft.deployment(traffic.candidate)
    is_won = state == RolloutState.ROLLOUT_STATE_SUCCEEDED
    ended = RolloutEnded(
        state=state,
        reason=reason,
        current=TrafficCounts.FromString(traffic.current_counts),
        candidate=TrafficCounts.FromString(traffic.candidate_counts),
    )
    number = candidate.number if candidate is not None else traffic.last_number
    draft.write(
        append_events(draft, traffic, DeploymentEvent(version=number, rollout_ended=ended)),
        state=state,
        end_time=draft.at.wall,
        reason=reason,
        deadline=None,
    )
    if is_won and candidate is not None:
        draft.write(candidate, is_current=True)
    loser = current if is_won else candidate
    if loser is not None:
        limit = seconds_of(RolloutPolicy.FromString(traffic.policy).drain_limit)
        loser = draft.write(loser, is_current=False)
        take_down(draft, loser, limit)


def _drive(draft: Draft, traffic: TrafficRow) -> None:
    candidate = draft.deployment(traffic.candidate)
    is_loading = traffic.state == _LOADING
    # It begins with all of its replicas; later it may lose some and go on.
    if candidate is None or candidate.state in _NOT_TO_BE or (is_loading and _is_refused(draft, candidate)):
        end_rollout(draft, traffic, _why_lost(candidate))
        return
    policy = RolloutPolicy.FromString(traffic.policy)
    traffic, fault = judge_evaluation(draft, traffic, policy)
    if fault:
        end_rollout(draft, traffic, fault)
        return
    if not candidate.answers:
        return  # its share is the other's meanwhile
    before = draft.world.deployment(candidate.uid)
    if is_loading:
        if candidate.state == DeploymentState.DEPLOYMENT_STATE_READY:
            _enter(draft, traffic, 1, "The candidate is loaded and checked.")
        return
    if before is not None and not before.answers:
        _enter(draft, traffic, traffic.step, "The candidate can answer again.")
        return
    current_counts = TrafficCounts.FromString(traffic.current_counts)
    candidate_counts = TrafficCounts.FromString(traffic.candidate_counts)
    if broken := broken_limit(policy, current_counts, candidate_counts):
        end_rollout(draft, traffic, broken)
    elif _may_go_on(draft, traffic, policy, candidate_counts):
        _enter(draft, traffic, traffic.step + 1, "The step was as it should be.")


def _is_refused(draft: Draft, candidate: DeploymentRow) -> bool:
    """Whether a replica of a candidate has failed for good; one that is tried again is waited for."""
    failed = DeploymentState.DEPLOYMENT_STATE_FAILED
    return any(row.state == failed for row in draft.replicas_of(candidate.uid))


def _may_go_on(draft: Draft, traffic: TrafficRow, policy: RolloutPolicy, candidate: TrafficCounts) -> bool:
    is_baked = policy.HasField("bake") and (traffic.deadline is None or traffic.deadline <= draft.at.now)
    has_passed = traffic.evaluation in (
        EvaluationState.EVALUATION_STATE_UNSPECIFIED,
        EvaluationState.EVALUATION_STATE_PASSED,
    )
    return is_baked and has_passed and candidate.requests >= policy.min_requests


def _enter(draft: Draft, traffic: TrafficRow, step: int, reason: str) -> None:
    """Begin a step; behind the last one, the roll-out has succeeded."""
    policy = RolloutPolicy.FromString(traffic.policy)
    if step > len(policy.steps):
        end_rollout(draft, traffic, reason, RolloutState.ROLLOUT_STATE_SUCCEEDED)
        return
    taken = RolloutStep(step=step, weight=policy.steps[step - 1], reason=reason)
    draft.write(
        append_events(draft, traffic, DeploymentEvent(version=traffic.last_number, rollout_step=taken)),
        state=_BAKING,
        step=step,
        step_time=draft.at.wall,
        reason=reason,
        current_counts=b"",
        candidate_counts=b"",
        deadline=draft.at.now + seconds_of(policy.bake) if policy.HasField("bake") else None,
    )


def _check_beginning(row: DeploymentRow, traffic: TrafficRow, asked: RolloutRequested) -> None:
    check_etag(row, asked.etag)
    if traffic.is_rolling:
        raise _conflict(
            row, "has a roll-out already; end it first", "tunefleet deployments rollback", traffic
        )
    if not row.answers:
        word = DeploymentState.Name(row.state).removeprefix("DEPLOYMENT_STATE_")
        raise _conflict(row, f"is {word} and takes no traffic", "tunefleet deployments get", traffic)
    if _served(asked.spec) == _served(row.spec) and asked.engine_model == row.engine_model:
        raise TunefleetError.field(
            "spec.model", f"is what version {row.number} of '{row.deployment_id}' serves already"
        )


def _served(spec: bytes) -> DeploymentSpec:
    """Return what a spec says of the model and its engine: how many there are is scaled, not rolled out."""
    served = DeploymentSpec.FromString(spec)
    served.ClearField("replicas")
    return served


def _conflict(row: DeploymentRow, what: str, command: str, traffic: TrafficRow) -> TunefleetError:
    return TunefleetError(
        Reason.STATE_CONFLICT,
        f"Deployment '{row.deployment_id}' {what}.",
        hint=f"{command} {row.deployment_id}",
        metadata={
            "deployment": row.name,
            "state": DeploymentState.Name(row.state).removeprefix("DEPLOYMENT_STATE_"),
            "rollout": RolloutState.Name(traffic.state).removeprefix("ROLLOUT_STATE_"),
        },
    )


def _why_lost(candidate: DeploymentRow | None) -> str:
    if candidate is None or not candidate.error:
        return "The candidate was taken down."
    return f"The candidate could not be served: {Status.FromString(candidate.error).message}"


def _sum(before: bytes, counts: TrafficCounts) -> TrafficCounts:
    held = TrafficCounts.FromString(before)
    return TrafficCounts(
        requests=held.requests + counts.requests,
        errors=held.errors + counts.errors,
        first_bytes=held.first_bytes + counts.first_bytes,
        first_byte_seconds=held.first_byte_seconds + counts.first_byte_seconds,
    )

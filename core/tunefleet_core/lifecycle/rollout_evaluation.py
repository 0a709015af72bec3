"""The job that has to pass before a candidate gets more than its first share."""

from __future__ import annotations

from typing import Any

from tunefleet.deployment.v1.rollout_pb2 import (
    DeploymentEvent,
    EvaluationEnded,
    EvaluationState,
    RolloutPolicy,
)
from tunefleet.job.v1.job_pb2 import JobResult
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle.deployment_history import append_events
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.rows import JobRow
from tunefleet_core.lifecycle.traffic_row import TrafficRow

__all__ = ["begin_evaluation", "judge_evaluation"]

_WAITING = EvaluationState.EVALUATION_STATE_WAITING
_PASSED = EvaluationState.EVALUATION_STATE_PASSED
_FAILED = EvaluationState.EVALUATION_STATE_FAILED


def begin_evaluation(draft: Draft, policy: RolloutPolicy, name: str) -> dict[str, Any]:
    """Return the fields of a roll-out that say which job has to pass.

    Raises:
        TunefleetError: JOB_NOT_FOUND; STATE_CONFLICT if it has ended and did not pass.
    """
    if not name:
        return {"evaluate_uid": "", "evaluation": EvaluationState.EVALUATION_STATE_UNSPECIFIED}
    job = draft.world.job_by_name(name)
    if job is None:
        raise TunefleetError(
            Reason.JOB_NOT_FOUND,
            f"There is no job '{name}'.",
            hint="See the jobs there are: tunefleet jobs list",
            metadata={"job": name},
        )
    fault = _fault(job, policy)
    if fault:
        raise TunefleetError(
            Reason.STATE_CONFLICT,
            fault,
            hint="Evaluate the model again, or roll it out without the job.",
            metadata={"job": name},
        )
    return {"evaluate_uid": job.uid, "evaluation": _PASSED if job.is_terminal else _WAITING}


def judge_evaluation(draft: Draft, traffic: TrafficRow, policy: RolloutPolicy) -> tuple[TrafficRow, str]:
    """Take in that the job has ended. Returns the row as it is then, and why it did not pass."""
    job = draft.job(traffic.evaluate_uid) if traffic.evaluation == _WAITING else None
    if job is None or not job.is_terminal:
        return traffic, ""
    fault = _fault(job, policy)
    state = _FAILED if fault else _PASSED
    ended = EvaluationEnded(state=state, reason=fault or f"Job '{job.job_id}' succeeded.")
    event = DeploymentEvent(version=traffic.last_number, evaluation_ended=ended)
    return draft.write(append_events(draft, traffic, event), evaluation=state), fault


def _fault(job: JobRow, policy: RolloutPolicy) -> str:
    """Return why an ended job did not pass; empty if it did, or has not ended."""
    if not job.is_terminal:
        return ""
    if job.state != JobState.JOB_STATE_SUCCEEDED:
        word = "failed" if job.state == JobState.JOB_STATE_FAILED else "was cancelled"
        return f"Job '{job.job_id}', which had to pass, {word}."
    scores = {score.metric: score.value for score in JobResult.FromString(job.result).scores}
    for metric, least in sorted(policy.min_scores.items()):
        value = scores.get(metric)
        if value is None:
            return (
                f"Job '{job.job_id}' has no score '{metric}'; it has: {', '.join(sorted(scores)) or 'none'}."
            )
        if not value >= least:
            return f"Job '{job.job_id}' reached {metric} {value:g}; at least {least:g} was asked for."
    return ""

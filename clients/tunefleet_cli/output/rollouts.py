"""How a roll-out looks, and the events of a deployment as plain lines."""

from __future__ import annotations

from rich.text import Text

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.deployment.v1.rollout_pb2 import (
    DeploymentEvent,
    DeploymentVersion,
    EvaluationState,
    Rollout,
    RolloutState,
    TrafficCounts,
)
from tunefleet_cli.output.output import Output
from tunefleet_cli.output.quantities import duration_text, until
from tunefleet_cli.output.states import contract_cell, state_cell
from tunefleet_cli.output.table import Column, Table
from tunefleet_client import short_name

__all__ = ["deployment_event_lines", "rollout_state", "show_rollout"]


def rollout_state(state: RolloutState.ValueType) -> str:
    """Return a roll-out's state without its prefix, such as `BAKING`."""
    return RolloutState.Name(state).removeprefix("ROLLOUT_STATE_")


def show_rollout(output: Output, name: str, rollout: Rollout) -> None:
    """Print a roll-out and what its two versions answered in this step."""
    if output.is_json:
        output.message(rollout)
        return
    policy = rollout.policy
    step = f"{rollout.step} of {len(policy.steps)} ({', '.join(f'{item} %' for item in policy.steps)})"
    output.facts(
        [
            ("roll-out", Text(name, style="strong")),
            ("state", state_cell(output, rollout_state(rollout.state))),
            ("why", rollout.reason),
            ("waits", _waits(name, rollout)),
            ("step", step),
            ("next step", _next_step(output, rollout)),
            ("limits", _limits(rollout)),
            ("job", _job(rollout)),
        ]
    )
    output.heading("Versions")
    columns = [
        Column(title="VERSION", style="accent", align="right"),
        Column(title="MODEL", wraps=True),
        Column(title="STATE"),
        Column(title="TRAFFIC", align="right"),
        Column(title="REQUESTS", align="right", rank=1),
        Column(title="FAILED", align="right", rank=1),
        Column(title="FIRST BYTE", align="right", rank=2),
        Column(title="NUMBERS", rank=3),
    ]
    rows = [_version(output, item) for item in (rollout.current, rollout.candidate) if item.number]
    output.table(Table(columns=columns, rows=rows))


def deployment_event_lines(event: DeploymentEvent) -> list[str]:
    """Return an event of a deployment as lines for people who read a log."""
    version = f"version {event.version}" + (f" replica {event.replica}" if event.replica else "")
    match event.WhichOneof("payload"):
        case "state_changed":
            changed = event.state_changed
            word = DeploymentState.Name(changed.to).removeprefix("DEPLOYMENT_STATE_")
            place = ", it was on" if word in ("PENDING", "DELETED") else " on"
            place = f"{place} {short_name(changed.service)}" if changed.service else ""
            said = changed.error.message or changed.reason
            why = f": {said}" if said else ""
            return [f"{version} {word}{place}{why}"]
        case "rollout_started":
            started = event.rollout_started
            steps = ", ".join(f"{item} %" for item in started.policy.steps)
            return [f"{version} roll-out of {started.model}: {steps}"]
        case "rollout_step":
            taken = event.rollout_step
            return [f"{version} step {taken.step}, {taken.weight} % of the traffic: {taken.reason}"]
        case "rollout_ended":
            ended = event.rollout_ended
            return [f"{version} {rollout_state(ended.state)}: {ended.reason}"]
        case "evaluation_ended":
            judged = event.evaluation_ended
            word = EvaluationState.Name(judged.state).removeprefix("EVALUATION_STATE_")
            return [f"{version} evaluation {word}: {judged.reason}"]
        case "scaled":
            scaled = event.scaled
            return [f"{version} from {getattr(scaled, 'from')} to {scaled.to} replicas"]
        case None:
            return []


def _waits(name: str, rollout: Rollout) -> str:
    """Return what keeps a candidate from its first step that is no loading any more."""
    is_short = rollout.candidate.state == DeploymentState.DEPLOYMENT_STATE_DEGRADED
    if rollout.state != RolloutState.ROLLOUT_STATE_LOADING or not is_short:
        return ""
    return (
        "It begins once every replica of the candidate is ready, and not all are. Add room for them, or "
        f"take fewer: tunefleet deployments scale {name} N"
    )


def _next_step(output: Output, rollout: Rollout) -> str:
    if rollout.state != RolloutState.ROLLOUT_STATE_BAKING:
        return ""
    if not rollout.next_step_time.seconds:
        return "by hand"
    left = until(rollout.next_step_time, output.now())
    needed = rollout.policy.min_requests - rollout.candidate.counts.requests
    waits = f"{needed} more requests" if needed > 0 else ""
    return " and ".join(part for part in ("" if left == "ended" else left, waits) if part) or "now"


def _limits(rollout: Rollout) -> str:
    policy = rollout.policy
    parts = [f"{policy.max_error_rate:.1%} errors"]
    if policy.HasField("max_latency_ratio"):
        parts.append(f"{policy.max_latency_ratio:g} × the time to the first byte")
    return f"{', '.join(parts)}, from {policy.min_requests} requests on"


def _job(rollout: Rollout) -> str:
    if not rollout.policy.evaluate_job:
        return ""
    word = EvaluationState.Name(rollout.evaluation).removeprefix("EVALUATION_STATE_").lower()
    return f"{short_name(rollout.policy.evaluate_job)} ({word})"


def _version(output: Output, version: DeploymentVersion) -> list[Text | str]:
    counts = version.counts
    state = DeploymentState.Name(version.state).removeprefix("DEPLOYMENT_STATE_")
    return [
        str(version.number),
        version.spec.model,
        state_cell(output, state),
        f"{version.weight} %",
        f"{counts.requests:,}",
        f"{counts.errors:,}",
        _first_byte(counts),
        contract_cell(output, version.contract.numbers),
    ]


def _first_byte(counts: TrafficCounts) -> str:
    if not counts.first_bytes:
        return ""
    seconds = counts.first_byte_seconds / counts.first_bytes
    return f"{seconds * 1e3:.0f}ms" if seconds < 1 else duration_text(seconds)

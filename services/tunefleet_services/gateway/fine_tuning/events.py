"""A job's events in OpenAI's form, one sentence each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent, Metrics, RunPhase
from tunefleet.job.v1.state_pb2 import CheckpointRef, JobState
from tunefleet_services.gateway.fine_tuning.names import fine_tuned_name

__all__ = ["checkpoint_document", "event_document", "train_metrics"]


@dataclass(frozen=True, slots=True)
class _Told:
    text: str
    level: str = "info"
    data: Mapping[str, object] = field(default_factory=dict[str, object])
    kind: str = "message"


def event_document(event: JobEvent) -> dict[str, object] | None:
    """Return what OpenAI clients read; None for events that are not for them."""
    told = _told(event)
    if told is None:
        return None
    return {
        "id": f"ftevent-{event.sequence}",
        "object": "fine_tuning.job.event",
        "created_at": event.create_time.seconds,
        "level": told.level,
        "message": told.text,
        "data": dict(told.data),
        "type": told.kind,
    }


def checkpoint_document(
    checkpoint: CheckpointRef, *, job_id: str, project: str, base: str, events: Sequence[JobEvent]
) -> dict[str, object]:
    """Return a checkpoint. It is there to go on from, not to be served: its name leads nowhere yet."""
    committed = [
        event.create_time.seconds
        for event in events
        if event.HasField("checkpoint_committed") and event.checkpoint_committed.checkpoint == checkpoint
    ]
    numbers: dict[str, object] = {"step": float(checkpoint.step)}
    for event in events:
        if event.HasField("metrics") and event.metrics.step == checkpoint.step:
            numbers.update(train_metrics(event.metrics))
    numbers.pop("learning_rate", None)
    name = f"{fine_tuned_name(base, project, job_id)}:ckpt-step-{checkpoint.step}"
    return {
        "id": f"ftckpt-{checkpoint.manifest_digest[:24]}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": committed[-1] if committed else 0,
        "fine_tuned_model_checkpoint": name,
        "fine_tuning_job_id": job_id,
        "metrics": numbers,
        "step_number": checkpoint.step,
    }


def train_metrics(metrics: Metrics) -> dict[str, object]:
    """Return the numbers of a step under OpenAI's names; those that are no number are left out."""
    named = {
        "train_loss": metrics.loss if metrics.HasField("loss") else None,
        "valid_loss": metrics.validation_loss if metrics.HasField("validation_loss") else None,
        "learning_rate": metrics.learning_rate if metrics.HasField("learning_rate") else None,
        "train_mean_token_accuracy": metrics.extra.get("token_accuracy"),
        "valid_mean_token_accuracy": metrics.extra.get("validation_token_accuracy"),
    }
    return {name: value for name, value in named.items() if value is not None and math.isfinite(value)}


def _told(event: JobEvent) -> _Told | None:
    match event.WhichOneof("payload"):
        case "state_changed":
            return _state(event)
        case "metrics":
            return _metrics(event.metrics)
        case "notice":
            level = "warn" if event.notice.severity == "warning" else "info"
            return _Told(f"{event.notice.text} {event.notice.hint}".strip(), level=level)
        case "phase_changed":
            phase = RunPhase.Name(event.phase_changed.phase).removeprefix("RUN_PHASE_")
            return _Told(f"The run is {phase.lower()}.")
        case "checkpoint_committed":
            step = event.checkpoint_committed.checkpoint.step
            return _Told(f"Checkpoint of step {step} is kept.", data={"step": step})
        case "best_checkpoint":
            best = event.best_checkpoint
            return _Told(f"Step {best.step} is the best so far: {best.metric} {best.value:.4f}.")
        case "stopped_early":
            return _Told(f"Stopped early at step {event.stopped_early.step}: validation no longer improved.")
        case "rollback":
            lost = event.rollback
            return _Told(
                f"The training was lost at step {lost.step} and goes on from step {lost.to_step}, "
                f"learning rate {lost.learning_rate:.2e}.",
                level="warn",
            )
        case "loss_spike":
            return _Told(f"The loss of step {event.loss_spike.step} stood out.", level="warn")
        case "expert_collapse":
            return _Told("One expert of a layer gets almost every token.", level="warn")
        case "forgetting":
            return _Told("The model does worse on the general rows than before.", level="warn")
        case "attempt_ended":
            return _attempt(event)
        case "sample":
            sample = event.sample
            return _Told(f"Step {sample.step} answers {sample.answer!r} to {sample.prompt!r}.")
        case "preflight":
            return _Told(f"The longest row has {event.preflight.longest_row_tokens} tokens and was tried.")
        case "gap":
            return _Told(f"{event.gap.dropped} events were not kept.", level="warn")
        case _:  # lines of a log, devices, downloads: of interest to whoever runs the fleet
            return None


def _state(event: JobEvent) -> _Told:
    state = JobState.Name(event.state_changed.to).removeprefix("JOB_STATE_")
    why = f": {event.state_changed.reason}" if event.state_changed.reason else ""
    is_error = event.state_changed.to == JobState.JOB_STATE_FAILED
    return _Told(f"The job is {state.lower().replace('_', ' ')}{why}", level="error" if is_error else "info")


def _attempt(event: JobEvent) -> _Told | None:
    ended = event.attempt_ended
    if ended.outcome in (AttemptOutcome.ATTEMPT_OUTCOME_FAILED, AttemptOutcome.ATTEMPT_OUTCOME_LOST):
        return _Told(f"Attempt {event.attempt} ended: {ended.error.message}", level="warn")
    return None


def _metrics(metrics: Metrics) -> _Told | None:
    numbers = train_metrics(metrics)
    if not numbers:
        return None
    shown = ", ".join(
        f"{label}={numbers[name]:.4f}"
        for label, name in (("training loss", "train_loss"), ("validation loss", "valid_loss"))
        if name in numbers
    )
    data = {"step": metrics.step, "total_steps": metrics.total_steps, **numbers}
    return _Told(f"Step {metrics.step}/{metrics.total_steps}: {shown}", data=data, kind="metrics")

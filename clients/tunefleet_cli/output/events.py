"""Events as plain lines, for pipes and logs."""

from __future__ import annotations

from tunefleet.job.v1.event_pb2 import (
    BestCheckpoint,
    DeviceRelease,
    Download,
    ExpertCollapse,
    Forgetting,
    JobEvent,
    LossSpike,
    Metrics,
    Preflight,
    Rollback,
    StoppedEarly,
)
from tunefleet_cli.output.quantities import (
    bytes_text,
    count_text,
    duration_text,
    number_text,
    percent_text,
    rate_text,
)
from tunefleet_cli.run_progress import RunProgress, outcome_name, phase_name, state_name

__all__ = [
    "best_text",
    "collapse_text",
    "download_text",
    "event_lines",
    "forgetting_text",
    "metrics_line",
    "preflight_text",
    "rollback_text",
    "spike_text",
    "stopped_text",
]

_OF_METHOD = (("rewards/margins", "margin"), ("reward", "reward"), ("kl", "kl"))
"""Figures by which methods other than SFT are followed, and what they are called in a line."""


def event_lines(event: JobEvent, progress: RunProgress) -> list[str]:
    """Return an event as lines for people who read a log.

    Args:
        event: The event.
        progress: The run as it stands after it.
    """
    match event.WhichOneof("payload"):
        case "state_changed":
            change = event.state_changed
            return [f"state {state_name(change.to)}" + (f": {change.reason}" if change.reason else "")]
        case "phase_changed":
            return [f"phase {phase_name(event.phase_changed.phase)}"]
        case "metrics":
            return [metrics_line(event.metrics, eta_seconds=progress.eta_seconds)]
        case "log_lines":
            return [f"log {line}" for line in event.log_lines.lines]
        case "checkpoint_committed":
            return [f"checkpoint step {event.checkpoint_committed.checkpoint.step} committed"]
        case "attempt_started":
            return [_attempt_started(event)]
        case "attempt_ended":
            outcome = outcome_name(event.attempt_ended.outcome)
            reason = event.attempt_ended.error.message
            return [f"attempt {event.attempt} {outcome}" + (f": {reason}" if reason else "")]
        case "device_released":
            release = event.device_released
            how = DeviceRelease.Name(release.device_release).removeprefix("DEVICE_RELEASE_")
            return [f"devices free after {duration_text(release.seconds)} ({how})"]
        case "notice":
            hint = f" {event.notice.hint}" if event.notice.hint else ""
            return [f"{event.notice.severity or 'info'} {event.notice.text}{hint}"]
        case "gap":
            return [f"gap {event.gap.dropped} events were lost to a bound"]
        case "sample":
            return [f"sample step {event.sample.step}: {event.sample.prompt!r} -> {event.sample.answer!r}"]
        case "preflight":
            return [f"preflight {preflight_text(event.preflight)}"]
        case "download":
            return [f"download {download_text(event.download)}"]
        case "best_checkpoint":
            return [f"best {best_text(event.best_checkpoint)}"]
        case "stopped_early":
            return [f"stopped {stopped_text(event.stopped_early)}"]
        case "rollback":
            return [f"rollback {rollback_text(event.rollback)}"]
        case "loss_spike":
            return [f"spike {spike_text(event.loss_spike)}"]
        case "expert_collapse":
            return [f"experts {collapse_text(event.expert_collapse)}"]
        case "forgetting":
            return [f"forgetting {forgetting_text(event.forgetting)}"]
        case "checkpoint_saved":
            return [f"checkpoint step {event.checkpoint_saved.step} saved on the trainer"]
        case None:
            return []


def preflight_text(preflight: Preflight) -> str:
    """Return what a run tried before its first epoch, in one line."""
    size = f" ({bytes_text(preflight.checkpoint_bytes)})" if preflight.checkpoint_bytes else ""
    parts = [
        f"longest row {preflight.longest_row_tokens:,} tokens",
        f"step {duration_text(preflight.step_seconds)}",
        # A backend that cannot measure its memory leaves it at 0: unknown, not none.
        f"peak {bytes_text(preflight.peak_memory_bytes)}" if preflight.peak_memory_bytes else "",
        f"save and re-load {duration_text(preflight.save_seconds)}{size}",
    ]
    return ", ".join(part for part in parts if part)


def download_text(download: Download) -> str:
    """Return how far the download of a base is, in one line."""
    if not download.total_bytes:
        return f"{download.what} {bytes_text(download.done_bytes)}"
    share = percent_text(download.done_bytes, download.total_bytes)
    done, total = bytes_text(download.done_bytes), bytes_text(download.total_bytes)
    return f"{download.what} {done} of {total} {share}"


def best_text(best: BestCheckpoint) -> str:
    """Return which state is the best, in one line."""
    return f"step {best.step:,}, {best.metric.replace('_', ' ')} {number_text(best.value)}"


def stopped_text(stopped: StoppedEarly) -> str:
    """Return why a run stopped before its last step, in one line."""
    times = "validation was" if stopped.patience == 1 else f"{stopped.patience} validations were"
    return f"early at step {stopped.step:,}: {times} no better than {best_text(stopped.best)}"


def rollback_text(rollback: Rollback) -> str:
    """Return how a lost run goes on, in one line."""
    where = f"step {rollback.to_step:,}" if rollback.to_step else "the start"
    lost = f"lost at step {rollback.step:,} (loss {number_text(rollback.loss)})"
    rate = rate_text(rollback.learning_rate)
    return f"{rollback.rollbacks} of {rollback.most}: {lost}, on from {where} at the rate {rate}"


def spike_text(spike: LossSpike) -> str:
    """Return which step stood out and of which rows it was, in one line."""
    text = f"at step {spike.step:,}: loss {number_text(spike.loss)}, usually {number_text(spike.usual)}"
    places: dict[str, list[str]] = {}
    for row in spike.rows:
        places.setdefault(row.path.rsplit("/", 1)[-1], []).append(str(row.line))
    files = "; ".join(f"{name}:{','.join(lines)}" for name, lines in places.items())
    return f"{text}; its rows {files}" if files else text


def collapse_text(collapse: ExpertCollapse) -> str:
    """Return how a router collapsed, in one line."""
    return (
        f"at step {collapse.step:,}: one expert of a layer gets {collapse.load:.0%} of the tokens, "
        f"an even share is {collapse.even:.0%}"
    )


def forgetting_text(forgetting: Forgetting) -> str:
    """Return how much of what was known is lost, and the remedy, in one line."""
    drop = (forgetting.before - forgetting.now) * 100
    return (
        f"at step {forgetting.step:,}: {drop:.1f} points lost on {forgetting.rows:,} general rows "
        f"(± {forgetting.standard_error * 100:.1f}); mix 10 % general rows into train.data.train"
    )


def metrics_line(metrics: Metrics, *, eta_seconds: float | None) -> str:
    """Return the numbers of a step in one line."""
    share = percent_text(metrics.step, metrics.total_steps)
    parts = [f"step {metrics.step}/{metrics.total_steps} {share}"]
    if metrics.HasField("loss"):
        parts.append(f"loss {number_text(metrics.loss)}")
    if metrics.HasField("validation_loss"):
        parts.append(f"validation {number_text(metrics.validation_loss)}")
    for name, word in _OF_METHOD:
        if name in metrics.extra:
            parts.append(f"{word} {number_text(metrics.extra[name])}")
    if metrics.HasField("learning_rate"):
        parts.append(f"rate {rate_text(metrics.learning_rate)}")
    if metrics.HasField("tokens_per_second"):
        parts.append(f"{count_text(metrics.tokens_per_second)} tok/s")
    if metrics.HasField("mfu"):
        parts.append(f"MFU {metrics.mfu:.0%}")
    if metrics.HasField("peak_memory_bytes"):
        parts.append(bytes_text(metrics.peak_memory_bytes))
    if eta_seconds is not None and metrics.step < metrics.total_steps:
        parts.append(f"{duration_text(eta_seconds)} left")
    return "  ".join(parts)


def _attempt_started(event: JobEvent) -> str:
    started = event.attempt_started
    text = f"attempt {event.attempt} on {started.service.rsplit('/', 1)[-1]}"
    if started.HasField("resume_from"):
        text += f", from step {started.resume_from.step}"
    return text

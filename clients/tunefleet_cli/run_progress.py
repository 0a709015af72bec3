"""Where a run stands, gathered from a watch: the model behind every live view.

Free of rich and of the clock: the same changes always give the same picture.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

from tunefleet.job.v1.event_pb2 import (
    AttemptOutcome,
    BestCheckpoint,
    Download,
    ExpertCollapse,
    Forgetting,
    JobEvent,
    LossSpike,
    Metrics,
    Notice,
    Preflight,
    Rollback,
    RunPhase,
    Sample,
    StoppedEarly,
)
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import CheckpointRef, JobState
from tunefleet_client import JobChange

__all__ = ["EndedAttempt", "RunProgress", "outcome_name", "phase_name", "state_name"]

_ETA_WINDOW = 40
_LOG_LINES = 60
_SAMPLES = 4


def state_name(state: JobState.ValueType) -> str:
    """Return a job state without its prefix, such as `RUNNING`."""
    return JobState.Name(state).removeprefix("JOB_STATE_")


def phase_name(phase: RunPhase.ValueType) -> str:
    """Return a phase as people say it, such as `loading`."""
    return RunPhase.Name(phase).removeprefix("RUN_PHASE_").lower()


def outcome_name(outcome: AttemptOutcome.ValueType) -> str:
    """Return how an attempt ended without its prefix, such as `LOST`."""
    return AttemptOutcome.Name(outcome).removeprefix("ATTEMPT_OUTCOME_")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedAttempt:
    """An attempt that is over: its number, how it ended and why."""

    attempt: int
    outcome: str
    reason: str


@dataclass(slots=True, kw_only=True)
class RunProgress:
    """A job as far as its changes were seen.

    Attributes:
        losses: Step and training loss of every report, of the newest line of attempts.
        validation_losses: Step and validation loss.
        speeds: Tokens per second of every report.
        learning_rates: Of every report.
        phases: Those that were entered in this attempt.
        attempts: Those that ended, oldest first.
        samples: The newest answers to fixed prompts.
        best: The best state by validation so far.
        stopped_early: Why it ended before its last step.
        rollback: The newest return to an earlier state.
        spike: The newest step whose loss stood out.
        collapse: That its routers collapsed.
        forgetting: That it loses what it knew.
        away_seconds: How long the coordinator has not answered; None while it does.
        came_back_after_seconds: How long it was away the last time; None if it never was.
    """

    job: Job = field(default_factory=Job)
    state: JobState.ValueType = JobState.JOB_STATE_UNSPECIFIED
    phase: RunPhase.ValueType = RunPhase.RUN_PHASE_UNSPECIFIED
    phases: set[RunPhase.ValueType] = field(default_factory=set[RunPhase.ValueType])
    attempt: int = 0
    service: str = ""
    attempts: list[EndedAttempt] = field(default_factory=list[EndedAttempt])
    metrics: Metrics = field(default_factory=Metrics)
    losses: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    validation_losses: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    learning_rates: list[float] = field(default_factory=list[float])
    speeds: list[float] = field(default_factory=list[float])
    checkpoint: CheckpointRef | None = None
    log_lines: deque[str] = field(default_factory=lambda: deque[str](maxlen=_LOG_LINES))
    notices: list[Notice] = field(default_factory=list[Notice])
    preflight: Preflight | None = None
    download: Download | None = None
    samples: deque[Sample] = field(default_factory=lambda: deque[Sample](maxlen=_SAMPLES))
    best: BestCheckpoint | None = None
    stopped_early: StoppedEarly | None = None
    rollback: Rollback | None = None
    spike: LossSpike | None = None
    collapse: ExpertCollapse | None = None
    forgetting: Forgetting | None = None
    gaps: int = 0
    away_seconds: float | None = None
    came_back_after_seconds: float | None = None
    _step_times: deque[tuple[int, float]] = field(
        default_factory=lambda: deque[tuple[int, float]](maxlen=_ETA_WINDOW)
    )

    def apply(self, change: JobChange) -> None:
        """Take in a change."""
        if change.snapshot is not None:
            self._snapshot(change.snapshot)
        if change.event is not None:
            self._event(change.event)

    @property
    def is_working(self) -> bool:
        """Whether a process of it is at work."""
        return self.state in (
            JobState.JOB_STATE_PREPARING,
            JobState.JOB_STATE_RUNNING,
            JobState.JOB_STATE_PAUSING,
        )

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to the last step at the pace of the latest reports; None if unknown."""
        if len(self._step_times) < 2 or self.state != JobState.JOB_STATE_RUNNING:
            return None
        (first_step, first_time), (last_step, last_time) = self._step_times[0], self._step_times[-1]
        if last_step <= first_step or last_time <= first_time:
            return None
        left = self.metrics.total_steps - last_step
        return max(0.0, left * (last_time - first_time) / (last_step - first_step))

    @property
    def seconds_per_step(self) -> float | None:
        """The median pace of the latest reports."""
        paces = sorted(
            (later - earlier) / (step - before)
            for (before, earlier), (step, later) in pairwise(self._step_times)
            if step > before and later > earlier
        )
        return paces[len(paces) // 2] if paces else None

    def _snapshot(self, job: Job) -> None:
        self.job, self.state = job, job.state
        self.attempt, self.service = job.attempt, job.service
        if job.HasField("checkpoint"):
            self.checkpoint = job.checkpoint
        if job.HasField("progress") and job.progress.step >= self.metrics.step:
            self.metrics.MergeFrom(job.progress)

    def _event(self, event: JobEvent) -> None:
        match event.WhichOneof("payload"):
            case "state_changed":
                self.state = event.state_changed.to
            case "phase_changed":
                self.phase = event.phase_changed.phase
                self.phases.add(self.phase)
            case "attempt_started":
                self._attempt(event)
            case "attempt_ended":
                self._attempt_ended(event)
            case "metrics":
                self._metrics(event.metrics, event.create_time.seconds + event.create_time.nanos / 1e9)
            case "log_lines":
                self.log_lines.extend(event.log_lines.lines)
            case "checkpoint_committed":
                self.checkpoint = event.checkpoint_committed.checkpoint
            case "notice":
                self.notices.append(event.notice)
            case "gap":
                self.gaps += event.gap.dropped
            case "preflight":
                self.preflight = event.preflight
            case "download":
                self.download = event.download
            case "best_checkpoint":
                self.best = event.best_checkpoint
            case "stopped_early":
                self.stopped_early = event.stopped_early
            case "rollback":
                self.rollback = event.rollback
                self._go_back(event.rollback.to_step)
            case "loss_spike":
                self.spike = event.loss_spike
            case "expert_collapse":
                self.collapse = event.expert_collapse
            case "forgetting":
                self.forgetting = event.forgetting
            case "sample":
                self.samples.append(event.sample)
            case _:
                pass

    def _attempt(self, event: JobEvent) -> None:
        """Begin a new attempt: what came after its checkpoint did not happen to it."""
        started = event.attempt_started
        self.attempt, self.service = event.attempt, started.service
        self.phase = RunPhase.RUN_PHASE_UNSPECIFIED
        self.phases.clear()
        self._go_back(started.resume_from.step)

    def _go_back(self, step: int) -> None:
        """Forget what was done after a step: the run goes on from there."""
        self.losses = [point for point in self.losses if point[0] <= step]
        self.validation_losses = [point for point in self.validation_losses if point[0] <= step]
        self.metrics.step = step
        if self.best is not None and self.best.step > step:
            self.best = None
        self._step_times.clear()

    def _attempt_ended(self, event: JobEvent) -> None:
        ended = event.attempt_ended
        self.attempts.append(
            EndedAttempt(
                attempt=event.attempt, outcome=outcome_name(ended.outcome), reason=ended.error.message
            )
        )

    def _metrics(self, metrics: Metrics, moment: float) -> None:
        self.metrics.MergeFrom(metrics)
        self._step_times.append((metrics.step, moment))
        if metrics.HasField("loss"):
            self.losses.append((metrics.step, metrics.loss))
        if metrics.HasField("validation_loss"):
            self.validation_losses.append((metrics.step, metrics.validation_loss))
        if metrics.HasField("learning_rate"):
            self.learning_rates.append(metrics.learning_rate)
        if metrics.HasField("tokens_per_second"):
            self.speeds.append(metrics.tokens_per_second)

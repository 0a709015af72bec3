"""What is known of a training run, gathered from its events: the input of a diagnosis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tunefleet.job.v1.event_pb2 import (
    ExpertCollapse,
    Forgetting,
    JobEvent,
    LossSpike,
    Metrics,
    Rollback,
    StoppedEarly,
)
from tunefleet_core.errors import Reason, error_from_status

__all__ = ["RunHistory"]


@dataclass(slots=True, kw_only=True)
class RunHistory:
    """The line of attempts that led to where a run stands; what was undone is left out.

    Attributes:
        losses: Step and training loss, in order.
        validation_losses: Step and validation loss, in order.
        grad_norms: Of every step that told one.
        epochs: Step and epochs done.
        total_steps: Steps that were planned.
        is_lost: Whether it was given up as diverged.
    """

    losses: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    validation_losses: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    grad_norms: list[float] = field(default_factory=list[float])
    epochs: dict[int, float] = field(default_factory=dict[int, float])
    spikes: list[LossSpike] = field(default_factory=list[LossSpike])
    rollbacks: list[Rollback] = field(default_factory=list[Rollback])
    collapse: ExpertCollapse | None = None
    forgetting: Forgetting | None = None
    stopped_early: StoppedEarly | None = None
    total_steps: int = 0
    is_lost: bool = False

    @classmethod
    def of(cls, events: Iterable[JobEvent]) -> RunHistory:
        """Gather a history from a job's events, in their order."""
        history = cls()
        for event in events:
            history.add(event)
        return history

    def add(self, event: JobEvent) -> None:
        """Take in one more event."""
        match event.WhichOneof("payload"):
            case "metrics":
                self._metrics(event.metrics)
            case "attempt_started":
                self._go_back(event.attempt_started.resume_from.step)
                self.is_lost = False
            case "attempt_ended" if event.attempt_ended.HasField("error"):
                error = error_from_status(event.attempt_ended.error)
                self.is_lost = error.reason is Reason.TRAINING_DIVERGED
            case "rollback":
                self.rollbacks.append(event.rollback)
                self._go_back(event.rollback.to_step)
            case "loss_spike":
                self.spikes.append(event.loss_spike)
            case "expert_collapse":
                self.collapse = event.expert_collapse
            case "forgetting":
                self.forgetting = event.forgetting
            case "stopped_early":
                self.stopped_early = event.stopped_early
            case _:
                pass

    def _metrics(self, metrics: Metrics) -> None:
        self.total_steps = metrics.total_steps or self.total_steps
        if metrics.HasField("epoch"):
            self.epochs[metrics.step] = metrics.epoch
        if metrics.HasField("loss"):
            self.losses.append((metrics.step, metrics.loss))
        if metrics.HasField("validation_loss"):
            self.validation_losses.append((metrics.step, metrics.validation_loss))
        if metrics.HasField("grad_norm"):
            self.grad_norms.append(metrics.grad_norm)

    def _go_back(self, step: int) -> None:
        self.losses = [item for item in self.losses if item[0] <= step]
        self.validation_losses = [item for item in self.validation_losses if item[0] <= step]
        self.spikes = [item for item in self.spikes if item.step <= step]

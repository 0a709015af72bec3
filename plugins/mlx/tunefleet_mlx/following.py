"""Drive a trainer to its end and tell the run's context what happens: metrics, checkpoints, stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.event_pb2 import JobEvent, LossSpike, Metrics, RowPlace, RunPhase
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.rendering import RenderedRow
from tunefleet_core.run_life import RunLife, Samples
from tunefleet_mlx.answering import likeliest_answer
from tunefleet_mlx.memory import peak_memory_bytes
from tunefleet_mlx.trainer import StepResult, Trainer

__all__ = ["Follower"]


@dataclass(slots=True, kw_only=True)
class Follower:
    """Takes the steps of a run.

    Attributes:
        context: The run.
        trainer: The trainer, at its first step or resumed.
        life: What the run decides.
        validation: Rows to validate on; may be empty.
        samples: The prompts that are answered while it trains.
        write_checkpoint: Writes a checkpoint into an empty folder.
    """

    context: RunContext
    trainer: Trainer
    life: RunLife
    validation: Sequence[RenderedRow]
    samples: Samples
    write_checkpoint: Callable[[Path], None]
    _saved: float = field(default_factory=time.monotonic)

    def follow(self) -> None:
        """Take every step that is left, or until validation no longer improves.

        Raises:
            RunStopped: the run was asked to stop; with a checkpoint if it was asked to save.
            DivergedError: the training is lost.
        """
        context, trainer = self.context, self.trainer
        context.enter(RunPhase.RUN_PHASE_WORKING)
        most_seconds = context.order.resolved_spec.spec.train.optim.max_seconds
        begun = self._saved = time.monotonic()
        if not trainer.step:
            self._answer()
        is_over = self.life.is_over  # early, at the very step that was saved
        while not (trainer.is_done or is_over):
            clock, tokens = time.monotonic(), trainer.tokens
            result = trainer.take_step()
            self._stop_if_cancelled()
            self._tell(result, (trainer.tokens - tokens) / max(time.monotonic() - clock, 1e-9))
            is_over = self._validate()
            self._answer()
            is_late = bool(most_seconds) and time.monotonic() - begun > most_seconds
            stops = context.stop_requested() == StopMode.STOP_MODE_SAVE
            if stops or is_late or is_over or trainer.is_done or self._is_save_due():
                self._save(stops=stops)
            if context.stop_requested() == StopMode.STOP_MODE_SAVE and stops:
                raise RunStopped(f"saved at step {trainer.step}")
            if is_late:
                return

    def _tell(self, result: StepResult, tokens_per_second: float) -> None:
        trainer = self.trainer
        metrics = self._metrics()
        metrics.loss = result.loss
        metrics.learning_rate = result.learning_rate
        metrics.grad_norm = result.grad_norm
        metrics.tokens = trainer.tokens
        metrics.tokens_per_second = tokens_per_second
        metrics.peak_memory_bytes = peak_memory_bytes()
        metrics.extra["token_accuracy"] = result.token_accuracy
        self.context.metrics(metrics)
        usual = self.life.judge(trainer.step, result.loss, result.grad_norm)
        if usual is not None:
            rows = [RowPlace(path=path, line=line) for path, line in trainer.places(trainer.step - 1)]
            spike = LossSpike(step=trainer.step, loss=result.loss, usual=usual, rows=rows)
            self.context.tell(JobEvent(loss_spike=spike))

    def _validate(self) -> bool:
        """Validate where it is due; return whether the run ends here."""
        trainer = self.trainer
        if not self.validation or trainer.step % trainer.plan.validate_every:
            return False
        loss, accuracy = trainer.validate(self.validation, before_batch=self._stop_if_cancelled)
        metrics = self._metrics()
        metrics.validation_loss = loss
        metrics.extra["validation_token_accuracy"] = accuracy
        self.context.metrics(metrics)
        numbers = {"validation_loss": loss, "token_accuracy": accuracy}
        is_over = self.life.validated(trainer.step, numbers, trainer.write_weights)
        if is_over and not trainer.is_done:
            self.life.stopped_early(trainer.step)
        return is_over

    def _answer(self) -> None:
        if self.samples.is_due(self.trainer.step, self.trainer.plan.total_steps):
            self.samples.tell(self.trainer.step, self._likeliest)

    def _likeliest(self, prompt: list[int], most_tokens: int, stops: Any) -> list[int]:
        self._stop_if_cancelled()
        return likeliest_answer(self.trainer.model, prompt, most_tokens=most_tokens, stops=stops)

    def _is_save_due(self) -> bool:
        trainer = self.trainer
        policy = self.context.order.resolved_spec.spec.train.checkpoint
        seconds = policy.every_minutes * 60
        is_late = policy.HasField("every_minutes") and time.monotonic() - self._saved >= seconds
        return is_late or trainer.step % trainer.plan.save_every == 0 or self.context.save_requested()

    def _save(self, *, stops: bool) -> None:
        if not (stops or self.life.may_save(self.trainer.step)):
            return
        with self.context.checkpoint(self.trainer.step) as folder:
            self.write_checkpoint(folder)
        self._saved = time.monotonic()
        self._stop_if_cancelled()

    def _metrics(self) -> Metrics:
        trainer = self.trainer
        return Metrics(step=trainer.step, total_steps=trainer.plan.total_steps, epoch=trainer.epoch)

    def _stop_if_cancelled(self) -> None:
        if self.context.stop_requested() == StopMode.STOP_MODE_CANCEL:
            raise RunStopped("cancelled")

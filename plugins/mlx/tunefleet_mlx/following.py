"""Drive a trainer to its end and tell the run's context what happens: metrics, checkpoints, stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.event_pb2 import Metrics, RunPhase
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import RenderedRow
from tunefleet_mlx.memory import peak_memory_bytes
from tunefleet_mlx.trainer import StepResult, Trainer

__all__ = ["follow"]


def follow(
    context: RunContext,
    trainer: Trainer,
    *,
    validation: Sequence[RenderedRow],
    write_checkpoint: Callable[[Path], None],
) -> None:
    """Take every step that is left.

    Args:
        context: The run.
        trainer: The trainer, at its first step or resumed.
        validation: Rows to validate on; may be empty.
        write_checkpoint: Writes a checkpoint into an empty folder.

    Raises:
        RunStopped: the run was asked to stop; with a checkpoint if it was asked to save.
        TunefleetError: BACKEND_FAILED if the loss is no number.
    """
    context.enter(RunPhase.RUN_PHASE_WORKING)
    most_seconds = context.order.resolved_spec.spec.train.optim.max_seconds
    begun = time.monotonic()
    plan = trainer.plan
    while not trainer.is_done:
        clock, tokens = time.monotonic(), trainer.tokens
        result = trainer.take_step()
        _stop_if_cancelled(context)
        _tell(context, trainer, result, (trainer.tokens - tokens) / max(time.monotonic() - clock, 1e-9))
        if validation and trainer.step % plan.validate_every == 0:
            _validate(context, trainer, validation)
        is_late = bool(most_seconds) and time.monotonic() - begun > most_seconds
        stops = context.stop_requested() == StopMode.STOP_MODE_SAVE
        is_due = trainer.step % plan.save_every == 0 or context.save_requested()
        if stops or is_late or trainer.is_done or is_due:
            with context.checkpoint(trainer.step) as folder:
                write_checkpoint(folder)
            _stop_if_cancelled(context)
        if context.stop_requested() == StopMode.STOP_MODE_SAVE and stops:
            raise RunStopped(f"saved at step {trainer.step}")
        if is_late:
            return


def _tell(context: RunContext, trainer: Trainer, result: StepResult, tokens_per_second: float) -> None:
    if not math.isfinite(result.loss):
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            f"The loss at step {trainer.step} is {result.loss}: the training diverged.",
            hint="Halve train.optim.learning_rate and submit the job again.",
            metadata={"step": str(trainer.step)},
        )
    metrics = _metrics(trainer)
    metrics.loss = result.loss
    metrics.learning_rate = result.learning_rate
    metrics.grad_norm = result.grad_norm
    metrics.tokens = trainer.tokens
    metrics.tokens_per_second = tokens_per_second
    metrics.peak_memory_bytes = peak_memory_bytes()
    metrics.extra["token_accuracy"] = result.token_accuracy
    context.metrics(metrics)


def _validate(context: RunContext, trainer: Trainer, rows: Sequence[RenderedRow]) -> None:
    metrics = _metrics(trainer)
    metrics.validation_loss = trainer.validate(rows, before_batch=lambda: _stop_if_cancelled(context))
    context.metrics(metrics)


def _metrics(trainer: Trainer) -> Metrics:
    return Metrics(step=trainer.step, total_steps=trainer.plan.total_steps, epoch=trainer.epoch)


def _stop_if_cancelled(context: RunContext) -> None:
    if context.stop_requested() == StopMode.STOP_MODE_CANCEL:
        raise RunStopped("cancelled")

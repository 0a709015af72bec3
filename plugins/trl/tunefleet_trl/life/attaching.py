"""Tie everything that follows a run to its trainer, whatever the method."""

from __future__ import annotations

from typing import Any

from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import Renderer, general_rows
from tunefleet_core.run_life import RunLife
from tunefleet_trl.life.general_rows import GeneralRows
from tunefleet_trl.life.keeping_best import KeepingBest
from tunefleet_trl.life.sampling import Sampling
from tunefleet_trl.life.timed_saving import TimedSaving
from tunefleet_trl.loading import Hardware

__all__ = ["attach_life"]


def attach_life(context: RunContext, trainer: Any, renderer: Renderer, hardware: Hardware) -> None:
    """Make a trainer keep the best state, save by time, answer prompts, and tell how busy its device is.

    Args:
        context: The run.
        trainer: A RunTrainer that has not begun.
        renderer: Tokenizer and template of the run.
        hardware: What it computes on.
    """
    train = context.order.resolved_spec.spec.train
    trainer.watch_utilisation(hardware)
    trainer.life = life = RunLife(context)
    trainer.args.learning_rate *= life.rate_factor  # where a checkpoint is loaded, its own rate is scaled
    trainer.args.max_grad_norm = life.recovery.max_grad_norm(trainer.args.max_grad_norm)
    if life.best is not None:
        trainer.add_callback(KeepingBest(trainer, life))
    if train.checkpoint.HasField("every_minutes"):
        trainer.add_callback(TimedSaving(context, train.checkpoint.every_minutes))
    if train.data.general:
        trainer.add_callback(GeneralRows(context, trainer, life, general_rows(context, renderer)))
    if train.HasField("samples"):
        trainer.add_callback(Sampling(context, trainer, renderer))

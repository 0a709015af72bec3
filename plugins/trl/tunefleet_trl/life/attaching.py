"""Tie everything that follows a run to its trainer, whatever the method."""

from __future__ import annotations

from typing import Any

from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import Renderer
from tunefleet_trl.life.sampling import Sampling
from tunefleet_trl.loading import Hardware

__all__ = ["attach_life"]


def attach_life(context: RunContext, trainer: Any, renderer: Renderer, hardware: Hardware) -> None:
    """Make a trainer answer the run's prompts and tell how much of its device it uses.

    Args:
        context: The run.
        trainer: A RunTrainer that has not begun.
        renderer: Tokenizer and template of the run.
        hardware: What it computes on.
    """
    trainer.watch_utilisation(hardware)
    if context.order.resolved_spec.spec.train.HasField("samples"):
        trainer.add_callback(Sampling(context, trainer, renderer))

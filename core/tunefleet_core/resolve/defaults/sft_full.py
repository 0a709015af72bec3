"""Supervised fine-tuning of every weight."""

from __future__ import annotations

from tunefleet_core.resolve.defaults.filling import Defaults
from tunefleet_core.resolve.defaults.sft_lora import fill_epochs

__all__ = ["fill"]


def fill(defaults: Defaults, *, has_validation: bool) -> None:
    """Fill learning rate and epochs."""
    defaults.fill("train.optim.learning_rate", 1e-5, "full fine-tuning moves every weight, so by small steps")
    fill_epochs(defaults, has_validation=has_validation)

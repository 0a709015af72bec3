"""The life of a run: how often it is looked at. What depends on its steps is filled once they are known."""

from __future__ import annotations

from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet_core.resolve.defaults.filling import Defaults

__all__ = ["fill_life"]

_LOOKS = 10
"""Validations and samples of a run: enough to see a turning point, few enough not to rule the time."""
_ANSWER_TOKENS = 64


def fill_life(defaults: Defaults, train: TrainSpec, *, total_steps: int) -> None:
    """Fill how often a run validates and answers its prompts.

    Args:
        defaults: Where the decisions go.
        train: The spec, changed in place.
        total_steps: Optimiser steps of the run; 0 if unknown.
    """
    every, why = max(1, total_steps // _LOOKS), f"at least {_LOOKS} times in {total_steps} steps"
    if train.data.validation and total_steps:
        defaults.fill("train.validate_every_steps", every, why)
    if train.HasField("samples"):
        if total_steps:
            defaults.fill("train.samples.every_steps", every, why)
        defaults.fill("train.samples.max_new_tokens", _ANSWER_TOKENS, "enough to see whether it learns")

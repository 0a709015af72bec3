"""Keep the best state by validation, stop when there is no better one, and make it the result."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from tunefleet_core.backend import RunContext
from tunefleet_core.run_life import RunLife

__all__ = ["KeepingBest", "restore_best"]

_NAMES = {"validation_loss": "eval_loss", "token_accuracy": "eval_mean_token_accuracy"}
"""What the library calls what a state can be the best by."""


class KeepingBest(TrainerCallback):
    """Judges every validation."""

    def __init__(self, trainer: Any, life: RunLife) -> None:
        self._trainer = trainer
        self._life = life

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        found = metrics or {}
        numbers = {name: found[theirs] for name, theirs in _NAMES.items() if theirs in found}
        write = self._trainer.write_weights
        is_over = self._life.validated(state.global_step, numbers, write, take_part=partial(write, None))
        if is_over and state.global_step < state.max_steps:
            control.should_training_stop = True
            self._life.stopped_early(state.global_step)


def restore_best(context: RunContext, trainer: Any) -> None:
    """Give a trainer that has finished the best weights of the run, and tell which they are."""
    life: RunLife = trainer.life
    trainer.state.global_step = life.take_best(trainer.state.global_step, trainer.load_weights_of)

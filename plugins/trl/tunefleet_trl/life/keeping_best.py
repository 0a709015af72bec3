"""Keep the best state by validation, stop when there is no better one, and make it the result."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from tunefleet.job.v1.event_pb2 import BestCheckpoint, JobEvent, StoppedEarly
from tunefleet_core.backend import RunContext
from tunefleet_core.run_health import BestSoFar
from tunefleet_trl.life.run_life import RunLife

__all__ = ["KeepingBest", "restore_best"]

_NAMES = {"validation_loss": "eval_loss", "token_accuracy": "eval_mean_token_accuracy"}
"""What the library calls what a state can be the best by."""
_WORDS = {"validation_loss": "validation loss", "token_accuracy": "token accuracy on the validation rows"}


class KeepingBest(TrainerCallback):
    """Judges every validation."""

    def __init__(self, context: RunContext, trainer: Any, life: RunLife) -> None:
        self._context = context
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
        before, life = self._life.best, self._life
        assert before is not None  # else nothing is judged
        value = (metrics or {}).get(_NAMES[before.metric], float("nan"))
        life.best = best = before.after(state.global_step, value)
        if best.step == state.global_step:
            life.keep_best(self._trainer.model)
            self._context.tell(JobEvent(best_checkpoint=_as_event(best)))
        elif life.is_over and state.global_step < state.max_steps:
            control.should_training_stop = True
            stopped = StoppedEarly(step=state.global_step, best=_as_event(best), patience=life.patience)
            self._context.tell(JobEvent(stopped_early=stopped))


def restore_best(context: RunContext, trainer: Any) -> None:
    """Give a trainer that has finished the best weights of the run, and tell which they are."""
    life: RunLife = trainer.life
    last = trainer.state.global_step
    folder = life.best_weights(last)
    if folder is None or life.best is None:
        return
    trainer.load_weights_of(folder)
    trainer.state.global_step = life.best.step
    context.notice(
        f"The result is the state of step {life.best.step}, the best by {_WORDS[life.best.metric]} "
        f"({life.best.value:.4g}), not that of the last step, {last}.",
        severity="info",
    )


def _as_event(best: BestSoFar) -> BestCheckpoint:
    return BestCheckpoint(step=best.step, metric=best.metric, value=best.value)

"""Answers to fixed prompts while a run trains. Weights and random state stay as they are."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import Renderer
from tunefleet_core.run_life import Samples
from tunefleet_trl.answering import likeliest_answer

__all__ = ["Sampling"]


class Sampling(TrainerCallback):
    """Answers before the first step and every so many steps.

    Raises:
        TunefleetError: TEMPLATE_MISMATCH if the template does not take a prompt.
    """

    def __init__(self, context: RunContext, trainer: Any, renderer: Renderer) -> None:
        self._trainer = trainer
        self._samples = Samples(context, renderer)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.global_step:
            self._tell(state)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._samples.is_due(state.global_step, state.max_steps):
            self._tell(state)

    def _tell(self, state: TrainerState) -> None:
        begun = time.monotonic()
        self._samples.tell(state.global_step, self._answer)
        self._trainer.leave_aside(time.monotonic() - begun)

    def _answer(self, prompt: list[int], most_tokens: int, stops: Collection[int]) -> list[int]:
        return likeliest_answer(self._trainer.model, prompt, most_tokens=most_tokens, stops=stops)

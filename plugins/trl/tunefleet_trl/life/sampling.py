"""Answers to fixed prompts while a run trains."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import Renderer, TemplateRefusedError
from tunefleet_trl.answering import likeliest_answer

__all__ = ["Sampling"]

_LOOKS = 10
_ANSWER_TOKENS = 64


class Sampling(TrainerCallback):
    """Answers before the first step and every so many steps. Weights and random state stay as they are.

    Raises:
        TunefleetError: TEMPLATE_MISMATCH if the template does not take a prompt.
    """

    def __init__(self, context: RunContext, trainer: Any, renderer: Renderer) -> None:
        self._context = context
        self._trainer = trainer
        self._renderer = renderer
        policy = context.order.resolved_spec.spec.train.samples
        self._every = policy.every_steps
        self._most_tokens = policy.max_new_tokens or _ANSWER_TOKENS
        self._prompts = [(text, self._rendered(text)) for text in policy.prompts]

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._every = self._every or max(1, state.max_steps // _LOOKS)
        if not state.global_step:
            self._answer(0)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self._every == 0:
            self._answer(state.global_step)

    def _answer(self, step: int) -> None:
        begun = time.monotonic()
        stops = set(self._renderer.template.stop_token_ids)
        for text, ids in self._prompts:
            answer = likeliest_answer(self._trainer.model, ids, most_tokens=self._most_tokens, stops=stops)
            decoded = self._renderer.tokenizer.decode(answer, skip_special_tokens=True)
            self._context.sample(step, text, str(decoded))
        self._trainer.leave_aside(time.monotonic() - begun)

    def _rendered(self, text: str) -> list[int]:
        try:
            return self._renderer.prompt([{"role": "user", "content": text}])
        except TemplateRefusedError as error:
            raise TunefleetError(
                Reason.TEMPLATE_MISMATCH,
                f"The chat template does not take the prompt of train.samples '{text[:60]}': {error}",
                hint="Write train.samples.prompts as a user's turn that the template takes.",
            ) from error

"""Answers to fixed prompts while a run trains: when they are due, and what they are asked with."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias

from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import Renderer, TemplateRefusedError

__all__ = ["Answering", "Samples"]

_LOOKS = 10
_ANSWER_TOKENS = 64

Answering: TypeAlias = Callable[[list[int], int, Collection[int]], list[int]]
"""Goes on from a prompt by its likeliest tokens: so many at most, and none of these, which end it."""


class Samples:
    """The prompts of a run.

    Raises:
        TunefleetError: TEMPLATE_MISMATCH if the template does not take a prompt.
    """

    def __init__(self, context: RunContext, renderer: Renderer) -> None:
        self._context = context
        self._renderer = renderer
        policy = context.order.resolved_spec.spec.train.samples
        self._every = policy.every_steps
        self._most_tokens = policy.max_new_tokens or _ANSWER_TOKENS
        self._prompts = [(text, self._rendered(text)) for text in policy.prompts]

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether the prompts are answered after a step; 0: before the first."""
        return bool(self._prompts) and step % (self._every or max(1, total_steps // _LOOKS)) == 0

    def tell(self, step: int, answer: Answering) -> None:
        """Have every prompt answered and tell the answers."""
        stops = set(self._renderer.template.stop_token_ids)
        for text, ids in self._prompts:
            tokens = answer(ids, self._most_tokens, stops)
            decoded = self._renderer.tokenizer.decode(tokens, skip_special_tokens=True)
            self._context.sample(step, text, str(decoded))

    def _rendered(self, text: str) -> list[int]:
        try:
            return self._renderer.prompt([{"role": "user", "content": text}])
        except TemplateRefusedError as error:
            raise TunefleetError(
                Reason.TEMPLATE_MISMATCH,
                f"The chat template does not take the prompt of train.samples '{text[:60]}': {error}",
                hint="Write train.samples.prompts as a user's turn that the template takes.",
            ) from error

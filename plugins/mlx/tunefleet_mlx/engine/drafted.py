"""An answer whose tokens a smaller model guesses and the served one checks, several in one forward.

What is written is what the served model says: a guess counts only where it is the token that
the model would have written there itself (Leviathan et al. 2023, arXiv:2211.17192). mlx-lm checks the
guesses of one answer at a time, so such answers share no forward; they take a step each in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
from mlx_lm.generate import speculative_generate_step
from mlx_lm.models.cache import LRUPromptCache, can_trim_prompt_cache, make_prompt_cache

__all__ = ["DraftCounts", "DraftedAnswer", "check_draft"]


class DraftCounts:
    """How many tokens were written, and how many of them had been guessed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written = 0
        self._accepted = 0

    def count(self, *, is_guessed: bool) -> None:
        """Take in a token that was written."""
        with self._lock:
            self._written += 1
            self._accepted += is_guessed

    def render(self) -> str:
        """Return both in the text format of Prometheus."""
        with self._lock:
            found = {"tokens_written": self._written, "draft_tokens_accepted": self._accepted}
        lines = [
            f"# TYPE tunefleet_mlx_{name}_total counter\ntunefleet_mlx_{name}_total {value}"
            for name, value in found.items()
        ]
        return "\n".join(lines) + "\n"


class DraftedAnswer:
    """One answer being written, in the form of a batch of one."""

    def __init__(
        self,
        answer: Any,
        *,
        model: Any,
        draft: Any,
        tokens: int,
        prompt: list[int],
        sampler: Callable[[Any], Any],
        processors: list[Any],
        read_size: int,
        counts: DraftCounts,
    ) -> None:
        """Begin an answer; nothing is computed before the first `step`.

        Args:
            answer: Takes each token by `give`.
            model: Writes.
            draft: Guesses.
            tokens: How many it guesses per step.
            prompt: Token ids.
            sampler: Chooses a token of log-probabilities.
            processors: Change logits before that.
            read_size: Tokens of a prompt read at once.
            counts: Take in what came of it.
        """
        self.answers = {0: answer}
        self.generator = speculative_generate_step(
            mx.array(prompt),
            model,
            draft,
            num_draft_tokens=tokens,
            max_tokens=answer.arguments.max_tokens,
            sampler=sampler,
            logits_processors=processors or None,
            # Kept nowhere: after a guess that did not hold, both caches may differ in length.
            prompt_cache=[*make_prompt_cache(model), *make_prompt_cache(draft)],
            prefill_step_size=read_size,
        )
        self._counts = counts
        self._left = answer.arguments.max_tokens

    def step(self, prompt_cache: LRUPromptCache, key: str) -> None:
        """Give the next token on, computed or guessed before."""
        del prompt_cache, key
        (answer,) = self.answers.values()
        if answer.context._should_stop:
            self.answers.clear()
            return
        token, logprobs, is_guessed = next(self.generator)
        token = int(token)
        self._counts.count(is_guessed=is_guessed)
        self._left -= 1
        is_end = token in answer.tokenizer.eos_token_ids
        finish = "stop" if is_end else None if self._left else "length"
        answer.give(SimpleNamespace(token=token, logprobs=logprobs, finish_reason=finish))
        if finish is not None:
            self.answers.clear()

    def fail(self, error: Exception) -> None:
        """Give up on the answer."""
        for answer in self.answers.values():
            answer.out.put(error)
        self.answers.clear()


def check_draft(model: Any, draft: Any, vocabulary: dict[str, int], guessed: dict[str, int]) -> None:
    """Refuse a model that cannot guess for another.

    Raises:
        ValueError: Why.
    """
    if vocabulary != guessed:
        raise ValueError(
            f"the draft model has another tokenizer ({len(guessed)} tokens, this base {len(vocabulary)}): "
            "take a smaller model of the same family"
        )
    if not all(can_trim_prompt_cache(make_prompt_cache(one)) for one in (model, draft)):
        raise ValueError(
            "models with sliding windows or states cannot take a guess back: serve it without speculation"
        )

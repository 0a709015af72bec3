"""One answer being generated: its parameters, its progress, and what it hands to the HTTP side.

Each choice of each prompt is a `Sequence` of its own, so that `n` and lists of prompts batch like separate
requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import torch
    from tunefleet_core.answer_forms import Grammar

    from tunefleet_embedded.engine.detokenize import TextStream

FinishReason = Literal["stop", "length", "error", "abort"]


class TokenLogprob(NamedTuple):
    """Log-probability of one token before temperature and penalties, with the most likely alternatives."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Update(NamedTuple):
    """What happened to a sequence since its last update. Delivered on the asyncio loop, in order."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when to end.

    `logprobs` is the number of alternatives, None for no log-probabilities.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None
    prompt_logprobs: bool = False
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()

    @property
    def is_greedy(self) -> bool:
        """Temperatures this small would overflow the division; they mean the most likely token."""
        return self.temperature < 1e-5

    @property
    def has_penalties(self) -> bool:
        return self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A choice on its way:

    Waiting, then a row of the running batch, then finished. Owned by the scheduler thread.
    """

    index: int
    model: str
    slot: str | None
    prompt_ids: list[int]
    params: SamplingParams
    text_stream: TextStream
    deliver: Callable[[Update], None]
    wants_stream: bool
    rng: Random
    grammar: Grammar | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)
    token_counts: torch.Tensor | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None
    submitted_seconds: float = field(default_factory=time.monotonic)
    submitted_step: int = 0
    is_cancelled: bool = False
    _delivered_tokens: int = 0
    _text: list[str] = field(default_factory=list)

    def accept(self, token_id: int, logprob: TokenLogprob | None) -> Update | None:
        """Takes the next token.

        Returns what is to be delivered now, or None when there is nothing to say yet.
        """
        self.token_ids.append(token_id)
        if logprob is not None:
            self.logprobs.append(logprob)
        if self.grammar is not None:
            self.grammar.accept(token_id)
            if error := self.grammar.error:
                return self.fail("error", f"The answer cannot be held to its form any further: {error}")
        if token_id in self.params.stop_ids:
            self.finish_reason = "stop"
            text = self.text_stream.finish()
        else:
            text = self.text_stream.push(token_id)
            if self.text_stream.is_stopped:
                self.finish_reason = "stop"
            elif self.grammar is not None and self.grammar.is_complete:
                self.finish_reason = "stop"
                text += self.text_stream.finish()
            elif len(self.token_ids) >= self.params.max_tokens:
                self.finish_reason = "length"
                text += self.text_stream.finish()
        if self.wants_stream:
            return self._update(text) if text or self.finish_reason else None
        self._text.append(text)
        return self._update("".join(self._text)) if self.finish_reason else None

    def fail(self, reason: FinishReason, message: str) -> Update:
        """Ends the sequence for a cause that is not its own."""
        self.finish_reason = reason
        self.error = message
        return self._update("")

    def _update(self, text: str) -> Update:
        start = self._delivered_tokens
        self._delivered_tokens = len(self.token_ids)
        return Update(self.index, text, self.token_ids[start:], self.logprobs[start:], self.finish_reason)

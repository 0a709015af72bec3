"""Answers of a form: between the logits of a step and the sampler, only possible tokens are left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core as mx
import numpy
from mlx_lm.server import GenerationArguments

from tunefleet_core.answer_forms import AnswerForm, FormRefusedError, Grammar, Grammars, read_form
from tunefleet_mlx.engine.refusal import Refusal

__all__ = ["Arguments", "HeldToForm", "held_to_form", "parse_form"]

_IMPOSSIBLE = -1e4
"""Its probability is 0 in every precision, and unlike -inf it can be written as JSON."""


@dataclass
class Arguments(GenerationArguments):
    """Those of mlx-lm, and the form of the answer."""

    form: AnswerForm | None = None


def parse_form(response_format: object) -> AnswerForm | None:
    """Return the form that a request asks for. Raises Refusal naming the field."""
    try:
        return read_form(response_format)
    except FormRefusedError as error:
        raise Refusal(400, error.message) from error


class HeldToForm:
    """A logits processor of mlx-lm for one answer."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._read = -1

    @property
    def error(self) -> str:
        """Why the answer cannot be held to its form any further; empty if it can."""
        return self._grammar.error

    def __call__(self, tokens: Any, logits: Any) -> Any:
        """Return the logits of the next token, [1, vocabulary]; `tokens` are prompt and answer so far."""
        if self._read < 0:
            self._read = len(tokens)  # the prompt
        for token_id in tokens[self._read :].tolist():
            self._grammar.accept(token_id)
        self._read = len(tokens)
        if self._grammar.error:
            return logits
        bits = numpy.frombuffer(self._grammar.possible(), dtype=numpy.uint8)
        possible = numpy.zeros(logits.shape[-1], dtype=bool)
        found = numpy.unpackbits(bits, bitorder="little")[: len(possible)]
        possible[: len(found)] = found
        return mx.where(mx.array(possible), logits, _IMPOSSIBLE)


def held_to_form(form: AnswerForm, tokenizer: Any) -> HeldToForm:
    """Return what holds an answer to a form.

    Args:
        form: What the answer has to be.
        tokenizer: mlx-lm's wrapper of the tokenizer, with the tokens that end an answer.

    Raises:
        Refusal: 400, the form cannot be enforced.
    """
    library = tokenizer._tokenizer
    grammars = _grammars(library.backend_tokenizer.to_str(), len(library))
    try:
        return HeldToForm(grammars.start(form, frozenset(tokenizer.eos_token_ids)))
    except FormRefusedError as error:
        raise Refusal(400, error.message) from error


@lru_cache(maxsize=1)
def _grammars(tokenizer: str, vocabulary: int) -> Grammars:
    return Grammars(tokenizer, vocabulary)

"""Which tokens may come next, so that an answer becomes a value of its form: by llguidance.

Source: https://github.com/guidance-ai/llguidance. It is in the environments of engines only.
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from tunefleet_core.answer_forms.form import AnswerForm, FormRefusedError

__all__ = ["BLANKS", "Grammar", "Grammars"]

BLANKS = r"[ \n\t]{0,64}"
"""Between two parts of a JSON text: a model that writes nothing but blanks comes to an end."""
_KEPT_GRAMMARS = 32
_KEPT_TOKENIZERS = 4


class Grammar:
    """Where one answer stands in its form. Not for several threads at once."""

    def __init__(self, matcher: Any, stop_ids: Iterable[int], vocabulary: int) -> None:
        self._matcher = matcher
        self._stop_ids = tuple(stop_ids)
        self._vocabulary = vocabulary

    @property
    def is_complete(self) -> bool:
        """Whether the value is whole and nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def error(self) -> str:
        """Why it cannot go on, for example a form that grew too complex; empty if it can."""
        return str(self._matcher.get_error()) if self._matcher.is_error() else ""

    def possible(self) -> bytes:
        """Return which tokens may come next: a bit for each of the vocabulary, the lowest of a byte first.

        After the end these are the tokens that end an answer.
        """
        if not self.is_complete:
            return bytes(self._matcher.compute_bitmask())
        bits = bytearray((self._vocabulary + 7) // 8)
        for token_id in self._stop_ids:
            bits[token_id // 8] |= 1 << token_id % 8
        return bytes(bits)

    def accept(self, token_id: int) -> None:
        """Take the token that was chosen."""
        if not self.is_complete:
            self._matcher.consume_token(token_id)


class Grammars:
    """Makes grammars of forms, for one tokenizer. Safe in any thread; its first one takes a second."""

    def __init__(self, tokenizer: str, vocabulary: int) -> None:
        """Keep what is needed.

        Args:
            tokenizer: The content of a tokenizer.json.
            vocabulary: How many tokens the model knows: its logits per position.
        """
        self._text = tokenizer
        self._vocabulary = vocabulary
        self._tokenizer_of = lru_cache(maxsize=_KEPT_TOKENIZERS)(self._make_tokenizer)
        self._matcher_of = lru_cache(maxsize=_KEPT_GRAMMARS)(self._compile)

    def start(self, form: AnswerForm, stop_ids: frozenset[int]) -> Grammar:
        """Return the beginning of a form.

        Args:
            form: What the answer has to be.
            stop_ids: Tokens that end an answer; possible where the value is whole.

        Raises:
            FormRefusedError: The schema is wrong, or asks for what cannot be enforced.
        """
        return Grammar(self._matcher_of(form, stop_ids).deep_copy(), stop_ids, self._vocabulary)

    def _make_tokenizer(self, stop_ids: frozenset[int]) -> Any:
        from llguidance import LLTokenizer

        return LLTokenizer(self._text, n_vocab=self._vocabulary, eos_token=sorted(stop_ids) or None)

    def _compile(self, form: AnswerForm, stop_ids: frozenset[int]) -> Any:
        from llguidance import LLMatcher

        try:
            if form.lark:
                grammar = LLMatcher.grammar_from_lark(form.lark)
            else:
                grammar = LLMatcher.grammar_from_json_schema(
                    form.schema, overrides={"whitespace_pattern": BLANKS}
                )
        except ValueError as error:
            raise _refused(form, str(error)) from error
        matcher = LLMatcher(self._tokenizer_of(stop_ids), grammar, log_level=0)
        if matcher.is_error():
            raise _refused(form, str(matcher.get_error()))
        return matcher


def _refused(form: AnswerForm, why: str) -> FormRefusedError:
    reason = why.strip().partition("\n")[0]
    return FormRefusedError(form.field, f"'{form.field}' cannot be enforced: {reason}")

"""Calls of tools where mlx-lm has no parser for the model: read as its chat template writes them.

mlx-lm guesses a parser from words in the template; for Llama 3.1 and 4, gpt-oss and DeepSeek it knows none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunefleet_core.answer_forms import FormRefusedError
from tunefleet_core.tool_calls import CallFormat, CallReader, find_format, read_tool_use, reader_of
from tunefleet_mlx.engine.refusal import Refusal

__all__ = ["CallReaders"]


class CallReaders:
    """Knows how the templates write calls, found with the first request that has tools."""

    def __init__(self) -> None:
        self._formats: dict[str, CallFormat | None] = {}

    def reader(
        self, tokenizer: Any, tools: Sequence[dict[str, Any]] | None, *, is_parallel: bool
    ) -> CallReader | None:
        """Return what takes calls out of an answer; None: mlx-lm does, or nobody.

        Args:
            tokenizer: In mlx-lm's wrapper.
            tools: Those that may be called.
            is_parallel: Whether there may be several calls.

        Raises:
            Refusal: The tools are wrong, naming the field.
        """
        if not tools or tokenizer.has_tool_calling:
            return None
        form = self._format(tokenizer)
        if form is None:
            return None
        try:
            use = read_tool_use(tools, None, is_parallel=is_parallel)
        except FormRefusedError as error:
            raise Refusal(400, str(error)) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise Refusal(400, "'tools' must be a list of functions, each with a name.") from error
        return reader_of(form, use.schemas, is_parallel=is_parallel)

    def _format(self, tokenizer: Any) -> CallFormat | None:
        plain = tokenizer._tokenizer  # what the wrapper wraps, as in rendering
        template = plain.chat_template
        if not isinstance(template, str):
            return None
        if template not in self._formats:
            self._formats[template] = _found(plain)
        return self._formats[template]


def _found(plain: Any) -> CallFormat | None:
    def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]], is_prompt: bool) -> str:
        text = plain.apply_chat_template(
            messages, tools=tools, add_generation_prompt=is_prompt, tokenize=False
        )
        return str(text)

    marks = [token.content for token in plain.added_tokens_decoder.values() if token.special]
    try:
        return find_format(render, marks)
    except Exception:  # templates raise what they like; one that takes no calls writes none
        return None

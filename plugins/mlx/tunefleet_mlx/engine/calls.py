"""Calls of tools: held to what is demanded, and read where mlx-lm has no parser for the model.

Both as the model's chat template writes them. mlx-lm guesses a parser from words in the template; for
Llama 3.1 and 4, gpt-oss and DeepSeek it knows none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunefleet_core.answer_forms import AnswerForm, FormRefusedError
from tunefleet_core.tool_calls import (
    CallFormat,
    CallReader,
    ToolUse,
    calls_form,
    find_format,
    read_tool_use,
    reader_of,
)
from tunefleet_mlx.engine.refusal import Refusal

__all__ = ["CallReaders", "read_tools"]


def read_tools(
    tools: Sequence[dict[str, Any]] | None, choice: object, *, is_parallel: bool
) -> ToolUse | None:
    """Return what a request asks of tools; None: nothing.

    Raises:
        Refusal: Tools or choice are wrong, naming the field.
    """
    if not tools and choice in (None, "auto", "none"):
        return None
    try:
        return read_tool_use(tools or [], choice, is_parallel=is_parallel)
    except FormRefusedError as error:
        raise Refusal(400, str(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise Refusal(400, "'tools' must be a list of functions, each with a name.") from error


class CallReaders:
    """Knows how the templates write calls, found with the first request that has tools."""

    def __init__(self) -> None:
        self._formats: dict[str, CallFormat | None] = {}

    def reader(self, tokenizer: Any, use: ToolUse | None) -> CallReader | None:
        """Return what takes calls out of an answer; None: mlx-lm does, or nobody.

        Args:
            tokenizer: In mlx-lm's wrapper.
            use: The tools that may be called.
        """
        if use is None or use.choice == "none" or tokenizer.has_tool_calling:
            return None
        form = self._format(tokenizer)
        return None if form is None else reader_of(form, use.schemas, is_parallel=use.is_parallel)

    def form(self, tokenizer: Any, use: ToolUse | None, answer: AnswerForm | None) -> AnswerForm | None:
        """Return what an answer is held to: calls that are demanded or strict, or a form that was asked for.

        Args:
            tokenizer: In mlx-lm's wrapper.
            use: The tools that may be called.
            answer: What `response_format` asks for.

        Raises:
            Refusal: It cannot be held, naming the field.
        """
        if use is None:
            return answer
        added = tokenizer._tokenizer.added_tokens_decoder
        tokens = {token.content: token_id for token_id, token in added.items()}
        try:
            return calls_form(use, self._format(tokenizer), tokens, answer=answer)
        except FormRefusedError as error:
            raise Refusal(400, str(error)) from error

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

"""Conversations to token ids, by the template alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunefleet_mlx.engine.refusal import Refusal

__all__ = ["first_state", "render"]


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Return the ids of a conversation as it was rendered in training.

    Not by mlx-lm's wrapper around the tokenizer: that one turns thinking on or off by itself
    where a template asks for it, and so writes another prompt than the template does.

    Raises:
        Refusal: the template refuses the messages, or shows no tools though there are some.
    """
    plain = tokenizer._tokenizer  # what the wrapper wraps
    given = {**(kwargs or {}), "add_generation_prompt": add_generation_prompt, "tokenize": False}
    try:
        text = plain.apply_chat_template(messages, tools=tools, **given)
        if tools and text == plain.apply_chat_template(messages, **given):
            raise Refusal(400, "The model's chat template shows no tools; leave 'tools' out.")
    except Refusal:
        raise
    except Exception as error:  # templates raise what they like
        raise Refusal(400, f"The chat template refuses these messages: {error}") from error
    return list(plain.encode(text, add_special_tokens=False))  # the template writes its own


def first_state(tokenizer: Any, prompt: Sequence[int]) -> str:
    """Return whether an answer begins as a thought or as text, as mlx_lm.server tells them apart."""
    state = "normal"
    if tokenizer.has_thinking and tokenizer.rfind_think_start(prompt) > tokenizer.rfind_think_end(prompt):
        state = "reasoning"
    return str(tokenizer.response_initial_state or state)

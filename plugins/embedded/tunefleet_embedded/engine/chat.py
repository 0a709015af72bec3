"""Rendering conversations to token ids with the template the served model was given."""

from __future__ import annotations

from typing import Any

import jinja2

from tunefleet_embedded.engine.errors import ApiError
from tunefleet_embedded.engine.model import BaseModel


def render_chat(
    base: BaseModel,
    messages: list[dict[str, Any]],
    *,
    tools: list[dict[str, Any]],
    template: str | None,
    add_generation_prompt: bool = True,
    template_kwargs: dict[str, Any] | None = None,
) -> list[int]:
    """Token ids of a conversation. `template` None takes the tokenizer's own.

    Raises:
        ApiError: there is no template, it refuses these messages, or it shows no tools though there are some.
    """
    template = template or base.tokenizer.chat_template
    if not template:
        raise ApiError(
            "The model has no chat template; use /v1/completions, or start the engine with --chat-template.",
            param="messages",
            code="no_chat_template",
        )
    rendering = {
        "chat_template": template,
        "add_generation_prompt": add_generation_prompt,
        "tokenize": False,
        **(template_kwargs or {}),
    }
    try:
        text = base.tokenizer.apply_chat_template(messages, tools=tools or None, **rendering)
        if tools and text == base.tokenizer.apply_chat_template(messages, **rendering):
            raise ApiError(
                "The model's chat template shows no tools; leave 'tools' out.",
                param="tools",
                code="unsupported_parameter",
            )
    except (jinja2.TemplateError, AttributeError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ApiError(f"The chat template refuses these messages: {error}", param="messages") from error
    # The template writes its own special tokens.
    return base.encode(text, add_special_tokens=False)


def check_template(base: BaseModel, template: str) -> None:
    """Compiles a template by rendering one turn with it.

    Raises:
        ApiError: it is no valid template.
    """
    try:
        base.tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
    except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
        raise ApiError(f"The chat template cannot be used: {error}", param="chat_template") from error

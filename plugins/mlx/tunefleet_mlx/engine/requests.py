"""Requests as OpenAI clients send them, checked and in the form mlx-lm computes.

What this engine would have to pass over is refused by name, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_lm.server import (
    CompletionRequest,
    LogitsProcessorArguments,
    ModelDescription,
    SamplingArguments,
    process_message_content,
)

from tunefleet_core.parity import TOP_TOKENS
from tunefleet_core.tool_calls import ToolUse
from tunefleet_mlx.engine.calls import read_tools
from tunefleet_mlx.engine.forms import Arguments, parse_form
from tunefleet_mlx.engine.refusal import Refusal

__all__ = ["Asked", "conversation", "one_token", "parse_body", "parse_generation"]

_TEXT_TOKENS = 16  # OpenAI's default for /v1/completions; a chat has what there is room for
_WITHOUT_EFFECT = {
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
_CONTEXT = 20
"""Tokens back that mlx-lm's penalties look, its default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request to generate."""

    model: str
    request: CompletionRequest
    arguments: Arguments
    is_chat: bool
    stream: bool
    tools: ToolUse | None
    include_usage: bool
    tokens_as_ids: bool


def parse_body(raw: bytes) -> dict[str, Any]:
    """Return the fields of a body that are given; null counts as left out, as OpenAI has it."""
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise Refusal(400, f"The body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refusal(400, "The body must be a JSON object.")
    return {name: value for name, value in body.items() if value is not None}


def parse_generation(body: dict[str, Any], *, is_chat: bool, most_tokens: int) -> Asked:
    """Return a request for a chat or a completion. Raises Refusal naming the field."""
    fields = _Fields(dict(body))
    if is_chat:
        request = CompletionRequest("chat", "", conversation(fields), fields.take("tools") or None, None)
        wants = fields.flag("logprobs")
        top = int(fields.number("top_logprobs", 0, most=TOP_TOKENS, whole=True))
        limit = fields.number("max_tokens", most_tokens, least=1, whole=True)
        limit = fields.number("max_completion_tokens", limit, least=1, whole=True)
    else:
        request = CompletionRequest("text", _prompt(fields), [], None, None)
        top = int(fields.number("logprobs", -1, least=-1, most=TOP_TOKENS, whole=True))
        wants = top >= 0
        limit = fields.number("max_tokens", _TEXT_TOKENS, least=1, whole=True)
    model = fields.take("model")
    stream = fields.flag("stream")
    options = fields.take("stream_options") or {}
    is_parallel = fields.flag("parallel_tool_calls", default=True)
    asked = Asked(
        model=model,
        tools=read_tools(request.tools, fields.take("tool_choice"), is_parallel=is_parallel),
        request=request,
        arguments=_arguments(fields, model, max_tokens=int(limit), logprobs=wants, top=top),
        is_chat=is_chat,
        stream=stream,
        include_usage=bool(isinstance(options, dict) and options.get("include_usage")),
        tokens_as_ids=fields.flag("return_tokens_as_token_ids"),
    )
    fields.refuse_rest()
    return asked


def conversation(fields: _Fields | dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a request as templates take them."""
    messages = fields.pop("messages", None) if isinstance(fields, dict) else fields.take("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "'messages' must be a list of at least one message.")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal(400, f"'messages[{index}]' must be an object with a role.")
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content or ""}]
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
            raise Refusal(400, f"'messages[{index}].content' must be text.")
    try:
        process_message_content(messages)  # joins parts; arguments of calls become objects
    except (ValueError, KeyError, AttributeError) as error:
        raise Refusal(400, f"'messages': {error}") from error
    return messages


def one_token(model: str) -> Arguments:
    """Return what asks for the likeliest next token."""
    return _arguments(_Fields({"temperature": 0}), model, max_tokens=1, logprobs=False, top=-1)


class _Fields:
    """A body being taken apart."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._left = body

    def take(self, name: str) -> Any:
        return self._left.pop(name, None)

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self._left.pop(name, default)
        if not isinstance(value, bool):
            raise Refusal(400, f"'{name}' must be true or false, not {value!r}.")
        return value

    def number(
        self, name: str, default: float, *, least: float = 0, most: float = 2**63, whole: bool = False
    ) -> float:
        value = self._left.pop(name, default)
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            kind = "a whole number" if whole else "a number"
            raise Refusal(400, f"'{name}' must be {kind} from {least} to {most}, not {value!r}.")
        return value

    def words(self, name: str) -> list[str]:
        value = self._left.pop(name, [])
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
            raise Refusal(400, f"'{name}' must be a text or a list of texts.")
        return words

    def refuse_rest(self) -> None:
        for name, value in self._left.items():
            if name not in _WITHOUT_EFFECT and value not in _NEUTRAL.get(name, ()):
                raise Refusal(400, f"'{name}' is not supported by this engine; leave it out.")


def _arguments(fields: _Fields, model: str, *, max_tokens: int, logprobs: bool, top: int) -> Arguments:
    seed = fields.number("seed", -1, least=-(2**63), whole=True)
    kwargs = fields.take("chat_template_kwargs")
    return Arguments(
        model=ModelDescription(model=model, draft="", adapter=""),
        sampling=SamplingArguments(
            temperature=fields.number("temperature", 1.0, most=2),
            top_p=fields.number("top_p", 1.0, most=1),
            top_k=int(fields.number("top_k", 0, whole=True)),
            min_p=fields.number("min_p", 0.0, most=1),
            xtc_probability=0.0,
            xtc_threshold=0.1,
        ),
        logits=LogitsProcessorArguments(
            logit_bias=_bias(fields.take("logit_bias")),
            repetition_penalty=fields.number("repetition_penalty", 0.0),
            repetition_context_size=_CONTEXT,
            presence_penalty=fields.number("presence_penalty", 0.0, least=-2, most=2),
            presence_context_size=_CONTEXT,
            frequency_penalty=fields.number("frequency_penalty", 0.0, least=-2, most=2),
            frequency_context_size=_CONTEXT,
        ),
        stop_words=fields.words("stop"),
        max_tokens=max_tokens,
        num_draft_tokens=0,
        logprobs=logprobs,
        top_logprobs=top,
        seed=int(seed) % 2**63 if seed != -1 else None,
        chat_template_kwargs=kwargs if isinstance(kwargs, dict) else None,
        form=parse_form(fields.take("response_format")),
    )


def _bias(given: Any) -> dict[int, float] | None:
    try:
        return {int(token): float(bias) for token, bias in given.items()} if given else None
    except (AttributeError, TypeError, ValueError):
        raise Refusal(400, "'logit_bias' must be an object of token ids and numbers.") from None


def _prompt(fields: _Fields) -> str | Sequence[int]:
    prompt = fields.take("prompt")
    is_ids = isinstance(prompt, list) and all(isinstance(one, int) and one >= 0 for one in prompt)
    if not prompt or not (isinstance(prompt, str) or is_ids):
        raise Refusal(400, "'prompt' must be a text or a list of token ids, and not empty.")
    return prompt

"""Requests as OpenAI clients send them, checked and in one form for chat and completions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tunefleet_core.answer_forms import AnswerForm, FormRefusedError, read_form
from tunefleet_core.tool_calls import ToolUse, read_tool_use

from tunefleet_embedded.engine.errors import ApiError
from tunefleet_embedded.engine.fields import Fields, is_token_ids

_MOST_ALTERNATIVES = 20
_MOST_CHOICES = 128
_MOST_STOP_STRINGS = 16
_COMPLETION_MAX_TOKENS = 16  # OpenAI's default for /v1/completions; chat fills the context.
_WITHOUT_EFFECT = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
    }
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "suffix": ("",),
    "best_of": (1,),
    "top_k": (-1, 0),
    "min_p": (0, 0.0),
    "repetition_penalty": (1, 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages to be rendered with a chat template, and the tools it shows to the model."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    add_generation_prompt: bool = True
    template_kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One call of /v1/chat/completions or /v1/completions."""

    model: str
    is_chat: bool
    prompts: list[Conversation | str | list[int]]
    n: int
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    frequency_penalty: float
    presence_penalty: float
    stop: tuple[str, ...]
    stop_token_ids: frozenset[int]
    ignore_eos: bool
    logprobs: int | None
    echo: bool
    tokens_as_ids: bool
    form: AnswerForm | None
    tools: ToolUse | None
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeRequest:
    """One call of /tokenize."""

    model: str | None
    prompt: Conversation | str
    add_special_tokens: bool


def parse_chat(body: object) -> GenerationRequest:
    """Reads a chat completion request. Raises ApiError 400 naming the field."""
    fields = Fields(body)
    wants_logprobs = fields.boolean("logprobs", False)
    alternatives = fields.integer("top_logprobs", low=0, high=_MOST_ALTERNATIVES)
    if alternatives is not None and not wants_logprobs:
        raise ApiError("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    completion_limit = fields.integer("max_completion_tokens", low=1)
    limit = fields.integer("max_tokens", low=1)
    conversation = _conversation(fields)
    return _generation(
        fields,
        is_chat=True,
        prompts=[conversation],
        tools=_tool_use(fields, conversation.tools),
        logprobs=(alternatives or 0) if wants_logprobs else None,
        max_tokens=completion_limit if completion_limit is not None else limit,
        echo=False,
    )


def parse_completion(body: object) -> GenerationRequest:
    """Reads a completion request. Raises ApiError 400 naming the field."""
    fields = Fields(body)
    echo = fields.boolean("echo", False)
    # Zero tokens makes sense only as a way to score the prompt.
    limit = fields.integer("max_tokens", low=0 if echo else 1)
    request = _generation(
        fields,
        is_chat=False,
        prompts=_prompts(fields.take("prompt")),
        logprobs=fields.integer("logprobs", low=0, high=_MOST_ALTERNATIVES),
        max_tokens=_COMPLETION_MAX_TOKENS if limit is None else limit,
        echo=echo,
    )
    if request.stream and (request.max_tokens == 0 or (echo and request.logprobs is not None)):
        raise ApiError(
            "'echo' with log-probabilities is answered in one piece; leave 'stream' out.", param="stream"
        )
    return request


def parse_tokenize(body: object) -> TokenizeRequest:
    """Reads a /tokenize request: `messages` or `prompt`."""
    fields = Fields(body)
    model = fields.optional_string("model")
    add_special_tokens = fields.boolean("add_special_tokens", True)
    prompt = fields.take("prompt")
    if prompt is None:
        return TokenizeRequest(model=model, prompt=_conversation(fields), add_special_tokens=False)
    if not isinstance(prompt, str):
        raise ApiError("'prompt' must be a string.", param="prompt")
    return TokenizeRequest(model=model, prompt=prompt, add_special_tokens=add_special_tokens)


def _generation(
    fields: Fields,
    *,
    is_chat: bool,
    prompts: list[Conversation | str | list[int]],
    logprobs: int | None,
    max_tokens: int | None,
    echo: bool,
    tools: ToolUse | None = None,
) -> GenerationRequest:
    stream = fields.boolean("stream", False)
    request = GenerationRequest(
        model=fields.string("model"),
        is_chat=is_chat,
        prompts=prompts,
        n=fields.integer("n", low=1, high=_MOST_CHOICES) or 1,
        max_tokens=max_tokens,
        temperature=fields.number("temperature", 1.0, low=0.0, high=2.0),
        top_p=fields.number("top_p", 1.0, low=0.0, high=1.0, above_low=True),
        seed=fields.integer("seed", low=-(2**63), high=2**63 - 1),
        frequency_penalty=fields.number("frequency_penalty", 0.0, low=-2.0, high=2.0),
        presence_penalty=fields.number("presence_penalty", 0.0, low=-2.0, high=2.0),
        stop=_stop_strings(fields.take("stop")),
        stop_token_ids=frozenset(fields.token_ids("stop_token_ids") or ()),
        ignore_eos=fields.boolean("ignore_eos", False),
        logprobs=logprobs,
        echo=echo,
        tokens_as_ids=fields.boolean("return_tokens_as_token_ids", False),
        form=_form(fields.take("response_format")),
        tools=tools,
        stream=stream,
        include_usage=_include_usage(fields, stream=stream),
    )
    fields.refuse_rest(without_effect=_WITHOUT_EFFECT, neutral=_NEUTRAL)
    return request


def _include_usage(fields: Fields, *, stream: bool) -> bool:
    options = fields.take("stream_options")
    if options is None:
        return False
    if not stream:
        raise ApiError("'stream_options' needs 'stream' to be true.", param="stream_options")
    return Fields(options).boolean("include_usage", False)


def _conversation(fields: Fields) -> Conversation:
    messages = fields.take("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError("'messages' must be a list of at least one message.", param="messages")
    template_kwargs = fields.take("chat_template_kwargs", {})
    if not isinstance(template_kwargs, dict):
        raise ApiError("'chat_template_kwargs' must be an object.", param="chat_template_kwargs")
    for reserved in ("chat_template", "tokenize", "add_generation_prompt", "conversation", "tools"):
        if reserved in template_kwargs:
            raise ApiError(f"'chat_template_kwargs' cannot set '{reserved}'.", param="chat_template_kwargs")
    return Conversation(
        messages=[_message(message, index) for index, message in enumerate(messages)],
        tools=_tools(fields.take("tools")),
        add_generation_prompt=fields.boolean("add_generation_prompt", True),
        template_kwargs=template_kwargs,
    )


def _message(message: object, index: int) -> dict[str, Any]:
    where = f"messages[{index}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ApiError(f"'{where}' must be an object with a role.", param=where)
    content = message.get("content")
    if message.get("tool_calls") is not None:
        message = {**message, "tool_calls": _tool_calls(message["tool_calls"], f"{where}.tool_calls")}
    if content is None and message["role"] == "assistant":
        return {**message, "content": ""}
    if isinstance(content, list):
        return {**message, "content": "".join(_text_part(part, where, i) for i, part in enumerate(content))}
    if not isinstance(content, str):
        raise ApiError(
            f"'{where}.content' must be a string or a list of text parts.", param=f"{where}.content"
        )
    return dict(message)


def _tool_calls(calls: object, where: str) -> list[dict[str, Any]]:
    """Calls as templates take them: OpenAI clients write arguments as JSON text, templates print objects."""
    if not isinstance(calls, list):
        raise ApiError(f"'{where}' must be a list.", param=where)
    return [_tool_call(call, f"{where}[{index}]") for index, call in enumerate(calls)]


def _tool_call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if (
        not isinstance(call, dict)
        or not isinstance(function, dict)
        or not isinstance(function.get("name"), str)
    ):
        raise ApiError(f"'{where}' must be an object with a function and its name.", param=where)
    arguments = function.get("arguments")
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        field = f"{where}.function.arguments"
        raise ApiError(f"'{field}' must be a JSON object.", param=field)
    return {**call, "function": {**function, "arguments": read}}


def _tools(tools: object) -> list[dict[str, Any]]:
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise ApiError("'tools' must be a list.", param="tools")
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            field = f"tools[{index}]"
            raise ApiError(f"'{field}' must be an object with a function and its name.", param=field)
    return tools


def _tool_use(fields: Fields, tools: list[dict[str, Any]]) -> ToolUse | None:
    choice = fields.take("tool_choice")
    is_parallel = fields.boolean("parallel_tool_calls", True)
    try:
        use = read_tool_use(tools, choice, is_parallel=is_parallel)
    except FormRefusedError as error:
        raise ApiError(error.message, param=error.field) from error
    return use if tools and use.choice != "none" else None


def _text_part(part: object, where: str, index: int) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    field = f"{where}.content[{index}]"
    raise ApiError(f"'{field}' is no text part; this engine reads text only.", param=field)


def _prompts(value: object) -> list[Conversation | str | list[int]]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if is_token_ids(value):
            return [value]
        if all(isinstance(one, str) for one in value) or all(one and is_token_ids(one) for one in value):
            return list(value)
    raise ApiError("'prompt' must be a string, token ids, or a list of either.", param="prompt")


def _form(value: object) -> AnswerForm | None:
    try:
        return read_form(value)
    except FormRefusedError as error:
        raise ApiError(error.message, param=error.field) from error


def _stop_strings(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or len(strings) > _MOST_STOP_STRINGS:
        raise ApiError(f"'stop' must be a string or a list of up to {_MOST_STOP_STRINGS}.", param="stop")
    if not all(isinstance(one, str) and one for one in strings):
        raise ApiError("'stop' must hold non-empty strings.", param="stop")
    return tuple(strings)

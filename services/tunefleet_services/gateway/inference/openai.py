"""From InferenceService to OpenAI's JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, cast

from tunefleet.inference.v1 import inference_service_pb2 as pb
from tunefleet.type.v1.conversation_pb2 import Message, ToolCall
from tunefleet_core.errors import TunefleetError

__all__ = ["chat_body", "tokenize_body"]

_ROLES = ("system", "user", "assistant", "tool")
_FIELDS = {
    "reasoning_content": "assistant",
    "tool_calls": "assistant",
    "tool_call_id": "tool",
    "name": "tool",
}
"""Fields of one role only."""
_MOST_STOPS = 16


def chat_body(request: pb.ChatRequest, engine_model: str) -> bytes:
    """Return the body of `POST /v1/chat/completions` for a request.

    Raises:
        TunefleetError: FIELD_INVALID for what no engine takes.
    """
    body: dict[str, Any] = {
        "model": engine_model,
        "messages": _messages(request.messages, "messages"),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.HasField("max_tokens"):
        if request.max_tokens < 1:
            raise TunefleetError.field("max_tokens", "must be at least 1")
        body["max_tokens"] = request.max_tokens
    if request.HasField("temperature"):
        if not (math.isfinite(request.temperature) and request.temperature >= 0):
            raise TunefleetError.field("temperature", "must be a number of at least 0")
        body["temperature"] = request.temperature
    if request.HasField("top_p"):
        if not 0 < request.top_p <= 1:  # not so for NaN either
            raise TunefleetError.field("top_p", "must be above 0 and at most 1")
        body["top_p"] = request.top_p
    if request.HasField("seed"):
        body["seed"] = request.seed
    if request.tools_json:
        body["tools"] = _tools(request.tools_json, "tools_json")
    if request.stop:
        if len(request.stop) > _MOST_STOPS or not all(request.stop):
            raise TunefleetError.field("stop", f"must be at most {_MOST_STOPS} texts, none of them empty")
        body["stop"] = list(request.stop)
    return _json(body)


def tokenize_body(request: pb.TokenizeRequest, engine_model: str) -> bytes:
    """Return the body of `POST /tokenize`, as vLLM and SGLang know it.

    Raises:
        TunefleetError: FIELD_INVALID if there is nothing to tokenise.
    """
    match request.WhichOneof("content"):
        case "conversation":
            content: dict[str, Any] = {
                "messages": _messages(request.conversation.messages, "conversation.messages"),
                "add_generation_prompt": True,
            }
            if request.conversation.tools_json:
                content["tools"] = _tools(request.conversation.tools_json, "conversation.tools_json")
        case "text":
            content = {"prompt": request.text, "add_special_tokens": False}
        case None:
            raise TunefleetError.field("content", "is missing; send a conversation or a text")
    return _json({"model": engine_model, **content})


def _messages(messages: Iterable[Message], field: str) -> list[dict[str, Any]]:
    found = [_message(message, f"{field}[{number}]") for number, message in enumerate(messages)]
    if not found:
        raise TunefleetError.field(field, "is empty; send at least one message")
    return found


def _message(message: Message, field: str) -> dict[str, Any]:
    if message.role not in _ROLES:
        raise TunefleetError.field(
            f"{field}.role", f"must be one of {', '.join(_ROLES)}, not '{message.role}'"
        )
    has_text = bool(message.content) or bool(message.tool_calls)
    if not has_text or any(part.WhichOneof("part") != "text" for part in message.content):
        raise TunefleetError.field(f"{field}.content", "must be one or more parts of text")
    made: dict[str, Any] = {"role": message.role, "content": "".join(part.text for part in message.content)}
    for name, role in _FIELDS.items():
        value = getattr(message, name)
        if value and message.role != role:
            raise TunefleetError.field(f"{field}.{name}", f"is for the role '{role}', not '{message.role}'")
        if value and name != "tool_calls":
            made[name] = value
    if message.tool_calls:
        calls = enumerate(message.tool_calls)
        made["tool_calls"] = [_tool_call(call, f"{field}.tool_calls[{number}]") for number, call in calls]
    return made


def _tool_call(call: ToolCall, field: str) -> dict[str, Any]:
    if not call.name:
        raise TunefleetError.field(f"{field}.name", "is missing")
    arguments = call.arguments_json or "{}"
    if not isinstance(_read(arguments, f"{field}.arguments_json"), dict):
        raise TunefleetError.field(f"{field}.arguments_json", "must be a JSON object")
    identity = {"id": call.id} if call.id else {}
    return {**identity, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tools(text: str, field: str) -> list[object]:
    tools = _read(text, field)
    if not isinstance(tools, list):
        raise TunefleetError.field(field, "must be a JSON list of tools")
    return cast("list[object]", tools)


def _read(text: str, field: str) -> object:
    try:
        value: object = json.loads(text)
        json.dumps(value, allow_nan=False)
        return value
    except (ValueError, RecursionError):
        raise TunefleetError.field(field, "is no JSON") from None


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()

"""From a request for a response to the body of `POST /v1/chat/completions`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, cast

from tunefleet_core.spec.nearest import did_you_mean
from tunefleet_services.gateway.errors import GatewayError

__all__ = ["chat_body"]

_SAME = ("temperature", "top_p", "parallel_tool_calls", "seed", "stop")
"""Fields that both APIs have."""
_LEFT_ALONE = (
    "metadata", "user", "safety_identifier", "prompt_cache_key", "service_tier", "truncation", "store",
    "stream_options", "include", "prompt_cache_retention", "max_tool_calls",
)  # fmt: skip
"""What changes no answer here: nothing is kept, and no tool is called but by the client."""
_NEEDS_MEMORY = ("previous_response_id", "conversation", "background", "prompt")
_READ = (
    "model", "input", "instructions", "stream", "tools", "tool_choice", "text", "max_output_tokens",
    "reasoning", "top_logprobs",
)  # fmt: skip
_TEXT_PARTS = ("input_text", "output_text", "text")
_ROLES = ("user", "assistant", "system", "developer")


def chat_body(request: Mapping[str, Any], engine_model: str) -> bytes:
    """Return what the engine is asked; always for a stream, with the tokens counted at its end.

    Raises:
        GatewayError: 400 naming the field that is wrong, or that no engine of ours can do.
    """
    for name, value in request.items():
        if name in _NEEDS_MEMORY and value:
            _refuse(name, "needs answers that are kept, and none is: send the whole conversation as 'input'")
        known = (*_READ, *_SAME, *_LEFT_ALONE, *_NEEDS_MEMORY)
        if name not in known:
            _refuse(name, f"is no field of a response{did_you_mean(name, known)}")
    if request.get("top_logprobs"):
        _refuse("top_logprobs", "is not told here: ask /v1/chat/completions for them")
    body: dict[str, Any] = {
        "model": engine_model,
        "messages": _messages(request),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= {name: request[name] for name in _SAME if request.get(name) is not None}
    if (most := request.get("max_output_tokens")) is not None:
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            _refuse("max_output_tokens", "must be a whole number above 0")
        body["max_tokens"] = most
    if tools := _list(request.get("tools") or [], "tools"):
        body["tools"] = [_tool(item, f"tools[{at}]") for at, item in enumerate(tools)]
        if (choice := request.get("tool_choice")) is not None:
            body["tool_choice"] = _tool_choice(choice)
    if form := _response_format(request.get("text")):
        body["response_format"] = form
    if effort := _object(request.get("reasoning") or {}, "reasoning").get("effort"):
        body["reasoning_effort"] = effort
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode(errors="surrogatepass")


def _messages(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the turns. Calls that follow each other are one turn of the assistant, as chat has it."""
    messages: list[dict[str, Any]] = []
    if instructions := request.get("instructions"):
        if not isinstance(instructions, str):
            _refuse("instructions", "must be a text")
        messages.append({"role": "system", "content": instructions})
    given = request.get("input")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    thoughts = ""
    for at, raw in enumerate(_list(given, "input")):
        field = f"input[{at}]"
        item = _object(raw, field)
        kind = item.get("type", "message")
        if kind == "reasoning":
            thoughts += _parts(item.get("content") or [], f"{field}.content", ("reasoning_text",))
        elif kind in _ITEMS:
            _ITEMS[kind](messages, item, field)
            if thoughts and messages[-1]["role"] == "assistant":
                messages[-1]["reasoning_content"], thoughts = thoughts, ""
        else:
            _refuse(
                f"{field}.type", f"'{kind}' is not taken; send messages, calls of functions and their outputs"
            )
    if not messages:
        _refuse("input", "is empty")
    return messages


def _add_message(messages: list[dict[str, Any]], item: Mapping[str, Any], field: str) -> None:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        _refuse(f"{field}.role", f"must be one of {', '.join(_ROLES)}")
    text = content if isinstance(content, str) else _parts(content, f"{field}.content", _TEXT_PARTS)
    messages.append({"role": "system" if role == "developer" else role, "content": text})


def _add_call(messages: list[dict[str, Any]], item: Mapping[str, Any], field: str) -> None:
    call_id, name, arguments = item.get("call_id"), item.get("name"), item.get("arguments", "{}")
    if not (isinstance(call_id, str) and isinstance(name, str) and isinstance(arguments, str)):
        _refuse(field, "must have 'call_id', 'name' and 'arguments', each a text")
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    calls = messages[-1].setdefault("tool_calls", [])
    calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})


def _add_output(messages: list[dict[str, Any]], item: Mapping[str, Any], field: str) -> None:
    call_id, output = item.get("call_id"), item.get("output")
    if not isinstance(call_id, str):
        _refuse(f"{field}.call_id", "must be the text that the call had")
    text = output if isinstance(output, str) else _parts(output, f"{field}.output", _TEXT_PARTS)
    messages.append({"role": "tool", "tool_call_id": call_id, "content": text})


_ITEMS: Mapping[str, Callable[[list[dict[str, Any]], Mapping[str, Any], str], None]] = {
    "message": _add_message,
    "function_call": _add_call,
    "function_call_output": _add_output,
}


def _parts(value: object, field: str, kinds: Sequence[str]) -> str:
    """Return the text of a list of parts."""
    found: list[str] = []
    for at, raw in enumerate(_list(value, field)):
        part = _object(raw, f"{field}[{at}]")
        text = part.get("text")
        if part.get("type") not in kinds or not isinstance(text, str):
            _refuse(f"{field}[{at}]", f"is no part of text ({', '.join(kinds)}); models here read text alone")
        found.append(text)
    return "".join(found)


def _tool(value: object, field: str) -> dict[str, Any]:
    tool = _object(value, field)
    if tool.get("type") != "function" or not isinstance(tool.get("name"), str):
        _refuse(field, "must be a function with a name; tools that OpenAI runs itself are not here")
    kept = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in kept if tool.get(name) is not None}}


def _tool_choice(choice: object) -> object:
    if choice in ("none", "auto", "required"):
        return choice
    named = _object(choice, "tool_choice")
    if named.get("type") != "function" or not isinstance(named.get("name"), str):
        _refuse("tool_choice", "must be none, auto, required, or a function by name")
    return {"type": "function", "function": {"name": named["name"]}}


def _response_format(text: object) -> dict[str, Any] | None:
    form = _object(_object(text or {}, "text").get("format") or {}, "text.format")
    match form.get("type", "text"):
        case "text":
            return None
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            kept = ("name", "description", "schema", "strict")
            schema = {name: form[name] for name in kept if form.get(name) is not None}
            return {"type": "json_schema", "json_schema": schema}
        case kind:
            _refuse("text.format.type", f"'{kind}' is not known; it is text, json_object or json_schema")


def _object(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(field, "must be an object")
    return cast("dict[str, Any]", value)


def _list(value: object, field: str) -> list[Any]:
    if not isinstance(value, list):
        _refuse(field, "is missing" if value is None else "must be a text or a list")
    return cast("list[Any]", value)


def _refuse(field: str, why: str) -> NoReturn:
    raise GatewayError(400, f"Field '{field}' {why}.", code="invalid_value", param=field)

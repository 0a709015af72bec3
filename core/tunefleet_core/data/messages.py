"""One message of a row: who speaks, what is said or thought, which tools are called or answer.

The fields are those of OpenAI's chat API and of the templates on the Hub. Thoughts have three
names there: `reasoning_content`, which most templates read, is kept; `thinking`, as rows for
GPT-OSS write it, and `reasoning`, as vLLM answers, are read as the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, cast

from tunefleet_core.data.json_text import check_text, check_value, read_json
from tunefleet_core.data.place import Place, did_you_mean, kind_of, shown

__all__ = ["ROLES", "Message", "ToolCall", "openai_messages", "read_message"]

ROLES = ("system", "user", "assistant", "tool")
"""Who may speak in a row."""

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "role": ROLES,
    "content": ROLES,
    "tool_calls": ("assistant",),
    "reasoning_content": ("assistant",),
    "thinking": ("assistant",),
    "reasoning": ("assistant",),
    "tool_call_id": ("tool",),
    "name": ("tool",),
}
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
_OTHER_NAMES = {
    "function_call": 'Write it as \'tool_calls\': a list with one {"type": "function", "function": ...}.',
    "reasoning_text": "Call it 'reasoning_content'.",
    "thought": "Call it 'reasoning_content'.",
    "tool_responses": "Write each as a message of the role 'tool'.",
}
_SHAPE = 'Write one object per line: {"messages": [{"role": "user", "content": "..."}, ...]}'
_CALL = (
    'Write each call as {"id": "...", "type": "function", "function": {"name": "...", "arguments": {...}}}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool. `arguments` is a JSON object; `id` is empty if the row gives none."""

    name: str
    arguments: Mapping[str, object]
    id: str = ""

    def as_chat(self) -> dict[str, object]:
        """Return the call in the form that chat templates take: the arguments as an object."""
        identity = {"id": self.id} if self.id else {}
        function = {"name": self.name, "arguments": dict(self.arguments)}
        return {**identity, "type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn: who speaks, and the text. Text parts are joined without a separator.

    Attributes:
        role: One of ROLES.
        content: The text; empty where the row says null beside tool calls.
        reasoning_content: What an assistant thought before it spoke; empty: nothing.
        tool_calls: The tools an assistant calls.
        tool_call_id: The call that a tool answers; empty: the row does not say.
        name: The tool that answers; empty: the row does not say.
    """

    role: str
    content: str
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""

    def as_chat(self) -> dict[str, object]:
        """Return the turn in the form that chat templates take."""
        chat: dict[str, object] = {"role": self.role, "content": self.content}
        if self.reasoning_content:
            chat["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            chat["tool_calls"] = [call.as_chat() for call in self.tool_calls]
        if self.tool_call_id:
            chat["tool_call_id"] = self.tool_call_id
        if self.name:
            chat["name"] = self.name
        return chat


def openai_messages(chat: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return turns of `as_chat` as OpenAI's API takes them: the arguments of calls as JSON text."""
    return [
        {**turn, "tool_calls": [_openai_call(call) for call in _calls(turn)]} if _calls(turn) else dict(turn)
        for turn in chat
    ]


def _calls(turn: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    return cast("Sequence[Mapping[str, object]]", turn.get("tool_calls") or ())


def _openai_call(call: Mapping[str, object]) -> dict[str, object]:
    function = cast("Mapping[str, object]", call["function"])
    arguments = json.dumps(function["arguments"], ensure_ascii=False, allow_nan=False)
    return {**call, "function": {**function, "arguments": arguments}}


def read_message(place: Place, field: str, item: object) -> Message:
    """Return the message that a JSON value means.

    Raises:
        TunefleetError: DATA_INVALID naming line and field.
    """
    if not isinstance(item, dict):
        place.refuse(field, f"must be an object with 'role' and 'content', got {kind_of(item)}.", hint=_SHAPE)
    # Null says nothing: tables of one type per column fill fields with it that a message lacks.
    given = {name: value for name, value in cast("dict[str, object]", item).items() if value is not None}
    for name in given:
        if name not in _FIELDS:
            _refuse_unknown(place, field, name)
    role = _role(place, f"{field}.role", cast("dict[str, object]", item))
    for name in given:
        if role not in _FIELDS[name]:
            place.refuse(
                f"{field}.{name}",
                f"is a field of the role '{_FIELDS[name][0]}', not of '{role}'.",
                hint=f"Remove '{name}' from line {place.line} or correct the role.",
            )
    calls = _tool_calls(place, f"{field}.tool_calls", given.get("tool_calls"))
    return Message(
        role=role,
        content=_content(place, f"{field}.content", cast("dict[str, object]", item), has_calls=bool(calls)),
        reasoning_content=_thought(place, field, given),
        tool_calls=calls,
        tool_call_id=_word(place, f"{field}.tool_call_id", given.get("tool_call_id")),
        name=_word(place, f"{field}.name", given.get("name")),
    )


def _refuse_unknown(place: Place, field: str, name: str) -> NoReturn:
    # A field that is left aside would mean other text than the file says.
    place.refuse(
        f"{field}.{name}",
        f"is not a field of a message{did_you_mean(name, _FIELDS)}.",
        hint=_OTHER_NAMES.get(name)
        or f"Remove '{name}' or put its text into 'content'; a message has {', '.join(_FIELDS)}.",
    )


def _role(place: Place, field: str, message: Mapping[str, object]) -> str:
    if "role" not in message:
        place.refuse(field, "is missing.")
    role = message["role"]
    if not isinstance(role, str):
        place.refuse(field, f"must be a string, got {kind_of(role)}.")
    if role not in ROLES:
        near = did_you_mean(role.lower(), ROLES)
        place.refuse(field, f"must be one of {', '.join(ROLES)}, got {shown(role)}{near}.")
    return role


def _content(place: Place, field: str, message: Mapping[str, object], *, has_calls: bool) -> str:
    value = message.get("content")
    if value is None and has_calls:
        return ""
    if "content" not in message:
        place.refuse(field, "is missing.")
    if isinstance(value, str):
        return check_text(place, field, value)
    if not isinstance(value, list):
        place.refuse(field, f"must be a string or a list of text parts, got {kind_of(value)}.")
    parts = [
        _part(place, f"{field}[{index}]", part) for index, part in enumerate(cast("list[object]", value))
    ]
    return "".join(parts)


def _part(place: Place, field: str, part: object) -> str:
    if not isinstance(part, dict):
        place.refuse(field, f'must be {{"type": "text", "text": "..."}}, got {kind_of(part)}.')
    fields = cast("dict[str, object]", part)
    kind = fields.get("type", "text")
    if kind != "text":
        place.refuse(f"{field}.type", f"must be 'text', got {shown(kind)}.", hint="Only text can be trained.")
    text = fields.get("text")
    if text is None:
        place.refuse(f"{field}.text", "is missing.")
    return check_text(place, f"{field}.text", text)


def _thought(place: Place, field: str, given: Mapping[str, object]) -> str:
    names = [name for name in _THOUGHTS if name in given]
    if len(names) > 1:
        place.refuse(
            f"{field}.{names[1]}", f"is another name of '{names[0]}', which is given too.", hint="Keep one."
        )
    return check_text(place, f"{field}.{names[0]}", given[names[0]]) if names else ""


def _word(place: Place, field: str, value: object) -> str:
    if value is None:
        return ""
    if check_text(place, field, value):
        return cast("str", value)
    place.refuse(field, "is empty.", hint="Leave it out, or name the call.")


def _tool_calls(place: Place, field: str, value: object) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        place.refuse(field, f"must be a list of calls, got {kind_of(value)}.", hint=_CALL)
    items = cast("list[object]", value)
    calls = tuple(_tool_call(place, f"{field}[{index}]", item) for index, item in enumerate(items))
    seen: dict[str, int] = {}
    for index, call in enumerate(calls):
        if call.id in seen:
            place.refuse(
                f"{field}[{index}].id",
                f"is {shown(call.id)}, the id of [{seen[call.id]}] too.",
                hint="Give each call of a message an id of its own.",
            )
        if call.id:
            seen[call.id] = index
    return calls


def _tool_call(place: Place, field: str, item: object) -> ToolCall:
    call = _object(place, field, item, known=("id", "type", "function"))
    if call.get("type", "function") != "function":
        place.refuse(f"{field}.type", f"must be 'function', got {shown(call['type'])}.", hint=_CALL)
    if "function" not in call:
        place.refuse(f"{field}.function", "is missing.", hint=_CALL)
    function = _object(place, f"{field}.function", call["function"], known=("name", "arguments"))
    name = function.get("name")
    if not isinstance(name, str) or not name:
        got = "is missing" if name is None else f"must be the name of a tool, got {shown(name)}"
        place.refuse(f"{field}.function.name", f"{got}.", hint=_CALL)
    return ToolCall(
        id=_word(place, f"{field}.id", call.get("id")),
        name=check_text(place, f"{field}.function.name", name),
        arguments=_arguments(place, f"{field}.function.arguments", function),
    )


def _arguments(place: Place, field: str, function: Mapping[str, object]) -> Mapping[str, object]:
    if "arguments" not in function:
        place.refuse(field, "is missing.", hint="Write {} for a call without arguments.")
    value = function["arguments"]
    if isinstance(value, str):  # OpenAI's API writes them as JSON text
        value = read_json(place, field, value, hint=_CALL)
    if not isinstance(value, dict):
        place.refuse(field, f"must be a JSON object, got {kind_of(value)}.", hint=_CALL)
    check_value(place, field, cast("object", value))
    return cast("dict[str, object]", value)


def _object(place: Place, field: str, item: object, *, known: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(item, dict):
        place.refuse(field, f"must be an object, got {kind_of(item)}.", hint=_CALL)
    given = {name: value for name, value in cast("dict[str, object]", item).items() if value is not None}
    for name in given:
        if name in known:
            continue
        if name in ("name", "arguments"):
            place.refuse(f"{field}.{name}", "stands outside of 'function'.", hint=_CALL)
        place.refuse(f"{field}.{name}", f"is not a field of a call{did_you_mean(name, known)}.", hint=_CALL)
    return given

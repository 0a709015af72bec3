"""Tools and calls that come over gRPC reach the engine as OpenAI's clients write them, keys in order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tunefleet.inference.v1 import inference_service_pb2 as pb
from tunefleet.type.v1.conversation_pb2 import Message
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import REFERENCE_CONVERSATIONS, ReferenceConversation
from tunefleet_services.gateway.inference.openai import chat_body, tokenize_body


def _message(turn: Any) -> Message:
    message = Message(role=turn["role"], reasoning_content=turn.get("reasoning_content", ""))
    message.tool_call_id, message.name = turn.get("tool_call_id", ""), turn.get("name", "")
    if turn["content"]:
        message.content.add(text=turn["content"])
    for call in turn.get("tool_calls", ()):
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        message.tool_calls.add(id=call["id"], name=function["name"], arguments_json=arguments)
    return message


def _as_chat(turn: dict[str, Any]) -> dict[str, Any]:
    for call in turn.get("tool_calls", ()):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return turn


@pytest.mark.parametrize("chat", [chat for chat in REFERENCE_CONVERSATIONS if chat.needs])
def test_a_conversation_with_tools_arrives_as_it_is(chat: ReferenceConversation) -> None:
    tools = json.dumps(chat.tools) if chat.tools else ""
    messages = [_message(turn) for turn in chat.messages]
    asked = json.loads(chat_body(pb.ChatRequest(messages=messages, tools_json=tools), "m"))
    request = pb.TokenizeRequest()
    request.conversation.messages.extend(messages)
    request.conversation.tools_json = tools
    for body in (asked, json.loads(tokenize_body(request, "m"))):
        assert [_as_chat(turn) for turn in body["messages"]] == list(chat.messages)
        assert json.dumps(body.get("tools", [])) == json.dumps(chat.tools)


@pytest.mark.parametrize(
    ("tools", "message", "field"),
    [
        ("{", None, "tools_json"),
        ("{}", None, "tools_json"),
        ("[NaN]", None, "tools_json"),
        ("", {"role": "user", "tool_calls": [{"name": "f"}]}, "messages[0].tool_calls"),
        ("", {"role": "user", "content": [{"text": "a"}], "name": "f"}, "messages[0].name"),
        ("", {"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].name"),
        (
            "",
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments_json": "[]"}]},
            "messages[0].tool_calls[0].arguments_json",
        ),
        ("", {"role": "assistant", "reasoning_content": "x"}, "messages[0].content"),
    ],
)
def test_what_no_engine_takes_is_refused_by_field(tools: str, message: Any, field: str) -> None:
    turn = Message(**(message or {"role": "user", "content": [{"text": "a"}]}))
    with pytest.raises(TunefleetError) as caught:
        chat_body(pb.ChatRequest(messages=[turn], tools_json=tools), "m")
    assert caught.value.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in caught.value.violations] == [field]

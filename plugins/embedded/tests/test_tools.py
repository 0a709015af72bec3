"""Tools, calls and answers of tools become the token ids of training, or are refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import reference
from conftest import Lab
from engine_process import EngineProcess
from tunefleet_core.data import openai_messages
from tunefleet_core.parity import reference_prompts
from tunefleet_families import QWEN3

EVERYTHING = ("tools", "parallel_calls", "thoughts")
TOOL = {"type": "function", "function": {"name": "f", "description": "d"}}
USER = {"role": "user", "content": "Hi"}
CALL_OF_G = {"type": "function", "function": {"name": "g"}}


def with_schema(schema: object, **more: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "g", "parameters": schema, **more}}


@pytest.fixture(scope="module")
def trained(qwen_lab: Lab, qwen: EngineProcess) -> Iterator[str]:
    """An adapter that carries the chat template it was trained with."""
    reply = qwen.load("with-tools", qwen_lab.adapters["a"], chat_template=QWEN3.chat_template)
    assert reply.status == 200, reply.text
    yield "with-tools"
    qwen.unload("with-tools")


def test_a_conversation_has_the_ids_of_training(qwen_lab: Lab, qwen: EngineProcess, trained: str) -> None:
    tokenizer = reference.tokenizer(qwen_lab.base)
    for prompt in reference_prompts(EVERYTHING):
        expected = tokenizer.apply_chat_template(
            [dict(turn) for turn in prompt.messages],
            tools=[dict(tool) for tool in prompt.tools] or None,
            chat_template=QWEN3.chat_template,
            add_generation_prompt=True,
            return_dict=True,
        )["input_ids"]
        body = {"model": trained, "messages": openai_messages(prompt.messages), "tools": list(prompt.tools)}
        assert qwen.post("/tokenize", body).json()["tokens"] == expected


def test_an_answer_is_given_to_a_conversation_with_tools(qwen: EngineProcess, trained: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages: Any = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    asked = {"model": trained, "messages": messages, "tools": [TOOL], "tool_choice": "auto"}
    answer = qwen.client().chat.completions.create(max_tokens=1, temperature=0, **asked)
    tokens = qwen.post("/tokenize", {key: asked[key] for key in ("model", "messages", "tools")}).json()
    assert answer.usage.prompt_tokens == len(tokens["tokens"])
    assert "<tool_response>" in qwen.post("/detokenize", {"model": trained, **tokens}).text


def test_tools_that_the_template_does_not_show_are_refused_by_name(qwen: EngineProcess) -> None:
    reply = qwen.post("/v1/chat/completions", {"model": "a", "messages": [USER], "tools": [TOOL]})
    assert reply.status == 400
    assert reply.json()["error"]["param"] == "tools"
    assert "shows no tools" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [{}]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": CALL_OF_G}, "tool_choice.function.name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [with_schema([])]}, "tools[0].function.parameters"),
        (
            {"tools": [TOOL, with_schema({"type": "string"})], "tool_choice": "required"},
            "tools[1].function.parameters",
        ),
        (
            {"tools": [with_schema({"properties": {"n": {"type": "nonsense"}}})], "tool_choice": "required"},
            "tools[0].function.parameters",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": "required",
                "response_format": {"type": "json_object"},
            },
            "response_format",
        ),
        ({"tools": [TOOL], "parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": 1}]}, "messages[1].tool_calls"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{}]}]}, "messages[1].tool_calls[0]"),
        (
            {
                "messages": [
                    USER,
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": json.dumps([1])}}],
                    },
                ]
            },
            "messages[1].tool_calls[0].function.arguments",
        ),
    ],
)
def test_a_wrong_value_is_a_400_that_names_the_field(
    qwen: EngineProcess, trained: str, change: dict[str, Any], param: str
) -> None:
    reply = qwen.post("/v1/chat/completions", {"model": trained, "messages": [USER], **change})
    assert reply.status == 400
    assert reply.json()["error"]["param"] == param

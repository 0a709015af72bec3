"""Calls in ways that mlx-lm has no parser for come back as calls, whole and in a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.generate import make_text_state_machine
from mlx_lm.server import GenerationContext, Response
from mlx_lm.tokenizer_utils import load as load_tokenizer

from tunefleet_families import GEMMA4, GPT_OSS, LLAMA3, LLAMA4, QWEN3
from tunefleet_mlx.engine.answers import AnswerWriter
from tunefleet_mlx.engine.calls import CallReaders, read_tools
from tunefleet_mlx.engine.refusal import Refusal
from tunefleet_mlx.engine.requests import parse_generation

PAINT = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
TOOLS = [{"type": "function", "function": {"name": "paint", "description": "Paint.", "parameters": PAINT}}]
LLAMA3_1 = next(form.chat_template for form in LLAMA3.variants if form.name == "llama3_1")
RED = '{"name": "paint", "parameters": {"colour": "red"}}'
WRITTEN = {
    "llama3_1": (LLAMA3_1, RED, None),
    "llama4": (LLAMA4.chat_template, f"<|python_start|>I paint.<|python_end|>{RED}", "I paint."),
    "gpt_oss": (
        GPT_OSS.chat_template,
        "<|channel|>analysis<|message|>Red?<|end|><|start|>assistant<|channel|>commentary to=functions.paint "
        '<|constrain|>json<|message|>{"colour": "red"}',
        None,
    ),
}


def tokenizer_with(bases: Path, template: str) -> Any:
    return load_tokenizer(bases / "qwen3", {"trust_remote_code": False, "chat_template": template})


def responses(text: str) -> Iterator[Response]:
    for letter in text:
        yield Response(letter, 5, 0.0, None, ())
    yield Response("", 6, 0.0, "stop", ())


def writer(bases: Path, template: str, **more: object) -> AnswerWriter:
    tokenizer = tokenizer_with(bases, template)
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, **more}
    asked = parse_generation(body, is_chat=True, most_tokens=100)
    reader = CallReaders().reader(tokenizer, asked.tools)
    context = GenerationContext(
        has_tool_calling=tokenizer.has_tool_calling,
        has_thinking=tokenizer.has_thinking,
        tool_parser=tokenizer.tool_parser,
        text_sm=make_text_state_machine(tokenizer),
        initial_state="normal",
        prompt=[1, 2],
    )
    return AnswerWriter(asked, context, str, reader)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_call_comes_back_as_one(bases: Path, name: str) -> None:
    template, written, said = WRITTEN[name]
    whole = writer(bases, template).whole(responses(written))["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] == said
    (call,) = whole["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == (
        "paint",
        {"colour": "red"},
    )

    chunks = [item["choices"][0] for item in writer(bases, template, stream=True).chunks(responses(written))]
    deltas = [chunk["delta"] for chunk in chunks]
    calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "paint")]
    assert "".join(delta.get("content") or "" for delta in deltas) == (said or "")
    assert chunks[-1]["finish_reason"] == "tool_calls"


def test_without_leave_to_call_it_stays_text(bases: Path) -> None:
    told = writer(bases, LLAMA3_1, tool_choice="none").whole(responses(RED))["choices"][0]
    assert (told["message"]["content"], told["finish_reason"]) == (RED, "stop")


def test_a_demanded_call_that_cannot_be_held_is_refused_by_name(bases: Path) -> None:
    tokenizer = tokenizer_with(bases, GEMMA4.chat_template)
    for choice in ("required", {"type": "function", "function": {"name": "paint"}}):
        with pytest.raises(Refusal, match="'tool_choice' can be none or auto only"):
            CallReaders().form(tokenizer, read_tools(TOOLS, choice, is_parallel=True), None)
    with pytest.raises(Refusal, match="has no function 'sing'"):
        read_tools(TOOLS, {"type": "function", "function": {"name": "sing"}}, is_parallel=True)
    with pytest.raises(Refusal, match="there are no 'tools'"):
        read_tools(None, "required", is_parallel=True)


def test_mlx_lm_reads_what_it_knows(bases: Path) -> None:
    tokenizer = tokenizer_with(bases, QWEN3.chat_template)
    assert CallReaders().reader(tokenizer, read_tools(TOOLS, None, is_parallel=True)) is None
    assert tokenizer.has_tool_calling


def test_a_tool_without_a_name_is_refused() -> None:
    with pytest.raises(Refusal, match="'tools'"):
        read_tools([{"type": "function"}], None, is_parallel=True)

"""Calls that the templates write are read by our own engines: what they hold, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("transformers", reason="rendering needs the trl environment")
from chat_forms import FORM, Form, build_tokenizer  # found through conftest.py

from tunefleet_core.parity import REFERENCE_CONVERSATIONS
from tunefleet_core.tool_calls import find_format, reader_of

pytestmark = pytest.mark.backend

FOUND = {
    "qwen2_5": "hermes",
    "qwen3": "hermes",
    "qwen3/instruct": "hermes",
    "qwen3_moe": "hermes",
    "qwen3_moe/instruct": "hermes",
    "qwen3_moe/coder": "qwen3_coder",
    "qwen3_5": "qwen3_coder",
    "qwen3_5/qwen3_6": "qwen3_coder",
    "mistral": "mistral",
    "mistral/v7": "mistral",
    "mixtral/v3": "mistral",
    "llama3/llama3_1": "llama3_json",
    "llama3/llama3_2": "llama3_json",
    "llama4": "llama4_json",
    "gpt_oss": "openai",
    "deepseek_v4": "deepseek_v4",
    "gemma4": "gemma4",
}
"""The other forms show no tools."""


@FORM
def test_the_template_says_how_it_writes_calls_and_they_are_read(form: Form) -> None:
    tokenizer = build_tokenizer(form)
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    marks = [token.content for token in added if token.special]

    def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]], is_prompt: bool) -> str:
        return tokenizer.apply_chat_template(
            messages,
            tools=tools,
            chat_template=form.template,
            add_generation_prompt=is_prompt,
            tokenize=False,
        )

    name = f"{form.family}/{form.variant}".rstrip("/")
    try:
        found = find_format(render, marks)
    except Exception:  # a template refuses what it does not show
        found = None
    assert (found and found.name) == FOUND.get(name)
    if found is None:
        return
    for chat in REFERENCE_CONVERSATIONS:
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in chat.tools}
        if not chat.needs <= set(form.takes):
            continue
        for turn, message in enumerate(chat.messages):
            if calls := message.get("tool_calls"):
                messages = [dict(one) for one in chat.messages[: turn + 1]]
                prompt = render(messages[:-1], list(chat.tools), True)
                whole = render(messages, list(chat.tools), False)
                if not whole.startswith(prompt):
                    continue  # a known break: the row begins otherwise
                text = whole[len(prompt) :]
                for mark in marks:
                    text = text.rstrip().removesuffix(mark)
                reader = reader_of(found, schemas)
                pieces = [reader.push(letter) for letter in text]  # as a stream may cut it
                pieces.append(reader.finish())
                read = [(call.name, json.loads(call.arguments)) for piece in pieces for call in piece.calls]
                assert read == [(call["function"]["name"], call["function"]["arguments"]) for call in calls]

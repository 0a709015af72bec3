"""Rows with tools and thoughts: the published ids, a mask on what the model writes, known breaks.

What a form does not show is refused where a row holds it: no row is trained in part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="rendering needs the trl environment")
from chat_forms import (  # found through conftest.py
    BY_NAME,
    FORM,
    Form,
    build_tokenizer,
    published_text,
    trained_spans,
)

from tunefleet.job.v1.resolved_pb2 import ChatTemplate
from tunefleet_core.data import openai_messages, read_rows
from tunefleet_core.errors import TunefleetError
from tunefleet_core.parity import REFERENCE_CONVERSATIONS, ReferenceConversation
from tunefleet_core.rendering import Renderer, render_rows, template_difference

pytestmark = pytest.mark.backend

WITH_MORE = [chat for chat in REFERENCE_CONVERSATIONS if chat.needs]
_THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_BLANK_LINES = re.compile(r"\n+")


def _taken(form: Form) -> Iterator[ReferenceConversation]:
    for chat in WITH_MORE:
        if chat.needs <= set(form.takes):
            yield chat


def _renderer(form: Form, text: str = "", **kwargs: object) -> Renderer:
    template = ChatTemplate(text=text or form.template, frozen_time_seconds=1_700_000_000)
    loss_on = "all" if text else "assistant"
    return Renderer(build_tokenizer(form), template, loss_on=loss_on, template_kwargs=kwargs)


def _as_row(chat: ReferenceConversation, folder: Path) -> Path:
    path = folder / "train.jsonl"
    path.write_text(json.dumps({"messages": openai_messages(chat.messages), "tools": chat.tools}))
    return path


@FORM
def test_a_row_is_trained_if_the_form_shows_all_of_it_and_refused_else(form: Form, tmp_path: Path) -> None:
    renderer = _renderer(form)
    for chat in WITH_MORE:
        path = str(_as_row(chat, tmp_path))
        if chat.needs <= set(form.takes):
            ((_, rendered),) = render_rows(path, read_rows(path), renderer)
            assert rendered.trained_tokens
            continue
        with pytest.raises(TunefleetError, match=r"train\.jsonl:1: ") as caught:
            list(render_rows(path, read_rows(path), renderer))
        assert caught.value.hint


@FORM
def test_the_ids_are_those_of_the_published_text(form: Form) -> None:
    if not form.published or not form.takes:
        pytest.skip("there is no published text, or it knows neither tools nor thoughts")
    off = {"enable_thinking": False} if form.has_empty_thoughts else {}
    ours, theirs = _renderer(form), _renderer(form, published_text(form), **off)
    for chat in _taken(form):
        rows = [renderer.row(chat.messages, chat.tools).input_ids for renderer in (ours, theirs)]
        pairs = [(chat.messages, rows[0], rows[1])]
        for _, prompt in chat.prompts():
            asked = prompt.messages, prompt.tools
            pairs.append((prompt.messages, ours.prompt(*asked), theirs.prompt(*asked)))
        for messages, one, other in pairs:
            answers = sum(message["role"] == "assistant" for message in messages)
            if form.has_empty_thoughts and answers + (messages is not chat.messages) > 1:
                assert _without_thoughts(ours.text(one)) == _without_thoughts(ours.text(other))
            else:
                assert one == other


@FORM
def test_the_submit_accepts_a_base_with_the_published_text(form: Form) -> None:
    if not form.published or not form.takes or not form.compares_prompts:
        pytest.skip("there is no published text of this form, or it knows neither tools nor thoughts")
    assert template_difference(_renderer(form), published_text(form), held=form.takes) == ""


@FORM
def test_the_mask_covers_what_the_assistant_writes_and_nothing_else(form: Form) -> None:
    renderer = _renderer(form)
    stops = BY_NAME[form.family].stop_tokens
    for chat in _taken(form):
        row = renderer.row(chat.messages, chat.tools)
        found = {"input_ids": row.input_ids, "assistant_masks": row.mask}
        spans = trained_spans(renderer.tokenizer, found)
        written = [message for message in chat.messages if message["role"] == "assistant"]
        assert len(spans) == len(written)
        shown = renderer.written(chat.messages, chat.tools)
        for span, message in zip(spans, written, strict=True):
            for word in _words(message):
                assert word in span or (word not in shown and message is not written[-1])
        assert all(word not in "".join(spans) for word in _read(chat))
        for span in spans if form.end_before is None else spans[-1:]:
            assert span.endswith(stops)
        assert not row.mask[0]


@FORM
def test_every_prompt_is_the_start_of_its_row_or_a_known_break(form: Form) -> None:
    renderer = _renderer(form)
    thinking = _renderer(form, enable_thinking=True, thinking=True)  # models differ in the name
    for chat in _taken(form):
        row = renderer.row(chat.messages, chat.tools)
        for turn, prompt in chat.prompts():
            served = renderer.prompt(prompt.messages, prompt.tools)
            is_start = row.input_ids[: len(served)] == served
            thinks = "reasoning_content" in chat.messages[turn]
            assert not (is_start and thinks and form.has_empty_thoughts), (
                "an empty thought has no room for one"
            )
            if thinks and not is_start:
                served = thinking.prompt(prompt.messages, prompt.tools)
                is_start = row.input_ids[: len(served)] == served
            assert is_start != _is_known_break(form, chat, turn)
            if is_start:
                assert row.mask[len(served) - 1 : len(served) + 1] == [0, 1], "training begins where it does"


def _is_known_break(form: Form, chat: ReferenceConversation, turn: int) -> bool:
    if form.breaks([dict(message) for message in chat.messages]):
        return True
    if form.template.count("[AVAILABLE_TOOLS]"):  # tools stand before the last question
        return any(message["role"] == "user" for message in chat.messages[turn:])
    # The thought beside a call goes once an answer stands after the call.
    beside_call = "tool_calls" in chat.messages[1] and "reasoning_content" in chat.messages[1]
    return form.family == "gpt_oss" and beside_call and turn > 1


def _words(message: Mapping[str, Any]) -> Iterator[str]:
    yield str(message["content"]).strip()
    yield str(message.get("reasoning_content", "")).strip()
    for call in message.get("tool_calls", ()):
        yield call["function"]["name"]
        values = call["function"]["arguments"].values()
        yield from (value for value in values if isinstance(value, str))


def _read(chat: ReferenceConversation) -> Sequence[str]:
    """Return what the model reads and never writes: questions, descriptions, answers of tools."""
    said = [str(message["content"]) for message in chat.messages if message["role"] in ("user", "system")]
    tools = [str(tool["function"]["description"]) for tool in chat.tools]  # type: ignore[index]
    results = [str(message["content"]) for message in chat.messages if message["role"] == "tool"]
    return [*said, *tools, *(text for text in results if len(text) > 2), "tool_response>\n"]


def _without_thoughts(text: str) -> str:
    return _BLANK_LINES.sub("\n", _THOUGHT.sub("", text))

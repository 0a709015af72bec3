"""An engine that makes other ids of a conversation is refused with the first difference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunefleet_core.data import openai_messages, read_rows
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import (
    REFERENCE_CONVERSATIONS,
    AdapterRecord,
    PrecisionRecord,
    TemplateRecord,
    TokensRecord,
    TrainServeContract,
    check_tokens,
    reference_prompts,
)


def _contract() -> TrainServeContract:
    records = tuple(
        TokensRecord(messages=({"role": "user", "content": f"question {n}"},), prompt_token_ids=(n, 5, 6, 7))
        for n in range(3)
    )
    return TrainServeContract(
        base_digest="",
        tokenizer_digest="",
        template=TemplateRecord(text="", sha256="", stop_token_ids=(), frozen_time_seconds=0),
        adapter=AdapterRecord(rank=8, alpha=8, effective_scale=1.0, target_modules=()),
        precision=PrecisionRecord(dtype="float32", quantization=""),
        tokens=records,
        numbers=(),
    )


def test_equal_ids_pass() -> None:
    check_tokens(_contract(), [[0, 5, 6, 7], [1, 5, 6, 7], [2, 5, 6, 7]])


@pytest.mark.parametrize(
    ("wrong", "position", "fact"),
    [
        ([1, 5, 9, 7], "2", "trained as 6 7 and is served as 9 7"),
        ([1, 5, 6], "3", "trained as 7 and is served as nothing"),
        ([1, 5, 6, 7, 8], "4", "trained as nothing and is served as 8"),
        ([], "0", "trained as 1 5 6 7 and is served as nothing"),
    ],
)
def test_the_first_difference_is_named(wrong: list[int], position: str, fact: str) -> None:
    with pytest.raises(TunefleetError, match=f"conversation 1 .'question 1'.*{fact}") as caught:
        check_tokens(_contract(), [[0, 5, 6, 7], wrong, [2, 5, 6, 7]])
    assert caught.value.reason is Reason.TEMPLATE_MISMATCH
    assert caught.value.metadata["conversation"] == "1"
    assert caught.value.metadata["position"] == position


def test_a_conversation_that_was_not_answered_is_refused() -> None:
    with pytest.raises(TunefleetError, match=r"conversation 2 .*made no ids"):
        check_tokens(_contract(), [[0, 5, 6, 7], [1, 5, 6, 7]])


EVERYTHING = ("tools", "parallel_calls", "thoughts")


def test_reference_prompts_cover_every_answer() -> None:
    prompts = list(reference_prompts(EVERYTHING))
    answers = sum(
        message["role"] == "assistant" for chat in REFERENCE_CONVERSATIONS for message in chat.messages
    )
    assert len(prompts) == answers
    assert all(prompt.messages[-1]["role"] in ("user", "tool") for prompt in prompts)
    assert max(len(prompt.messages) for prompt in prompts) == 7, "one of them has earlier answers"


def test_conversations_that_need_more_than_the_rows_hold_are_left_out() -> None:
    plain = list(reference_prompts())
    assert len(plain) == 8
    assert not any(prompt.tools for prompt in plain)
    with_tools = list(reference_prompts({"tools"}))
    assert len(plain) < len(with_tools) < len(list(reference_prompts(EVERYTHING)))
    assert not any("reasoning_content" in turn for prompt in with_tools for turn in prompt.messages)


def test_reference_conversations_are_rows_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "references.jsonl"
    lines = [
        json.dumps({"messages": openai_messages(chat.messages), "tools": chat.tools})
        for chat in REFERENCE_CONVERSATIONS
    ]
    path.write_text("\n".join(lines))
    for row, chat in zip(read_rows(path), REFERENCE_CONVERSATIONS, strict=True):
        assert row.as_chat() == list(chat.messages)
        assert row.tools == chat.tools

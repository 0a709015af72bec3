"""DeepSeek-V4's chat form against the encoder it was published with, which is no Jinja template."""

from __future__ import annotations

from typing import Any

import pytest
from published_encoder import rendered

from tunefleet_families import DEEPSEEK_V4

pytest.importorskip("transformers", reason="rendering needs the trl environment")
import family_lab as lab  # found through conftest.py

pytestmark = pytest.mark.backend

KEPT = rendered()
CASES: list[dict[str, Any]] = KEPT["cases"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A byte-level tokenizer with the tokens of the family, and its start of text."""
    start, end = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    return lab.build_tokenizer(lab.special_tokens(DEEPSEEK_V4.chat_template), bos=start, eos=end)


def _render(tokenizer: Any, case: dict[str, Any], **arguments: Any) -> Any:
    return tokenizer.apply_chat_template(
        case["messages"],
        tools=case["tools"] or None,
        chat_template=DEEPSEEK_V4.chat_template,
        add_generation_prompt=case["messages"][-1]["role"] != "assistant",
        enable_thinking=case["thinks"],
        **arguments,
    )


@pytest.mark.parametrize(("case", "text"), list(zip(CASES, KEPT["texts"], strict=True)))
def test_the_ids_are_those_of_the_published_encoder(tokenizer: Any, case: dict[str, Any], text: str) -> None:
    ours = _render(tokenizer, case, tokenize=False)
    assert ours == text
    assert tokenizer(ours)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["messages"][-1]["role"] == "assistant" and case["tools"]]
)
def test_calls_and_thoughts_are_trained_and_results_are_not(tokenizer: Any, case: dict[str, Any]) -> None:
    row = _render(tokenizer, case, return_dict=True, return_assistant_tokens_mask=True)
    pairs = list(zip(row["input_ids"], row["assistant_masks"], strict=True))
    trained = tokenizer.decode([token for token, is_trained in pairs if is_trained])
    read = tokenizer.decode([token for token, is_trained in pairs if not is_trained])
    for message in case["messages"]:
        for call in message.get("tool_calls", ()):
            assert f'<｜DSML｜invoke name="{call["function"]["name"]}">' in trained
        if message["role"] == "tool":
            assert f"<tool_result>{message['content']}</tool_result>" in read
        if message["role"] == "assistant":
            assert (
                message.get("reasoning_content", "") + message["content"] not in read
                or not message["content"]
            )
    assert trained.endswith("<｜end▁of▁sentence｜>")


def test_every_prompt_is_the_start_of_its_row(tokenizer: Any) -> None:
    row: list[int] = []
    compared = 0
    for case in CASES:
        ids = _render(tokenizer, case, return_dict=True)["input_ids"]
        if case["messages"][-1]["role"] == "assistant":
            row = ids
        else:
            assert row[: len(ids)] == ids
            compared += 1
    assert compared > 10

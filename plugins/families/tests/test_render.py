"""Render the templates with the library that trains, on a tokenizer made here."""

from __future__ import annotations

from typing import Any

import pytest

from tunefleet_core.catalog.family import Family
from tunefleet_families import LLAMA3, QWEN3

pytest.importorskip("transformers", reason="rendering needs the trl environment")
pytestmark = pytest.mark.backend

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)

CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "one answer": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
    "system and three answers": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Größer? 🙂"},
        {"role": "assistant", "content": '{"answer": "ja 🙂"}'},
    ],
    "line ends and spaces": [
        {"role": "user", "content": "  a\n\nb  "},
        {"role": "assistant", "content": "c\n\nd"},
        {"role": "user", "content": "\ne"},
        {"role": "assistant", "content": "f \n"},
    ],
    "answer first": [{"role": "assistant", "content": "Welcome."}, {"role": "user", "content": "Hi"},
                     {"role": "assistant", "content": "Yes?"}],
    "empty answer": [{"role": "user", "content": "Say nothing."}, {"role": "assistant", "content": ""}],
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A byte-level tokenizer with the special tokens of both families."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|begin_of_text|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def _row(tokenizer: Any, family: Family, messages: list[dict[str, str]]) -> Any:
    return tokenizer.apply_chat_template(
        messages, chat_template=family.chat_template, return_dict=True, return_assistant_tokens_mask=True
    )


def _prompt(tokenizer: Any, family: Family, messages: list[dict[str, str]], **kwargs: Any) -> list[int]:
    return tokenizer.apply_chat_template(
        messages,
        chat_template=family.chat_template,
        add_generation_prompt=True,
        return_dict=True,
        **kwargs,
    )["input_ids"]


def _trained_texts(tokenizer: Any, row: Any) -> list[str]:
    spans: list[list[int]] = []
    previous = 0
    for token, is_trained in zip(row["input_ids"], row["assistant_masks"], strict=True):
        if is_trained and not previous:
            spans.append([])
        if is_trained:
            spans[-1].append(token)
        previous = is_trained
    return [tokenizer.decode(span) for span in spans]


@pytest.mark.parametrize("family", [QWEN3, LLAMA3], ids=lambda family: family.name)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_served_prompt_is_the_start_of_the_trained_row(
    tokenizer: Any, family: Family, name: str
) -> None:
    messages = CONVERSATIONS[name]
    row = _row(tokenizer, family, messages)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant" or turn == 0:
            continue
        prompt = _prompt(tokenizer, family, messages[:turn])
        assert row["input_ids"][: len(prompt)] == prompt
        assert row["assistant_masks"][len(prompt) - 1] == 0, "the prompt is read, not written"
        assert row["assistant_masks"][len(prompt)] == 1, "training begins where generation begins"


@pytest.mark.parametrize(
    ("family", "end"), [(QWEN3, "<|im_end|>"), (LLAMA3, "<|eot_id|>")], ids=lambda value: str(value)[:6]
)
def test_exactly_the_answers_and_their_end_of_turn_are_trained(
    tokenizer: Any, family: Family, end: str
) -> None:
    row = _row(tokenizer, family, CONVERSATIONS["system and three answers"])
    assert _trained_texts(tokenizer, row) == ["2" + end, "4" + end, '{"answer": "ja 🙂"}' + end]


def test_a_qwen3_answer_begins_with_an_empty_thought_in_row_and_prompt(tokenizer: Any) -> None:
    row = tokenizer.decode(_row(tokenizer, QWEN3, CONVERSATIONS["one answer"])["input_ids"])
    assert row == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nHello.<|im_end|>\n"
    )


def test_a_qwen3_prompt_leaves_room_for_a_thought_when_thinking_is_on(tokenizer: Any) -> None:
    prompt = _prompt(tokenizer, QWEN3, [{"role": "user", "content": "Hi"}], enable_thinking=True)
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")


def test_a_qwen3_thought_in_a_row_is_trained_and_is_a_known_break_of_the_prefix(tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\ngreet\n</think>\n\nHello."},
    ]
    row = _row(tokenizer, QWEN3, messages)
    assert _trained_texts(tokenizer, row) == ["<think>\ngreet\n</think>\n\nHello.<|im_end|>"]
    prompt = _prompt(tokenizer, QWEN3, messages[:1])
    assert row["input_ids"][: len(prompt)] != prompt
    thinking = _prompt(tokenizer, QWEN3, messages[:1], enable_thinking=True)
    assert row["input_ids"][: len(thinking)] == thinking


def test_a_llama3_row_begins_with_one_begin_of_text(tokenizer: Any) -> None:
    row = tokenizer.decode(_row(tokenizer, LLAMA3, CONVERSATIONS["one answer"])["input_ids"])
    assert row == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
    )


@pytest.mark.parametrize("family", [QWEN3, LLAMA3], ids=lambda family: family.name)
def test_content_that_is_not_text_is_refused_not_dropped(tokenizer: Any, family: Family) -> None:
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match="must be text"):
        _prompt(tokenizer, family, [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])  # type: ignore[dict-item, list-item]


def test_qwen3_tools_are_rendered_as_published(tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "w", "arguments": {"c": 1}}}],
        },
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ]
    text = tokenizer.apply_chat_template(
        messages, chat_template=QWEN3.chat_template, tokenize=False, tools=[{"name": "w"}]
    )
    assert '<tools>\n{"name": "w"}\n</tools>' in text
    assert '<tool_call>\n{"name": "w", "arguments": {"c": 1}}\n</tool_call><|im_end|>\n' in text
    assert "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n" in text

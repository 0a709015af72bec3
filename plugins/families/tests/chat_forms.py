"""The chat forms of the families, what their rows have to look like, and how to render them.

Texts whose licence allows it lie in `published/`; the others are read from the installed
libraries that carry them, and tests that need them are skipped where those do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import family_lab as lab  # found through conftest.py
import pytest

from tunefleet_core.catalog.family import Family
from tunefleet_core.parity import REFERENCE_CONVERSATIONS
from tunefleet_families.plugin import FAMILIES

__all__ = [
    "BY_NAME",
    "CHATS",
    "FORM",
    "FORMS",
    "Chat",
    "Form",
    "build_tokenizer",
    "prompts",
    "published_text",
    "render",
    "trained_spans",
    "without_empty_thoughts",
]

Chat = list[dict[str, Any]]
BY_NAME = {family.name: family for family in FAMILIES}
CHATS: tuple[Chat, ...] = (
    *([dict(turn) for turn in chat.messages] for chat in REFERENCE_CONVERSATIONS if not chat.needs),
    [
        {"role": "system", "content": "Be brief. 🙂"},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Größer?"},
        {"role": "assistant", "content": "drei"},
    ],
)
_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*")
_BLANK_LINES = re.compile(r"\n+")


def _as_it_is(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A chat form of a family, and what its rows have to look like.

    Attributes:
        published: File in `published/`, or `trl:NAME`, or `transformers:llama4`; empty: none to compare.
        start: What the model writes before the answer's words.
        end: What it writes after them, in the last answer.
        end_before: The same in earlier answers.
        words: What the template makes of an answer's words.
        breaks: Whether the prompt of an answer is no start of its row.
        has_empty_thoughts: Published texts drop thoughts of earlier answers; we keep empty ones.
        compares_prompts: Whether the published prompt is the same too.
        takes: What it shows beside plain turns, as reference conversations need it.
    """

    family: str
    variant: str = ""
    published: str
    start: str = ""
    end: str
    end_before: str | None = None
    words: Callable[[str], str] = _as_it_is
    breaks: Callable[[Chat], bool] = lambda chat: False
    has_empty_thoughts: bool = False
    compares_prompts: bool = True
    takes: Collection[str] = ()

    @property
    def template(self) -> str:
        """Return the Jinja source."""
        family = BY_NAME[self.family]
        texts = {variant.name: variant.chat_template for variant in family.variants}
        return texts[self.variant] if self.variant else family.chat_template


def _qwen3_words(text: str) -> str:
    return text.lstrip("\n")


def _has_system(chat: Chat) -> bool:
    return chat[0]["role"] == "system"


_IM_END = "<|im_end|>"
_TOOLS = ("tools", "parallel_calls")
_ALL = (*_TOOLS, "thoughts")
FORMS = [
    Form(
        family="qwen3",
        takes=_ALL,
        published="qwen3",
        end=_IM_END,
        words=_qwen3_words,
        has_empty_thoughts=True,
    ),
    Form(family="qwen3", variant="instruct", takes=_TOOLS, published="qwen3_instruct_2507", end=_IM_END),
    Form(family="llama3", published="trl:llama3", end="<|eot_id|>", words=str.strip),
    Form(
        family="llama3",
        variant="llama3_1",
        takes=("tools",),
        published="trl:llama3_1",
        end="<|eot_id|>",
        words=str.strip,
    ),
    Form(
        family="llama3",
        variant="llama3_2",
        takes=("tools",),
        published="trl:llama3_2",
        end="<|eot_id|>",
        words=str.strip,
    ),
    Form(family="qwen2_5", takes=_TOOLS, published="qwen2_5", end=_IM_END),
    Form(
        family="qwen3_moe",
        takes=_ALL,
        published="qwen3",
        end=_IM_END,
        words=_qwen3_words,
        has_empty_thoughts=True,
    ),
    Form(family="qwen3_moe", variant="coder", takes=_TOOLS, published="qwen3_coder", end=_IM_END),
    Form(family="qwen3_moe", variant="instruct", takes=_TOOLS, published="qwen3_instruct_2507", end=_IM_END),
    Form(
        family="mistral",
        takes=_TOOLS,
        published="mistral_v3",
        start=" ",
        end="</s>",
        words=str.strip,
        breaks=_has_system,
    ),
    Form(family="mistral", variant="v1", published="mistral_v1", start=" ", end="</s>"),
    Form(family="mistral", variant="v7", takes=_TOOLS, published="mistral_v7", end="</s>"),
    Form(family="mixtral", published="mistral_v1", start=" ", end="</s>"),
    Form(
        family="mixtral",
        variant="v3",
        takes=_TOOLS,
        published="mistral_v3",
        start=" ",
        end="</s>",
        words=str.strip,
        breaks=_has_system,
    ),
    Form(family="gemma2", published="trl:gemma", end="<end_of_turn>", words=str.strip),
    Form(family="gemma3", published="trl:gemma3", end="<end_of_turn>", words=str.strip),
    Form(family="gemma4", takes=_ALL, published="gemma4_v5", end="<turn|>", words=str.strip),
    Form(family="phi4", published="phi4", end=_IM_END),
    Form(family="phi4", variant="mini", published="phi4_mini", end="<|end|>"),
    Form(family="phi4", variant="phi3_5", published="phi3_5", end="<|end|>"),
    Form(
        family="gpt_oss",
        takes=("tools", "thoughts"),
        published="gptoss",
        start="<|channel|>final<|message|>",
        end="<|return|>",
        end_before="",
    ),
    Form(family="deepseek_v3", published="deepseekv3", end="<｜end▁of▁sentence｜>", compares_prompts=False),
    Form(
        family="deepseek_v3",
        variant="r1",
        published="deepseekv3",
        end="<｜end▁of▁sentence｜>",
        breaks=lambda chat: True,
    ),
    # Published as an encoder in Python: see test_deepseek_v4.py.
    Form(family="deepseek_v4", takes=_ALL, published="", end="<｜end▁of▁sentence｜>"),
    Form(family="cohere", published="trl:cohere", end="<|END_OF_TURN_TOKEN|>", words=str.strip),
    Form(family="cohere2", published="", end="<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    Form(family="llama4", takes=_TOOLS, published="transformers:llama4", end="<|eot|>"),
    Form(
        family="qwen3_5",
        takes=_ALL,
        published="qwen3_5_nothink",
        end=_IM_END,
        words=str.strip,
        has_empty_thoughts=True,
    ),
    Form(
        family="qwen3_5",
        takes=_ALL,
        published="qwen3_5_think",
        end=_IM_END,
        words=str.strip,
        has_empty_thoughts=True,
    ),
    Form(
        family="qwen3_5",
        variant="qwen3_6",
        takes=_ALL,
        published="qwen3_6",
        end=_IM_END,
        words=str.strip,
        has_empty_thoughts=True,
    ),
]
FORM = pytest.mark.parametrize(
    "form", FORMS, ids=lambda form: f"{form.family}-{form.variant or form.published}"
)


def published_text(form: Form) -> str:
    kind, _, name = form.published.rpartition(":")
    if not kind:
        return (Path(__file__).resolve().parent / "published" / f"{name}.jinja").read_bytes().decode()
    if kind == "transformers":
        from transformers.models.llama4.processing_llama4 import chat_template

        return chat_template
    spec = find_spec("trl")
    path = Path(spec.origin or "").parent / "chat_templates" / f"{name}.jinja" if spec else None
    if path is None or not path.is_file():
        pytest.skip("the published text comes with trl, which is not installed")
    return path.read_bytes().decode()


def build_tokenizer(form: Form) -> Any:
    family: Family = BY_NAME[form.family]
    tokens = [*lab.special_tokens(form.template), *family.stop_tokens]
    return lab.build_tokenizer(tokens, bos="<s>", eos="</s>" if "</s>" in tokens else tokens[-1])


def render(tokenizer: Any, template: str, chat: Chat, **arguments: Any) -> Any:
    """Return what the library renders; None if the template refuses the conversation."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(chat, chat_template=template, **arguments)
    except TemplateError:
        return None


def prompts(chat: Chat) -> list[tuple[int, Chat]]:
    return [
        (turn, chat[:turn]) for turn, message in enumerate(chat) if message["role"] == "assistant" and turn
    ]


def without_empty_thoughts(text: str) -> str:
    """Return the text as the check at submit compares it where there are earlier answers."""
    return _BLANK_LINES.sub("\n", _EMPTY_THOUGHT.sub("", text))


def trained_spans(tokenizer: Any, row: Any) -> list[str]:
    spans: list[list[int]] = []
    previous = 0
    for token, is_trained in zip(row["input_ids"], row["assistant_masks"], strict=True):
        if is_trained and not previous:
            spans.append([])
        if is_trained:
            spans[-1].append(token)
        previous = is_trained
    return [tokenizer.decode(span) for span in spans]

"""Phi-4 (14B), Phi-4-mini and Phi-3.5: one model type, three chat forms."""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family, TemplateVariant
from tunefleet_families.template_files import read_template

__all__ = ["PHI4"]

PHI4 = Family(
    name="phi4",
    model_types=("phi3",),
    chat_template=read_template("phi4"),
    template_origin=(
        "Structure of the template in tokenizer_config.json of microsoft/phi-4 (MIT), with generation markers"
    ),
    stop_tokens=(
        "<|im_end|>",
        "<|end|>",
        "<|endoftext|>",
    ),
    target_suffixes=(
        "qkv_proj",
        "o_proj",
        "gate_up_proj",
        "down_proj",
    ),
    layer_classes=("Phi3DecoderLayer",),
    thinking="none",
    tool_format="none; Phi-4-mini writes functools and a JSON list",
    licence="MIT",
    traps=(
        "No form of it shows the tools of a row, nor thoughts: rows that hold any are refused. Phi-4-mini "
        "takes tools as text inside the system turn.",
        "Query, key and value are one module (qkv_proj), gate and up another: an adapter has "
        "one rank for all of them.",
        "Early revisions of Phi-4 opened an answer after every question; the comparison refuses ours there.",
        "The forms of Phi-4-mini and Phi-3.5 end a row with the end of text, which carries no loss.",
    ),
    variants=(
        TemplateVariant(
            name="mini",
            parsers={
                "vllm": EngineParsers(tool="phi4_mini_json"),
            },
            tool_format="none in this template; the model writes functools and a JSON list",
            contains=("<|tool|>",),
            chat_template=read_template("phi4_mini"),
            origin=(
                "Structure of the template of microsoft/Phi-4-mini-instruct (MIT), with generation markers"
            ),
        ),
        TemplateVariant(
            name="phi3_5",
            contains=(
                "<|user|>",
                "<|assistant|>",
            ),
            chat_template=read_template("phi3_5"),
            origin=(
                "Structure of the template of microsoft/Phi-3.5-mini-instruct (MIT), with generation markers"
            ),
        ),
    ),
)

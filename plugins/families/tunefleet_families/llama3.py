"""Llama 3, 3.1, 3.2 and 3.3: chat models with header and end-of-turn tokens.

The usual form is that of Llama 3. From 3.1 on, a system block with two dates stands before
everything; in 3.2 one of them comes from the clock, and the record of a job freezes it. A base
without a template of its own gets the form without dates, whose ids are the same tomorrow.
"""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family, TemplateVariant
from tunefleet_families.template_files import read_template

__all__ = ["LLAMA3"]

LLAMA3 = Family(
    name="llama3",
    model_types=("llama",),
    chat_template=read_template("llama3"),
    template_origin=(
        "Structure of the template in tokenizer_config.json of meta-llama/Meta-Llama-3-8B-Instruct "
        "(Llama 3 Community License), with generation markers"
    ),
    stop_tokens=("<|eot_id|>", "<|end_of_text|>"),
    target_suffixes=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    layer_classes=("LlamaDecoderLayer",),
    parsers={
        "vllm": EngineParsers(tool="llama3_json"),
        "sglang": EngineParsers(tool="llama3"),
    },
    thinking="none",
    tool_format="one JSON object as the whole answer (Llama 3.1 and later); none in this template",
    licence="Llama 3 Community License",
    traps=(
        "The form of Llama 3 shows no tools, none shows thoughts: rows that hold any are refused.",
        "Llama 3.1 and later were trained with a system block that holds two dates; a base of theirs without "
        "a template of its own gets the form without one.",
        "Llama 3.2 states today's date; training keeps the recorded one, an engine does not, so an adapter "
        "is refused on another day. 3.1 and 3.3 always say 26 Jul 2024.",
        "A turn calls one tool and says nothing beside it; results of tools are shown as quoted JSON.",
        "Llama 3.2 with vision ('mllama') is another type, and no part of this family.",
        "The tokenizer has no pad token; batches are padded with <|end_of_text|> and masked.",
        "model_type 'llama' also names models of other makers; the template needs the tokens "
        "<|start_header_id|>, <|end_header_id|> and <|eot_id|> in the tokenizer.",
    ),
    variants=(
        TemplateVariant(
            name="llama3_2",
            contains=("Cutting Knowledge Date", "strftime_now"),
            tool_format="one JSON object as the whole answer",
            chat_template=read_template("llama3_2"),
            origin=(
                "Own text in the structure of the template of meta-llama/Llama-3.2-3B-Instruct (Llama 3.2 "
                "Community License), without built-in tools, with generation markers"
            ),
        ),
        TemplateVariant(
            name="llama3_1",
            contains=("Cutting Knowledge Date",),
            tool_format="one JSON object as the whole answer",
            chat_template=read_template("llama3_1"),
            origin=(
                "Own text in the structure of the template of meta-llama/Llama-3.1-8B-Instruct (Llama 3.1 "
                "Community License; 3.3 has the same form), without built-in tools, with generation markers"
            ),
        ),
    ),
)

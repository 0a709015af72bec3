"""Mistral 7B, Small and Large: one model type, a chat form per tokenizer version."""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family, TemplateVariant
from tunefleet_families.template_files import read_template

__all__ = ["MISTRAL"]

MISTRAL = Family(
    name="mistral",
    model_types=("mistral",),
    chat_template=read_template("mistral_v3"),
    template_origin=(
        "Structure of the template of tokenizer v3, as in mistralai/Mistral-7B-Instruct-v0.3 "
        "(Apache-2.0), with generation markers"
    ),
    stop_tokens=("</s>",),
    target_suffixes=(
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ),
    layer_classes=("MistralDecoderLayer",),
    parsers={
        "vllm": EngineParsers(tool="mistral"),
        "sglang": EngineParsers(tool="mistral"),
    },
    thinking="none",
    tool_format="[TOOL_CALLS] and a JSON list",
    unsupported_types={
        "mistral3": "transformers 5.23: it has no class that loads one as a language model alone",
        "mistral4": "transformers 5.23: it has no class that loads one as a language model alone",
    },
    licence=("Apache-2.0 (7B, Small 3); Mistral Large and Small 2409: Mistral Research License"),
    traps=(
        "The v1 form shows no tools. The others print them before the last question only, so prompts of "
        "earlier ones are no start of the row; ids of calls have nine letters or digits. Text beside calls "
        "and thoughts are not shown.",
        "As published, the v3 form puts the system text into the last message and only if that "
        "is a question: a row that ends with an answer is trained without it. Put instructions "
        "into the first question.",
        "The v3 form cuts white space at the edges of an answer, v1 and v7 do not.",
        "The Tekken form of Nemo writes '[INST]' without a space; the comparison with the "
        "base's own template refuses ours there.",
        "The v7 form without a system turn states today's date; training keeps the recorded one, an "
        "engine does not, so an adapter is refused on another day.",
        "Vision models of Mistral have the model type 'mistral3' and are no part of this family.",
    ),
    variants=(
        TemplateVariant(
            name="v7",
            contains=(
                "[SYSTEM_PROMPT]",
                "strftime_now",
            ),
            chat_template=read_template("mistral_v7"),
            origin=(
                "Structure of the template of Mistral Small 3 (Apache-2.0) as kept in llama.cpp, "
                "with generation markers"
            ),
        ),
        TemplateVariant(
            name="v1",
            parsers={},
            tool_format="none",
            contains=("' [INST] '",),
            chat_template=read_template("mixtral"),
            origin=(
                "Structure of the template of mistralai/Mistral-7B-Instruct-v0.2 (Apache-2.0), with "
                "generation markers"
            ),
        ),
    ),
)

"""Command R7B and Command A: sliding-window attention, answers with a start and an end of their own."""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family
from tunefleet_families.template_files import read_template

__all__ = ["COHERE2"]

COHERE2 = Family(
    name="cohere2",
    model_types=("cohere2",),
    chat_template=read_template("cohere2"),
    template_origin=(
        "Own text in the structure of the templates of CohereLabs (CC-BY-NC-4.0), without their "
        "preambles; ids differ from the published ones"
    ),
    stop_tokens=("<|END_OF_TURN_TOKEN|>",),
    target_suffixes=(
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ),
    layer_classes=("Cohere2DecoderLayer",),
    parsers={
        "vllm": EngineParsers(tool="cohere_command3"),
    },
    thinking="none",
    tool_format="none in this template; the published ones write a JSON list after <|START_ACTION|>",
    unsupported_types={
        "cohere2_vision": "transformers 5.23: it has no class that loads one as a language model alone",
    },
    licence="CC-BY-NC-4.0: no commercial use",
    traps=(
        "The template shows no tools and no thoughts: rows that hold any are refused.",
        "Every published template of this type holds a long preamble under a licence that does "
        "not let us ship it: a base with a template of its own is refused unless that template "
        "has generation markers.",
        "Tools and retrieval are not rendered.",
        "Embedding and head are one tensor: neither gets an adapter.",
    ),
)

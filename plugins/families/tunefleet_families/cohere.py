"""Command-R and Aya: dense models with parallel blocks."""

from __future__ import annotations

from tunefleet_core.catalog.family import Family
from tunefleet_families.template_files import read_template

__all__ = ["COHERE"]

COHERE = Family(
    name="cohere",
    model_types=("cohere",),
    chat_template=read_template("cohere"),
    template_origin=(
        "Own text in the structure of the default template of CohereLabs/c4ai-command-r-v01 (CC-BY- "
        "NC-4.0), with generation markers"
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
    layer_classes=("CohereDecoderLayer",),
    thinking="none",
    tool_format='none in this template; the published one for tools is another text (JSON under "Action:")',
    licence="CC-BY-NC-4.0: no commercial use",
    traps=(
        "The template shows no tools and no thoughts: rows that hold any are refused.",
        "White space at the edges of questions and answers is cut.",
        "The published templates for tools and retrieval are other texts; this one renders neither.",
        "Embedding and head are one tensor: neither gets an adapter.",
    ),
)

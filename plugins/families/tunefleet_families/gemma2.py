"""Gemma 2: dense text models without a system turn."""

from __future__ import annotations

from tunefleet_core.catalog.family import Family
from tunefleet_families.template_files import read_template

__all__ = ["GEMMA2"]

GEMMA2 = Family(
    name="gemma2",
    model_types=("gemma2",),
    chat_template=read_template("gemma2"),
    template_origin=(
        "Own text in the structure of the template of google/gemma-2-9b-it (Gemma Terms of Use), "
        "with generation markers"
    ),
    stop_tokens=(
        "<end_of_turn>",
        "<eos>",
    ),
    target_suffixes=(
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ),
    layer_classes=("Gemma2DecoderLayer",),
    thinking="none",
    tool_format="none",
    licence="Gemma Terms of Use",
    traps=(
        "The template shows no tools and no thoughts: rows that hold any are refused.",
        "Rows with a system turn are refused, as by the published template; put instructions "
        "into the first question.",
        "Questions and answers have to alternate, and white space at their edges is cut.",
        "Logits and attention are soft-capped: kernels that leave this out train another model; "
        "take eager or flex attention.",
        "Embedding and head are one tensor: neither gets an adapter.",
    ),
)

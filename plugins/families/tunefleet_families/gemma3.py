"""Gemma 3: text models, and models with a vision tower, of which only the language model is trained."""

from __future__ import annotations

from tunefleet_core.catalog.family import Family
from tunefleet_families.template_files import read_template

__all__ = ["GEMMA3"]

GEMMA3 = Family(
    name="gemma3",
    model_types=(
        "gemma3",
        "gemma3_text",
    ),
    chat_template=read_template("gemma3"),
    template_origin=(
        "Own text in the structure of the template of google/gemma-3-4b-it (Gemma Terms of Use), "
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
    layer_classes=("Gemma3DecoderLayer",),
    frozen_parts=(
        "vision_tower",
        "multi_modal_projector",
    ),
    thinking="none",
    tool_format="none",
    licence="Gemma Terms of Use",
    traps=(
        "The template shows no tools and no thoughts: rows that hold any are refused.",
        "The system text is the start of the first question; there is no system turn.",
        "White space at the edges of questions and answers is cut, and roles have to alternate.",
        "With vision, files name modules language_model.model.*, the loaded model "
        "model.language_model.*; the vision tower and its projector stay frozen.",
        "Rows hold text only; images are refused.",
        "Embedding and head are one tensor: neither gets an adapter.",
    ),
)

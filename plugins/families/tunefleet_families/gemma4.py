"""Gemma 4: text models, and models with vision and sound, of which only the language model is trained."""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family
from tunefleet_families.template_files import read_template

__all__ = ["GEMMA4"]

GEMMA4 = Family(
    name="gemma4",
    model_types=(
        "gemma4",
        "gemma4_text",
        "gemma4_unified",
        "gemma4_unified_text",
    ),
    chat_template=read_template("gemma4"),
    template_origin=(
        "Template of google/gemma-4-E2B-it, revision 8995379 (Apache-2.0), with generation markers"
    ),
    reads_ids="its layers have embeddings of their own, looked up by the ids of tokens",
    stop_tokens=(
        "<turn|>",
        "<|tool_response>",
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
    layer_classes=("Gemma4TextDecoderLayer", "Gemma4UnifiedTextDecoderLayer"),
    frozen_parts=(
        "vision_tower",
        "embed_vision",
        "audio_tower",
        "embed_audio",
    ),
    parsers={
        "vllm": EngineParsers(tool="gemma4", reasoning="gemma4"),
        "sglang": EngineParsers(tool="gemma4", reasoning="gemma4"),
    },
    thinking="optional",
    tool_format="call:NAME{...} between <|tool_call> and <tool_call|>",
    licence="Apache-2.0",
    traps=(
        "The template cuts white space and drops thoughts that stand in the text of an answer.",
        "What a tool said is part of the turn that called it and carries no loss; the call does, and ends "
        "with <|tool_response>.",
        "Text beside calls stands after what the tools said; thoughts before the last question are left out.",
        "Two answers in a row are one turn: the first ends without <turn|>, so the prompt of "
        "the second is no start of the row.",
        "The gate and projections of per-layer embeddings get no adapter.",
        "Tiny test models need a small vocab_size_per_layer_input.",
    ),
)

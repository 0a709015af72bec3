"""Llama 4: routed experts beside a shared one, with a vision tower that stays frozen."""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family
from tunefleet_families.template_files import read_template

__all__ = ["LLAMA4"]

LLAMA4 = Family(
    name="llama4",
    model_types=(
        "llama4",
        "llama4_text",
    ),
    chat_template=read_template("llama4"),
    template_origin=(
        "Own text that renders as the default template in transformers' Llama 4 processor "
        "(Apache-2.0) does, with generation markers; the one on the model cards (Llama 4 Community "
        "License) was not compared"
    ),
    stop_tokens=(
        "<|eot|>",
        "<|end_of_text|>",
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
    layer_classes=("Llama4TextDecoderLayer",),
    frozen_parts=(
        "vision_model",
        "multi_modal_projector",
    ),
    parsers={
        "vllm": EngineParsers(tool="llama4_json"),
        "sglang": EngineParsers(tool="llama3"),
    },
    thinking="none",
    tool_format="one JSON object as the whole answer",
    licence="Llama 4 Community License",
    traps=(
        "Tools stand in the first question; the template shows no thoughts.",
        "Routed experts are 3-D parameters, not modules: 'all-linear' reaches attention, dense "
        "and shared MLPs; an adapter on experts needs PEFT's target_parameters.",
        "transformers loads a checkpoint with vision as the language model alone: a merged "
        "model has no vision tower.",
        "TRL 1.16 finds neither the language model nor the number of experts in this class by itself; the "
        "trl backend names both to it.",
        "The router (feed_forward.router) never gets an adapter.",
        "Templates that ask for a Python list of calls need another parser (vLLM's llama4_pythonic).",
    ),
    expert_parameters=(
        "feed_forward.experts.gate_up_proj",
        "feed_forward.experts.down_proj",
    ),
)

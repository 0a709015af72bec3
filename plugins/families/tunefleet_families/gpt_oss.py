"""GPT-OSS: routed experts, the harmony chat form, published in MXFP4."""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family
from tunefleet_families.template_files import read_template

__all__ = ["GPT_OSS"]

GPT_OSS = Family(
    name="gpt_oss",
    model_types=("gpt_oss",),
    chat_template=read_template("gpt_oss"),
    template_origin="Template of openai/gpt-oss-20b (Apache-2.0), with generation markers",
    stop_tokens=(
        "<|return|>",
        "<|call|>",
        "<|endoftext|>",
    ),
    target_suffixes=(
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    ),
    layer_classes=("GptOssDecoderLayer",),
    parsers={
        "vllm": EngineParsers(tool="openai", reasoning="openai_gptoss"),
        "sglang": EngineParsers(tool="gpt-oss", reasoning="gpt-oss"),
    },
    thinking="always",
    tool_format="harmony: JSON in a turn to functions.NAME on the commentary channel, ended by <|call|>",
    licence="Apache-2.0",
    traps=(
        "Routed experts are 3-D parameters, not modules: 'all-linear' leaves them alone, and an "
        "adapter on them needs PEFT's target_parameters.",
        "Only the last answer of a row ends with <|return|>; earlier ones end with <|end|>, "
        "which carries no loss since a model must not end with it.",
        "The model writes its channel itself: '<|channel|>final<|message|>' is part of what is "
        "trained, and no prompt holds it.",
        "The system turn states today's date and 'Reasoning: medium'; training keeps the recorded date, an "
        "engine does not, so an adapter is refused on another day.",
        "One call per turn is shown; thoughts of earlier turns are left out, those beside a call once an "
        "answer follows.",
        "Some servers render through a harmony library of their own, not through this template.",
        "<|end|> is no stop token: it also ends the analysis before an answer.",
    ),
    expert_parameters=(
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
    ),
)

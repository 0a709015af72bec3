"""Qwen3 with routed experts, and Qwen3-Coder, whose model type is the same and whose tool calls differ."""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family, TemplateVariant
from tunefleet_families.template_files import read_template

__all__ = ["QWEN3_MOE"]

QWEN3_MOE = Family(
    name="qwen3_moe",
    model_types=("qwen3_moe",),
    chat_template=read_template("qwen3"),
    template_origin=(
        "Structure of the template in tokenizer_config.json of Qwen/Qwen3-30B-A3B (Apache-2.0), "
        "with generation markers and one form of answer"
    ),
    stop_tokens=(
        "<|im_end|>",
        "<|endoftext|>",
    ),
    target_suffixes=(
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    ),
    layer_classes=("Qwen3MoeDecoderLayer",),
    parsers={
        "vllm": EngineParsers(tool="hermes", reasoning="qwen3"),
        "sglang": EngineParsers(tool="qwen25", reasoning="qwen3"),
    },
    thinking="optional",
    tool_format="JSON between <tool_call> and </tool_call>",
    licence="Apache-2.0",
    traps=(
        "Routed experts are 3-D parameters, not modules: 'all-linear' leaves them alone, and an "
        "adapter on them needs PEFT's target_parameters.",
        "The router (mlp.gate) never gets an adapter; with its auxiliary loss at 0 the load can "
        "drift to few experts.",
        "Thinking-2507 models open a thought in every prompt; this template does not fit them "
        "and the comparison refuses it.",
        "Checkpoints hold one tensor per expert, loaded models one 3-D parameter for all; names "
        "of experts in the files match no module.",
    ),
    variants=(
        TemplateVariant(
            name="coder",
            parsers={
                "vllm": EngineParsers(tool="qwen3_coder"),
                "sglang": EngineParsers(tool="qwen3_coder"),
            },
            thinking="none",
            tool_format="<function=NAME> and <parameter=NAME> blocks between <tool_call> and </tool_call>",
            contains=("<function=",),
            chat_template=read_template("qwen3_coder"),
            origin=("Template of Qwen/Qwen3-Coder-30B-A3B-Instruct (Apache-2.0), with generation markers"),
        ),
        TemplateVariant(
            name="instruct",
            parsers={
                "vllm": EngineParsers(tool="hermes"),
                "sglang": EngineParsers(tool="qwen25"),
            },
            thinking="none",
            contains=(
                "<|im_start|>",
                "<tool_call>",
            ),
            lacks=("<think>",),
            chat_template=read_template("qwen3_instruct"),
            origin=(
                "Structure of the template of Qwen/Qwen3-4B-Instruct-2507 (Apache-2.0), with "
                "generation markers"
            ),
        ),
    ),
    expert_parameters=(
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
    ),
)

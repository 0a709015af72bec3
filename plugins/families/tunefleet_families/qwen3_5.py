"""Qwen3.5 and Qwen3.6: gated delta layers between attention layers, dense or with routed experts.

The small projections that gate the recurrence (in_proj_a, in_proj_b) have one output per head;
they get no adapter unless named.
"""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family, TemplateVariant
from tunefleet_families.template_files import read_template

__all__ = ["QWEN3_5"]

QWEN3_5 = Family(
    name="qwen3_5",
    model_types=(
        "qwen3_5",
        "qwen3_5_text",
        "qwen3_5_moe",
        "qwen3_5_moe_text",
    ),
    chat_template=read_template("qwen3_5"),
    template_origin=("Template of Qwen3.5 (Apache-2.0), with generation markers and one form of answer"),
    stop_tokens=(
        "<|im_end|>",
        "<|endoftext|>",
    ),
    target_suffixes=(
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "in_proj_qkv",
        "in_proj_z",
        "out_proj",
    ),
    layer_classes=(
        "Qwen3_5DecoderLayer",
        "Qwen3_5MoeDecoderLayer",
    ),
    frozen_parts=(
        "visual",
        "mtp",
    ),
    parsers={
        "vllm": EngineParsers(tool="qwen3_coder", reasoning="qwen3"),
        "sglang": EngineParsers(tool="qwen3_coder", reasoning="qwen3"),
    },
    thinking="optional",
    tool_format="<function=NAME> and <parameter=NAME> blocks between <tool_call> and </tool_call>",
    licence="Apache-2.0",
    traps=(
        "transformers loads a checkpoint with vision as the language model alone: a merged "
        "model has no vision tower.",
        "Routed experts are 3-D parameters, not modules: 'all-linear' leaves them alone, and an "
        "adapter on them needs PEFT's target_parameters.",
        "White space at the edges of every turn is cut, and a conversation without a question is refused.",
        "Every answer begins with a thought, an empty one unless the row holds one; rows with "
        "thoughts are served as trained only with enable_thinking.",
        "Layers that predict further tokens (mtp) are in the files, not in the loaded model, "
        "and get no adapter.",
        "The recurrence has fast kernels on CUDA only; elsewhere the library's slow path runs.",
    ),
    variants=(
        TemplateVariant(
            name="qwen3_6",
            contains=("preserve_thinking",),
            chat_template=read_template("qwen3_6"),
            origin=(
                "Template of Qwen/Qwen3.6-27B (Apache-2.0), with generation markers and one form of answer"
            ),
        ),
    ),
    expert_parameters=(
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
    ),
)

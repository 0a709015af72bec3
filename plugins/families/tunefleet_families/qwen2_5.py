"""Qwen2.5: dense chat models; Qwen2 shares the model type."""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family
from tunefleet_families.template_files import read_template

__all__ = ["QWEN2_5"]

QWEN2_5 = Family(
    name="qwen2_5",
    model_types=("qwen2",),
    chat_template=read_template("qwen2_5"),
    template_origin=(
        "Structure of the template in tokenizer_config.json of Qwen/Qwen2.5-7B-Instruct "
        "(Apache-2.0), with generation markers"
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
        "gate_proj",
        "up_proj",
        "down_proj",
    ),
    layer_classes=("Qwen2DecoderLayer",),
    parsers={
        "vllm": EngineParsers(tool="hermes"),
        "sglang": EngineParsers(tool="qwen25"),
    },
    thinking="none",
    tool_format="JSON between <tool_call> and </tool_call>",
    licence="Apache-2.0; the 3B and 72B models have licences of Qwen's own",
    traps=(
        "The template shows no thoughts: rows that hold any are refused.",
        "A conversation without a system turn gets 'You are Qwen, created by Alibaba Cloud. You "
        "are a helpful assistant.' in training and serving.",
        "Qwen2 and Qwen2.5-Math have other default system texts under the same model type; the "
        "comparison with the base's own template refuses them.",
        "The pad token <|endoftext|> is also a stop token and must not be taken for the end of a turn.",
    ),
)

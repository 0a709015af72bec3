"""Qwen3: dense chat models with an optional thought before each answer.

The published template drops the thought of earlier answers and puts an empty one into
the last answer only, so a row with two answers is trained in another form than either is
served in. Here thinking is off unless asked for, and then every answer, in the prompt as
in the row, begins with the same empty thought: what the model reads and writes when it is
served is then exactly what it was trained on. For one answer this equals the published
template rendered with `enable_thinking=False`.
"""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family, TemplateVariant
from tunefleet_families.template_files import read_template

__all__ = ["QWEN3"]

QWEN3 = Family(
    name="qwen3",
    model_types=("qwen3",),
    chat_template=read_template("qwen3"),
    template_origin=(
        "Structure of the template in tokenizer_config.json of Qwen/Qwen3-0.6B (Apache-2.0), "
        "with generation markers and one form of answer"
    ),
    stop_tokens=("<|im_end|>", "<|endoftext|>"),
    target_suffixes=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    layer_classes=("Qwen3DecoderLayer",),
    parsers={
        "vllm": EngineParsers(tool="hermes", reasoning="qwen3"),
        "sglang": EngineParsers(tool="qwen25", reasoning="qwen3"),
    },
    thinking="optional",
    tool_format="JSON between <tool_call> and </tool_call>",
    licence="Apache-2.0",
    traps=(
        "Rows that hold thoughts are trained but served without them unless enable_thinking is set; "
        "the mask audit reports each such turn.",
        "A server that uses the model folder's own template drops the empty thought from earlier answers; "
        "serve with the template of the adapter.",
        "The pad token <|endoftext|> is also a stop token and must not be taken for the end of a turn.",
    ),
    variants=(
        TemplateVariant(
            name="instruct",
            parsers={
                "vllm": EngineParsers(tool="hermes"),
                "sglang": EngineParsers(tool="qwen25"),
            },
            thinking="none",
            contains=("<|im_start|>", "<tool_call>"),
            lacks=("<think>",),
            chat_template=read_template("qwen3_instruct"),
            origin=(
                "Structure of the template of Qwen/Qwen3-4B-Instruct-2507 (Apache-2.0), "
                "with generation markers"
            ),
        ),
    ),
)

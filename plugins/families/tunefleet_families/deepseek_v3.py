"""DeepSeek-V3 and R1: routed experts, multi-head latent attention."""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family, TemplateVariant
from tunefleet_families.template_files import read_template

__all__ = ["DEEPSEEK_V3"]

DEEPSEEK_V3 = Family(
    name="deepseek_v3",
    model_types=("deepseek_v3",),
    chat_template=read_template("deepseek_v3"),
    template_origin=(
        "Own text in the structure of the template of deepseek-ai/DeepSeek-V3 (MIT since V3-0324); "
        "no published copy was at hand, so identity is claimed for whole conversations only, "
        "against that of R1"
    ),
    stop_tokens=("<｜end▁of▁sentence｜>",),
    target_suffixes=("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
    layer_classes=("DeepseekV3DecoderLayer",),
    parsers={
        "vllm": EngineParsers(tool="deepseek_v3"),
        "sglang": EngineParsers(tool="deepseekv3"),
    },
    thinking="none",
    tool_format=(
        "none in this template; published ones write JSON in a code fence between <｜tool▁call▁begin｜> and "
        "<｜tool▁call▁end｜>"
    ),
    licence="MIT (V3-0324, R1); DeepSeek Model License (first V3)",
    traps=(
        "The template shows no tools and no thoughts: rows that hold any are refused.",
        "PEFT 0.21 takes gate_proj, up_proj and down_proj of this type for the routed experts, even where "
        "the module of a dense layer or of the shared expert is named in full: 'all-linear' is "
        "attention alone.",
        "Routed experts are 3-D parameters, not modules: 'all-linear' leaves them alone, and an "
        "adapter on them needs PEFT's target_parameters.",
        "The layer after the last one predicts a second token; it is in the files, not in the "
        "loaded model, and gets no adapter.",
        "Published weights are FP8 in blocks; transformers trains on a bfloat16 copy.",
        "R1 opens a thought in every prompt and drops it in rows: no prompt is the start of its "
        "row, and the audit reports each turn.",
        "V3.1 and later begin answers with </think>; the comparison with the base's own "
        "template refuses ours there. Tools are not rendered.",
    ),
    variants=(
        TemplateVariant(
            name="r1",
            parsers={
                "vllm": EngineParsers(tool="deepseek_v3", reasoning="deepseek_r1"),
                "sglang": EngineParsers(tool="deepseekv3", reasoning="deepseek-r1"),
            },
            thinking="always",
            contains=("<think>\\n'",),
            chat_template=read_template("deepseek_r1"),
            origin=("Structure of the template of deepseek-ai/DeepSeek-R1 (MIT), with generation markers"),
        ),
    ),
    expert_parameters=(
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
    ),
)

"""DeepSeek-V4: routed experts, some chosen by a table of tokens, and attention to compressed positions."""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family
from tunefleet_families.template_files import read_template

__all__ = ["DEEPSEEK_V4"]

DEEPSEEK_V4 = Family(
    name="deepseek_v4",
    model_types=("deepseek_v4",),
    chat_template=read_template("deepseek_v4"),
    template_origin=(
        "Own text that renders as the encoder published with deepseek-ai/DeepSeek-V4 (MIT) does, as carried "
        "by vLLM 0.32 (Apache-2.0), with generation markers and one form of answer; no template in Jinja was "
        "published"
    ),
    reads_ids="its first layers choose experts by the ids of tokens",
    stop_tokens=("<｜end▁of▁sentence｜>",),
    target_suffixes=("q_a_proj", "q_b_proj", "kv_proj", "o_b_proj", "gate_proj", "up_proj", "down_proj"),
    layer_classes=("DeepseekV4DecoderLayer",),
    frozen_parts=("compressor", "mtp"),
    parsers={
        "vllm": EngineParsers(tool="deepseek_v4", reasoning="deepseek_v4"),
        "sglang": EngineParsers(tool="deepseekv4", reasoning="deepseek-v4"),
    },
    thinking="optional",
    tool_format="<｜DSML｜invoke> with one <｜DSML｜parameter> each, inside <｜DSML｜tool_calls>",
    unsupported_types={"deepseek_v41": "transformers 5.23: it does not know this type"},
    licence="MIT",
    traps=(
        "No Jinja template was published: engines render this type with an encoder of their own. vLLM's "
        "thinks unless asked not to, and then puts a text on effort before everything: send "
        "enable_thinking=false.",
        "vLLM 0.32 takes no adapters for this type: merge it.",
        "Files name every module otherwise than the loaded model (wq_a, wkv, wo_b); targets are named as "
        "loaded.",
        "Routed experts are 3-D parameters, not modules: 'all-linear' leaves them alone, and an adapter on "
        "them needs PEFT's target_parameters.",
        "PEFT's adapter does not fit the grouped projection o_a_proj; the compressor and its indexer get "
        "none either, because rows shorter than they compress give them no gradient.",
        "Published weights are FP8 and FP4; transformers trains on a bfloat16 copy.",
        "A thought belongs to its answer in every turn; the published encoder drops those of earlier answers "
        "unless there are tools. Rows with thoughts are served as trained only with enable_thinking.",
        "Results of calls made together have to stand in the order of the calls.",
    ),
    expert_parameters=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
)

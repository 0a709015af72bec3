"""Mixtral: Mistral with routed experts."""

from __future__ import annotations

from tunefleet_core.catalog.family import EngineParsers, Family, TemplateVariant
from tunefleet_families.template_files import read_template

__all__ = ["MIXTRAL"]

MIXTRAL = Family(
    name="mixtral",
    model_types=("mixtral",),
    chat_template=read_template("mixtral"),
    template_origin=(
        "Structure of the template of tokenizer v1, as in mistralai/Mistral-7B-Instruct-v0.2 "
        "(Apache-2.0), with generation markers; the text published with Mixtral itself was not at "
        "hand"
    ),
    stop_tokens=("</s>",),
    target_suffixes=(
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    ),
    layer_classes=("MixtralDecoderLayer",),
    thinking="none",
    tool_format="none; the v3 form writes [TOOL_CALLS] and a JSON list",
    licence="Apache-2.0",
    traps=(
        "The v1 form shows no tools. The others print them before the last question only, so prompts of "
        "earlier ones are no start of the row; ids of calls have nine letters or digits. Text beside calls "
        "and thoughts are not shown.",
        "Routed experts are 3-D parameters, not modules: 'all-linear' leaves them alone, and an "
        "adapter on them needs PEFT's target_parameters.",
        "The router (mlp.gate) never gets an adapter.",
        "Files name the experts block_sparse_moe.experts.N.w1 to w3, loaded models mlp.experts; "
        "names from the files match no module.",
        "Mixtral 8x22B v0.1-Instruct has the v3 form; the comparison with the base's own template tells.",
    ),
    variants=(
        TemplateVariant(
            name="v3",
            parsers={
                "vllm": EngineParsers(tool="mistral"),
                "sglang": EngineParsers(tool="mistral"),
            },
            tool_format="[TOOL_CALLS] and a JSON list",
            contains=("[AVAILABLE_TOOLS]",),
            chat_template=read_template("mistral_v3"),
            origin="As the v3 form of the family mistral",
        ),
    ),
    expert_parameters=(
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
    ),
)

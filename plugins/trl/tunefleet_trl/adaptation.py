"""What of a model is trained: every weight, or an adapter in one of its forms.

The library's trainer takes care of the step; what it starts from is settled here, because
number types decide whether small steps survive and whether a resumed run is the same run.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PromptTuningConfig, PromptTuningInit, TaskType

from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.spec import neutral_alpha, takes_from_base

__all__ = ["is_full", "adapter_config", "settle_trainable"]


def is_full(spec: ResolvedSpec) -> bool:
    """Return whether every weight is trained."""
    return not spec.spec.train.HasField("adapter")


def adapter_config(spec: ResolvedSpec, *, scores: bool = False) -> PeftConfig | None:
    """Return the adapter to train; None for full fine-tuning.

    Args:
        spec: What is run.
        scores: Whether the model scores, by a head that is trained and kept whole beside the adapter.
    """
    if is_full(spec):
        return None
    if spec.spec.train.adapter.HasField("prompt_tuning"):
        return _prompt_config(spec)
    lora = spec.spec.train.adapter.lora
    alpha = lora.alpha if lora.HasField("alpha") else neutral_alpha(lora)
    return LoraConfig(
        task_type=TaskType.SEQ_CLS if scores else TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # engines read an integer
        lora_dropout=lora.dropout,
        target_modules=list(spec.target_modules),
        target_parameters=list(spec.target_parameters) or None,
        bias="none",
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        init_lora_weights=lora.init if takes_from_base(lora) else True,
        modules_to_save=list(lora.modules_to_save) or None,
    )


def _prompt_config(spec: ResolvedSpec) -> PromptTuningConfig:
    prompt = spec.spec.train.adapter.prompt_tuning
    begins = (
        {
            "prompt_tuning_init": PromptTuningInit.TEXT,
            "prompt_tuning_init_text": prompt.init_text,
            "tokenizer_name_or_path": spec.base.path,
        }
        if prompt.init_text
        else {"prompt_tuning_init": PromptTuningInit.SAMPLE_VOCAB}
    )
    return PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_virtual_tokens=prompt.num_virtual_tokens, **begins
    )


def settle_trainable(model: Any) -> None:
    """Keep trained weights in float32, whatever they are computed in.

    A step of 1e-5 on a weight of 0.02 is a tenth of what bfloat16 can tell apart, and would
    be lost. And the library casts the adapter of a quantised base to bfloat16 but reads it
    back from a checkpoint as float32: a resumed run would go on from other numbers.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)

"""Optimiser and schedule: the words of a spec in those of the library.

A schedule gives every group of parameters the same share of its own peak, so that LoRA+ holds
at every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tunefleet.job.v1.spec_pb2 import Optim

__all__ = ["MUON", "OPTIMIZERS", "optimizer_arguments", "quicken_b"]

MUON = "muon"
OPTIMIZERS: Mapping[str, str] = {
    "adamw": "adamw_torch_fused",
    "adafactor": "adafactor",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "paged_adamw_32bit": "paged_adamw_32bit",
    "lion": "lion_32bit",
    "lion_8bit": "lion_8bit",
    MUON: "adamw_torch_fused",  # a name that it takes; the trainer makes the optimiser itself
}
"""Optimisers by their names in the library; those with 8 or 32 bits and lion come from bitsandbytes."""

_LION_BETA2 = 0.99
"""The paper's own (Chen et al. 2023, arXiv:2302.06675)."""
_DECAY = 0.2


def optimizer_arguments(optim: Optim, total: int) -> dict[str, Any]:
    """Return the arguments that say how weights move.

    Args:
        optim: Optimiser and schedule of a spec.
        total: Optimiser steps of the run.
    """
    name = optim.optimizer or "adamw"
    schedule, options = _schedule(optim, total)
    usual_beta2 = _LION_BETA2 if name.startswith("lion") else 0.999
    warmup = optim.warmup_steps if optim.HasField("warmup_steps") else math.ceil(optim.warmup_ratio * total)
    return {
        "optim": OPTIMIZERS[name],
        "learning_rate": optim.learning_rate,
        "lr_scheduler_type": schedule,
        "lr_scheduler_kwargs": options,
        "warmup_steps": warmup,
        "adam_beta1": optim.beta1 if optim.HasField("beta1") else 0.9,
        "adam_beta2": optim.beta2 if optim.HasField("beta2") else usual_beta2,
        "adam_epsilon": optim.epsilon if optim.HasField("epsilon") else 1e-8,
        "max_grad_norm": optim.max_grad_norm if optim.HasField("max_grad_norm") else 1.0,
        "weight_decay": optim.weight_decay,
    }


def quicken_b(optimizer: Any, model: Any, ratio: float) -> None:
    """Let the B factors of an adapter learn `ratio` times as fast as the rest (LoRA+, arXiv:2402.12354).

    Call it before the optimiser has any state and before its schedule is made.
    """
    quick = {id(parameter) for name, parameter in model.named_parameters() if ".lora_B." in name}
    for group in list(optimizer.param_groups):
        apart = [parameter for parameter in group["params"] if id(parameter) in quick]
        if apart:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in quick]
            optimizer.add_param_group({**group, "params": apart, "lr": group["lr"] * ratio})


def _schedule(optim: Optim, total: int) -> tuple[str, dict[str, Any]]:
    floor = optim.min_lr_ratio
    match optim.schedule or "cosine":
        case "cosine" if floor:
            return "cosine_with_min_lr", {"min_lr_rate": floor}
        case "linear" if floor:
            return "polynomial", {"lr_end": floor * optim.learning_rate, "power": 1.0}
        case "wsd":
            share = optim.decay_ratio if optim.HasField("decay_ratio") else _DECAY
            steps = max(1, round(share * total))
            return "warmup_stable_decay", {
                "num_decay_steps": steps,
                "decay_type": "1-sqrt",
                "min_lr_ratio": floor,
            }
        case "constant":
            return "constant_with_warmup", {}
        case schedule:
            return schedule, {}

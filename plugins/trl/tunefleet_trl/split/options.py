"""How a job asks for weights that are split over its devices, and what it can be then. Imports no library."""

from __future__ import annotations

from typing import Any

from tunefleet.backend.v1.backend_pb2 import Capability, MemoryPart, OptionScope
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.backend import memory_placement, option_scope

__all__ = ["FSDP2", "OPTION", "PLACEMENTS", "SCHEMA", "SCOPES", "is_split"]

OPTION = "sharding"
FSDP2 = "fsdp2"
SCHEMA: dict[str, Any] = {
    "type": "string",
    "enum": ["none", FSDP2],
    "description": "Over several devices: `none` keeps the whole model on each (DDP); `fsdp2` splits "
    "weights, gradients and optimiser over them, for supervised training of whole numbers.",
}
SCOPES: tuple[OptionScope, ...] = (
    option_scope(
        option=OPTION,
        value=FSDP2,
        least_devices=2,
        without=[
            Capability.CAPABILITY_DORA,  # a norm of whole weights
            Capability.CAPABILITY_EXPERT_LORA,
            Capability.CAPABILITY_PROMPT_TUNING,
            Capability.CAPABILITY_QLORA_NF4,
            Capability.CAPABILITY_EVALUATE,
            Capability.CAPABILITY_QUANTIZE,
        ],
        distributed_methods=["sft"],
        choices={
            "train.gradient_checkpointing": ["true"],
            "train.optim.schedule": ["wsd"],
            "train.optim.min_lr_ratio": [],
            "train.optim.warmup_steps": [],
            "train.optim.beta1": [],
            "train.optim.beta2": [],
            "train.optim.epsilon": [],
        },
    ),
)
PLACEMENTS = (
    memory_placement(
        option=OPTION,
        value=FSDP2,
        divided=[
            MemoryPart.MEMORY_PART_WEIGHTS,
            MemoryPart.MEMORY_PART_GRADIENTS,
            MemoryPart.MEMORY_PART_OPTIMIZER,
        ],
        gathers_layers=True,
    ),
)
"""What it puts where, for the plan."""


def is_split(spec: JobSpec) -> bool:
    """Return whether a job asks for split weights."""
    return OPTION in spec.backend_options and spec.backend_options[OPTION] == FSDP2

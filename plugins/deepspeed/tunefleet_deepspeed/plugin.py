"""The manifest: what this backend is and can do. Imports neither torch nor deepspeed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability, HeadTiles
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl
from tunefleet_deepspeed.options import PLACEMENTS, SCHEMA

__all__ = ["tunefleet_backends"]


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the deepspeed backend."""
    return (
        backend_manifest(
            name="deepspeed",
            distribution="tunefleet-deepspeed",
            summary="Fine-tunes with DeepSpeed ZeRO over several devices of one host: LoRA, full; offload.",
            capabilities=[
                Capability.CAPABILITY_TRAIN,
                Capability.CAPABILITY_SFT,
                Capability.CAPABILITY_LORA,
                Capability.CAPABILITY_RSLORA,
                Capability.CAPABILITY_FULL_FINE_TUNING,
                Capability.CAPABILITY_CHECKPOINT_RESUME,
                Capability.CAPABILITY_CHECKPOINT_ON_REQUEST,
                Capability.CAPABILITY_INSPECT,
                Capability.CAPABILITY_PREFLIGHT,
                Capability.CAPABILITY_SAMPLES,
                Capability.CAPABILITY_BEST_CHECKPOINT,
                Capability.CAPABILITY_TIMED_CHECKPOINTS,
                Capability.CAPABILITY_ROLLBACK,
                Capability.CAPABILITY_GENERAL_SET,
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
            device_kinds=["cpu", "cuda"],
            rank_entry="tunefleet_deepspeed.rank:DeepSpeedRank",
            forks_ranks=sys.platform == "linux",
            options_schema=SCHEMA,
            memory_placements=PLACEMENTS,
            head_tiles=HeadTiles(tokens=4096, entries=32768, cpu_copies=7, methods=["sft"]),  # TRL's
        ),
    )

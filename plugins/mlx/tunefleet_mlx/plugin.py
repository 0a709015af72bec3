"""The manifest: what this backend is and can do. Does not import mlx."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability, MethodLimit
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl
from tunefleet_mlx.variants import QUANTIZED

__all__ = ["tunefleet_backends"]

_UNREAD = {
    "it has no class for it": ("deepseek_v4",),
    "it loads it in MXFP4 only, not as unquantised weights": ("gpt_oss",),
    "it does not read the configuration that transformers 5 writes": ("qwen3_moe",),
    "it failed to load the text model": ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
}
"""Why mlx-lm 0.32.2, tried, loads no such base, to the types of model."""


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the mlx backend."""
    return (
        backend_manifest(
            name="mlx",
            distribution="tunefleet-mlx",
            summary="Fine-tunes and serves with mlx-lm on Apple machines; writes MLX's format.",
            capabilities=[
                Capability.CAPABILITY_TRAIN,
                Capability.CAPABILITY_SFT,
                Capability.CAPABILITY_LORA,
                Capability.CAPABILITY_RSLORA,
                Capability.CAPABILITY_DORA,
                Capability.CAPABILITY_FULL_FINE_TUNING,
                Capability.CAPABILITY_CHECKPOINT_RESUME,
                Capability.CAPABILITY_CHECKPOINT_ON_REQUEST,
                Capability.CAPABILITY_BEST_CHECKPOINT,
                Capability.CAPABILITY_TIMED_CHECKPOINTS,
                Capability.CAPABILITY_ROLLBACK,
                Capability.CAPABILITY_SAMPLES,
                Capability.CAPABILITY_EVALUATE,
                Capability.CAPABILITY_MERGE,
                Capability.CAPABILITY_INSPECT,
                Capability.CAPABILITY_PREFLIGHT,
                Capability.CAPABILITY_QUANTIZE,
                Capability.CAPABILITY_SERVE,
                Capability.CAPABILITY_LORA_HOTSWAP,
                Capability.CAPABILITY_CONTRACT_CHECK,
                Capability.CAPABILITY_ADAPTER_TEMPLATES,
            ],
            device_kinds=["metal", "cpu"],
            rank_entry="tunefleet_mlx.rank:MlxRank",
            forks_ranks=sys.platform == "linux",  # Metal is not safe to use after a fork
            engine_entry="tunefleet_mlx.driver:MlxDriver",
            served_formats=["mlx"],
            engine_settings=["speculation.draft_model"],
            method_limits=[
                MethodLimit(method="sft", model_types=types, reason=f"mlx-lm 0.32.2: {why}")
                for why, types in _UNREAD.items()
            ],
            trained_formats=list(QUANTIZED),
            exported_formats=["mlx"],
            choices={"train.gradient_checkpointing": ["true"]},
            keep_warm=sys.platform == "darwin",  # elsewhere it is for trying, and not worth the memory
        ),
    )

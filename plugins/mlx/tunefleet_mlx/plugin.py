"""The manifest: what this backend is and can do. Does not import mlx."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl
from tunefleet_mlx.variants import QUANTIZED

__all__ = ["tunefleet_backends"]


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the mlx backend."""
    return (
        backend_manifest(
            name="mlx",
            distribution="tunefleet-mlx",
            summary="Fine-tunes with mlx-lm on Apple machines: LoRA, QLoRA, DoRA, full; writes MLX's format.",
            capabilities=[
                Capability.CAPABILITY_TRAIN,
                Capability.CAPABILITY_SFT,
                Capability.CAPABILITY_LORA,
                Capability.CAPABILITY_RSLORA,
                Capability.CAPABILITY_DORA,
                Capability.CAPABILITY_FULL_FINE_TUNING,
                Capability.CAPABILITY_CHECKPOINT_RESUME,
                Capability.CAPABILITY_INSPECT,
                Capability.CAPABILITY_PREFLIGHT,
                Capability.CAPABILITY_QUANTIZE,
            ],
            device_kinds=["metal", "cpu"],
            rank_entry="tunefleet_mlx.rank:MlxRank",
            trained_formats=list(QUANTIZED),
            exported_formats=["mlx"],
            choices={"train.gradient_checkpointing": ["true"]},
            keep_warm=sys.platform == "darwin",  # elsewhere it is for trying, and not worth the memory
        ),
    )

"""The manifest: what this backend is and can do. Does not import mlx."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl
from tunefleet_mlx.variants import QUANTIZED

__all__ = ["tunefleet_backends"]

_OPTIONS_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "gradient_checkpointing": {
            "type": "boolean",
            "description": "Recompute activations in the backward pass: less memory, about a third "
            "more time. Left out: on for Metal, off for CPU.",
        },
    },
    "additionalProperties": False,
}


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
            options_schema=_OPTIONS_SCHEMA,
            keep_warm=True,
        ),
    )

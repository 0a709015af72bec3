"""The manifest: what this backend is and can do. Does not import mlx."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl

__all__ = ["tunefleet_backends"]


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the mlx backend."""
    return (
        backend_manifest(
            name="mlx",
            distribution="tunefleet-mlx",
            summary="Writes models in MLX's format for Apple machines, and proves them with mlx-lm.",
            capabilities=[Capability.CAPABILITY_QUANTIZE],
            device_kinds=["metal", "cpu"],
            rank_entry="tunefleet_mlx.rank:MlxRank",
            exported_formats=["mlx"],
        ),
    )

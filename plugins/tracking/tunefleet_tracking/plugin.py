"""The manifest: which trackers there are. Imports none of their libraries."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl

__all__ = ["tunefleet_backends"]


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the trackers."""
    return (
        backend_manifest(
            name="tracking",
            distribution="tunefleet-tracking",
            summary="Tells the numbers of runs to TensorBoard, W&B, MLflow and trackio, offline too.",
            capabilities=[],
            device_kinds=["cpu"],
            trackers=["mlflow", "tensorboard", "trackio", "wandb"],
            tracker_entry="tunefleet_tracking.trackers:tracker",
        ),
    )

"""One tracker by its name. Each library is imported only in the process that tells it something."""

from __future__ import annotations

import os

from tunefleet_core.tracking import Tracker

__all__ = ["tracker"]


def tracker(name: str) -> Tracker:
    """Return a tracker by its name in `tracking`."""
    # What a library tells its makers is nobody's wish here; both read this while they are imported.
    os.environ.update(DO_NOT_TRACK="true", MLFLOW_DISABLE_TELEMETRY="true", WANDB_ERROR_REPORTING="false")
    match name:
        case "tensorboard":
            from tunefleet_tracking.tensorboard import TensorBoardTracker as Kind
        case "wandb":
            from tunefleet_tracking.weights_and_biases import WandbTracker as Kind
        case "mlflow":
            from tunefleet_tracking.mlflow import MlflowTracker as Kind
        case "trackio":
            from tunefleet_tracking.trackio import TrackioTracker as Kind
        case _:
            raise ValueError(f"there is no tracker '{name}' in this plugin")
    return Kind()

"""A trainer whose weights, gradients and optimiser lie in parts on the processes of its run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tunefleet_trl.trainer import RunTrainer

__all__ = ["SplitTrainer"]

_WEIGHTS = "trained.safetensors"


class SplitTrainer(RunTrainer, ABC):
    """What is split is written and read by every process: each of these methods is called by all."""

    trained: Mapping[str, Any]
    """What was trained, whole and on the host, once training has ended: of the first process alone."""

    @abstractmethod
    def gather(self, *, keeps: bool) -> dict[str, Any]:
        """Return every trained weight, whole and in float32, on the host.

        Tied weights are one, under the first of their names.

        Args:
            keeps: Whether this process is to have them; others get an empty mapping.
        """

    @abstractmethod
    def read_training_state(self, folder: Path) -> None:
        """Go on from what `write_training_state` wrote, of as many processes as there are now.

        Raises:
            TunefleetError: BACKEND_FAILED if the checkpoint is damaged or of another run.
        """

    @abstractmethod
    def try_step(self, batch: Any) -> float:
        """Take a step on a batch and return its loss. Weights and optimiser move: read a state afterwards."""

    def write_weights(self, folder: Path | None) -> None:
        weights = self.gather(keeps=folder is not None)
        if folder is not None:
            save_file(weights, folder / _WEIGHTS)

    def load_weights_of(self, folder: Path) -> None:
        """Take the weights of another step as what was trained; what was split is gone by then."""
        self.trained = load_file(folder / _WEIGHTS)

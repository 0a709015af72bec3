"""TRL's trainer on a DeepSpeed engine: what is split over processes is written and read by all of them."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from deepspeed.runtime.zero.utils import ZeRORuntimeException

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import first_line
from tunefleet_deepspeed.checkpoints import WeightsOnlyEngine
from tunefleet_deepspeed.gathering import gather_trained
from tunefleet_trl.processes import is_first
from tunefleet_trl.split.trainer import SplitTrainer

__all__ = ["ZeroTrainer"]

_RECOVERY_SCRIPTS = "zero_to_*.py"
"""Programs that the library puts into every checkpoint; what a run leaves is whole without them."""


class ZeroTrainer(SplitTrainer):
    """A trainer of trl's whose weights, gradients and optimiser are DeepSpeed's."""

    deepspeed: Any
    """The engine, once training has begun."""

    def settle_weights(self) -> None:
        """Leave the number type alone: the engine steps on float32 copies of what it trains."""

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any
    ) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self.deepspeed.checkpoint_engine = WeightsOnlyEngine(self.deepspeed._config)
        if resume_from_checkpoint is not None:
            self.read_training_state(Path(resume_from_checkpoint))
        return prepared

    def write_training_state(self, folder: Path) -> None:
        self._save_optimizer_and_scheduler(str(folder))
        if is_first(self._context.order):
            for script in folder.glob(_RECOVERY_SCRIPTS):
                script.unlink()

    def gather(self, *, keeps: bool) -> dict[str, Any]:
        return gather_trained(self.model, keeps=keeps)

    def read_training_state(self, folder: Path) -> None:
        try:
            self.deepspeed.load_checkpoint(str(folder), load_module_strict=self._is_full)
        except (UnpicklingError, OSError, KeyError, AssertionError, ZeRORuntimeException) as error:
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"The checkpoint '{folder}' cannot be read: {first_line(error)}.",
                hint="Start the job again from an older checkpoint, or from the beginning.",
                metadata={"path": str(folder)},
            ) from error
        self._load_optimizer_and_scheduler(str(folder))

    def try_step(self, batch: Any) -> float:
        self.accelerator.gradient_state._set_sync_gradients(True)
        self.current_gradient_accumulation_steps = 1
        loss = self.training_step(self.model_wrapped, batch, self.trained_in(batch))
        return float(loss)

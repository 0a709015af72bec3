"""What a run has decided so far, as its checkpoints keep it."""

from __future__ import annotations

from pathlib import Path

from tunefleet_core.artifacts import write_whole_folder
from tunefleet_core.backend import RunContext
from tunefleet_core.run_health import (
    BEST_BY,
    BEST_FOLDER,
    BestSoFar,
    keep_decisions,
    kept_decisions,
    link_folder,
)
from tunefleet_trl.adaptation import is_full
from tunefleet_trl.adapter_files import save_adapter
from tunefleet_trl.model_files import save_weights

__all__ = ["RunLife"]


class RunLife:
    """The decisions of a run: begun anew, or as the checkpoint that it resumes from keeps them.

    Attributes:
        best: The best state so far; None if the last one is wanted.
        patience: Validations without improvement after which it stops; 0: never.
    """

    def __init__(self, context: RunContext) -> None:
        train = context.order.resolved_spec.spec.train
        self._context = context
        self._best_folder = Path(context.order.work_dir) / BEST_FOLDER
        wants_best = train.checkpoint.best_by in BEST_BY and bool(train.data.validation)
        self.patience = train.early_stop.patience if wants_best else 0
        self.best: BestSoFar | None = (
            BestSoFar(metric=train.checkpoint.best_by, min_delta=train.early_stop.min_delta)
            if wants_best
            else None
        )
        if context.order.resume_from:
            self._resume(Path(context.order.resume_from))

    @property
    def is_over(self) -> bool:
        """Whether the run has stopped early."""
        return self.best is not None and self.best.is_exhausted(self.patience)

    def keep_best(self, model: object) -> None:
        """Keep the weights as the best ones, whole or not at all."""
        with write_whole_folder(self._best_folder) as folder:
            if is_full(self._context.order.resolved_spec):
                save_weights(model, folder)
            else:
                save_adapter(model, folder, self._context.order.resolved_spec.base)

    def write(self, folder: Path) -> None:
        """Add to a checkpoint what a resumed run needs in order to decide alike."""
        decisions: dict[str, object] = {}
        if self.best is not None:
            decisions["best"] = self.best.to_json()
            if self.best.step:
                link_folder(self._best_folder, folder / BEST_FOLDER)
        keep_decisions(folder, decisions)

    def best_weights(self, step: int) -> Path | None:
        """Return the folder of the best weights if they are those of another step."""
        if self.best is None or self.best.step in (0, step):
            return None
        return self._best_folder

    def _resume(self, checkpoint: Path) -> None:
        kept = kept_decisions(checkpoint)
        if self.best is not None and "best" in kept:
            self.best = self.best.resumed(kept["best"])
            if self.best.step:
                link_folder(checkpoint / BEST_FOLDER, self._best_folder)

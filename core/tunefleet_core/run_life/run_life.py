"""What a run has decided so far, as its checkpoints keep it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from tunefleet.job.v1.event_pb2 import BestCheckpoint, JobEvent, StoppedEarly
from tunefleet_core.artifacts import write_whole_folder
from tunefleet_core.backend import RunContext
from tunefleet_core.run_health import (
    BEST_BY,
    BEST_FOLDER,
    BestSoFar,
    CollapseWatch,
    GeneralWatch,
    LossWatch,
    Recovery,
    Verdict,
    keep_decisions,
    kept_decisions,
    link_folder,
)
from tunefleet_core.run_life.recovering import DivergedError, rollbacks_of

__all__ = ["RunLife"]

_OF_REWARDS = ("grpo", "rloo")
"""Methods whose loss has no level to come back to."""
_WORDS = {"validation_loss": "validation loss", "token_accuracy": "token accuracy on the validation rows"}


class RunLife:
    """The decisions of a run: begun anew, or as the checkpoint that it resumes from keeps them.

    Attributes:
        best: The best state so far; None if the last one is wanted.
        patience: Validations without improvement after which it stops; 0: never.
        watch: The losses that the next one is held against.
        recovery: How often it was rolled back.
        collapse: Whether the routers of its layers collapse.
        general: What general rows scored before it began.
        rate_factor: What the learning rate is to be multiplied with, beside what its checkpoint knows.
    """

    def __init__(self, context: RunContext) -> None:
        train = context.order.resolved_spec.spec.train
        self._context = context
        self._is_first = context.order.place.rank == 0
        self._best_folder = Path(context.order.work_dir) / BEST_FOLDER
        wants_best = train.checkpoint.best_by in BEST_BY and bool(train.data.validation)
        self.patience = train.early_stop.patience if wants_best else 0
        self.best: BestSoFar | None = (
            BestSoFar(metric=train.checkpoint.best_by, min_delta=train.early_stop.min_delta)
            if wants_best
            else None
        )
        self.watch = LossWatch(follows_trend=train.method.WhichOneof("method") not in _OF_REWARDS)
        self.recovery = Recovery(rollbacks=rollbacks_of(context))
        self.rate_factor = self.recovery.rate_scale
        self.collapse = CollapseWatch()
        self.general = GeneralWatch()
        self._guards = train.divergence.max_rollbacks > 0
        self._lost_until = getattr(context, "lost_until", 0)
        if context.order.resume_from:
            self._resume(Path(context.order.resume_from))

    @property
    def is_over(self) -> bool:
        """Whether the run has stopped early."""
        return self.best is not None and self.best.is_exhausted(self.patience)

    def judge(self, step: int, loss: float, grad_norm: float) -> float | None:
        """Take in a step; return what losses were usual if this one stood out.

        Raises:
            DivergedError: the training is lost.
        """
        usual = self.watch.usual
        self.watch, verdict = self.watch.after(loss, grad_norm)
        if verdict is Verdict.DIVERGED and (self._guards or not math.isfinite(loss)):
            raise DivergedError(step, loss)
        return usual if verdict is Verdict.SPIKE else None

    def may_save(self, step: int) -> bool:
        """Return whether a checkpoint of this step would not replace one that may be in use as it is lost."""
        return step > self._lost_until

    def validated(
        self,
        step: int,
        numbers: Mapping[str, float],
        write: Callable[[Path], None],
        *,
        take_part: Callable[[], None] | None = None,
    ) -> bool:
        """Judge a validation, and tell it; return whether the run is to stop, which it tells too.

        Args:
            step: The step it was made after.
            numbers: What was found, by the names of BEST_BY.
            write: Writes the weights into an empty folder, where these are the best so far. Of
                several processes the first one does.
            take_part: Called on the others meanwhile, where each holds a part of the weights.
        """
        if self.best is None:
            return False
        self.best = best = self.best.after(step, numbers.get(best_by := self.best.metric, math.nan))
        found = BestCheckpoint(step=best.step, metric=best_by, value=best.value)
        if best.step == step:
            if self._is_first:
                with write_whole_folder(self._best_folder) as folder:
                    write(folder)
            elif take_part is not None:
                take_part()
            self._context.tell(JobEvent(best_checkpoint=found))
        return self.is_over

    def stopped_early(self, step: int) -> None:
        """Tell that the run ends here because validation no longer improves."""
        if self.best is not None:
            best = BestCheckpoint(step=self.best.step, metric=self.best.metric, value=self.best.value)
            early = StoppedEarly(step=step, best=best, patience=self.patience)
            self._context.tell(JobEvent(stopped_early=early))

    def take_best(self, last: int, load: Callable[[Path], None]) -> int:
        """Have the best weights loaded if they are those of another step, tell it, and return the step."""
        if self.best is None or self.best.step in (0, last):
            return last
        load(self._best_folder)
        self._context.notice(
            f"The result is the state of step {self.best.step}, the best by {_WORDS[self.best.metric]} "
            f"({self.best.value:.4g}), not that of the last step, {last}.",
            severity="info",
        )
        return self.best.step

    def write(self, folder: Path) -> None:
        """Add to a checkpoint what a resumed run needs in order to decide alike."""
        decisions: dict[str, object] = {}
        if self.best is not None:
            decisions["best"] = self.best.to_json()
            if self.best.step:
                link_folder(self._best_folder, folder / BEST_FOLDER)
        if self._guards:
            decisions["watch"] = self.watch.to_json()
            decisions["recovery"] = {"rollbacks": self.recovery.rollbacks}
        if self.collapse != CollapseWatch():
            decisions["collapse"] = self.collapse.to_json()
        if self.general.before:
            decisions["general"] = self.general.to_json()
        keep_decisions(folder, decisions)

    def _resume(self, checkpoint: Path) -> None:
        kept = kept_decisions(checkpoint)
        self.collapse = self.collapse.resumed(kept.get("collapse", {}))
        self.general = self.general.resumed(kept.get("general", {}))
        if "watch" in kept:
            self.watch = self.watch.resumed(kept["watch"])
        before = kept.get("recovery", {}).get("rollbacks")
        known = Recovery(rollbacks=before if isinstance(before, int) else 0)
        self.rate_factor = self.recovery.rate_scale / known.rate_scale
        if self.best is not None and "best" in kept:
            self.best = self.best.resumed(kept["best"])
            if self.best.step and self._is_first:
                link_folder(checkpoint / BEST_FOLDER, self._best_folder)

"""Roll a lost run back: the same run again from its last good checkpoint, with half the learning rate.

Everything is built anew, as another process would that resumes from that checkpoint: nothing
of the lost state can be left in an optimiser or a cache, and one way of going on is enough.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunefleet.backend.v1.run_pb2 import RunOrder, RunOutput
from tunefleet.job.v1.event_pb2 import JobEvent, Rollback
from tunefleet_core.backend import RunContext
from tunefleet_core.run_health import Recovery, kept_decisions, last_good_step, training_diverged
from tunefleet_core.worker.rank import checkpoint_name

__all__ = ["DivergedError", "RolledBack", "with_rollbacks"]


class DivergedError(Exception):
    """A run is lost: its loss at this step says so."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"step {step}: loss {loss}")
        self.step = step
        self.loss = loss


class RolledBack:
    """The context of a run after a rollback: another checkpoint to go on from, all else as it was.

    Attributes:
        order: The order, with that checkpoint.
        rollbacks: How often the run was rolled back.
        lost_until: The last step that was saved in a lost state; 0: none was.
    """

    def __init__(self, context: RunContext, order: RunOrder, *, rollbacks: int, lost_until: int) -> None:
        self._context = context
        self.order = order
        self.rollbacks = rollbacks
        self.lost_until = lost_until

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def with_rollbacks(context: RunContext, run: Callable[[RunContext], RunOutput]) -> RunOutput:
    """Run, and run again from the last good checkpoint while that is allowed.

    Raises:
        TunefleetError: TRAINING_DIVERGED if the run is lost once more than it may be.
    """
    now: Any = context
    while True:
        try:
            return run(now)
        except DivergedError as error:
            step, loss = error.step, error.loss
        gc.collect()  # the lost model, before another one is loaded
        now = _rolled_back(context, now, step, loss)


def _rolled_back(context: RunContext, now: Any, step: int, loss: float) -> RolledBack:
    train = context.order.resolved_spec.spec.train
    before = rollbacks_of(now)
    if before >= train.divergence.max_rollbacks:
        raise training_diverged(step, loss, rollbacks=before, learning_rate=train.optim.learning_rate)
    saved = _saved(context, lost_until=getattr(now, "lost_until", 0), started_from=now.order)
    good = last_good_step(step, saved)
    recovery = Recovery(rollbacks=before + 1)
    context.tell(
        JobEvent(
            rollback=Rollback(
                step=step,
                loss=loss,
                to_step=good,
                learning_rate=train.optim.learning_rate * recovery.rate_scale,
                rollbacks=recovery.rollbacks,
                most=train.divergence.max_rollbacks,
            )
        )
    )
    order = RunOrder()
    order.CopyFrom(context.order)
    order.resume_from, order.resume_step = saved.get(good, ""), good
    lost = max((item for item in _on_disk(context) if good < item < step), default=0)
    lost_until = max(lost, getattr(now, "lost_until", 0))
    return RolledBack(context, order, rollbacks=recovery.rollbacks, lost_until=lost_until)


def rollbacks_of(context: Any) -> int:
    """Return how often a run was rolled back: in this process, or before the checkpoint it resumes from."""
    here = getattr(context, "rollbacks", None)
    if here is not None:
        return int(here)
    resumed = context.order.resume_from
    count = kept_decisions(Path(resumed)).get("recovery", {}).get("rollbacks") if resumed else 0
    return count if isinstance(count, int) else 0


def _saved(context: RunContext, *, lost_until: int, started_from: RunOrder) -> dict[int, str]:
    """Return the checkpoints that are good as far as is known: step to folder."""
    found = {step: folder for step, folder in _on_disk(context).items() if step > lost_until}
    if started_from.resume_from:
        found[started_from.resume_step] = started_from.resume_from
    return found


def _on_disk(context: RunContext) -> dict[int, str]:
    folder = Path(context.order.work_dir) / Path(checkpoint_name(0)).parent
    return {
        int(path.name.removeprefix("step-")): str(path)
        for path in folder.glob("step-*")
        if path.suffix != ".partial"
    }

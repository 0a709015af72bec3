"""From a trainer whose weights are split to the output of its run, whatever library splits them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import Renderer, TrainingRows
from tunefleet_trl.life import DivergedError, RowPlaces, attach_life, restore_best
from tunefleet_trl.loading import Hardware
from tunefleet_trl.processes import is_first
from tunefleet_trl.split.whole import write_whole

__all__ = ["train_to_output"]


def train_to_output(
    context: RunContext,
    trainer: Any,
    renderer: Renderer,
    *,
    rows: TrainingRows,
    hardware: Hardware,
    part: Callable[[], None],
) -> RunOutput:
    """Train from the start, or from the checkpoint of the order, put the weights together and write them.

    Args:
        context: The run.
        trainer: Of the library that splits, with `gather` and `let_go`.
        renderer: What rendered the rows.
        rows: What is trained on.
        hardware: Where and in which numbers.
        part: Parts the processes for good and forgets what would split a model loaded after that.

    Raises:
        DivergedError: the run is to go back; the trainer has let its weights go.
        RunStopped: as the run was asked to.
    """
    order = context.order
    attach_life(context, trainer, renderer, hardware)
    trainer.row_places = RowPlaces(rows.train)
    try:
        trainer.train(resume_from_checkpoint=order.resume_from or None)
    except DivergedError:
        trainer.let_go()  # before there is another model
        raise
    trainer.trained = trainer.gather(keeps=is_first(order))
    trainer.let_go()
    part()
    if not is_first(order):
        return RunOutput(step=trainer.state.global_step)
    restore_best(context, trainer)
    return write_whole(context, trainer, renderer, rows, dtype=hardware.dtype)

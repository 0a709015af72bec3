"""A rank that loses the training of one of two processes once, as an overflow on one device would."""

from __future__ import annotations

import math
from typing import Any

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_trl.rank import TrlRank

__all__ = ["LOST_AT", "SpoilingRank"]

LOST_AT = 6


class SpoilingRank(TrlRank):
    """Makes the loss of one step no number in the second process."""

    def run(self, context: RunContext) -> RunOutput:
        """Run the order with that fault."""
        from tunefleet_trl.trainer import RunTraining

        compute = RunTraining.compute_loss
        done: list[int] = []

        def spoil(trainer: Any, model: Any, *arguments: Any, **further: Any) -> Any:
            loss = compute(trainer, model, *arguments, **further)
            is_due = model.training and trainer.state.global_step + 1 == LOST_AT and not done
            if is_due and context.order.place.rank == 1:
                done.append(LOST_AT)
                return loss * math.nan
            return loss

        RunTraining.compute_loss = spoil
        return super().run(context)

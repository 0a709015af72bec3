"""Learning rates by step, and the order of rows by epoch: those of the library behind `trl`.

The same job file then trains on the same batches at the same rates on both backends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy

from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet_core.errors import TunefleetError

__all__ = ["Plan", "epoch_order", "learning_rate", "plan_of"]

_VALIDATIONS = 10
"""Validations in a run: enough to see a turning point, few enough not to rule the time."""
_USUAL_SAVE_STEPS = 200
_USUAL_SEED = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of a run.

    Attributes:
        rows: Training rows of an epoch.
        micro: Rows of a forward pass.
        accumulation: Forward passes of an optimiser step.
        total_steps: Optimiser steps.
        seed: Of the order of rows, initialisation and dropout.
        validate_every: Steps between validations.
        save_every: Steps between checkpoints.
    """

    rows: int
    micro: int
    accumulation: int
    total_steps: int
    seed: int
    validate_every: int
    save_every: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; the last one may have fewer rows."""
        return math.ceil(math.ceil(self.rows / self.micro) / self.accumulation)

    def batches(self, step: int) -> list[list[int]]:
        """Return the rows of an optimiser step, counted from 0, one list per forward pass."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.rows, self.seed + epoch)
        first = index * self.accumulation * self.micro
        mine = order[first : first + self.accumulation * self.micro]
        return [mine[start : start + self.micro] for start in range(0, len(mine), self.micro)]


def plan_of(train: TrainSpec, *, rows: int) -> Plan:
    """Return the steps of a training spec whose defaults are filled in.

    Raises:
        TunefleetError: FIELD_INVALID if micro batches do not fill a batch.
    """
    batch = train.optim.batch_size or 16
    micro = train.optim.micro_batch_size or batch
    if batch % micro:
        raise TunefleetError.field(
            "train.optim.micro_batch_size", f"{micro} does not divide the batch size {batch}"
        )
    per_epoch = math.ceil(math.ceil(rows / micro) / (batch // micro))
    total = train.optim.max_steps or max(1, math.ceil((train.optim.epochs or 1.0) * per_epoch))
    return Plan(
        rows=rows,
        micro=micro,
        accumulation=batch // micro,
        total_steps=total,
        seed=train.seed if train.HasField("seed") else _USUAL_SEED,
        validate_every=train.validate_every_steps or max(1, total // _VALIDATIONS),
        save_every=max(1, train.checkpoint.every_steps or _USUAL_SAVE_STEPS),
    )


def epoch_order(rows: int, seed: int) -> list[int]:
    """Return the rows of an epoch in the order in which `torch.randperm` would put them.

    Both draw 32-bit numbers of a Mersenne Twister (Matsumoto and Nishimura 1998) that is seeded
    alike, and exchange each row with one of those that follow it.
    """
    source = numpy.random.MT19937()
    source._legacy_seeding(seed % 2**32)
    draws = source.random_raw(max(rows - 1, 1)).tolist()
    order = list(range(rows))
    for index in range(rows - 1):
        other = index + draws[index] % (rows - index)
        order[index], order[other] = order[other], order[index]
    return order


def learning_rate(train: TrainSpec, step: int, total_steps: int) -> float:
    """Return the rate of an optimiser step, counted from 0.

    It rises evenly over the warm-up, then falls by half a cosine to 0 (Loshchilov and Hutter
    2017, arXiv:1608.03983), evenly to 0, or stays.

    Raises:
        TunefleetError: FIELD_INVALID for a schedule that this backend does not know.
    """
    optim = train.optim
    warmup = math.ceil(optim.warmup_ratio * total_steps)
    if step < warmup:
        return optim.learning_rate * step / max(1, warmup)
    progress = (step - warmup) / max(1, total_steps - warmup)
    match optim.schedule or "cosine":
        case "cosine":
            return optim.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
        case "linear":
            return optim.learning_rate * max(0.0, 1.0 - progress)
        case "constant":
            return optim.learning_rate
        case other:
            raise TunefleetError.field(
                "train.optim.schedule",
                f"the backend 'mlx' does not know '{other}'",
                hint="It knows cosine, linear, constant.",
            )

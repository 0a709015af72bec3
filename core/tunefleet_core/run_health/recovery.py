"""Where a lost run goes on, how carefully, and when it is given up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["Recovery", "last_good_step", "training_diverged"]

_NORM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How often a run was rolled back, and what follows for its optimiser.

    Attributes:
        rollbacks: How often so far.
    """

    rollbacks: int = 0

    @property
    def rate_scale(self) -> float:
        """Factor of the learning rate that was asked for: halved at every rollback."""
        return 0.5**self.rollbacks

    def max_grad_norm(self, wanted: float) -> float:
        """Return what gradients are clipped to: 1 at most once a run was rolled back."""
        if not self.rollbacks:
            return wanted
        return min(wanted, _NORM) if wanted > 0 else _NORM


def last_good_step(diverged_at: int, saved: Iterable[int]) -> int:
    """Return the newest step to go on from; 0: from the start.

    The loss of a step is that of the weights before it, so a state counts as good only once
    the step after it was.
    """
    return max((step for step in saved if step + 1 < diverged_at), default=0)


def training_diverged(step: int, loss: float, *, rollbacks: int, learning_rate: float) -> TunefleetError:
    """Return the error of a run that is given up: the user's, and not tried again.

    Args:
        step: The step at which it was lost.
        loss: Its loss.
        rollbacks: How often it was rolled back before.
        learning_rate: The rate that was asked for.
    """
    times = "once" if rollbacks == 1 else f"{rollbacks} times"
    after = f", though it was rolled back {times} to half the learning rate" if rollbacks else ""
    rate = learning_rate / 5
    return TunefleetError(
        Reason.TRAINING_DIVERGED,
        f"The loss at step {step} is {loss:.4g}: the training diverged{after}.",
        hint=f"Set train.optim.learning_rate to {rate:.2g}, a fifth, and submit the job again.",
        metadata={"step": str(step), "rollbacks": str(rollbacks), "field": "train.optim.learning_rate"},
    )

"""Which state of a run is the best, and when to stop waiting for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["BEST_BY", "BestSoFar"]

BEST_BY: Mapping[str, bool] = {"validation_loss": True, "token_accuracy": False}
"""What a state can be the best by, and whether less is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestSoFar:
    """The best validation of a run, and how many came after it.

    Attributes:
        metric: One of BEST_BY.
        min_delta: By how much another one must be better to count.
        step: Optimiser step of the best; 0: there is none yet.
        value: Its value.
        since: Validations that came after it.

    Example:
        >>> best = BestSoFar(metric="validation_loss").after(10, 0.5).after(20, 0.7)
        >>> best.step, best.since
        (10, 1)
    """

    metric: str
    min_delta: float = 0.0
    step: int = 0
    value: float = math.nan
    since: int = 0

    def after(self, step: int, value: float) -> BestSoFar:
        """Return what is the best after one more validation; what is no number is never better."""
        if math.isfinite(value) and (not self.step or self._gain(value) > self.min_delta):
            return replace(self, step=step, value=value, since=0)
        return replace(self, since=self.since + 1)

    def is_exhausted(self, patience: int) -> bool:
        """Return whether so many validations in a row were no better; a patience of 0 is endless."""
        return 0 < patience <= self.since

    def to_json(self) -> dict[str, object]:
        """Return what a checkpoint keeps of it."""
        return {"step": self.step, "value": self.value if self.step else None, "since": self.since}

    def resumed(self, kept: Mapping[str, object]) -> BestSoFar:
        """Return it as a checkpoint kept it."""
        step, value, since = kept.get("step"), kept.get("value"), kept.get("since")
        return replace(
            self,
            step=step if isinstance(step, int) else 0,
            value=float(value) if isinstance(value, int | float) else math.nan,
            since=since if isinstance(since, int) else 0,
        )

    def _gain(self, value: float) -> float:
        return self.value - value if BEST_BY[self.metric] else value - self.value
